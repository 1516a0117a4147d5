//go:build linux

package ltfsmount_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"cairn"
	"cairn/internal/system/tape"
	"cairn/internal/system/tape/drive"
	"cairn/internal/testkit/tapemount"
)

func TestMain(m *testing.M) {
	os.Exit(tapemount.Main(m)) //nolint:forbidigo // as TestMain must
}

func mount(t *testing.T, tapeDir, policy string) *tapemount.Mounted {
	t.Helper()
	return tapemount.Mount(t, tapeDir, tapemount.Options{Sync: policy})
}

func tool(t *testing.T, name string, args ...string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skipf("this place does not offer %s", name)
	}
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// tree makes folders, files of many sizes, links, odd names, times and a
// read-only file.
func tree(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "tree")
	rng := rand.New(rand.NewPCG(1, 1))
	for i := range 120 {
		sub := filepath.Join(dir, fmt.Sprintf("d%d", i%7), fmt.Sprintf("e%d", i%3))
		must(t, os.MkdirAll(sub, 0o755))
		data := make([]byte, rng.IntN(1<<rng.IntN(18)))
		for j := range data {
			data[j] = byte(rng.Uint32())
		}
		name := filepath.Join(sub, fmt.Sprintf("f %d:ä%%&<", i))
		must(t, os.WriteFile(name, data, 0o644))
		at := time.Unix(1_600_000_000+int64(i), int64(i)*1001)
		must(t, os.Chtimes(name, at, at))
	}
	must(t, os.Symlink("d0/../d1", filepath.Join(dir, "link")))
	must(t, os.WriteFile(filepath.Join(dir, "readonly"), []byte("r"), 0o444))
	must(t, os.WriteFile(filepath.Join(dir, "empty"), nil, 0o644))
	return dir
}

// A tree copied to a tape, and read back after mounting anew, is the same: bytes,
// times, links and the read-only flag; with cp and with tar.
func TestCopyThereAndBack(t *testing.T) {
	tapemount.Need(t)
	from, tp := tree(t), tapemount.NewTape(t)
	m := mount(t, tp, "unmount")
	tool(t, "cp", "-a", from, m.Path("copy"))
	archive := filepath.Join(t.TempDir(), "a.tar")
	tool(t, "tar", "--format=posix", "-C", filepath.Dir(from), "-cf", archive, filepath.Base(from))
	must(t, os.Mkdir(m.Path("untarred"), 0o755))
	tool(t, "tar", "-C", m.Path("untarred"), "-xpf", archive)
	m.Unmount()
	m = mount(t, tp, "unmount")
	same(t, from, m.Path("copy"))
	same(t, from, m.Path("untarred/tree"))
	back := filepath.Join(t.TempDir(), "back")
	tool(t, "cp", "-a", m.Path("copy"), back)
	same(t, from, back)
	m.Unmount()
}

// same compares two trees.
func same(t *testing.T, a, b string) {
	t.Helper()
	tool(t, "diff", "-r", "--no-dereference", a, b)
	list := func(dir string) []string {
		// Names, sizes and times of files, targets of links, the right to write.
		out, err := exec.Command("find", dir, "-mindepth", "1", "(", "-type", "f", "-printf", "%P %s %T@ %M\n", "-o", "-type", "l", "-printf", "%P -> %l\n", "-o", "-printf", "%P %M\n", ")").Output()
		must(t, err)
		lines := strings.Split(string(out), "\n")
		slices.Sort(lines) // the order of a folder is its file system's own
		return lines
	}
	la, lb := list(a), list(b)
	if len(la) != len(lb) {
		t.Fatalf("%s has %d entries, %s %d", a, len(la), b, len(lb))
	}
	for i := range la {
		if la[i] != lb[i] {
			t.Errorf("%q in %s, %q in %s", la[i], a, lb[i], b)
		}
	}
}

// What a returned fsync, close under close-sync, or sync attribute promised is
// there after the server was killed.
func TestKilledAfterAPromise(t *testing.T) {
	for _, c := range []struct {
		name, policy string
		promise      func(t *testing.T, m *tapemount.Mounted, f *os.File)
	}{
		{"fsync", "unmount", func(t *testing.T, _ *tapemount.Mounted, f *os.File) { must(t, f.Sync()) }},
		{"close", "close", func(t *testing.T, _ *tapemount.Mounted, f *os.File) { must(t, f.Close()) }},
		{"attribute", "unmount", func(_ *testing.T, m *tapemount.Mounted, _ *os.File) { m.SetAttr("", "ltfs.sync", "1") }},
		{"fsync of the folder", "unmount", func(t *testing.T, m *tapemount.Mounted, _ *os.File) {
			d, err := os.Open(m.Path("dir"))
			must(t, err)
			must(t, d.Sync())
			must(t, d.Close())
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			tapemount.Need(t)
			tp := tapemount.NewTape(t)
			m := mount(t, tp, c.policy)
			must(t, os.Mkdir(m.Path("dir"), 0o755))
			f, err := os.Create(m.Path("dir/file"))
			must(t, err)
			want := bytes.Repeat([]byte("promised"), 50000)
			_, err = f.Write(want)
			must(t, err)
			c.promise(t, m, f)
			m.Kill()
			m = mount(t, tp, c.policy)
			got, err := os.ReadFile(m.Path("dir/file"))
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes of %d are there (%v)", len(got), len(want), err)
			}
			m.Unmount()
		})
	}
}

// Without a promise a power cut loses what the attribute says; the test that can
// tell the ones above from luck.
func TestRiskIsTold(t *testing.T) {
	m := mount(t, tapemount.NewTape(t), "unmount")
	if got := m.Attr("", "ltfs.vendor.cairn.atRisk"); got != "nothing" {
		t.Errorf("at the beginning: %s", got)
	}
	must(t, os.WriteFile(m.Path("a"), make([]byte, 1000), 0o644))
	if got := m.Attr("", "ltfs.vendor.cairn.atRisk"); !strings.HasPrefix(got, "1 files, 1000 bytes") {
		t.Errorf("after a write: %s", got)
	}
	tp := m.Tape
	m.Kill()
	m = mount(t, tp, "unmount")
	if _, err := os.Stat(m.Path("a")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that no index names: %v", err)
	}
	m.Unmount()
}

// Two copies at a time: the close of the small one makes a generation in which the
// large one is partial, and that generation names it.
func TestTwoCopiesStory(t *testing.T) {
	m := mount(t, tapemount.NewTape(t), "close")
	b, err := os.Create(m.Path("B"))
	must(t, err)
	_, err = b.Write(make([]byte, 200000))
	must(t, err)
	must(t, os.WriteFile(m.Path("A"), []byte("small"), 0o644))
	middle := m.Attr("", "ltfs.indexGeneration")
	_, err = b.Write(make([]byte, 200000))
	must(t, err)
	must(t, b.Close())
	m.Unmount()
	d, err := drive.OpenFolder(m.Tape, drive.FolderOptions{ReadOnly: true})
	must(t, err)
	tp, err := tape.Open(t.Context(), d, "tape")
	must(t, err)
	for g, err := range tp.History(t.Context()) {
		must(t, err)
		x, ok := g.Index.Extension()
		partial := fmt.Sprint(g.Index.Generation) == middle
		if partial && (!ok || x.OpenCount != 1 || x.Open[0] != "/B" || g.Index.Root.Files[0].Length != 200000) {
			t.Errorf("generation %s: %+v, B has %d bytes", middle, x, g.Index.Root.Files[0].Length)
		}
		if g.Index.Generation == tp.Index().Generation && x.OpenCount != 0 {
			t.Errorf("the last generation: %+v", x)
		}
	}
	must(t, tp.Close())
}

func TestAttributes(t *testing.T) {
	m := mount(t, tapemount.NewTape(t), "unmount")
	must(t, os.WriteFile(m.Path("f"), []byte("data"), 0o644))
	m.SetAttr("f", "note", "kept\x00bytes")
	m.SetAttr("", "ltfs.commitMessage", "a message")
	m.SetAttr("", "ltfs.volumeName", "renamed")
	m.SetAttr("f", "ltfs.backupTime", "2020-01-02T03:04:05.000000006Z")
	m.SetAttr("", "ltfs.sync", "")
	for _, c := range [][3]string{
		{"f", "note", "kept\x00bytes"}, {"", "ltfs.volumeName", "renamed"}, {"", "ltfs.commitMessage", "a message"}, {"", "ltfs.indexGeneration", "2"},
		{"", "ltfs.partitionMap", "I:a,D:b"}, {"", "ltfs.volumeBlocksize", "65536"}, {"f", "ltfs.backupTime", "2020-01-02T03:04:05.000000006Z"},
		{"f", "ltfs.partition", "b"}, {"f", "ltfs.startblock", "7"}, {"", "ltfs.indexLocation", "b:9"}, {"", "ltfs.indexPrevious", "b:5"},
		{"", "ltfs.vendor.cairn.syncState", "ok"}, {"", "ltfs.vendor.cairn.atRisk", "nothing"}, {"f", "ltfs.fileUID", "2"},
	} {
		if got := m.Attr(c[0], c[1]); got != c[2] {
			t.Errorf("%s of %q: %q, want %q", c[1], c[0], got, c[2])
		}
	}
	for _, c := range []struct {
		file, attribute string
		want            syscall.Errno
	}{{"f", "user.ltfs.fileUID", syscall.EACCES}, {"f", "trusted.x", syscall.EOPNOTSUPP}, {"f", "user.ltfs.createTime", syscall.EINVAL}} {
		if err := syscall.Setxattr(m.Path(c.file), c.attribute, []byte("x"), 0); !errors.Is(err, c.want) {
			t.Errorf("setting %s: %v", c.attribute, err)
		}
	}
	if _, err := syscall.Getxattr(m.Path("f"), "user.none", make([]byte, 9)); !errors.Is(err, syscall.ENODATA) {
		t.Errorf("%v", err)
	}
	must(t, syscall.Removexattr(m.Path("f"), "user.note"))
	list := make([]byte, 100)
	if n, err := syscall.Listxattr(m.Path("f"), list); err != nil || n != 0 {
		t.Errorf("%q, %v", list[:n], err)
	}
	m.Unmount()
}

// What POSIX programs rely on.
func TestPOSIX(t *testing.T) {
	m := mount(t, tapemount.NewTape(t), "time@5m")
	p := m.Path
	f, err := os.OpenFile(p("f"), os.O_CREATE|os.O_RDWR|os.O_EXCL, 0o644)
	must(t, err)
	_, err = f.WriteAt([]byte("end"), 1<<20)
	must(t, err)
	must(t, f.Truncate(1<<20+1))
	info, err := os.Stat(p("f"))
	must(t, err)
	if info.Size() != 1<<20+1 {
		t.Errorf("size %d", info.Size())
	}
	must(t, os.Remove(p("f"))) // still open
	got := make([]byte, 2)
	if _, err := f.ReadAt(got, 1<<20-1); err != nil || string(got) != "\x00e" {
		t.Errorf("%q, %v", got, err)
	}
	must(t, f.Close())
	a, err := os.OpenFile(p("log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	must(t, err)
	for range 100 {
		_, err := a.WriteString("line\n")
		must(t, err)
	}
	must(t, a.Close())
	if text, err := os.ReadFile(p("log")); err != nil || string(text) != strings.Repeat("line\n", 100) {
		t.Errorf("%d bytes, %v", len(text), err)
	}
	must(t, os.Mkdir(p("d"), 0o755))
	must(t, os.Rename(p("log"), p("d/log")))
	for _, c := range []struct {
		what string
		err  error
		want error
	}{
		{"exclusive", second(os.OpenFile(p("d/log"), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)), syscall.EEXIST},
		{"rmdir", syscall.Rmdir(p("d")), syscall.ENOTEMPTY},
		{"hard link", os.Link(p("d/log"), p("hard")), syscall.ENOTSUP},
		{"device", syscall.Mkfifo(p("fifo"), 0o644), syscall.ENOTSUP},
		{"into itself", os.Rename(p("d"), p("d/x")), syscall.EINVAL},
		{"not UTF-8", second(os.Create(p("\xff"))), syscall.EILSEQ},
		{"chown", os.Chown(p("d"), 1000, 1000), nil},
		{"chmod", os.Chmod(p("d/log"), 0o400), nil},
	} {
		if !errors.Is(c.err, c.want) {
			t.Errorf("%s: %v", c.what, c.err)
		}
	}
	info, err = os.Stat(p("d/log"))
	must(t, err)
	if info.Mode().Perm() != 0o444 {
		t.Errorf("mode %v", info.Mode())
	}
	m.Unmount()
}

func second(_ *os.File, err error) error { return err }

// A tape that is mounted for writing is not opened for writing again.
func TestTwoMountsAtOnce(t *testing.T) {
	m := mount(t, tapemount.NewTape(t), "unmount")
	if _, err := drive.OpenFolder(m.Tape, drive.FolderOptions{}); !errors.Is(err, cairn.KindBusy) {
		t.Errorf("a second mount: %v", err)
	}
	m.Unmount()
}

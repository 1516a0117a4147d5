//go:build linux

package ltfsmount_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"cairn/internal/front/ltfsmount"
	"cairn/internal/policy/syncpolicy"
	"cairn/internal/system/tape"
	"cairn/internal/system/tape/drive"
)

// A Go program that uses a file system it serves itself can deadlock, and a test
// wants to kill the server: the test's binary serves in a process of its own.
const serveVariable = "LTFSMOUNT_SERVE"

func TestMain(m *testing.M) {
	if args := os.Getenv(serveVariable); args != "" {
		if err := serve(strings.Split(args, "\n")); err != nil {
			fmt.Println(err)
			os.Exit(1) //nolint:forbidigo // the server's process ends here
		}
		os.Exit(0) //nolint:forbidigo // the server's process ends here
	}
	os.Exit(m.Run()) //nolint:forbidigo // as TestMain must
}

// serve mounts args[0] on args[1] with the policy args[2] until it is unmounted.
func serve(args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	policy, err := syncpolicy.Parse(strings.Split(args[2], ",")...)
	if err != nil {
		return err
	}
	d, err := drive.OpenFolder(args[0], drive.FolderOptions{})
	if err != nil {
		return err
	}
	t, err := tape.Open(ctx, d, args[0])
	if err != nil {
		return err
	}
	f, err := tape.NewFS(ctx, t, tape.FSOptions{Policy: policy})
	if err != nil {
		return err
	}
	m, err := ltfsmount.Start(f, args[1], ltfsmount.Options{Drive: args[0], UID: uint32(os.Getuid()), GID: uint32(os.Getgid())})
	if err != nil {
		return errors.Join(err, f.Close(ctx))
	}
	fmt.Println("mounted")
	m.Wait()
	return f.Close(ctx)
}

// mounted is a tape mounted by another process.
type mounted struct {
	t      *testing.T
	tape   string
	dir    string
	server *exec.Cmd
}

func needFUSE(t *testing.T) {
	t.Helper()
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil || os.Geteuid() != 0 {
		t.Skip("needs /dev/fuse and the right to mount")
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func newTape(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "TAPE")
	d, err := drive.CreateFolder(dir, drive.FolderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	tp, err := tape.Format(t.Context(), d, dir, tape.FormatOptions{BlockSize: 64 << 10, Name: "volume", Creator: "test", Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	if err := tp.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

func mount(t *testing.T, tapeDir, policy string) *mounted {
	t.Helper()
	needFUSE(t)
	m := &mounted{t: t, tape: tapeDir, dir: t.TempDir()}
	m.server = exec.Command(os.Args[0])
	m.server.Env = append(os.Environ(), serveVariable+"="+strings.Join([]string{m.tape, m.dir, policy}, "\n"))
	m.server.Stderr = os.Stderr
	out, err := m.server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := m.server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Unmount(m.dir, 2) // MNT_DETACH, where the test failed half way
		_ = m.server.Process.Kill()
		_ = m.server.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if line != "mounted\n" {
		rest, _ := io.ReadAll(out)
		if strings.Contains(line, "operation not permitted") || strings.Contains(line, "no such device") {
			t.Skip("needs /dev/fuse and the right to mount: " + line)
		}
		t.Fatalf("%s%s %v", line, rest, err)
	}
	return m
}

func (m *mounted) path(name string) string { return filepath.Join(m.dir, name) }

func (m *mounted) unmount() {
	m.t.Helper()
	if err := syscall.Unmount(m.dir, 0); err != nil {
		m.t.Fatal(err)
	}
	if err := m.server.Wait(); err != nil {
		m.t.Fatalf("the server's end: %v", err)
	}
}

// kill ends the server as a cut of power would, and takes the dead mount away.
func (m *mounted) kill() {
	m.t.Helper()
	if err := m.server.Process.Kill(); err != nil {
		m.t.Fatal(err)
	}
	_ = m.server.Wait()
	if err := syscall.Unmount(m.dir, 2); err != nil {
		m.t.Fatal(err)
	}
}

func (m *mounted) attr(name, attribute string) string {
	m.t.Helper()
	buf := make([]byte, 4096)
	n, err := syscall.Getxattr(m.path(name), "user."+attribute, buf)
	if err != nil {
		m.t.Fatalf("%s of %s: %v", attribute, name, err)
	}
	return string(buf[:n])
}

func (m *mounted) setAttr(name, attribute, value string) {
	m.t.Helper()
	if err := syscall.Setxattr(m.path(name), "user."+attribute, []byte(value), 0); err != nil {
		m.t.Fatalf("%s of %s: %v", attribute, name, err)
	}
}

func tool(t *testing.T, name string, args ...string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skipf("needs %s", name)
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
	needFUSE(t)
	from, tp := tree(t), newTape(t)
	m := mount(t, tp, "unmount")
	tool(t, "cp", "-a", from, m.path("copy"))
	archive := filepath.Join(t.TempDir(), "a.tar")
	tool(t, "tar", "--format=posix", "-C", filepath.Dir(from), "-cf", archive, filepath.Base(from))
	must(t, os.Mkdir(m.path("untarred"), 0o755))
	tool(t, "tar", "-C", m.path("untarred"), "-xpf", archive)
	m.unmount()
	m = mount(t, tp, "unmount")
	same(t, from, m.path("copy"))
	same(t, from, m.path("untarred/tree"))
	back := filepath.Join(t.TempDir(), "back")
	tool(t, "cp", "-a", m.path("copy"), back)
	same(t, from, back)
	m.unmount()
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
		promise      func(t *testing.T, m *mounted, f *os.File)
	}{
		{"fsync", "unmount", func(t *testing.T, _ *mounted, f *os.File) { must(t, f.Sync()) }},
		{"close", "close", func(t *testing.T, _ *mounted, f *os.File) { must(t, f.Close()) }},
		{"attribute", "unmount", func(_ *testing.T, m *mounted, _ *os.File) { m.setAttr("", "ltfs.sync", "1") }},
		{"fsync of the folder", "unmount", func(t *testing.T, m *mounted, _ *os.File) {
			d, err := os.Open(m.path("dir"))
			must(t, err)
			must(t, d.Sync())
			must(t, d.Close())
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			needFUSE(t)
			tp := newTape(t)
			m := mount(t, tp, c.policy)
			must(t, os.Mkdir(m.path("dir"), 0o755))
			f, err := os.Create(m.path("dir/file"))
			must(t, err)
			want := bytes.Repeat([]byte("promised"), 50000)
			_, err = f.Write(want)
			must(t, err)
			c.promise(t, m, f)
			m.kill()
			m = mount(t, tp, c.policy)
			got, err := os.ReadFile(m.path("dir/file"))
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes of %d are there (%v)", len(got), len(want), err)
			}
			m.unmount()
		})
	}
}

// Without a promise a power cut loses what the attribute says; the test that can
// tell the ones above from luck.
func TestRiskIsTold(t *testing.T) {
	m := mount(t, newTape(t), "unmount")
	if got := m.attr("", "ltfs.vendor.cairn.atRisk"); got != "nothing" {
		t.Errorf("at the beginning: %s", got)
	}
	must(t, os.WriteFile(m.path("a"), make([]byte, 1000), 0o644))
	if got := m.attr("", "ltfs.vendor.cairn.atRisk"); !strings.HasPrefix(got, "1 files, 1000 bytes") {
		t.Errorf("after a write: %s", got)
	}
	tp := m.tape
	m.kill()
	m = mount(t, tp, "unmount")
	if _, err := os.Stat(m.path("a")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that no index names: %v", err)
	}
	m.unmount()
}

// Two copies at a time: the close of the small one makes a generation in which the
// large one is partial, and that generation names it.
func TestTwoCopiesStory(t *testing.T) {
	m := mount(t, newTape(t), "close")
	b, err := os.Create(m.path("B"))
	must(t, err)
	_, err = b.Write(make([]byte, 200000))
	must(t, err)
	must(t, os.WriteFile(m.path("A"), []byte("small"), 0o644))
	middle := m.attr("", "ltfs.indexGeneration")
	_, err = b.Write(make([]byte, 200000))
	must(t, err)
	must(t, b.Close())
	m.unmount()
	d, err := drive.OpenFolder(m.tape, drive.FolderOptions{ReadOnly: true})
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
	m := mount(t, newTape(t), "unmount")
	must(t, os.WriteFile(m.path("f"), []byte("data"), 0o644))
	m.setAttr("f", "note", "kept\x00bytes")
	m.setAttr("", "ltfs.commitMessage", "a message")
	m.setAttr("", "ltfs.volumeName", "renamed")
	m.setAttr("f", "ltfs.backupTime", "2020-01-02T03:04:05.000000006Z")
	m.setAttr("", "ltfs.sync", "")
	for _, c := range [][3]string{
		{"f", "note", "kept\x00bytes"}, {"", "ltfs.volumeName", "renamed"}, {"", "ltfs.commitMessage", "a message"}, {"", "ltfs.indexGeneration", "2"},
		{"", "ltfs.partitionMap", "I:a,D:b"}, {"", "ltfs.volumeBlocksize", "65536"}, {"f", "ltfs.backupTime", "2020-01-02T03:04:05.000000006Z"},
		{"f", "ltfs.partition", "b"}, {"f", "ltfs.startblock", "7"}, {"", "ltfs.indexLocation", "b:9"}, {"", "ltfs.indexPrevious", "b:5"},
		{"", "ltfs.vendor.cairn.syncState", "ok"}, {"", "ltfs.vendor.cairn.atRisk", "nothing"}, {"f", "ltfs.fileUID", "2"},
	} {
		if got := m.attr(c[0], c[1]); got != c[2] {
			t.Errorf("%s of %q: %q, want %q", c[1], c[0], got, c[2])
		}
	}
	for _, c := range []struct {
		file, attribute string
		want            syscall.Errno
	}{{"f", "user.ltfs.fileUID", syscall.EACCES}, {"f", "trusted.x", syscall.EOPNOTSUPP}, {"f", "user.ltfs.createTime", syscall.EINVAL}} {
		if err := syscall.Setxattr(m.path(c.file), c.attribute, []byte("x"), 0); !errors.Is(err, c.want) {
			t.Errorf("setting %s: %v", c.attribute, err)
		}
	}
	if _, err := syscall.Getxattr(m.path("f"), "user.none", make([]byte, 9)); !errors.Is(err, syscall.ENODATA) {
		t.Errorf("%v", err)
	}
	must(t, syscall.Removexattr(m.path("f"), "user.note"))
	list := make([]byte, 100)
	if n, err := syscall.Listxattr(m.path("f"), list); err != nil || n != 0 {
		t.Errorf("%q, %v", list[:n], err)
	}
	m.unmount()
}

// What POSIX programs rely on.
func TestPOSIX(t *testing.T) {
	m := mount(t, newTape(t), "time@5m")
	p := m.path
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
	m.unmount()
}

func second(_ *os.File, err error) error { return err }

// A tape that is mounted for writing is not opened for writing again.
func TestTwoMountsAtOnce(t *testing.T) {
	m := mount(t, newTape(t), "unmount")
	if err := serve([]string{m.tape, t.TempDir(), "unmount"}); err == nil || !strings.Contains(err.Error(), "it is mounted") {
		t.Errorf("a second mount: %v", err)
	}
	m.unmount()
}

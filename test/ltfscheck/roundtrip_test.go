//go:build linux

package ltfscheck_test

import (
	"bytes"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"cairn/internal/system/tape"
	"cairn/internal/system/tape/drive"
	"cairn/ltfs"
	"cairn/test/ltfscheck"
)

var trees = flag.Int("trees", 5, "random trees to carry to tape and back")

// names holds one name per class of bytes that the encoding rules tell apart.
var names = []string{"plain.txt", "with space", "na:me %é", "100%", "tab\there", "line\nfeed", "cr\rhere", "bell\x07", "esc\x1b[0m", "ünïcode", "日本語", "🙂",
	"<&>\"'", "]]>", "a:b", "%3A", "\uFFFD", "\uFFFE", ".hidden", "..double", "trailing.", "trailing ", " leading", "-", "\u007f", "\u0085", "e\u0301", "back\\slash", "star*?"}

type maker struct {
	t          *testing.T
	rng        *rand.Rand
	block      int
	attributes bool // the file system keeps extended attributes
}

func (m *maker) fill(dir string, count, depth int) {
	for i := range count {
		name := filepath.Join(dir, fmt.Sprintf("%s-%d", names[m.rng.IntN(len(names))], i))
		switch m.rng.IntN(8) {
		case 0:
			m.must(os.Symlink(names[m.rng.IntN(len(names))]+"/../x", name))
			continue
		case 1, 2:
			if depth < 4 {
				m.must(os.Mkdir(name, 0o755))
				m.fill(name, m.rng.IntN(count+1), depth+1)
			} else {
				m.file(name)
			}
		default:
			m.file(name)
		}
		m.describe(name)
	}
}

func (m *maker) must(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

// file has a size near what matters, or holes.
func (m *maker) file(name string) {
	sizes := []int{0, 1, 2, m.block - 1, m.block, m.block + 1, 3*m.block + 7, m.rng.IntN(200), m.rng.IntN(5 * m.block)}
	data := make([]byte, sizes[m.rng.IntN(len(sizes))])
	for i := range data {
		data[i] = byte(m.rng.Uint32())
	}
	if m.rng.IntN(6) > 0 {
		m.must(os.WriteFile(name, data, 0o644))
		return
	}
	f, err := os.Create(name)
	m.must(err)
	at := int64(m.rng.IntN(3)) << 20
	_, err = f.WriteAt(data, at)
	m.must(err)
	m.must(f.Truncate(at + int64(len(data)) + int64(m.rng.IntN(3))<<20))
	m.must(f.Close())
}

// describe gives a file or folder times, attributes and perhaps the read-only flag.
func (m *maker) describe(name string) {
	for i := range m.rng.IntN(3) {
		value := make([]byte, m.rng.IntN(60))
		for j := range value {
			value[j] = byte(m.rng.Uint32())
		}
		if m.rng.IntN(2) == 0 {
			value = []byte("text <&> é")
		}
		if m.attributes {
			m.must(syscall.Setxattr(name, fmt.Sprintf("user.%s.%d", names[m.rng.IntN(4)], i), value, 0))
		}
	}
	at := time.Unix(m.rng.Int64N(4e9), m.rng.Int64N(1e9))
	m.must(os.Chtimes(name, at, at))
	if info, err := os.Stat(name); err == nil && info.Mode().IsRegular() && m.rng.IntN(4) == 0 {
		m.must(os.Chmod(name, 0o444))
	}
}

// onDisk is what a folder holds, in the words of the checker.
func onDisk(t *testing.T, dir string) map[string]*ltfscheck.Entry {
	t.Helper()
	found := map[string]*ltfscheck.Entry{}
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(filepath.Dir(dir), name)
		e := &ltfscheck.Entry{Kind: "file", XAttrs: map[string]string{}, Modified: info.ModTime().UTC().Format("2006-01-02T15:04:05.000000000Z")}
		found["/"+rel] = e
		switch {
		case d.IsDir():
			e.Kind = "dir"
		case info.Mode()&fs.ModeSymlink != 0:
			e.Kind = "link"
			e.Target, err = os.Readlink(name)
			return err
		default:
			e.ReadOnly, e.Length = info.Mode()&0o222 == 0, uint64(info.Size())
			if e.Data, err = os.ReadFile(name); err != nil {
				return err
			}
		}
		return xattrs(name, e.XAttrs)
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func xattrs(name string, into map[string]string) error {
	list, value := make([]byte, 4096), make([]byte, 4096)
	n, err := syscall.Listxattr(name, list)
	if err != nil {
		return err
	}
	for key := range strings.SplitSeq(string(list[:n]), "\x00") {
		if own, ok := strings.CutPrefix(key, "user."); ok {
			size, err := syscall.Getxattr(name, key, value)
			if err != nil {
				return err
			}
			into[own] = string(value[:size])
		}
	}
	return nil
}

func compare(t *testing.T, what string, want, got map[string]*ltfscheck.Entry) {
	t.Helper()
	for name, w := range want {
		g := got[name]
		switch {
		case g == nil:
			t.Errorf("%s: %q is missing", what, name)
		case g.Kind != w.Kind || g.Target != w.Target || g.Length != w.Length || g.ReadOnly != w.ReadOnly || !bytes.Equal(g.Data, w.Data) || !maps.Equal(g.XAttrs, w.XAttrs):
			t.Errorf("%s: %q is %s -> %q, %d bytes, read-only %v, %q; want %s -> %q, %d, %v, %q", what, name, g.Kind, g.Target, g.Length, g.ReadOnly, g.XAttrs,
				w.Kind, w.Target, w.Length, w.ReadOnly, w.XAttrs)
		case g.Modified != w.Modified && w.Kind == "file":
			t.Errorf("%s: %q was changed at %s, want %s", what, name, g.Modified, w.Modified)
		}
	}
	for name := range got {
		if want[name] == nil && name != "" {
			t.Errorf("%s: %q appeared", what, name)
		}
	}
}

func write(t *testing.T, folder string, sources []string, o tape.FormatOptions) {
	t.Helper()
	d, err := drive.CreateFolder(folder, drive.FolderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	tp, err := tape.Format(t.Context(), d, folder, o)
	if err != nil {
		t.Fatal(err)
	}
	for _, source := range sources {
		if done, err := tp.Put(t.Context(), source, "/"); err != nil || len(done.Skipped) > 0 {
			t.Fatalf("%+v, %v", done, err)
		}
		if err := tp.Commit(t.Context(), "Cairn test", "comment <"+source+">", o.Now); err != nil {
			t.Fatal(err)
		}
	}
	if err := tp.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestRoundTrip carries random trees to a tape: what the checker reads, and what an
// extraction brings back, is what was put, and the checker finds no rule broken.
func TestRoundTrip(t *testing.T) {
	extents, skippedAttributes := 0, false
	for seed := range uint64(*trees) {
		rng := rand.New(rand.NewPCG(seed, 21))
		dir := t.TempDir()
		m := &maker{t: t, rng: rng, block: 4096 << rng.IntN(4), attributes: syscall.Setxattr(dir, "user.probe", []byte("x"), 0) == nil}
		skippedAttributes = skippedAttributes || !m.attributes
		sources := []string{filepath.Join(dir, "first"), filepath.Join(dir, "second:é")}
		want := map[string]*ltfscheck.Entry{}
		for _, source := range sources {
			m.must(os.Mkdir(source, 0o755))
			m.fill(source, 12, 0)
			maps.Copy(want, onDisk(t, source))
		}
		o := tape.FormatOptions{Name: "My <Volume>", BlockSize: uint64(m.block), Creator: "Cairn test", Now: time.Unix(1.8e9, 7), Application: "1"}
		if seed%2 == 1 {
			o.Barcode, o.Policy = "ABC123", &ltfs.Policy{MaxSize: 5000, Names: []string{"*.txt*", "a:*"}}
		}
		folder := filepath.Join(dir, "T")
		write(t, folder, sources, o)

		v, err := ltfscheck.Read(folder)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if len(v.Problems) > 0 || v.Barcode != o.Barcode || v.Name != o.Name || !slices.Equal(v.Generations, []int{1, 2, 3}) && o.Policy == nil {
			t.Errorf("seed %d: volume %q, barcode %q, generations %v: %q", seed, v.Name, v.Barcode, v.Generations, v.Problems)
		}
		compare(t, fmt.Sprintf("seed %d, checker", seed), want, v.Entries)
		for _, e := range v.Entries {
			extents = max(extents, e.Extents)
		}
		extractAll(t, folder, filepath.Join(dir, "out"))
		got := map[string]*ltfscheck.Entry{}
		for _, source := range sources {
			maps.Copy(got, onDisk(t, filepath.Join(dir, "out", filepath.Base(source))))
		}
		compare(t, fmt.Sprintf("seed %d, extraction", seed), want, got)
	}
	if skippedAttributes {
		t.Log("this place does not offer extended attributes: they were left out")
	}
}

func extractAll(t *testing.T, folder, to string) {
	t.Helper()
	d, err := drive.OpenFolder(folder, drive.FolderOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	tp, err := tape.Open(t.Context(), d, folder)
	if err != nil {
		t.Fatal(err)
	}
	defer tp.Close()
	if problems, err := tp.Check(t.Context(), true); err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
	if _, err := tp.Extract(t.Context(), to, tape.ExtractOptions{}); err != nil {
		t.Fatal(err)
	}
}

// TestHolesStayHoles puts a file with a hole: the tape holds the data only, and the
// extracted file reads the same.
func TestHolesStayHoles(t *testing.T) {
	dir := t.TempDir()
	source := filepath.Join(dir, "sparse")
	f, err := os.Create(source)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []int64{0, 8 << 20} {
		if _, err := f.WriteAt(bytes.Repeat([]byte("x"), 65536), at); err != nil {
			t.Fatal(err)
		}
	}
	if err := errorOf(f.Truncate(32<<20), f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
	var st syscall.Stat_t
	if err := syscall.Stat(source, &st); err != nil || st.Blocks*512 > 4<<20 {
		t.Skip("this place does not offer files with holes")
	}
	folder := filepath.Join(dir, "T")
	write(t, folder, []string{source}, tape.FormatOptions{Creator: "c"})
	v, err := ltfscheck.Read(folder)
	if err != nil || len(v.Problems) > 0 {
		t.Fatalf("%v, %v", v, err)
	}
	e := v.Entries["/sparse"]
	want, err := os.ReadFile(source)
	if err != nil || e.Extents != 2 || !bytes.Equal(e.Data, want) {
		t.Errorf("%d extents, %d bytes, %v", e.Extents, len(e.Data), err)
	}
	if info, err := os.Stat(filepath.Join(folder, "1_7_R")); err != nil || info.Size() != 131072 {
		t.Errorf("the record holds %v, %v", info, err)
	}
	extractAll(t, folder, filepath.Join(dir, "out"))
	got, err := os.ReadFile(filepath.Join(dir, "out", "sparse"))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("extracted: %d bytes, %v", len(got), err)
	}
}

func errorOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// TestXMLLint has libxml2 read the labels and indexes, which shares nothing with
// Go's readers.
func TestXMLLint(t *testing.T) {
	lint, err := exec.LookPath("xmllint")
	if err != nil {
		t.Skip("this place does not offer xmllint")
	}
	dir := t.TempDir()
	source := filepath.Join(dir, "s")
	m := &maker{t: t, rng: rand.New(rand.NewPCG(5, 5)), block: 4096}
	m.must(os.Mkdir(source, 0o755))
	m.fill(source, 14, 0)
	folder := filepath.Join(dir, "T")
	write(t, folder, []string{source}, tape.FormatOptions{Creator: "c <&>", BlockSize: 1 << 20})
	texts, err := filepath.Glob(filepath.Join(folder, "?_*_R"))
	m.must(err)
	read := 0
	for _, record := range texts {
		text, err := os.ReadFile(record)
		m.must(err)
		if !bytes.HasPrefix(text, []byte("<?xml")) {
			continue
		}
		read++
		if out, err := exec.Command(lint, "--noout", "--nonet", record).CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", record, err, out)
		}
	}
	if read < 5 {
		t.Errorf("only %d documents were found", read)
	}
}

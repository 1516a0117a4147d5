package drive_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"cairn"
	"cairn/internal/system/tape/drive"
)

func folder(t *testing.T, o drive.FolderOptions) (*drive.Folder, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "T")
	f, err := drive.CreateFolder(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Format(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	return f, dir
}

func write(t *testing.T, d drive.Drive, records ...string) {
	t.Helper()
	for _, r := range records {
		var err error
		if r == "F" {
			err = d.WriteFilemarks(t.Context(), 1, false)
		} else {
			_, err = d.Write(t.Context(), []byte(r))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// read returns everything from the position to the end of data.
func read(t *testing.T, d drive.Drive) (got []string) {
	t.Helper()
	buf := make([]byte, 100)
	for {
		n, err := d.Read(t.Context(), buf)
		switch {
		case errors.Is(err, drive.ErrFilemark):
			got = append(got, "F")
		case errors.Is(err, drive.ErrEndOfData):
			return got
		case err != nil:
			t.Fatal(err)
		default:
			got = append(got, string(buf[:n]))
		}
	}
}

func equal(a, b []string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// What is written is read back, also by a drive that loads the folder anew, and
// writing in the middle ends the partition there.
func TestRecordsAndFilemarks(t *testing.T) {
	f, dir := folder(t, drive.FolderOptions{})
	if err := f.Locate(t.Context(), drive.Position{Partition: 1}); err != nil {
		t.Fatal(err)
	}
	write(t, f, "one", "F", "two", "three", "F")
	if _, err := drive.OpenFolder(dir, drive.FolderOptions{}); !errors.Is(err, cairn.KindBusy) {
		t.Errorf("a second writer: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := drive.OpenFolder(dir, drive.FolderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []drive.Drive{f, again} {
		if err := d.Locate(t.Context(), drive.Position{Partition: 1}); err != nil {
			t.Fatal(err)
		}
		if got := read(t, d); !equal(got, []string{"one", "F", "two", "three", "F"}) {
			t.Errorf("read %v", got)
		}
	}
	if err := again.Locate(t.Context(), drive.Position{Partition: 1, Block: 2}); err != nil {
		t.Fatal(err)
	}
	write(t, again, "new")
	third, err := drive.OpenFolder(dir, drive.FolderOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := third.Locate(t.Context(), drive.Position{Partition: 1}); err != nil {
		t.Fatal(err)
	}
	if got := read(t, third); !equal(got, []string{"one", "F", "new"}) {
		t.Errorf("after overwriting: %v", got)
	}
}

func TestPositions(t *testing.T) {
	f, _ := folder(t, drive.FolderOptions{})
	ctx := t.Context()
	write(t, f, "a", "F", "b", "F", "c")
	at := func() uint64 {
		p, err := f.Position(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return p.Block
	}
	for _, c := range []struct {
		from uint64
		n    int
		want uint64
		err  error
	}{
		{0, 1, 2, nil}, {0, 2, 4, nil}, {0, 3, 5, drive.ErrEndOfData}, {5, -1, 3, nil}, {5, -2, 1, nil}, {3, -1, 1, nil},
		{1, -1, 0, cairn.KindNotFound}, {2, 1, 4, nil}, {1, 1, 2, nil},
	} {
		if err := f.Locate(ctx, drive.Position{Block: c.from}); err != nil {
			t.Fatal(err)
		}
		if err := f.SpaceFilemarks(ctx, c.n); !errors.Is(err, c.err) || at() != c.want {
			t.Errorf("from %d over %d filemarks: at %d (%v), want %d (%v)", c.from, c.n, at(), err, c.want, c.err)
		}
	}
	if err := f.Locate(ctx, drive.Position{Block: 9}); !errors.Is(err, drive.ErrEndOfData) || at() != 5 {
		t.Errorf("beyond the end: %v at %d", err, at())
	}
	if p, err := f.SeekEnd(ctx, 0); err != nil || p.Block != 5 {
		t.Errorf("end at %v, %v", p, err)
	}
	if err := f.Locate(ctx, drive.Position{Partition: 2}); !errors.Is(err, cairn.KindInvalid) {
		t.Errorf("partition 2: %v", err)
	}
}

func TestWarningsAndEndOfMedium(t *testing.T) {
	f, _ := folder(t, drive.FolderOptions{CapacityBytes: 1 << 20})
	ctx := t.Context()
	if err := f.Locate(ctx, drive.Position{Partition: 1}); err != nil {
		t.Fatal(err)
	}
	var seen []drive.Warning
	for {
		w, err := f.Write(ctx, make([]byte, 10000))
		if err != nil {
			if !errors.Is(err, cairn.KindSpace) {
				t.Fatal(err)
			}
			break
		}
		if len(seen) == 0 || seen[len(seen)-1] != w {
			seen = append(seen, w)
		}
	}
	if len(seen) != 3 || seen[0] != drive.NoWarning || seen[1] != drive.LowSpace || seen[2] != drive.EarlyWarning {
		t.Errorf("warnings came as %v", seen)
	}
}

func TestProtectedMediumIsNotWritten(t *testing.T) {
	_, dir := folder(t, drive.FolderOptions{})
	d, err := drive.OpenFolder(dir, drive.FolderOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	_, werr := d.Write(ctx, []byte("x"))
	for _, err := range []error{werr, d.WriteFilemarks(ctx, 1, false), d.Format(ctx, 1), d.SetAttribute(ctx, 0, 0x800, 1, nil)} {
		if !errors.Is(err, cairn.KindPermission) {
			t.Errorf("got %v", err)
		}
	}
}

func TestAttributes(t *testing.T) {
	f, dir := folder(t, drive.FolderOptions{})
	ctx := t.Context()
	if _, err := f.Attribute(ctx, 0, 0x803); !errors.Is(err, cairn.KindNotFound) {
		t.Errorf("unset: %v", err)
	}
	if err := f.SetAttribute(ctx, 1, 0x80c, 0, []byte("value")); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(dir, "attr_1_80c"))
	if err != nil || !bytes.Equal(raw, []byte("\x08\x0c\x00\x00\x05value")) {
		t.Errorf("%q, %v", raw, err)
	}
	if v, err := f.Attribute(ctx, 1, 0x80c); err != nil || string(v) != "value" {
		t.Errorf("%q, %v", v, err)
	}
	// Several items in one file, as another tool writes them.
	if err := os.WriteFile(filepath.Join(dir, "attr_0_806"), []byte("\x08\x03\x02\x00\x01A\x08\x06\x01\x00\x02BC"), 0o644); err != nil {
		t.Fatal(err)
	}
	if v, err := f.Attribute(ctx, 0, 0x806); err != nil || string(v) != "BC" {
		t.Errorf("%q, %v", v, err)
	}
}

// The change reference counts loadings in which something was written.
func TestChangeReference(t *testing.T) {
	f, dir := folder(t, drive.FolderOptions{})
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	reference := func() byte {
		raw, err := os.ReadFile(filepath.Join(dir, "attr_0_9"))
		if err != nil {
			t.Fatal(err)
		}
		return raw[len(raw)-1]
	}
	first := reference()
	d, err := drive.OpenFolder(dir, drive.FolderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if reference() != first {
		t.Error("loading alone raised it")
	}
	write(t, d, "a", "b")
	if reference() != first+1 {
		t.Errorf("went from %d to %d", first, reference())
	}
}

// Records of every length, wherever they lie in memory, are read as written: those
// that the page cache is spared, and those for which the system refuses that.
func TestRecordsAroundThePageCache(t *testing.T) {
	f, _ := folder(t, drive.FolderOptions{})
	defer f.Close()
	memory := make([]byte, 1<<20)
	for i := range memory {
		memory[i] = byte(i * 31 >> 3)
	}
	lengths := []int{64 << 10, 64<<10 + 1, 128 << 10, 512 << 10}
	var want [][]byte
	for _, at := range []int{0, 4096, 1, 0} { // 1: no disk takes it from there
		for _, n := range lengths {
			want = append(want, memory[at:at+n])
			if _, err := f.Write(t.Context(), memory[at:at+n]); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := f.Locate(t.Context(), drive.Position{}); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1<<20)
	for i, w := range want {
		if n, err := f.Read(t.Context(), buf); err != nil || !bytes.Equal(buf[:n], w) {
			t.Errorf("record %d of %d bytes: %d were read: %v", i, len(w), n, err)
		}
	}
}

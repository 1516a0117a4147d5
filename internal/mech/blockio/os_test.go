package blockio_test

import (
	"bytes"
	"errors"
	"io/fs"
	"slices"
	"testing"

	"cairn/internal/mech/blockio"
)

func newFS(t *testing.T) blockio.FS {
	t.Helper()
	fsys, err := blockio.OS(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return fsys
}

func TestOSFileHolesReadZeroAndAreTold(t *testing.T) {
	f, err := newFS(t).Create("a")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if err := f.Truncate(1 << 20); err != nil {
		t.Fatal(err)
	}
	block := bytes.Repeat([]byte{7}, 8192)
	if _, err := f.WriteAt(block, 65536); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	if start, end, err := f.Data(0); err != nil || start > 65536 || end < 65536+8192 {
		t.Errorf("data at %d-%d, %v", start, end, err)
	}
	if err := f.Punch(65536, 4096); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 8192)
	if _, err := f.ReadAt(got, 65536); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got[:4096], make([]byte, 4096)) || !bytes.Equal(got[4096:], block[4096:]) {
		t.Error("punch did not zero exactly its range")
	}
	if start, end, err := f.Data(1<<20 - 1); err != nil || start != end && start > 1<<20 {
		t.Errorf("data at the end: %d-%d, %v", start, end, err)
	}
	if start, _, err := f.Data(1 << 20); err != nil || start != 1<<20 {
		t.Errorf("data past the end: %d, %v", start, err)
	}
}

func TestOSNames(t *testing.T) {
	fsys := newFS(t)
	for _, bad := range []string{"../x", "/etc/x", "a/../../x", ""} {
		if _, err := fsys.Create(bad); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("create %q: %v", bad, err)
		}
	}
	if err := fsys.Mkdir("d"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"d/b", "d/a"} {
		f, err := fsys.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := fsys.Create("d/a"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("second create: %v", err)
	}
	if err := fsys.Rename("d/a", "d/c"); err != nil {
		t.Fatal(err)
	}
	if err := fsys.SyncDir("d"); err != nil {
		t.Fatal(err)
	}
	if names, err := fsys.ReadDir("d"); err != nil || !slices.Equal(names, []string{"b", "c"}) {
		t.Errorf("%v %v", names, err)
	}
	if free, total, err := fsys.Space(); err != nil || free <= 0 || total < free {
		t.Errorf("space %d of %d, %v", free, total, err)
	}
}

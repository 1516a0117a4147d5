package kernel_test

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"cairn/internal/mech/kernel"
)

func open(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func TestLockIsHeldByOneOpenFile(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("no locks of ours on " + runtime.GOOS)
	}
	path := filepath.Join(t.TempDir(), "lock")
	a, b := open(t, path), open(t, path)
	if err := kernel.Lock(a); err != nil {
		t.Fatal(err)
	}
	if err := kernel.Lock(b); !errors.Is(err, syscall.EWOULDBLOCK) {
		t.Errorf("second lock: %v", err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if err := kernel.Lock(b); err != nil {
		t.Errorf("lock after release: %v", err)
	}
}

func TestIdentityChangesWithAWrite(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("no identity on " + runtime.GOOS)
	}
	f := open(t, filepath.Join(t.TempDir(), "f"))
	before, err := kernel.Identify(f)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(make([]byte, 4096)); err != nil {
		t.Fatal(err)
	}
	after, err := kernel.Identify(f)
	if err != nil {
		t.Fatal(err)
	}
	if before.Inode != after.Inode || before.Boot != after.Boot || before.Block || after.Size != 4096 {
		t.Errorf("before %+v, after %+v", before, after)
	}
	if name, err := kernel.FileSystem(t.TempDir()); err != nil || name == "" {
		t.Errorf("file system %q, %v", name, err)
	}
}

package volume_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cairn"
	"cairn/internal/system/volume"
)

// loopDevice makes a block device of a file, where this machine lets us.
func loopDevice(t *testing.T, size int64) string {
	t.Helper()
	losetup, err := exec.LookPath("losetup")
	if err != nil {
		losetup = "/usr/sbin/losetup"
	}
	file := filepath.Join(t.TempDir(), "disk")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(losetup, "--find", "--show", file).CombinedOutput()
	if err != nil {
		t.Skipf("no loop device: %v: %s", err, out)
	}
	dev := strings.TrimSpace(string(out))
	t.Cleanup(func() { _ = exec.Command(losetup, "--detach", dev).Run() })
	return dev
}

// A block device adopted in place: captured, reopened, and unverified after
// somebody else wrote to it; in use, it is refused.
func TestAdoptedBlockDevice(t *testing.T) {
	dev := loopDevice(t, 8<<20)
	dir := t.TempDir()
	p := openPlace(t, volume.PlaceOptions{Dir: dir})
	if err := p.Adopt(ctx, "disk", dev, "", ""); err != nil {
		t.Fatal(err)
	}
	if err := put(p)(ctx, "disk", 0, fill(1, 1<<20)); err != nil {
		t.Fatal(err)
	}
	v, err := p.Open(ctx, "disk")
	if err != nil {
		t.Fatal(err)
	}
	a := snap(t, v, "@a")
	if err := put(p)(ctx, "disk", 4096, fill(2, 8192)); err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, v, a.VersionID); !bytes.Equal(got[:1<<20], fill(1, 1<<20)) {
		t.Error("the snapshot differs")
	}
	if _, err := volume.OpenPlace(ctx, volume.PlaceOptions{Dir: dir}); err != nil {
		t.Fatal(err)
	}
	other := openPlace(t, volume.PlaceOptions{})
	if err := other.Adopt(ctx, "twice", dev, "", ""); !errors.Is(err, cairn.KindBusy) {
		t.Errorf("adopting a device that is in use: %v", err)
	}
	p = reopen(t, p, dir)
	if v, err = p.Open(ctx, "disk"); err != nil {
		t.Fatal(err)
	}
	if c := v.Continuity(); !strings.HasPrefix(c, "B:") {
		t.Errorf("continuity after a clean stop: %s", c)
	}
	p = reopen(t, p, dir)
	f, err := os.OpenFile(dev, os.O_RDWR|os.O_SYNC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(fill(9, 4096), 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if v, err = p.Open(ctx, "disk"); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Snapshot(ctx, "@b"); !errors.Is(err, cairn.KindUnverified) {
		t.Errorf("capture after a foreign write: %v (%s)", err, v.Continuity())
	}
}

//go:build linux

package restore_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cairn"
	"cairn/internal/work/restore"
)

// loopDevice makes a block device of old content.
func loopDevice(t *testing.T, size int64) string {
	t.Helper()
	tool, err := exec.LookPath("losetup")
	if err != nil {
		if _, err = os.Stat("/usr/sbin/losetup"); err != nil {
			t.Skip("losetup is not installed")
		}
		tool = "/usr/sbin/losetup"
	}
	if os.Getuid() != 0 {
		t.Skip("loop devices need root")
	}
	file := filepath.Join(t.TempDir(), "device")
	if err := os.WriteFile(file, bytes.Repeat([]byte("old content "), int(size)/12+1)[:size], 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(tool, "--find", "--show", file).CombinedOutput()
	if err != nil {
		t.Skipf("no loop device: %v %s", err, out)
	}
	device := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command(tool, "--detach", device).CombinedOutput(); err != nil {
			t.Errorf("%v %s", err, out)
		}
	})
	return device
}

// A device is overwritten in place, zeroes included, only with Force and only when
// it is large enough and nobody else's.
func TestToDevice(t *testing.T) {
	device := loopDevice(t, volume+4096)
	b := newBench(t, "@a")
	o := b.toFile("@a", device)
	if _, err := restore.ToFile(t.Context(), o); !errors.Is(err, cairn.KindExists) || !strings.Contains(err.Error(), "would be lost") {
		t.Fatal(err)
	}
	o.Force = true
	holder, err := os.OpenFile(device, os.O_RDONLY|os.O_EXCL, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := restore.ToFile(t.Context(), o); !errors.Is(err, cairn.KindBusy) || cairn.HintOf(err) == "" {
		t.Error(err)
	}
	if err := holder.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := restore.ToFile(t.Context(), o)
	if err != nil || r.Method != restore.Device || !r.Verified || r.BytesMoved != volume {
		t.Fatalf("%+v, %v", r, err)
	}
	want, err := b.src.Content("db", "@a")
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(device)
	if err != nil || !bytes.Equal(got[:volume], want) || !strings.Contains(string(got[volume:]), "old content") {
		t.Errorf("the device is not db@a: %v", err)
	}
	b.create(b.src, "big", "@x")
	if err := b.src.Endpoint().Resizes.Resize(t.Context(), "big", volume*2); err != nil {
		t.Fatal(err)
	}
	b.create(b.src, "big", "@y")
	o.Dataset, o.Version = "big", "@y"
	if _, err := restore.ToFile(t.Context(), o); !errors.Is(err, cairn.KindSpace) || !strings.Contains(err.Error(), "use a larger device") {
		t.Error(err)
	}
}

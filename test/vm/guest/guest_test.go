// Package guest holds the tests that run inside the virtual machine, as root, on a
// kernel with modules; package vm boots the machine and reports their results as
// its own. They may destroy /dev/vdb and load modules. Outside the machine they are
// skipped, and only what judges their results is tested.
package guest_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cairn"
	"cairn/internal/system/volume"
)

// inside skips the test outside of the machine.
func inside(t *testing.T) {
	t.Helper()
	if os.Getenv("CAIRN_GUEST") == "" {
		t.Skip("runs inside the virtual machine: make test-vm")
	}
}

// run runs a command that must succeed and returns what it printed.
func run(t *testing.T, command string) string {
	t.Helper()
	out, err := shell(command)
	if err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
	return out
}

func shell(command string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "bash", "-ec", "set -o pipefail; "+command).CombinedOutput()
	return string(out), err
}

// undo runs a command when the test has ended.
func undo(t *testing.T, command string) {
	t.Helper()
	t.Cleanup(func() {
		if out, err := shell(command); err != nil {
			t.Errorf("%s: %v\n%s", command, err, out)
		}
	})
}

// disk makes an ext4 on the machine's first spare disk and mounts it.
func disk(t *testing.T) string {
	t.Helper()
	run(t, "mkfs.ext4 -qF /dev/vdb && mkdir -p /disk && mount /dev/vdb /disk")
	undo(t, "umount /disk")
	return "/disk"
}

func place(t *testing.T, dir string, faults volume.Fault) *volume.Place {
	t.Helper()
	p, err := volume.OpenPlace(t.Context(), volume.PlaceOptions{Dir: filepath.Join(dir, "place"), Volume: volume.Options{Faults: faults}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func content(t *testing.T, r cairn.BlockReader) []byte {
	t.Helper()
	p := make([]byte, r.Size())
	if err := r.ReadAt(t.Context(), p, 0); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	return p
}

// contentOf reads a snapshot, or the head when the version is zero.
func contentOf(t *testing.T, v *volume.Volume, id cairn.VersionID) []byte {
	t.Helper()
	if id.IsZero() {
		return content(t, v.Device())
	}
	r, err := v.OpenVersion(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return content(t, r)
}

// changed collects a change set and its bytes.
func changed(t *testing.T, v *volume.Volume, from, to cairn.VersionID) (set []cairn.Extent, total int64) {
	t.Helper()
	for e, err := range v.Changed(t.Context(), from, to) {
		if err != nil {
			t.Fatal(err)
		}
		set = append(set, e)
		total += e.Length
	}
	return set, total
}

// uncovered lists the blocks in which two contents differ and of which the change
// set does not know.
func uncovered(old, now []byte, set []cairn.Extent) []int64 {
	known := make([]bool, len(now)/cairn.BlockSize)
	for _, e := range set {
		for b := e.Offset / cairn.BlockSize; b*cairn.BlockSize < e.End(); b++ {
			known[b] = true
		}
	}
	var missed []int64
	for b := range known {
		at := b * cairn.BlockSize
		if !known[b] && !bytes.Equal(old[at:at+cairn.BlockSize], now[at:at+cairn.BlockSize]) {
			missed = append(missed, int64(b))
		}
	}
	return missed
}

// The judge of change sets sees one block that is missing from one.
func TestUncovered(t *testing.T) {
	old, now := make([]byte, 8*cairn.BlockSize), make([]byte, 8*cairn.BlockSize)
	now[2*cairn.BlockSize], now[5*cairn.BlockSize+77] = 1, 1
	whole := []cairn.Extent{{Offset: 0, Length: 3 * cairn.BlockSize}, {Offset: 5 * cairn.BlockSize, Length: cairn.BlockSize}}
	if got := uncovered(old, now, whole); len(got) != 0 {
		t.Errorf("a set that knows all misses %v", got)
	}
	if got := uncovered(old, now, whole[:1]); len(got) != 1 || got[0] != 5 {
		t.Errorf("a set without block 5 misses %v", got)
	}
}

// Every module the suite relies on is there; the kernel is the one that was chosen.
func TestKernel(t *testing.T) {
	inside(t)
	if got, want := strings.TrimSpace(run(t, "uname -r")), os.Getenv("CAIRN_VM_RELEASE"); got != want {
		t.Errorf("runs %s, was built for %s", got, want)
	}
	run(t, "modprobe -a zfs nbd ublk_drv dm-snapshot dm-era dm-thin-pool dm-flakey dm-log-writes dm-delay scsi_debug st sg fuse loop")
	undo(t, "modprobe -r scsi_debug")
}

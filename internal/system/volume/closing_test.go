package volume_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"syscall"
	"testing"

	"cairn"
	"cairn/internal/system/volume"
	"cairn/internal/testkit/fakedisk"
)

// A segment whose index could not be written before a clean stop is looked at by the
// next opening as after a crash: what it lacks by then is told.
func TestASegmentThatCouldNotBeClosedIsLookedAt(t *testing.T) {
	const size = 1 << 20
	disk, v := onDisk(t, size, false, volume.Options{SegmentBytes: 64 << 10})
	write(t, v, 0, fill(1, size))
	a := snap(t, v, "@a")
	disk.OnCall(func(c fakedisk.Call) error {
		if c.Op == fakedisk.OpCreate && strings.HasPrefix(c.Name, "idx-") {
			return syscall.EIO
		}
		return nil
	})
	for off := int64(0); off < size/2; off += 32 << 10 {
		write(t, v, off, fill(2, 32<<10))
	}
	disk.OnCall(nil)
	closeVolume(t, v)
	if n := spoilFirstBatch(t, disk); n == 0 {
		t.Fatal("nothing was spoiled")
	}
	v = open(t, disk, volume.Options{})
	r, err := v.OpenVersion(ctx, a.VersionID)
	if err != nil {
		t.Fatal(err)
	}
	lost, p := 0, make([]byte, 4096)
	for off := int64(0); off < size; off += 4096 {
		err := r.ReadAt(ctx, p, off)
		switch {
		case errors.Is(err, cairn.KindDamaged):
			lost++
		case err != nil || !bytes.Equal(p, fill(1, 4096)):
			t.Fatalf("block %d reads as something else (%v)", off/4096, err)
		}
	}
	if l := v.Listing("db", cairn.Want{}); lost == 0 || l.Dataset.State != cairn.StateDamaged {
		t.Errorf("%d blocks are lost, and the volume is %v", lost, l.Dataset.State)
	}
	closeVolume(t, v)
}

// spoilFirstBatch makes the header and the footer of the first batch of a segment
// without an index unreadable, and gives its blocks.
func spoilFirstBatch(t *testing.T, disk *fakedisk.Disk) (blocks uint32) {
	t.Helper()
	names, err := disk.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		id, is := strings.CutPrefix(n, "seg-")
		if _, err := disk.Stat("idx-" + id); !is || err == nil {
			continue
		}
		f, err := disk.Open(n, true)
		head := make([]byte, 4096)
		if err == nil {
			_, err = f.ReadAt(head, 0)
		}
		blocks = binary.LittleEndian.Uint32(head[64:])
		for _, at := range []int64{0, 4096 * int64(1+blocks)} {
			if err == nil {
				_, err = f.WriteAt(make([]byte, 4096), at)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		return blocks
	}
	return 0
}

package volume_test

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"cairn"
	"cairn/internal/mech/blockio"
	"cairn/internal/system/volume"
	"cairn/internal/testkit/fakedisk"
)

// What a shrink of an adopted head took off comes back as zeroes, across a power cut
// too: the head keeps its length, so that only the shrink's flush sees to it.
func TestWhatAShrinkTookOffGrowsBackAsZeroes(t *testing.T) {
	for _, leftOut := range []bool{false, true} {
		err := shrinkAndGrow(t, leftOut)
		if leftOut != (err != nil) {
			t.Errorf("flush left out %v: %v", leftOut, err)
		}
	}
}

func shrinkAndGrow(t *testing.T, unflushed bool) error {
	t.Helper()
	const size = 64 << 10
	disk := adoptable(t, size)
	if unflushed {
		disk.Lie(func() bool { return calledBy("(*Volume).shrink") && calledBy("(*Volume).flush") })
	}
	o := volume.Options{OpenOrigin: func(string) (blockio.File, error) { return disk.Open("origin", true) }}
	if err := volume.Create(ctx, disk.Sub("store"), volume.CreateOptions{Origin: "/origin", OpenOrigin: o.OpenOrigin}); err != nil {
		t.Fatal(err)
	}
	v, err := volume.Open(ctx, disk.Sub("store"), o)
	if err != nil {
		t.Fatal(err)
	}
	write(t, v, 0, fill(7, size))
	before := snap(t, v, "@before")
	if err := v.Resize(ctx, size/2); err != nil {
		t.Fatal(err)
	}
	r := disk.Replay()
	r.Seek(disk.Len())
	disk = r.Crash(fakedisk.Nothing)
	if v, err = volume.Open(ctx, disk.Sub("store"), o); err != nil {
		t.Fatal(err)
	}
	defer closeVolume(t, v)
	if err := v.Resize(ctx, size); err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, v, before.VersionID); !bytes.Equal(got, fill(7, size)) {
		t.Error("the snapshot reads as something else")
	}
	if got := readAll(t, v, cairn.VersionID{}); !bytes.Equal(got, append(fill(7, size/2), make([]byte, size/2)...)) {
		return fmt.Errorf("what was taken off reads as %x", got[size-1])
	}
	return nil
}

// adoptable is a disk with a file to be adopted and the folder of a store.
func adoptable(t *testing.T, size int64) *fakedisk.Disk {
	t.Helper()
	disk := fakedisk.New()
	f, err := disk.Create("origin")
	if err == nil {
		err = errors.Join(f.Truncate(size), f.Sync(), f.Close(), disk.Mkdir("store"), disk.SyncDir("."))
	}
	if err != nil {
		t.Fatal(err)
	}
	return disk
}

// calledBy tells whether a function of that name is on the stack.
func calledBy(name string) bool {
	var pcs [40]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs[:])])
	for {
		f, more := frames.Next()
		if strings.HasSuffix(f.Function, name) {
			return true
		}
		if !more {
			return false
		}
	}
}

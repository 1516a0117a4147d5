package volume_test

import (
	"bytes"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"cairn"
	"cairn/internal/mech/blockio"
	"cairn/internal/system/volume"
	"cairn/internal/testkit/fakedisk"
)

// A terabyte that is hardly used costs next to nothing: open in under a second,
// idle under 64 MiB, discarded as a whole in bounded memory.
func TestTerabyteVolumeIsCheap(t *testing.T) {
	const size = 1 << 40
	fsys, v := fresh(t, size)
	d := v.Device()
	for i := range int64(64) {
		if err := d.WriteAt(ctx, fill(byte(i+1), 4096), i*(size/64), 0); err != nil {
			t.Fatal(err)
		}
	}
	a := snap(t, v, "@a")
	if err := d.WriteZeroes(ctx, 0, size, cairn.MayUnmap); err != nil {
		t.Fatal(err)
	}
	r, err := v.OpenVersion(ctx, a.VersionID)
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 4096)
	if err := r.ReadAt(ctx, p, 63*(size/64)); err != nil || p[0] != 64 {
		t.Errorf("old block reads %d, %v", p[0], err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	closeVolume(t, v)
	v, d, r = nil, nil, nil
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	began := time.Now()
	v = open(t, fsys, volume.Options{})
	took := time.Since(began)
	runtime.GC()
	runtime.ReadMemStats(&after)
	used := int64(after.HeapInuse) - int64(before.HeapInuse)
	t.Logf("opened in %v, %d KiB in use", took, used>>10)
	if took > time.Second || used > 64<<20 {
		t.Errorf("opened in %v, %d MiB in use", took, used>>20)
	}
	if n := len(changed(t, v, a.VersionID, cairn.VersionID{})); n != 64 {
		t.Errorf("%d blocks count as changed", n)
	}
	closeVolume(t, v)
}

// counted is a disk that counts its open files.
type counted struct {
	blockio.FS
	files atomic.Int64
}

func (c *counted) Create(name string) (blockio.File, error) { return c.count(c.FS.Create(name)) }

func (c *counted) Open(name string, write bool) (blockio.File, error) {
	return c.count(c.FS.Open(name, write))
}

func (c *counted) count(f blockio.File, err error) (blockio.File, error) {
	if err != nil {
		return nil, err
	}
	c.files.Add(1)
	return countedFile{f, c}, nil
}

type countedFile struct {
	blockio.File
	disk *counted
}

func (f countedFile) Close() error {
	f.disk.files.Add(-1)
	return f.File.Close()
}

// Hundreds of segments: few are open at a time, however old what is read.
func TestFewSegmentsAreOpenAtATime(t *testing.T) {
	disk := &counted{FS: fakedisk.New()}
	if err := volume.Create(ctx, disk, volume.CreateOptions{Size: 16 << 20}); err != nil {
		t.Fatal(err)
	}
	v := open(t, disk, volume.Options{SegmentBytes: 64 << 10})
	write(t, v, 0, noise(1, 16<<20))
	a := snap(t, v, "@a")
	for off := int64(0); off < 16<<20; off += 64 << 10 {
		write(t, v, off, fill(2, 64<<10))
	}
	for range 2 {
		if !bytes.Equal(readAll(t, v, a.VersionID), noise(1, 16<<20)) {
			t.Fatal("the snapshot differs")
		}
		if n := disk.files.Load(); n > 272 {
			t.Errorf("%d files are open", n)
		}
		closeVolume(t, v)
		if n := disk.files.Load(); n != 0 {
			t.Errorf("%d files are open after Close", n)
		}
		v = open(t, disk, volume.Options{})
	}
	closeVolume(t, v)
}

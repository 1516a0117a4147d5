package volume_test

import (
	"runtime"
	"testing"
	"time"

	"cairn"
	"cairn/internal/system/volume"
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

package volume_test

import (
	"strings"
	"sync/atomic"
	"testing"

	"cairn/internal/mech/blockio"
	"cairn/internal/system/volume"
	"cairn/internal/testkit/fakedisk"
)

// handles is a file system that counts the segments that are open.
type handles struct {
	blockio.FS
	open, most atomic.Int64
}

func (c *handles) Open(name string, write bool) (blockio.File, error) {
	f, err := c.FS.Open(name, write)
	if err != nil || !strings.HasPrefix(name, "seg-") {
		return f, err
	}
	c.most.Store(max(c.most.Load(), c.open.Add(1)))
	return &handle{f, c}, nil
}

type handle struct {
	blockio.File
	c *handles
}

func (f *handle) Close() error {
	f.c.open.Add(-1)
	return f.File.Close()
}

// One look-up may go through any number of segments: those that have nothing for it
// do not stay open.
func TestLookUpsThroughManySegments(t *testing.T) {
	const segments, stride, mostOpen = 300, 64 << 10, 128
	disk := &handles{FS: fakedisk.New()}
	if err := volume.Create(ctx, disk, volume.CreateOptions{Size: segments * stride}); err != nil {
		t.Fatal(err)
	}
	o := volume.Options{SegmentBytes: 1, Boot: "this one"}
	v := open(t, disk, o)
	write(t, v, 0, fill(1, segments*stride))
	s := snap(t, v, "@s")
	d := v.Device()
	for i := range int64(segments) {
		write(t, v, i*stride, fill(2, 4096))
		if err := d.Flush(ctx); err != nil {
			t.Fatal(err)
		}
	}
	_ = d.Close()
	closeVolume(t, v)
	disk.most.Store(0)
	v = open(t, disk, o)
	defer closeVolume(t, v)
	r, err := v.OpenVersion(ctx, s.VersionID)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	for _, off := range []int64{0, segments / 2 * stride, (segments - 16) * stride} {
		p := make([]byte, 1<<20)
		if err := r.ReadAt(ctx, p, off); err != nil || p[0] != 1 {
			t.Fatal(p[0], err)
		}
	}
	for _, err := range r.Extents(ctx, 0, r.Size()) {
		if err != nil {
			t.Fatal(err)
		}
	}
	if c, err := v.Verify(ctx, s.VersionID); err != nil || len(c.Damaged) > 0 {
		t.Fatal(c, err)
	}
	if n := disk.most.Load(); n > mostOpen+20 { // a window of 1 MiB reads from 16 of them
		t.Errorf("%d of %d segments were open at one time", n, segments)
	}
}

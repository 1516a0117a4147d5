package interop_test

import (
	"context"
	"iter"
	"slices"
	"sync"
	"testing"

	"cairn"
	"cairn/internal/front/nbd"
)

var kinds = []struct {
	name string
	make func(*testing.T) *disk
}{
	{"ram", ramDisk},
}

type ram struct {
	mu sync.RWMutex
	b  []byte
	w  []bool
}

func ramDisk(t *testing.T) *disk {
	r := &ram{b: make([]byte, 33<<20+512), w: make([]bool, 33<<8+1)}
	copy(r.b, image(1<<20, 1))
	for i := range 256 {
		r.w[i] = true
	}
	dirty := []cairn.Extent{{Offset: 4096, Length: 8192, Kind: cairn.ExtentData}, {Offset: 1 << 20, Length: 4096, Kind: cairn.ExtentData}}
	name := nbd.DirtyContext("#b0")
	d := &disk{dir: t.TempDir(), export: "db", size: r.Size(), writable: true, read: content(r), dirty: map[string][]cairn.Extent{name: dirty}}
	d.served = exports{"db": func(context.Context) (*nbd.Export, error) {
		return &nbd.Export{Device: r, Contexts: []nbd.Context{{Name: name, Changed: func(context.Context, int64, int64) iter.Seq2[cairn.Extent, error] {
			return func(yield func(cairn.Extent, error) bool) {
				for _, e := range slices.Clone(dirty) {
					if !yield(e, nil) {
						return
					}
				}
			}
		}}}}, nil
	}}
	serve(t, d.dir, d.served)
	return d
}

func (r *ram) Size() int64  { return int64(len(r.b)) }
func (r *ram) Sector() int  { return 512 }
func (r *ram) Close() error { return nil }
func (r *ram) ReadAt(_ context.Context, p []byte, off int64) error {
	r.mu.RLock()
	defer r.mu.RUnlock()
	copy(p, r.b[off:])
	return nil
}
func (r *ram) Extents(_ context.Context, off, length int64) iter.Seq2[cairn.Extent, error] {
	return func(yield func(cairn.Extent, error) bool) {
		for end := off + length; off < end; {
			r.mu.RLock()
			k := cairn.ExtentHole
			if r.w[off/4096] {
				k = cairn.ExtentData
			}
			r.mu.RUnlock()
			n := min(end, (off/4096+1)*4096)
			if !yield(cairn.Extent{Offset: off, Length: n - off, Kind: k}, nil) {
				return
			}
			off = n
		}
	}
}
func (r *ram) WriteAt(_ context.Context, p []byte, off int64, _ cairn.WriteFlags) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	copy(r.b[off:], p)
	for b := off / 4096; b*4096 < off+int64(len(p)); b++ {
		r.w[b] = true
	}
	return nil
}
func (r *ram) WriteZeroes(_ context.Context, off, length int64, _ cairn.WriteFlags) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.b[off : off+length])
	for b := (off + 4095) / 4096; (b+1)*4096 <= off+length; b++ {
		r.w[b] = false
	}
	return nil
}
func (r *ram) Discard(ctx context.Context, off, length int64) error {
	return r.WriteZeroes(ctx, off, length, 0)
}
func (r *ram) Flush(context.Context) error { return nil }

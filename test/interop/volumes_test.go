package interop_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"cairn"
	"cairn/internal/front/nbd"
	"cairn/internal/mech/blockio"
	"cairn/internal/system/volume"
)

// Sizes end in half a block, so that every tool meets a short tail. With
// CAIRN_SCALE=full they are sixteen times as large.
var (
	scale     = map[bool]int64{false: 1, true: 16}[os.Getenv("CAIRN_SCALE") == "full"]
	diskSize  = scale*9<<20 + 512
	largeSize = scale*33<<20 + 512 // room for the largest request
	oldSize   = scale * 6 << 20
)

var kinds = []struct {
	name string
	make func(*testing.T) *disk
}{
	{"head", func(t *testing.T) *disk { return newVolume(t, volume.CreateOptions{Size: largeSize}).head() }},
	{"adopted", func(t *testing.T) *disk {
		origin := filepath.Join(t.TempDir(), "origin")
		if err := errors.Join(os.WriteFile(origin, nil, 0o600), os.Truncate(origin, diskSize)); err != nil {
			t.Fatal(err)
		}
		return newVolume(t, volume.CreateOptions{Origin: origin}).head()
	}},
	{"head-with-snapshots", func(t *testing.T) *disk {
		x := newVolume(t, volume.CreateOptions{Size: diskSize})
		x.history()
		x.watch("@a", "@b")
		return x.head()
	}},
	{"snapshot-under-write", func(t *testing.T) *disk {
		x := newVolume(t, volume.CreateOptions{Size: diskSize})
		x.history()
		x.rewriteAlways()
		return x.snapshot("@b")
	}},
	{"resized", func(t *testing.T) *disk {
		x := newVolume(t, volume.CreateOptions{Size: oldSize})
		x.history()
		x.watch("@a", "@b")
		if err := x.v.Resize(t.Context(), diskSize); err != nil {
			t.Fatal(err)
		}
		for name := range x.dirty {
			x.dirty[name] = append(x.dirty[name], cairn.Extent{Offset: oldSize, Length: diskSize - oldSize, Kind: cairn.ExtentData})
		}
		return x.head()
	}},
	{"sealed-replica", func(t *testing.T) *disk {
		x := newVolume(t, volume.CreateOptions{Size: diskSize})
		x.history()
		if err := x.v.SetSealed(t.Context(), true); err != nil {
			t.Fatal(err)
		}
		return x.export(false)
	}},
}

// subject is a volume with what the test knows of its content.
type subject struct {
	t     *testing.T
	v     *volume.Volume
	dev   cairn.BlockDevice
	dirty map[string][]cairn.Extent // by context, for the head
	first map[string][]cairn.Extent // by context, for @b
	ids   map[string]cairn.VersionID
}

func newVolume(t *testing.T, o volume.CreateOptions) *subject {
	t.Helper()
	store := t.TempDir()
	fsys, err := blockio.OS(store)
	if err != nil {
		t.Fatal(err)
	}
	if err := volume.Create(t.Context(), fsys, o); err != nil {
		t.Fatal(err)
	}
	v, err := volume.Open(t.Context(), fsys, volume.Options{Name: "db"})
	if err != nil {
		t.Fatal(err)
	}
	x := &subject{t: t, v: v, dev: v.Device(), dirty: map[string][]cairn.Extent{}, first: map[string][]cairn.Extent{}, ids: map[string]cairn.VersionID{}}
	t.Cleanup(func() {
		x.dev.Close()
		if err := v.Close(); err != nil {
			t.Error(err)
		}
	})
	x.write(0, image(1<<20, 21))
	x.write(4<<20, image(1<<20, 22))
	return x
}

func (x *subject) write(off int64, p []byte) {
	x.t.Helper()
	if err := x.dev.WriteAt(x.t.Context(), p, off, 0); err != nil {
		x.t.Fatal(err)
	}
}

// scatter rewrites some blocks, in whole and in part, and returns them.
func (x *subject) scatter(seed uint64) []cairn.Extent {
	r := rand.New(rand.NewPCG(seed, 5))
	var out []cairn.Extent
	for block := int64(1); block < oldSize/4096; block += 20 + r.Int64N(200) {
		n := 1 + r.Int64N(3)
		p := make([]byte, n*4096-512) // the last sector stays
		for i := range p {
			p[i] = byte(r.Uint32())
		}
		x.write(block*4096, p)
		out = append(out, cairn.Extent{Offset: block * 4096, Length: n * 4096, Kind: cairn.ExtentData})
	}
	return out
}

// history makes @a, changes, @b and a bookmark #m of it, changes.
func (x *subject) history() {
	ctx := x.t.Context()
	a, err := x.v.Snapshot(ctx, "@a")
	if err != nil {
		x.t.Fatal(err)
	}
	before := x.scatter(31)
	b, err := x.v.Snapshot(ctx, "@b")
	if err != nil {
		x.t.Fatal(err)
	}
	m, err := x.v.Bookmark(ctx, b.VersionID, "#m", false)
	if err != nil {
		x.t.Fatal(err)
	}
	for _, v := range []cairn.Version{a, b, m} {
		x.ids[v.Name] = v.VersionID
	}
	after := x.scatter(32)
	x.first[nbd.DirtyContext(a.Name)] = before
	x.dirty[nbd.DirtyContext(a.Name)] = union(before, after)
	x.dirty[nbd.DirtyContext(b.Name)] = after
	x.dirty[nbd.DirtyContext("#m")] = after
}

// union joins extents that touch.
func union(lists ...[]cairn.Extent) []cairn.Extent {
	all := slices.Concat(lists...)
	slices.SortFunc(all, func(a, b cairn.Extent) int { return int(a.Offset - b.Offset) })
	var out []cairn.Extent
	for _, e := range all {
		if n := len(out); n > 0 && out[n-1].End() >= e.Offset {
			out[n-1].Length = max(out[n-1].End(), e.End()) - out[n-1].Offset
		} else {
			out = append(out, e)
		}
	}
	return out
}

// watch checks at the end that the snapshots still read as now.
func (x *subject) watch(names ...string) {
	for _, name := range names {
		sum := func() [32]byte {
			r, err := x.v.OpenVersion(context.Background(), x.ids[name])
			if err != nil {
				x.t.Fatal(err)
			}
			defer r.Close()
			p := make([]byte, r.Size())
			if err := r.ReadAt(context.Background(), p, 0); err != nil {
				x.t.Fatal(err)
			}
			return sha256.Sum256(p)
		}
		before := sum()
		x.t.Cleanup(func() {
			if sum() != before {
				x.t.Errorf("%s reads otherwise after what the tools wrote to the head", name)
			}
		})
	}
}

// rewriteAlways keeps writing to the head until the test ends.
func (x *subject) rewriteAlways() {
	stop := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		r := rand.New(rand.NewPCG(8, 8))
		p := make([]byte, 16<<10)
		for {
			select {
			case <-stop:
				return
			default:
			}
			p[0]++
			if err := x.dev.WriteAt(context.Background(), p, r.Int64N(oldSize/4096-4)*4096, 0); err != nil {
				x.t.Error(err)
				return
			}
		}
	})
	x.t.Cleanup(func() {
		close(stop)
		running.Wait()
	})
}

func (x *subject) head() *disk { return x.export(true) }

// export serves the head with all contexts.
func (x *subject) export(writable bool) *disk {
	d := &disk{dir: x.t.TempDir(), export: "db", size: x.dev.Size(), writable: writable, read: content(x.dev), dirty: x.dirty}
	d.served = exports{"db": func(context.Context) (*nbd.Export, error) {
		e := &nbd.Export{Device: x.dev, Contexts: x.contexts(d.dirty, cairn.VersionID{})}
		if !d.writable {
			e.Device, e.Reader = nil, x.dev
		}
		return e, nil
	}}
	serve(x.t, d.dir, d.served)
	return d
}

// snapshot serves a snapshot.
func (x *subject) snapshot(name string) *disk {
	x.t.Helper()
	id := x.ids[name]
	r, err := x.v.OpenVersion(x.t.Context(), id)
	if err != nil {
		x.t.Fatal(err)
	}
	x.t.Cleanup(func() { r.Close() })
	d := &disk{dir: x.t.TempDir(), export: "db" + name, size: r.Size(), read: content(r), dirty: x.first}
	d.served = exports{d.export: func(ctx context.Context) (*nbd.Export, error) {
		r, err := x.v.OpenVersion(ctx, id)
		if err != nil {
			return nil, err
		}
		return &nbd.Export{Reader: r, Close: r.Close, Contexts: x.contexts(d.dirty, id)}, nil
	}}
	serve(x.t, d.dir, d.served)
	return d
}

func (x *subject) contexts(names map[string][]cairn.Extent, to cairn.VersionID) []nbd.Context {
	var out []nbd.Context
	for name, id := range x.ids {
		if _, wanted := names[nbd.DirtyContext(name)]; wanted {
			out = append(out, nbd.Context{Name: nbd.DirtyContext(name), Changed: func(ctx context.Context, _, _ int64) iter.Seq2[cairn.Extent, error] {
				return x.v.Changed(ctx, id, to)
			}})
		}
	}
	return out
}

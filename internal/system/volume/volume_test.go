package volume_test

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"cairn"
	"cairn/internal/mech/blockio"
	"cairn/internal/system/volume"
)

var ctx = context.Background()

func newFS(t *testing.T) blockio.FS {
	t.Helper()
	fsys, err := blockio.OS(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return fsys
}

func open(t *testing.T, fsys blockio.FS, o volume.Options) *volume.Volume {
	t.Helper()
	o.Name = "db"
	v, err := volume.Open(ctx, fsys, o)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func fresh(t *testing.T, size int64) (blockio.FS, *volume.Volume) {
	t.Helper()
	fsys := newFS(t)
	if err := volume.Create(ctx, fsys, volume.CreateOptions{Size: size}); err != nil {
		t.Fatal(err)
	}
	return fsys, open(t, fsys, volume.Options{})
}

func fill(b byte, n int) []byte { return bytes.Repeat([]byte{b}, n) }

func write(t *testing.T, v *volume.Volume, off int64, p []byte) {
	t.Helper()
	d := v.Device()
	defer func() { _ = d.Close() }()
	if err := d.WriteAt(ctx, p, off, 0); err != nil {
		t.Fatal(err)
	}
}

func snap(t *testing.T, v *volume.Volume, name string) cairn.Version {
	t.Helper()
	s, err := v.Snapshot(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func readAll(t *testing.T, v *volume.Volume, id cairn.VersionID) []byte {
	t.Helper()
	var r cairn.BlockReader
	var err error
	if id.IsZero() {
		r = v.Device()
	} else if r, err = v.OpenVersion(ctx, id); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	p := make([]byte, r.Size())
	if err := r.ReadAt(ctx, p, 0); err != nil {
		t.Fatal(err)
	}
	return p
}

func changed(t *testing.T, v *volume.Volume, from, to cairn.VersionID) map[int64]bool {
	t.Helper()
	set := map[int64]bool{}
	for e, err := range v.Changed(ctx, from, to) {
		if err != nil {
			t.Fatal(err)
		}
		for b := e.Offset / cairn.BlockSize; b*cairn.BlockSize < e.End(); b++ {
			set[b] = true
		}
	}
	return set
}

func closeVolume(t *testing.T, v *volume.Volume) {
	t.Helper()
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestSnapshotKeepsWhatWasThere(t *testing.T) {
	fsys, v := fresh(t, 1<<20)
	write(t, v, 0, fill(1, 8192))
	a := snap(t, v, "@a")
	write(t, v, 4096, fill(2, 8192))
	b := snap(t, v, "@b")
	write(t, v, 4096, fill(3, 4096))
	wantA := append(fill(1, 8192), make([]byte, 1<<20-8192)...)
	wantB := append(append(fill(1, 4096), fill(2, 8192)...), make([]byte, 1<<20-12288)...)
	for range 2 {
		if !bytes.Equal(readAll(t, v, a.VersionID), wantA) || !bytes.Equal(readAll(t, v, b.VersionID), wantB) {
			t.Fatal("a snapshot changed")
		}
		if got := changed(t, v, a.VersionID, b.VersionID); len(got) != 2 || !got[1] || !got[2] {
			t.Errorf("changed between: %v", got)
		}
		if got := changed(t, v, b.VersionID, cairn.VersionID{}); len(got) != 1 || !got[1] {
			t.Errorf("changed since: %v", got)
		}
		closeVolume(t, v)
		v = open(t, fsys, volume.Options{})
	}
	closeVolume(t, v)
}

func TestDestroyMiddleSnapshotKeepsTheOlder(t *testing.T) {
	_, v := fresh(t, 1<<20)
	defer closeVolume(t, v)
	write(t, v, 0, fill(1, 4096))
	a := snap(t, v, "@a")
	b := snap(t, v, "@b")
	write(t, v, 0, fill(2, 4096))
	errs, err := v.Destroy(ctx, []cairn.VersionID{b.VersionID, {Name: "@none", GUID: 5}, {Name: "@a", GUID: 5}})
	if err != nil || errs[0] != nil || errs[1] != nil || !errors.Is(errs[2], cairn.KindConflict) {
		t.Fatal(errs, err)
	}
	if readAll(t, v, a.VersionID)[0] != 1 {
		t.Error("the older snapshot lost its block")
	}
	if got := changed(t, v, a.VersionID, cairn.VersionID{}); len(got) != 1 {
		t.Errorf("changed: %v", got)
	}
}

func TestRollbackReturnsTheHead(t *testing.T) {
	fsys, v := fresh(t, 1<<20)
	write(t, v, 0, fill(1, 4096))
	a := snap(t, v, "@a")
	want := readAll(t, v, a.VersionID)
	write(t, v, 0, fill(2, 1<<20))
	b := snap(t, v, "@b")
	if err := v.Resize(ctx, 2<<20); err != nil {
		t.Fatal(err)
	}
	if err := v.Rollback(ctx, a.VersionID, false); !errors.Is(err, cairn.KindConflict) {
		t.Fatalf("newer snapshot in the way: %v", err)
	}
	if err := v.Rollback(ctx, a.VersionID, true); err != nil {
		t.Fatal(err)
	}
	closeVolume(t, v)
	v = open(t, fsys, volume.Options{})
	defer closeVolume(t, v)
	if !bytes.Equal(readAll(t, v, cairn.VersionID{}), want) || !bytes.Equal(readAll(t, v, a.VersionID), want) {
		t.Error("head or snapshot differs from the snapshot")
	}
	if _, err := v.OpenVersion(ctx, b.VersionID); !errors.Is(err, cairn.KindNotFound) {
		t.Errorf("the newer snapshot: %v", err)
	}
	if got := changed(t, v, a.VersionID, cairn.VersionID{}); len(got) != 0 {
		t.Errorf("changed: %v", got)
	}
}

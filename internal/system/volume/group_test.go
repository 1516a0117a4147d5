package volume_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"cairn"
	"cairn/internal/system/volume"
)

// Counters written to two volumes in turn, the first always before the second: in
// no group capture is the second ahead, and none is more than one write apart.
func TestGroupIsOneInstant(t *testing.T) {
	p, err := volume.OpenPlace(t.Context(), volume.PlaceOptions{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.Close() }()
	var devices []cairn.BlockDevice
	for _, name := range []string{"log", "data"} {
		if err := p.Create(t.Context(), name, 1<<20, "test"); err != nil {
			t.Fatal(err)
		}
		d, err := p.Device(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		devices = append(devices, d)
	}
	var stop atomic.Bool
	var writer sync.WaitGroup
	writer.Go(func() {
		for n := byte(1); !stop.Load(); n++ {
			for _, d := range devices {
				if err := d.WriteAt(context.Background(), bytes.Repeat([]byte{n}, cairn.BlockSize), 0, 0); err != nil {
					t.Error(err)
					return
				}
			}
		}
	})
	snaps := p.Endpoint().Snapshots
	for _, name := range []string{"@a", "@b", "@c", "@d"} {
		got, err := snaps.Snapshot(t.Context(), name, []string{"data", "log"}, true)
		if errors.Is(err, cairn.KindBusy) {
			continue // this machine could not hold both still for so short a time
		}
		if err != nil {
			t.Fatal(err)
		}
		data, log := first(t, p, got[0]), first(t, p, got[1])
		if log != data && log != data+1 {
			t.Errorf("%s: the log is at write %d, the data at %d", name, log, data)
		}
	}
	stop.Store(true)
	writer.Wait()
}

// first reads the first byte of a captured version.
func first(t *testing.T, p *volume.Place, c cairn.Captured) byte {
	t.Helper()
	r, err := p.Endpoint().Blocks.OpenVersion(t.Context(), c.Dataset, c.Version.VersionID)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1)
	if err := errors.Join(r.ReadAt(t.Context(), b, 0), r.Close()); err != nil {
		t.Fatal(err)
	}
	return b[0]
}

// A group that cannot be captured as a whole is not captured at all.
func TestGroupAllOrNone(t *testing.T) {
	dir := t.TempDir()
	p, err := volume.OpenPlace(t.Context(), volume.PlaceOptions{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.Close() }()
	for _, name := range []string{"a", "b"} {
		if err := p.Create(t.Context(), name, 1<<20, "test"); err != nil {
			t.Fatal(err)
		}
	}
	ep := p.Endpoint()
	if _, err := ep.Snapshots.Snapshot(t.Context(), "@there", []string{"b"}, false); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name     string
		datasets []string
		want     cairn.Kind
	}{
		{"@there", []string{"a", "b"}, cairn.KindExists},
		{"@x", []string{"a", "gone"}, cairn.KindNotFound},
		{"@x", []string{"a", "b", "a"}, cairn.KindInvalid},
	} {
		if _, err := ep.Snapshots.Snapshot(t.Context(), c.name, c.datasets, true); !errors.Is(err, c.want) {
			t.Errorf("%v as %s: %v, want %v", c.datasets, c.name, err, c.want)
		}
	}
	for l, err := range ep.Lister.List(t.Context(), cairn.Query{Filter: cairn.All, Names: []string{"a"}, Want: cairn.Want{Versions: true}}) {
		if err != nil || len(l.Versions) > 0 {
			t.Errorf("a has %v, %v", l.Versions, err)
		}
	}
	if _, err := ep.Snapshots.Snapshot(t.Context(), "@y", []string{"a", "b"}, true); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(filepath.Join(dir, "+groups")); err != nil || len(left) > 0 {
		t.Errorf("records are left: %v, %v", left, err)
	}
}

package volume_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cairn"
	"cairn/internal/mech/blockio"
	"cairn/internal/system/volume"
	"cairn/internal/testkit/endpointtest"
	"cairn/internal/work/check"
)

func openPlace(t *testing.T, o volume.PlaceOptions) *volume.Place {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	p, err := volume.OpenPlace(ctx, o)
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

func create(t *testing.T, p *volume.Place, name string, size int64) {
	t.Helper()
	if err := p.Create(ctx, name, size, "test"); err != nil {
		t.Fatal(err)
	}
}

func put(p *volume.Place) func(context.Context, string, int64, []byte) error {
	return func(ctx context.Context, name string, off int64, b []byte) error {
		d, err := p.Device(ctx, name)
		if err != nil {
			return err
		}
		return errors.Join(d.WriteAt(ctx, b, off, 0), d.Flush(ctx), d.Close())
	}
}

func TestPlaceConforms(t *testing.T) {
	dir := t.TempDir()
	p := openPlace(t, volume.PlaceOptions{Dir: dir})
	endpointtest.Run(t, check.Fixture{Endpoint: p.Endpoint(), Remove: p.DestroyVolume, Write: put(p),
		Damage: func(ctx context.Context, name string, id cairn.VersionID, off int64) error {
			return spoil(ctx, p, filepath.Join(dir, name, "+store"), name, id, off)
		},
		Create: func(ctx context.Context, name string, size int64) error { return p.Create(ctx, name, size, "test") }}, endpointtest.Options{Offered: true, NotOffered: []string{"clone", "clone-origin"}})
}

// spoil changes a byte of a preserved block: it looks for the block's content in
// the segments.
func spoil(ctx context.Context, p *volume.Place, store, name string, id cairn.VersionID, off int64) error {
	r, err := p.Endpoint().Blocks.OpenVersion(ctx, name, id)
	if err != nil {
		return err
	}
	block := make([]byte, cairn.BlockSize)
	if err := errors.Join(r.ReadAt(ctx, block, off), r.Close()); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(store, "seg-*"))
	if err != nil {
		return err
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		for at := 0; at < len(data); at += cairn.BlockSize {
			if bytes.Equal(data[at:at+cairn.BlockSize], block) {
				data[at+100] ^= 1
				return os.WriteFile(file, data, 0o600)
			}
		}
	}
	return errors.New("the block is in no segment")
}

func listNames(t *testing.T, ep *cairn.Endpoint) []string {
	t.Helper()
	var names []string
	for l, err := range ep.Lister.List(ctx, cairn.Query{Filter: cairn.All, Want: cairn.Want{Versions: true}}) {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, l.Dataset.Name)
	}
	return names
}

func TestPlaceHoldsNestedNames(t *testing.T) {
	dir := t.TempDir()
	p := openPlace(t, volume.PlaceOptions{Dir: dir})
	for _, name := range []string{"a/b", "a", "a b/c.d", "A"} {
		create(t, p, name, 1<<20)
	}
	if err := p.Create(ctx, "a", 1<<20, ""); !errors.Is(err, cairn.KindExists) {
		t.Errorf("second a: %v", err)
	}
	for _, bad := range []string{"../x", "a/../b", "", "a+b"} {
		if err := p.Create(ctx, bad, 1<<20, ""); !errors.Is(err, cairn.KindInvalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if got := listNames(t, p.Endpoint()); !slices.Equal(got, []string{"A", "a", "a b/c.d", "a/b"}) {
		t.Errorf("names %q", got)
	}
	if err := p.Endpoint().Renames.Rename(ctx, "a", "z/y"); err != nil {
		t.Fatal(err)
	}
	if err := p.DestroyVolume(ctx, "a b/c.d"); err != nil {
		t.Fatal(err)
	}
	if got := listNames(t, p.Endpoint()); !slices.Equal(got, []string{"A", "a/b", "z/y"}) {
		t.Errorf("names %q", got)
	}
	if _, err := os.Stat(filepath.Join(dir, "a b")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an empty folder stays behind: %v", err)
	}
}

func TestOneProcessHostsAVolume(t *testing.T) {
	dir := t.TempDir()
	first := openPlace(t, volume.PlaceOptions{Dir: dir, Socket: "/run/first"})
	create(t, first, "db", 1<<20)
	if _, err := first.Open(ctx, "db"); err != nil {
		t.Fatal(err)
	}
	dialled := ""
	second := openPlace(t, volume.PlaceOptions{Dir: dir, Dial: func(_ context.Context, socket string) (*cairn.Endpoint, error) {
		dialled = socket
		ep := first.Endpoint()
		return ep, nil
	}})
	if _, err := second.Device(ctx, "db"); !errors.Is(err, cairn.KindBusy) {
		t.Errorf("device of a hosted volume: %v", err)
	}
	if got := listNames(t, second.Endpoint()); !slices.Equal(got, []string{"db"}) || dialled != "/run/first" {
		t.Errorf("listing %q through %q", got, dialled)
	}
	alone := openPlace(t, volume.PlaceOptions{Dir: dir})
	_, err := alone.Endpoint().Snapshots.Snapshot(ctx, "@a", []string{"db"}, false)
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := alone.Endpoint().Snapshots.Snapshot(ctx, "@a", []string{"db"}, false); !errors.Is(got[0].Err, cairn.KindBusy) {
		t.Errorf("without a way to the host: %v", got[0].Err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := alone.Open(ctx, "db"); err != nil {
		t.Errorf("after the host ended: %v", err)
	}
}

func TestStoreOnUnfitFileSystemIsRefused(t *testing.T) {
	for _, bad := range []string{"tmpfs", "nfs", "overlay"} {
		p := openPlace(t, volume.PlaceOptions{FileSystem: func(string) (string, error) { return bad, nil }})
		err := p.Create(ctx, "db", 1<<20, "")
		if !errors.Is(err, cairn.KindUnsupported) || cairn.HintOf(errors.Unwrap(err)) == "" {
			t.Errorf("%s: %v", bad, err)
		}
		if got := listNames(t, p.Endpoint()); len(got) != 0 {
			t.Errorf("%s: left %q behind", bad, got)
		}
		store := filepath.Join(t.TempDir(), "store")
		if err := p.CreateIn(ctx, "db", 1<<20, store, ""); !errors.Is(err, cairn.KindUnsupported) {
			t.Errorf("%s: %v", bad, err)
		}
		if _, err := os.Stat(store); err == nil {
			t.Errorf("%s: the folder is left behind", bad)
		}
	}
}

func originFile(t *testing.T, p []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(path, p, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestAdoptedHeadStaysPlainAndIsReleased(t *testing.T) {
	p := openPlace(t, volume.PlaceOptions{})
	origin, store := originFile(t, fill(1, 10*4096+512)), filepath.Join(t.TempDir(), "store")
	if err := p.Adopt(ctx, "db", origin, store, "cairn.yml"); err != nil {
		t.Fatal(err)
	}
	got, err := p.Endpoint().Snapshots.Snapshot(ctx, "@a", []string{"db"}, false)
	if err != nil || got[0].Err != nil {
		t.Fatal(err, got[0].Err)
	}
	if err := put(p)(ctx, "db", 8*4096, fill(2, 2*4096+512)); err != nil {
		t.Fatal(err)
	}
	v, err := p.Open(ctx, "db")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(readAll(t, v, got[0].Version.VersionID), fill(1, 10*4096+512)) || v.Owner() != "cairn.yml" {
		t.Error("the snapshot, with its short tail, is not what the origin was")
	}
	if err := p.Release(ctx, "db"); err != nil {
		t.Fatal(err)
	}
	plain, err := os.ReadFile(origin)
	if err != nil || !bytes.Equal(plain, append(fill(1, 8*4096), fill(2, 2*4096+512)...)) {
		t.Errorf("the origin is not plain: %v", err)
	}
	if _, err := os.Stat(store); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the store stays behind: %v", err)
	}
	create(t, p, "own", 1<<20)
	if err := p.Release(ctx, "own"); !errors.Is(err, cairn.KindInvalid) {
		t.Errorf("release of a head in its store: %v", err)
	}
}

func TestAnOriginIsProtectedByOneVolume(t *testing.T) {
	dir, origin := t.TempDir(), originFile(t, fill(1, 4*4096))
	p := openPlace(t, volume.PlaceOptions{Dir: dir})
	if err := p.Adopt(ctx, "db", origin, "", "test"); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Link(origin, link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{origin, link} {
		if err := p.Adopt(ctx, "again", path, "", "test"); !errors.Is(err, cairn.KindExists) || !strings.Contains(err.Error(), "volume db protects it") {
			t.Errorf("adopted twice in one place: %v", err)
		}
	}
	if _, err := p.Open(ctx, "db"); err != nil {
		t.Fatal(err)
	}
	elsewhere := openPlace(t, volume.PlaceOptions{})
	if err := elsewhere.Adopt(ctx, "again", origin, "", "test"); !errors.Is(err, cairn.KindBusy) {
		t.Errorf("adopted at another place while it is open: %v", err)
	}
	if err := p.Release(ctx, "db"); err != nil {
		t.Fatal(err)
	}
	if err := elsewhere.Adopt(ctx, "again", origin, "", "test"); err != nil {
		t.Errorf("adopt what was released: %v", err)
	}
}

// A store that is not there, as on a disk that is not mounted, is named with what
// to do; the name can be given up, and the origin is adopted anew.
func TestStoreThatDisappears(t *testing.T) {
	dir := t.TempDir()
	p := openPlace(t, volume.PlaceOptions{Dir: dir})
	content := fill(1, 4*4096)
	origin, store := originFile(t, content), filepath.Join(t.TempDir(), "store")
	if err := p.Adopt(ctx, "db", origin, store, "test"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(store, store+".away"); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Open(ctx, "db"); !errors.Is(err, cairn.KindUnavailable) || !strings.Contains(err.Error(), store) {
		t.Errorf("opening it: %v", err)
	}
	if err := os.Rename(store+".away", store); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Open(ctx, "db"); err != nil {
		t.Errorf("when it is back: %v", err)
	}
	p = reopen(t, p, dir)
	if err := os.RemoveAll(store); err != nil {
		t.Fatal(err)
	}
	if err := p.DestroyVolume(ctx, "db"); err != nil {
		t.Fatal(err)
	}
	if err := p.Adopt(ctx, "db", origin, store, "test"); err != nil {
		t.Errorf("adopt it anew: %v", err)
	}
	if got, err := os.ReadFile(origin); err != nil || !bytes.Equal(got, content) {
		t.Errorf("the origin was touched: %v", err)
	}
}

func reopen(t *testing.T, p *volume.Place, dir string) *volume.Place {
	t.Helper()
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	return openPlace(t, volume.PlaceOptions{Dir: dir})
}

func TestForeignWritesMakeAnOriginUnverified(t *testing.T) {
	dir := t.TempDir()
	p := openPlace(t, volume.PlaceOptions{Dir: dir})
	origin := originFile(t, fill(1, 1<<20))
	if err := p.Adopt(ctx, "db", origin, "", ""); err != nil {
		t.Fatal(err)
	}
	snapshot := func(p *volume.Place, name string) (cairn.Version, error) {
		got, err := p.Endpoint().Snapshots.Snapshot(ctx, name, []string{"db"}, false)
		if err != nil {
			t.Fatal(err)
		}
		return got[0].Version, got[0].Err
	}
	a, err := snapshot(p, "@a")
	if err != nil {
		t.Fatal(err)
	}
	p = reopen(t, p, dir)
	if _, err := snapshot(p, "@b"); err != nil {
		t.Fatalf("untouched origin: %v", err)
	}
	p = reopen(t, p, dir)
	f, err := os.OpenFile(origin, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(fill(9, 4096), 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := snapshot(p, "@c"); !errors.Is(err, cairn.KindUnverified) || cairn.HintOf(err) == "" {
		t.Fatalf("after a foreign write: %v", err)
	}
	v, err := p.Open(ctx, "db")
	if err != nil {
		t.Fatal(err)
	}
	if err := v.MarkDirty(ctx); err != nil {
		t.Fatal(err)
	}
	c, err := snapshot(p, "@c")
	if err != nil {
		t.Fatal(err)
	}
	if got := changed(t, v, a.VersionID, c.VersionID); len(got) != 256 {
		t.Errorf("%d blocks count as changed, want all", len(got))
	}
	p = reopen(t, p, dir)
	if err := os.Truncate(origin, 1<<19); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Open(ctx, "db"); !errors.Is(err, cairn.KindUnverified) {
		t.Errorf("shrunk origin: %v", err)
	}
	for l, err := range p.Endpoint().Lister.List(ctx, cairn.Query{Filter: cairn.All}) {
		if err != nil || l.Dataset.State != cairn.StateUnverified || l.Dataset.Why == "" {
			t.Errorf("listed as %+v, %v", l.Dataset, err)
		}
	}
}

// After an unclean stop nothing can disprove foreign writes to a file: that is
// said, and where continuity is strict it is not accepted.
func TestUncleanStopOfAnAdoptedFile(t *testing.T) {
	fsys, origin := newFS(t), originFile(t, fill(1, 1<<20))
	if err := volume.Create(ctx, fsys, volume.CreateOptions{Origin: origin}); err != nil {
		t.Fatal(err)
	}
	var last blockio.File
	killing := func(path string) (blockio.File, error) { // a killed process holds its files no more
		if last != nil {
			_ = last.Close()
		}
		f, err := blockio.OpenOS(path)
		last = f
		return f, err
	}
	v := open(t, fsys, volume.Options{OpenOrigin: killing})
	a := snap(t, v, "@a")
	write(t, v, 4096, fill(2, 4096))
	v = open(t, fsys, volume.Options{OpenOrigin: killing}) // without Close: the process was killed
	if c := v.Continuity(); !strings.Contains(c, "unclean") || !strings.Contains(c, "assum") {
		t.Errorf("continuity %q", c)
	}
	if got := changed(t, v, a.VersionID, cairn.VersionID{}); len(got) != 1 || !got[1] {
		t.Errorf("changed %v", got)
	}
	v = open(t, fsys, volume.Options{Strict: true, OpenOrigin: killing})
	if _, err := v.Snapshot(ctx, "@b"); !errors.Is(err, cairn.KindUnverified) {
		t.Errorf("strict: %v", err)
	}
	closeVolume(t, v)
}

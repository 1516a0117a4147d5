package catalog_test

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"cairn"
	"cairn/internal/mech/blockio"
	"cairn/internal/system/volume/catalog"
	"cairn/internal/testkit/fakedisk"
)

func newLog(t *testing.T) (blockio.FS, *catalog.Log) {
	t.Helper()
	fsys, err := blockio.OS(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	l, err := catalog.Create(fsys, catalog.State{Store: catalog.Store{ID: 7, Format: 1}, Head: catalog.Head{NextID: 1}})
	if err != nil {
		t.Fatal(err)
	}
	return fsys, l
}

func put(t *testing.T, l *catalog.Log, name string, order uint64) {
	t.Helper()
	err := l.Commit(catalog.Edit{Why: "test", Versions: []catalog.Version{{Name: name, GUID: 1, Order: order, Start: order}}})
	if err != nil {
		t.Fatal(err)
	}
}

func names(l *catalog.Log) string {
	s := ""
	for _, v := range l.State().Versions {
		s += v.Name
	}
	return s
}

func TestStateSurvivesReopenAndCompaction(t *testing.T) {
	fsys, l := newLog(t)
	put(t, l, "@b", 2)
	put(t, l, "@a", 1)
	put(t, l, "#b", 2)
	if err := l.Commit(catalog.Edit{GoneVersions: []string{"@a"}, Segments: []catalog.Segment{{ID: 3, Interval: 2}}}); err != nil {
		t.Fatal(err)
	}
	want := l.State()
	for _, compact := range []bool{false, true} {
		if compact {
			if err := l.Compact(); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		var err error
		if l, err = catalog.Open(fsys); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(l.State(), want) || names(l) != "#b@b" {
			t.Errorf("compacted %v: got %+v, want %+v", compact, l.State(), want)
		}
	}
}

// Each 4 KiB of the log's file, spoiled alone, costs nothing and is told; so do
// two of different pages of the log.
func TestOneBadBlockCostsNothing(t *testing.T) {
	fsys, l := newLog(t)
	for i := range 60 { // 30 KiB of log
		put(t, l, fmt.Sprintf("@v%02d", i), uint64(i+1))
	}
	f, err := fsys.Open(catalog.Name, true)
	if err != nil {
		t.Fatal(err)
	}
	want := names(l)
	pages := 2 * ((l.Length() + 4095) / 4096)
	for one := range pages {
		for _, other := range []int64{one, (one + 3) % pages} {
			restore := []func(){spoilPage(t, f, one)}
			if other/2 != one/2 {
				restore = append(restore, spoilPage(t, f, other))
			}
			again, err := catalog.Open(fsys)
			if err != nil || names(again) != want || !again.Worn() {
				t.Fatalf("blocks %d and %d: %v", one, other, err)
			}
			if err := again.Close(); err != nil {
				t.Fatal(err)
			}
			for _, undo := range restore {
				undo()
			}
		}
	}
}

// spoilPage fills a block of the file with noise; what it returns undoes that.
func spoilPage(t *testing.T, f blockio.File, page int64) func() {
	t.Helper()
	old, noise := make([]byte, 4096), bytes.Repeat([]byte{0xa5, 0x17, 0x31}, 1366)[:4096]
	if _, err := f.ReadAt(old, page*4096); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(noise, page*4096); err != nil {
		t.Fatal(err)
	}
	return func() {
		if _, err := f.WriteAt(old, page*4096); err != nil {
			t.Fatal(err)
		}
	}
}

// A log that was cut off behind a record is not taken for one that ends there.
func TestCutOffLogIsCorrupt(t *testing.T) {
	fsys, l := newLog(t)
	for i := range 600 {
		put(t, l, fmt.Sprintf("@v%03d", i), uint64(i+1))
	}
	f, err := fsys.Open(catalog.Name, true)
	if err != nil {
		t.Fatal(err)
	}
	for at := 2 * l.Length() / 4096 * 4096; at > 0; at -= 4096 {
		if err := f.Truncate(at); err != nil {
			t.Fatal(err)
		}
		if _, err := catalog.Open(fsys); !errors.Is(err, cairn.KindCorrupt) {
			t.Fatalf("cut off at %d of %d: %v", at, 2*l.Length(), err)
		}
	}
}

// A byte of the log spoiled in both copies is either a record lost at the very
// end or told as corruption; never a wrong state.
func TestEverySpoiledByteIsNoticed(t *testing.T) {
	fsys, l := newLog(t)
	put(t, l, "@a", 1)
	put(t, l, "@b", 2)
	last := l.Length()
	put(t, l, "@c", 3)
	if l.Length() > 4096 {
		t.Fatal("the log is meant to be of one page")
	}
	f, err := fsys.Open(catalog.Name, true)
	if err != nil {
		t.Fatal(err)
	}
	one := make([]byte, 1)
	for at := int64(0); at < l.Length(); at += 3 {
		if _, err := f.ReadAt(one, at); err != nil {
			t.Fatal(err)
		}
		if one[0] == 0 && at%512 > 300 {
			continue // padding is not covered, and says nothing
		}
		spoil(t, f, at, one[0]^0x40)
		spoil(t, f, at+4096, one[0]^0x40)
		again, err := catalog.Open(fsys)
		switch {
		case at < last && !errors.Is(err, cairn.KindCorrupt) && (err != nil || names(again) != "@a@b@c"):
			t.Fatalf("byte %d: error %v", at, err)
		case at >= last && (err != nil || names(again) != "@a@b" && names(again) != "@a@b@c"):
			t.Fatalf("byte %d of the last record: error %v", at, err)
		}
		if err == nil {
			_ = again.Close()
		}
		spoil(t, f, at, one[0])
		spoil(t, f, at+4096, one[0])
	}
}

func spoil(t *testing.T, f blockio.File, at int64, b byte) {
	t.Helper()
	if _, err := f.WriteAt([]byte{b}, at); err != nil {
		t.Fatal(err)
	}
}

func TestGarbage(t *testing.T) {
	for i, c := range []struct {
		versions       []catalog.Version
		segments, sets []uint64
	}{
		{nil, []uint64{1, 2}, []uint64{8, 9}},
		{[]catalog.Version{{Name: "@a", Start: 4}}, []uint64{1}, []uint64{8}},
		{[]catalog.Version{{Name: "#a", Start: 4}}, []uint64{1, 2}, []uint64{8}},
		{[]catalog.Version{{Name: "#a", Start: 3}, {Name: "@b", Start: 5}}, []uint64{1, 2}, nil},
	} {
		s := catalog.State{Head: catalog.Head{NextID: 20}, Versions: c.versions,
			Segments: []catalog.Segment{{ID: 1, Interval: 3}, {ID: 2, Interval: 4}},
			Sets:     []catalog.Set{{ID: 8, From: 3, To: 4}, {ID: 9, From: 4, To: 5}}}
		segments, sets := s.Garbage()
		if fmt.Sprint(segments, sets) != fmt.Sprint(c.segments, c.sets) {
			t.Errorf("%d: %v %v, want %v %v", i, segments, sets, c.segments, c.sets)
		}
	}
}

// A process that was killed left a record that is not on disk yet. Whoever opens
// the log next relies on it, so it is durable from then on, whatever the power does
// to the records behind it.
func TestRecordsOfAKilledProcessAreMadeDurable(t *testing.T) {
	disk := fakedisk.New()
	l, err := catalog.Create(disk, catalog.State{Store: catalog.Store{ID: 7, Format: 1}, Head: catalog.Head{NextID: 1}})
	if err != nil {
		t.Fatal(err)
	}
	put(t, l, "@a", 1)
	r := disk.Replay()
	r.Seek(disk.Len() - 1) // before the sync of the record
	disk = r.Kill()
	if l, err = catalog.Open(disk); err != nil {
		t.Fatal(err)
	}
	opened := disk.Len()
	put(t, l, "@b", 2)
	for r := disk.Replay(); ; {
		for what := fakedisk.Subset(0); r.Pos() >= opened && what < 40; what++ {
			l, err := catalog.Open(r.Crash(what))
			if err != nil || !strings.HasPrefix(names(l), "@a") {
				t.Fatalf("cut %d, outcome %d: %v", r.Pos(), what, err)
			}
		}
		if !r.Next() {
			return
		}
	}
}

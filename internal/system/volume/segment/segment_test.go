package segment_test

import (
	"bytes"
	"errors"
	"os"
	"slices"
	"testing"

	"cairn"
	"cairn/internal/mech/blockio"
	"cairn/internal/mech/extent"
	"cairn/internal/system/volume/segment"
)

var id = segment.Identity{Store: 5, Segment: 9, Incarnation: 2}

func blocks(fill byte, n int) []byte {
	p := make([]byte, n*cairn.BlockSize)
	for i := range p {
		p[i] = fill + byte(i/cairn.BlockSize)
	}
	return p
}

func create(t *testing.T, name string) blockio.File {
	t.Helper()
	fsys, err := blockio.OS(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	f, err := fsys.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func add(t *testing.T, s *segment.Segment, epoch uint64, recs ...segment.Record) {
	t.Helper()
	b, err := s.Append(1, epoch, recs)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	s.Publish(b)
}

func content(t *testing.T, s *segment.Segment, first, count uint64) []byte {
	t.Helper()
	out := make([]byte, count*cairn.BlockSize)
	for _, r := range find(t, s, first, count) {
		at := (r.First - first) * cairn.BlockSize
		if err := s.Read(r, out[at:at+r.Count*cairn.BlockSize]); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func find(t *testing.T, s *segment.Segment, first, count uint64) []segment.Run {
	t.Helper()
	runs, err := s.Find(first, count)
	if err != nil {
		t.Fatal(err)
	}
	return runs
}

func fill(t *testing.T, s *segment.Segment) []byte {
	t.Helper()
	add(t, s, 1, segment.Record{First: 10, Count: 3, Kind: segment.Data, Bytes: blocks(1, 3)})
	add(t, s, 1, segment.Record{First: 100, Count: 1 << 20, Kind: segment.Zero})
	var scattered []segment.Record
	for i := range 500 { // more than one header holds
		scattered = append(scattered, segment.Record{First: uint64(1<<21 + 2*i), Count: 1, Kind: segment.Data, Bytes: blocks(byte(i), 1)})
	}
	add(t, s, 2, scattered...)
	add(t, s, 2, segment.Record{First: 10, Count: 1500, Kind: segment.Data, Bytes: bytes.Repeat([]byte{99}, 1500*cairn.BlockSize)})
	return content(t, s, 10, 2000)
}

func TestFirstContentWinsAndSurvivesRecoveryAndSealing(t *testing.T) {
	f := create(t, "seg")
	s := segment.New(f, id)
	want := fill(t, s)
	if !bytes.Equal(want[:3*cairn.BlockSize], blocks(1, 3)) || want[3*cairn.BlockSize] != 99 || want[90*cairn.BlockSize] != 0 {
		t.Fatal("precedence is wrong")
	}
	r, err := segment.Recover(f, id, 0, false)
	if err != nil || r.Damaged || r.Segment.Length() != s.Length() || len(r.Marks) != 2 {
		t.Fatalf("%+v %v", r, err)
	}
	if !bytes.Equal(content(t, r.Segment, 10, 2000), want) {
		t.Error("recovered segment reads otherwise")
	}
	idx := create(t, "idx")
	if err := s.Seal(idx); err != nil {
		t.Fatal(err)
	}
	for _, x := range []blockio.File{idx, nil} {
		o, whole, err := segment.OpenSealed(f, x, id, s.Length(), s.Epoch())
		if err != nil || !whole {
			t.Fatal(err)
		}
		if !bytes.Equal(content(t, o, 10, 2000), want) || !bytes.Equal(content(t, o, 1<<21, 1000), content(t, s, 1<<21, 1000)) {
			t.Error("opened segment reads otherwise")
		}
	}
}

func TestWrongIdentityFindsNothing(t *testing.T) {
	f := create(t, "seg")
	fill(t, segment.New(f, id))
	for _, other := range []segment.Identity{{Store: 6, Segment: 9, Incarnation: 2}, {Store: 5, Segment: 8, Incarnation: 2}, {Store: 5, Segment: 9, Incarnation: 3}} {
		r, err := segment.Recover(f, other, 0, false)
		if err != nil {
			t.Fatal(err)
		}
		if all, _ := r.Segment.Blocks(); all != 0 {
			t.Errorf("%+v finds %d blocks", other, all)
		}
	}
}

// Spoil each part of a segment of three batches. One header of a batch costs
// nothing; both are damage below the length that a later header knew durable, and
// above it a torn tail.
func TestDamageIsToldFromATornTail(t *testing.T) {
	f := create(t, "seg")
	s := segment.New(f, id)
	var starts []int64
	for i := range 3 {
		starts = append(starts, s.Length())
		add(t, s, 1, segment.Record{First: uint64(10 * i), Count: 2, Kind: segment.Data, Bytes: blocks(byte(10*i), 2)})
	}
	const payload, footer = 4096, 3 * 4096
	for _, c := range []struct {
		batch   int
		at      []int64
		damaged bool
		blocks  uint64
		doubts  int
	}{
		{0, []int64{100}, false, 6, 0},
		{0, []int64{footer + 100}, false, 6, 0},
		{0, []int64{100, footer}, true, 4, 0},
		{1, []int64{100, footer + 4000}, true, 4, 0},
		{1, []int64{payload + 904}, false, 6, 0}, // below known: found when read
		{2, []int64{100}, false, 6, 0},
		{2, []int64{footer}, false, 6, 0},
		{2, []int64{100, footer}, false, 4, 0},      // nothing says that it counted
		{2, []int64{payload + 904}, false, 6, 1},    // its headers say what the origin held
		{2, []int64{7, payload + 904}, false, 6, 1}, // one is enough for that
	} {
		for _, at := range c.at {
			flip(t, f, starts[c.batch]+at)
		}
		r, err := segment.Recover(f, id, 0, false)
		if err != nil {
			t.Fatal(err)
		}
		all, _ := r.Segment.Blocks()
		if r.Damaged != c.damaged || all != c.blocks || len(r.Doubts) != c.doubts {
			t.Errorf("%+v: damaged %v with %d blocks and %d doubts", c, r.Damaged, all, len(r.Doubts))
		}
		for _, run := range find(t, r.Segment, uint64(10*c.batch), 2) {
			err := r.Segment.Read(run, make([]byte, 2*cairn.BlockSize))
			if bad := slices.Contains(c.at, payload+904); errors.Is(err, cairn.KindDamaged) != bad {
				t.Errorf("%+v: read says %v", c, err)
			}
		}
		for _, d := range r.Doubts {
			if d.Block != 20 || !d.Held(blocks(20, 1)) || d.Held(blocks(21, 1)) {
				t.Errorf("%+v: doubt %+v", c, d)
			}
		}
		both := len(c.at) == 2 && c.doubts == 0
		if r, err = segment.Recover(f, id, s.Length(), false); err != nil || r.Damaged != both {
			t.Errorf("%+v: with the length known, damaged %v (%v)", c, r.Damaged, err)
		}
		for _, at := range c.at {
			flip(t, f, starts[c.batch]+at)
		}
	}
}

// flip changes one bit, or changes it back.
func flip(t *testing.T, f blockio.File, at int64) {
	t.Helper()
	p := make([]byte, 1)
	if _, err := f.ReadAt(p, at); err != nil {
		t.Fatal(err)
	}
	poke(t, f, at, p[0]^1)
}

// A file that was longer than its batches all along and is not any more was cut off,
// wherever; one that was not long enough is never appended to.
func TestCutOffFileIsTold(t *testing.T) {
	f := create(t, "seg")
	s := segment.New(f, id)
	recs := []segment.Record{{First: 1, Count: 300, Kind: segment.Data, Bytes: blocks(1, 300)}, {First: 1000, Count: 7, Kind: segment.Zero}}
	if err := s.Extend(segment.Bytes(recs)); err != nil {
		t.Fatal(err)
	}
	if !s.Fits(recs) || s.Fits(append(recs, recs...)) {
		t.Error("what fits is told wrong")
	}
	add(t, s, 1, recs...)
	if s.Length() > segment.Bytes(recs) {
		t.Errorf("%d bytes, foretold %d", s.Length(), segment.Bytes(recs))
	}
	for size := s.Length() + 4096; size >= 0; size -= 4096 {
		if err := f.Truncate(size); err != nil {
			t.Fatal(err)
		}
		r, err := segment.Recover(f, id, 0, true)
		if cut := size <= s.Length(); err != nil || r.Damaged != cut {
			t.Fatalf("cut to %d of %d bytes: damaged %v, %v", size, s.Length(), r.Damaged, err)
		}
		if r, err = segment.Recover(f, id, 0, false); err != nil || r.Damaged {
			t.Fatalf("a file of an earlier build, of %d bytes: damaged %v, %v", size, r.Damaged, err)
		}
	}
}

// What earlier builds wrote, without footers, is read as it is.
func TestBatchesWithoutFooters(t *testing.T) {
	f := create(t, "seg")
	p, err := os.ReadFile("testdata/plain.seg")
	if err == nil {
		_, err = f.WriteAt(p, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	r, err := segment.Recover(f, id, int64(len(p)), false)
	if err != nil || r.Damaged || r.Segment.Length() != int64(len(p)) {
		t.Fatalf("%+v, %v", r, err)
	}
	if got := content(t, r.Segment, 10, 3); !bytes.Equal(got, blocks(1, 3)) {
		t.Error("it reads as something else")
	}
	if got := content(t, r.Segment, 20, 2); !bytes.Equal(got, blocks(7, 2)) {
		t.Error("its second batch reads as something else")
	}
}

func poke(t *testing.T, f blockio.File, at int64, b byte) {
	t.Helper()
	if _, err := f.WriteAt([]byte{b}, at); err != nil {
		t.Fatal(err)
	}
}

// A closed segment without its index and both headers of a batch is known to lack
// blocks; with the index, and with neither file, too.
func TestSealedSegmentWithoutItsParts(t *testing.T) {
	f, idx := create(t, "seg"), create(t, "idx")
	s := segment.New(f, id)
	fill(t, s)
	if err := s.Seal(idx); err != nil {
		t.Fatal(err)
	}
	want, _ := s.Blocks()
	poke(t, f, 50, 0xee)
	poke(t, f, 4*4096+50, 0xee)
	for _, c := range []struct {
		f, idx blockio.File
		whole  bool
	}{{f, idx, true}, {f, nil, false}, {nil, idx, true}, {nil, nil, false}} {
		o, whole, err := segment.OpenSealed(c.f, c.idx, id, s.Length(), s.Epoch())
		if err != nil || whole != c.whole {
			t.Fatalf("%+v: whole %v, %v", c, whole, err)
		}
		all, _ := o.Blocks()
		if whole && all != want {
			t.Errorf("%+v: %d of %d blocks", c, all, want)
		}
		for _, run := range find(t, o, 10, 3) {
			if err := o.Read(run, make([]byte, 3*cairn.BlockSize)); c.f == nil && !errors.Is(err, cairn.KindDamaged) {
				t.Errorf("without the file: %v", err)
			}
		}
	}
}

func TestCheckNamesTheBadBlock(t *testing.T) {
	f := create(t, "seg")
	s := segment.New(f, id)
	add(t, s, 1, segment.Record{First: 40, Count: 4, Kind: segment.Data, Bytes: blocks(1, 4)})
	poke(t, f, 4096+2*4096+17, 0xee)
	checked, bad, headless := s.Check()
	if checked != 3*4096 || headless || !bad.Has(42) || bad.Count() != 1 {
		t.Errorf("checked %d, bad %v, headless %v", checked, bad.Count(), headless)
	}
	set := &extent.Bitmap{}
	if err := s.Union(set); err != nil {
		t.Fatal(err)
	}
	if set.Count() != 4 {
		t.Errorf("union has %d", set.Count())
	}
}

// An index file that rots while it is open is noticed when it is looked at, and one
// that rotted before is not used.
func TestRottenIndexIsNotBelieved(t *testing.T) {
	f, idx := create(t, "seg"), create(t, "idx")
	s := segment.New(f, id)
	fill(t, s)
	if err := s.Seal(idx); err != nil {
		t.Fatal(err)
	}
	o, _, err := segment.OpenSealed(f, idx, id, s.Length(), s.Epoch())
	if err != nil {
		t.Fatal(err)
	}
	size, err := idx.Size()
	if err != nil {
		t.Fatal(err)
	}
	const last = 1<<21 + 2*499 // the last block preserved
	poke(t, idx, size-1, 0x77)
	if _, err := o.Find(last, 1); !errors.Is(err, cairn.KindDamaged) {
		t.Errorf("a rotten leaf says %v", err)
	}
	if runs := find(t, o, 10, 1); len(runs) != 1 {
		t.Error("a good leaf is not read")
	}
	if o, _, err = segment.OpenSealed(f, idx, id, s.Length(), s.Epoch()); err != nil {
		t.Fatal(err)
	}
	if runs := find(t, o, last, 1); len(runs) != 1 {
		t.Error("the segment was not read by its headers instead")
	}
}

package changes_test

import (
	"errors"
	"testing"

	"pgregory.net/rapid"

	"cairn"
	"cairn/internal/mech/blockio"
	"cairn/internal/mech/extent"
	"cairn/internal/system/volume/changes"
)

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

func runs(pairs ...uint64) *extent.Bitmap {
	b := &extent.Bitmap{}
	for i := 0; i < len(pairs); i += 2 {
		b.Set(pairs[i], pairs[i+1])
	}
	return b
}

func TestSetRoundTrip(t *testing.T) {
	f := create(t, "set")
	rapid.Check(t, func(rt *rapid.T) {
		want := &extent.Bitmap{}
		for range rapid.IntRange(0, 30).Draw(rt, "runs") {
			want.Set(rapid.Uint64Range(0, 1<<28).Draw(rt, "first"), rapid.Uint64Range(1, 5000).Draw(rt, "count"))
		}
		if err := f.Truncate(0); err != nil {
			rt.Fatal(err)
		}
		if err := changes.WriteSet(f, 3, 4, want); err != nil {
			rt.Fatal(err)
		}
		got := &extent.Bitmap{}
		if err := changes.ReadSet(f, 3, 4, got); err != nil {
			rt.Fatal(err)
		}
		n := got.Count()
		got.Subtract(want)
		if n != want.Count() || got.Count() != 0 {
			rt.Fatal("the set changed")
		}
		if err := changes.ReadSet(f, 3, 5, got); !errors.Is(err, cairn.KindDamaged) {
			rt.Fatalf("another set's file: %v", err)
		}
	})
}

func TestSpoiledSetIsDamaged(t *testing.T) {
	f := create(t, "set")
	if err := changes.WriteSet(f, 3, 4, runs(5, 7, 1000, 3)); err != nil {
		t.Fatal(err)
	}
	size, _ := f.Size()
	for at := int64(0); at < size; at++ {
		p := make([]byte, 1)
		if _, err := f.ReadAt(p, at); err != nil {
			t.Fatal(err)
		}
		poke(t, f, at, p[0]^8)
		if err := changes.ReadSet(f, 3, 4, &extent.Bitmap{}); !errors.Is(err, cairn.KindDamaged) {
			t.Fatalf("byte %d: %v", at, err)
		}
		poke(t, f, at, p[0])
	}
}

func poke(t *testing.T, f blockio.File, at int64, b byte) {
	t.Helper()
	if _, err := f.WriteAt([]byte{b}, at); err != nil {
		t.Fatal(err)
	}
}

func TestMarks(t *testing.T) {
	f := create(t, "marks")
	m := changes.NewMarks(f, 3, 8)
	many := &extent.Bitmap{}
	for i := range uint64(100) {
		many.Set(10000+3*i, 1)
	}
	for interval, set := range []*extent.Bitmap{runs(0, 256), many, runs(512, 256)} {
		if err := m.Append(uint64(interval), set); err != nil {
			t.Fatal(err)
		}
		if err := m.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	for from, want := range []uint64{256 + 100 + 256, 100 + 256, 256, 0} {
		got := &extent.Bitmap{}
		whole, err := changes.ReadMarks(f, 3, 8, uint64(from), got)
		if err != nil || !whole || got.Count() != want {
			t.Errorf("from %d: %d blocks, want %d; whole %v, %v", from, got.Count(), want, whole, err)
		}
	}
	const records = 6
	for at := int64(100); at < records*512; at += 512 {
		for copies, want := range []bool{true, at > (records-1)*512} { // the last of all may be torn
			poke(t, f, at+4096*int64(copies), 0x5a)
			got := &extent.Bitmap{}
			whole, err := changes.ReadMarks(f, 3, 8, 0, got)
			if err != nil || whole != want || copies == 0 && got.Count() != 256+100+256 {
				t.Errorf("byte %d spoiled in %d copies: whole %v, want %v, %d blocks (%v)", at, copies+1, whole, want, got.Count(), err)
			}
		}
		poke(t, f, at, 0)
		poke(t, f, at+4096, 0)
	}
	for _, size := range []int64{8192, 4096, 512, 0} {
		if err := f.Truncate(size); err != nil {
			t.Fatal(err)
		}
		if whole, err := changes.ReadMarks(f, 3, 8, 0, &extent.Bitmap{}); err != nil || whole {
			t.Errorf("cut off at %d: whole %v, %v", size, whole, err)
		}
	}
}

// A set that is written in many pieces is read back, and rot of a later piece is
// found before anything of it counts.
func TestLargeSetInPieces(t *testing.T) {
	want := &extent.Bitmap{}
	for i := range uint64(100_000) {
		want.Set(i*131, 1+i%3)
	}
	f := create(t, "set")
	if err := changes.WriteSet(f, 3, 4, want); err != nil {
		t.Fatal(err)
	}
	got := &extent.Bitmap{}
	if err := changes.ReadSet(f, 3, 4, got); err != nil {
		t.Fatal(err)
	}
	n := got.Count()
	if got.Subtract(want); n != want.Count() || got.Count() != 0 {
		t.Errorf("%d blocks of %d, %d others", n, want.Count(), got.Count())
	}
	size, _ := f.Size()
	p := make([]byte, 1)
	if _, err := f.ReadAt(p, size-10); err != nil {
		t.Fatal(err)
	}
	poke(t, f, size-10, p[0]^1)
	spoiled := &extent.Bitmap{}
	if err := changes.ReadSet(f, 3, 4, spoiled); !errors.Is(err, cairn.KindDamaged) || spoiled.Count() != 0 {
		t.Errorf("%v, %d blocks", err, spoiled.Count())
	}
}

package extent_test

import (
	"testing"

	"pgregory.net/rapid"

	"cairn/internal/mech/extent"
)

// The model is a plain map; space reaches over several pages.
func TestBitmapAgainstMap(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		const space = 3 * 32768
		b, model := &extent.Bitmap{}, map[uint64]bool{}
		for range rapid.IntRange(1, 12).Draw(rt, "ops") {
			first := rapid.Uint64Range(0, space-1).Draw(rt, "first")
			count := min(rapid.SampledFrom([]uint64{1, 3, 64, 100, 32768, 70000}).Draw(rt, "count"), space-first)
			if rapid.Bool().Draw(rt, "align") {
				first -= first % 32768
			}
			set := rapid.IntRange(0, 2).Draw(rt, "set") > 0
			if set {
				b.Set(first, count)
			} else {
				b.Clear(first, count)
			}
			for n := first; n < first+count; n++ {
				model[n] = set
			}
		}
		compare(rt, b, model, space)
		compare(rt, b.Clone(), model, space)
	})
}

func compare(rt *rapid.T, b *extent.Bitmap, model map[uint64]bool, space uint64) {
	var want, runs uint64
	for _, in := range model {
		if in {
			want++
		}
	}
	if b.Count() != want {
		rt.Fatalf("count %d, want %d", b.Count(), want)
	}
	next := uint64(0)
	for first, count := range b.All() {
		if first < next || first == next && next > 0 {
			rt.Fatalf("run at %d after one that ends at %d", first, next)
		}
		next = first + count
		for n := first; n < next; n++ {
			if !model[n] || !b.Has(n) {
				rt.Fatalf("%d is not in the set", n)
			}
		}
		runs += count
	}
	if runs != want {
		rt.Fatalf("runs hold %d, want %d", runs, want)
	}
	lo, n := space/5, space/2
	var in, out uint64
	for _, count := range b.Runs(lo, n) {
		in += count
	}
	for first, count := range b.Gaps(lo, n) {
		if model[first] || model[first+count-1] {
			rt.Fatalf("gap %d+%d holds set blocks", first, count)
		}
		out += count
	}
	if in+out != n {
		rt.Fatalf("runs %d and gaps %d of %d", in, out, n)
	}
}

func TestBitmapUnionSubtract(t *testing.T) {
	a, b := &extent.Bitmap{}, &extent.Bitmap{}
	a.Set(0, 40000)
	b.Set(39990, 100000)
	a.Union(b)
	if a.Count() != 139990 {
		t.Errorf("union has %d", a.Count())
	}
	a.Subtract(b)
	if a.Count() != 39990 || a.Has(39990) || !a.Has(39989) {
		t.Errorf("difference has %d", a.Count())
	}
}

// A terabyte: a handful of far bits and a full set cost next to nothing.
func TestBitmapOfATerabyteIsSparse(t *testing.T) {
	const blocks = 1 << 28
	per := testing.AllocsPerRun(1, func() {
		b := &extent.Bitmap{}
		b.Set(0, blocks)
		if b.Count() != blocks {
			t.Fatal("not full")
		}
		c := &extent.Bitmap{}
		c.Set(blocks-1, 1)
		if first, n, ok := c.Next(0, blocks); !ok || first != blocks-1 || n != 1 {
			t.Fatal("far bit not found")
		}
	})
	if per > 400 {
		t.Errorf("%v allocations", per)
	}
}

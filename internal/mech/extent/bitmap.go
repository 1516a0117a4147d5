// Package extent holds sets of numbers that come in runs: the blocks of a volume
// that changed, or are preserved. A Bitmap costs memory only where it has both
// set and clear bits, so that the set of a terabyte volume's blocks opens in no
// time and holds 4 KiB per touched 128 MiB.
//
// It promises exact set arithmetic and nothing else: no locking, no I/O. Numbers
// are block numbers; counts are in blocks.
package extent

import (
	"iter"
	"math/bits"
	"slices"
)

const (
	pageBits  = 32768
	pageWords = pageBits / 64
)

type page [pageWords]uint64

// fullPage stands for every page whose bits are all set; it is never written.
var fullPage = func() *page {
	p := new(page)
	for i := range p {
		p[i] = ^uint64(0)
	}
	return p
}()

// Bitmap is a set of block numbers. The zero value is the empty set.
type Bitmap struct {
	pages map[uint64]*page // by number / pageBits; a missing page is all clear
	count uint64
}

// Count is the number of blocks in the set.
func (b *Bitmap) Count() uint64 { return b.count }

// Has reports whether the block is in the set.
func (b *Bitmap) Has(n uint64) bool {
	p := b.pages[n/pageBits]
	return p != nil && p[n%pageBits/64]&(1<<(n%64)) != 0
}

// Set adds count blocks from first on.
func (b *Bitmap) Set(first, count uint64) {
	if b.pages == nil {
		b.pages = map[uint64]*page{}
	}
	for count > 0 {
		no, at := first/pageBits, first%pageBits
		n := min(count, pageBits-at)
		b.setInPage(no, at, n)
		first, count = first+n, count-n
	}
}

func (b *Bitmap) setInPage(no, at, n uint64) {
	p := b.pages[no]
	if p == fullPage {
		return
	}
	if n == pageBits {
		b.count += pageBits - p.ones()
		b.pages[no] = fullPage
		return
	}
	if p == nil {
		p = new(page)
		b.pages[no] = p
	}
	for w, mask := range words(at, n) {
		b.count += uint64(bits.OnesCount64(mask &^ p[w]))
		p[w] |= mask
	}
}

// Clear removes count blocks from first on.
func (b *Bitmap) Clear(first, count uint64) {
	for count > 0 {
		no, at := first/pageBits, first%pageBits
		n := min(count, pageBits-at)
		b.clearInPage(no, at, n)
		first, count = first+n, count-n
	}
}

func (b *Bitmap) clearInPage(no, at, n uint64) {
	p := b.pages[no]
	if p == nil {
		return
	}
	if n == pageBits {
		b.count -= p.ones()
		delete(b.pages, no)
		return
	}
	if p == fullPage {
		full := *fullPage
		p = &full
		b.pages[no] = p
	}
	for w, mask := range words(at, n) {
		b.count -= uint64(bits.OnesCount64(mask & p[w]))
		p[w] &^= mask
	}
}

func (p *page) ones() uint64 {
	if p == nil {
		return 0
	}
	n := 0
	for _, w := range p {
		n += bits.OnesCount64(w)
	}
	return uint64(n)
}

// words yields the word numbers that [at, at+n) touches, each with its mask.
func words(at, n uint64) iter.Seq2[uint64, uint64] {
	return func(yield func(uint64, uint64) bool) {
		for n > 0 {
			bit := at % 64
			k := min(n, 64-bit)
			mask := ^uint64(0) >> (64 - k) << bit
			if !yield(at/64, mask) {
				return
			}
			at, n = at+k, n-k
		}
	}
}

// Next finds the first run of set blocks at or after from, cut off before limit.
func (b *Bitmap) Next(from, limit uint64) (first, count uint64, ok bool) {
	first = b.seek(from, limit, true)
	if first >= limit {
		return 0, 0, false
	}
	return first, b.seek(first, limit, false) - first, true
}

// seek finds the first block in [from, limit) whose membership is want, else
// limit.
func (b *Bitmap) seek(from, limit uint64, want bool) uint64 {
	for from < limit {
		p := b.pages[from/pageBits]
		if p == nil && !want || p == fullPage && want {
			return from
		}
		if p == nil || p == fullPage {
			from = b.skip(from, limit, want)
			continue
		}
		w := p[from%pageBits/64]
		if !want {
			w = ^w
		}
		if w >>= from % 64; w != 0 {
			return min(from+uint64(bits.TrailingZeros64(w)), limit)
		}
		from += 64 - from%64
	}
	return limit
}

// skip moves past the missing or full page at from. Over missing pages of a
// small set it jumps straight to the next page there is.
func (b *Bitmap) skip(from, limit uint64, want bool) uint64 {
	next := (from/pageBits + 1) * pageBits
	if !want || b.pages[next/pageBits] != nil || next >= limit {
		return next
	}
	if (limit-next)/pageBits <= uint64(len(b.pages)) {
		return next
	}
	best := limit
	for no := range b.pages {
		if start := no * pageBits; start >= next && start < best {
			best = start
		}
	}
	return best
}

// Runs yields the runs of set blocks within count blocks from first on,
// ascending, as first block and count.
func (b *Bitmap) Runs(first, count uint64) iter.Seq2[uint64, uint64] {
	return func(yield func(uint64, uint64) bool) {
		for at, limit := first, first+count; at < limit; {
			f, n, ok := b.Next(at, limit)
			if !ok || !yield(f, n) {
				return
			}
			at = f + n
		}
	}
}

// Gaps yields the runs of clear blocks within count blocks from first on.
func (b *Bitmap) Gaps(first, count uint64) iter.Seq2[uint64, uint64] {
	return func(yield func(uint64, uint64) bool) {
		limit := first + count
		for at := b.seek(first, limit, false); at < limit; {
			end := b.seek(at, limit, true)
			if !yield(at, end-at) {
				return
			}
			at = b.seek(end, limit, false)
		}
	}
}

// All yields every run of the set, ascending.
func (b *Bitmap) All() iter.Seq2[uint64, uint64] {
	return func(yield func(uint64, uint64) bool) {
		nos := make([]uint64, 0, len(b.pages))
		for no := range b.pages {
			nos = append(nos, no)
		}
		slices.Sort(nos)
		var first, count uint64
		for _, no := range nos {
			for f, n := range b.Runs(no*pageBits, pageBits) {
				if first+count == f && count > 0 {
					count += n
					continue
				}
				if count > 0 && !yield(first, count) {
					return
				}
				first, count = f, n
			}
		}
		if count > 0 {
			yield(first, count)
		}
	}
}

// Union adds every block of o.
func (b *Bitmap) Union(o *Bitmap) {
	for first, count := range o.All() {
		b.Set(first, count)
	}
}

// Subtract removes every block of o.
func (b *Bitmap) Subtract(o *Bitmap) {
	for first, count := range o.All() {
		b.Clear(first, count)
	}
}

// Clone is an independent copy.
func (b *Bitmap) Clone() *Bitmap {
	c := &Bitmap{pages: make(map[uint64]*page, len(b.pages)), count: b.count}
	for no, p := range b.pages {
		if p != fullPage {
			dup := *p
			p = &dup
		}
		c.pages[no] = p
	}
	return c
}

// Package extent holds sets of numbers that come in runs: the blocks of a volume
// that changed, or are preserved. A Bitmap costs memory only where it has both
// set and clear bits, so that the set of a terabyte volume's blocks opens in no
// time and holds at most 4 KiB per touched 128 MiB, two bytes per block where they
// are few.
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
	fewMost   = 384 // set bits that a page lists one by one
)

// page is the bits of one stretch of numbers: words, or while that is nil, few.
type page struct {
	words *[pageWords]uint64
	few   []uint16 // the set bits, ascending
}

// fullPage stands for every page whose bits are all set; it is never written.
var fullPage = func() *page {
	p := &page{words: new([pageWords]uint64)}
	for i := range p.words {
		p.words[i] = ^uint64(0)
	}
	return p
}()

func (p *page) has(at uint64) bool {
	if p.words != nil {
		return p.words[at/64]&(1<<(at%64)) != 0
	}
	_, found := slices.BinarySearch(p.few, uint16(at))
	return found
}

// add sets bits of a page that is not full, and tells how many were clear.
func (p *page) add(at, n uint64) (fresh uint64) {
	if p.words == nil && uint64(len(p.few))+n > fewMost {
		p.widen()
	}
	if p.words == nil {
		for b := uint16(at); n > 0; b, n = b+1, n-1 {
			if i, set := slices.BinarySearch(p.few, b); !set {
				p.few = slices.Insert(p.few, i, b)
				fresh++
			}
		}
		return fresh
	}
	for w, mask := range words(at, n) {
		fresh += uint64(bits.OnesCount64(mask &^ p.words[w]))
		p.words[w] |= mask
	}
	return fresh
}

// widen turns the list into words.
func (p *page) widen() {
	p.words = new([pageWords]uint64)
	for _, at := range p.few {
		p.words[at/64] |= 1 << (at % 64)
	}
	p.few = nil
}

// remove clears bits of a page that is not full, and tells how many were set.
func (p *page) remove(at, n uint64) (gone uint64) {
	if p.words == nil {
		from, _ := slices.BinarySearch(p.few, uint16(at))
		to := from
		for to < len(p.few) && uint64(p.few[to]) < at+n {
			to++
		}
		p.few = slices.Delete(p.few, from, to)
		return uint64(to - from)
	}
	for w, mask := range words(at, n) {
		gone += uint64(bits.OnesCount64(mask & p.words[w]))
		p.words[w] &^= mask
	}
	return gone
}

// seek finds the first bit from at on whose state is want, or at least gets on;
// found says which.
func (p *page) seek(at uint64, want bool) (next uint64, found bool) {
	if p.words == nil {
		return p.seekFew(at, want)
	}
	w := p.words[at/64]
	if !want {
		w = ^w
	}
	if w >>= at % 64; w != 0 {
		return at + uint64(bits.TrailingZeros64(w)), true
	}
	return at + 64 - at%64, false
}

func (p *page) seekFew(at uint64, want bool) (next uint64, found bool) {
	i, set := slices.BinarySearch(p.few, uint16(at))
	switch {
	case want && i == len(p.few):
		return pageBits, false
	case want:
		return uint64(p.few[i]), true
	case !set:
		return at, true
	}
	return at + 1, false
}

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
	return p != nil && p.has(n%pageBits)
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
	b.count += p.add(at, n)
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
		p = p.clone()
		b.pages[no] = p
	}
	b.count -= p.remove(at, n)
}

func (p *page) clone() *page {
	if p.words == nil {
		return &page{few: slices.Clone(p.few)}
	}
	w := *p.words
	return &page{words: &w}
}

func (p *page) ones() uint64 {
	if p == nil {
		return 0
	}
	if p.words == nil {
		return uint64(len(p.few))
	}
	n := 0
	for _, w := range p.words {
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
		base := from - from%pageBits
		next, found := p.seek(from%pageBits, want)
		if from = base + next; found {
			break
		}
	}
	return min(from, limit)
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
			p = p.clone()
		}
		c.pages[no] = p
	}
	return c
}

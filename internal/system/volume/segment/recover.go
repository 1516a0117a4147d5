package segment

import (
	"cairn/internal/mech/blockio"
	"cairn/internal/mech/extent"
)

// Recovered is what Recover found.
type Recovered struct {
	Segment *Segment
	Marks   []Mark // which blocks the batches preserved, and when
	Damaged bool   // a header below the known length is unreadable: blocks are missing
	Torn    int64  // bytes at the end that never counted
}

// Mark is the batches of one epoch as evidence of writes.
type Mark struct {
	Interval, Epoch uint64
	Blocks          *extent.Bitmap
}

// Recover rebuilds a segment from its batch headers. Bytes below known, or below
// what any later header says was known, are not read; the content of what lies
// above is checked, and ends at the first batch that is not whole.
func Recover(f blockio.File, id Identity, known int64) (Recovered, error) {
	size, err := f.Size()
	if err != nil {
		return Recovered{}, err
	}
	return recoverTo(f, id, known, size)
}

// recoverTo is Recover of the first size bytes.
func recoverTo(f blockio.File, id Identity, known, size int64) (Recovered, error) {
	r := Recovered{Segment: New(f, id)}
	heads, bad := walk(f, id, size)
	for _, h := range heads {
		known = max(known, h.known)
	}
	end := int64(0)
	for i := range heads {
		h := &heads[i]
		gap := h.offset > end
		if gap && end >= known || h.offset >= known && !intact(f, id, h) {
			break
		}
		r.Damaged = r.Damaged || gap
		end = h.offset + h.length()
		r.take(h)
	}
	if end < known {
		r.Damaged = true
		end = known
	}
	r.Damaged = r.Damaged || bad < known
	r.Torn = max(size-end, 0)
	r.Segment.end, r.Segment.known = end, end
	return r, nil
}

func (r *Recovered) take(h *header) {
	r.Segment.index.add(h)
	r.Segment.epoch = max(r.Segment.epoch, h.epoch)
	last := len(r.Marks) - 1
	if last < 0 || r.Marks[last].Interval != h.interval || r.Marks[last].Epoch != h.epoch {
		r.Marks = append(r.Marks, Mark{Interval: h.interval, Epoch: h.epoch, Blocks: &extent.Bitmap{}})
		last++
	}
	for _, e := range h.entries {
		r.Marks[last].Blocks.Set(e.first, e.count)
	}
}

// walk reads the headers from the start, each telling where the next one is.
// Behind a bad one it looks at every block for the next good one. bad is the
// offset of the first bad header, or the file's end when that is before size; size
// when there is none.
func walk(f blockio.File, id Identity, size int64) (heads []header, bad int64) {
	p := make([]byte, headerSize)
	if have, err := f.Size(); err == nil {
		size = min(size, have)
	}
	bad = size
	for at := int64(0); at+headerSize <= size; {
		if _, err := f.ReadAt(p, at); err != nil {
			clear(p) // unreadable counts as bad
		}
		h, ok := decode(id, at, p)
		if !ok {
			bad = min(bad, at)
			at += blockSize
			continue
		}
		heads = append(heads, h)
		at += h.length()
	}
	return heads, bad
}

// intact reads the batch's payload and compares the checksums.
func intact(f blockio.File, id Identity, h *header) bool {
	p := make([]byte, blockSize)
	at := h.offset + headerSize
	for _, e := range h.entries {
		for _, want := range e.crcs {
			if _, err := f.ReadAt(p, at); err != nil || id.blockSum(at, p) != want {
				return false
			}
			at += blockSize
		}
	}
	return true
}

// Check reads every batch and every block below the known length. It returns the
// bytes that matched and the blocks that did not; headless is set when a
// header itself is bad, so that the list of blocks is not complete.
func (s *Segment) Check() (checked int64, bad *extent.Bitmap, headless bool) {
	heads, firstBad := walk(s.file, s.id, s.known)
	bad = &extent.Bitmap{}
	p := make([]byte, blockSize)
	for i := range heads {
		at := heads[i].offset + headerSize
		for _, e := range heads[i].entries {
			for k, want := range e.crcs {
				if _, err := s.file.ReadAt(p, at); err != nil || s.id.blockSum(at, p) != want {
					bad.Set(e.first+uint64(k), 1)
				} else {
					checked += blockSize
				}
				at += blockSize
			}
			if e.kind == Lost {
				bad.Set(e.first, e.count)
			}
		}
	}
	return checked, bad, firstBad < s.known
}

package segment

import (
	"cmp"
	"slices"

	"cairn/internal/mech/blockio"
	"cairn/internal/mech/extent"
)

// Recovered is what Recover found.
type Recovered struct {
	Segment *Segment
	Marks   []Mark // which blocks the batches preserved, and when
	Doubts  []Doubt
	Damaged bool // a batch below the known length is unreadable, or the file was cut off: blocks are missing
}

// Doubt is a block of a batch that was perhaps never durable, whose content is not
// whole. When the origin still holds what the checksum says, nothing is lost: the
// origin is overwritten only after the batch is durable.
type Doubt struct {
	Block uint64
	at    int64
	sum   uint32
	id    Identity
}

// Held reports whether p, one block, is the content that was to be preserved.
func (d Doubt) Held(p []byte) bool { return d.id.blockSum(d.at, p) == d.sum }

// Mark is the batches of one epoch as evidence of writes.
type Mark struct {
	Interval, Epoch uint64
	Blocks          *extent.Bitmap
}

// Recover rebuilds a segment from its batch headers, each of which stands twice.
// Bytes below known, or below what any later header says was known, are not read;
// the content of what lies above is checked. There the first batch of which neither
// header is good ends the segment, and blocks that are not whole are told as
// doubts; reading them fails. extended says that the file was longer than its
// batches all along (Extend): one that is not was cut off.
func Recover(f blockio.File, id Identity, known int64, extended bool) (Recovered, error) {
	size, err := f.Size()
	if err != nil {
		return Recovered{}, err
	}
	r, err := recoverTo(f, id, known, size)
	r.Damaged = r.Damaged || extended && size < r.Segment.end+blockSize
	return r, err
}

// recoverTo is Recover of the first size bytes.
func recoverTo(f blockio.File, id Identity, known, size int64) (Recovered, error) {
	r := Recovered{Segment: New(f, id)}
	heads := walk(f, id, size)
	for _, h := range heads {
		known = max(known, h.known)
	}
	end := int64(0)
	for i := range heads {
		h := &heads[i]
		gap := h.offset > end
		if gap && end >= known {
			break
		}
		if h.offset >= known {
			r.doubt(f, id, h)
		}
		r.Damaged = r.Damaged || gap
		end = h.end()
		r.take(h)
	}
	if end < known {
		r.Damaged = true
		end = known
	}
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
// Behind a bad one it looks at every block for the footer that repeats it, or the
// next good header.
func walk(f blockio.File, id Identity, size int64) (heads []header) {
	p := make([]byte, headerSize)
	if have, err := f.Size(); err == nil {
		size = min(size, have)
	}
	end := int64(0) // of the last good batch
	for at := int64(0); at+headerSize <= size; {
		if _, err := f.ReadAt(p, at); err != nil {
			clear(p) // unreadable counts as bad
		}
		h, ok := decode(id, at, p)
		if !ok || h.offset < end {
			at = nextData(f, at+blockSize)
			continue
		}
		heads = append(heads, h)
		end = h.end()
		at = end
	}
	return heads
}

// nextData is the first block from off on that is not a hole, as far as the file
// system tells.
func nextData(f blockio.File, off int64) int64 {
	start, _, err := f.Data(off)
	if err != nil {
		return off
	}
	return max(off, start/blockSize*blockSize)
}

// gaps tells whether a batch of the first known bytes has no good header.
func gaps(heads []header, known int64) bool {
	end := int64(0)
	for i := range heads {
		if heads[i].offset > end {
			break
		}
		end = heads[i].end()
	}
	return end < known
}

// doubt checks the payload of a batch that was perhaps never durable.
func (r *Recovered) doubt(f blockio.File, id Identity, h *header) {
	p := make([]byte, blockSize)
	at := h.offset + headerSize
	for _, e := range h.entries {
		for k, want := range e.crcs {
			if _, err := f.ReadAt(p, at); err != nil || id.blockSum(at, p) != want {
				r.Doubts = append(r.Doubts, Doubt{Block: e.first + uint64(k), at: at, sum: want, id: id})
			}
			at += blockSize
		}
	}
}

// Check reads every block that the index has, and every header. It returns the
// bytes that matched and the blocks that cannot be read, lost ones included;
// headless is set when a header is bad in both places: then the index is all that
// tells which blocks there are; or when the index rotted since it was opened.
func (s *Segment) Check() (checked int64, bad *extent.Bitmap, headless bool) {
	s.mu.RLock()
	known := s.known
	s.mu.RUnlock()
	headless = gaps(walk(s.file, s.id, known), known)
	all, bad, err := s.list()
	if err != nil {
		return 0, bad, true
	}
	slices.SortFunc(all, func(a, b placed) int { return cmp.Compare(a.at, b.at) })
	p := make([]byte, min(len(all), checkBlocks)*blockSize)
	for len(all) > 0 {
		n := 1
		for n < min(len(all), checkBlocks) && all[n].at == all[n-1].at+1 {
			n++
		}
		checked += s.checkRun(all[:n], p[:n*blockSize], bad)
		all = all[n:]
	}
	return checked, bad, headless
}

// list gives the data blocks of the index and the lost ones.
func (s *Segment) list() (data []placed, lost *extent.Bitmap, err error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	lost = &extent.Bitmap{}
	if s.sealed != nil {
		err = s.sealed.each(0, s.sealed.end, func(e indexed) bool {
			switch e.kind {
			case Data:
				data = append(data, placed{e.first, e.slot})
			case Lost:
				lost.Set(e.first, e.count)
			}
			return true
		})
		return data, lost, err
	}
	lost.Union(&s.index.lost)
	for n, slot := range s.index.slots {
		data = append(data, placed{n, slot})
	}
	return data, lost, nil
}

// checkBlocks is how many blocks Check reads at a time.
const checkBlocks = 256

// placed is a block and where it lies.
type placed struct {
	block uint64
	slot
}

// checkRun checks neighbours in the file. What cannot be read at once is read
// block by block.
func (s *Segment) checkRun(run []placed, p []byte, bad *extent.Bitmap) (checked int64) {
	off := int64(run[0].at) * blockSize
	_, err := s.file.ReadAt(p, off)
	for i, x := range run {
		block, at := p[i*blockSize:(i+1)*blockSize], off+int64(i)*blockSize
		one := err
		if err != nil {
			_, one = s.file.ReadAt(block, at)
		}
		if one != nil || s.id.blockSum(at, block) != x.sum {
			bad.Set(x.block, 1)
			continue
		}
		checked += blockSize
	}
	return checked
}

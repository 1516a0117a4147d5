// Package segment keeps preserved blocks: append-only files of batches, each a
// 4 KiB header with the list of its blocks and a checksum per block, followed by
// their content and by the header once more. The layout is in docs/formats/volume.md.
//
// It promises that a block is found, once Publish was called, with the content it
// was appended with, or that reading it fails with KindDamaged: every checksum
// covers store, segment, incarnation and offset. Rot of any one header costs nothing.
// Recover tells a torn tail (bytes that nothing ever stood on) from damage below the
// length known durable, and from a file that was cut off.
//
// Append, Sync and Publish are called by one goroutine at a time; reads go on
// beside them. A sync that failed is final: the caller writes the batch anew into
// another segment.
package segment

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"sync"

	"cairn"
	"cairn/internal/mech/blockio"
	"cairn/internal/mech/extent"
)

// Segment is an open segment file.
type Segment struct {
	id   Identity
	file blockio.File

	end   int64  // where the next batch goes
	room  int64  // bytes of batches for which the file is long enough, durably
	known int64  // bytes known durable; written under mu
	epoch uint64 // highest of the batches
	buf   []byte // of the last batch, to be used again

	mu     sync.RWMutex // guards what follows: one of the two is there
	index  *index
	sealed *sealedIndex // of a closed segment, whose index is in a file
}

// New is the segment of an empty file.
func New(f blockio.File, id Identity) *Segment {
	return &Segment{id: id, file: f, index: newIndex()}
}

// ID is the segment's number.
func (s *Segment) ID() uint64 { return s.id.Segment }

// Length is the file's size in bytes, with all that was appended.
func (s *Segment) Length() int64 { return s.end }

// CutBack forgets what was appended since the last good sync: after a failed one
// that is in doubt for good, though reads may still show it. The next batch is
// written over it.
func (s *Segment) CutBack() { s.end = s.known }

// Epoch is the highest epoch of its batches.
func (s *Segment) Epoch() uint64 { return s.epoch }

// maxBuffer bounds what is kept between batches.
const maxBuffer = 2 << 20

// Batch is what Append wrote and Publish makes visible.
type Batch struct{ heads []header }

// Append writes the records behind the last batch. They count only after Sync,
// and are found only after Publish. After an error the same place is written
// again by the next call.
func (s *Segment) Append(interval, epoch uint64, recs []Record) (Batch, error) {
	buf, heads := pack(s.id, s.end, s.known, interval, epoch, recs, s.buf)
	if len(buf) <= maxBuffer {
		s.buf = buf
	}
	if _, err := s.file.WriteAt(buf, s.end); err != nil {
		return Batch{}, err
	}
	s.end += int64(len(buf))
	s.epoch = max(s.epoch, epoch)
	return Batch{heads: heads}, nil
}

// Extend makes the file of a new segment so long that batches of that many bytes
// leave a block free behind them, durably. That takes no room, and a file that is
// found shorter was cut off: callers append only what Fits.
func (s *Segment) Extend(bytes int64) error {
	if err := s.file.Truncate(bytes + blockSize); err != nil {
		return err
	}
	if err := s.file.Sync(); err != nil {
		return err
	}
	s.room = bytes
	return nil
}

// Fits tells whether the records can be appended to a segment that was extended.
func (s *Segment) Fits(recs []Record) bool { return s.end+Bytes(recs) <= s.room }

// Bytes is how much of a segment the records take at most.
func Bytes(recs []Record) int64 {
	data, listed := int64(0), int64(0)
	for _, r := range recs {
		listed += entrySize
		if r.Kind == Data {
			data += int64(r.Count)
			listed += 4 * int64(r.Count)
		}
	}
	const unused = entrySize + entrySize + 4 // at most: a record cut in two, and the end of a header
	batches := 1 + listed/(headerSize-fixedSize-unused)
	return (data + 2*batches) * blockSize
}

// Trim cuts the file to its batches, when it takes no more of them and is on record
// with that length.
func (s *Segment) Trim() error { return s.file.Truncate(s.end) }

// Sync makes everything appended durable.
func (s *Segment) Sync() error {
	if err := s.file.Sync(); err != nil {
		return err
	}
	s.mu.Lock() // Check may look
	defer s.mu.Unlock()
	s.known = s.end
	return nil
}

// Publish lets readers find the batch.
func (s *Segment) Publish(b Batch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range b.heads {
		s.index.add(&b.heads[i])
	}
}

// Union adds the segment's blocks to the set.
func (s *Segment) Union(set *extent.Bitmap) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.sealed != nil {
		return s.sealed.union(set)
	}
	set.Union(&s.index.has)
	return nil
}

// Blocks tells how many preserved blocks it holds, and how many of them are lost.
func (s *Segment) Blocks() (all, lost uint64) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.sealed != nil {
		return s.sealed.all, s.sealed.lost
	}
	return s.index.has.Count(), s.index.lost.Count()
}

// Forget takes a block out of the segment: its origin still holds what was to be
// preserved.
func (s *Segment) Forget(block uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.index.has.Clear(block, 1)
	delete(s.index.slots, block)
}

// Run is a run of preserved blocks of one kind.
type Run struct {
	First, Count uint64
	Kind         Kind
	slots        []slot
}

// Find lists the runs within count blocks from first on, ascending. It fails only
// where the index of a closed segment cannot be read.
func (s *Segment) Find(first, count uint64) ([]Run, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.sealed != nil {
		return s.sealed.find(first, count)
	}
	var runs []Run
	for f, n := range s.index.has.Runs(first, count) {
		runs = s.index.split(runs, f, n)
	}
	return runs, nil
}

// split appends the present run [first, first+count) cut by kind.
func (x *index) split(runs []Run, first, count uint64) []Run {
	for limit := first + count; first < limit; {
		r := Run{First: first, Kind: Data}
		switch {
		case x.zero.Has(first):
			_, r.Count, _ = x.zero.Next(first, limit)
			r.Kind = Zero
		case x.lost.Has(first):
			_, r.Count, _ = x.lost.Next(first, limit)
			r.Kind = Lost
		default:
			for n := first; n < limit; n++ {
				s, ok := x.slots[n]
				if !ok {
					break
				}
				r.slots = append(r.slots, s)
			}
			r.Count = uint64(len(r.slots))
		}
		runs = append(runs, r)
		first += r.Count
	}
	return runs
}

// Read fills p, whole blocks, with the run's content and checks every checksum.
func (s *Segment) Read(r Run, p []byte) error {
	switch r.Kind {
	case Zero:
		clear(p)
		return nil
	case Lost:
		return &cairn.Error{Op: "read preserved block", Kind: cairn.KindDamaged, Err: errors.New("it is lost"), Hint: "heal it from a replica: cairn volume verify --against … --heal"}
	}
	for i := 0; i < len(r.slots); {
		n := 1
		for i+n < len(r.slots) && r.slots[i+n].at == r.slots[i].at+uint32(n) {
			n++
		}
		if err := s.readSlots(r.slots[i:i+n], p[i*blockSize:(i+n)*blockSize]); err != nil {
			return err
		}
		i += n
	}
	return nil
}

func (s *Segment) readSlots(slots []slot, p []byte) error {
	off := int64(slots[0].at) * blockSize
	if _, err := s.file.ReadAt(p, off); err != nil {
		return damaged(s.id, off, err)
	}
	for i, want := range slots {
		at := off + int64(i)*blockSize
		if s.id.blockSum(at, p[i*blockSize:(i+1)*blockSize]) != want.sum {
			return damaged(s.id, at, errors.New("checksum mismatch"))
		}
	}
	return nil
}

func damaged(id Identity, off int64, err error) error {
	return &cairn.Error{Op: "read preserved block", Subject: fmt.Sprintf("segment %d at byte %d", id.Segment, off),
		Kind: cairn.KindDamaged, Err: err, Hint: "heal it from a replica: cairn volume verify --against … --heal"}
}

// Seal writes the segment's index into f, which is empty, and syncs it.
func (s *Segment) Seal(f blockio.File) error {
	s.buf = nil
	s.mu.RLock()
	p := s.index.encode(s.id, s.known, s.epoch)
	s.mu.RUnlock()
	if _, err := f.WriteAt(p, 0); err != nil {
		return err
	}
	return f.Sync()
}

// OpenSealed opens a closed segment by its index file, which it keeps, and closes
// with the segment. When that is not whole the segment is recovered from its
// headers instead; whole is false when some of those are unreadable too, so that
// blocks are missing. Either file may be nil: it is gone.
func OpenSealed(f, idx blockio.File, id Identity, length int64, epoch uint64) (s *Segment, whole bool, err error) {
	if f == nil {
		f = nothing{}
	}
	if idx != nil {
		x, err := openIndex(idx, id, length)
		if err != nil {
			return nil, false, errors.Join(err, idx.Close())
		}
		if x != nil {
			return &Segment{id: id, file: f, end: length, known: length, epoch: epoch, sealed: x}, true, nil
		}
		if err := idx.Close(); err != nil {
			return nil, false, err
		}
	}
	r, err := recoverTo(f, id, length, length)
	return r.Segment, !r.Damaged, err
}

// nothing stands for the file of a segment that is gone.
type nothing struct{ blockio.File }

func (nothing) ReadAt([]byte, int64) (int, error) { return 0, fs.ErrNotExist }
func (nothing) Size() (int64, error)              { return 0, nil }
func (nothing) Close() error                      { return nil }

// Matches tells whether p, one block, is what the segment was given for the block;
// known is false when it has no checksum of it.
func (s *Segment) Matches(block uint64, p []byte) (same, known bool) {
	runs, err := s.Find(block, 1)
	switch {
	case err != nil || len(runs) == 0 || runs[0].Kind == Lost:
		return false, false
	case runs[0].Kind == Zero:
		return bytes.Count(p, []byte{0}) == len(p), true
	}
	slot := runs[0].slots[0]
	return s.id.blockSum(int64(slot.at)*blockSize, p) == slot.sum, true
}

// UseIndex lets the segment find its blocks in the index file that Seal wrote, in
// place of memory. It keeps the file, and does nothing but close it when it cannot
// be used.
func (s *Segment) UseIndex(idx blockio.File) error {
	x, err := openIndex(idx, s.id, s.known)
	if err != nil || x == nil {
		return errors.Join(err, idx.Close())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sealed, s.index = x, nil
	return nil
}

// Close releases the files.
func (s *Segment) Close() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.sealed != nil {
		return errors.Join(s.sealed.file.Close(), s.file.Close())
	}
	return s.file.Close()
}

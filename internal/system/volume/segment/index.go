package segment

import (
	"encoding/binary"
	"hash/crc32"
	"slices"

	"cairn/internal/mech/extent"
)

// slot says where a data block's preserved content lies.
type slot struct {
	at  uint32 // offset in the segment file, in blocks
	sum uint32
}

// index finds the preserved blocks of one segment.
type index struct {
	has   extent.Bitmap // every block of the segment
	zero  extent.Bitmap
	lost  extent.Bitmap
	slots map[uint64]slot
}

func newIndex() *index { return &index{slots: map[uint64]slot{}} }

// add enters a batch. A block that is there already keeps its first content.
func (x *index) add(h *header) {
	at := uint32(h.offset/blockSize) + 1
	for _, e := range h.entries {
		for i, sum := range e.crcs {
			if n := e.first + uint64(i); !x.has.Has(n) {
				x.slots[n] = slot{at: at, sum: sum}
			}
			at++
		}
		for first, count := range x.has.Gaps(e.first, e.count) {
			x.kind(e.kind).Set(first, count)
		}
		x.has.Set(e.first, e.count)
	}
}

// kind is the set of the blocks of that kind; data blocks have none of their own.
func (x *index) kind(k Kind) *extent.Bitmap {
	switch k {
	case Zero:
		return &x.zero
	case Lost:
		return &x.lost
	}
	return &extent.Bitmap{}
}

// The index file: a 64 byte header, then entries of 24 bytes, ascending.
const (
	indexMagic = 0x31584943 // "CIX1"
	indexHead  = 64
	indexEntry = 24
)

// encode is the index file of a segment of that identity and length.
func (x *index) encode(id Identity, length int64, epoch uint64) []byte {
	p := make([]byte, indexHead, indexHead+indexEntry*(len(x.slots)+8))
	nos := make([]uint64, 0, len(x.slots))
	for n := range x.slots {
		nos = append(nos, n)
	}
	slices.Sort(nos)
	le := binary.LittleEndian
	put := func(first, count uint64, kind Kind, s slot) {
		p = le.AppendUint64(p, first)
		p = le.AppendUint32(p, uint32(count))
		p = le.AppendUint32(p, uint32(kind))
		p = le.AppendUint32(p, s.at)
		p = le.AppendUint32(p, s.sum)
	}
	for _, n := range nos {
		put(n, 1, Data, x.slots[n])
	}
	for first, count := range x.zero.All() {
		for ; count > 0; first, count = first+min(count, maxCount), count-min(count, maxCount) {
			put(first, min(count, maxCount), Zero, slot{})
		}
	}
	for first, count := range x.lost.All() {
		put(first, count, Lost, slot{})
	}
	le.PutUint32(p[0:], indexMagic)
	le.PutUint64(p[8:], id.Store)
	le.PutUint64(p[16:], id.Segment)
	le.PutUint64(p[24:], id.Incarnation)
	le.PutUint64(p[32:], uint64(length))
	le.PutUint64(p[40:], epoch)
	le.PutUint64(p[48:], uint64(len(p)-indexHead)/indexEntry)
	le.PutUint32(p[4:], crc32.Checksum(p[8:], table))
	return p
}

// decodeIndex reads an index file; ok is false when it is not whole, or not of
// this segment at this length.
func decodeIndex(id Identity, length int64, p []byte) (x *index, ok bool) {
	le := binary.LittleEndian
	if len(p) < indexHead || le.Uint32(p) != indexMagic || le.Uint32(p[4:]) != crc32.Checksum(p[8:], table) ||
		le.Uint64(p[8:]) != id.Store || le.Uint64(p[16:]) != id.Segment || le.Uint64(p[24:]) != id.Incarnation ||
		le.Uint64(p[32:]) != uint64(length) || le.Uint64(p[48:])*indexEntry != uint64(len(p)-indexHead) {
		return nil, false
	}
	x = newIndex()
	for p = p[indexHead:]; len(p) > 0; p = p[indexEntry:] {
		first, count, kind := le.Uint64(p), uint64(le.Uint32(p[8:])), Kind(le.Uint32(p[12:]))
		if !kind.known() {
			return nil, false
		}
		x.has.Set(first, count)
		if kind == Data {
			x.slots[first] = slot{at: le.Uint32(p[16:]), sum: le.Uint32(p[20:])}
			continue
		}
		x.kind(kind).Set(first, count)
	}
	return x, true
}

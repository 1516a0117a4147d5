package segment

import (
	"encoding/binary"
	"hash/crc32"

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
	le := binary.LittleEndian
	put := func(first, count uint64, kind Kind, s slot) {
		p = le.AppendUint64(p, first)
		p = le.AppendUint32(p, uint32(count))
		p = le.AppendUint32(p, uint32(kind))
		p = le.AppendUint32(p, s.at)
		p = le.AppendUint32(p, s.sum)
	}
	for first, count := range x.has.All() {
		for _, r := range x.split(nil, first, count) {
			for i, s := range r.slots {
				put(r.First+uint64(i), 1, Data, s)
			}
			for r.Kind != Data && r.Count > 0 {
				n := min(r.Count, maxCount)
				put(r.First, n, r.Kind, slot{})
				r.First, r.Count = r.First+n, r.Count-n
			}
		}
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

package segment

import (
	"encoding/binary"
	"hash/crc32"

	"cairn"
)

// Kind says what a preserved block is; numbers are on disk.
type Kind uint8

// The kinds. A lost block could not be read when it was to be preserved.
const (
	Data Kind = 1
	Zero Kind = 2
	Base Kind = 3 // reserved: the block is that of an overlay's base
	Lost Kind = 4
)

// known tells whether this build can read blocks of the kind.
func (k Kind) known() bool { return k == Data || k == Zero || k == Lost }

// Record is a run of blocks to be preserved. Bytes has Count blocks when Kind is
// Data, and is nil else.
type Record struct {
	First uint64
	Count uint64
	Kind  Kind
	Bytes []byte
}

// Identity is what every checksum of a segment covers, so that a block of another
// segment, or of the same file in an earlier life, is never taken for one of this.
type Identity struct {
	Store       uint64
	Segment     uint64
	Incarnation uint64
}

const (
	blockSize  = cairn.BlockSize
	magic      = 0x31475343 // "CSG1"
	magicFoot  = 0x31465343 // "CSF1"
	footed     = 1          // flag: the payload is followed by a footer
	fixedSize  = 80
	entrySize  = 16
	headerSize = blockSize
	maxCount   = 1<<32 - 1
	maxBlock   = 1 << 51 // no volume has more than 2^63 bytes
	maxOffset  = 1 << 44 // a slot of the index counts blocks of the file in 32 bits
)

var table = crc32.MakeTable(crc32.Castagnoli)

// entry is one run in a batch header; crcs holds one checksum per data block.
type entry struct {
	first uint64
	count uint64
	kind  Kind
	crcs  []uint32
}

// header is a batch header in memory.
type header struct {
	offset   int64 // of the header in the file
	known    int64 // bytes of the file known durable when it was written
	interval uint64
	epoch    uint64
	blocks   uint64 // of payload
	plain    bool   // without a footer, as earlier builds wrote it
	entries  []entry
}

// footer is where the header stands a second time: behind the payload.
func (h *header) footer() int64 { return h.offset + headerSize + int64(h.blocks)*blockSize }

// end is where the next batch begins.
func (h *header) end() int64 {
	if h.plain {
		return h.footer()
	}
	return h.footer() + headerSize
}

func (h *header) length() int64 { return h.end() - h.offset }

// blockSum is the checksum of one payload block at the file offset.
func (id Identity) blockSum(offset int64, block []byte) uint32 {
	var p [32]byte
	binary.LittleEndian.PutUint64(p[0:], id.Store)
	binary.LittleEndian.PutUint64(p[8:], id.Segment)
	binary.LittleEndian.PutUint64(p[16:], id.Incarnation)
	binary.LittleEndian.PutUint64(p[24:], uint64(offset))
	return crc32.Update(crc32.Update(0, table, p[:]), table, block)
}

// encode writes the header into p (4 KiB, zeroed).
func (h *header) encode(id Identity, p []byte) {
	le := binary.LittleEndian
	le.PutUint32(p[0:], magic)
	le.PutUint64(p[8:], id.Store)
	le.PutUint64(p[16:], id.Segment)
	le.PutUint64(p[24:], id.Incarnation)
	le.PutUint64(p[32:], uint64(h.offset))
	le.PutUint64(p[40:], uint64(h.known))
	le.PutUint64(p[48:], h.interval)
	le.PutUint64(p[56:], h.epoch)
	le.PutUint32(p[64:], uint32(h.blocks))
	le.PutUint16(p[68:], uint16(len(h.entries)))
	le.PutUint16(p[70:], footed)
	at, sums := fixedSize, fixedSize+entrySize*len(h.entries)
	for _, e := range h.entries {
		le.PutUint64(p[at:], e.first)
		le.PutUint32(p[at+8:], uint32(e.count))
		p[at+12] = byte(e.kind)
		at += entrySize
		for _, c := range e.crcs {
			le.PutUint32(p[sums:], c)
			sums += 4
		}
	}
	le.PutUint32(p[4:], crc32.Checksum(p[8:], table))
}

// decode reads a header of this identity that stands at the offset, or the footer
// that repeats it; ok is false for anything else.
func decode(id Identity, offset int64, p []byte) (h header, ok bool) {
	sign := binary.LittleEndian.Uint32(p)
	if sign != magic && sign != magicFoot {
		return header{}, false
	}
	h, ok = decodeEither(id, p)
	switch {
	case !ok:
		return header{}, false
	case sign == magic:
		return h, h.offset == offset
	}
	return h, !h.plain && h.footer() == offset
}

// decodeEither reads what a header and its footer have in common.
func decodeEither(id Identity, p []byte) (h header, ok bool) {
	le := binary.LittleEndian
	if le.Uint32(p[4:]) != crc32.Checksum(p[8:], table) || le.Uint64(p[8:]) != id.Store ||
		le.Uint64(p[16:]) != id.Segment || le.Uint64(p[24:]) != id.Incarnation || le.Uint64(p[32:]) > maxOffset {
		return header{}, false
	}
	h = header{offset: int64(le.Uint64(p[32:])), known: int64(le.Uint64(p[40:])), interval: le.Uint64(p[48:]), epoch: le.Uint64(p[56:]),
		plain: le.Uint16(p[70:])&footed == 0}
	if h.known < 0 || h.known > h.offset {
		return header{}, false // nobody knew more than what was there
	}
	n := int(le.Uint16(p[68:]))
	at, sums := fixedSize, fixedSize+entrySize*n
	if sums > headerSize {
		return header{}, false
	}
	for range n {
		e := entry{first: le.Uint64(p[at:]), count: uint64(le.Uint32(p[at+8:])), kind: Kind(p[at+12])}
		at += entrySize
		if !e.kind.known() || e.first >= maxBlock || e.count > maxBlock-e.first {
			return header{}, false
		}
		if e.kind == Data {
			if e.count > uint64(headerSize-sums)/4 {
				return header{}, false
			}
			for range e.count {
				e.crcs = append(e.crcs, le.Uint32(p[sums:]))
				sums += 4
			}
			h.blocks += e.count
		}
		h.entries = append(h.entries, e)
	}
	return h, h.blocks == uint64(le.Uint32(p[64:]))
}

// pack cuts records into batches that fit a header each and lays them out from
// offset on: one buffer to be written at offset, in scratch where that is large
// enough, and the headers.
func pack(id Identity, offset, known int64, interval, epoch uint64, recs []Record, scratch []byte) ([]byte, []header) {
	var heads []header
	var payload [][]Record // data records of each header
	room := 0
	for _, r := range recs {
		for r.Count > 0 {
			if room < entrySize+4 {
				heads = append(heads, header{known: known, interval: interval, epoch: epoch})
				payload = append(payload, nil)
				room = headerSize - fixedSize
			}
			h, data := &heads[len(heads)-1], &payload[len(heads)-1]
			n := min(r.Count, maxCount)
			if r.Kind == Data {
				n = min(r.Count, uint64(room-entrySize)/4)
				*data = append(*data, Record{Bytes: r.Bytes[:n*blockSize]})
				r.Bytes = r.Bytes[n*blockSize:]
				h.blocks += n
				room -= 4 * int(n)
			}
			h.entries = append(h.entries, entry{first: r.First, count: n, kind: r.Kind})
			room -= entrySize
			r.First, r.Count = r.First+n, r.Count-n
		}
	}
	return lay(id, offset, heads, payload, scratch), heads
}

func lay(id Identity, offset int64, heads []header, payload [][]Record, scratch []byte) []byte {
	total := int64(0)
	for i := range heads {
		total += heads[i].length()
	}
	buf := scratch[:0]
	if int64(cap(buf)) < total {
		buf = make([]byte, total)
	}
	buf = buf[:total]
	at := int64(0)
	for i := range heads {
		h := &heads[i]
		h.offset = offset + at
		p := at + headerSize
		data := payload[i]
		for j := range h.entries {
			e := &h.entries[j]
			if e.kind != Data {
				continue
			}
			copy(buf[p:], data[0].Bytes)
			data = data[1:]
			e.crcs = make([]uint32, e.count)
			for k := range e.crcs {
				e.crcs[k] = id.blockSum(offset+p, buf[p:p+blockSize])
				p += blockSize
			}
		}
		head, foot := buf[at:at+headerSize], buf[p:p+headerSize]
		clear(head)
		h.encode(id, head)
		copy(foot, head)
		binary.LittleEndian.PutUint32(foot, magicFoot)
		at = p + headerSize
	}
	return buf
}

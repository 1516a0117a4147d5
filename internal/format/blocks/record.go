package blocks

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"cairn"
)

// Kind says what a record is.
type Kind uint8

// The record kinds; numbers stand in the stream.
const (
	KindData    Kind = 1 // an extent with its bytes
	KindZero    Kind = 2 // an extent that reads as zeroes
	KindDiscard Kind = 3 // an extent that reads as zeroes and holds no room at the sender
	KindPoint   Kind = 4 // a place to resume from: all before Offset is complete
	kindEnd     Kind = 5
)

var kindNames = [...]string{"", "data", "zero", "discard", "point", "end"}

// String is the kind's word.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("record kind %d", uint8(k))
}

// Record is one piece of a stream.
type Record struct {
	Kind   Kind
	Offset int64
	Length int64
	Data   []byte // of KindData, Length bytes; valid until the next call
}

// Bounds that both sides keep.
const (
	MaxData       = 256 << 10 // bytes of one data record
	MaxPointBytes = 4 << 20   // bytes of data between two points
	pointRecords  = 4096      // extents between two points, at most
	recordSize    = 32
	summarySize   = countsSize + 32 // payload of a point and of the end
)

var (
	errChecksum = errors.New("checksum does not match")
	errShort    = fmt.Errorf("stream ends early: %w", io.ErrUnexpectedEOF)
)

// frame is a record's fixed part.
type frame struct {
	kind     Kind
	encoding encoding
	stored   uint32 // bytes that follow
	offset   int64
	length   int64
}

func (f frame) put(b []byte) {
	clear(b[:recordSize])
	b[0], b[1] = byte(f.kind), byte(f.encoding)
	le := binary.LittleEndian
	le.PutUint32(b[4:], f.stored)
	le.PutUint64(b[8:], uint64(f.offset))
	le.PutUint64(b[16:], uint64(f.length))
}

func parseFrame(b []byte) (frame, error) {
	le := binary.LittleEndian
	if le.Uint16(b[2:]) != 0 || le.Uint32(b[24:]) != 0 {
		return frame{}, errors.New("reserved bytes are set")
	}
	return frame{kind: Kind(b[0]), encoding: encoding(b[1]), stored: le.Uint32(b[4:]),
		offset: int64(le.Uint64(b[8:])), length: int64(le.Uint64(b[16:]))}, nil
}

// check tells whether the frame can stand at this place of a stream of size
// bytes, next being the first offset that no record covered yet.
func (f frame) check(next, size int64) error {
	switch {
	case f.kind < KindData || f.kind > kindEnd:
		return fmt.Errorf("unknown record kind %d", uint8(f.kind))
	case f.kind == KindPoint || f.kind == kindEnd:
		if f.length != 0 || f.stored != summarySize || f.encoding != raw || f.offset < next || f.offset > size {
			return fmt.Errorf("impossible %v record", f.kind)
		}
		if f.kind == KindPoint && f.offset%cairn.BlockSize != 0 && f.offset != size {
			return errors.New("point inside a block")
		}
		return nil
	case f.kind == KindData && (f.length > MaxData || f.stored == 0 || int64(f.stored) > f.length ||
		(f.encoding == raw) != (int64(f.stored) == f.length)):
		return fmt.Errorf("impossible data record of %d bytes in %d", f.length, f.stored)
	case f.kind != KindData && (f.stored != 0 || f.encoding != raw):
		return fmt.Errorf("%v record with content", f.kind)
	}
	return checkExtent(f.offset, f.length, next, size)
}

// checkExtent holds extents to whole blocks (short only at the end of the
// volume), inside the volume, ascending.
func checkExtent(off, length, next, size int64) error {
	switch {
	case off < next:
		return fmt.Errorf("extent at %d after one that ends at %d", off, next)
	case length <= 0 || off > size || length > size-off:
		return fmt.Errorf("extent of %d bytes at %d leaves the volume of %d", length, off, size)
	case off%cairn.BlockSize != 0 || (off+length)%cairn.BlockSize != 0 && off+length != size:
		return fmt.Errorf("extent of %d bytes at %d is not in whole blocks", length, off)
	}
	return nil
}

// sum is the checksum of a record: who it belongs to, its place, all it says.
func sum(seed uint32, sequence uint64, scratch *[8]byte, head, payload []byte) uint32 {
	binary.LittleEndian.PutUint64(scratch[:], sequence)
	crc := crc32.Update(seed, castagnoli, scratch[:])
	crc = crc32.Update(crc, castagnoli, head[:recordSize-crcSize])
	return crc32.Update(crc, castagnoli, payload)
}

// identity is the checksum that those of all records of a stream go on from.
func identity(h Header) uint32 {
	var b [16]byte
	binary.LittleEndian.PutUint64(b[:], uint64(h.From.GUID))
	binary.LittleEndian.PutUint64(b[8:], uint64(h.To.GUID))
	return crc32.Checksum(b[:], castagnoli)
}

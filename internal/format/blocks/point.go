package blocks

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"cairn"
)

// Counts says how much a stream held up to some point, since its very beginning.
type Counts struct {
	Records  uint64 // extents, of any kind
	Data     int64  // bytes of data, before compression
	Zeroes   int64  // bytes of zero extents
	Discards int64  // bytes of discard extents
}

func (c *Counts) add(k Kind, length int64) {
	c.Records++
	switch k {
	case KindData:
		c.Data += length
	case KindZero:
		c.Zeroes += length
	case KindDiscard:
		c.Discards += length
	}
}

const countsSize = 32

func (c Counts) appendTo(b []byte) []byte {
	le := binary.LittleEndian
	b = le.AppendUint64(b, c.Records)
	b = le.AppendUint64(b, uint64(c.Data))
	b = le.AppendUint64(b, uint64(c.Zeroes))
	return le.AppendUint64(b, uint64(c.Discards))
}

func parseCounts(b []byte) Counts {
	le := binary.LittleEndian
	return Counts{le.Uint64(b), int64(le.Uint64(b[8:])), int64(le.Uint64(b[16:])), int64(le.Uint64(b[24:]))}
}

// Point is a place in a stream from which it can go on: everything before
// Position is complete.
type Point struct {
	From, To cairn.GUID
	Size     int64 // of the volume
	Position int64
	Sequence uint64 // of the next record
	Counts   Counts // of everything before
	layout   uint32 // version of the stream's layout, which stays the same when it goes on
	chain    [sha256.Size]byte
}

// startPoint is the point at the beginning of a stream. Its digest stands for the
// versions, so that the final hash covers them.
func startPoint(h Header, layout uint32) Point {
	p := Point{From: h.From.GUID, To: h.To.GUID, Size: h.Size, layout: layout}
	b := make([]byte, 0, 64)
	b = append(b, magic...)
	le := binary.LittleEndian
	b = le.AppendUint32(b, layout)
	b = le.AppendUint32(b, uint32(h.Sector))
	b = le.AppendUint64(b, uint64(h.From.GUID))
	b = le.AppendUint64(b, uint64(h.To.GUID))
	b = le.AppendUint64(b, uint64(h.Size))
	p.chain = sha256.Sum256(b)
	return p
}

func (p *Point) check(h Header) error {
	switch {
	case p.Position < 0 || p.Position > h.Size || p.Position%cairn.BlockSize != 0 && p.Position != h.Size:
		return fmt.Errorf("the stream goes on from %d, which is no place in %d bytes", p.Position, h.Size)
	case p.Position == 0 && *p != startPoint(h, p.layout):
		return errors.New("the stream begins with the state of another one")
	}
	return nil
}

const (
	tokenMagic = "CAIRNBPT"
	tokenSize  = 8 + 4 + 4 + 5*8 + countsSize + sha256.Size + crcSize
)

// token renders p for a receiver to keep.
func (p *Point) token() []byte {
	b := make([]byte, 0, tokenSize)
	le := binary.LittleEndian
	b = append(b, tokenMagic...)
	b = le.AppendUint32(b, p.layout)
	b = le.AppendUint32(b, 0) // reserved
	b = le.AppendUint64(b, uint64(p.From))
	b = le.AppendUint64(b, uint64(p.To))
	b = le.AppendUint64(b, uint64(p.Size))
	b = le.AppendUint64(b, uint64(p.Position))
	b = le.AppendUint64(b, p.Sequence)
	b = p.Counts.appendTo(b)
	b = append(b, p.chain[:]...)
	return le.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// ParsePoint reads a token that [Reader.Token] made; KindInvalid when it is none.
func ParsePoint(token []byte) (Point, error) {
	le := binary.LittleEndian
	var err error
	switch {
	case len(token) != tokenSize || string(token[:8]) != tokenMagic:
		err = fmt.Errorf("%d bytes that are no token", len(token))
	case !known(le.Uint32(token[8:])):
		err = fmt.Errorf("it is of version %d, this build knows versions up to %d", le.Uint32(token[8:]), version)
	case crc32.Checksum(token[:tokenSize-crcSize], castagnoli) != le.Uint32(token[tokenSize-crcSize:]):
		err = errChecksum
	}
	if err != nil {
		return Point{}, &cairn.Error{Op: "use resume token", Kind: cairn.KindInvalid, Err: err,
			Hint: "abort the partial receive and send from the beginning"}
	}
	p := Point{From: cairn.GUID(le.Uint64(token[16:])), To: cairn.GUID(le.Uint64(token[24:])), Size: int64(le.Uint64(token[32:])), layout: le.Uint32(token[8:]),
		Position: int64(le.Uint64(token[40:])), Sequence: le.Uint64(token[48:]), Counts: parseCounts(token[56:])}
	copy(p.chain[:], token[56+countsSize:])
	return p, nil
}

// resumePoint is the point that a stream of h goes on from, by token or from the
// beginning in the given layout.
func resumePoint(h Header, layout uint32, token []byte) (Point, error) {
	if len(token) == 0 {
		return startPoint(h, layout), nil
	}
	p, err := ParsePoint(token)
	if err != nil {
		return Point{}, err
	}
	if p.From != h.From.GUID || p.To != h.To.GUID || p.Size != h.Size {
		return Point{}, &cairn.Error{Op: "resume stream", Subject: h.To.Name, Kind: cairn.KindConflict,
			Err:  fmt.Errorf("the token is for %v to %v of %d bytes, this is %v to %v of %d bytes", p.From, p.To, p.Size, h.From.GUID, h.To.GUID, h.Size),
			Hint: "abort the partial receive and send from the beginning"}
	}
	return p, nil
}

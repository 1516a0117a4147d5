package blocks

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"time"

	"cairn"
)

// The fixed parts of the layout (docs/formats/blocks.md).
const (
	magic      = "CAIRNBLK"
	version    = 2   // of the layout; version 1 is read, and written where a token of it is resumed
	prefixSize = 16  // magic, version, length of the header
	fixedSize  = 148 // header up to the names
	crcSize    = 4
	maxHeader  = 4096 // in any version
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Header says which version a stream carries, and on which it stands.
type Header struct {
	Size    int64           // bytes of the volume at To
	Sector  int             // bytes of the volume's logical sector
	From    cairn.VersionID // zero: a full stream; what no record covers reads as zeroes
	To      cairn.VersionID
	Created time.Time // when To was captured; the zone is not kept
}

// Full reports whether the stream stands on no other version.
func (h Header) Full() bool { return h.From.IsZero() }

func (h Header) check() error {
	switch {
	case h.Size < 0:
		return fmt.Errorf("negative size %d", h.Size)
	case h.Sector < 512 || h.Sector > cairn.BlockSize || h.Sector&(h.Sector-1) != 0:
		return fmt.Errorf("sector of %d bytes", h.Sector)
	case h.To.GUID == 0:
		return errors.New("no GUID of the version to send")
	case (h.From.GUID == 0) != (h.From.Name == ""):
		return errors.New("the base has a name or a GUID, not both")
	}
	if err := cairn.CheckVersionName(h.To.Name); err != nil {
		return err
	}
	if h.From.IsZero() {
		return nil
	}
	return cairn.CheckVersionName(h.From.Name)
}

// appendHeader renders h and the point that the stream goes on from.
func appendHeader(b []byte, h Header, p *Point) []byte {
	start := len(b)
	le := binary.LittleEndian
	b = append(b, magic...)
	b = le.AppendUint32(b, p.layout)
	b = le.AppendUint32(b, uint32(fixedSize+len(h.From.Name)+len(h.To.Name)+crcSize))
	b = le.AppendUint64(b, uint64(h.Size))
	b = le.AppendUint32(b, uint32(h.Sector))
	b = le.AppendUint32(b, 0) // flags
	b = le.AppendUint64(b, uint64(h.From.GUID))
	b = le.AppendUint64(b, uint64(h.To.GUID))
	b = le.AppendUint64(b, uint64(h.Created.Unix()))
	b = le.AppendUint32(b, uint32(h.Created.Nanosecond()))
	b = le.AppendUint32(b, 0) // reserved
	b = le.AppendUint64(b, uint64(p.Position))
	b = le.AppendUint64(b, p.Sequence)
	b = p.Counts.appendTo(b)
	b = append(b, p.chain[:]...)
	b = le.AppendUint16(b, uint16(len(h.From.Name)))
	b = le.AppendUint16(b, uint16(len(h.To.Name)))
	b = append(b, h.From.Name...)
	b = append(b, h.To.Name...)
	return le.AppendUint32(b, crc32.Checksum(b[start:], castagnoli))
}

// readHeader reads and checks a header, and the point that the stream goes on
// from.
func readHeader(r io.Reader) (Header, Point, error) {
	fail := func(err error) (Header, Point, error) {
		return Header{}, Point{}, readError("header", err)
	}
	var prefix [prefixSize]byte
	if err := fill(r, prefix[:]); err != nil {
		return fail(err)
	}
	le := binary.LittleEndian
	if string(prefix[:8]) != magic {
		return fail(errors.New("the input is no blocks stream"))
	}
	n := le.Uint32(prefix[12:])
	if n < prefixSize+crcSize || n > maxHeader {
		return fail(fmt.Errorf("header of %d bytes", n))
	}
	b := make([]byte, n)
	copy(b, prefix[:])
	if err := fill(r, b[prefixSize:]); err != nil {
		return fail(err)
	}
	if crc32.Checksum(b[:n-crcSize], castagnoli) != le.Uint32(b[n-crcSize:]) {
		return fail(errChecksum)
	}
	if v := le.Uint32(prefix[8:]); !known(v) {
		return Header{}, Point{}, &cairn.Error{Op: "read blocks stream", Kind: cairn.KindUnsupported,
			Err: fmt.Errorf("its layout is version %d, this build reads versions up to %d", v, version), Hint: "use the newer cairn on this side too"}
	}
	h, p, err := parseHeader(b[:n-crcSize])
	if err != nil {
		return fail(err)
	}
	return h, p, nil
}

func known(layout uint32) bool { return layout >= 1 && layout <= version }

func parseHeader(b []byte) (Header, Point, error) {
	if len(b) < fixedSize {
		return Header{}, Point{}, fmt.Errorf("header of %d bytes", len(b))
	}
	le := binary.LittleEndian
	from, to := int(le.Uint16(b[144:])), int(le.Uint16(b[146:]))
	if len(b) != fixedSize+from+to {
		return Header{}, Point{}, errors.New("the names do not fill the header")
	}
	if le.Uint32(b[28:]) != 0 || le.Uint32(b[60:]) != 0 {
		return Header{}, Point{}, errors.New("unknown flags in the header")
	}
	h := Header{
		Size:    int64(le.Uint64(b[16:])),
		Sector:  int(le.Uint32(b[24:])),
		From:    cairn.VersionID{GUID: cairn.GUID(le.Uint64(b[32:])), Name: string(b[fixedSize : fixedSize+from])},
		To:      cairn.VersionID{GUID: cairn.GUID(le.Uint64(b[40:])), Name: string(b[fixedSize+from:])},
		Created: time.Unix(int64(le.Uint64(b[48:])), int64(le.Uint32(b[56:]))).UTC(),
	}
	if err := h.check(); err != nil {
		return Header{}, Point{}, errors.New(err.Error()) // corrupt here, whatever kind it is for a writer
	}
	p := Point{From: h.From.GUID, To: h.To.GUID, Size: h.Size, layout: le.Uint32(b[8:]),
		Position: int64(le.Uint64(b[64:])), Sequence: le.Uint64(b[72:]), Counts: parseCounts(b[80:])}
	copy(p.chain[:], b[112:])
	return h, p, p.check(h)
}

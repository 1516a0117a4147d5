package blocks

import (
	"errors"
	"fmt"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
)

// Compression names how a Writer packs data. A Reader reads them all.
type Compression string

// The compressions.
const (
	CompressS2   Compression = "s2"   // about 1 GB/s; what the empty name means
	CompressZstd Compression = "zstd" // about an eighth smaller for three times the work
	CompressNone Compression = "none"
)

// encoding is how one record's payload is packed; numbers stand in the stream.
type encoding uint8

const (
	raw      encoding = 0
	encS2    encoding = 1
	encZstd  encoding = 2
	maxSkips          = 7 // records stored unpacked, at most, before one is tried again
)

// packer packs payloads and learns where that does not pay.
type packer struct {
	encoding encoding
	zstd     *zstd.Encoder
	skip     int // records left to store without trying
	backoff  int // length of the next run of those
	out      []byte
}

func newPacker(c Compression) (*packer, error) {
	p := &packer{}
	switch c {
	case CompressNone:
	case CompressS2, "":
		p.encoding = encS2
	case CompressZstd:
		p.encoding = encZstd
		enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
			zstd.WithEncoderCRC(false), zstd.WithLowerEncoderMem(true), zstd.WithWindowSize(MaxData))
		if err != nil {
			return nil, err
		}
		p.zstd = enc
	default:
		return nil, fmt.Errorf("unknown compression %q; there are s2, zstd and none", string(c))
	}
	if p.encoding != raw {
		p.out = make([]byte, s2.MaxEncodedLen(MaxData)+1024) // zstd may need a little more
	}
	return p, nil
}

// pack returns the payload to store for data and how it is packed: data itself
// where packing saves less than a sixteenth. The result is valid until the next
// call.
func (p *packer) pack(data []byte) (encoding, []byte) {
	if p.encoding == raw {
		return raw, data
	}
	if p.skip > 0 {
		p.skip--
		return raw, data
	}
	var out []byte
	if p.encoding == encZstd {
		out = p.zstd.EncodeAll(data, p.out[:0])
	} else {
		out = s2.Encode(p.out, data)
	}
	if len(out) > len(data)-len(data)/16 {
		p.backoff = min(2*p.backoff+1, maxSkips)
		p.skip = p.backoff
		return raw, data
	}
	p.backoff = 0
	return p.encoding, out
}

// unpacker is the other side; its buffers grow to MaxData and no further.
type unpacker struct {
	zstd *zstd.Decoder // made when the first such record comes
	out  []byte
}

// unpack returns the length bytes that payload stands for.
func (u *unpacker) unpack(e encoding, payload []byte, length int) ([]byte, error) {
	if e == raw {
		return payload, nil
	}
	if u.out == nil {
		u.out = make([]byte, MaxData)
	}
	var out []byte
	var err error
	switch e {
	case encS2:
		n, lenErr := s2.DecodedLen(payload)
		if lenErr != nil || n != length {
			return nil, errors.New("packed data of another length")
		}
		out, err = s2.Decode(u.out[:length], payload)
	case encZstd:
		out, err = u.unzstd(payload, length)
	default:
		return nil, fmt.Errorf("unknown encoding %d", e)
	}
	if err == nil && len(out) != length {
		err = errors.New("packed data of another length")
	}
	return out, err
}

func (u *unpacker) unzstd(payload []byte, length int) ([]byte, error) {
	if u.zstd == nil {
		dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(MaxData),
			zstd.WithDecodeAllCapLimit(true), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, err
		}
		u.zstd = dec
	}
	return u.zstd.DecodeAll(payload, u.out[:0:length])
}

package zfsstream

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"

	"cairn"
)

// Compression is how a block is packed, as OpenZFS numbers it. Zero says that the
// payload of a Write is plain.
type Compression uint8

// The compressions of OpenZFS; 5 to 13 are the levels of gzip.
const (
	CompressOff   Compression = 2
	CompressLZJB  Compression = 3
	CompressGzip1 Compression = 5
	CompressGzip9 Compression = 13
	CompressZLE   Compression = 14
	CompressLZ4   Compression = 15
	CompressZstd  Compression = 16
)

// String is the name that the property "compression" has.
func (c Compression) String() string {
	switch {
	case c == 0 || c == CompressOff:
		return "off"
	case c == CompressLZJB:
		return "lzjb"
	case c >= CompressGzip1 && c <= CompressGzip9:
		return fmt.Sprintf("gzip-%d", c-CompressGzip1+1)
	case c == CompressZLE:
		return "zle"
	case c == CompressLZ4:
		return "lz4"
	case c == CompressZstd:
		return "zstd"
	}
	return fmt.Sprintf("compression %d", uint8(c))
}

var errPacked = errors.New("a compressed block that cannot be unpacked")

// Unpacker unpacks the payloads of a stream. Its zero value is ready; it is used by
// one goroutine.
type Unpacker struct {
	out  []byte
	in   []byte
	zstd *zstd.Decoder
}

// Unpack is the content of a Write, Spill or Embedded record of a stream that is
// not raw, r.Length bytes; valid until the next call. KindCorrupt when it cannot be
// unpacked, KindUnsupported for a compression that is not known.
func (u *Unpacker) Unpack(r Record) ([]byte, error) {
	payload := r.Payload
	if r.Type == TypeEmbedded {
		if r.EmbedType != 0 || r.Packed > uint64(len(payload)) {
			return nil, &cairn.Error{Op: "unpack block", Kind: cairn.KindUnsupported, Err: fmt.Errorf("embedded data of type %d", r.EmbedType), Hint: "send without -e"}
		}
		payload = payload[:r.Packed]
	}
	out, err := u.unpack(r.Compressed, payload, int(r.Length))
	if err == nil && uint64(len(out)) != r.Length {
		err = errPacked
	}
	if err == nil {
		return out, nil
	}
	kind := cairn.KindOf(err)
	if kind == cairn.KindOther {
		kind = cairn.KindCorrupt
	}
	return nil, &cairn.Error{Op: "unpack block", Kind: kind, Err: fmt.Errorf("object %d, offset %d, %v: %w", r.Object, r.Offset, r.Compressed, err)}
}

func (u *Unpacker) unpack(c Compression, p []byte, length int) ([]byte, error) {
	if c == 0 || c == CompressOff {
		return p, nil
	}
	if cap(u.out) < length {
		u.out = make([]byte, length)
	}
	out := u.out[:length]
	switch {
	case c == CompressLZ4:
		if len(p) < 4 || uint64(binary.BigEndian.Uint32(p)) > uint64(len(p)-4) {
			return nil, errPacked
		}
		return out, unlz4(out, p[4:4+binary.BigEndian.Uint32(p)])
	case c == CompressZstd:
		return u.unzstd(out, p)
	case c >= CompressGzip1 && c <= CompressGzip9:
		return out, unzlib(out, p)
	case c == CompressLZJB:
		return out, unlzjb(out, p)
	case c == CompressZLE:
		return out, unzle(out, p)
	}
	return nil, cairn.KindUnsupported
}

// unzstd unpacks a frame behind the length (four bytes, big-endian) and version
// that OpenZFS puts before it. OpenZFS leaves out the frame's magic.
func (u *Unpacker) unzstd(out, p []byte) ([]byte, error) {
	if len(p) < 8 || uint64(binary.BigEndian.Uint32(p)) > uint64(len(p)-8) {
		return nil, errPacked
	}
	if u.zstd == nil {
		dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(MaxPayload), zstd.WithDecodeAllCapLimit(true), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, err
		}
		u.zstd = dec
	}
	u.in = append(u.in[:0], 0x28, 0xB5, 0x2F, 0xFD)
	u.in = append(u.in, p[8:8+binary.BigEndian.Uint32(p)]...)
	return u.zstd.DecodeAll(u.in, out[:0:len(out)])
}

func unzlib(out, p []byte) error {
	r, err := zlib.NewReader(bytes.NewReader(p))
	if err != nil {
		return err
	}
	_, err = io.ReadFull(r, out)
	return err
}

// unzle unpacks runs: a byte below 64 counts literals that follow, one above it
// zeroes.
func unzle(out, p []byte) error {
	const split = 64
	for len(out) > 0 && len(p) > 0 {
		n := int(p[0]) + 1
		p = p[1:]
		if n > split {
			n = min(n-split, len(out))
			clear(out[:n])
			out = out[n:]
			continue
		}
		if n > len(p) || n > len(out) {
			return errPacked
		}
		copy(out, p[:n])
		out, p = out[n:], p[n:]
	}
	if len(out) > 0 {
		return errPacked
	}
	return nil
}

// unlzjb unpacks groups of eight items: the bits of a byte say which is a literal
// and which a match of two bytes, six bits of length less three and ten of distance.
func unlzjb(out, p []byte) error {
	at, bit, flags := 0, 8, byte(0)
	for at < len(out) {
		if bit == 8 {
			if len(p) == 0 {
				return errPacked
			}
			bit, flags, p = 0, p[0], p[1:]
		}
		match := flags>>bit&1 != 0
		bit++
		if !match {
			if len(p) == 0 {
				return errPacked
			}
			out[at], p = p[0], p[1:]
			at++
			continue
		}
		if len(p) < 2 {
			return errPacked
		}
		length, distance := int(p[0]>>2)+3, int(p[0]&3)<<8|int(p[1])
		p = p[2:]
		if distance == 0 || distance > at {
			return errPacked
		}
		for ; length > 0 && at < len(out); length-- {
			out[at] = out[at-distance]
			at++
		}
	}
	return nil
}

// unlz4 unpacks one LZ4 block: sequences of literals and matches.
func unlz4(out, p []byte) error {
	at := 0
	for {
		if len(p) == 0 {
			return errPacked
		}
		token := p[0]
		literals, rest, ok := lz4Length(int(token>>4), p[1:])
		if !ok || literals > len(rest) || literals > len(out)-at {
			return errPacked
		}
		at += copy(out[at:], rest[:literals])
		p = rest[literals:]
		if len(p) == 0 {
			break
		}
		if len(p) < 2 {
			return errPacked
		}
		distance := int(binary.LittleEndian.Uint16(p))
		length, rest, ok := lz4Length(int(token&15), p[2:])
		if length += 4; !ok || distance == 0 || distance > at || length > len(out)-at {
			return errPacked
		}
		at = repeat(out, at, distance, length)
		p = rest
	}
	if at != len(out) {
		return errPacked
	}
	return nil
}

// lz4Length reads the bytes that go on with a length of 15.
func lz4Length(n int, p []byte) (length int, rest []byte, ok bool) {
	if n < 15 {
		return n, p, true
	}
	for i, c := range p {
		n += int(c)
		if c != 255 {
			return n, p[i+1:], n <= MaxPayload
		}
	}
	return 0, nil, false
}

// repeat copies length bytes from distance before at, which may overlap.
func repeat(out []byte, at, distance, length int) int {
	for length > 0 {
		n := copy(out[at:at+min(length, distance)], out[at-distance:])
		at += n
		length -= n
		distance += n
	}
	return at
}

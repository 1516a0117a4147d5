// Package frame cuts a byte connection into checked frames: a fixed header of
// 16 bytes with type, flags, id and length, and a CRC-32C over header and
// payload. It is for connections of any kind; what types and ids mean is the
// user's.
//
// It promises that a payload is handed out only after its checksum matched, that
// a connection that ends inside a frame is told apart from one that ends between
// two, and that no length which a peer claims makes it allocate more than the
// maximum it was given.
//
// What can go wrong: a damaged length is noticed only when the claimed bytes have
// arrived or the connection ends, so readers need a deadline on the connection.
// The layout is written down in docs/formats/rpc.md.
package frame

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"cairn"
)

// HeaderSize is the bytes of a frame's header; they come before its payload.
const HeaderSize = 16

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Header says what a frame is.
type Header struct {
	Type   uint8
	Flags  uint8
	ID     uint32
	Length int // bytes of the payload; Seal and Append take it from the payload itself
}

// Seal writes the header of the frame whose payload is buf[HeaderSize:] into
// buf[:HeaderSize]. Buffers with room in front go out in one write, without a
// copy.
func Seal(buf []byte, h Header) {
	binary.LittleEndian.PutUint32(buf[0:], uint32(len(buf)-HeaderSize))
	buf[4], buf[5], buf[6], buf[7] = h.Type, h.Flags, 0, 0
	binary.LittleEndian.PutUint32(buf[8:], h.ID)
	sum := crc32.Update(0, castagnoli, buf[:12])
	sum = crc32.Update(sum, castagnoli, buf[HeaderSize:])
	binary.LittleEndian.PutUint32(buf[12:], sum)
}

// Append appends a whole frame to dst.
func Append(dst []byte, h Header, payload []byte) []byte {
	at := len(dst)
	dst = append(dst, make([]byte, HeaderSize)...)
	dst = append(dst, payload...)
	Seal(dst[at:], h)
	return dst
}

// Reader reads frames. It is not safe for several goroutines.
type Reader struct {
	r    io.Reader
	max  int
	head [HeaderSize]byte
	left int // payload bytes of the header last read that were not read yet; -1 when none
	buf  []byte
}

// NewReader reads frames of at most max payload bytes from r.
func NewReader(r io.Reader, max int) *Reader {
	return &Reader{r: r, max: max, left: -1}
}

// Header reads the next frame's header; Payload or Next must follow before the
// next one. The end of the input between two frames is a bare io.EOF; inside a
// frame it wraps io.ErrUnexpectedEOF. A header that cannot be is KindCorrupt.
func (r *Reader) Header() (Header, error) {
	if n, err := io.ReadFull(r.r, r.head[:]); err != nil {
		if n == 0 && errors.Is(err, io.EOF) {
			return Header{}, io.EOF
		}
		return Header{}, readError(err)
	}
	h := Header{
		Type:   r.head[4],
		Flags:  r.head[5],
		ID:     binary.LittleEndian.Uint32(r.head[8:]),
		Length: int(binary.LittleEndian.Uint32(r.head[0:])),
	}
	if h.Length > r.max || h.Length < 0 {
		return Header{}, corrupt(fmt.Errorf("length %d is over the limit of %d", h.Length, r.max))
	}
	if r.head[6] != 0 || r.head[7] != 0 {
		return Header{}, corrupt(errors.New("reserved bytes are set"))
	}
	r.left = h.Length
	return h, nil
}

// Payload reads the payload of the header just read into p, whose length must be
// the header's, and checks it. Until it returns nil, p holds nothing to rely on.
func (r *Reader) Payload(p []byte) error {
	if len(p) != r.left {
		return &cairn.Error{Op: "read frame", Kind: cairn.KindInvalid,
			Err: fmt.Errorf("payload of %d bytes asked for, %d are there", len(p), r.left)}
	}
	r.left = -1
	if _, err := io.ReadFull(r.r, p); err != nil {
		return readError(err)
	}
	sum := crc32.Update(0, castagnoli, r.head[:12])
	sum = crc32.Update(sum, castagnoli, p)
	if sum != binary.LittleEndian.Uint32(r.head[12:]) {
		return corrupt(errors.New("checksum does not match"))
	}
	return nil
}

// Next reads a whole frame. The payload is the reader's and valid until the next
// call.
func (r *Reader) Next() (Header, []byte, error) {
	h, err := r.Header()
	if err != nil {
		return Header{}, nil, err
	}
	if cap(r.buf) < h.Length {
		r.buf = make([]byte, h.Length)
	}
	p := r.buf[:h.Length]
	return h, p, r.Payload(p)
}

func readError(err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return &cairn.Error{Op: "read frame", Kind: cairn.KindUnavailable, Err: err}
}

func corrupt(err error) error {
	return &cairn.Error{Op: "read frame", Kind: cairn.KindCorrupt, Err: err,
		Hint: "the connection damages data, or the peer speaks something else"}
}

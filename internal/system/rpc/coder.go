package rpc

import (
	"encoding/binary"
	"errors"
	"time"

	"cairn"
)

// coder writes a message or reads it: one description per message serves both
// directions. Integers are variable-length, texts carry their length. While
// writing, nothing is assigned: what is written may be shared. Layout:
// docs/formats/rpc.md.
type coder struct {
	buf     []byte // written so far, or left to read
	reading bool
	err     error // first fault while reading; everything after it is zero
}

// message is what crosses the wire in one piece.
type message interface{ code(c *coder) }

// nothing is the empty message.
type nothing struct{}

func (*nothing) code(*coder) {}

var errMalformed = errors.New("malformed message")

func encode(m message) []byte {
	var c coder
	m.code(&c)
	return c.buf
}

// decode reads a whole message: bytes left over are a fault too.
func decode(p []byte, m message) error {
	c := coder{buf: p, reading: true}
	m.code(&c)
	if c.err == nil && len(c.buf) > 0 {
		c.err = errMalformed
	}
	if c.err != nil {
		return &cairn.Error{Op: "read message", Kind: cairn.KindCorrupt, Err: c.err,
			Hint: "the peer speaks something else; check its version"}
	}
	return nil
}

func (c *coder) fail() {
	if c.err == nil {
		c.err = errMalformed
	}
	c.buf = nil
}

func (c *coder) uint(v *uint64) {
	if !c.reading {
		c.buf = binary.AppendUvarint(c.buf, *v)
		return
	}
	n := 0
	if *v, n = binary.Uvarint(c.buf); n <= 0 {
		*v = 0
		c.fail()
		return
	}
	c.buf = c.buf[n:]
}

func (c *coder) int(v *int64) {
	u := uint64(*v)<<1 ^ uint64(*v>>63)
	c.uint(&u)
	if c.reading {
		*v = int64(u>>1) ^ -int64(u&1)
	}
}

// small codes integers that fit 32 bits.
func small[T ~int | ~uint8 | ~uint16 | ~uint32](c *coder, v *T) {
	u := uint64(*v)
	c.uint(&u)
	if !c.reading {
		return
	}
	*v = T(u)
	if uint64(*v) != u || u > 1<<32-1 {
		*v = 0
		c.fail()
	}
}

func (c *coder) bool(v *bool) {
	var b uint8
	if *v {
		b = 1
	}
	small(c, &b)
	if !c.reading {
		return
	}
	*v = b == 1
	if b > 1 {
		c.fail()
	}
}

// take cuts n bytes off what is left.
func (c *coder) take(n uint64) []byte {
	if n > uint64(len(c.buf)) {
		c.fail()
		return nil
	}
	p := c.buf[:n]
	c.buf = c.buf[n:]
	return p
}

func text[T ~string](c *coder, v *T) {
	n := uint64(len(*v))
	c.uint(&n)
	if !c.reading {
		c.buf = append(c.buf, *v...)
		return
	}
	*v = T(c.take(n))
}

// bytes codes a byte slice; nil and empty stay apart.
func (c *coder) bytes(v *[]byte) {
	n := uint64(len(*v))
	if *v != nil {
		n++
	}
	c.uint(&n)
	switch {
	case !c.reading:
		c.buf = append(c.buf, *v...)
	case n == 0:
		*v = nil
	default:
		*v = append([]byte{}, c.take(n-1)...)
	}
}

func (c *coder) guid(v *cairn.GUID) {
	if !c.reading {
		c.buf = binary.LittleEndian.AppendUint64(c.buf, uint64(*v))
		return
	}
	*v = 0
	if p := c.take(8); p != nil {
		*v = cairn.GUID(binary.LittleEndian.Uint64(p))
	}
}

// time codes an instant; it comes back in UTC.
func (c *coder) time(v *time.Time) {
	sec, nsec := v.Unix(), uint64(v.Nanosecond())
	c.int(&sec)
	c.uint(&nsec)
	if c.reading {
		if nsec >= 1e9 {
			c.fail()
			nsec = 0
		}
		*v = time.Unix(sec, int64(nsec)).UTC()
	}
}

// list codes a slice whose items take at least min bytes each, so that no count
// allocates more than what arrived warrants; nil and empty stay apart.
func list[T any](c *coder, s *[]T, min int, item func(*coder, *T)) {
	n := uint64(len(*s))
	if *s != nil {
		n++
	}
	c.uint(&n)
	if c.reading {
		*s = nil
		if n == 0 {
			return
		}
		if n-1 > uint64(len(c.buf)/min) {
			c.fail()
			return
		}
		*s = make([]T, n-1)
	}
	for i := range *s {
		item(c, &(*s)[i])
	}
	if c.err != nil {
		*s = nil
	}
}

// optional codes a pointer that may be nil.
func optional[T any](c *coder, p **T, item func(*coder, *T)) {
	has := *p != nil
	c.bool(&has)
	if c.reading {
		*p = nil
		if has {
			*p = new(T)
		}
	}
	if has {
		item(c, *p)
	}
}

package zfsstream

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"cairn"
)

// Reader reads one stream, with its substreams when it is a compound one. It is
// used by one goroutine. After an error every later call fails with the same one.
type Reader struct {
	r      io.Reader
	state  state
	head   [RecordBytes]byte
	buf    []byte
	header Header
	err    error
}

// NewReader reads the first header from r.
func NewReader(r io.Reader) (*Reader, error) {
	in := &Reader{r: bufio.NewReaderSize(r, 64<<10)}
	if _, err := in.Next(); err != nil {
		return nil, err
	}
	return in, nil
}

func unreadable(f Features) error {
	return &cairn.Error{Op: "read zfs stream", Kind: cairn.KindUnsupported, Err: fmt.Errorf("it has features that this build does not know: %v", f),
		Hint: "use a newer cairn, or send with fewer options"}
}

// Header is that of the stream, or of its present substream once the record of
// TypeBegin before that was read.
func (r *Reader) Header() Header { return r.header }

// Next returns the next record. The first header was read by NewReader; those of
// the substreams of a compound stream come as records of TypeBegin.
func (r *Reader) Next() (Record, error) {
	if r.err != nil {
		return Record{}, r.err
	}
	rec, err := r.next()
	if f := r.header.Features.unreadable(); err == nil && f != 0 {
		err = unreadable(f)
	}
	if err != nil {
		r.err = readError(err, r.state.records)
		return Record{}, r.err
	}
	return rec, nil
}

func (r *Reader) next() (Record, error) {
	n, err := io.ReadFull(r.r, r.head[:])
	if errors.Is(err, io.EOF) && n == 0 && r.state.ended {
		return Record{}, io.EOF
	}
	if err != nil {
		return Record{}, cut(err)
	}
	rec, length, err := r.state.record(r.head[:])
	if err != nil {
		return Record{}, err
	}
	if rec.Payload, err = r.payload(length); err != nil {
		return Record{}, err
	}
	r.state.payload(rec.Payload)
	if rec.Type != TypeBegin {
		return rec, nil
	}
	r.header = r.state.header
	if length > 0 {
		if r.header.Details, err = parseList(rec.Payload); err != nil {
			return Record{}, err
		}
	}
	return rec, nil
}

// firstPiece is what is reserved for a payload before any of it has come.
const firstPiece = 256 << 10

// payload reads n bytes. The buffer doubles as they come.
func (r *Reader) payload(n uint64) ([]byte, error) {
	have := 0
	for have < int(n) {
		want := min(int(n), max(2*have, firstPiece))
		if cap(r.buf) < want {
			grown := make([]byte, want)
			copy(grown, r.buf[:have])
			r.buf = grown
		}
		if _, err := io.ReadFull(r.r, r.buf[have:want]); err != nil {
			return nil, cut(err)
		}
		have = want
	}
	return r.buf[:n:n], nil
}

func cut(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("the stream ends early: %w", io.ErrUnexpectedEOF)
	}
	if cairn.KindOf(err) == cairn.KindOther {
		return &cairn.Error{Op: "read input", Kind: cairn.KindIO, Err: err}
	}
	return err
}

// readError gives an error a kind, unless its cause has one.
func readError(err error, records uint64) error {
	if err == io.EOF { //nolint:errorlint // the bare end, not a cut
		return err
	}
	kind := cairn.KindOf(err)
	if kind == cairn.KindOther {
		kind = cairn.KindCorrupt
	}
	return &cairn.Error{Op: "read zfs stream", Kind: kind, Err: fmt.Errorf("record %d: %w", records, err), Hint: cairn.HintOf(err)}
}

// Peek reads a stream's first header and returns it with a reader of the whole
// stream, header included: what a receiver needs that hands the stream on. It
// takes streams with unknown features too.
func Peek(r io.Reader) (Header, io.Reader, error) {
	var seen bytes.Buffer
	in := &Reader{r: io.TeeReader(r, &seen)}
	if _, err := in.next(); err != nil {
		return Header{}, nil, readError(err, in.state.records)
	}
	return in.header, io.MultiReader(&seen, r), nil
}

// state is where in a stream one is, with the checksum so far; Reader and Checker
// share it.
type state struct {
	order    binary.ByteOrder
	unsummed bool // somebody else verifies the checksums
	sum      fletcher
	header   Header // the last
	compound bool   // the first header was one
	inside   bool   // between a begin and its end
	ended    bool   // nothing may follow
	records  uint64
}

// record reads the next record's head and says how long its payload is.
func (s *state) record(b []byte) (Record, uint64, error) {
	s.records++ // the first has number 1
	if s.ended {
		return Record{}, 0, errors.New("bytes behind the end of the stream")
	}
	if !s.inside {
		return s.outside(b)
	}
	rec, err := parseRecord(s.order, b)
	if err != nil {
		return Record{}, 0, err
	}
	if rec.Type == TypeEnd && (rec.endSum != s.sum && !s.unsummed || s.header.Compound && !isZero(b[8+sumBytes:])) {
		return Record{}, 0, errors.New("the checksum over all records does not match")
	}
	s.payload(b[:sumAt])
	if !rec.sum.isZero() && rec.sum != s.sum && !s.unsummed {
		return Record{}, 0, fmt.Errorf("the checksum of a record of type %v does not match", rec.Type)
	}
	s.payload(b[sumAt:])
	if rec.toGUID != uint64(s.header.ToGUID) && rec.toGUID != 0 {
		return Record{}, 0, fmt.Errorf("a record of type %v belongs to %v, the stream is of %v", rec.Type, cairn.GUID(rec.toGUID), s.header.ToGUID)
	}
	if rec.Type == TypeEnd {
		s.inside = false
		s.ended = !s.compound
	}
	return rec, rec.payload, nil
}

// outside reads a BEGIN, or the END behind the last substream.
func (s *state) outside(b []byte) (Record, uint64, error) {
	if s.compound && Type(s.order.Uint32(b)) == TypeEnd {
		if !isZero(b[4:]) {
			return Record{}, 0, errors.New("the last record has content")
		}
		s.ended = true
		return Record{Type: TypeEnd}, 0, nil
	}
	h, length, err := parseHeader(b)
	switch {
	case err != nil:
		return Record{}, 0, err
	case length > MaxPayload || length%4 != 0:
		return Record{}, 0, fmt.Errorf("a header with a payload of %d bytes", length)
	case s.compound && h.Compound:
		return Record{}, 0, errors.New("a compound stream in a compound stream")
	case s.compound && h.BigEndian != s.header.BigEndian:
		return Record{}, 0, errors.New("the byte order changes inside the stream")
	}
	s.order = binary.LittleEndian
	if h.BigEndian {
		s.order = binary.BigEndian
	}
	s.compound = s.compound || h.Compound
	s.header, s.inside, s.sum = h, true, fletcher{}
	s.sum.add(b, h.BigEndian)
	return Record{Type: TypeBegin}, length, nil
}

func isZero(p []byte) bool {
	for _, c := range p {
		if c != 0 {
			return false
		}
	}
	return true
}

// payload adds some bytes of a record, in whole words, to the sum.
func (s *state) payload(p []byte) {
	if !s.unsummed {
		s.sum.add(p, s.header.BigEndian)
	}
}

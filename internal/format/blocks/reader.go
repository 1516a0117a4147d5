package blocks

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"cairn"
)

// ReaderOptions are the receiver's choices.
type ReaderOptions struct {
	Resume []byte // the token that this receiver gave to the sender; nil from the beginning
}

// Reader reads one stream. It is used by one goroutine. After an error every
// later call fails with the same one.
type Reader struct {
	r       *bufio.Reader
	header  Header
	seed    uint32
	unpack  unpacker
	at      Point // of the next record; at.Position is where the last extent ended
	start   int64
	section *section
	token   Point // of the last point met
	head    [recordSize]byte
	payload []byte
	scratch [8]byte
	err     error
}

// NewReader reads the header from r. KindConflict when the stream goes on from
// another point than the token's.
func NewReader(r io.Reader, o ReaderOptions) (*Reader, error) {
	in := &Reader{r: bufio.NewReaderSize(r, 64<<10)}
	h, p, err := readHeader(in.r)
	if err != nil {
		return nil, err
	}
	want, err := resumePoint(h, p.layout, o.Resume)
	if err != nil {
		return nil, err
	}
	if p != want {
		return nil, &cairn.Error{Op: "read blocks stream", Subject: h.To.Name, Kind: cairn.KindConflict,
			Err:  fmt.Errorf("the stream goes on from byte %d, the receiver from byte %d", p.Position, want.Position),
			Hint: "send with the token of this receiver, or abort the partial receive"}
	}
	if in.section, err = newSection(h, p.layout); err != nil {
		return nil, err
	}
	in.header, in.seed, in.at, in.token, in.start = h, identity(h), p, p, p.Position
	in.section.begin(&in.at)
	return in, nil
}

// Header says what the stream carries.
func (r *Reader) Header() Header { return r.header }

// Position is where the stream goes on from, 0 at the beginning.
func (r *Reader) Position() int64 { return r.start }

// Counts says how much was read, since the very beginning of the stream.
func (r *Reader) Counts() Counts { return r.at.Counts }

// Token is the last point met, for [WriterOptions].Resume and
// [ReaderOptions].Resume. It is worth keeping once all records before that point
// are durable.
func (r *Reader) Token() []byte { return r.token.token() }

// Next returns the next record: extents in ascending order, and points. After
// io.EOF the whole stream has been checked, and its input read to its end.
func (r *Reader) Next() (Record, error) {
	if r.err != nil {
		return Record{}, r.err
	}
	rec, err := r.next()
	switch {
	case err != nil:
		r.err = readError(fmt.Sprintf("record %d", r.at.Sequence), err)
	case rec.Kind == kindEnd:
		r.err = io.EOF
	}
	return rec, r.err
}

func (r *Reader) next() (Record, error) {
	f, payload, err := r.record()
	if err != nil {
		return Record{}, err
	}
	r.at.Sequence++
	rec := Record{Kind: f.kind, Offset: f.offset, Length: f.length}
	switch f.kind {
	case KindPoint:
		if err := r.summary(payload); err != nil {
			return Record{}, err
		}
		r.at.Position = f.offset
		r.token = r.at
		r.section.begin(&r.at)
		return rec, nil
	case kindEnd:
		if err := r.summary(payload); err != nil {
			return Record{}, err
		}
		return rec, r.ended(f)
	case KindData:
		if rec.Data, err = r.unpack.unpack(f.encoding, payload, int(f.length)); err != nil {
			return Record{}, err
		}
	}
	r.section.extent(f.kind, f.offset, f.length, rec.Data)
	r.at.Counts.add(f.kind, f.length)
	r.at.Position = f.offset + f.length
	return rec, nil
}

// record reads one record and checks it; its payload is valid until the next.
func (r *Reader) record() (frame, []byte, error) {
	if err := fill(r.r, r.head[:]); err != nil {
		return frame{}, nil, err
	}
	f, err := parseFrame(r.head[:])
	if err != nil {
		return frame{}, nil, err
	}
	if err := f.check(r.at.Position, r.header.Size); err != nil {
		return frame{}, nil, err
	}
	if int(f.stored) > cap(r.payload) {
		r.payload = make([]byte, MaxData)
	}
	payload := r.payload[:f.stored]
	if err := fill(r.r, payload); err != nil {
		return frame{}, nil, err
	}
	if sum(r.seed, r.at.Sequence, &r.scratch, r.head[:], payload) != binary.LittleEndian.Uint32(r.head[recordSize-crcSize:]) {
		return frame{}, nil, errChecksum
	}
	return f, payload, nil
}

// summary compares what a point or the end says with what was read.
func (r *Reader) summary(payload []byte) error {
	r.section.close(&r.at)
	if parseCounts(payload) != r.at.Counts {
		return fmt.Errorf("it counts %+v, the stream held %+v", parseCounts(payload), r.at.Counts)
	}
	if [sha256.Size]byte(payload[countsSize:]) != r.at.chain {
		return errors.New("the hash of the content does not match")
	}
	return nil
}

// ended makes sure that nothing follows the end record but the input's own end.
func (r *Reader) ended(f frame) error {
	if f.offset != r.header.Size {
		return errors.New("the end record stands elsewhere than at the end")
	}
	switch _, err := r.r.ReadByte(); err {
	case nil:
		return errors.New("more bytes after the end of the stream")
	case io.EOF:
		return nil
	default:
		return inputError(err)
	}
}

// fill reads all of p. An input that ends before is a stream that was cut.
func fill(r io.Reader, p []byte) error {
	switch _, err := io.ReadFull(r, p); err {
	case nil:
		return nil
	case io.EOF, io.ErrUnexpectedEOF:
		return errShort
	default:
		return inputError(err)
	}
}

// inputError gives a failure of the input its kind.
func inputError(err error) error {
	k := kindOf(err)
	if k == cairn.KindOther {
		k = cairn.KindIO
	}
	return &cairn.Error{Op: "read input", Kind: k, Err: err}
}

// kindOf is the kind of a failure outside this package.
func kindOf(err error) cairn.Kind {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return cairn.KindCanceled
	}
	return cairn.KindOf(err)
}

// readError is the error of a reader at some part of the stream: the input's, or
// corruption that the codec found.
func readError(where string, err error) error {
	if k := cairn.KindOf(err); k != cairn.KindOther {
		return &cairn.Error{Op: "read blocks stream", Subject: where, Kind: k, Err: err}
	}
	return &cairn.Error{Op: "read blocks stream", Subject: where, Kind: cairn.KindCorrupt, Err: err,
		Hint: "send it again; where the receiver kept a resume point it goes on from there"}
}

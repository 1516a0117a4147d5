package blocks

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"cairn"
)

// WriterOptions are the sender's choices.
type WriterOptions struct {
	Compression Compression // empty: s2
	Resume      []byte      // the receiver's token; nil to begin
	PointBytes  int64       // of data between two points; 0 and more than MaxPointBytes are MaxPointBytes
}

// Writer writes one stream. It is used by one goroutine. After an error every
// later call fails with the same one.
type Writer struct {
	w       io.Writer
	header  Header
	seed    uint32
	pack    *packer
	at      Point // of the next record; at.Position is where the last extent ended
	section *section
	start   int64 // position of the token
	every   int64 // bytes of data between two points
	since   Counts
	pending frame // a zero or discard extent that may still grow; kind 0 is none
	buf     []byte
	scratch [8]byte
	err     error
}

const flushAt = 128 << 10

// zeroBlock is what Data compares with.
var zeroBlock [cairn.BlockSize]byte

// zeroRun is the shortest run of zeroes inside data that becomes a zero extent:
// below it the record's own bytes and work cost more than packing them.
const zeroRun = 4 * cairn.BlockSize

// NewWriter makes a writer of a stream to w. Nothing is written before the first
// record. KindInvalid when the header makes no sense, KindConflict when the token
// belongs to another stream.
func NewWriter(w io.Writer, h Header, o WriterOptions) (*Writer, error) {
	invalid := func(err error) error {
		return &cairn.Error{Op: "write blocks stream", Subject: h.To.Name, Kind: cairn.KindInvalid, Err: err}
	}
	if err := h.check(); err != nil {
		return nil, invalid(err)
	}
	at, err := resumePoint(h, version, o.Resume)
	if err != nil {
		return nil, err
	}
	running, err := newSection(h, at.layout)
	if err != nil {
		return nil, err
	}
	pack, err := newPacker(o.Compression)
	if err != nil {
		return nil, invalid(err)
	}
	every := o.PointBytes
	if every <= 0 || every > MaxPointBytes {
		every = MaxPointBytes
	}
	out := &Writer{w: w, header: h, seed: identity(h), pack: pack, at: at, start: at.Position, every: every,
		section: running, buf: make([]byte, 0, flushAt+MaxData+recordSize)}
	out.section.begin(&out.at)
	out.buf = appendHeader(out.buf, h, &at)
	return out, nil
}

// Position is where the stream goes on from: extents before it are not written
// again. It is 0 without a token.
func (w *Writer) Position() int64 { return w.start }

// Counts says how much was written, since the very beginning of the stream.
func (w *Writer) Counts() Counts { return w.at.Counts }

// Data writes the bytes at off, a multiple of 4 KiB long unless they end the
// volume. Offsets ascend from call to call, from Position on. Longer runs of
// zeroes in p become zero extents. p is not kept.
func (w *Writer) Data(off int64, p []byte) error {
	if err := w.admit(off, int64(len(p))); err != nil {
		return err
	}
	for len(p) > 0 && w.err == nil {
		zeroes, data := splitZeroes(p)
		if zeroes > 0 {
			w.grow(KindZero, off, int64(zeroes))
		}
		if data > 0 {
			w.data(off+int64(zeroes), p[zeroes:zeroes+data])
		}
		off += int64(zeroes + data)
		p = p[zeroes+data:]
	}
	return w.err
}

// Zero writes an extent that reads as zeroes, with the rules of Data.
func (w *Writer) Zero(off, length int64) error { return w.empty(KindZero, off, length) }

// Discard writes an extent that reads as zeroes and needs no room, with the rules
// of Data.
func (w *Writer) Discard(off, length int64) error { return w.empty(KindDiscard, off, length) }

// End vouches for everything and writes what is left. Without it the stream is
// seen as cut.
func (w *Writer) End() error {
	if w.err != nil {
		return w.err
	}
	w.settle()
	w.at.Position = w.header.Size
	w.summary(kindEnd)
	w.flush()
	if w.err != nil {
		return w.err
	}
	w.err = w.failed(cairn.KindInvalid, errors.New("the stream has ended"))
	return nil
}

func (w *Writer) empty(k Kind, off, length int64) error {
	if err := w.admit(off, length); err != nil {
		return err
	}
	w.grow(k, off, length)
	return w.err
}

// admit checks an extent against the order and the bounds of the stream.
func (w *Writer) admit(off, length int64) error {
	if w.err != nil {
		return w.err
	}
	next := w.at.Position
	if w.pending.kind != 0 {
		next = w.pending.offset + w.pending.length
	}
	if err := checkExtent(off, length, next, w.header.Size); err != nil {
		w.err = w.failed(cairn.KindInvalid, err)
	}
	return w.err
}

// grow adds an extent without content, to the one before where they meet.
func (w *Writer) grow(k Kind, off, length int64) {
	if w.pending.kind == k && w.pending.offset+w.pending.length == off {
		w.pending.length += length
		return
	}
	w.settle()
	w.pending = frame{kind: k, offset: off, length: length}
}

// settle writes the extent that may still have grown.
func (w *Writer) settle() {
	if w.pending.kind == 0 {
		return
	}
	f := w.pending
	w.pending = frame{}
	w.extent(f, nil, nil)
}

func (w *Writer) data(off int64, p []byte) {
	w.settle()
	for len(p) > 0 && w.err == nil {
		piece := p[:min(len(p), MaxData)]
		enc, payload := w.pack.pack(piece)
		w.extent(frame{kind: KindData, encoding: enc, stored: uint32(len(payload)), offset: off, length: int64(len(piece))}, piece, payload)
		off += int64(len(piece))
		p = p[len(piece):]
	}
}

// extent writes one extent's record, and a point before it when one is due.
func (w *Writer) extent(f frame, content, payload []byte) {
	if w.since.Records >= pointRecords || w.since.Records > 0 && w.since.Data+int64(len(content)) > w.every {
		w.summary(KindPoint)
		w.section.begin(&w.at)
		w.since = Counts{}
		w.flush()
	}
	w.section.extent(f.kind, f.offset, f.length, content)
	w.at.Counts.add(f.kind, f.length)
	w.since.add(f.kind, f.length)
	w.at.Position = f.offset + f.length
	w.record(f, payload)
}

// summary writes a point or the end: the counts and the hash so far.
func (w *Writer) summary(k Kind) {
	w.section.close(&w.at)
	payload := append(w.at.Counts.appendTo(make([]byte, 0, summarySize)), w.at.chain[:]...)
	w.record(frame{kind: k, stored: summarySize, offset: w.at.Position}, payload)
}

// record appends a record to the buffer, with its checksum.
func (w *Writer) record(f frame, payload []byte) {
	at := len(w.buf)
	w.buf = w.buf[:at+recordSize]
	head := w.buf[at:]
	f.put(head)
	binary.LittleEndian.PutUint32(head[recordSize-crcSize:], sum(w.seed, w.at.Sequence, &w.scratch, head, payload))
	w.buf = append(w.buf, payload...)
	w.at.Sequence++
	if len(w.buf) >= flushAt {
		w.flush()
	}
}

func (w *Writer) flush() {
	if w.err != nil {
		return
	}
	if _, err := w.w.Write(w.buf); err != nil {
		w.err = w.failed(cairn.KindIO, err)
	}
	w.buf = w.buf[:0]
}

// failed is the error of a writer; a cause that has a kind keeps it.
func (w *Writer) failed(k cairn.Kind, err error) error {
	if cause := kindOf(err); cause != cairn.KindOther {
		k = cause
	}
	return &cairn.Error{Op: "write blocks stream", Subject: w.header.To.Name, Kind: k, Err: fmt.Errorf("at byte %d of the volume: %w", w.at.Position, err)}
}

// splitZeroes finds what p begins with: a run of zero blocks and the data up to
// the next run that is long enough.
func splitZeroes(p []byte) (zeroes, data int) {
	zeroes = leadingZeroes(p)
	if zeroes < zeroRun && zeroes < len(p) {
		zeroes = 0
	}
	run := 0
	for i := zeroes; i < len(p); {
		block := p[i:min(i+cairn.BlockSize, len(p))]
		i += len(block)
		if !bytes.Equal(block, zeroBlock[:len(block)]) {
			run = 0
			continue
		}
		if run += len(block); run >= zeroRun {
			return zeroes, i - run - zeroes
		}
	}
	return zeroes, len(p) - zeroes
}

func leadingZeroes(p []byte) int {
	for i := 0; i < len(p); i += cairn.BlockSize {
		block := p[i:min(i+cairn.BlockSize, len(p))]
		if !bytes.Equal(block, zeroBlock[:len(block)]) {
			return i
		}
	}
	return len(p)
}

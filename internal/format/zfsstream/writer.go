package zfsstream

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"cairn"
)

// WriterOptions say which version of a volume the stream carries.
type WriterOptions struct {
	Name    string // DATASET@SNAPSHOT at the sender
	To      cairn.GUID
	From    cairn.GUID // zero: a full stream
	Created time.Time
	Size    int64 // of the volume, in bytes
	// Where a resumed stream goes on, from a token; Object zero: from the beginning.
	Object, Offset uint64
}

// Writer makes the stream of a zvol from a volume's content. It is used by one
// goroutine. After an error every later call fails with the same one.
//
// A full stream makes a zvol whose volblocksize is BlockSize(Size), and carries of
// each block what was given of it, in one record when that is all. An incremental
// one says nothing about the block size and fits any: OpenZFS writes what does not
// fill a block of the zvol into it.
type Writer struct {
	w     io.Writer
	o     WriterOptions
	sum   fletcher
	head  [RecordBytes]byte
	block []byte // full streams: the block at the offset at, of which some parts have come
	at    int64
	parts []part
	next  int64 // where the last extent ended
	err   error
}

// The sizes of records that a Writer makes.
const (
	maxBlock  = 16 << 10  // OpenZFS's own default for zvols
	maxRecord = 128 << 10 // what is legal without the feature large_blocks
	sector    = 512       // the unit of all extents
)

// BlockSize is the volblocksize of a zvol that a full stream makes: at most 16 KiB,
// and a divisor of the size.
func BlockSize(size int64) int {
	b := maxBlock
	for b > sector && size%int64(b) != 0 {
		b /= 2
	}
	return b
}

// NewWriter writes the beginning of a stream to w.
func NewWriter(w io.Writer, o WriterOptions) (*Writer, error) {
	if err := o.check(); err != nil {
		return nil, &cairn.Error{Op: "write zfs stream", Subject: o.Name, Kind: cairn.KindInvalid, Err: err}
	}
	out := &Writer{w: w, o: o}
	if o.From == 0 {
		out.block = make([]byte, BlockSize(o.Size))
	}
	out.begin()
	if out.sendsData() {
		if o.From == 0 {
			out.object(DataObject, typeData, BlockSize(o.Size))
		}
		out.free(DataObject, uint64(o.Size), toEnd)
	}
	return out, out.err
}

func (o *WriterOptions) check() error {
	switch {
	case o.To == 0:
		return errors.New("no GUID of the version to send")
	case !strings.Contains(o.Name, "@") || len(o.Name) >= nameBytes:
		return fmt.Errorf("%q is not the name of a snapshot", o.Name)
	case o.Object == DataObject && o.Offset%sector != 0:
		return fmt.Errorf("it cannot go on at byte %d, inside a sector", o.Offset)
	case o.Size <= 0 || o.Size%sector != 0:
		return fmt.Errorf("a zvol cannot have %d bytes", o.Size)
	}
	return nil
}

// sendsData reports whether the data is part of the stream: not of one that was
// cut behind it.
func (w *Writer) sendsData() bool { return w.o.Object <= DataObject }

// Position is the first byte of the volume that the stream needs.
func (w *Writer) Position() int64 {
	switch w.o.Object {
	case 0:
		return 0
	case DataObject:
		return int64(min(w.o.Offset, uint64(w.o.Size)))
	}
	return w.o.Size
}

// Data writes an extent: extents ascend and do not overlap. What lies before
// Position is left out. p is not kept.
func (w *Writer) Data(off int64, p []byte) error {
	off, n, skip := w.admit(off, int64(len(p)))
	if w.err != nil || n == 0 {
		return w.err
	}
	p = p[skip:]
	for len(p) > 0 && w.err == nil {
		var done int
		if w.o.From == 0 {
			done = w.gather(off, p)
		} else {
			done = aligned(off, len(p))
			w.write(DataObject, typeData, off, p[:done])
		}
		off, p = off+int64(done), p[done:]
	}
	return w.err
}

// aligned is the largest power of two, up to maxRecord, that divides off and fits.
// OpenZFS takes a record of exactly a block's length for that block, wherever in it
// the record begins: no record may have the length of some block and not its place.
func aligned(off int64, length int) int {
	n := maxRecord
	for n > length || off%int64(n) != 0 {
		n /= 2
	}
	return n
}

// Zero writes an extent that reads as zeroes, with the rules of Data.
func (w *Writer) Zero(off, length int64) error {
	off, length, _ = w.admit(off, length)
	if w.err == nil && length > 0 && w.o.From != 0 {
		w.free(DataObject, uint64(off), uint64(length))
	}
	return w.err
}

// admit checks an extent and cuts off what lies before the position.
func (w *Writer) admit(off, length int64) (at, n, skip int64) {
	if w.err == nil && (off < w.next || length < 0 || length > w.o.Size-off || (off|length)%sector != 0) {
		w.err = &cairn.Error{Op: "write zfs stream", Subject: w.o.Name, Kind: cairn.KindInvalid, Err: fmt.Errorf("%d bytes at %d after an extent that ends at %d, in %d bytes", length, off, w.next, w.o.Size)}
	}
	if w.err != nil {
		return 0, 0, 0
	}
	w.next = off + length
	if skip = w.Position() - off; skip > 0 {
		skip = min(skip, length)
		return off + skip, length - skip, skip
	}
	return off, length, 0
}

// part is a range within a block.
type part struct{ from, to int }

// gather puts p into the block at its offset and says how much of it fits.
func (w *Writer) gather(off int64, p []byte) int {
	within := int(off % int64(len(w.block)))
	if at := off - int64(within); at != w.at {
		w.settle()
		w.at = at
	}
	n := copy(w.block[within:], p)
	if last := len(w.parts) - 1; last >= 0 && w.parts[last].to == within {
		w.parts[last].to += n
	} else {
		w.parts = append(w.parts, part{within, within + n})
	}
	return n
}

// settle writes the parts of the block that came.
func (w *Writer) settle() {
	for _, p := range w.parts {
		for p.from < p.to {
			n := aligned(w.at+int64(p.from), p.to-p.from)
			w.write(DataObject, typeData, w.at+int64(p.from), w.block[p.from:p.from+n])
			p.from += n
		}
	}
	w.parts = w.parts[:0]
}

// End writes what is left: the zvol's size, and the record that vouches for all.
func (w *Writer) End() error {
	w.settle()
	w.object(propsObject, typeProps, propsBytes)
	w.free(propsObject, propsBytes, toEnd)
	w.write(propsObject, typeProps, 0, propsBlock(w.o.Size, uint64(w.o.To)|1))
	w.start(TypeEnd)
	w.sum.put(w.head[8:])
	w.guid(32)
	w.record(nil)
	if w.err != nil {
		return w.err
	}
	w.err = &cairn.Error{Op: "write zfs stream", Subject: w.o.Name, Kind: cairn.KindInvalid, Err: errors.New("the stream has ended")}
	return nil
}

// start begins a record of the type.
func (w *Writer) start(t Type) {
	clear(w.head[:])
	binary.LittleEndian.PutUint32(w.head[:], uint32(t))
}

func (w *Writer) u64(at int, v uint64) { binary.LittleEndian.PutUint64(w.head[8+at:], v) }
func (w *Writer) u32(at int, v uint32) { binary.LittleEndian.PutUint32(w.head[8+at:], v) }
func (w *Writer) guid(at int)          { w.u64(at, uint64(w.o.To)) }

func (w *Writer) begin() {
	var details []byte
	features := Features(0)
	if w.o.Object != 0 {
		features = FeatureResuming
		details = List{{"resume_object", w.o.Object}, {"resume_offset", w.o.Offset}}.appendNative(nil)
	}
	w.start(TypeBegin)
	binary.LittleEndian.PutUint32(w.head[4:], uint32(len(details)))
	w.u64(0, magic)
	w.u64(8, uint64(features)<<2|substream)
	w.u64(16, uint64(w.o.Created.Unix()))
	w.u32(24, typeZvol)
	w.guid(32)
	w.u64(40, uint64(w.o.From))
	copy(w.head[RecordBytes-nameBytes:], w.o.Name)
	w.sum.add(w.head[:], false)
	w.emit(details)
}

func (w *Writer) object(object uint64, kind uint32, blockSize int) {
	w.start(TypeObject)
	w.u64(0, object)
	w.u32(8, kind)
	w.u32(16, uint32(blockSize))
	w.head[8+26] = 1 // dnode slots
	w.guid(32)
	w.record(nil)
}

func (w *Writer) free(object, offset, length uint64) {
	w.start(TypeFree)
	w.u64(0, object)
	w.u64(8, offset)
	w.u64(16, length)
	w.guid(24)
	w.record(nil)
}

func (w *Writer) write(object uint64, kind uint32, off int64, p []byte) {
	w.start(TypeWrite)
	w.u64(0, object)
	w.u32(8, kind)
	w.u64(16, uint64(off))
	w.u64(24, uint64(len(p)))
	w.guid(32)
	w.head[8+40] = byte(CompressOff) // checksum: none
	w.record(p)
}

// record puts the sum into the record and writes it with its payload.
func (w *Writer) record(payload []byte) {
	binary.LittleEndian.PutUint32(w.head[4:], uint32(len(payload)))
	w.sum.add(w.head[:sumAt], false)
	w.sum.put(w.head[sumAt:])
	w.sum.add(w.head[sumAt:], false)
	w.emit(payload)
}

func (w *Writer) emit(payload []byte) {
	w.sum.add(payload, false)
	for _, p := range [][]byte{w.head[:], payload} {
		if w.err == nil && len(p) > 0 {
			_, w.err = w.w.Write(p)
		}
	}
}

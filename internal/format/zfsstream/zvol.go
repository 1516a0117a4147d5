package zfsstream

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"cairn"
)

// DataObject is the object of a zvol that is its content.
const DataObject = 1

const (
	propsObject = 2 // a ZAP with the entry "size"
	typeData    = 23
	typeProps   = 24
)

// toEnd is the length of a Free that reaches to the end of its object.
const toEnd = math.MaxUint64

// Extent is a piece of a zvol's content.
type Extent struct {
	Offset int64
	Length int64
	Data   []byte // Length bytes, valid until the next call; nil: it reads as zeroes
}

// VolumeReader reads the content of one zvol's version from a stream, full or
// incremental: extents of ascending offset. What a full stream leaves out reads as
// zeroes, what an incremental one leaves out is as in the base.
type VolumeReader struct {
	in     *Reader
	header Header
	unpack Unpacker
	next   int64 // where the last extent ended
	tail   int64 // from here all is zeroes, to be told last; -1: nothing
	size   int64
	ended  bool
}

// NewVolumeReader reads the headers from r. KindUnsupported, with the reason, for
// streams of which a volume cannot be made: of filesystems, of encrypted content
// (zfs send -w), redacted ones, and such that carry several snapshots.
func NewVolumeReader(r io.Reader) (*VolumeReader, error) {
	in, err := NewReader(r)
	if err != nil {
		return nil, err
	}
	if in.Header().Compound { // zfs send -p: the properties, then the stream itself
		for rec := (Record{}); rec.Type != TypeBegin || in.Header().Compound; {
			if rec, err = in.Next(); err != nil {
				return nil, noStream(err)
			}
		}
	}
	h := in.Header()
	if reason, hint := noVolume(h); reason != "" {
		return nil, &cairn.Error{Op: "make a volume of", Subject: h.ToName, Kind: cairn.KindUnsupported, Err: errors.New(reason), Hint: hint}
	}
	return &VolumeReader{in: in, header: h, tail: -1}, nil
}

func noStream(err error) error {
	if errors.Is(err, io.EOF) && cairn.KindOf(err) == cairn.KindOther {
		return &cairn.Error{Op: "read zfs stream", Kind: cairn.KindUnsupported, Err: errors.New("it carries no snapshot")}
	}
	return err
}

// noVolume says why no volume can be made of a stream, and what to do.
func noVolume(h Header) (reason, hint string) {
	switch {
	case h.Kind != cairn.KindZvol:
		return "it is the stream of a filesystem", "receive it at a place with ZFS"
	case h.Features&FeatureRaw != 0:
		return "its content is encrypted (zfs send -w)", "send it without raw, or receive it at a place with ZFS"
	case h.Features&FeatureRedacted != 0:
		return "parts of it are left out (zfs send --redact)", "send it whole"
	}
	return "", ""
}

// Header is that of the snapshot's stream.
func (v *VolumeReader) Header() Header { return v.header }

// Size is the zvol's size in bytes as the stream tells it: 0 before Next has
// answered io.EOF, and in incremental streams that leave it as it was.
func (v *VolumeReader) Size() int64 { return v.size }

// Next returns the next extent. The length of the last one may reach beyond the end
// of the zvol, where nothing but zeroes is. After io.EOF the whole stream has been
// checked, and its input read to its end.
func (v *VolumeReader) Next() (Extent, error) {
	for {
		rec, err := v.in.Next()
		if err != nil {
			return Extent{}, err
		}
		e, is, err := v.record(rec)
		if err != nil {
			return Extent{}, readError(err, v.in.state.records)
		}
		if is {
			return e, nil
		}
	}
}

func (v *VolumeReader) record(rec Record) (Extent, bool, error) {
	switch {
	case v.ended && rec.Type == TypeBegin:
		return Extent{}, false, &cairn.Error{Op: "make a volume of", Subject: v.header.ToName, Kind: cairn.KindUnsupported, Err: errors.New("the stream carries several snapshots"), Hint: "send them one by one"}
	case rec.Type == TypeEnd && !v.ended:
		v.ended = true
		return v.rest()
	case rec.Type == TypeObject && rec.Object == DataObject && rec.ObjectType != typeData:
		return Extent{}, false, fmt.Errorf("object %d has the type %d", rec.Object, rec.ObjectType)
	case rec.Type == TypeFreeObjects && rec.Object <= DataObject && rec.Count > DataObject-rec.Object:
		return Extent{}, false, errors.New("the zvol's data is freed as a whole")
	case rec.Object == DataObject:
		return v.data(rec)
	case rec.Object == propsObject && (rec.Type == TypeWrite || rec.Type == TypeEmbedded):
		return Extent{}, false, v.properties(rec)
	}
	return Extent{}, false, nil
}

// rest is what was to be told last.
func (v *VolumeReader) rest() (Extent, bool, error) {
	if v.tail < 0 {
		return Extent{}, false, nil
	}
	return Extent{Offset: v.tail, Length: math.MaxInt64 - v.tail}, true, nil
}

func (v *VolumeReader) data(rec Record) (Extent, bool, error) {
	switch rec.Type {
	case TypeFree:
		if rec.Length == toEnd && rec.Offset <= math.MaxInt64 {
			v.tail = int64(rec.Offset)
			return Extent{}, false, nil
		}
		e, err := v.extent(rec)
		return e, true, err
	case TypeWrite, TypeEmbedded:
		e, err := v.extent(rec)
		if err == nil {
			e.Data, err = v.unpack.Unpack(rec)
		}
		return e, true, err
	case TypeObject:
		return Extent{}, false, nil
	}
	return Extent{}, false, fmt.Errorf("a record of type %v in a zvol", rec.Type)
}

// extent holds a record's range to the order of the stream.
func (v *VolumeReader) extent(rec Record) (Extent, error) {
	e := Extent{Offset: int64(rec.Offset), Length: int64(rec.Length)}
	if e.Offset < v.next || e.Length <= 0 || e.Length > math.MaxInt64-e.Offset {
		return Extent{}, fmt.Errorf("%d bytes at %d after an extent that ends at %d", rec.Length, rec.Offset, v.next)
	}
	if v.tail >= 0 && e.Offset+e.Length > v.tail {
		return Extent{}, fmt.Errorf("%d bytes at %d beyond the end at %d", rec.Length, rec.Offset, v.tail)
	}
	v.next = e.Offset + e.Length
	return e, nil
}

// The layout of a ZAP of one block: a head of 64 bytes, entries of 64.
const (
	zapMicro     = 1<<63 + 3
	zapEntry     = 64
	zapNameAt    = 14
	propsBytes   = 512
	sizeProperty = "size"
)

func (v *VolumeReader) properties(rec Record) error {
	b, err := v.unpack.Unpack(rec)
	if err != nil {
		return err
	}
	o := v.in.state.order
	if len(b) < 2*zapEntry || o.Uint64(b) != zapMicro {
		return errors.New("the zvol's properties are no ZAP of one block")
	}
	for b = b[zapEntry:]; len(b) >= zapEntry; b = b[zapEntry:] {
		name, _, _ := bytes.Cut(b[zapNameAt:zapEntry], []byte{0})
		if string(name) != sizeProperty {
			continue
		}
		if v.size = int64(o.Uint64(b)); v.size <= 0 {
			return fmt.Errorf("a zvol of %d bytes", v.size)
		}
	}
	return nil
}

// propsBlock is the ZAP that says a zvol's size.
func propsBlock(size int64, salt uint64) []byte {
	b := make([]byte, propsBytes)
	le := binary.LittleEndian
	le.PutUint64(b, zapMicro)
	le.PutUint64(b[8:], salt)
	le.PutUint64(b[zapEntry:], uint64(size))
	copy(b[zapEntry+zapNameAt:], sizeProperty)
	return b
}

// Package changes keeps on disk which blocks of a volume were written: marks,
// which are coarse, small and durable before a write is issued, and sets, which
// are exact and written at a capture or a checkpoint. Both layouts are in
// docs/formats/volume.md.
//
// It promises that a mark counts once Sync returned nil, and that reading never
// leaves one out that counted: where a log of marks is damaged below what was
// known durable, the reader is told and has to count everything as written. Bytes
// behind that may be a torn record, which nothing ever stood on. Marks are kept
// twice (package twin): rot of one block of their log costs nothing.
package changes

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"iter"

	"cairn/internal/mech/blockio"
	"cairn/internal/mech/extent"
	"cairn/internal/mech/twin"
)

const (
	marksMagic = 0x324b4d43 // "CMK2"
	marksPlain = 0x314b4d43 // "CMK1": a log without twins, as earlier builds wrote it
	recordSize = 512
	recordHead = 64
	markSize   = 16
	perRecord  = (recordSize - recordHead) / markSize
)

var table = crc32.MakeTable(crc32.Castagnoli)

// Marks is an open log of marks: those of one epoch.
type Marks struct {
	store uint64
	epoch uint64
	file  blockio.File
	twins *twin.Log
	end   int64
	known int64
}

// NewMarks is the log of an empty file.
func NewMarks(f blockio.File, store, epoch uint64) *Marks {
	return &Marks{store: store, epoch: epoch, file: f, twins: twin.New(f, 0)}
}

// Epoch is the log's epoch.
func (m *Marks) Epoch() uint64 { return m.epoch }

// Append writes marks for the runs of blocks. They count only after Sync.
func (m *Marks) Append(interval uint64, runs *extent.Bitmap) error {
	p := m.encode(interval, runs.All())
	if err := m.twins.WriteAt(p, m.end); err != nil {
		return err
	}
	m.end += int64(len(p))
	return nil
}

// encode lays the runs out in as many records as they need.
func (m *Marks) encode(interval uint64, runs iter.Seq2[uint64, uint64]) []byte {
	var p []byte
	le := binary.LittleEndian
	n := 0
	finish := func() {
		if n > 0 {
			r := p[len(p)-recordSize:]
			le.PutUint16(r[48:], uint16(n))
			le.PutUint32(r[4:], crc32.Checksum(r[8:], table))
		}
	}
	for first, count := range runs {
		if n == 0 || n == perRecord {
			finish()
			n = 0
			r := make([]byte, recordSize)
			le.PutUint32(r[0:], marksMagic)
			le.PutUint64(r[8:], m.store)
			le.PutUint64(r[16:], m.epoch)
			le.PutUint64(r[24:], interval)
			le.PutUint64(r[32:], uint64(m.end)+uint64(len(p)))
			le.PutUint64(r[40:], uint64(m.known))
			p = append(p, r...)
		}
		at := len(p) - recordSize + recordHead + n*markSize
		le.PutUint64(p[at:], first)
		le.PutUint64(p[at+8:], count)
		n++
	}
	finish()
	return p
}

// Sync makes everything appended durable.
func (m *Marks) Sync() error {
	if err := m.file.Sync(); err != nil {
		return err
	}
	m.known = m.end
	return nil
}

// Close releases the file.
func (m *Marks) Close() error { return m.file.Close() }

// ReadMarks adds every block marked in intervals from on to the set. whole is
// false when marks that counted are unreadable in both copies, or cut off: then
// any block may be written.
func ReadMarks(f blockio.File, store, epoch, from uint64, set *extent.Bitmap) (whole bool, err error) {
	image, sign, err := loadMarks(f)
	if err != nil {
		return false, err
	}
	le := binary.LittleEndian
	firstBad, known, end := image.Len(), int64(0), int64(0)
	for at := int64(0); at+recordSize <= image.Len(); at += recordSize {
		r := goodRecord(image, sign, store, epoch, at)
		if r == nil {
			firstBad = min(firstBad, at)
			continue
		}
		end = at + recordSize
		known = max(known, int64(le.Uint64(r[40:])))
		if le.Uint64(r[24:]) < from {
			continue
		}
		for i := range min(int(le.Uint16(r[48:])), perRecord) {
			m := r[recordHead+i*markSize:]
			set.Set(le.Uint64(m), le.Uint64(m[8:]))
		}
	}
	return firstBad >= known && (sign != marksMagic || !image.Cut(end)), nil
}

// loadMarks reads the file, with twins or without, and tells the sign of its
// records.
func loadMarks(f blockio.File) (*twin.Image, uint32, error) {
	first := make([]byte, 4)
	if _, err := f.ReadAt(first, 0); err != nil || binary.LittleEndian.Uint32(first) != marksPlain {
		image, err := twin.Read(f)
		return image, marksMagic, err
	}
	size, err := f.Size()
	if err != nil {
		return nil, 0, err
	}
	p := make([]byte, size/recordSize*recordSize)
	if _, err := f.ReadAt(p, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, 0, err
	}
	return twin.Plain(p), marksPlain, nil
}

// goodRecord gives the record at the offset from whichever copy holds it, nil
// when none does.
func goodRecord(image *twin.Image, sign uint32, store, epoch uint64, at int64) []byte {
	le := binary.LittleEndian
	for _, p := range image.Copies(at) {
		r := p[:recordSize]
		if le.Uint32(r) == sign && le.Uint32(r[4:]) == crc32.Checksum(r[8:], table) &&
			le.Uint64(r[8:]) == store && le.Uint64(r[16:]) == epoch && le.Uint64(r[32:]) == uint64(at) {
			return r
		}
	}
	return nil
}

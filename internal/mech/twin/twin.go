// Package twin keeps a small log in a file so that rot of one block of it costs
// nothing: every page of the log stands in the file twice, in two blocks of 4 KiB
// that no single bad block can hit together. The catalog and the logs of marks of a
// volume are kept so. The layout is in docs/formats/volume.md, under "Twins".
//
// It promises that what was written and synced is among what From yields as long
// as one copy of each page is left, and that a file which was cut off behind a
// record is told from one that ended there: behind the last record stands always
// one page that is empty. It knows nothing of records; whoever reads says by its
// checksums which of the copies is good.
//
// It locks nothing. A write that failed leaves its range in doubt in both copies.
package twin

import (
	"bytes"
	"errors"
	"io"
	"iter"
	"syscall"

	"cairn/internal/mech/blockio"
)

const (
	// Page is the unit that is kept twice: a block of the store.
	Page = 4096
	step = 8 // pages of log by which a file grows
)

// Log is a file of twins that is written to.
type Log struct {
	file blockio.File
	size int64 // of the file
}

// Reserve allocates room for end bytes of log, where the file system can, so that
// growing to there does not fail for want of it.
func (l *Log) Reserve(end int64) error {
	err := l.file.Allocate(0, fileBytes(end))
	if errors.Is(err, syscall.EOPNOTSUPP) {
		return nil
	}
	return err
}

// fileBytes is the length of the file of a log of end bytes.
func fileBytes(end int64) int64 {
	pages := (end+Page-1)/Page + 1
	return (pages + step - 1) / step * step * 2 * Page
}

// Bytes is how much of the file holds the first end bytes of a log.
func Bytes(end int64) int64 { return (end + Page - 1) / Page * 2 * Page }

// New is the log in a file of that many bytes.
func New(f blockio.File, size int64) *Log { return &Log{file: f, size: size} }

// Grow makes the file long enough for end bytes of log and the empty page behind
// them, allocated where the file system can. The new length of a file that holds
// something is durable when it returns: else a torn write could fill the last
// empty page and look as if what followed had been cut off. ENOSPC when there is
// no room: then nothing was written.
func (l *Log) Grow(end int64) error {
	want := fileBytes(end)
	if want <= l.size {
		return nil
	}
	if err := l.file.Allocate(l.size, want-l.size); err != nil && !errors.Is(err, syscall.EOPNOTSUPP) {
		return err
	}
	if err := l.file.Truncate(want); err != nil {
		return err
	}
	fresh := l.size == 0
	l.size = want
	if fresh {
		return nil
	}
	return l.file.Sync()
}

// WriteAt writes p at off of the log, into both copies. What of its last page lies
// behind p becomes zero when p begins a page.
func (l *Log) WriteAt(p []byte, off int64) error {
	if err := l.Grow(off + int64(len(p))); err != nil {
		return err
	}
	if head := off % Page; head != 0 {
		n := min(Page-head, int64(len(p)))
		for copyNo := range int64(2) {
			if _, err := l.file.WriteAt(p[:n], place(off, copyNo)); err != nil {
				return err
			}
		}
		p, off = p[n:], off+n
	}
	if len(p) == 0 {
		return nil
	}
	_, err := l.file.WriteAt(double(p), place(off, 0))
	return err
}

// place is where a byte of the log stands in the file.
func place(off, copyNo int64) int64 { return (2*(off/Page)+copyNo)*Page + off%Page }

// double lays pages out twice each.
func double(p []byte) []byte {
	pages := (len(p) + Page - 1) / Page
	out := make([]byte, 2*pages*Page)
	for i := range pages {
		from := p[i*Page : min((i+1)*Page, len(p))]
		copy(out[2*i*Page:], from)
		copy(out[(2*i+1)*Page:], from)
	}
	return out
}

// Image is a log as it was read: both copies of it.
type Image struct {
	copies [2][]byte
}

// Read reads the whole log. A block that the disk cannot read is empty in its
// copy.
func Read(f blockio.File) (*Image, error) {
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	data := make([]byte, size)
	if _, err := f.ReadAt(data, 0); err != nil && !errors.Is(err, io.EOF) {
		readEach(f, data)
	}
	m := &Image{}
	pages := (size + Page - 1) / Page
	for c := range m.copies {
		p := make([]byte, (pages+1)/2*Page)
		for i := int64(c); i < pages; i += 2 {
			copy(p[i/2*Page:], data[i*Page:min((i+1)*Page, size)])
		}
		m.copies[c] = p
	}
	return m, nil
}

// Plain is the image of a log without twins.
func Plain(data []byte) *Image { return &Image{copies: [2][]byte{data, data}} }

func readEach(f blockio.File, data []byte) {
	for at := 0; at < len(data); at += Page {
		p := data[at:min(at+Page, len(data))]
		if _, err := f.ReadAt(p, int64(at)); err != nil && !errors.Is(err, io.EOF) {
			clear(p)
		}
	}
}

// Len is the length of the log with its empty end, in bytes.
func (m *Image) Len() int64 { return int64(len(m.copies[0])) }

// Copies gives both copies from off on.
func (m *Image) Copies(off int64) [2][]byte { return [2][]byte{m.copies[0][off:], m.copies[1][off:]} }

// maxMixed bounds the pages of which From tries both copies independently.
const maxMixed = 6

// From yields what the log may hold from off on: the one copy, the other, and
// then mixtures of both page by page.
func (m *Image) From(off int64) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		a, b := m.copies[0][off:], m.copies[1][off:]
		if !yield(a) {
			return
		}
		different := m.differing(off)
		if len(different) == 0 || !yield(b) {
			return
		}
		for mask := 1; mask < 1<<len(different)-1; mask++ {
			mixed := bytes.Clone(a)
			for i, page := range different {
				if mask>>i&1 != 0 {
					from, to := max(page*Page-off, 0), min((page+1)*Page-off, int64(len(b)))
					copy(mixed[from:to], b[from:to])
				}
			}
			if !yield(mixed) {
				return
			}
		}
	}
}

// differing lists the first pages from off on whose copies are not equal.
func (m *Image) differing(off int64) (pages []int64) {
	for page := off / Page; page*Page < m.Len() && len(pages) < maxMixed; page++ {
		from, to := max(page*Page, off), min((page+1)*Page, m.Len())
		if !bytes.Equal(m.copies[0][from:to], m.copies[1][from:to]) {
			pages = append(pages, page)
		}
	}
	return pages
}

// Worn reports that the copies differ somewhere before end: what is read there
// stands on one of them alone.
func (m *Image) Worn(end int64) bool {
	return !bytes.Equal(m.copies[0][:end], m.copies[1][:end])
}

// Cut reports that the file was cut off: behind the log's end there is no empty
// page.
func (m *Image) Cut(end int64) bool { return (end+Page-1)/Page*Page+Page > m.Len() }

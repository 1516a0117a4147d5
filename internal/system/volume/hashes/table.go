package hashes

import (
	"errors"
	"io"
	"io/fs"
	"iter"
	"sync"

	"cairn/internal/mech/blockio"
	"cairn/internal/mech/extent"
)

// Changed is a set of blocks that were written between two moments; all of them
// when nobody knows.
type Changed struct {
	All bool
	Set *extent.Bitmap // nil is empty
}

// Has tells whether the block is in the set.
func (c Changed) Has(block uint64) bool {
	return c.All || c.Set != nil && c.Set.Has(block)
}

// within gives the runs of the set among count blocks from first on.
func (c Changed) within(first, count uint64) iter.Seq2[uint64, uint64] {
	switch {
	case c.All:
		return func(yield func(uint64, uint64) bool) { yield(first, count) }
	case c.Set == nil:
		return func(func(uint64, uint64) bool) {}
	}
	return c.Set.Runs(first, count)
}

// Table is the file of a table. Its methods may be called from several goroutines.
type Table struct {
	fsys blockio.FS
	name string
	id   Identity
	key  []byte

	mu     sync.Mutex // guards what follows
	file   blockio.File
	update *Update // the one under way
	closed bool
	buf    [pageSize]byte
}

// Open opens the table of that file name, which is made when something is first
// written.
func Open(fsys blockio.FS, name string, id Identity, key []byte) (*Table, error) {
	t := &Table{fsys: fsys, name: name, id: id, key: key}
	if _, err := NewHasher(key); err != nil {
		return nil, err
	}
	f, err := fsys.Open(name, true)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	t.file = f
	return t, nil
}

// Close closes the file. Updates and views of the table fail from then on.
func (t *Table) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed, t.update = true, nil
	if t.file == nil {
		return nil
	}
	return t.file.Close()
}

// Bytes is the room that the table takes, as far as the file system tells.
func (t *Table) Bytes() (n int64, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for start, end := range t.data(&err) {
		n += end - start
	}
	return n, err
}

// data yields the ranges of the file that are no holes. Callers hold mu.
func (t *Table) data(err *error) iter.Seq2[int64, int64] {
	return func(yield func(int64, int64) bool) {
		if t.file == nil || t.closed {
			return
		}
		size, serr := t.file.Size()
		if *err = serr; serr != nil {
			return
		}
		for off := int64(0); off < size; {
			start, end, derr := t.file.Data(off)
			if derr != nil {
				*err = derr
				return
			}
			if start >= size || end <= off || !yield(start, min(end, size)) {
				return
			}
			off = end
		}
	}
}

var errClosed = errors.New("the block hash table is closed")

// load reads a page; one that is bad or not there is empty, and known is false.
// Callers hold mu.
func (t *Table) load(number uint64, magic uint32) (p *page, known bool, err error) {
	if t.closed {
		return nil, false, errClosed
	}
	p = &page{number: number, magic: magic}
	if t.file == nil {
		return p, false, nil
	}
	buf := t.buf[:]
	if _, err := t.file.ReadAt(buf, int64(number)*pageSize); err != nil {
		if errors.Is(err, io.EOF) {
			err = nil // behind the last page
		}
		return p, false, err
	}
	p, known = decode(t.id, number, magic, buf)
	return p, known, nil
}

// store writes a page. Callers hold mu.
func (t *Table) store(p *page) error {
	if t.closed {
		return errClosed
	}
	if t.file == nil {
		f, err := t.fsys.Create(t.name)
		if err != nil {
			return err
		}
		t.file = f
	}
	buf := t.buf[:]
	p.encode(t.id, buf)
	_, err := t.file.WriteAt(buf, int64(p.number)*pageSize)
	return err
}

// sync makes what was stored durable. Callers hold mu.
func (t *Table) sync() error {
	if t.file == nil {
		return nil
	}
	return t.file.Sync()
}

// Clear makes the entries of the blocks unknown, durably, and ends the update under
// way: the content that it was made of is being given up.
func (t *Table) Clear(gone Changed) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.update = nil
	err := t.each(gone, func(p *page, first, count uint64) (bool, error) { return p.clear(first, count, gone), nil })
	if err != nil {
		return err
	}
	return t.sync()
}

// each calls do for every page that is there and has to do with one of the blocks,
// and stores it when do says that it changed. Callers hold mu.
func (t *Table) each(of Changed, do func(p *page, first, count uint64) (bool, error)) (err error) {
	visit := func(no uint64) error {
		first, count, magic := span(no)
		p, known, err := t.load(no, magic)
		if err != nil || !known {
			return err
		}
		changed, err := do(p, first, count)
		if err == nil && changed {
			err = t.store(p)
		}
		return err
	}
	for no := range t.pages(of, &err) {
		if verr := visit(no); verr != nil {
			return verr
		}
	}
	return err
}

// pages yields the numbers of the pages that may be there and have to do with one
// of the blocks. Callers hold mu.
func (t *Table) pages(of Changed, err *error) iter.Seq[uint64] {
	return func(yield func(uint64) bool) {
		if of.All {
			for start, end := range t.data(err) {
				for no := uint64(start) / pageSize; int64(no)*pageSize < end; no++ {
					if !yield(no) {
						return
					}
				}
			}
			return
		}
		if of.Set == nil || t.file == nil {
			return
		}
		next, nextMap := uint64(0), uint64(0) // pages below were yielded
		for b, n := range of.Set.All() {
			for g := b / perPage; g <= (b+n-1)/perPage; g++ {
				if no, _ := mapOf(g); no >= nextMap {
					nextMap = no + 1
					if !yield(no) {
						return
					}
				}
				if no := pageOf(g); no >= next {
					next = no + 1
					if !yield(no) {
						return
					}
				}
			}
		}
	}
}

// span is the blocks with which a page has to do, and what kind of page it is.
func span(number uint64) (first, count uint64, magic uint32) {
	groups := number / (perMap + 1) * perMap
	if at := number % (perMap + 1); at > 0 {
		return (groups + at - 1) * perPage, perPage, magicHashes
	}
	return groups * perPage, perMap * perPage, magicZeroes
}

// clear makes what the page says of blocks in the set unknown; first is that of its
// first block. It tells whether anything changed.
func (p *page) clear(first, count uint64, gone Changed) (changed bool) {
	for b, n := range gone.within(first, count) {
		if p.magic == magicZeroes {
			for g := (b - first) / perPage; g <= (b-first+n-1)/perPage; g++ {
				changed = changed || p.bit(g)
				p.setBit(g, false)
			}
			continue
		}
		for at := int(b - first); at < int(b-first+n); at++ {
			changed = changed || p.entry(at) != Unknown
			p.setEntry(at, Unknown)
		}
	}
	return changed
}

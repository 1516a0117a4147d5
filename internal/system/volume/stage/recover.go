package stage

import (
	"cmp"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"io/fs"
	"slices"

	"cairn/internal/mech/blockio"
)

// Recover gives the writes that the file of a process which died holds, in their
// order; none when it is of another store or boot, or is not there.
func (a *Area) Recover() ([]Block, error) {
	f, found, err := a.load()
	if f != nil {
		err = errors.Join(err, f.Close())
	}
	var list []Block
	for _, r := range found {
		list = append(list, r.blocks...)
	}
	return list, err
}

// Adopt stages anew what Recover gives, where it lies: the area, which has no writes
// yet, goes on as that of the process which died.
func (a *Area) Adopt() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	f, found, err := a.load()
	if err != nil || len(found) == 0 {
		if f != nil {
			err = errors.Join(err, f.Close())
		}
		return err
	}
	last := len(found) - 1
	a.file, a.filling, a.number = f, found[last].Round, found[last].number
	if last > 0 {
		a.moving = found[0].Round
	}
	a.busy.Add(int64(len(found)))
	return nil
}

// found is a round of a process that died, and its blocks in the order in which
// they were written.
type found struct {
	*Round
	blocks []Block
}

// load reads the file and gives the rounds in it that hold something, the older one
// first; no file when there is none.
func (a *Area) load() (blockio.File, []found, error) {
	f, err := a.fs.Open(a.name, true)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	var list []found
	for slot := range int64(2) {
		p, err := a.id.read(f, slot*roundBytes)
		if err != nil {
			return f, nil, err
		}
		if r := a.id.parse(p); r.records > 0 {
			r.slot = slot
			list = append(list, r)
		}
	}
	slices.SortFunc(list, func(a, b found) int { return cmp.Compare(a.number, b.number) })
	return f, list, nil
}

// read gives the region at the offset; nil for one of another boot, or none, which
// its first header tells.
func (id Identity) read(f blockio.File, off int64) ([]byte, error) {
	head := make([]byte, headSize)
	if n, err := f.ReadAt(head, off); n < headSize || !id.ours(head) {
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return nil, err
	}
	p := make([]byte, roundBytes)
	if _, err := f.ReadAt(p, off); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return p, nil
}

// ours tells whether a header is of this store and boot.
func (id Identity) ours(head []byte) bool {
	le := binary.LittleEndian
	return le.Uint32(head) == magic && le.Uint64(head[8:]) == id.Store && le.Uint64(head[16:]) == id.boot()
}

// parse reads records up to the first that is not whole, not ours, or not of the
// round that the first one belongs to.
func (id Identity) parse(image []byte) found {
	r := found{Round: &Round{image: image, room: roundBytes, at: map[uint64]int{}}}
	le := binary.LittleEndian
	for p := image; len(p) >= headSize; p = image[r.end:] {
		count := uint64(le.Uint32(p[40:]))
		if !id.ours(p) || le.Uint32(p[44:]) != r.records || count > uint64(len(p)-headSize)/blockSize {
			break
		}
		size := headSize + int(count)*blockSize
		if le.Uint32(p[4:]) != crc32.Checksum(p[8:size], table) || r.records > 0 && le.Uint64(p[24:]) != r.number {
			break
		}
		r.number = le.Uint64(p[24:])
		for i := range int(count) {
			no, at := le.Uint64(p[32:])+uint64(i), r.end+headSize+i*blockSize
			r.at[no] = at
			r.blocks = append(r.blocks, Block{no, image[at:][:blockSize]})
		}
		r.end += size
		r.records++
	}
	return r
}

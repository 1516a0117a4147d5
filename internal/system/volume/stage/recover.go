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
	f, err := a.fs.Open(a.name, false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var rounds []round
	for slot := range int64(2) {
		r, err := a.id.read(f, slot*roundBytes)
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		rounds = append(rounds, r)
	}
	slices.SortFunc(rounds, func(a, b round) int { return cmp.Compare(a.number, b.number) })
	return append(rounds[0].blocks, rounds[1].blocks...), f.Close()
}

// read gives what the region at the offset holds. One of another boot, or none, is
// told by its first header.
func (id Identity) read(f blockio.File, off int64) (round, error) {
	head := make([]byte, headSize)
	if n, err := f.ReadAt(head, off); n < headSize || !id.ours(head) {
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return round{}, err
	}
	p := make([]byte, roundBytes)
	n, err := f.ReadAt(p, off)
	if err != nil && !errors.Is(err, io.EOF) {
		return round{}, err
	}
	return id.parse(p[:n]), nil
}

// ours tells whether a header is of this store and boot.
func (id Identity) ours(head []byte) bool {
	le := binary.LittleEndian
	return le.Uint32(head) == magic && le.Uint64(head[8:]) == id.Store && le.Uint64(head[16:]) == id.boot()
}

// round is what a region holds.
type round struct {
	number uint64
	blocks []Block
}

// parse reads records up to the first that is not whole, not ours, or not of the
// round that the first one belongs to.
func (id Identity) parse(p []byte) (r round) {
	le := binary.LittleEndian
	for n := uint32(0); len(p) >= headSize; n++ {
		count := uint64(le.Uint32(p[40:]))
		if !id.ours(p) || le.Uint32(p[44:]) != n || count > uint64(len(p)-headSize)/blockSize {
			return r
		}
		size := headSize + int(count)*blockSize
		if le.Uint32(p[4:]) != crc32.Checksum(p[8:size], table) || n > 0 && le.Uint64(p[24:]) != r.number {
			return r
		}
		r.number = le.Uint64(p[24:])
		for i := range int(count) {
			r.blocks = append(r.blocks, Block{le.Uint64(p[32:]) + uint64(i), p[headSize+i*blockSize:][:blockSize]})
		}
		p = p[size:]
	}
	return r
}

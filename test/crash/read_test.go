package crash_test

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"slices"
	"sync"

	"cairn"
	"cairn/internal/system/volume"
)

// scratch holds buffers of readBlocks, of which a run needs hundreds of thousands.
var scratch = sync.Pool{New: func() any { return new([]byte) }}

// readBlocks reads the blocks, ascending, of something with that many sectors, one
// after the other into one buffer, and shows it to use; what lies behind the end is
// zeroes there.
func readBlocks(read func(ctx context.Context, p []byte, off int64) error, blocks []int64, sectors int64, use func(p []byte) error) error {
	buf := scratch.Get().(*[]byte)
	defer scratch.Put(buf)
	if cap(*buf) < len(blocks)*blockSize {
		*buf = make([]byte, len(blocks)*blockSize)
	}
	p := (*buf)[:len(blocks)*blockSize]
	for i := 0; i < len(blocks); {
		n := 1
		for i+n < len(blocks) && blocks[i+n] == blocks[i]+int64(n) {
			n++
		}
		off, part := blocks[i]*blockSize, p[i*blockSize:(i+n)*blockSize]
		length := max(0, min(int64(len(part)), sectors*sectorSize-off))
		clear(part[length:])
		if length > 0 {
			if err := read(context.Background(), part[:length], off); err != nil {
				return err
			}
		}
		i += n
	}
	return use(p)
}

func readSnapshot(e *volume.Volume, v *version, blocks []int64, use func(p []byte) error) error {
	r, err := e.OpenVersion(context.Background(), v.id)
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }() // never fails
	return readBlocks(r.ReadAt, blocks, v.sectors, use)
}

// sectorsOf walks the sectors of blocks that were read one after the other.
func sectorsOf(p []byte, blocks []int64) iter.Seq2[int64, []byte] {
	return func(yield func(int64, []byte) bool) {
		for i := range len(p) / sectorSize {
			if !yield(blocks[i/perBlock]*perBlock+int64(i%perBlock), p[i*sectorSize:(i+1)*sectorSize]) {
				return
			}
		}
	}
}

// same compares sectors of something with what they should hold; sectors at end
// and behind do not exist.
func same(what string, p []byte, blocks []int64, end int64, want func(sector int64) []uint32) error {
	for s, sector := range sectorsOf(p, blocks) {
		if s >= end {
			break
		}
		if err := sameSector(what, sector, s, want(s)); err != nil {
			return err
		}
	}
	return nil
}

// sameRun is same for sectors that follow each other from first on.
func sameRun(what string, p []byte, first int64, want func(sector int64) []uint32) error {
	for i := range int64(len(p) / sectorSize) {
		if err := sameSector(what, p[i*sectorSize:(i+1)*sectorSize], first+i, want(first+i)); err != nil {
			return err
		}
	}
	return nil
}

func sameSector(what string, sector []byte, number int64, want []uint32) error {
	got, err := unstamp(sector, number)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if !slices.Contains(want, got) {
		return fmt.Errorf("%s: sector %d (block %d) holds write %d, not one of %v", what, number, number/perBlock, got, want)
	}
	return nil
}

// checkSnapshot compares a snapshot with the model: byte by byte where the model
// was rendered, which it is for all blocks that were ever touched.
func checkSnapshot(e *volume.Volume, v *version, blocks []int64) error {
	return readSnapshot(e, v, blocks, func(p []byte) error {
		if v.rendered != nil && bytes.Equal(p, v.rendered) {
			return nil
		}
		err := same("snapshot "+v.id.Name, p, blocks, v.sectors, func(s int64) []uint32 { return []uint32{v.content[s]} })
		if err == nil && v.rendered != nil {
			panic("a snapshot differs from its rendering and not from its content")
		}
		return err
	})
}

func checkHead(dev cairn.BlockDevice, sectors int64, blocks []int64, want func(int64) []uint32) error {
	return readBlocks(dev.ReadAt, blocks, sectors, func(p []byte) error { return same("head", p, blocks, sectors, want) })
}

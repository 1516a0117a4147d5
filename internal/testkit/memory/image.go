package memory

import (
	"hash/crc32"
	"slices"

	"cairn"
)

// block is 4 KiB of content that never changes; a nil *block reads as zeroes.
type block struct {
	data [cairn.BlockSize]byte
	sum  uint32
}

// image is the content of a head or snapshot. A clone shares the blocks.
type image struct {
	size   int64
	blocks []*block
}

func newImage(size int64) *image {
	return &image{size: size, blocks: make([]*block, blocksIn(size))}
}

func blocksIn(size int64) int64 { return (size + cairn.BlockSize - 1) / cairn.BlockSize }

func (m *image) clone() *image { return &image{size: m.size, blocks: slices.Clone(m.blocks)} }

// write puts p at off and marks the blocks it touches.
func (m *image) write(off int64, p []byte, dirty blockSet) {
	for len(p) > 0 {
		i, at := off/cairn.BlockSize, off%cairn.BlockSize
		n := min(int64(len(p)), cairn.BlockSize-at)
		b := &block{}
		if old := m.blocks[i]; old != nil {
			b.data = old.data
		}
		copy(b.data[at:], p[:n])
		b.sum = crc32.ChecksumIEEE(b.data[:])
		m.blocks[i] = b
		dirty[i] = struct{}{}
		off, p = off+n, p[n:]
	}
}

// zero clears whole blocks, and the tail block where the range ends the image.
func (m *image) zero(off, length int64, dirty blockSet) {
	for i := off / cairn.BlockSize; i < blocksIn(off+length); i++ {
		m.blocks[i] = nil
		dirty[i] = struct{}{}
	}
}

// read fills p from off; it returns the offset of a damaged block, or -1.
func (m *image) read(p []byte, off int64) (damaged int64) {
	for len(p) > 0 {
		i, at := off/cairn.BlockSize, off%cairn.BlockSize
		n := min(int64(len(p)), cairn.BlockSize-at)
		clear(p[:n])
		if b := m.blocks[i]; b != nil {
			if !b.sound() {
				return i * cairn.BlockSize
			}
			copy(p[:n], b.data[at:])
		}
		off, p = off+n, p[n:]
	}
	return -1
}

func (b *block) sound() bool { return crc32.ChecksumIEEE(b.data[:]) == b.sum }

// resize sets the size; what is cut off or added counts as changed.
func (m *image) resize(size int64, dirty blockSet) {
	old := int64(len(m.blocks))
	for i := min(old, size/cairn.BlockSize); i < max(old, blocksIn(size)); i++ {
		dirty[i] = struct{}{}
	}
	if size < m.size && size%cairn.BlockSize != 0 {
		m.write(size, make([]byte, min(m.size, blocksIn(size)*cairn.BlockSize)-size), dirty)
	}
	m.size = size
	n := blocksIn(size)
	if n < old {
		m.blocks = m.blocks[:n:n]
		return
	}
	m.blocks = append(m.blocks[:old:old], make([]*block, n-old)...)
}

// blockSet is a change set, by block number.
type blockSet map[int64]struct{}

func (s blockSet) add(more blockSet) {
	for i := range more {
		s[i] = struct{}{}
	}
}

// extents renders the set, clipped to size, ascending and merged.
func (s blockSet) extents(size int64) []cairn.Extent {
	numbers := make([]int64, 0, len(s))
	for i := range s {
		if i < blocksIn(size) {
			numbers = append(numbers, i)
		}
	}
	slices.Sort(numbers)
	var out []cairn.Extent
	for _, i := range numbers {
		off := i * cairn.BlockSize
		length := min(cairn.BlockSize, size-off)
		if n := len(out); n > 0 && out[n-1].End() == off {
			out[n-1].Length += length
			continue
		}
		out = append(out, cairn.Extent{Offset: off, Length: length, Kind: cairn.ExtentData})
	}
	return out
}

// heal puts a block's content back where it is damaged, if it is what the block's
// checksum says. Blocks are shared: all that share it are healed.
func (m *image) heal(p cairn.Patch, dry bool) (cairn.Mending, error) {
	if p.Offset < 0 || p.Offset%cairn.BlockSize != 0 || p.Offset >= m.size || int64(len(p.Data)) != min(cairn.BlockSize, m.size-p.Offset) {
		return 0, &cairn.Error{Op: "heal", Kind: cairn.KindInvalid, Hint: "a patch is one block"}
	}
	b := m.blocks[p.Offset/cairn.BlockSize]
	if b == nil || b.sound() {
		return cairn.MendNotBad, nil
	}
	var right block
	copy(right.data[:], p.Data)
	if crc32.ChecksumIEEE(right.data[:]) != b.sum {
		return cairn.MendRefused, nil
	}
	if !dry {
		b.data = right.data
	}
	return cairn.MendedBySum, nil
}

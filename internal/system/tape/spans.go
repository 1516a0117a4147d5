package tape

import (
	"cmp"
	"iter"
	"slices"

	"cairn/ltfs"
)

// spans is a set of bytes on the tape, as runs per partition. A byte's address is
// its record's block shifted left by blockShift, plus its place in the record: no
// record is longer than that.
type spans struct{ runs map[byte][]span }

type span struct{ from, to uint64 }

const blockShift = 24

// addTree adds what the files of an index have on tape.
func (s *spans) addTree(ix *ltfs.Index, blockSize uint64) {
	if s.runs == nil {
		s.runs = map[byte][]span{}
	}
	for _, node := range ix.All() {
		if node.File == nil {
			continue
		}
		for _, e := range node.File.Extents {
			if lastBlock(e, blockSize) >= 1<<(63-blockShift) {
				continue // no tape is that long
			}
			s.runs[e.Partition] = append(s.runs[e.Partition], spanOf(e, blockSize))
		}
	}
}

// spanOf is one run: the records that an extent goes through are full.
func spanOf(e ltfs.Extent, blockSize uint64) span {
	last := lastBlock(e, blockSize)
	within := uint64(e.ByteOffset) + e.ByteCount - (last-e.StartBlock)*blockSize
	to := last<<blockShift | within
	if within == blockSize {
		to = (last + 1) << blockShift
	}
	return span{e.StartBlock<<blockShift | uint64(e.ByteOffset), to}
}

// merge sorts the runs and joins those that touch; gaps needs it.
func (s *spans) merge() {
	for letter, list := range s.runs {
		slices.SortFunc(list, func(a, b span) int { return cmp.Compare(a.from, b.from) })
		joined := list[:0]
		for _, r := range list {
			if n := len(joined); n > 0 && r.from <= joined[n-1].to {
				joined[n-1].to = max(joined[n-1].to, r.to)
				continue
			}
			joined = append(joined, r)
		}
		s.runs[letter] = joined
	}
}

// gaps yields the stretches of a record that are not in the set.
func (s *spans) gaps(letter byte, block uint64, size uint32) iter.Seq2[uint32, uint32] {
	return func(yield func(uint32, uint32) bool) {
		list := s.runs[letter]
		at, end := block<<blockShift, block<<blockShift|uint64(size)
		i, _ := slices.BinarySearchFunc(list, at, func(r span, at uint64) int { return cmp.Compare(r.to, at+1) })
		for ; at < end; i++ {
			next := span{end, end}
			if i < len(list) {
				next = list[i]
			}
			if next.from > at && !yield(uint32(at-block<<blockShift), uint32(min(next.from, end)-block<<blockShift)) {
				return
			}
			at = max(at, next.to)
		}
	}
}

package segment

import (
	"cmp"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"slices"
	"sort"
	"sync/atomic"

	"cairn"
	"cairn/internal/mech/blockio"
	"cairn/internal/mech/extent"
)

// leafEntries is how many entries of an index file are looked at as one.
const (
	leafEntries = 170
	leafBytes   = leafEntries * indexEntry
)

// sealedIndex finds blocks in the index file of a closed segment. It keeps twelve
// bytes per leaf in memory, however the blocks are scattered, and checks a leaf
// whenever it reads it.
type sealedIndex struct {
	file      blockio.File
	entries   int
	leaves    []leaf
	end       uint64 // behind the last block
	all, lost uint64 // blocks
	last      atomic.Pointer[leafCopy]
}

// leafCopy is the leaf that was looked at last: look-ups go forward in small steps.
type leafCopy struct {
	no    int
	bytes []byte
}

// leaf is where entries begin and the checksum of their bytes.
type leaf struct {
	first uint64
	sum   uint32
}

// openIndex reads an index file once; nil when it is not readable, whole and in
// order, or not of this segment at this length.
func openIndex(f blockio.File, id Identity, length int64) (*sealedIndex, error) {
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	head := make([]byte, indexHead)
	if size < indexHead {
		return nil, nil
	}
	if _, err := f.ReadAt(head, 0); err != nil {
		return nil, nil
	}
	le := binary.LittleEndian
	if le.Uint32(head) != indexMagic || le.Uint64(head[8:]) != id.Store || le.Uint64(head[16:]) != id.Segment ||
		le.Uint64(head[24:]) != id.Incarnation || le.Uint64(head[32:]) != uint64(length) ||
		le.Uint64(head[48:]) != uint64(size-indexHead)/indexEntry || (size-indexHead)%indexEntry != 0 {
		return nil, nil
	}
	x := &sealedIndex{file: f, entries: int(size-indexHead) / indexEntry}
	if sum, good := x.scan(crc32.Checksum(head[8:], table)); !good || sum != le.Uint32(head[4:]) {
		return nil, nil
	}
	return x, nil
}

// scan reads every leaf and goes on with the checksum of the file; good is false
// when one cannot be read or is out of order.
func (x *sealedIndex) scan(sum uint32) (whole uint32, good bool) {
	buf := make([]byte, leafBytes)
	for no := 0; no*leafEntries < x.entries; no++ {
		p := buf[:x.size(no)]
		if _, err := x.file.ReadAt(p, x.offset(no)); err != nil && !errors.Is(err, io.EOF) {
			return 0, false
		}
		sum = crc32.Update(sum, table, p)
		x.leaves = append(x.leaves, leaf{binary.LittleEndian.Uint64(p), crc32.Checksum(p, table)})
		for ; len(p) > 0; p = p[indexEntry:] {
			e := decodeEntry(p)
			if e.first < x.end || !e.possible() {
				return 0, false
			}
			x.end = e.first + e.count
			x.all += e.count
			if e.kind == Lost {
				x.lost += e.count
			}
		}
	}
	return sum, true
}

func (x *sealedIndex) offset(no int) int64 { return indexHead + int64(no)*leafBytes }

// size is the bytes of the leaf.
func (x *sealedIndex) size(no int) int {
	return min(leafEntries, x.entries-no*leafEntries) * indexEntry
}

// indexed is one entry of an index file.
type indexed struct {
	first, count uint64
	kind         Kind
	slot         slot
}

func decodeEntry(p []byte) indexed {
	le := binary.LittleEndian
	return indexed{le.Uint64(p), uint64(le.Uint32(p[8:])), Kind(le.Uint32(p[12:])), slot{le.Uint32(p[16:]), le.Uint32(p[20:])}}
}

// possible refuses what no index has, so that every look-up gets on.
func (e indexed) possible() bool {
	switch e.kind {
	case Data:
		return e.count == 1 && e.first+1 > e.first
	case Zero, Lost:
		return e.count > 0 && e.first+e.count > e.first
	}
	return false
}

// each calls f for the entries that touch the blocks, ascending, until it says no.
func (x *sealedIndex) each(first, count uint64, f func(indexed) bool) error {
	limit := first + count
	if len(x.leaves) == 0 || first >= x.end || limit <= x.leaves[0].first {
		return nil
	}
	no, found := slices.BinarySearchFunc(x.leaves, first, func(l leaf, n uint64) int { return cmp.Compare(l.first, n) })
	if !found {
		no = max(no-1, 0)
	}
	for ; no < len(x.leaves) && x.leaves[no].first < limit; no++ {
		p, err := x.read(no)
		if err != nil {
			return err
		}
		skip := sort.Search(len(p)/indexEntry, func(i int) bool {
			e := decodeEntry(p[i*indexEntry:])
			return e.first+e.count > first
		})
		for p = p[skip*indexEntry:]; len(p) > 0; p = p[indexEntry:] {
			if e := decodeEntry(p); e.first >= limit || !f(e) {
				return nil
			}
		}
	}
	return nil
}

// read gives the bytes of a leaf, checked.
func (x *sealedIndex) read(no int) ([]byte, error) {
	if l := x.last.Load(); l != nil && l.no == no {
		return l.bytes, nil
	}
	p := make([]byte, x.size(no))
	if _, err := x.file.ReadAt(p, x.offset(no)); err != nil && !errors.Is(err, io.EOF) {
		return nil, x.damaged(err)
	}
	if crc32.Checksum(p, table) != x.leaves[no].sum {
		return nil, x.damaged(errors.New("checksum mismatch"))
	}
	x.last.Store(&leafCopy{no, p})
	return p, nil
}

func (x *sealedIndex) damaged(err error) error {
	return &cairn.Error{Op: "read index of preserved blocks", Kind: cairn.KindDamaged, Err: err,
		Hint: "open the volume again: the index is made anew from the segment"}
}

// find lists the runs within the blocks, ascending.
func (x *sealedIndex) find(first, count uint64) (runs []Run, err error) {
	err = x.each(first, count, func(e indexed) bool {
		from, to := max(e.first, first), min(e.first+e.count, first+count)
		last := len(runs) - 1
		if last < 0 || runs[last].Kind != e.kind || runs[last].First+runs[last].Count != from {
			runs = append(runs, Run{First: from, Kind: e.kind})
			last++
		}
		runs[last].Count += to - from
		if e.kind == Data {
			runs[last].slots = append(runs[last].slots, e.slot)
		}
		return true
	})
	return runs, err
}

func (x *sealedIndex) union(set *extent.Bitmap) error {
	return x.each(0, x.end, func(e indexed) bool {
		set.Set(e.first, e.count)
		return true
	})
}

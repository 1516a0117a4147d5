package crash_test

import (
	"encoding/binary"
	"fmt"
)

const (
	blockSize  = 4096
	sectorSize = 512
	perBlock   = blockSize / sectorSize
	regionSize = 1 << 20 // how far the engine rounds marks out
)

// A sector holds the number of the write that it is of, its own number, and 62
// words made of both. Number 0 is all zeroes.

// stamp fills p, the sectors from first on, as the write with that number does.
func stamp(p []byte, first int64, write uint32) {
	if write == 0 {
		clear(p)
		return
	}
	for at := 0; at < len(p); at += sectorSize {
		s := p[at : at+sectorSize]
		head := uint64(write)<<32 | uint64(first+int64(at/sectorSize))
		for i := 0; i < sectorSize; i += 8 { // the word at byte i is head times 2i+1
			binary.LittleEndian.PutUint64(s[i:], head+2*uint64(i)*head)
		}
	}
}

// unstamp tells which write the sector is of; an error when it is of none.
func unstamp(s []byte, number int64) (uint32, error) {
	head := binary.LittleEndian.Uint64(s)
	if head != 0 && uint32(head) != uint32(number) {
		return 0, fmt.Errorf("sector %d holds sector %d of write %d", number, uint32(head), head>>32)
	}
	want := head
	for i := 0; i < sectorSize; i += 8 {
		if binary.LittleEndian.Uint64(s[i:]) != want {
			return 0, fmt.Errorf("sector %d of write %d is mixed up", number, head>>32)
		}
		want += 16 * head
	}
	return uint32(head >> 32), nil
}

package changes

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"

	"cairn"
	"cairn/internal/mech/blockio"
	"cairn/internal/mech/extent"
)

const (
	setMagic = 0x31534343 // "CCS1"
	setHead  = 64
)

// WriteSet writes the set into f, which is empty. It does not sync.
func WriteSet(f blockio.File, store, id uint64, set *extent.Bitmap) error {
	p := make([]byte, setHead)
	le := binary.LittleEndian
	last, runs := uint64(0), uint64(0)
	for first, count := range set.All() {
		p = binary.AppendUvarint(p, first-last)
		p = binary.AppendUvarint(p, count)
		last = first + count
		runs++
	}
	le.PutUint32(p[0:], setMagic)
	le.PutUint64(p[8:], store)
	le.PutUint64(p[16:], id)
	le.PutUint64(p[24:], runs)
	le.PutUint64(p[32:], set.Count())
	le.PutUint64(p[40:], uint64(len(p)))
	le.PutUint32(p[4:], crc32.Checksum(p[8:], table))
	_, err := f.WriteAt(p, 0)
	return err
}

// ReadSet adds the stored set to set. KindDamaged when it is not what was written.
func ReadSet(f blockio.File, store, id uint64, set *extent.Bitmap) error {
	size, err := f.Size()
	if err != nil {
		return err
	}
	p := make([]byte, size)
	if _, err := f.ReadAt(p, 0); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	le := binary.LittleEndian
	if len(p) < setHead || le.Uint32(p) != setMagic || le.Uint64(p[8:]) != store || le.Uint64(p[16:]) != id ||
		le.Uint64(p[40:]) > uint64(len(p)) || le.Uint64(p[40:]) < setHead {
		return damagedSet()
	}
	p = p[:le.Uint64(p[40:])]
	if le.Uint32(p[4:]) != crc32.Checksum(p[8:], table) {
		return damagedSet()
	}
	last := uint64(0)
	for p = p[setHead:]; len(p) > 0; {
		gap, n := binary.Uvarint(p)
		count, k := binary.Uvarint(p[max(n, 0):])
		if n <= 0 || k <= 0 {
			return damagedSet()
		}
		set.Set(last+gap, count)
		last += gap + count
		p = p[n+k:]
	}
	return nil
}

func damagedSet() error {
	return &cairn.Error{Op: "read change set", Kind: cairn.KindDamaged, Hint: "what changed then is not known any more; everything counts as changed"}
}

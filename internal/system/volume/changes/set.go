package changes

import (
	"bufio"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"iter"

	"cairn"
	"cairn/internal/mech/blockio"
	"cairn/internal/mech/extent"
)

const (
	setMagic = 0x31534343 // "CCS1"
	setHead  = 64
	setPiece = 64 << 10 // of a stored set in memory
)

// WriteSet writes the set into f, which is empty, a piece at a time. It does not
// sync.
func WriteSet(f blockio.File, store, id uint64, set *extent.Bitmap) error {
	runs, length := uint64(0), uint64(setHead)
	for p, n := range encoded(set) {
		runs, length = runs+n, length+uint64(len(p))
	}
	first := make([]byte, setHead)
	le := binary.LittleEndian
	le.PutUint32(first[0:], setMagic)
	le.PutUint64(first[8:], store)
	le.PutUint64(first[16:], id)
	le.PutUint64(first[24:], runs)
	le.PutUint64(first[32:], set.Count())
	le.PutUint64(first[40:], length)
	sum, at := crc32.Checksum(first[8:], table), int64(setHead)
	for p := range encoded(set) {
		sum = crc32.Update(sum, table, p)
		if at == setHead {
			first = append(first, p...)
		} else if _, err := f.WriteAt(p, at); err != nil {
			return err
		}
		at += int64(len(p))
	}
	le.PutUint32(first[4:], sum)
	_, err := f.WriteAt(first, 0)
	return err
}

// encoded yields the runs of the set as they are stored, in pieces of about
// setPiece, and how many each holds. A piece is valid until the next.
func encoded(set *extent.Bitmap) iter.Seq2[[]byte, uint64] {
	return func(yield func([]byte, uint64) bool) {
		p := make([]byte, 0, setPiece)
		last, n := uint64(0), uint64(0)
		for first, count := range set.All() {
			p = binary.AppendUvarint(p, first-last)
			p = binary.AppendUvarint(p, count)
			last = first + count
			if n++; len(p) <= setPiece-2*binary.MaxVarintLen64 {
				continue
			}
			if !yield(p, n) {
				return
			}
			p, n = p[:0], 0
		}
		if n > 0 {
			yield(p, n)
		}
	}
}

// ReadSet adds the stored set to set, a piece at a time. KindDamaged when it is not
// what was written; then nothing was added.
func ReadSet(f blockio.File, store, id uint64, set *extent.Bitmap) error {
	size, err := f.Size()
	if err != nil {
		return err
	}
	head := make([]byte, setHead)
	if _, err := f.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	le := binary.LittleEndian
	length := le.Uint64(head[40:])
	if le.Uint32(head) != setMagic || le.Uint64(head[8:]) != store || le.Uint64(head[16:]) != id || length > uint64(size) || length < setHead {
		return damagedSet()
	}
	body := func() io.Reader { return io.NewSectionReader(f, setHead, int64(length)-setHead) }
	sum := crc32.New(table)
	_, _ = sum.Write(head[8:]) // a hash never fails
	if _, err := io.Copy(sum, body()); err != nil {
		return err
	}
	if le.Uint32(head[4:]) != sum.Sum32() {
		return damagedSet()
	}
	return decodeSet(bufio.NewReaderSize(body(), setPiece), set)
}

// decodeSet adds runs, whose checksum was right, until the input ends.
func decodeSet(r io.ByteReader, set *extent.Bitmap) error {
	for last := uint64(0); ; {
		gap, err := binary.ReadUvarint(r)
		if errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		count, cerr := binary.ReadUvarint(r)
		if err != nil || cerr != nil {
			return damagedSet()
		}
		set.Set(last+gap, count)
		last += gap + count
	}
}

func damagedSet() error {
	return &cairn.Error{Op: "read change set", Kind: cairn.KindDamaged, Hint: "what changed then is not known any more; everything counts as changed"}
}

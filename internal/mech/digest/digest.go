// Package digest hashes the content of a reader of blocks in pieces, as
// cairn.Digester promises it, for every place that keeps such readers.
//
// It holds one piece at a time. What a reader says is a hole is not read; a block
// that cannot be read makes its piece bad. What a sum covers is said at
// cairn.Digest.
package digest

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"

	"cairn"
)

// MaxUnit is the longest piece in bytes.
const MaxUnit = 1 << 20

// Of yields the digests of what q asks for of r. Errors have KindInvalid for a
// query that makes no sense, else those of the reader other than of damage.
func Of(ctx context.Context, r cairn.BlockReader, q cairn.DigestQuery) iter.Seq2[cairn.Digest, error] {
	return func(yield func(cairn.Digest, error) bool) {
		extents, err := asked(r.Size(), q)
		if err != nil {
			yield(cairn.Digest{}, err)
			return
		}
		h := hasher{r: r, nonce: q.Nonce, buf: make([]byte, q.Unit)}
		for _, e := range extents {
			for off := e.Offset; off < e.End(); off += q.Unit {
				d, err := h.piece(ctx, off, min(q.Unit, r.Size()-off))
				if !yield(d, err) || err != nil {
					return
				}
			}
		}
	}
}

// asked are the extents of the query, which it checks.
func asked(size int64, q cairn.DigestQuery) ([]cairn.Extent, error) {
	bad := func(why string, args ...any) error {
		return &cairn.Error{Op: "hash", Kind: cairn.KindInvalid, Err: fmt.Errorf(why, args...)}
	}
	if q.Unit <= 0 || q.Unit%cairn.BlockSize != 0 || q.Unit > MaxUnit {
		return nil, bad("a piece of %d bytes", q.Unit)
	}
	if q.Extents == nil {
		return []cairn.Extent{{Length: size}}, nil
	}
	at := int64(0)
	for _, e := range q.Extents {
		if e.Offset < at || e.Length <= 0 || e.Offset%q.Unit != 0 || e.Length > size-e.Offset || e.End()%q.Unit != 0 && e.End() != size {
			return nil, bad("bytes %d to %d", e.Offset, e.End())
		}
		at = e.End()
	}
	return q.Extents, nil
}

type hasher struct {
	r     cairn.BlockReader
	nonce [16]byte
	buf   []byte
}

func (h *hasher) piece(ctx context.Context, off, length int64) (cairn.Digest, error) {
	d := cairn.Digest{Offset: off, Length: length}
	empty, err := hollow(ctx, h.r, off, length)
	if err != nil && !unreadable(err) {
		return d, err
	}
	if d.Zero = empty && err == nil; d.Zero {
		return d, nil
	}
	p := h.buf[:length]
	if err := h.r.ReadAt(ctx, p, off); err != nil {
		d.Bad = unreadable(err)
		if d.Bad {
			err = nil
		}
		return d, err
	}
	if d.Zero = zero(p); !d.Zero {
		d.Sum = Sum(h.nonce, off, p)
	}
	return d, nil
}

// unreadable errors are those of the stored blocks themselves.
func unreadable(err error) bool {
	return errors.Is(err, cairn.KindDamaged) || errors.Is(err, cairn.KindCorrupt) || errors.Is(err, cairn.KindIO)
}

// hollow tells whether the range is known to be zeroes without reading it.
func hollow(ctx context.Context, r cairn.BlockReader, off, length int64) (bool, error) {
	for e, err := range r.Extents(ctx, off, length) {
		if err != nil || e.Kind == cairn.ExtentData {
			return false, err
		}
	}
	return true, nil
}

func zero(p []byte) bool {
	for len(p) >= 8 {
		if binary.LittleEndian.Uint64(p) != 0 {
			return false
		}
		p = p[8:]
	}
	for _, b := range p {
		if b != 0 {
			return false
		}
	}
	return true
}

// Sum is the sum of one piece.
func Sum(nonce [16]byte, off int64, p []byte) (sum [16]byte) {
	h := sha256.New()
	h.Write(nonce[:])
	h.Write(binary.LittleEndian.AppendUint64(nil, uint64(off)))
	h.Write(p)
	copy(sum[:], h.Sum(nil))
	return sum
}

package digest_test

import (
	"context"
	"errors"
	"iter"
	"testing"

	"cairn"
	"cairn/internal/mech/digest"
)

// content is a reader of bytes; blocks in bad cannot be read, those in holes are
// said to be holes and must not be.
type content struct {
	data  []byte
	bad   map[int64]bool
	holes map[int64]bool
}

func (c content) Size() int64  { return int64(len(c.data)) }
func (c content) Close() error { return nil }

func (c content) ReadAt(_ context.Context, p []byte, off int64) error {
	for b := off / cairn.BlockSize; b*cairn.BlockSize < off+int64(len(p)); b++ {
		if c.bad[b] {
			return &cairn.Error{Op: "read", Kind: cairn.KindDamaged}
		}
	}
	copy(p, c.data[off:])
	return nil
}

func (c content) Extents(_ context.Context, off, length int64) iter.Seq2[cairn.Extent, error] {
	return func(yield func(cairn.Extent, error) bool) {
		for at := off; at < off+length; at += cairn.BlockSize {
			e := cairn.Extent{Offset: at, Length: min(cairn.BlockSize, off+length-at), Kind: cairn.ExtentData}
			if c.holes[at/cairn.BlockSize] {
				e.Kind = cairn.ExtentHole
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}

func TestPiecesTellZeroesAndBadBlocks(t *testing.T) {
	c := content{data: make([]byte, 5*cairn.BlockSize+100), bad: map[int64]bool{2: true}, holes: map[int64]bool{1: true}}
	c.data[3*cairn.BlockSize], c.data[5*cairn.BlockSize+99] = 7, 8
	q := cairn.DigestQuery{Nonce: [16]byte{9}, Unit: cairn.BlockSize}
	want := []cairn.Digest{{Zero: true}, {Zero: true}, {Bad: true}, {}, {Zero: true}, {}}
	n := 0
	for d, err := range digest.Of(t.Context(), c, q) {
		if err != nil {
			t.Fatal(err)
		}
		w := want[n]
		w.Offset = int64(n) * cairn.BlockSize
		w.Length = min(cairn.BlockSize, c.Size()-w.Offset)
		if !w.Zero && !w.Bad {
			w.Sum = digest.Sum(q.Nonce, w.Offset, c.data[w.Offset:w.Offset+w.Length])
		}
		if d != w {
			t.Errorf("piece %d: %+v, want %+v", n, d, w)
		}
		n++
	}
	if n != len(want) {
		t.Errorf("%d pieces", n)
	}
	if digest.Sum(q.Nonce, 0, c.data[:8]) == digest.Sum([16]byte{}, 0, c.data[:8]) || digest.Sum(q.Nonce, 0, c.data[:8]) == digest.Sum(q.Nonce, 4096, c.data[:8]) {
		t.Error("a sum covers neither nonce nor offset")
	}
}

func TestSenselessQueriesAreRefused(t *testing.T) {
	c := content{data: make([]byte, 3*cairn.BlockSize)}
	for _, q := range []cairn.DigestQuery{
		{Unit: 0}, {Unit: 1}, {Unit: 2 << 20},
		{Unit: 4096, Extents: []cairn.Extent{{Offset: 100, Length: 4096}}},
		{Unit: 4096, Extents: []cairn.Extent{{Offset: 8192, Length: 8192}}},
		{Unit: 4096, Extents: []cairn.Extent{{Offset: 8192, Length: 4096}, {Offset: 0, Length: 4096}}},
		{Unit: 4096, Extents: []cairn.Extent{{Offset: 0, Length: 100}}},
		{Unit: 4096, Extents: []cairn.Extent{{Offset: 0, Length: -4096}}},
	} {
		for _, err := range digest.Of(t.Context(), c, q) {
			if !errors.Is(err, cairn.KindInvalid) {
				t.Errorf("%+v: %v", q, err)
			}
			break
		}
	}
}

package blocks_test

import (
	"bytes"
	"errors"
	"flag"
	"io"
	"math/rand/v2"
	"os"
	"testing"

	"cairn"
	"cairn/internal/format/blocks"
)

var update = flag.Bool("update", false, "write the golden streams anew (only before a layout is released)")

// The files in testdata are versions 1 and 2 for good: builds to come must read
// them, and write the unpacked ones byte for byte, version 1 from a token of it.
func TestGolden(t *testing.T) {
	for _, c := range []blocks.Compression{blocks.CompressNone, blocks.CompressS2, blocks.CompressZstd} {
		name := "testdata/v2-" + string(c) + ".blocks"
		if *update {
			if err := os.WriteFile(name, small(t, c), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		mustBeGolden(t, name)
		golden := mustBeGolden(t, "testdata/v1-"+string(c)+".blocks")
		token, _, err := apply(nil, nil, golden[:headerSize(golden)], nil)
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatal(err)
		}
		if c == blocks.CompressNone && !bytes.Equal(golden, smallOf(t, blocks.WriterOptions{Compression: c, Resume: token}, 64*cairn.BlockSize)) {
			t.Error("this build goes on otherwise in version 1")
		}
		if c == blocks.CompressNone && !bytes.Equal(mustBeGolden(t, name), small(t, c)) {
			t.Error("this build writes other bytes in version 2")
		}
	}
}

// mustBeGolden reads a golden stream, checks what it holds, and gives its bytes.
func mustBeGolden(t *testing.T, name string) []byte {
	t.Helper()
	golden, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	image, discarded := bytes.Repeat([]byte{0xEE}, 64*cairn.BlockSize), make([]byte, 64*cairn.BlockSize)
	_, r, err := apply(image, discarded, golden, nil)
	if !errors.Is(err, io.EOF) {
		t.Fatalf("%s: %v", name, err)
	}
	if r.Header() != header(64*cairn.BlockSize) {
		t.Errorf("%s: header %+v", name, r.Header())
	}
	text := bytes.Repeat([]byte("block "), 2*cairn.BlockSize/6+1)[:2*cairn.BlockSize]
	want := bytes.Repeat([]byte{0xEE}, len(image))
	copy(want, text[:cairn.BlockSize])
	clear(want[cairn.BlockSize : 9*cairn.BlockSize])
	copy(want[9*cairn.BlockSize:], text)
	clear(want[20*cairn.BlockSize : 50*cairn.BlockSize])
	if !bytes.Equal(image, want) {
		t.Errorf("%s: the image differs", name)
	}
	if got := r.Counts(); got != (blocks.Counts{Records: 4, Data: 3 * 4096, Zeroes: 8 * 4096, Discards: 30 * 4096}) {
		t.Errorf("%s: counts %+v", name, got)
	}
	return golden
}

// FuzzReader feeds arbitrary bytes: the reader ends with an error or io.EOF, keeps
// its bounds, and hands out only extents inside the volume, in order.
func FuzzReader(f *testing.F) {
	for _, c := range []blocks.Compression{blocks.CompressNone, blocks.CompressS2, blocks.CompressZstd} {
		f.Add(small(f, c))
		old, err := os.ReadFile("testdata/v1-" + string(c) + ".blocks")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(old)
	}
	f.Add(points(f)[:4096])
	f.Fuzz(func(t *testing.T, stream []byte) {
		r, err := blocks.NewReader(bytes.NewReader(stream), blocks.ReaderOptions{})
		if err != nil {
			return
		}
		next := int64(0)
		for {
			rec, err := r.Next()
			if err != nil {
				break
			}
			if rec.Offset < next || rec.Offset+rec.Length > r.Header().Size || rec.Length < 0 || rec.Length > 0 && rec.Kind == blocks.KindData && int64(len(rec.Data)) != rec.Length {
				t.Fatalf("record %+v after %d in %d bytes", rec.Kind, next, r.Header().Size)
			}
			next = rec.Offset + rec.Length
		}
	})
}

// What an older build began goes on in its layout: the token of a cut stream of
// version 1 makes a rest of version 1, which the receiver of that token takes.
func TestStreamGoesOnInItsVersion(t *testing.T) {
	golden, err := os.ReadFile("testdata/v1-none.blocks")
	if err != nil {
		t.Fatal(err)
	}
	first, _, err := apply(nil, nil, golden[:headerSize(golden)], nil)
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatal(err)
	}
	h := header(64 * cairn.BlockSize)
	all := content(rand.New(rand.NewPCG(3, 3)), h.Size)
	var ops []op
	for off := int64(0); off < h.Size; off += 8 * cairn.BlockSize {
		ops = append(ops, op{kind: blocks.KindData, off: off, length: 8 * cairn.BlockSize, data: all[off : off+8*cairn.BlockSize]})
	}
	o := blocks.WriterOptions{Resume: first, PointBytes: 16 * cairn.BlockSize}
	whole := write(t, h, o, ops)
	image, discarded := make([]byte, h.Size), make([]byte, h.Size)
	o.Resume, _, err = apply(image, discarded, whole[:len(whole)-1], first)
	if !errors.Is(err, io.ErrUnexpectedEOF) || point(t, o.Resume).Position == 0 {
		t.Fatal(err)
	}
	rest := write(t, h, o, ops)
	if rest[8] != 1 || whole[8] != 1 {
		t.Fatalf("versions %d and %d", whole[8], rest[8])
	}
	if _, _, err := apply(image, discarded, rest, o.Resume); !errors.Is(err, io.EOF) || !bytes.Equal(image, all) {
		t.Error(err)
	}
	if _, _, err := apply(image, discarded, write(t, h, blocks.WriterOptions{}, ops), first); !errors.Is(err, cairn.KindConflict) {
		t.Errorf("a stream of version 2 for a token of version 1: %v", err)
	}
}

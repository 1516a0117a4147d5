package blocks_test

import (
	"bytes"
	"errors"
	"flag"
	"io"
	"os"
	"testing"

	"cairn"
	"cairn/internal/format/blocks"
)

var update = flag.Bool("update", false, "write the golden streams anew (only before a layout is released)")

// The files in testdata are version 1 for good: builds to come must read them, and
// write the unpacked one byte for byte.
func TestGolden(t *testing.T) {
	for _, c := range []blocks.Compression{blocks.CompressNone, blocks.CompressS2, blocks.CompressZstd} {
		name := "testdata/v1-" + string(c) + ".blocks"
		if *update {
			if err := os.WriteFile(name, small(t, c), 0o644); err != nil {
				t.Fatal(err)
			}
		}
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
		if c == blocks.CompressNone && !bytes.Equal(golden, small(t, c)) {
			t.Errorf("%s: this build writes other bytes", name)
		}
	}
}

// FuzzReader feeds arbitrary bytes: the reader ends with an error or io.EOF, keeps
// its bounds, and hands out only extents inside the volume, in order.
func FuzzReader(f *testing.F) {
	for _, c := range []blocks.Compression{blocks.CompressNone, blocks.CompressS2, blocks.CompressZstd} {
		f.Add(small(f, c))
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

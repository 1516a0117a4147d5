package blockio_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"

	"cairn/internal/mech/blockio"
)

// What goes past the page cache and what goes through it is one file: whoever
// writes, either way, is read by both at once.
func TestBulkIsCoherentWithItsFile(t *testing.T) {
	const size = 4 << 20
	f, err := newFS(t).Create("a")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	b := blockio.OpenBulk(f)
	if !b.Direct() {
		t.Skip("this place does not offer O_DIRECT")
	}
	defer func() { _ = b.Close() }()
	rng, want := rand.New(rand.NewPCG(1, 1)), make([]byte, size)
	for i := range 200 {
		n := (1 + rng.IntN(size/4096/4)) * 4096
		off := rng.IntN((size-n)/4096+1) * 4096
		p := bytes.Repeat([]byte{byte(i + 1)}, n)
		to, from := io.WriterAt(f), io.ReaderAt(b)
		if i%2 == 0 {
			to, from = b, f
		}
		if _, err := to.WriteAt(p, int64(off)); err != nil {
			t.Fatal(err)
		}
		copy(want[off:], p)
		for _, r := range []io.ReaderAt{from, b} {
			lo := rng.IntN(size/4096/2) * 4096
			got := make([]byte, size/2)
			if _, err := r.ReadAt(got, int64(lo)); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want[lo:lo+size/2]) {
				t.Fatalf("step %d: other content at %d", i, lo)
			}
		}
	}
}

// Runs at any place and of any length, also over an end of the file inside a block,
// are read and written as the file does it.
func TestBulkTakesAnyRun(t *testing.T) {
	const size = 1<<20 + 512
	for _, wrapped := range []bool{false, true} {
		f, err := newFS(t).Create("a")
		if err != nil {
			t.Fatal(err)
		}
		if wrapped {
			f = struct{ blockio.File }{f} // not of OS: all goes through the cache
		}
		b := blockio.OpenBulk(f)
		if wrapped && b.Direct() {
			t.Error("a file of another kind was opened past the cache")
		}
		content := make([]byte, size)
		for i := range content {
			content[i] = byte(i * 7 >> 3)
		}
		if n, err := b.WriteAt(content, 0); n != size || err != nil {
			t.Fatal(n, err)
		}
		backing := make([]byte, 2<<20+8192)
		for _, c := range []struct{ off, n, skew int }{
			{0, 1 << 20, 0}, {0, 1 << 20, 1}, {4096, 512 << 10, 0}, {512, 512 << 10, 0}, {4096, 300000, 0}, {0, 2 << 20, 0}, {512 << 10, 1 << 20, 0}, {1 << 20, 4096, 0}, {2 << 20, 1 << 20, 0},
		} {
			p := backing[c.skew : c.skew+c.n]
			want := content[min(c.off, size):min(c.off+c.n, size)]
			n, err := b.ReadAt(p, int64(c.off))
			if n != len(want) || !bytes.Equal(p[:n], want) || (err != nil) != (n < c.n) || err != nil && !errors.Is(err, io.EOF) {
				t.Errorf("%+v: %d bytes, %v", c, n, err)
			}
		}
		if err := errors.Join(b.Close(), f.Close()); err != nil {
			t.Error(err)
		}
	}
}

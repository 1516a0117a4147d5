package blocks_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"testing"

	"cairn"
	"cairn/internal/format/blocks"
)

// mixed is a third each of text-like, zero and random blocks, in runs of 1 MiB.
func mixed(n int) []byte {
	rng := rand.New(rand.NewPCG(1, 2))
	p := make([]byte, n)
	for i := 0; i < n; i += 1 << 20 {
		run := p[i:min(i+1<<20, n)]
		switch i >> 20 % 3 {
		case 0:
			words := []string{"volume ", "snapshot ", "bookmark ", "the ", "of ", "block ", "0x%08x\n", "return err\n", "\t\tif "}
			var b bytes.Buffer
			for b.Len() < len(run) {
				b.WriteString(words[rng.IntN(len(words))])
			}
			copy(run, b.Bytes())
		case 1:
			for j := range run {
				run[j] = byte(rng.Uint32())
			}
		}
	}
	return p
}

// input is CAIRN_BENCH_FILE when set, else 48 MiB of mixed content.
func input(b *testing.B) []byte {
	if name := os.Getenv("CAIRN_BENCH_FILE"); name != "" {
		p, err := os.ReadFile(name)
		if err != nil {
			b.Fatal(err)
		}
		return p[:len(p)&^(cairn.BlockSize-1)]
	}
	return mixed(48 << 20)
}

type counter int64

func (c *counter) Write(p []byte) (int, error) { *c += counter(len(p)); return len(p), nil }

func BenchmarkWriter(b *testing.B) {
	p := input(b)
	for _, c := range []blocks.Compression{blocks.CompressNone, blocks.CompressS2, blocks.CompressZstd} {
		b.Run(string(c), func(b *testing.B) {
			b.SetBytes(int64(len(p)))
			b.ReportAllocs()
			for b.Loop() {
				var n counter
				w, err := blocks.NewWriter(&n, header(int64(len(p))), blocks.WriterOptions{Compression: c})
				if err != nil {
					b.Fatal(err)
				}
				for off := 0; off < len(p); off += 1 << 20 {
					if err := w.Data(int64(off), p[off:min(off+1<<20, len(p))]); err != nil {
						b.Fatal(err)
					}
				}
				if err := w.End(); err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(n)/float64(len(p)), "ratio")
			}
		})
	}
}

func BenchmarkReader(b *testing.B) {
	p := input(b)
	for _, c := range []blocks.Compression{blocks.CompressNone, blocks.CompressS2, blocks.CompressZstd} {
		stream := write(b, header(int64(len(p))), blocks.WriterOptions{Compression: c}, []op{{kind: blocks.KindData, length: int64(len(p)), data: p}})
		b.Run(string(c), func(b *testing.B) {
			b.SetBytes(int64(len(p)))
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := applyFrom(bytes.NewReader(stream)); !errors.Is(err, io.EOF) {
					b.Fatal(err)
				}
			}
		})
	}
}

// fewestAllocs is what run allocates in the best of five rounds: the count is of the
// whole process, so that a collection that empties a pool, or the race detector, which
// drops every fourth thing put in one, adds to a round what is not run's.
func fewestAllocs(run func()) float64 {
	fewest := testing.AllocsPerRun(5, run)
	for range 4 {
		fewest = min(fewest, testing.AllocsPerRun(5, run))
	}
	return fewest
}

// A record costs no allocation on either side, in any mode.
func TestRecordsAllocateNothing(t *testing.T) {
	p := mixed(4 << 20)
	for _, c := range []blocks.Compression{blocks.CompressNone, blocks.CompressS2, blocks.CompressZstd} {
		h := header(1 << 40)
		stream := func() []byte {
			var ops []op
			for i := range int64(50) {
				ops = append(ops, op{kind: blocks.KindData, off: i * 256 << 10, length: 256 << 10, data: p[i*(64<<10):][:256<<10]})
			}
			return write(t, h, blocks.WriterOptions{Compression: c}, ops)
		}()
		w, err := blocks.NewWriter(io.Discard, h, blocks.WriterOptions{Compression: c})
		if err != nil {
			t.Fatal(err)
		}
		r, err := blocks.NewReader(bytes.NewReader(stream), blocks.ReaderOptions{})
		if err != nil {
			t.Fatal(err)
		}
		off := int64(0)
		send := func() {
			if err := w.Data(off, p[off%(2<<20):][:256<<10]); err != nil {
				t.Fatal(err)
			}
			off += 256 << 10
		}
		receive := func() {
			if _, err := r.Next(); err != nil {
				t.Fatal(err)
			}
		}
		for range 12 {
			send()
			receive()
		}
		if n := fewestAllocs(send); n > 0 {
			t.Errorf("%s: a record written allocates %v times", c, n)
		}
		if n := fewestAllocs(receive); n > 0 {
			t.Errorf("%s: a record read allocates %v times", c, n)
		}
	}
}

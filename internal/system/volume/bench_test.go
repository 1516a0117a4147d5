package volume_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"testing"

	"cairn"
	"cairn/internal/mech/blockio"
	"cairn/internal/system/volume"
)

func benchVolume(b *testing.B, size int64) *volume.Volume {
	b.Helper()
	fsys, err := blockio.OS(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	if err := volume.Create(ctx, fsys, volume.CreateOptions{Size: size}); err != nil {
		b.Fatal(err)
	}
	v, err := volume.Open(ctx, fsys, volume.Options{Name: "db"})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = v.Close() })
	return v
}

func mustWrite(b *testing.B, d cairn.BlockDevice, p []byte, off int64) {
	if err := d.WriteAt(ctx, p, off, 0); err != nil {
		b.Fatal(err)
	}
}

// Writes of 4 KiB to blocks that are tracked and preserved already: what the
// engine adds to a plain write.
func BenchmarkWriteTracked(b *testing.B) {
	const size = 64 << 20
	v := benchVolume(b, size)
	d := v.Device()
	p := fill(1, 1<<20)
	if _, err := v.Snapshot(ctx, "@a"); err != nil {
		b.Fatal(err)
	}
	for off := int64(0); off < size; off += int64(len(p)) {
		mustWrite(b, d, p, off)
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	for b.Loop() {
		mustWrite(b, d, p[:4096], rnd.Int64N(size/4096)*4096)
	}
}

// First touches under a snapshot, of 4 KiB at random and of 1 MiB in sequence.
func BenchmarkWriteFirstTouch(b *testing.B) {
	for _, c := range []struct {
		n      int
		random bool
	}{{4096, true}, {1 << 20, false}} {
		b.Run(fmt.Sprint(c.n), func(b *testing.B) {
			const size = 256 << 20
			v := benchVolume(b, size)
			d := v.Device()
			p := noise(1, c.n)
			for off := int64(0); off < size; off += 1 << 20 {
				mustWrite(b, d, noise(uint64(off>>20), 1<<20), off)
			}
			if _, err := v.Snapshot(ctx, "@a"); err != nil {
				b.Fatal(err)
			}
			order := rand.New(rand.NewPCG(1, 2)).Perm(size / c.n)
			b.SetBytes(int64(c.n))
			i := 0
			for b.Loop() {
				at := i % len(order)
				if at == 0 && i > 0 { // all is touched: begin again under a new snapshot
					b.StopTimer()
					if _, err := v.Snapshot(ctx, fmt.Sprintf("@%d", i)); err != nil {
						b.Fatal(err)
					}
					b.StartTimer()
				}
				if c.random {
					at = order[at]
				}
				mustWrite(b, d, p, int64(at)*int64(c.n))
				i++
			}
		})
	}
}

// The increment of 1 % random 4 KiB blocks of 256 MiB.
func BenchmarkSendIncrement(b *testing.B) {
	const size = 256 << 20
	v := benchVolume(b, size)
	d := v.Device()
	mustWrite(b, d, noise(1, 64<<20), 0)
	from, err := v.Snapshot(ctx, "@a")
	if err != nil {
		b.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	for range size / 4096 / 100 {
		mustWrite(b, d, noise(2, 4096), rnd.Int64N(size/4096)*4096)
	}
	to, err := v.Snapshot(ctx, "@b")
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		s, err := v.Send(ctx, cairn.Step{Dataset: "db", From: from.VersionID, To: to.VersionID}, []cairn.Format{cairn.FormatBlocks})
		if err != nil {
			b.Fatal(err)
		}
		n, err := io.Copy(io.Discard, s.Body)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(n)/1e6, "MB")
		if err := s.Body.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

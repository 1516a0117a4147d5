package zfsstream_test

import (
	"bytes"
	"io"
	"testing"

	"cairn/internal/format/zfsstream"
)

// BenchmarkCheck is what a check costs per byte of a stream with records of 128 KiB.
func BenchmarkCheck(b *testing.B) {
	stream := built(b, 64<<20, 128<<10)
	b.SetBytes(int64(len(stream)))
	b.ReportAllocs()
	buf := make([]byte, 256<<10)
	for b.Loop() {
		if _, err := io.CopyBuffer(onlyWriter{io.Discard}, zfsstream.Check(bytes.NewReader(stream), zfsstream.CheckOptions{}), buf); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCopy is the same without a check.
func BenchmarkCopy(b *testing.B) {
	stream := built(b, 64<<20, 128<<10)
	b.SetBytes(int64(len(stream)))
	buf := make([]byte, 256<<10)
	for b.Loop() {
		if _, err := io.CopyBuffer(onlyWriter{io.Discard}, onlyReader{bytes.NewReader(stream)}, buf); err != nil {
			b.Fatal(err)
		}
	}
}

type onlyWriter struct{ io.Writer }

type onlyReader struct{ io.Reader }

//go:build linux

package ltfs_test

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"runtime"
	"syscall"
	"testing"

	"cairn/ltfs"
)

var benchFiles = flag.Int("files", 50_000, "files in the benchmark's index")

func cpuSeconds() float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return float64(u.Utime.Sec+u.Stime.Sec) + float64(u.Utime.Usec+u.Stime.Usec)/1e6
}

// flatTree is what a tape of many ordinary files looks like.
func flatTree(n int) *ltfs.Index {
	ix := &ltfs.Index{Creator: "bench", VolumeUUID: uuid, Generation: 1, UpdateTime: when, Self: ltfs.Location{Partition: 'b', Block: 5},
		HighestUID: uint64(n + 2), Root: &ltfs.Directory{UID: 1}}
	var dir *ltfs.Directory
	for i := range n {
		if i%1000 == 0 {
			dir = &ltfs.Directory{Name: fmt.Sprintf("folder%05d", i/1000), UID: uint64(n + 3 + i)}
			ix.Root.Dirs = append(ix.Root.Dirs, dir)
		}
		times := ltfs.Times{Creation: when, Change: when, Modify: when, Access: when, Backup: when}
		dir.Files = append(dir.Files, &ltfs.File{Name: fmt.Sprintf("document-%07d.txt", i), UID: uint64(i + 2), Length: 4096, Times: times,
			Extents: []ltfs.Extent{{Partition: 'b', StartBlock: uint64(10 + i/128), ByteOffset: uint32(i % 128 * 4096), ByteCount: 4096}}})
	}
	return ix
}

// limit reports a rate beside what it has to reach.
func limit(b *testing.B, what string, got, least float64, unit string) {
	b.ReportMetric(got, unit)
	if b.Logf("%s: %.0f %s, at least %.0f", what, got, unit, least); got < least {
		b.Errorf("%s: %.0f %s, limit %.0f", what, got, unit, least)
	}
}

// The figures are CPU seconds: MB/s per core, and bytes of memory per file that a
// read index keeps.
func BenchmarkIndexRead(b *testing.B) {
	var text bytes.Buffer
	if _, err := flatTree(*benchFiles).WriteTo(&text); err != nil {
		b.Fatal(err)
	}
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	cpu := cpuSeconds()
	var ix *ltfs.Index
	for b.Loop() {
		var err error
		if ix, err = ltfs.ReadIndex(bytes.NewReader(text.Bytes())); err != nil {
			b.Fatal(err)
		}
	}
	cpu = (cpuSeconds() - cpu) / float64(b.N)
	runtime.GC()
	runtime.ReadMemStats(&after)
	perFile := float64(after.HeapAlloc-before.HeapAlloc) / float64(*benchFiles)
	limit(b, "read", float64(text.Len())/1e6/cpu, 100, "MB/cpu-s")
	b.ReportMetric(perFile, "B/file")
	if b.Logf("memory: %.0f B per file, limit 500", perFile); perFile > 500 {
		b.Errorf("an index takes %.0f bytes of memory per file, limit 500", perFile)
	}
	runtime.KeepAlive(ix)
}

func BenchmarkIndexWrite(b *testing.B) {
	ix := flatTree(*benchFiles)
	cpu := cpuSeconds()
	var n int64
	for b.Loop() {
		var err error
		if n, err = ix.WriteTo(io.Discard); err != nil {
			b.Fatal(err)
		}
	}
	cpu = (cpuSeconds() - cpu) / float64(b.N)
	limit(b, "write", float64(n)/1e6/cpu, 150, "MB/cpu-s")
	b.ReportMetric(float64(n)/float64(*benchFiles), "tape-B/file")
}

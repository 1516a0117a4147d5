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
	b.ReportMetric(float64(text.Len())/1e6/cpu, "MB/cpu-s")
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(*benchFiles), "B/file")
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
	b.ReportMetric(float64(n)/1e6/cpu, "MB/cpu-s")
	b.ReportMetric(float64(n)/float64(*benchFiles), "tape-B/file")
}

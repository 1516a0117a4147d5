package drive_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"cairn/internal/system/tape/drive"
)

var blocks = flag.Int("blocks", 2000, "blocks on the folder that is opened in benchmarks")

// manyBlocks makes a folder of small records with a filemark at every hundredth.
func manyBlocks(b *testing.B, n int) string {
	b.Helper()
	dir := filepath.Join(b.TempDir(), "T")
	if err := os.Mkdir(dir, 0o755); err != nil {
		b.Fatal(err)
	}
	for i := range n {
		kind, data := "R", []byte("record")
		if i%100 == 99 {
			kind, data = "F", nil
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("1_%d_%s", i, kind)), data, 0o644); err != nil {
			b.Fatal(err)
		}
	}
	for _, name := range []string{"0_0_E", fmt.Sprintf("1_%d_E", n)} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			b.Fatal(err)
		}
	}
	return dir
}

func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// Opening a folder, and telling its room, in CPU seconds.
func BenchmarkOpenFolder(b *testing.B) {
	dir := manyBlocks(b, *blocks)
	for _, what := range []string{"open", "open+capacity"} {
		b.Run(what, func(b *testing.B) {
			before := cpu(b)
			for b.Loop() {
				f, err := drive.OpenFolder(dir, drive.FolderOptions{})
				if err != nil {
					b.Fatal(err)
				}
				if what != "open" {
					if _, err := f.Capacity(b.Context(), 1); err != nil {
						b.Fatal(err)
					}
				}
				if err := f.Close(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric((cpu(b)-before).Seconds()/float64(b.N), "CPU-s/op")
		})
	}
}

package tape_test

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"cairn/internal/system/tape"
	"cairn/internal/system/tape/drive"
)

var blocksFlag = flag.Int("blocks", 1000, "blocks on the tape that BenchmarkOpen opens")

// openLimit is the most that opening a tape of 22,000 blocks may cost, in CPU
// seconds.
const openLimit = 0.1

// tapeOfBlocks makes a volume in order with n records in its data partition. They
// are laid down as files: a drive would sync each.
func tapeOfBlocks(b *testing.B, n int) string {
	b.Helper()
	dir := filepath.Join(b.TempDir(), "T")
	d, err := drive.CreateFolder(dir, drive.FolderOptions{})
	if err != nil {
		b.Fatal(err)
	}
	v, err := tape.Format(b.Context(), d, dir, tape.FormatOptions{BlockSize: 4096, Creator: "test", Now: time.Unix(1, 0)})
	if err != nil {
		b.Fatal(err)
	}
	if err := v.Close(); err != nil {
		b.Fatal(err)
	}
	const first = 7 // behind the labels and the first index
	record := make([]byte, 4096)
	for i := range n {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("1_%d_R", first+i)), record, 0o644); err != nil {
			b.Fatal(err)
		}
	}
	if err := os.Rename(filepath.Join(dir, "1_7_E"), filepath.Join(dir, fmt.Sprintf("1_%d_E", first+n))); err != nil && n > 0 {
		b.Fatal(err)
	}
	if err := useFolder(b, dir, false, func(v *tape.Tape) error {
		_, err := v.Recover(b.Context(), false, "test", time.Unix(2, 0))
		return err
	}); err != nil {
		b.Fatal(err)
	}
	return dir
}

func useFolder(b *testing.B, dir string, readOnly bool, use func(*tape.Tape) error) error {
	b.Helper()
	d, err := drive.OpenFolder(dir, drive.FolderOptions{ReadOnly: readOnly})
	if err != nil {
		return err
	}
	v, err := tape.Open(b.Context(), d, dir)
	if err != nil {
		return errors.Join(err, d.Close())
	}
	return errors.Join(use(v), v.Close())
}

func cpuSeconds(b *testing.B) float64 {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
}

// Opening a tape of many blocks kept as a folder, with and without the attributes
// that say where its indexes are, and telling its room.
func BenchmarkOpen(b *testing.B) {
	dir := tapeOfBlocks(b, *blocksFlag)
	nothing := func(*tape.Tape) error { return nil }
	room := func(v *tape.Tape) error {
		_, err := v.Capacity(b.Context())
		return err
	}
	for _, c := range []struct {
		name       string
		attributes bool
		use        func(*tape.Tape) error
	}{{"attributes", true, nothing}, {"attributes,room", true, room}, {"search", false, nothing}} {
		b.Run(c.name, func(b *testing.B) {
			if !c.attributes {
				for part := range 2 {
					if err := os.Remove(filepath.Join(dir, fmt.Sprintf("attr_%d_80c", part))); err != nil && !errors.Is(err, os.ErrNotExist) {
						b.Fatal(err)
					}
				}
			}
			before := cpuSeconds(b)
			for b.Loop() {
				if err := useFolder(b, dir, true, func(v *tape.Tape) error {
					if notes := v.Notes(); len(notes) > 0 {
						return fmt.Errorf("out of order: %v", notes)
					}
					return c.use(v)
				}); err != nil {
					b.Fatal(err)
				}
			}
			spent := (cpuSeconds(b) - before) / float64(b.N)
			b.ReportMetric(spent, "CPU-s/op")
			b.ReportMetric(openLimit, "limit")
			if spent > openLimit {
				b.Errorf("%.3f CPU s, the limit is %v", spent, openLimit)
			}
		})
	}
}

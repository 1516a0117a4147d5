//go:build linux

// Command tape measures what using a mounted tape costs: the server's CPU seconds
// (getrusage, from mounting to the end of the last index; the writing program's are
// not in it) and the records of the data partition, for small files, for tiny writes
// and for one large file. The rounds go through all of them in turn; of each the
// middle of the CPU seconds and the most records count. Each line has its limit; the last
// line is the verdict.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"cairn/internal/system/tape"
	"cairn/internal/system/tape/drive"
)

func main() {
	b := &bench{}
	flag.StringVar(&b.cairn, "cairn", "", "the cairn binary")
	flag.StringVar(&b.dir, "dir", "", "folder to work in; it is removed afterwards")
	flag.IntVar(&b.times, "times", 3, "how often each is done; the middle one counts")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := b.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench-tape:", err)
		os.Exit(1)
	}
}

type bench struct {
	cairn, dir string
	times      int
}

// result is what one mount took.
type result struct {
	cpu     time.Duration
	records int // of data, in the data partition
}

// work is a use of a mount with its limits.
type work struct {
	name       string
	do         func(dir string) error
	maxCPU     time.Duration // 0: none
	maxRecords int           // 0: none
}

const block = 512 << 10

var works = []work{
	{"20,000 files of 4 KiB in 20 folders", smallFiles, 2 * time.Second, 20000*4096*11/10/block + 100},
	{"64 MiB in writes of 100 bytes", tinyWrites, 0, 129},
	{"1 GiB in one file, writes of 1 MiB", largeFile, 1500 * time.Millisecond, 0},
}

func (b *bench) run(ctx context.Context) error {
	var err error
	if b.cairn, err = filepath.Abs(b.cairn); err != nil {
		return err
	}
	if err := os.MkdirAll(b.dir, 0o755); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir) //nolint:errcheck // a folder of ours that can be removed by hand
	results := make([][]result, len(works))
	for round := range b.times {
		for i, w := range works {
			r, err := b.once(ctx, w, filepath.Join(b.dir, fmt.Sprintf("TAPE%d-%d", round, i)))
			if err != nil {
				return fmt.Errorf("%s: %w", w.name, err)
			}
			results[i] = append(results[i], r)
		}
	}
	short := 0
	for i, w := range works {
		line, good := judge(w, results[i])
		fmt.Println(line)
		if !good {
			short++
		}
	}
	if short > 0 {
		return fmt.Errorf("%d of %d over their limit", short, len(works))
	}
	fmt.Println("bench-tape: all within their limits")
	return nil
}

// once formats a tape, mounts it, uses it and unmounts it. The tape stays until the
// end: ext4 without a journal looks at every number that was given up in the last
// minute before it makes a file, which is more work than all else. It is synced at the
// end only: an index in between, on a slow machine, would end a record early.
func (b *bench) once(ctx context.Context, w work, tapeDir string) (result, error) {
	dir := filepath.Join(b.dir, "mnt")
	if err := errors.Join(os.MkdirAll(dir, 0o755), b.cairnRun(ctx, "tape", "format", tapeDir)); err != nil {
		return result{}, err
	}
	cmd := exec.CommandContext(ctx, b.cairn, "tape", "mount", "--sync", "unmount", tapeDir, dir)
	cmd.Stderr = os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	out, err := cmd.StdoutPipe()
	if err != nil {
		return result{}, err
	}
	if err := cmd.Start(); err != nil {
		return result{}, err
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		return result{}, errors.Join(fmt.Errorf("not mounted: %s %w", line, err), cmd.Wait())
	}
	err = w.do(dir)
	err = errors.Join(err, syscall.Unmount(dir, 0), cmd.Wait())
	if err != nil {
		return result{}, err
	}
	records, err := dataRecords(ctx, tapeDir)
	return result{cpu: cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), records: records}, err
}

func (b *bench) cairnRun(ctx context.Context, args ...string) error {
	out, err := exec.CommandContext(ctx, b.cairn, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("cairn %v: %w: %s", args, err, out)
	}
	return nil
}

// dataRecords counts the records in which files stand.
func dataRecords(ctx context.Context, tapeDir string) (int, error) {
	d, err := drive.OpenFolder(tapeDir, drive.FolderOptions{ReadOnly: true})
	if err != nil {
		return 0, err
	}
	t, err := tape.Open(ctx, d, tapeDir)
	if err != nil {
		return 0, errors.Join(err, d.Close())
	}
	blocks := map[uint64]bool{}
	for _, n := range t.Index().All() {
		if n.File == nil {
			continue
		}
		for _, e := range n.File.Extents {
			for at := e.StartBlock; at <= e.StartBlock+(uint64(e.ByteOffset)+e.ByteCount-1)/t.Label().BlockSize; at++ {
				blocks[at] = true
			}
		}
	}
	return len(blocks), t.Close()
}

func smallFiles(dir string) error {
	data := make([]byte, 4096)
	for i := range 20 {
		sub := filepath.Join(dir, fmt.Sprint("d", i))
		if err := os.Mkdir(sub, 0o755); err != nil {
			return err
		}
		for j := range 1000 {
			copy(data, fmt.Sprint(i, j))
			if err := os.WriteFile(filepath.Join(sub, fmt.Sprint("file", j)), data, 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

func tinyWrites(dir string) error { return fill(filepath.Join(dir, "f"), 100, 64<<20) }

func largeFile(dir string) error { return fill(filepath.Join(dir, "f"), 1<<20, 1<<30) }

func fill(name string, each, total int) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	p := make([]byte, each)
	for i := range p {
		p[i] = byte(i * 7)
	}
	for done := 0; done < total; done += each {
		if _, err := f.Write(p[:min(each, total-done)]); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	return f.Close()
}

// Command block measures what serving a volume over NBD costs, with tracking on,
// beside nbdkit's file plugin and qemu-nbd on the same disk, in one run; and what
// the first touch of a block under a fresh snapshot costs, beside a qcow2 overlay; and
// that gigabytes are zeroed, trimmed and discarded under a snapshot in little memory.
//
// The servers run side by side and are loaded in turn, in short rounds with the
// same operations for each, so that whatever else the machine does meets them all.
// The figures are medians over the rounds: the server's CPU time per operation (from
// /proc) and, for first touches, operations per second with their
// flushes. Ratios are taken per round. The last line is the verdict.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

const (
	mib       = 1 << 20
	blockSize = 4096
)

func main() {
	b := &bench{}
	flag.StringVar(&b.cairn, "cairn", "", "the cairn binary")
	flag.StringVar(&b.dir, "dir", "", "folder to work in; it is removed afterwards")
	flag.StringVar(&b.store, "store", "", "folder on another disk for a second volume's segments, removed afterwards; without it, as root, a disk in memory")
	flag.StringVar(&b.parts, "parts", "", "which parts to run: large,plain,disk,touch,sequential,apart; empty: all")
	flag.Int64Var(&b.size, "size", 1024, "size of the disks in MiB")
	flag.Int64Var(&b.ops, "ops", 40000, "4 KiB operations per round; 1 MiB ones are a fiftieth")
	flag.IntVar(&b.rounds, "rounds", 7, "rounds")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := b.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench-block:", err)
		os.Exit(1)
	}
}

type bench struct {
	cairn  string
	dir    string
	store  string
	parts  string
	size   int64
	ops    int64
	rounds int

	results []result
	short   []string
}

func (b *bench) path(name string) string { return filepath.Join(b.dir, name) }

func (b *bench) run(ctx context.Context) error {
	for _, tool := range []string{"fio", "nbdkit", "qemu-nbd", "qemu-img", "mkfs.ext4"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("needs %s (Debian: fio, nbdkit, qemu-utils, e2fsprogs)", tool)
		}
	}
	for _, p := range []*string{&b.cairn, &b.dir} {
		abs, err := filepath.Abs(*p)
		if err != nil {
			return err
		}
		*p = abs
	}
	if err := os.RemoveAll(b.dir); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir) //nolint:errcheck // the next run removes what is left
	if err := b.prepare(ctx); err != nil {
		return err
	}
	for _, p := range []struct {
		name string
		run  func(context.Context) error
	}{
		{"large", b.gigabytes}, {"plain", b.plain}, {"disk", b.fromDisk}, {"touch", b.firstTouch}, {"sequential", b.sequential}, {"apart", b.apart},
	} {
		if b.parts != "" && !slices.Contains(strings.Split(b.parts, ","), p.name) {
			continue
		}
		if err := p.run(ctx); err != nil {
			return err
		}
	}
	b.print()
	return b.judge()
}

// sequential overwrites with the segments on the disk of the head.
func (b *bench) sequential(ctx context.Context) error { return b.alternate(ctx, "here", "") }

// apart does so with the segments on another disk: the one that was named, or one in
// memory. What the head's disk has to do is the same with both.
func (b *bench) apart(ctx context.Context) error {
	if b.store == "" {
		disk, err := b.memoryDisk(ctx)
		if err != nil {
			fmt.Println("segments on another disk: not measured; name a folder there with -store, or run as root:", err)
			return nil
		}
		defer disk.release()
		b.store = filepath.Join(disk.folder, "store")
	}
	defer os.RemoveAll(b.store) //nolint:errcheck // it was told that it would be used
	if err := b.configure("apart", b.store); err != nil {
		return err
	}
	if err := b.tool(ctx, "apart", "volume", "adopt", "db", b.path("other.img")); err != nil {
		return err
	}
	return b.alternate(ctx, "apart", elsewhere)
}

// prepare makes a disk of data for us and one for the others, and our volume with
// tracking on.
func (b *bench) prepare(ctx context.Context) error {
	if err := os.MkdirAll(b.dir, 0o700); err != nil {
		return err
	}
	for _, name := range []string{"disk.img", "other.img"} {
		if err := b.image(name); err != nil {
			return err
		}
	}
	if err := b.configure("here", b.path("state")); err != nil {
		return err
	}
	if err := b.tool(ctx, "here", "volume", "adopt", "db", b.path("disk.img")); err != nil {
		return err
	}
	return b.tool(ctx, "here", "capture", "db", "--name", "tracked", "--bookmark")
}

// configure writes the configuration of the name, with its state in the folder.
func (b *bench) configure(name, state string) error {
	text := fmt.Sprintf("global: {state: %q, control: {sockpath: %q}}\njobs: []\n", state, b.path(name+".control"))
	return os.WriteFile(b.path(name+".yml"), []byte(text), 0o600)
}

func (b *bench) image(name string) error {
	f, err := os.Create(b.path(name))
	if err != nil {
		return err
	}
	p := make([]byte, mib)
	for i := range p {
		p[i] = byte(i*7 + i>>12)
	}
	for range b.size {
		if _, err := f.Write(p); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	return errors.Join(f.Sync(), f.Close())
}

// tool runs one of our commands under the named configuration.
func (b *bench) tool(ctx context.Context, config string, argv ...string) error {
	out, err := exec.CommandContext(ctx, b.cairn, append([]string{"--config", b.path(config + ".yml")}, argv...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("cairn %s: %w: %s", strings.Join(argv, " "), err, out)
	}
	return nil
}

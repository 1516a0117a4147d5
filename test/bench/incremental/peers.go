package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"cairn/internal/front/nbd/nbdclient"
)

// change writes the blocks through our NBD server, flushing after every 64, and
// accounts for the server. Half of the blocks are random, half are text.
func (b *bench) change(ctx context.Context, step, pattern, volume string, blocks []int64) error {
	socket := b.path("nbd-" + volume)
	cmd := exec.CommandContext(ctx, b.cairn, "--config", b.config, "serve", volume, "--listen", "unix:"+socket)
	cmd.Stderr = os.Stderr
	dropCaches()
	if err := cmd.Start(); err != nil {
		return err
	}
	err := waitFor(ctx, socket)
	if err == nil {
		err = writeBlocks(ctx, socket, volume, blocks)
	}
	err = errors.Join(err, cmd.Process.Signal(syscall.SIGTERM))
	if werr := cmd.Wait(); err == nil {
		err = werr
	}
	if err != nil {
		return fmt.Errorf("change %s: %w", volume, err)
	}
	b.add(usage(cmd, "cairn", pattern+": "+step))
	return nil
}

func writeBlocks(ctx context.Context, socket, export string, blocks []int64) error {
	c, err := nbdclient.Dial(ctx, nbdclient.Options{Network: "unix", Address: socket, Export: export})
	if err != nil {
		return err
	}
	rng := rand.New(rand.NewPCG(11, uint64(len(blocks))))
	p := make([]byte, blockSize)
	for i, block := range blocks {
		content(rng, p, i)
		if err := c.WriteAt(ctx, p, block*blockSize, false); err != nil {
			return err
		}
		if i%64 == 63 {
			if err := c.Flush(ctx); err != nil {
				return err
			}
		}
	}
	return errors.Join(c.Flush(ctx), c.Close())
}

func content(rng *rand.Rand, p []byte, i int) {
	if i%2 == 0 {
		for j := range p {
			p[j] = byte(rng.Uint32())
		}
		return
	}
	for j := range p {
		p[j] = "the quick brown fox jumps over the lazy dog, again and again. "[(j*7+i)%62]
	}
}

// peer is a tool a user would pick instead.
type peer struct {
	name      string
	full      func(ctx context.Context, b *bench) error
	increment func(ctx context.Context, b *bench, pattern string) error
}

// compresses are the tools whose full copy is compressed, as ours is.
var compresses = map[string]bool{"restic": true, "borg": true, "qemu-img zstd": true}

func availablePeers(b *bench) []peer {
	all := []peer{
		stored("restic", "repo-restic", []string{"restic", "-q", "-r", "repo-restic", "init"},
			func(string) []string { return []string{"restic", "-q", "-r", "repo-restic", "backup", b.image} }),
		stored("borg", "repo-borg", []string{"borg", "init", "-e", "none", "repo-borg"},
			func(step string) []string { return []string{"borg", "create", "repo-borg::" + step, b.image} }),
		{"rsync", func(ctx context.Context, b *bench) error {
			return errors.Join(os.RemoveAll(b.path("rsync.img")), rsync(ctx, b, "full", "--sparse"))
		},
			func(ctx context.Context, b *bench, pattern string) error {
				return rsync(ctx, b, pattern, "--inplace", "--no-whole-file")
			}},
		{"qemu-img", qemuFull, qemuIncrement},
	}
	var found []peer
	for _, p := range all {
		if _, err := exec.LookPath(p.name); err == nil {
			found = append(found, p)
		}
	}
	return found
}

// stored is a peer that adds to a store; what the store grows by is what it moved.
func stored(name, store string, initialise []string, backup func(step string) []string) peer {
	run := func(ctx context.Context, b *bench, step string) error {
		before := tree(b.path(store))
		r, _, err := b.measured(ctx, name, step, backup(step)...)
		if err != nil {
			return err
		}
		r.moved = tree(b.path(store)) - before
		return nil
	}
	return peer{name, func(ctx context.Context, b *bench) error {
		if err := os.RemoveAll(b.path(store)); err != nil {
			return err
		}
		if _, err := b.quiet(ctx, initialise...); err != nil {
			return err
		}
		return run(ctx, b, "full")
	}, run}
}

func tree(dir string) (sum int64) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if info, err := d.Info(); err == nil {
				sum += info.Size()
			}
		}
		return nil
	})
	return sum
}

func rsync(ctx context.Context, b *bench, step string, options ...string) error {
	argv := append(append([]string{"rsync", "--stats"}, options...), b.image, b.path("rsync.img"))
	r, text, err := b.measured(ctx, "rsync", step, argv...)
	if err != nil {
		return err
	}
	r.moved = sentBytes(text)
	return nil
}

func qemuFull(ctx context.Context, b *bench) error {
	r, _, err := b.measured(ctx, "qemu-img", "full", "qemu-img", "convert", "-O", "qcow2", b.image, "base.qcow2")
	if err != nil {
		return err
	}
	r.moved = tree(b.path("base.qcow2"))
	r, _, err = b.measured(ctx, "qemu-img zstd", "full", "qemu-img", "convert", "-c", "-O", "qcow2", "-o", "compression_type=zstd", b.image, "zstd.qcow2")
	if err != nil {
		return err
	}
	r.moved = tree(b.path("zstd.qcow2"))
	return os.Remove(b.path("zstd.qcow2"))
}

// qemuIncrement finds the difference to the last copy by comparing everything: the
// way without a bitmap in a running guest.
func qemuIncrement(ctx context.Context, b *bench, pattern string) error {
	if _, err := b.quiet(ctx, "qemu-img", "create", "-q", "-f", "qcow2", "-b", b.image, "-F", "raw", "delta.qcow2"); err != nil {
		return err
	}
	r, _, err := b.measured(ctx, "qemu-img", pattern, "qemu-img", "rebase", "-f", "qcow2", "-b", b.path("base.qcow2"), "-F", "qcow2", "delta.qcow2")
	if err != nil {
		return err
	}
	r.moved = tree(b.path("delta.qcow2"))
	// The next pattern's base is the disk as it is now.
	for _, name := range []string{"delta.qcow2", "base.qcow2"} {
		if err := os.Remove(b.path(name)); err != nil {
			return err
		}
	}
	_, err = b.quiet(ctx, "qemu-img", "convert", "-O", "qcow2", b.image, "base.qcow2")
	return err
}

// gather copies files into dir, evenly from all folders, until there is enough.
func gather(from, dir string, enough int64) error {
	var names []string
	err := filepath.WalkDir(from, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil // not ours to read
		}
		if d.Type().IsRegular() {
			names = append(names, name)
		}
		return nil
	})
	if err != nil {
		return err
	}
	rand.New(rand.NewPCG(1, 1)).Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	var sum int64
	for i, name := range names {
		info, err := os.Stat(name)
		if err != nil || info.Size() > 64<<20 {
			continue
		}
		if sum+info.Size() > enough {
			return nil
		}
		to := filepath.Join(dir, fmt.Sprintf("%03d", i%512), fmt.Sprintf("%06d-%s", i, filepath.Base(name)))
		if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
			return err
		}
		if err := copyFile(name, to); err != nil {
			if errors.Is(err, fs.ErrPermission) {
				continue
			}
			return err
		}
		sum += info.Size()
	}
	return nil
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close() //nolint:errcheck // read only
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"cairn/internal/format/nbdproto"
	"cairn/internal/front/nbd/nbdclient"
)

const (
	gib       = 1 << 30
	largeSize = 8 * gib
	// residentMost is the most that a server may have resident while it discards or
	// zeroes gigabytes under a snapshot.
	residentMost = 128 // MiB
)

// gigabytes makes a file system under a snapshot, trims what it left free, and discards
// 4 GiB, each over half a gigabyte of data, while another client writes 4 KiB blocks. What
// mkfs.ext4 wrote is replayed from an image: data as writes, the rest as zeroes; what
// fstrim sends is the same free ranges as trims. Both go out as requests of any size
// that the protocol allows.
func (b *bench) gigabytes(ctx context.Context) error {
	image := b.path("ext4.img")
	if err := makeFileSystem(ctx, image); err != nil {
		return err
	}
	defer os.Remove(image) //nolint:errcheck // the folder is removed at the end
	if err := b.tool(ctx, "here", "volume", "create", "large", "8GiB"); err != nil {
		return err
	}
	t, err := b.start(ctx, b.serving("here", "large"))
	if err != nil {
		return err
	}
	return errors.Join(b.loadLarge(ctx, t, image), t.stop())
}

func (b *bench) loadLarge(ctx context.Context, t *target, image string) error {
	c, err := nbdclient.Dial(ctx, nbdclient.Options{Network: "unix", Address: t.socket, Export: t.export})
	if err != nil {
		return err
	}
	defer c.Close() //nolint:errcheck // what it did was answered
	for i, step := range []struct {
		what string
		do   func() error
	}{
		{"mkfs.ext4", func() error { return replay(ctx, c, image, false) }},
		{"fstrim", func() error { return replay(ctx, c, image, true) }},
		{"a 4 GiB discard", func() error {
			return errors.Join(c.Trim(ctx, 0, gib), c.Trim(ctx, gib, gib), c.Trim(ctx, 2*gib, gib), c.Trim(ctx, 3*gib, gib))
		}},
	} {
		for at := int64(0); at < gib/2; at += mib {
			if err := c.WriteAt(ctx, buffer(int(at)+i, mib), at, false); err != nil {
				return err
			}
		}
		if err := b.tool(ctx, "here", "capture", "large", "--name", fmt.Sprintf("large%d", i)); err != nil {
			return err
		}
		stop := make(chan struct{})
		latency := make(chan []time.Duration, 1)
		go func() { latency <- beside(ctx, t, stop) }()
		began := time.Now()
		err := errors.Join(step.do(), c.Flush(ctx))
		close(stop)
		all := <-latency
		if err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
		slices.Sort(all)
		if len(all) > 0 {
			fmt.Printf("%s under a snapshot: %v; a 4 KiB write beside it: p99 %v of %d\n", step.what, time.Since(began).Round(time.Millisecond),
				all[len(all)*99/100].Round(10*time.Microsecond), len(all))
		}
	}
	peak, err := t.peak()
	if err != nil {
		return err
	}
	b.atMost("resident while zeroing, trimming and discarding gigabytes, MiB", peak, residentMost)
	return nil
}

// beside writes 4 KiB blocks to the last gigabyte, one at a time, with its own
// connection, and gives the latencies.
func beside(ctx context.Context, t *target, stop chan struct{}) (all []time.Duration) {
	c, err := nbdclient.Dial(ctx, nbdclient.Options{Network: "unix", Address: t.socket, Export: t.export})
	if err != nil {
		return nil
	}
	defer c.Close() //nolint:errcheck // what it did was answered
	rng, p := rand.New(rand.NewPCG(6, 6)), buffer(1, blockSize)
	for {
		select {
		case <-stop:
			return all
		default:
		}
		began := time.Now()
		if c.WriteAt(ctx, p, largeSize-gib+rng.Int64N(gib/blockSize)*blockSize, false) != nil {
			return all
		}
		all = append(all, time.Since(began))
	}
}

func makeFileSystem(ctx context.Context, image string) error {
	f, err := os.Create(image)
	if err == nil {
		err = errors.Join(f.Truncate(largeSize-gib), f.Close())
	}
	if err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, "mkfs.ext4", "-q", "-F", "-b", "4096", "-E", "nodiscard,lazy_itable_init=0", image).CombinedOutput(); err != nil {
		return fmt.Errorf("mkfs.ext4: %w: %s", err, out)
	}
	return nil
}

// Positions of lseek(2) in a file with holes.
const (
	seekData = 3
	seekHole = 4
)

// replay sends the image's data as writes and its holes as zeroes, or its holes
// alone as trims.
func replay(ctx context.Context, c *nbdclient.Client, image string, trim bool) error {
	f, err := os.Open(image)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read
	end := int64(largeSize - gib)
	for at := int64(0); at < end; {
		data, err := f.Seek(at, seekData)
		if errors.Is(err, syscall.ENXIO) {
			data, err = end, nil
		}
		if err != nil {
			return err
		}
		for ; at < data; at += min(data-at, gib) {
			n := uint32(min(data-at, gib))
			if trim {
				err = c.Trim(ctx, at, n)
			} else {
				err = c.WriteZeroes(ctx, at, n, nbdproto.CmdFlagNoHole)
			}
			if err != nil {
				return err
			}
		}
		if at == end {
			break
		}
		hole, err := f.Seek(at, seekHole)
		if err != nil {
			return err
		}
		for ; at < hole && !trim; at += min(hole-at, mib) {
			p := make([]byte, min(hole-at, mib))
			if _, err := f.ReadAt(p, at); err != nil {
				return err
			}
			if err := c.WriteAt(ctx, p, at, false); err != nil {
				return err
			}
		}
		at = hole
	}
	return nil
}

// peak is the most that the server had resident so far, in MiB.
func (t *target) peak() (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", t.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), "VmHWM:")
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		return 0, errors.New("the kernel does not tell a peak")
	}
	kib, err := strconv.Atoi(fields[0])
	return float64(kib) / 1024, err
}

func buffer(seed, n int) []byte {
	rng := rand.New(rand.NewPCG(5, uint64(seed)))
	p := make([]byte, n)
	for i := 0; i < n; i += 4 {
		v := rng.Uint32()
		p[i], p[i+1], p[i+2], p[i+3] = byte(v), byte(v>>8), byte(v>>16), byte(v>>24)
	}
	return p
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"cairn/internal/front/nbd/nbdclient"
)

// sample is one round of one server.
type sample struct {
	ops       int64 // flushes not counted
	cpu, wall time.Duration
	p999      time.Duration
}

// load is a round's operations, made by fio.
type load struct {
	work string
	ops  int64
	argv []string
	// cold: nothing is cached when it begins. Writes would else find the pages that
	// another server's round made dirty, and cost by the size of the folios that some
	// read left in the cache: the kernel walks through all blocks of one.
	cold bool
}

// do performs the load and accounts for the server.
func (t *target) do(ctx context.Context, l load, perform func(*sample) error) (sample, error) {
	var s sample
	before, err := t.cpu()
	if err == nil {
		err = perform(&s)
	}
	if err != nil {
		return s, fmt.Errorf("%s, %s: %w", t.name, l.work, err)
	}
	after, err := t.cpu()
	s.cpu = max(after-before, tick)
	return s, err
}

// fioResult is what we read of fio's JSON.
type fioResult struct {
	Jobs []struct {
		Error int
		Read  fioSide
		Write fioSide
	}
}

type fioSide struct {
	TotalIOs  int64   `json:"total_ios"`
	RuntimeMS float64 `json:"runtime"`
	Clat      struct {
		Percentile map[string]float64
	} `json:"clat_ns"`
}

// fio runs the load over the size, with random numbers of its own for each round.
func (t *target) fio(ctx context.Context, l load, sizeMiB int64, round int, s *sample) error {
	argv := append([]string{"--name=x", "--ioengine=nbd", "--uri=nbd+unix:///" + t.export + "?socket=" + t.socket, "--output-format=json",
		fmt.Sprintf("--randseed=%d", 1000+round), "--norandommap", fmt.Sprintf("--number_ios=%d", l.ops), fmt.Sprintf("--size=%dm", sizeMiB),
		"--io_size=1024g", "--time_based=0"}, l.argv...)
	out, err := exec.CommandContext(ctx, "fio", argv...).Output()
	if err != nil {
		var ee *exec.ExitError
		if errors.As(err, &ee) {
			return fmt.Errorf("fio: %w: %s", err, ee.Stderr)
		}
		return err
	}
	return parse(out, s)
}

func parse(out []byte, s *sample) error {
	start := strings.IndexByte(string(out), '{')
	if start < 0 {
		return fmt.Errorf("fio printed no result: %s", out)
	}
	var res fioResult
	if err := json.Unmarshal(out[start:], &res); err != nil {
		return fmt.Errorf("read fio's result: %w", err)
	}
	if len(res.Jobs) != 1 || res.Jobs[0].Error != 0 {
		return fmt.Errorf("fio failed: %s", out)
	}
	side := res.Jobs[0].Read
	if side.TotalIOs == 0 {
		side = res.Jobs[0].Write
	}
	if side.TotalIOs == 0 {
		return errors.New("fio did nothing")
	}
	s.ops, s.p999 = side.TotalIOs, time.Duration(side.Clat.Percentile["99.900000"])
	s.wall = max(time.Duration(side.RuntimeMS*float64(time.Millisecond)), time.Millisecond)
	return nil
}

// inTurn loads the targets round by round; the order rotates.
func (b *bench) inTurn(ctx context.Context, list []*target, l load) error {
	for round := range b.rounds {
		for i := range list {
			t := list[(i+round)%len(list)]
			if l.cold {
				dropCaches()
			}
			s, err := t.do(ctx, l, func(s *sample) error { return t.fio(ctx, l, b.size, round, s) })
			if err != nil {
				return err
			}
			b.add(t.name, l.work, s)
		}
	}
	return nil
}

func (b *bench) small(work, rw string, depth int) load {
	return load{work: work, ops: b.ops, cold: strings.Contains(rw, "write"), argv: []string{"--rw=" + rw, "--bs=4k", fmt.Sprintf("--iodepth=%d", depth)}}
}

func (b *bench) large(work, rw string) load {
	return load{work: work, ops: b.ops / 50, cold: strings.Contains(rw, "write"), argv: []string{"--rw=" + rw, "--bs=1m", "--iodepth=4"}}
}

// plain runs loads without a snapshot on every server.
func (b *bench) plain(ctx context.Context) error {
	list, stop, err := b.startAll(ctx, b.ours("here"), b.nbdkit("nbdkit file"), b.qemu("qemu-nbd", "raw", "writeback", "other.img"))
	if err != nil {
		return err
	}
	for _, l := range []load{
		b.small("4 KiB reads, depth 1", "randread", 1),
		b.small("4 KiB reads, depth 32", "randread", 32),
		b.large("1 MiB reads, depth 4", "read"), // before anything is dropped from the cache
		b.small("4 KiB writes, depth 32", "randwrite", 32),
		b.large("1 MiB writes, depth 4", "write"),
	} {
		if err := b.inTurn(ctx, list, l); err != nil {
			return errors.Join(err, stop())
		}
	}
	return stop()
}

// fromDisk reads what no cache holds; qemu-nbd goes past the cache (O_DIRECT), nbdkit
// tells the kernel to drop what was read, we go through it.
func (b *bench) fromDisk(ctx context.Context) error {
	list, stop, err := b.startAll(ctx, b.ours("here"), b.nbdkit("nbdkit cache=none", "cache=none"), b.qemu("qemu-nbd O_DIRECT", "raw", "none", "other.img"))
	if err != nil {
		return err
	}
	l := b.small("4 KiB reads from the disk, depth 32", "randread", 32)
	l.ops, l.cold = max(l.ops/10, 1), true
	return errors.Join(b.inTurn(ctx, list, l), stop())
}

// dropCaches makes reads come from the disk, for whom has the right to do so.
func dropCaches() {
	syscall.Sync()
	_ = os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0)
}

// touches is random writes with a flush after every 16. All rounds together write
// an eighth as many blocks as there are: in each at least 87 % go to one that none
// went to before.
func (b *bench) touches(depth int) load {
	ops := b.size * mib / blockSize / 8 / int64(b.rounds)
	return load{work: touchWork(depth), ops: ops, argv: []string{"--rw=randwrite", "--bs=4k", fmt.Sprintf("--iodepth=%d", depth), "--fsync=16"}}
}

func touchWork(depth int) string { return fmt.Sprintf("first touch 4 KiB, depth %d", depth) }

// firstTouch writes under a fresh snapshot, beside a fresh overlay.
func (b *bench) firstTouch(ctx context.Context) error {
	for _, depth := range []int{1, 16} {
		snapshot, overlay := fmt.Sprintf("touch%d", depth), fmt.Sprintf("overlay%d.qcow2", depth)
		if err := b.tool(ctx, "here", "capture", "db", "--name", snapshot); err != nil {
			return err
		}
		out, err := exec.CommandContext(ctx, "qemu-img", "create", "-q", "-f", "qcow2", "-b", b.path("other.img"), "-F", "raw", b.path(overlay)).CombinedOutput()
		if err != nil {
			return fmt.Errorf("qemu-img create: %w: %s", err, out)
		}
		list, stop, err := b.startAll(ctx, b.ours("here"), b.qemu("qemu-nbd qcow2", "qcow2", "writeback", overlay))
		if err != nil {
			return err
		}
		if err := errors.Join(b.inTurn(ctx, list, b.touches(depth)), stop()); err != nil {
			return err
		}
		if err := b.tool(ctx, "here", "volume", "destroy", "db@"+snapshot, "--yes"); err != nil {
			return err
		}
	}
	return nil
}

const (
	workPlain   = "sequential 1 MiB and a flush"
	workTouched = "first touch sequential 1 MiB and a flush"
	elsewhere   = ", segments on another disk"
)

// alternate overwrites a quarter of the disk again and again, without and with a
// fresh snapshot.
func (b *bench) alternate(ctx context.Context, config, suffix string) error {
	t, err := b.start(ctx, b.ours(config))
	if err != nil {
		return err
	}
	for round := range b.rounds {
		name := fmt.Sprintf("sequential%d", round)
		if err = b.overwrite(ctx, t, workPlain+suffix); err != nil {
			break
		}
		if err = b.tool(ctx, config, "capture", "db", "--name", name); err != nil {
			break
		}
		if err = b.overwrite(ctx, t, workTouched+suffix); err != nil {
			break
		}
		if err = b.tool(ctx, config, "volume", "destroy", "db@"+name, "--yes"); err != nil {
			break
		}
	}
	return errors.Join(err, t.stop())
}

// overwrite writes a quarter of the disk, four requests of 1 MiB at a time, and
// flushes; fio's own account of time leaves out the last flush.
func (b *bench) overwrite(ctx context.Context, t *target, work string) error {
	s, err := t.do(ctx, load{work: work}, func(s *sample) error {
		c, err := nbdclient.Dial(ctx, nbdclient.Options{Network: "unix", Address: t.socket, Export: t.export})
		if err != nil {
			return err
		}
		began := time.Now()
		err = b.stream(ctx, c)
		if err == nil {
			err = c.Flush(ctx)
		}
		s.ops, s.wall = b.size/4, time.Since(began)
		return errors.Join(err, c.Close())
	})
	if err == nil {
		b.add(t.name, work, s)
	}
	return err
}

func (b *bench) stream(ctx context.Context, c *nbdclient.Client) error {
	next, failures := make(chan int64), make(chan error, 4)
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() {
			p := make([]byte, mib)
			var err error
			for at := range next {
				for i := range p {
					p[i] = byte(i*worker) + byte(at>>20)
				}
				err = errors.Join(err, c.WriteAt(ctx, p, at, false))
			}
			failures <- err
		})
	}
	for i := range b.size / 4 {
		next <- i * mib
	}
	close(next)
	wg.Wait()
	var err error
	for range 4 {
		err = errors.Join(err, <-failures)
	}
	return err
}

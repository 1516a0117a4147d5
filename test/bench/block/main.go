// Command block measures what serving a volume over NBD costs, with tracking on,
// beside nbdkit's file plugin and qemu-nbd on the same disk, in one run; and what
// the first touch of a block under a fresh snapshot costs, beside a qcow2 overlay.
//
// Every server does the same number of operations, made by fio over a unix socket.
// The figure to compare is the server's CPU time per operation, from getrusage;
// latencies are reported. The last line is the verdict.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

const mib = 1 << 20

func main() {
	b := &bench{}
	flag.StringVar(&b.cairn, "cairn", "", "the cairn binary")
	flag.StringVar(&b.dir, "dir", "", "folder to work in; it is removed afterwards")
	flag.Int64Var(&b.size, "size", 1024, "size of the disk in MiB")
	flag.Int64Var(&b.ops, "ops", 60000, "4 KiB operations per measurement; 1 MiB ones are a fiftieth")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := b.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench-block:", err)
		os.Exit(1)
	}
}

type bench struct {
	cairn string
	dir   string
	size  int64
	ops   int64

	config string
	rows   []row
	short  []string
}

// row is one workload on one server.
type row struct {
	server, work string
	ops          int64
	cpu          float64 // seconds of the server
	wall         float64
	p999         time.Duration
}

// perCPU is operations per second of the server's CPU.
func (r row) perCPU() float64 { return float64(r.ops) / r.cpu }

func (r row) perSecond() float64 { return float64(r.ops) / r.wall }

func (b *bench) path(name string) string { return filepath.Join(b.dir, name) }

func (b *bench) run(ctx context.Context) error {
	for _, tool := range []string{"fio", "nbdkit", "qemu-nbd", "qemu-img"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("needs %s (Debian: fio, nbdkit, qemu-utils)", tool)
		}
	}
	var err error
	if b.cairn, err = filepath.Abs(b.cairn); err != nil {
		return err
	}
	if b.dir, err = filepath.Abs(b.dir); err != nil {
		return err
	}
	if err := os.RemoveAll(b.dir); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir) //nolint:errcheck // the next run removes what is left
	if err := b.prepare(ctx); err != nil {
		return err
	}
	if err := b.plain(ctx); err != nil {
		return err
	}
	if err := b.firstTouch(ctx); err != nil {
		return err
	}
	b.print()
	b.judge()
	return nil
}

// prepare makes a disk of data for every server, and our volume with tracking on.
func (b *bench) prepare(ctx context.Context) error {
	if err := os.MkdirAll(b.dir, 0o700); err != nil {
		return err
	}
	b.config = b.path("cairn.yml")
	text := fmt.Sprintf("global: {state: %q, control: {sockpath: %q}}\njobs: []\n", b.path("state"), filepath.Join(b.dir, "run", "control"))
	if err := os.WriteFile(b.config, []byte(text), 0o600); err != nil {
		return err
	}
	if err := b.image("disk.img"); err != nil {
		return err
	}
	if err := b.image("other.img"); err != nil {
		return err
	}
	if err := b.tool(ctx, "volume", "adopt", "db", b.path("disk.img")); err != nil {
		return err
	}
	return b.tool(ctx, "capture", "db", "--name", "tracked", "--bookmark")
}

func (b *bench) image(name string) error {
	f, err := os.Create(b.path(name))
	if err != nil {
		return err
	}
	p := make([]byte, mib)
	for i := range p {
		p[i] = byte(i * 7)
	}
	for range b.size {
		if _, err := f.Write(p); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	return errors.Join(f.Sync(), f.Close())
}

func (b *bench) tool(ctx context.Context, argv ...string) error {
	if out, err := exec.CommandContext(ctx, b.cairn, append([]string{"--config", b.config}, argv...)...).CombinedOutput(); err != nil {
		return fmt.Errorf("cairn %s: %w: %s", strings.Join(argv, " "), err, out)
	}
	return nil
}

// server is one program that serves one disk.
type server struct {
	name   string
	argv   func(socket string) []string
	export string
}

func (b *bench) ours() server {
	return server{"cairn", func(socket string) []string {
		return []string{b.cairn, "--config", b.config, "serve", "db", "--listen", "unix:" + socket}
	}, "db"}
}

func (b *bench) peers() []server {
	return []server{
		{"nbdkit file", func(socket string) []string {
			return []string{"nbdkit", "-f", "-U", socket, "file", b.path("other.img")}
		}, ""},
		{"qemu-nbd", func(socket string) []string {
			return []string{"qemu-nbd", "-t", "-e", "8", "-k", socket, "-f", "raw", "--cache=writeback", b.path("other.img")}
		}, ""},
	}
}

// workload is what fio does.
type workload struct {
	name string
	ops  int64
	argv []string
}

func (b *bench) workloads() []workload {
	large := b.ops / 50
	return []workload{
		{"4 KiB reads, depth 1", b.ops, []string{"--rw=randread", "--bs=4k", "--iodepth=1"}},
		{"4 KiB reads, depth 32", b.ops, []string{"--rw=randread", "--bs=4k", "--iodepth=32"}},
		{"4 KiB writes, depth 32", b.ops, []string{"--rw=randwrite", "--bs=4k", "--iodepth=32"}},
		{"1 MiB reads, depth 4", large, []string{"--rw=read", "--bs=1m", "--iodepth=4"}},
		{"1 MiB writes, depth 4", large, []string{"--rw=write", "--bs=1m", "--iodepth=4"}},
	}
}

// plain runs the workloads on every server in turn.
func (b *bench) plain(ctx context.Context) error {
	for _, w := range b.workloads() {
		for _, s := range append([]server{b.ours()}, b.peers()...) {
			if err := b.measure(ctx, s, w); err != nil {
				return err
			}
		}
	}
	return nil
}

// firstTouch writes under a fresh snapshot: most blocks for the first time, a
// flush after every 16.
func (b *bench) firstTouch(ctx context.Context) error {
	ops := b.size * mib / 4096 / 8 // an eighth of the blocks: nine in ten writes touch a new one
	for i, depth := range []string{"1", "16"} {
		w := workload{"first touch 4 KiB, depth " + depth, ops, []string{"--rw=randwrite", "--bs=4k", "--iodepth=" + depth, "--fsync=16"}}
		if err := b.fresh(ctx, fmt.Sprintf("s%d", i)); err != nil {
			return err
		}
		if err := b.measure(ctx, b.ours(), w); err != nil {
			return err
		}
		overlay := b.path(fmt.Sprintf("overlay%d.qcow2", i))
		if out, err := exec.CommandContext(ctx, "qemu-img", "create", "-q", "-f", "qcow2", "-b", b.path("other.img"), "-F", "raw", overlay).CombinedOutput(); err != nil {
			return fmt.Errorf("qemu-img create: %w: %s", err, out)
		}
		peer := server{"qemu-nbd qcow2", func(socket string) []string {
			return []string{"qemu-nbd", "-t", "-k", socket, "-f", "qcow2", "--cache=writeback", overlay}
		}, ""}
		if err := b.measure(ctx, peer, w); err != nil {
			return err
		}
	}
	sequential := workload{"sequential 1 MiB and a flush", b.size / 2, []string{"--rw=write", "--bs=1m", "--iodepth=4", "--end_fsync=1"}}
	if err := b.tool(ctx, "volume", "destroy", "db@s1", "--yes"); err != nil {
		return err
	}
	if err := b.measure(ctx, b.ours(), sequential); err != nil {
		return err
	}
	sequential.name = "first touch sequential 1 MiB and a flush"
	if err := b.fresh(ctx, "s2"); err != nil {
		return err
	}
	return b.measure(ctx, b.ours(), sequential)
}

// fresh makes name the only snapshot.
func (b *bench) fresh(ctx context.Context, name string) error {
	if name == "s1" {
		if err := b.tool(ctx, "volume", "destroy", "db@s0", "--yes"); err != nil {
			return err
		}
	}
	return b.tool(ctx, "capture", "db", "--name", name)
}

// measure starts a server, runs a workload on it, ends it, and accounts for it.
func (b *bench) measure(ctx context.Context, s server, w workload) error {
	socket := b.path("socket")
	_ = os.Remove(socket)
	argv := s.argv(socket)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	r := row{server: s.name, work: w.name, ops: w.ops}
	err := waitFor(ctx, socket)
	if err == nil {
		err = b.fio(ctx, socket, s.export, w, &r)
	}
	err = errors.Join(err, cmd.Process.Signal(syscall.SIGTERM))
	_ = cmd.Wait() // some servers end with a status of their own at a signal
	if err != nil {
		return fmt.Errorf("%s, %s: %w", s.name, w.name, err)
	}
	r.cpu = (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
	b.rows = append(b.rows, r)
	return nil
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

func (b *bench) fio(ctx context.Context, socket, export string, w workload, r *row) error {
	argv := append([]string{"--name=x", "--ioengine=nbd", "--uri=nbd+unix:///" + export + "?socket=" + socket, "--output-format=json", "--randrepeat=1",
		"--norandommap", fmt.Sprintf("--number_ios=%d", w.ops), fmt.Sprintf("--size=%dm", b.size), fmt.Sprintf("--io_size=%dg", 1024), "--time_based=0"}, w.argv...)
	out, err := exec.CommandContext(ctx, "fio", argv...).Output()
	if err != nil {
		var ee *exec.ExitError
		if errors.As(err, &ee) {
			return fmt.Errorf("fio: %w: %s", err, ee.Stderr)
		}
		return err
	}
	start := strings.IndexByte(string(out), '{')
	var res fioResult
	if start < 0 {
		return fmt.Errorf("fio printed no result: %s", out)
	}
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
	r.ops, r.wall, r.p999 = side.TotalIOs, side.RuntimeMS/1000, time.Duration(side.Clat.Percentile["99.900000"])
	return nil
}

func waitFor(ctx context.Context, name string) error {
	for range 500 {
		if _, err := os.Stat(name); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
	return fmt.Errorf("%s did not appear", name)
}

func (b *bench) print() {
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprintln(w, "workload\tserver\toperations\tserver CPU s\tµs/op\tops per CPU s\tops per s\tp99.9\t")
	for _, r := range b.rows {
		_, _ = fmt.Fprintf(w, "%s\t%s\t%d\t%.2f\t%.1f\t%.0f\t%.0f\t%v\t\n", r.work, r.server, r.ops, r.cpu, r.cpu*1e6/float64(r.ops), r.perCPU(), r.perSecond(),
			r.p999.Round(10*time.Microsecond))
	}
	_ = w.Flush()
}

func (b *bench) find(server, work string) (row, bool) {
	for _, r := range b.rows {
		if r.server == server && r.work == work {
			return r, true
		}
	}
	return row{}, false
}

func (b *bench) atLeast(what string, got, least float64) {
	verdict := "holds"
	if got < least {
		verdict = "SHORT"
		b.short = append(b.short, what)
	}
	fmt.Printf("%-6s %s: %.2f, at least %.2f\n", verdict, what, got, least)
}

// judge holds the ratios against the limits.
func (b *bench) judge() {
	for work, least := range map[string]float64{"4 KiB reads, depth 32": 1.5, "4 KiB reads, depth 1": 1.5, "4 KiB writes, depth 32": 1.1,
		"1 MiB reads, depth 4": 1, "1 MiB writes, depth 4": 1} {
		us, ok := b.find("cairn", work)
		them, ok2 := b.find("nbdkit file", work)
		if ok && ok2 {
			b.atLeast(work+", operations per CPU second, of nbdkit's", us.perCPU()/them.perCPU(), least)
		}
	}
	for _, depth := range []string{"1", "16"} {
		us, ok := b.find("cairn", "first touch 4 KiB, depth "+depth)
		them, ok2 := b.find("qemu-nbd qcow2", "first touch 4 KiB, depth "+depth)
		if ok && ok2 {
			b.atLeast("first touch at depth "+depth+", operations per CPU second, of the overlay's", us.perCPU()/them.perCPU(), 1)
			fmt.Printf("       first touch at depth %s, operations per second, of the overlay's: %.2f\n", depth, us.perSecond()/them.perSecond())
		}
	}
	before, ok := b.find("cairn", "sequential 1 MiB and a flush")
	after, ok2 := b.find("cairn", "first touch sequential 1 MiB and a flush")
	if ok && ok2 {
		b.atLeast("first touch sequential, of what it is without a snapshot", after.perSecond()/before.perSecond(), 0.15)
	}
	if len(b.short) > 0 {
		fmt.Printf("bench-block: short in %d: %s\n", len(b.short), strings.Join(b.short, "; "))
		return
	}
	fmt.Println("bench-block: every limit holds")
}

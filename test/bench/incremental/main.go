// Command incremental measures what protecting a disk costs, beside the tools a
// user would pick instead, in one run: a full first copy, then 1 % of the disk's
// 4 KiB blocks changed, once in 64 KiB runs and once as single blocks.
//
// Figures are CPU seconds, bytes of the block layer and peak memory of finished
// processes (getrusage), and bytes moved or stored; never wall time. The limits
// are those the project set itself; the last line is the verdict.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

const (
	mib       = 1 << 20
	blockSize = 4096
)

func main() {
	b := &bench{}
	flag.StringVar(&b.cairn, "cairn", "", "the cairn binary")
	flag.StringVar(&b.dir, "dir", "", "folder to work in; it is removed afterwards")
	flag.Int64Var(&b.size, "size", 2048, "size of the disk in MiB")
	flag.Int64Var(&b.files, "files", 1400, "MiB of files on it")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := b.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench-incremental:", err)
		os.Exit(1)
	}
}

// row is one measured step of one tool.
type row struct {
	tool, step string
	cpu        float64 // seconds
	read       int64   // bytes from the disk
	wrote      int64   // bytes to the disk
	moved      int64   // bytes sent or stored
	resident   int64   // bytes
}

type bench struct {
	cairn string
	dir   string
	size  int64
	files int64

	image   string
	config  string
	changed int64 // bytes of one change set
	rows    []row
	short   []string // limits that were missed
}

func (b *bench) path(parts ...string) string {
	return filepath.Join(append([]string{b.dir}, parts...)...)
}

func (b *bench) run(ctx context.Context) error {
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
	defer os.RemoveAll(b.dir) //nolint:errcheck // what is left is named by the next run's error
	if err := os.MkdirAll(b.path("tmp"), 0o700); err != nil {
		return err
	}
	if err := b.versions(ctx); err != nil {
		return err
	}
	if err := b.prepare(ctx); err != nil {
		return err
	}
	peers := availablePeers(b)
	if err := b.full(ctx, peers); err != nil {
		return err
	}
	for _, pattern := range []string{"runs", "single"} {
		if err := b.increment(ctx, pattern, peers); err != nil {
			return err
		}
	}
	b.print()
	b.judge()
	return nil
}

// measured runs a command to its end and accounts for it and its children.
func (b *bench) measured(ctx context.Context, tool, step string, stdin, stdout string, argv ...string) (*row, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = b.dir
	cmd.Env = append(os.Environ(), "TMPDIR="+b.path("tmp"), "RESTIC_PASSWORD=x", "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=yes",
		"BORG_BASE_DIR="+b.path("borg-home"), "XDG_CACHE_HOME="+b.path("cache"), "CAIRN_CONFIG="+b.config)
	var errText strings.Builder
	cmd.Stderr = &errText
	for _, redirect := range []struct {
		name string
		set  func(*os.File)
		flag int
	}{
		{stdin, func(f *os.File) { cmd.Stdin = f }, os.O_RDONLY},
		{stdout, func(f *os.File) { cmd.Stdout = f }, os.O_WRONLY | os.O_CREATE | os.O_TRUNC},
	} {
		if redirect.name == "" {
			continue
		}
		f, err := os.OpenFile(redirect.name, redirect.flag, 0o600)
		if err != nil {
			return nil, err
		}
		defer f.Close() //nolint:errcheck // the child's output is checked by its size
		redirect.set(f)
	}
	dropCaches()
	b.warm(ctx, argv[0])
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, errText.String())
	}
	b.rows = append(b.rows, usage(cmd, tool, step))
	return &b.rows[len(b.rows)-1], nil
}

// warm runs the tool without work, so that its program is in memory again: what it
// reads is then the data. It does so for every tool.
func (b *bench) warm(ctx context.Context, tool string) {
	for _, argv := range [][]string{{b.cairn, "version"}, {"restic", "version"}, {"borg", "--version"}, {"rsync", "--version"}, {"qemu-img", "--version"}} {
		if argv[0] == tool {
			_ = exec.CommandContext(ctx, argv[0], argv[1:]...).Run() // a cold program only counts more
		}
	}
}

func usage(cmd *exec.Cmd, tool, step string) row {
	u := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	return row{tool: tool, step: step, cpu: (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds(),
		read: u.Inblock * 512, wrote: u.Oublock * 512, resident: u.Maxrss * 1024}
}

// dropCaches makes reads come from the disk; without the right to do so they come
// from memory, for all tools alike.
func dropCaches() {
	syscall.Sync()
	_ = os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0)
}

func (b *bench) versions(ctx context.Context) error {
	for _, c := range [][]string{{b.cairn, "version"}, {"restic", "version"}, {"borg", "--version"}, {"rsync", "--version"}, {"qemu-img", "--version"}} {
		out, err := exec.CommandContext(ctx, c[0], c[1:]...).Output()
		if errors.Is(err, exec.ErrNotFound) {
			fmt.Printf("%s is not installed and left out\n", c[0])
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: %w", strings.Join(c, " "), err)
		}
		first, _, _ := strings.Cut(string(out), "\n")
		fmt.Println(first)
	}
	return nil
}

// prepare makes the disk and our volume on it.
func (b *bench) prepare(ctx context.Context) error {
	b.image, b.config = b.path("disk.img"), b.path("cairn.yml")
	files := b.path("files")
	if err := gather("/usr", files, b.files*mib); err != nil {
		return err
	}
	mkfs := exec.CommandContext(ctx, "mkfs.ext4", "-q", "-F", "-b", "4096", "-d", files, b.image, fmt.Sprintf("%dM", b.size))
	if out, err := mkfs.CombinedOutput(); err != nil {
		return fmt.Errorf("mkfs.ext4: %w: %s", err, out)
	}
	if err := os.RemoveAll(files); err != nil {
		return err
	}
	if err := copyFile(b.image, b.path("disk2.img")); err != nil {
		return err
	}
	text := fmt.Sprintf("global: {state: %q, control: {sockpath: %q}}\njobs: []\n", b.path("state"), b.path("run", "control"))
	if err := os.WriteFile(b.config, []byte(text), 0o600); err != nil {
		return err
	}
	for _, argv := range [][]string{{"volume", "adopt", "db", b.image}, {"volume", "adopt", "marked", b.path("disk2.img")},
		{"capture", "db", "--name", "v0"}, {"capture", "marked", "--name", "v0", "--bookmark"}} {
		if err := b.tool(ctx, argv...); err != nil {
			return err
		}
	}
	return nil
}

// tool runs a cairn command that is not measured.
func (b *bench) tool(ctx context.Context, argv ...string) error {
	cmd := exec.CommandContext(ctx, b.cairn, append([]string{"--config", b.config}, argv...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("cairn %s: %w: %s", strings.Join(argv, " "), err, out)
	}
	return nil
}

func (b *bench) full(ctx context.Context, peers []peer) error {
	if err := b.transfer(ctx, "full", "db@v0"); err != nil {
		return err
	}
	for _, p := range peers {
		if err := p.full(ctx, b); err != nil {
			return err
		}
	}
	return nil
}

// transfer sends a version into a file and receives it from there.
func (b *bench) transfer(ctx context.Context, step string, send ...string) error {
	stream := b.path("stream")
	argv := append([]string{b.cairn, "--config", b.config, "volume", "send"}, send...)
	sent, err := b.measured(ctx, "cairn", step+": send", "", stream, argv...)
	if err != nil {
		return err
	}
	info, err := os.Stat(stream)
	if err != nil {
		return err
	}
	sent.moved = info.Size()
	// Writing the stream into a file is the measurement's, not the sender's.
	sent.wrote = max(0, sent.wrote-info.Size())
	_, err = b.measured(ctx, "cairn", step+": receive", stream, "", b.cairn, "--config", b.config, "volume", "receive", "replica")
	return err
}

// increment changes 1 % of both volumes, and protects the change with every tool.
func (b *bench) increment(ctx context.Context, pattern string, peers []peer) error {
	changes := pick(pattern, b.size*mib/blockSize, rand.New(rand.NewPCG(7, uint64(len(pattern)))))
	b.changed = int64(len(changes)) * blockSize
	if err := b.change(ctx, "capture under a bookmark", pattern, "marked", changes); err != nil {
		return err
	}
	if err := b.change(ctx, "capture under a snapshot", pattern, "db", changes); err != nil {
		return err
	}
	from, to := "@v0", "v1"
	if pattern == "single" {
		from, to = "@v1", "v2"
	}
	if err := b.tool(ctx, "capture", "db", "--name", to); err != nil {
		return err
	}
	if err := b.tool(ctx, "capture", "marked", "--name", to, "--bookmark"); err != nil {
		return err
	}
	if err := b.transfer(ctx, pattern, "db@"+to, "--from", from); err != nil {
		return err
	}
	for _, p := range peers {
		if err := p.increment(ctx, b, pattern); err != nil {
			return err
		}
	}
	return nil
}

// pick chooses 1 % of the blocks, in runs of 16 or one by one.
func pick(pattern string, blocks int64, rng *rand.Rand) []int64 {
	want, run := blocks/100, int64(16)
	if pattern == "single" {
		run = 1
	}
	seen := make(map[int64]bool, want)
	var list []int64
	for int64(len(list)) < want {
		first := rng.Int64N(blocks/run) * run
		for i := first; i < first+run && !seen[i]; i++ {
			seen[i] = true
			list = append(list, i)
		}
	}
	return list
}

func (b *bench) print() {
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', tabwriter.AlignRight)
	say := func(cells ...any) { _, _ = fmt.Fprintf(w, strings.Repeat("%v\t", len(cells))+"\n", cells...) }
	say("tool", "step", "CPU s", "read MiB", "written MiB", "moved MiB", "memory MiB")
	for _, r := range b.rows {
		say(r.tool, r.step, fmt.Sprintf("%.2f", r.cpu), tenths(r.read), tenths(r.wrote), tenths(r.moved), r.resident/mib)
	}
	_ = w.Flush()
	fmt.Printf("changed per pattern: %s MiB; moved is sent, or added to the tool's store\n", tenths(b.changed))
}

func tenths(n int64) string { return fmt.Sprintf("%.1f", float64(n)/mib) }

// sum adds up our rows of the given steps.
func (b *bench) sum(steps ...string) (total row) {
	for _, r := range b.rows {
		for _, s := range steps {
			if r.tool == "cairn" && r.step == s {
				total.cpu, total.read, total.wrote, total.moved = total.cpu+r.cpu, total.read+r.read, total.wrote+r.wrote, total.moved+r.moved
				total.resident = max(total.resident, r.resident)
			}
		}
	}
	return total
}

func (b *bench) limit(what string, got, most float64, unit string) {
	verdict := "holds"
	if got > most {
		verdict = "SHORT"
		b.short = append(b.short, what)
	}
	fmt.Printf("%-6s %s: %.2f %s, limit %.2f\n", verdict, what, got, unit, most)
}

// judge holds our figures against the limits.
func (b *bench) judge() {
	for _, pattern := range []string{"runs", "single"} {
		send, both := b.sum(pattern+": send"), b.sum(pattern+": send", pattern+": receive")
		b.limit(pattern+": moved", float64(send.moved)/mib, 25, "MiB")
		b.limit(pattern+": read by send", float64(send.read)/mib, 25, "MiB")
		b.limit(pattern+": CPU of send", send.cpu, 0.5, "s")
		b.limit(pattern+": CPU of both sides", both.cpu, 1, "s")
		b.limit(pattern+": memory", float64(both.resident)/mib, 64, "MiB")
		written := b.sum(pattern+": capture under a snapshot", pattern+": receive")
		b.limit(pattern+": written by capture and receive", float64(written.wrote)/float64(b.changed), 4, "times the change")
	}
	first := b.sum("full: send", "full: receive")
	b.limit("full: CPU of send", b.sum("full: send").cpu, 5, "s")
	b.limit("full: CPU of both sides", first.cpu, 8, "s")
	for _, r := range b.rows {
		if r.step == "full" && compresses[r.tool] {
			b.limit("full: CPU of both sides beside "+r.tool, first.cpu, r.cpu, "s")
		}
	}
	if len(b.short) > 0 {
		fmt.Printf("bench-incremental: short in %d: %s\n", len(b.short), strings.Join(b.short, "; "))
		return
	}
	fmt.Println("bench-incremental: every limit holds")
}

// waitFor polls until a socket is there.
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

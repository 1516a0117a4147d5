// Command incremental measures what protecting a disk costs, beside the tools a
// user would pick instead, in one run: a full first copy, then 1 % of the disk's
// 4 KiB blocks changed, once in 64 KiB runs and once as single blocks.
//
// Our sender's stream goes to our receiver through this program, which counts it,
// as a network would take it. Figures are CPU seconds, bytes of the block layer and
// peak memory of finished processes (getrusage), and bytes moved or stored; never
// wall time. Full copies are made in rounds, all tools in turn, each into an empty
// store; the figures are medians, and ratios are taken per round. The limits are
// those the project set itself; the last line is the verdict, and the exit status
// is 1 when one is missed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
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
	flag.IntVar(&b.rounds, "rounds", 3, "rounds of full copies")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := b.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench-incremental:", err)
		os.Exit(1)
	}
}

type bench struct {
	cairn  string
	dir    string
	size   int64
	files  int64
	rounds int

	image   string
	config  string
	changed int64 // bytes of one change set
	series  []*series
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
	for range b.rounds {
		if err := b.full(ctx, peers); err != nil {
			return err
		}
	}
	for _, pattern := range []string{"runs", "single"} {
		if err := b.increment(ctx, pattern, peers); err != nil {
			return err
		}
	}
	b.print()
	return b.judge()
}

// command is a command as every tool is run: in the bench's folder, with its
// stores there.
func (b *bench) command(ctx context.Context, argv ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = b.dir
	cmd.Env = append(os.Environ(), "TMPDIR="+b.path("tmp"), "RESTIC_PASSWORD=x", "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=yes",
		"BORG_BASE_DIR="+b.path("borg-home"), "XDG_CACHE_HOME="+b.path("cache"), "CAIRN_CONFIG="+b.config)
	return cmd
}

// quiet runs a command that is not measured, and gives its output.
func (b *bench) quiet(ctx context.Context, argv ...string) (string, error) {
	out, err := b.command(ctx, argv...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, out)
	}
	return string(out), nil
}

// measured runs a command to its end and accounts for it and its children.
func (b *bench) measured(ctx context.Context, tool, step string, argv ...string) (*row, string, error) {
	cmd := b.command(ctx, argv...)
	var out, errText strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errText
	dropCaches()
	b.warm(ctx, argv[0])
	if err := cmd.Run(); err != nil {
		return nil, "", fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, errText.String())
	}
	return b.add(usage(cmd, tool, step)), out.String(), nil
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
	_, err := b.quiet(ctx, append([]string{b.cairn}, argv...)...)
	return err
}

// full is one round of full copies, each into an empty store.
func (b *bench) full(ctx context.Context, peers []peer) error {
	if b.of("cairn", "full: receive") != nil {
		if err := b.tool(ctx, "volume", "destroy", "replica", "--yes"); err != nil {
			return err
		}
	}
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

// transfer sends a version and receives it, both at once, and counts the stream
// between them.
func (b *bench) transfer(ctx context.Context, step string, send ...string) error {
	sender := b.command(ctx, append([]string{b.cairn, "volume", "send"}, send...)...)
	receiver := b.command(ctx, b.cairn, "volume", "receive", "replica")
	var errText strings.Builder
	sender.Stderr, receiver.Stderr = &errText, os.Stderr
	out, err := sender.StdoutPipe()
	if err != nil {
		return err
	}
	in, err := receiver.StdinPipe()
	if err != nil {
		return err
	}
	dropCaches()
	b.warm(ctx, b.cairn)
	if err := errors.Join(sender.Start(), receiver.Start()); err != nil {
		return err
	}
	moved, err := io.CopyBuffer(struct{ io.Writer }{in}, struct{ io.Reader }{out}, make([]byte, mib))
	err = errors.Join(err, in.Close(), sender.Wait(), receiver.Wait())
	if err != nil {
		return fmt.Errorf("%s: %w: %s", step, err, errText.String())
	}
	sent := usage(sender, "cairn", step+": send")
	sent.moved = moved
	b.add(sent)
	b.add(usage(receiver, "cairn", step+": receive"))
	return nil
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

//go:build unix

package child_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"cairn"
	"cairn/internal/mech/child"
	"cairn/internal/mech/watchdog"
)

const grace = 150 * time.Millisecond

func shell(script string) child.Options {
	return child.Options{Path: "/bin/sh", Args: []string{"-c", script}, AfterTerm: grace, AfterKill: 10 * grace, AfterClose: grace}
}

func start(ctx context.Context, t *testing.T, o child.Options) *child.Child {
	t.Helper()
	c, err := child.Start(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// reaped fails when the process is still there after a while.
func reaped(t *testing.T, pid int) {
	t.Helper()
	for range 500 {
		if syscall.Kill(pid, 0) != nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("process %d is still there", pid)
}

func TestPipesAndStatus(t *testing.T) {
	o := shell("cat; echo LC_ALL=$LC_ALL LANG=$LANG EXTRA=$EXTRA; pwd")
	dir := t.TempDir()
	o.In, o.Out, o.Dir, o.Env = true, true, dir, []string{"EXTRA=1"}
	t.Setenv("LANG", "de_DE.UTF-8")
	t.Setenv("LC_NUMERIC", "de_DE.UTF-8")
	c := start(t.Context(), t, o)
	go func() {
		_, _ = c.Stdin().Write([]byte("hello\n"))
		c.Stdin().Close()
	}()
	out, err := io.ReadAll(c.Stdout())
	if err != nil {
		t.Fatal(err)
	}
	if want := "hello\nLC_ALL=C LANG= EXTRA=1\n" + dir + "\n"; string(out) != want {
		t.Errorf("got %q, want %q", out, want)
	}
	if err := c.Wait(); err != nil {
		t.Error(err)
	}
	select {
	case <-c.Ended():
	default:
		t.Error("Ended is open after Wait")
	}
}

func TestFailureQuotesTheEndOfStandardError(t *testing.T) {
	c := start(t.Context(), t, shell("i=0; while [ $i -lt 3000 ]; do echo 'noise noise noise' >&2; i=$((i+1)); done; echo 'cannot open tank: no such pool' >&2; exit 3"))
	err := c.Wait()
	if err == nil || !strings.HasSuffix(err.Error(), "cannot open tank: no such pool") || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("%v", err)
	}
	if len(err.Error()) > 5000 {
		t.Errorf("an error of %d bytes", len(err.Error()))
	}
}

func TestWhatCannotBeStarted(t *testing.T) {
	plain := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(plain, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]cairn.Kind{"/nonexistent/zfs": cairn.KindNotFound, "no-such-program-cairn": cairn.KindNotFound, plain: cairn.KindPermission} {
		if _, err := child.Start(t.Context(), child.Options{Path: path, In: true, Out: true}); !errors.Is(err, want) {
			t.Errorf("%s: %v", path, err)
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := child.Start(ended, shell("exit 0")); !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context: %v", err)
	}
}

// Whatever the program does when its context ends, Wait returns within the graces,
// the program is gone, and so is what it started.
func TestCancelEndsIt(t *testing.T) {
	for _, c := range []struct {
		name, script string
		after        func(t *testing.T, c *child.Child) // before the cancel
		least        time.Duration
	}{
		{name: "sleeps", script: "echo ready; sleep 1000"},
		{name: "ignores TERM", script: "trap '' TERM; echo ready; while :; do sleep 0.1; done", least: grace},
		{name: "is stopped", script: "echo ready; sleep 1000", after: func(t *testing.T, c *child.Child) {
			if err := syscall.Kill(-c.PID(), syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "is stopped and handles TERM", script: "trap 'exit 1' TERM; echo ready; while :; do sleep 0.1; done", after: func(t *testing.T, c *child.Child) {
			if err := syscall.Kill(-c.PID(), syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "is stopped and ignores TERM", script: "trap '' TERM; echo ready; while :; do sleep 0.1; done", least: grace, after: func(t *testing.T, c *child.Child) {
			if err := syscall.Kill(-c.PID(), syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "is blocked in a full pipe", script: "echo ready; exec yes"},
		{name: "is blocked in a full pipe and ignores TERM", script: "trap '' TERM; echo ready; yes", least: grace},
		{name: "has children", script: "sleep 1000 & sleep 1000 & echo ready; wait"},
		{name: "has a child that ignores TERM", script: "(trap '' TERM; while :; do sleep 0.1; done) & echo ready; wait"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			o := shell(c.script)
			o.Out = true
			if c.least == 0 {
				o.AfterTerm = time.Minute // TERM has to do
			}
			ch := start(ctx, t, o)
			if _, err := io.ReadFull(ch.Stdout(), make([]byte, len("ready\n"))); err != nil {
				t.Fatal(err)
			}
			time.Sleep(20 * time.Millisecond) // time to fill the pipe
			if c.after != nil {
				c.after(t, ch)
			}
			begin := time.Now()
			cancel()
			err := ch.Wait()
			took := time.Since(begin)
			if !errors.Is(err, context.Canceled) || !errors.Is(err, cairn.KindCanceled) {
				t.Errorf("%v", err)
			}
			if took < c.least || took > 5*time.Second {
				t.Errorf("took %s", took)
			}
			reaped(t, ch.PID())
			reaped(t, -ch.PID())
		})
	}
}

// A write into a program that does not read ends when the program is taken down.
func TestBlockedWriteEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	o := shell("sleep 1000")
	o.In = true
	c := start(ctx, t, o)
	wrote := make(chan error, 1)
	go func() {
		_, err := io.Copy(c.Stdin(), neverEnding{})
		wrote <- err
	}()
	time.Sleep(20 * time.Millisecond)
	cancel()
	if err := c.Wait(); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	select {
	case err := <-wrote:
		if err == nil {
			t.Error("endless input was written")
		}
	case <-time.After(5 * time.Second):
		t.Error("the write still hangs")
	}
}

type neverEnding struct{}

func (neverEnding) Read(p []byte) (int, error) { return len(p), nil }

// A program that has ended is over, whoever it left behind with its pipes.
func TestGrandchildDoesNotHoldUs(t *testing.T) {
	o := shell("sleep 1000 >/dev/null & echo $!")
	o.Out = true
	c := start(t.Context(), t, o)
	line := make([]byte, 16)
	n, err := c.Stdout().Read(line)
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if err := c.Wait(); err != nil || time.Since(begin) > 5*time.Second {
		t.Errorf("%v after %s", err, time.Since(begin))
	}
	pid, err := strconv.Atoi(string(bytes.TrimSpace(line[:n])))
	if err != nil {
		t.Fatal(err)
	}
	_ = syscall.Kill(pid, syscall.SIGKILL)
}

// CPU time and I/O of the program are progress; a program that waits makes none.
func TestUsageIsProgress(t *testing.T) {
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		t.Skip("no /proc here")
	}
	run := func(script string) watchdog.Report {
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		p := &watchdog.Progress{}
		_ = start(watchdog.With(ctx, p), t, shell(script)).Wait()
		return p.Report()
	}
	idle := make(chan watchdog.Report)
	go func() { idle <- run("exec sleep 1000") }()
	busy := run("exec dd if=/dev/zero of=/dev/null bs=4096 2>/dev/null")
	if busy.Counters["sh cpu ms"] < 50 || busy.Counters["sh bytes"] < 1<<20 {
		t.Errorf("a busy program: %v", busy)
	}
	if r := <-idle; r.Counters["sh cpu ms"] > 40 || r.Counters["sh bytes"] > 1<<20 {
		t.Errorf("a waiting program: %v", r)
	}
}

// Under a watchdog, a child that does nothing is found and taken down.
func TestWatchdogEndsAStandingChild(t *testing.T) {
	err, abandoned := watchdog.Run(t.Context(), &watchdog.Progress{}, watchdog.Options{Op: "send", Subject: "tank/home", Limit: 200 * time.Millisecond, Grace: 5 * time.Second},
		func(ctx context.Context) error {
			return start(ctx, t, shell("trap '' TERM; while :; do sleep 1; done")).Wait()
		})
	if abandoned || !errors.Is(err, cairn.KindStuck) {
		t.Errorf("%v, abandoned %v", err, abandoned)
	}
}

// What no signal ends in time is abandoned: Wait says so, and Ended tells when it is
// over after all.
func TestAbandoned(t *testing.T) {
	for range 50 {
		ctx, cancel := context.WithCancel(t.Context())
		o := shell("trap '' TERM; echo ready; while :; do sleep 1; done")
		o.Out, o.AfterTerm, o.AfterKill, o.AfterClose = true, 1, 1, 1 // no program is that fast
		c := start(ctx, t, o)
		if _, err := c.Stdout().Read(make([]byte, 16)); err != nil {
			t.Fatal(err)
		}
		cancel()
		err := c.Wait()
		<-c.Ended()
		if errors.Is(err, cairn.KindStuck) && errors.Is(err, context.Canceled) && strings.Contains(err.Error(), strconv.Itoa(c.PID())) {
			return
		}
	}
	t.Error("never abandoned")
}

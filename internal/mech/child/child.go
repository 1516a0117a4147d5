// Package child runs another program so that it cannot hang us: in a process group
// of its own, with a fixed locale, pipes that can be taken away from it, the end of
// its standard error kept for messages, and its CPU time and I/O reported as
// progress (internal/mech/watchdog).
//
// When the context ends, a ladder is climbed until the program is gone: TERM to the
// group, KILL to the group, closing of our ends of its pipes, and at last the
// program is abandoned: Wait returns although it has not ended. What it may still
// touch stays suspect until Ended is closed.
//
// It promises that Wait returns within the three graces after the context ended,
// whatever the program does, stopped and blocked in a pipe included; that no
// zombie stays when it does end; and that standard error never costs more than a few
// KiB.
//
// What can go wrong: a program in an uninterruptible system call cannot be ended by
// anybody. Programs that put themselves into another process group escape TERM and
// KILL, not the closing of the pipes.
package child

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"cairn"
	"cairn/internal/mech/watchdog"
)

// Options say what to run. Standard input and output are the null device unless In
// and Out are set.
type Options struct {
	Path string // of the program; looked up in PATH when it has no slash
	Args []string
	Dir  string
	Env  []string  // added to ours, whose language settings are replaced by LC_ALL=C
	In   bool      // the caller writes to Stdin
	Out  bool      // the caller reads from Stdout
	Err  io.Writer // gets standard error too; nil: only its end is kept

	// How long the program has after TERM, after KILL, and after its pipes were
	// closed; each 0 is 5 s.
	AfterTerm, AfterKill, AfterClose time.Duration
}

// stderrKept is how much of the end of standard error a message may quote.
const stderrKept = 4 << 10

// sampleEvery is how often CPU time and I/O are looked at.
const sampleEvery = time.Second

// Child is one running program.
type Child struct {
	o      Options
	ctx    context.Context
	cmd    *exec.Cmd
	stdin  *os.File // our ends of the pipes; nil where there is none
	stdout *os.File
	stderr *os.File
	quote  tail
	quiet  chan struct{} // closed at the end of standard error
	ended  chan struct{} // closed when the program was reaped; err is set before
	err    error
	gone   chan struct{} // closed by climb: the program has ended, or is abandoned
}

// Start starts the program. The caller calls Wait, also after ctx has ended.
func Start(ctx context.Context, o Options) (*Child, error) {
	if err := ctx.Err(); err != nil {
		return nil, &cairn.Error{Op: "run", Subject: o.name(), Kind: cairn.KindCanceled, Err: err}
	}
	c := &Child{o: o, ctx: ctx, cmd: exec.Command(o.Path, o.Args...), quiet: make(chan struct{}), ended: make(chan struct{}), gone: make(chan struct{})}
	c.cmd.Dir, c.cmd.Env = o.Dir, o.env()
	ownGroup(c.cmd)
	theirs, err := c.pipes()
	if err == nil {
		err = c.cmd.Start()
	}
	for _, f := range theirs {
		_ = f.Close() // the program has its own by now
	}
	if err != nil {
		c.closePipes()
		return nil, &cairn.Error{Op: "run", Subject: o.name(), Kind: startKind(err), Err: err, Hint: "is it installed, and may this user run it?"}
	}
	go c.drain()
	go c.reap()
	go c.watch()
	return c, nil
}

func startKind(err error) cairn.Kind {
	switch {
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, os.ErrNotExist):
		return cairn.KindNotFound
	case errors.Is(err, os.ErrPermission):
		return cairn.KindPermission
	}
	return cairn.KindOther
}

func (o Options) name() string { return filepath.Base(o.Path) }

// env is our environment with a fixed locale: messages and numbers of programs are
// parsed.
func (o Options) env() []string {
	env := slices.DeleteFunc(os.Environ(), func(e string) bool {
		return strings.HasPrefix(e, "LC_") || strings.HasPrefix(e, "LANG=") || strings.HasPrefix(e, "LANGUAGE=")
	})
	return append(append(env, "LC_ALL=C"), o.Env...)
}

// pipes makes the pipes and returns the program's ends.
func (c *Child) pipes() (theirs []*os.File, err error) {
	pipe := func() (r, w *os.File) {
		if err == nil {
			r, w, err = os.Pipe()
		}
		return r, w
	}
	if c.o.In {
		r, w := pipe()
		if err != nil {
			return theirs, err
		}
		c.cmd.Stdin, c.stdin, theirs = r, w, append(theirs, r)
	}
	if c.o.Out {
		r, w := pipe()
		if err != nil {
			return theirs, err
		}
		c.cmd.Stdout, c.stdout, theirs = w, r, append(theirs, w)
	}
	r, w := pipe()
	if err != nil {
		return theirs, err
	}
	c.cmd.Stderr, c.stderr = w, r
	return append(theirs, w), nil
}

func (c *Child) closePipes() {
	for _, f := range []*os.File{c.stdin, c.stdout, c.stderr} {
		if f != nil {
			_ = f.Close() // nothing is buffered in them, and the second close fails
		}
	}
}

// Stdin is the program's standard input; closing it is its end of file. Only with
// Options.In. When the program is taken down, writes fail.
func (c *Child) Stdin() io.WriteCloser { return c.stdin }

// Stdout is the program's standard output. Only with Options.Out. Its EOF says
// nothing about success: Wait does.
func (c *Child) Stdout() io.ReadCloser { return c.stdout }

// PID is the program's process id, which is its group's too.
func (c *Child) PID() int { return c.cmd.Process.Pid }

// Ended is closed when the program has really ended and was reaped.
func (c *Child) Ended() <-chan struct{} { return c.ended }

// Wait returns when the program has ended, or was abandoned, and closes our ends of
// its pipes: read Stdout to EOF before. The error is nil only when it ended by
// itself with status 0; it quotes the end of standard error. Its kind is
// KindCanceled when ctx had ended, and KindStuck when the program was abandoned.
func (c *Child) Wait() error {
	<-c.gone
	c.settle()
	c.closePipes()
	select {
	case <-c.ended:
	default:
		return &cairn.Error{Op: "end", Subject: c.o.name(), Kind: cairn.KindStuck,
			Err:  fmt.Errorf("process %d did not end after TERM, KILL and the closing of its pipes: %w", c.PID(), c.ctx.Err()),
			Hint: "a program that no signal ends waits for a device; what it works on stays locked"}
	}
	if c.err == nil {
		return nil
	}
	cause := c.err
	if text := c.quote.text(); text != "" {
		cause = fmt.Errorf("%w: %s", cause, text)
	}
	kind := cairn.KindOther
	if err := c.ctx.Err(); err != nil {
		cause, kind = fmt.Errorf("%w: %w", err, cause), cairn.KindCanceled
	}
	return &cairn.Error{Op: "run", Subject: c.o.name(), Kind: kind, Err: cause}
}

// settle gives what the program wrote last a moment to arrive; a grandchild may
// hold standard error open for ever.
func (c *Child) settle() {
	t := time.NewTimer(c.grace(c.o.AfterClose) / 5)
	defer t.Stop()
	select {
	case <-c.quiet:
	case <-t.C:
	}
}

// drain keeps the end of standard error. It ends with the pipe.
func (c *Child) drain() {
	defer close(c.quiet)
	all := io.Writer(&c.quote)
	if c.o.Err != nil {
		all = io.MultiWriter(all, c.o.Err)
	}
	_, _ = io.Copy(all, c.stderr) // how it ends does not matter: Wait tells
}

// reap waits for the program, for ever if need be.
func (c *Child) reap() {
	c.err = c.cmd.Wait()
	close(c.ended)
}

// watch reports progress while the program runs and climbs the ladder when the
// context ends.
func (c *Child) watch() {
	defer close(c.gone)
	p := watchdog.From(c.ctx)
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for {
		select {
		case <-c.ended:
			return
		case <-tick.C:
			if cpu, moved, err := usage(c.PID()); err == nil {
				p.Level(c.o.name()+" cpu ms", cpu.Milliseconds())
				p.Level(c.o.name()+" bytes", moved)
			}
		case <-c.ctx.Done():
			c.climb()
			return
		}
	}
}

// climb takes the program down.
func (c *Child) climb() {
	for _, rung := range []struct {
		do    func()
		grace time.Duration
	}{
		{func() { terminate(c.cmd) }, c.o.AfterTerm},
		{func() { kill(c.cmd) }, c.o.AfterKill},
		{c.closePipes, c.o.AfterClose},
	} {
		rung.do()
		t := time.NewTimer(c.grace(rung.grace))
		select {
		case <-c.ended:
			t.Stop()
			kill(c.cmd) // what it has started and left in its group
			return
		case <-t.C:
		}
	}
}

func (c *Child) grace(d time.Duration) time.Duration {
	if d == 0 {
		return 5 * time.Second
	}
	return d
}

// tail keeps the last bytes written to it.
type tail struct {
	mu  sync.Mutex // guards buf
	buf []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p[max(0, len(p)-stderrKept):]...)
	if extra := len(t.buf) - stderrKept; extra > 0 {
		t.buf = t.buf[:copy(t.buf, t.buf[extra:])]
	}
	return len(p), nil
}

// text is what was kept, on one line.
func (t *tail) text() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.Join(strings.Fields(strings.ToValidUTF8(string(bytes.TrimSpace(t.buf)), "?")), " ")
}

// Package hook runs the programs that a user wants to run around the capture of a
// dataset: pause an application before, let it go on afterwards.
//
// A program learns what it is asked from its environment, under zrepl's names and
// ours (docs/guide/configuration.md). It gets a process group of its own and is taken
// down with it when its time is over or the context ends (internal/mech/child). Of
// what it prints, the first MiB goes to the log.
//
// What can go wrong: a program that cannot be ended by any signal is abandoned with
// KindStuck; a program that daemonises escapes.
package hook

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"cairn"
	"cairn/internal/mech/child"
)

// Command is a program run before and after a capture.
type Command struct {
	Path    string
	Timeout time.Duration // of one run
	Log     *slog.Logger
}

// Run runs the program before the capture of dataset as version (with its '@'), or
// after it. It fails when the program cannot be started, ends with another status
// than 0, or takes longer than Timeout (KindStuck).
func (c Command) Run(ctx context.Context, after bool, dataset, version string) error {
	limited, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	log := c.Log.With("hook", c.Path, "dataset", dataset)
	out, warn := &lines{tell: log.Info}, &lines{tell: log.Warn}
	p, err := child.Start(limited, child.Options{Path: c.Path, Env: c.environment(after, dataset, version), Out: true, Err: warn})
	if err != nil {
		return c.failure(err)
	}
	_, _ = io.Copy(out, p.Stdout()) // how it ends does not matter: Wait tells
	err = p.Wait()
	out.end()
	warn.end()
	if err != nil && ctx.Err() == nil && errors.Is(limited.Err(), context.DeadlineExceeded) {
		err = &cairn.Error{Op: "wait for", Subject: c.Path, Kind: cairn.KindStuck, Err: fmt.Errorf("it ran longer than its timeout of %v: %w", c.Timeout, err)}
	}
	return c.failure(err)
}

func (c Command) failure(err error) error {
	if err == nil {
		return nil
	}
	return &cairn.Error{Op: "run hook", Subject: c.Path, Kind: cairn.KindOf(err), Err: err, Hint: "try it by hand with the environment that the guide lists"}
}

func (c Command) environment(after bool, dataset, version string) []string {
	edge := "pre_snapshot"
	if after {
		edge = "post_snapshot"
	}
	name := version[1:]
	return []string{
		"ZREPL_HOOKTYPE=" + edge, "ZREPL_FS=" + dataset, "ZREPL_SNAPNAME=" + name, "ZREPL_DRYRUN=false",
		fmt.Sprintf("ZREPL_TIMEOUT=%.0f", c.Timeout.Seconds()),
		"CAIRN_HOOK=" + edge, "CAIRN_DATASET=" + dataset, "CAIRN_VERSION=" + version,
	}
}

// Bounds of what is logged of one run.
const (
	maxLogged = 1 << 20
	maxLine   = 4 << 10
)

// lines passes what is written to it on by the line, up to maxLogged bytes.
type lines struct {
	tell func(msg string, args ...any)

	mu   sync.Mutex // guards what follows: standard error may be written to after Run has given up on it
	part []byte
	told int
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.part = append(l.part, b[:min(len(b), max(0, maxLogged-l.told))]...)
	l.told += len(b)
	for len(l.part) > 0 {
		n, line, err := bufio.ScanLines(l.part, false)
		if n == 0 && len(l.part) > maxLine {
			n, line = maxLine, l.part[:maxLine]
		}
		if n == 0 || err != nil {
			break
		}
		l.say(line)
		l.part = l.part[n:]
	}
	return len(b), nil
}

// end says what has no end of line.
func (l *lines) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.say(l.part)
	l.part = nil
}

func (l *lines) say(line []byte) {
	if len(line) > 0 {
		l.tell(string(bytes.ToValidUTF8(line, []byte("?"))))
	}
}

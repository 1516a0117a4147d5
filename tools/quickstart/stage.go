package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// stage is where the story plays: a folder, the tools, and the daemons that run.
type stage struct {
	dir     string
	cairn   string
	tools   map[string]string // by name; those that must be there
	out     io.Writer
	scene   int
	daemons []*daemon // running, in the order of their start
}

const (
	shownLines = 9           // of a command's output
	shownWidth = 118         // of a line
	patience   = time.Minute // with one command
	scenes     = 8
)

func (s *stage) path(name string) string { return filepath.Join(s.dir, name) }

func (s *stage) title(text string) {
	s.scene++
	s.say("\n[%d/%d] %s", s.scene, scenes, text)
}

func (s *stage) say(format string, args ...any) { fmt.Fprintf(s.out, format+"\n", args...) }

// show prints output as it is, shortened in the middle of nothing: its first lines.
func (s *stage) show(text string) {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	for i, line := range lines {
		if i == shownLines && len(lines) > shownLines+1 {
			s.say("    … %d more lines", len(lines)-i)
			return
		}
		if r := []rune(line); len(r) > shownWidth {
			line = string(r[:shownWidth-1]) + "…"
		}
		if line != "" {
			s.say("    %s", line)
		}
	}
}

// command prepares a process in the folder that cannot outlive this one.
func (s *stage) command(ctx context.Context, tool string, args ...string) *exec.Cmd {
	path := tool
	if tool == "cairn" {
		path = s.cairn
	} else if found := s.tools[tool]; found != "" {
		path = found
	}
	c := exec.CommandContext(ctx, path, args...)
	c.Dir = s.dir
	c.Env = append(os.Environ(), "NO_COLOR=1", "LC_ALL=C.UTF-8")
	c.SysProcAttr = isolated()
	c.Cancel = func() error { return signalGroup(c, syscall.SIGTERM) }
	c.WaitDelay = 10 * time.Second
	return c
}

// signalGroup reaches whatever the command has started too.
func signalGroup(c *exec.Cmd, s syscall.Signal) error { return syscall.Kill(-c.Process.Pid, s) }

// run prints a command, runs it and returns its standard output.
func (s *stage) run(ctx context.Context, tool string, args ...string) (string, error) {
	s.say("  $ %s", line(tool, args))
	out, err := s.quiet(ctx, tool, args...)
	if err == nil {
		s.show(out)
	}
	return out, err
}

// quiet runs a command without printing it.
func (s *stage) quiet(ctx context.Context, tool string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("no end within %v", patience))
	defer cancel()
	c := s.command(ctx, tool, args...)
	var out, problems bytes.Buffer
	c.Stdout, c.Stderr = &out, &problems
	if err := c.Run(); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return out.String(), fmt.Errorf("%s: %w\n%s%s", line(tool, args), err, out.String(), problems.String())
	}
	return out.String(), nil
}

// ask runs a reading cairn command for its JSON.
func (s *stage) ask(ctx context.Context, into any, args ...string) error {
	out, err := s.quiet(ctx, "cairn", append(args, "--json")...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(out), into); err != nil {
		return fmt.Errorf("%s answered something that is no JSON: %w", line("cairn", args), err)
	}
	return nil
}

// line renders a command as a user would type it.
func line(tool string, args []string) string {
	words := []string{tool}
	for _, a := range args {
		if strings.ContainsAny(a, " |*?;&()#$\"") {
			a = "'" + a + "'"
		}
		words = append(words, a)
	}
	return strings.Join(words, " ")
}

// daemon is a running cairn daemon.
type daemon struct {
	name  string
	cmd   *exec.Cmd
	log   *os.File
	ended chan struct{} // closed when the process is gone
	err   error         // set before
}

// start starts the daemon of a configuration and waits until it answers.
func (s *stage) start(ctx context.Context, name string) error {
	args := []string{"--config", name + ".yml", "daemon"}
	s.say("  $ %s > %s/daemon.log &", line("cairn", args), name)
	log, err := os.OpenFile(s.path(name+"/daemon.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	d := &daemon{name: name, log: log, ended: make(chan struct{})}
	d.cmd = s.command(context.WithoutCancel(ctx), "cairn", args...)
	d.cmd.Stdout, d.cmd.Stderr = log, log
	if err := d.cmd.Start(); err != nil {
		return errors.Join(err, log.Close())
	}
	go func() {
		d.err = d.cmd.Wait()
		close(d.ended)
	}()
	s.daemons = append(s.daemons, d)
	for range 100 {
		if _, err = s.quiet(ctx, "cairn", "--config", name+".yml", "job", "list"); err == nil {
			return nil
		}
		select {
		case <-d.ended:
			return fmt.Errorf("the daemon of %s ended (%w):\n%s", name, d.err, tail(log.Name()))
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
	return fmt.Errorf("the daemon of %s does not answer: %w\n%s", name, err, tail(log.Name()))
}

// stop ends the daemon in order, and by force when it does not end within its time.
func (s *stage) stop(name string) error {
	for i, d := range s.daemons {
		if d.name == name {
			s.daemons = append(s.daemons[:i], s.daemons[i+1:]...)
			return d.stop()
		}
	}
	return nil
}

func (d *daemon) stop() error {
	defer func() { _ = d.log.Close() }()
	_ = signalGroup(d.cmd, syscall.SIGTERM) // it may have ended
	select {
	case <-d.ended:
		return nil
	case <-time.After(20 * time.Second):
	}
	_ = signalGroup(d.cmd, syscall.SIGKILL)
	<-d.ended
	return fmt.Errorf("the daemon of %s did not end within 20 s of SIGTERM and was killed; its log is %s", d.name, d.log.Name())
}

// end stops whatever still runs, the last started first.
func (s *stage) end() error {
	var problems []error
	for len(s.daemons) > 0 {
		problems = append(problems, s.stop(s.daemons[len(s.daemons)-1].name))
	}
	return errors.Join(problems...)
}

// tail is the end of a log.
func tail(file string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-2000):])
}

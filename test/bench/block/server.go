package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// server is one program that serves one disk.
type server struct {
	name   string
	argv   func(socket string) []string
	export string
}

func (b *bench) ours(config string) server { return b.serving(config, "db") }

// serving is our server of a volume under the named configuration.
func (b *bench) serving(config, volume string) server {
	return server{"cairn", func(socket string) []string {
		return []string{b.cairn, "--config", b.path(config + ".yml"), "serve", volume, "--listen", "unix:" + socket}
	}, volume}
}

func (b *bench) nbdkit(name string, options ...string) server {
	return server{name, func(socket string) []string {
		return append([]string{"nbdkit", "-f", "-U", socket, "file", b.path("other.img")}, options...)
	}, ""}
}

// qemu serves a file of the format with qemu-nbd and the cache mode.
func (b *bench) qemu(name, format, cache, file string) server {
	return server{name, func(socket string) []string {
		return []string{"qemu-nbd", "-t", "-e", "8", "-k", socket, "-f", format, "--cache=" + cache, b.path(file)}
	}, ""}
}

// target is a running server.
type target struct {
	server
	cmd    *exec.Cmd
	socket string
}

func (b *bench) start(ctx context.Context, s server) (*target, error) {
	socket := b.path("socket-" + strings.ReplaceAll(s.name, " ", "-"))
	_ = os.Remove(socket)
	argv := s.argv(socket)
	t := &target{server: s, cmd: exec.CommandContext(ctx, argv[0], argv[1:]...), socket: socket}
	t.cmd.Stderr = os.Stderr
	if err := t.cmd.Start(); err != nil {
		return nil, err
	}
	if err := waitFor(ctx, socket); err != nil {
		return nil, fmt.Errorf("%s: %w", s.name, errors.Join(err, t.stop()))
	}
	return t, nil
}

func (b *bench) startAll(ctx context.Context, servers ...server) (list []*target, stop func() error, err error) {
	stop = func() error {
		var err error
		for _, t := range list {
			err = errors.Join(err, t.stop())
		}
		return err
	}
	for _, s := range servers {
		t, err := b.start(ctx, s)
		if err != nil {
			return nil, nil, errors.Join(err, stop())
		}
		list = append(list, t)
	}
	return list, stop, nil
}

func (t *target) stop() error {
	err := t.cmd.Process.Signal(syscall.SIGTERM)
	_ = t.cmd.Wait() // some servers end with a status of their own at a signal
	return err
}

// tick is the unit of CPU time in /proc, the same on every Linux.
const tick = 10 * time.Millisecond

// cpu is what the server has used so far, threads that ended included.
func (t *target) cpu() (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", t.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), ") ") // the name may have spaces
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0, fmt.Errorf("cannot read the CPU time of process %d", t.cmd.Process.Pid)
	}
	user, err := strconv.Atoi(fields[11])
	system, serr := strconv.Atoi(fields[12])
	return time.Duration(user+system) * tick, errors.Join(err, serr)
}

func waitFor(ctx context.Context, name string) error {
	for range 1500 {
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

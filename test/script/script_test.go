// Package script_test drives the real command line and real daemons from script
// files (testdata/*.txtar), in the way a person would at a shell.
package script_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"cairn/internal/app/cli"
	"cairn/internal/testkit/fakezfs"
)

func TestMain(m *testing.M) {
	if status, is := fakezfs.Program(); is {
		os.Exit(status) //nolint:forbidigo // this is main
	}
	testscript.Main(m, map[string]func(){
		"cairn": func() { os.Exit(cli.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }, //nolint:forbidigo // this is main
	})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		Setup:               setup,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Condition:           condition,
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"code": code, "sleep": sleep, "until": until, "port": port, "fill": fill, "poke": poke, "same": same, "flip": flip, "cut": cut,
			"nbdwrite": nbdwrite, "nbdread": nbdread, "zpool": zpool, "zfswrite": zfswrite, "zfsread": zfsread,
		},
	})
}

// setup gives each script a home and a configuration of its own, and $RUN, a
// folder whose path is short enough for sockets.
func setup(e *testscript.Env) error {
	run, err := shortFolder()
	if err != nil {
		return err
	}
	e.Defer(func() { _ = os.RemoveAll(run) })
	e.Values[zfsKey{}] = &zfsHolder{}
	own := filepath.Join(e.WorkDir, "own.yml")
	for name, value := range map[string]string{"HOME": e.WorkDir, "RUN": run, "CAIRN_CONFIG": own, "TZ": "UTC",
		"GORACE": "atexit_sleep_ms=0", // each command would end a second late under the race detector
	} {
		e.Setenv(name, value)
	}
	text := fmt.Sprintf("global: {state: %q, control: {sockpath: %q}}\n", filepath.Join(e.WorkDir, "state"), filepath.Join(run, "control"))
	return os.WriteFile(own, []byte(text), 0o600)
}

// condition knows [tmpfs]: the machine has a file system that keeps nothing.
func condition(name string) (bool, error) {
	switch name {
	case "tmpfs":
		_, err := os.Stat(volatileFolder)
		return err == nil, nil
	case "fakezfs": // the scripts' ZFS is not the machine's own
		return !realZFS(), nil
	case "sshd": // an ssh server, which only root can start
		_, err := os.Stat("/usr/sbin/sshd")
		return err == nil && os.Geteuid() == 0, nil
	case "fuse": // /dev/fuse and the right to mount
		f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
		if err != nil || os.Geteuid() != 0 {
			return false, nil
		}
		return true, f.Close()
	}
	return false, fmt.Errorf("unknown condition %q", name)
}

const volatileFolder = "/dev/shm"

// shortFolder is below TMPDIR when that is short, else below /tmp.
func shortFolder() (string, error) {
	run, err := os.MkdirTemp("", "cs")
	if err == nil && len(run) > 60 {
		_ = os.Remove(run)
		run, err = os.MkdirTemp("/tmp", "cs")
	}
	return run, err
}

// code N COMMAND... runs a command that has to end with the exit code N.
func code(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N COMMAND...")
	}
	want := number(ts, args[0])
	err := ts.Exec(args[1], args[2:]...)
	got := 0
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		got = exit.ExitCode()
	case err != nil:
		ts.Fatalf("%v", err)
	}
	if got != want {
		ts.Fatalf("%q ends with code %d, want %d\n%s", args[1:], got, want, ts.ReadFile("stderr"))
	}
}

// until PATTERN COMMAND... runs a command until its output matches, for at most
// twenty seconds, and two minutes on an emulated processor.
func until(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: until PATTERN COMMAND...")
	}
	pattern := regexp.MustCompile("(?m)" + args[0])
	patience := 20 * time.Second
	if realZFS() {
		patience = 2 * time.Minute
	}
	for deadline := time.Now().Add(patience); ; {
		err := ts.Exec(args[1], args[2:]...)
		out := ts.ReadFile("stdout")
		if pattern.MatchString(out) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%q never prints %s: %v\n%s%s", args[1:], args[0], err, out, ts.ReadFile("stderr"))
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// sleep MILLISECONDS gives a command time to get somewhere.
func sleep(ts *testscript.TestScript, _ bool, args []string) {
	time.Sleep(time.Duration(number(ts, args[0])) * time.Millisecond)
}

// port NAME... sets each variable to a port of the loopback address that is free.
func port(ts *testscript.TestScript, _ bool, args []string) {
	for _, name := range args {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		ts.Check(err)
		_, p, err := net.SplitHostPort(l.Addr().String())
		ts.Check(err)
		ts.Check(l.Close())
		ts.Setenv(name, p)
	}
}

// noise is content that no other seed gives.
func noise(size int, seed int) []byte {
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	b := make([]byte, size)
	_, _ = r.Read(b) // never fails
	return b
}

func number(ts *testscript.TestScript, s string) int {
	n, err := strconv.Atoi(s)
	ts.Check(err)
	return n
}

// fill FILE SIZE SEED makes a file.
func fill(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), noise(number(ts, args[1]), number(ts, args[2])), 0o600))
}

// poke FILE OFFSET SIZE SEED overwrites a part of a file.
func poke(ts *testscript.TestScript, _ bool, args []string) {
	change(ts, args[0], func(f *os.File) error {
		_, err := f.WriteAt(noise(number(ts, args[2]), number(ts, args[3])), int64(number(ts, args[1])))
		return err
	})
}

// flip FILE OFFSET changes one bit; a negative offset counts from the end.
func flip(ts *testscript.TestScript, _ bool, args []string) {
	change(ts, args[0], func(f *os.File) error {
		off := int64(number(ts, args[1]))
		if off < 0 {
			info, err := f.Stat()
			if err != nil {
				return err
			}
			off += info.Size()
		}
		var b [1]byte
		if _, err := f.ReadAt(b[:], off); err != nil {
			return err
		}
		b[0] ^= 1 << (off % 8)
		_, err := f.WriteAt(b[:], off)
		return err
	})
}

// cut FILE SIZE shortens a file; a negative size is taken away from its end.
func cut(ts *testscript.TestScript, _ bool, args []string) {
	change(ts, args[0], func(f *os.File) error {
		size := int64(number(ts, args[1]))
		if size < 0 {
			info, err := f.Stat()
			if err != nil {
				return err
			}
			size += info.Size()
		}
		return f.Truncate(size)
	})
}

func change(ts *testscript.TestScript, file string, do func(*os.File) error) {
	f, err := os.OpenFile(ts.MkAbs(file), os.O_RDWR, 0)
	ts.Check(err)
	ts.Check(errors.Join(do(f), f.Close()))
}

// same A B fails unless both files hold the same bytes.
func same(ts *testscript.TestScript, neg bool, args []string) {
	a, err := os.ReadFile(ts.MkAbs(args[0]))
	ts.Check(err)
	b, err := os.ReadFile(ts.MkAbs(args[1]))
	ts.Check(err)
	if bytes.Equal(a, b) == neg {
		ts.Fatalf("%s and %s: %s", args[0], args[1], difference(a, b))
	}
}

func difference(a, b []byte) string {
	if len(a) != len(b) {
		return fmt.Sprintf("%d and %d bytes", len(a), len(b))
	}
	for i := range a {
		if a[i] != b[i] {
			return fmt.Sprintf("they differ at byte %d", i)
		}
	}
	return "they are equal"
}

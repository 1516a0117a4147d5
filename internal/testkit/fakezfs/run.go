package fakezfs

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// command is one call of the program.
type command struct {
	*state
	dir    string
	verb   string
	flags  map[string][]string // by letter, with the values of those that take one
	args   []string
	in     io.Reader
	out    io.Writer
	errs   io.Writer
	status int
	spared bool // by planted faults
}

// valued are the flags that take a value, by verb.
var valued = map[string]string{"list": "todsS", "get": "todss", "send": "iIt", "receive": "ox", "create": "oVb", "snapshot": "o"}

var verbs = map[string]func(c *command){
	"version": (*command).version, "list": (*command).list, "get": (*command).get, "holds": (*command).holds, "hold": (*command).hold,
	"release": (*command).release, "destroy": (*command).destroy, "snapshot": (*command).snapshot, "bookmark": (*command).bookmark,
	"rename": (*command).rename, "rollback": (*command).rollback, "set": (*command).set, "create": (*command).create, "clone": (*command).clone, "inherit": (*command).inherit,
}

// reading are the verbs that change nothing.
var reading = map[string]bool{"version": true, "list": true, "get": true, "holds": true}

func (c *command) run(args []string) int {
	c.flags = map[string][]string{}
	if len(args) == 0 {
		return 2
	}
	c.verb = args[0]
	if c.verb == "recv" {
		c.verb = "receive"
	}
	log(c.dir, args)
	c.parse(args[1:])
	var late func()
	if !c.spared {
		late = c.fault(strings.Join(args, " "))
	}
	switch do := verbs[c.verb]; {
	case c.verb == "send":
		c.send()
	case c.verb == "receive":
		c.receive()
	case do == nil:
		c.fail(2, "unrecognized command '%s'", c.verb)
	default:
		c.locked(do)
	}
	if late != nil {
		late()
	}
	return c.status
}

// locked runs do alone, and prints when it has let go: who reads may start another
// command first.
func (c *command) locked(do func(c *command)) {
	out, text := c.out, bytes.Buffer{}
	c.out = &text
	c.with(!reading[c.verb], func() { do(c) })
	c.out = out
	if _, err := c.out.Write(text.Bytes()); err != nil {
		os.Exit(1) //nolint:forbidigo // the reader is gone, as SIGPIPE would tell
	}
}

func log(dir string, args []string) {
	line, _ := json.Marshal(args)
	f, err := os.OpenFile(filepath.Join(dir, "calls"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		_, _ = f.Write(append(line, '\n'))
		_ = f.Close()
	}
}

func (c *command) parse(args []string) {
	for len(args) > 0 {
		a := args[0]
		if !strings.HasPrefix(a, "-") || a == "-" {
			c.args, args = append(c.args, a), args[1:]
			continue
		}
		args = args[1:]
		for i, letter := range a[1:] {
			l := string(letter)
			if !strings.Contains(valued[c.verb], l) {
				c.flags[l] = append(c.flags[l], "")
				continue
			}
			value := a[i+2:]
			if value == "" && len(args) > 0 {
				value, args = args[0], args[1:]
			}
			c.flags[l] = append(c.flags[l], value)
			break
		}
	}
}

func (c *command) has(flag string) bool { return c.flags[flag] != nil }

func (c *command) value(flag string) string {
	if v := c.flags[flag]; len(v) > 0 {
		return v[len(v)-1]
	}
	return ""
}

// fail prints a complaint and sets the exit status.
func (c *command) fail(status int, format string, args ...any) {
	_, _ = fmt.Fprintf(c.errs, format+"\n", args...)
	c.status = status
}

func (c *command) print(format string, args ...any) {
	_, _ = fmt.Fprintf(c.out, format, args...) // into memory: see locked
}

// with runs do on the state, and keeps what it changed.
func (c *command) with(write bool, do func()) {
	err := withState(c.dir, write, func(s *state) error {
		c.state = s
		do()
		return nil
	})
	if err != nil {
		c.fail(1, "fakezfs: %v", err)
	}
}

// fault carries out a planted fault. One that comes late is returned.
func (c *command) fault(line string) (late func()) {
	if _, err := os.Stat(filepath.Join(c.dir, "faults")); err != nil {
		return nil
	}
	var f *Fault
	c.with(true, func() {
		for _, one := range c.Faults {
			if one.Verb != c.verb && one.Verb != "*" || !strings.Contains(line, one.Args) {
				continue
			}
			if one.After > 0 {
				one.After--
				continue
			}
			if one.Times == 1 {
				one.Verb = ""
			} else if one.Times > 1 {
				one.Times--
			}
			f = one
			return
		}
	})
	if f == nil || c.status != 0 {
		return nil
	}
	end := func() {
		if f.Hang {
			signal.Ignore(syscall.SIGTERM)
			time.Sleep(time.Hour)
		}
		_, _ = io.WriteString(c.out, f.Stdout)
		_, _ = io.WriteString(c.errs, f.Stderr)
		os.Exit(f.Exit) //nolint:forbidigo // the fake program ends here
	}
	if f.Late {
		return end
	}
	end()
	return nil
}

func (c *command) version() { c.print("zfs-2.4.4-1\nzfs-kmod-2.4.4-1\n") }

package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"time"

	"cairn"
	"cairn/internal/mech/child"
)

// SSHOptions say how to log in to the machine whose authorized_keys force
// `cairn stdinserver IDENTITY` on our key.
type SSHOptions struct {
	Host, User   string
	Port         int
	IdentityFile string   // our private key
	Options      []string // further values of ssh's -o
	Program      string   // "" is ssh
	Command      []string // when set, run instead of ssh; its standard input and output are the connection
	Timeout      time.Duration
}

// noForcedCommand is what a machine runs that forces no command on our key: its
// shell would take the protocol for commands.
const noForcedCommand = "echo 'no command is forced on this key' >&2; exit 1"

// SSHDialer connects by logging in with ssh, which never asks for a password or a
// host key. Our identity is the one in the forced command. The timeout covers the
// login and being admitted; zero is DefaultDialTimeout.
func SSHDialer(o SSHOptions) Dialer {
	timeout := orDefault(o.Timeout, DefaultDialTimeout)
	program, args := o.command()
	return DialerFunc(func(ctx context.Context) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		return dialChild(ctx, o.Host, program, args)
	})
}

func (o SSHOptions) command() (program string, args []string) {
	if len(o.Command) > 0 {
		return o.Command[0], o.Command[1:]
	}
	program = o.Program
	if program == "" {
		program = "ssh"
	}
	args = []string{"-T", "-p", strconv.Itoa(o.Port), "-i", o.IdentityFile, "-l", o.User, "-o", "BatchMode=yes"}
	for _, option := range o.Options {
		args = append(args, "-o", option)
	}
	return program, append(args, "--", o.Host, noForcedCommand)
}

// How long a login program may take to end by itself, and after each signal.
const sshGrace = time.Second

// dialChild starts the program and waits for the verdict of the other end.
func dialChild(ctx context.Context, host, program string, args []string) (net.Conn, error) {
	// Not a child of ctx: the program outlives the dialling, and its CPU time, which
	// heartbeats cost too, must not count as the dialler's progress.
	life, end := context.WithCancel(context.Background())
	p, err := child.Start(life, child.Options{Path: program, Args: args, In: true, Out: true,
		AfterTerm: sshGrace, AfterKill: sshGrace, AfterClose: sshGrace})
	if err != nil {
		end()
		return nil, err
	}
	c := &sshConn{child: p, end: end, host: host}
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	err = readVerdict(c, host)
	if !stop() && ctx.Err() != nil {
		err = ctx.Err()
	}
	if err == nil {
		return c, nil
	}
	why := c.hangUp()
	if cairn.KindOf(err) == cairn.KindAuth {
		return nil, err
	}
	if ctx.Err() == nil && why != nil {
		err = why // what ssh wrote says more than the end of its output
	}
	return nil, loginError(ctx, host, err)
}

func loginError(ctx context.Context, host string, err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("no answer in time: %w", err)
	}
	e := &cairn.Error{Op: "log in to", Subject: host, Kind: cairn.KindUnavailable, Err: err,
		Hint: "try the same ssh by hand; the key's line in authorized_keys there begins with command=\"cairn stdinserver IDENTITY\",restrict"}
	if errors.Is(ctx.Err(), context.Canceled) {
		e.Kind, e.Hint = cairn.KindCanceled, ""
	}
	return e
}

// sshConn is a connection over the standard input and output of a program.
type sshConn struct {
	child *child.Child
	end   context.CancelFunc // of the program
	host  string
}

func (c *sshConn) Read(b []byte) (int, error)  { return c.child.Stdout().Read(b) }
func (c *sshConn) Write(b []byte) (int, error) { return c.child.Stdin().Write(b) }

// Close ends the connection and the program; what was written before arrives if
// the other end reads it within a second.
func (c *sshConn) Close() error {
	_ = c.child.Stdin().Close() // a second close fails, and may
	patience := time.AfterFunc(sshGrace, c.end)
	defer patience.Stop()
	_ = c.child.Wait() // a program cut off is no failure of closing
	c.end()
	return nil
}

// hangUp ends the program at once and returns why it had ended, when it had.
func (c *sshConn) hangUp() error {
	_ = c.child.Stdin().Close() // nobody reads it any more
	select {
	case <-c.child.Ended():
	case <-time.After(sshGrace / 4):
		c.end()
	}
	err := c.child.Wait()
	c.end()
	if cairn.KindOf(err) == cairn.KindCanceled {
		return nil
	}
	return err
}

func (c *sshConn) LocalAddr() net.Addr  { return sshAddr("this machine") }
func (c *sshConn) RemoteAddr() net.Addr { return sshAddr(c.host) }

func (c *sshConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

func (c *sshConn) SetReadDeadline(t time.Time) error {
	return c.child.Stdout().(*os.File).SetReadDeadline(t)
}

func (c *sshConn) SetWriteDeadline(t time.Time) error {
	return c.child.Stdin().(*os.File).SetWriteDeadline(t)
}

type sshAddr string

func (sshAddr) Network() string  { return "ssh" }
func (a sshAddr) String() string { return "ssh:" + string(a) }

// ServeStdin is the work of the forced command: it joins in and out with the
// listener that ListenStdin opened in dir for the identity. It ends when either end
// does, or with the context. The caller writes the error to standard error, which
// ssh carries to the other end.
func ServeStdin(ctx context.Context, dir, identity string, in io.Reader, out io.Writer) error {
	if err := CheckIdentity(identity); err != nil {
		return err
	}
	path := stdinSocket(dir, identity)
	raw, err := (&net.Dialer{Timeout: DefaultLocalTimeout}).DialContext(ctx, "unix", path)
	if err != nil {
		return &cairn.Error{Op: "reach the daemon as", Subject: identity, Kind: cairn.KindUnavailable, Err: err,
			Hint: "it must run with a job that has serve: {type: stdinserver, client_identities: [" + identity + "]}"}
	}
	defer func() { _ = raw.Close() }() // both directions have ended by then
	if err := sendVerdict(out, nil); err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = raw.Close() })()
	go func() {
		_, _ = io.Copy(raw, in)              // how it ends shows in the other direction
		_ = raw.(*net.UnixConn).CloseWrite() // likewise
	}()
	_, err = io.Copy(out, raw)
	if err != nil && ctx.Err() == nil {
		return &cairn.Error{Op: "carry the connection of", Subject: identity, Kind: cairn.KindUnavailable, Err: err}
	}
	return nil
}

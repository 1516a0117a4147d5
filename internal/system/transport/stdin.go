package transport

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"sync"

	"cairn"
)

// StdinOptions say where the sockets of the ssh transport lie and whose they are.
type StdinOptions struct {
	Dir        string   // made with mode 0700, and refused when others may enter
	Identities []string // one socket each
	Logger     *slog.Logger
}

func stdinSocket(dir, identity string) string { return filepath.Join(dir, identity) }

// ListenStdin listens for the clients whose forced command runs ServeStdin: one unix
// socket per identity, so that only the command decides who a client is.
func ListenStdin(ctx context.Context, o StdinOptions) (Listener, error) {
	m := &merged{dir: o.Dir, ready: make(chan *Conn)}
	m.ctx, m.end = context.WithCancel(context.Background())
	for _, identity := range o.Identities {
		ln, err := ListenUnix(ctx, UnixOptions{Path: stdinSocket(o.Dir, identity), Identity: identity, Logger: o.Logger})
		if err != nil {
			return nil, errors.Join(err, m.Close())
		}
		m.inner = append(m.inner, ln)
		m.work.Go(func() { m.forward(ln) })
	}
	return m, nil
}

// merged is several listeners as one.
type merged struct {
	dir   string
	inner []Listener
	ready chan *Conn
	ctx   context.Context
	end   context.CancelFunc
	work  sync.WaitGroup
}

func (m *merged) forward(ln Listener) {
	for {
		c, err := ln.Accept(m.ctx)
		if err != nil {
			return // it was closed, or we are
		}
		select {
		case m.ready <- c:
		case <-m.ctx.Done():
			_ = c.Close() // nobody has it
		}
	}
}

// Accept implements Listener.
func (m *merged) Accept(ctx context.Context) (*Conn, error) {
	fail := func(err error) error {
		return &cairn.Error{Op: "accept on", Subject: m.Addr().String(), Kind: cairn.KindCanceled, Err: err}
	}
	select {
	case c := <-m.ready:
		return c, nil
	case <-ctx.Done():
		return nil, fail(ctx.Err())
	case <-m.ctx.Done():
		return nil, fail(net.ErrClosed)
	}
}

// Addr is the folder of the sockets.
func (m *merged) Addr() net.Addr { return stdinAddr(m.dir) }

// Close implements Listener.
func (m *merged) Close() error {
	m.end()
	var all []error
	for _, ln := range m.inner {
		all = append(all, ln.Close())
	}
	m.work.Wait()
	return errors.Join(all...)
}

type stdinAddr string

func (stdinAddr) Network() string  { return "stdinserver" }
func (a stdinAddr) String() string { return "stdinserver:" + string(a) }

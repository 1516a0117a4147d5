package transport

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"cairn"
)

// maxAdmissions bounds the connections that were taken and not yet handed out.
const maxAdmissions = 256

// acceptor admits connections side by side, so that a slow handshake delays
// nobody else.
type acceptor struct {
	inner   net.Listener
	admit   func(ctx context.Context, raw net.Conn) (*Conn, error)
	timeout time.Duration // of one admission
	log     *slog.Logger

	ready chan *Conn
	slots chan struct{} // one token per connection not yet handed out
	ctx   context.Context
	end   context.CancelFunc
	work  sync.WaitGroup
}

func newAcceptor(inner net.Listener, timeout time.Duration, log *slog.Logger, admit func(context.Context, net.Conn) (*Conn, error)) *acceptor {
	a := &acceptor{inner: inner, admit: admit, timeout: orDefault(timeout, DefaultHandshakeTimeout), log: orDiscard(log),
		ready: make(chan *Conn), slots: make(chan struct{}, maxAdmissions)}
	a.ctx, a.end = context.WithCancel(context.Background())
	a.work.Go(a.loop)
	return a
}

func (a *acceptor) loop() {
	for {
		select {
		case a.slots <- struct{}{}:
		case <-a.ctx.Done():
			return
		}
		raw, err := a.inner.Accept()
		if err != nil {
			<-a.slots
			if a.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			a.log.Warn("cannot take a connection; trying again", "address", a.Addr().String(), "error", err)
			a.pause()
			continue
		}
		a.work.Go(func() { a.handOut(raw) })
	}
}

// pause keeps the loop from spinning when the process is out of descriptors.
func (a *acceptor) pause() {
	t := time.NewTimer(100 * time.Millisecond)
	defer t.Stop()
	select {
	case <-t.C:
	case <-a.ctx.Done():
	}
}

func (a *acceptor) handOut(raw net.Conn) {
	defer func() { <-a.slots }()
	conn := a.admitted(raw)
	if conn == nil {
		_ = raw.Close() // the peer was told, or is gone
		return
	}
	select {
	case a.ready <- conn:
	case <-a.ctx.Done():
		_ = conn.Close() // nobody has it
	}
}

// admitted runs one admission within its time; nil when it failed.
func (a *acceptor) admitted(raw net.Conn) *Conn {
	ctx, cancel := context.WithTimeout(a.ctx, a.timeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = raw.SetDeadline(time.Unix(1, 0)) })
	conn, err := a.admit(ctx, raw)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err == nil {
		return conn
	}
	if a.ctx.Err() == nil {
		a.log.Warn("refused a connection", "peer", raw.RemoteAddr().String(), "address", a.Addr().String(), "error", err)
	}
	return nil
}

// Accept implements Listener.
func (a *acceptor) Accept(ctx context.Context) (*Conn, error) {
	select {
	case c := <-a.ready:
		return c, nil
	case <-ctx.Done():
		return nil, &cairn.Error{Op: "accept on", Subject: a.Addr().String(), Kind: cairn.KindCanceled, Err: ctx.Err()}
	case <-a.ctx.Done():
		return nil, &cairn.Error{Op: "accept on", Subject: a.Addr().String(), Kind: cairn.KindCanceled, Err: net.ErrClosed}
	}
}

// Addr implements Listener.
func (a *acceptor) Addr() net.Addr { return a.inner.Addr() }

// Close implements Listener.
func (a *acceptor) Close() error {
	a.end()
	err := a.inner.Close()
	a.work.Wait()
	if err != nil && !errors.Is(err, net.ErrClosed) {
		return &cairn.Error{Op: "close listener", Subject: a.Addr().String(), Kind: cairn.KindIO, Err: err}
	}
	return nil
}

package rpc

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"cairn"
	"cairn/internal/mech/frame"
)

// Send opens a stream at the peer. The stream is bound to ctx: when that ends, so
// does the body.
func (s *session) Send(ctx context.Context, step cairn.Step, accept []cairn.Format) (*cairn.Stream, error) {
	k, err := s.start(ctx, methodSend, "send", step.Dataset+step.To.Name, &sendRequest{step, accept})
	if err != nil {
		return nil, err
	}
	var r ready
	if err := k.readyMessage(ctx, &r); err != nil {
		return nil, err
	}
	conn, err := s.openData(ctx, r.token)
	if err != nil {
		return nil, s.noData(ctx, k, err)
	}
	b := &remoteBody{call: k, download: newDownload(ctx, conn, "read stream of "+k.subject, func(int64) {})}
	b.unhook = context.AfterFunc(s.ctx, func() { _ = conn.Close() })
	return &cairn.Stream{Header: r.header, Body: b}, nil
}

// remoteBody is the body of a stream that the peer sends.
type remoteBody struct {
	*download
	call   *call
	unhook func() bool // from the session's end
	once   sync.Once   // guards err
	err    error       // what Close returns
}

func (b *remoteBody) Read(p []byte) (int, error) {
	n, err := b.download.Read(p)
	return n, b.explain(err)
}

// WriteTo is for io.Copy.
func (b *remoteBody) WriteTo(w io.Writer) (int64, error) {
	n, err := b.download.WriteTo(w)
	if err != nil && b.download.err == nil {
		return n, err // of w
	}
	return n, b.explain(err)
}

// explain prefers what the peer or the caller says about a cut to the cut itself.
func (b *remoteBody) explain(err error) error {
	if err == nil || b.whole.Load() {
		return err
	}
	if b.ctx.Err() != nil {
		return ended(b.ctx, b.op, "", b.call.caller.place)
	}
	if errors.Is(err, cairn.KindUnavailable) {
		ctx, cancel := context.WithTimeout(b.ctx, b.call.caller.t.Grace)
		defer cancel()
		if b.call.await(ctx, func() bool { return false }) == nil && b.call.fault != nil {
			return b.call.fault
		}
	}
	var known *cairn.Error
	if errors.As(err, &known) && known.Place == "" {
		known.Place = b.call.caller.place
	}
	return err
}

// Close ends the stream and waits until the peer has let go of its versions, at
// most the grace time. A stream that was not read to its end is given up.
func (b *remoteBody) Close() error {
	b.once.Do(func() {
		b.unhook()
		b.err = b.download.Close()
		if !b.whole.Load() {
			b.call.leave()
		}
		ctx, cancel := context.WithTimeout(context.Background(), b.call.caller.t.Grace)
		defer cancel()
		if b.call.await(ctx, func() bool { return false }) != nil {
			b.call.leave()
		}
	})
	return b.err
}

// Receive sends a stream to the peer.
func (s *session) Receive(ctx context.Context, stream *cairn.Stream, o cairn.ReceiveOptions) (cairn.Received, error) {
	var once sync.Once
	closeBody := func() { once.Do(func() { _ = stream.Body.Close() }) } // its sender's error came through Read
	defer closeBody()
	k, err := s.start(ctx, methodReceive, "receive", stream.Header.Dataset+stream.Header.To.Name, &receiveRequest{stream.Header, o})
	if err != nil {
		return cairn.Received{}, err
	}
	var r ready
	if err := k.readyMessage(ctx, &r); err != nil {
		return cairn.Received{}, err
	}
	conn, err := s.openData(ctx, r.token)
	if err != nil {
		return cairn.Received{}, s.noData(ctx, k, err)
	}
	u := s.startUpload(ctx, conn, stream.Body)
	var a receiveAnswer
	err = k.result(ctx, &a)
	bodyErr := u.failed.Load()
	u.stop(s.t.Grace, closeBody)
	if err != nil && bodyErr != nil && ctx.Err() == nil {
		err = &cairn.Error{Op: k.op, Subject: k.subject, Place: s.place, Kind: cairn.KindOf(*bodyErr), Err: *bodyErr}
	}
	return a.received, err
}

// pushing is an upload under way, and the reader of its body.
type pushing struct {
	conn   *dataConn
	body   io.Reader
	failed atomic.Pointer[error] // what body ended with, other than EOF
	done   chan struct{}
}

func (u *pushing) Read(p []byte) (int, error) {
	n, err := u.body.Read(p)
	if err != nil && err != io.EOF {
		u.failed.CompareAndSwap(nil, &err)
	}
	return n, err
}

func (s *session) startUpload(ctx context.Context, conn *dataConn, body io.Reader) *pushing {
	u := &pushing{conn: conn, body: body, done: make(chan struct{})}
	stopHook := context.AfterFunc(s.ctx, func() { _ = conn.Close() })
	conn.in.limit = 0 // the control connection tells whether the peer lives
	wants := frame.NewReader(conn.in, maxFragment)
	go func() {
		defer close(u.done)
		defer stopHook()
		// The body's error is kept; a broken connection is the peer's to report: its
		// answer says why.
		_, _ = upload(ctx, conn, s.t, u, wants, func(int64) {})
	}()
	return u
}

// stop ends the upload, whose answer has come. A body that gives nothing is
// closed under its reader; one that ignores that is left behind after the grace
// time.
func (u *pushing) stop(grace time.Duration, closeBody func()) {
	_ = u.conn.Close() // the answer said all there is to say
	closeBody()
	limit := time.NewTimer(grace)
	defer limit.Stop()
	select {
	case <-u.done:
	case <-limit.C:
	}
}

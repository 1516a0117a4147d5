package rpc

import (
	"context"
	"errors"
	"io"
	"sync"
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
	b := &remoteBody{call: k, ctx: ctx}
	b.download = newDownload(ctx, conn, frame.NewReader(conn.in, dataFrame), "read stream of "+k.subject, func(int64) {})
	b.unhook = context.AfterFunc(s.ctx, func() { _ = conn.Close() })
	return &cairn.Stream{Header: r.header, Body: b}, nil
}

// remoteBody is the body of a stream that the peer sends.
type remoteBody struct {
	*download
	call   *call
	ctx    context.Context // of Send
	unhook func() bool     // from the session's end
	once   sync.Once       // guards err
	err    error           // what Close returns
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
	if err == nil || err == io.EOF {
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
		b.call.leave()
		ctx, cancel := context.WithTimeout(context.Background(), b.call.caller.t.Grace)
		defer cancel()
		_ = b.call.await(ctx, func() bool { return false }) // the peer was told
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
	bodyErr := u.stop(s.t.Grace, closeBody)
	if err != nil && bodyErr != nil && ctx.Err() == nil {
		err = &cairn.Error{Op: k.op, Subject: k.subject, Place: s.place, Kind: cairn.KindOf(bodyErr), Err: bodyErr}
	}
	return a.received, err
}

// pushing is an upload under way.
type pushing struct {
	conn    *dataConn
	done    chan struct{}
	bodyErr error // readable when done is closed
}

func (s *session) startUpload(ctx context.Context, conn *dataConn, body io.Reader) *pushing {
	u := &pushing{conn: conn, done: make(chan struct{})}
	stopHook := context.AfterFunc(s.ctx, func() { _ = conn.Close() })
	go func() {
		defer close(u.done)
		defer stopHook()
		// A broken connection is the peer's to report: its answer says why.
		u.bodyErr, _ = upload(ctx, conn, s.t, body, func(int64) {})
	}()
	return u
}

// stop ends the upload, whose answer has come, and returns the error with which
// its body ended, if it did. A body that gives nothing and does not end is closed
// under its reader; one that ignores that too is left behind.
func (u *pushing) stop(grace time.Duration, closeBody func()) error {
	_ = u.conn.Close() // the answer said all there is to say
	for range 2 {
		limit := time.NewTimer(grace)
		select {
		case <-u.done:
			limit.Stop()
			return u.bodyErr
		case <-limit.C:
			closeBody()
		}
	}
	return nil
}

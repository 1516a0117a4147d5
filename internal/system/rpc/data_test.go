package rpc_test

import (
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cairn"
	"cairn/internal/system/rpc"
	"cairn/internal/system/transport"
	"cairn/internal/testkit/memory"
)

// stuffed is a place whose receiver takes a little and then no more, and whose
// sender has no end.
type stuffed struct {
	ended  chan string
	closed atomic.Bool
}

func (s *stuffed) Receive(ctx context.Context, st *cairn.Stream, _ cairn.ReceiveOptions) (cairn.Received, error) {
	_, _ = io.ReadFull(st.Body, make([]byte, 1<<20))
	<-ctx.Done()
	_ = st.Body.Close()
	s.ended <- "receive"
	return cairn.Received{}, ctx.Err()
}

func (s *stuffed) Abort(context.Context, string) error { return nil }

func (s *stuffed) Send(context.Context, cairn.Step, []cairn.Format) (*cairn.Stream, error) {
	return &cairn.Stream{Body: endless{s}}, nil
}

type endless struct{ s *stuffed }

func (e endless) Read(p []byte) (int, error) { return len(p), nil }
func (e endless) Close() error {
	e.s.closed.Store(true)
	e.s.ended <- "send"
	return nil
}

// With every buffer between both sides full of data that nobody reads, a cancel
// still arrives at once.
func TestCancelPassesDataThatNobodyReads(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			leakCheck(t)
			s := &stuffed{ended: make(chan string, 2)}
			ep := remote(t, kind, &cairn.Endpoint{Receiver: s, Sender: s})
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(100*time.Millisecond, cancel)
			begin := time.Now()
			body := endless{&stuffed{ended: make(chan string, 2)}}
			if _, err := ep.Receiver.Receive(ctx, &cairn.Stream{Body: body}, cairn.ReceiveOptions{}); !errors.Is(err, context.Canceled) {
				t.Errorf("push: %v", err)
			}
			if !body.s.closed.Load() {
				t.Error("push: the body is open")
			}
			if who := <-s.ended; who != "receive" {
				t.Errorf("%s ended", who)
			}
			stream, err := ep.Sender.Send(t.Context(), cairn.Step{}, nil)
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(50 * time.Millisecond) // the buffers fill
			if err := stream.Body.Close(); err != nil {
				t.Error(err)
			}
			if who := <-s.ended; who != "send" {
				t.Errorf("%s ended", who)
			}
			if took := time.Since(begin); took > quick.Limit {
				t.Errorf("took %s", took)
			}
		})
	}
}

// A data connection of another identity is not taken, whatever token it shows.
func TestTokenIsGoodForItsIdentityOnly(t *testing.T) {
	l := transport.NewLocal()
	ln, err := l.Listen("sink")
	if err != nil {
		t.Fatal(err)
	}
	p, v := newPlace(t, "vault")
	timings := quick
	timings.Handshake = 300 * time.Millisecond
	serve(t, ln, rpc.ServerOptions{Endpoint: always(p.Endpoint()), Timings: timings})
	var dials atomic.Int64
	ep := dial(t, transport.DialerFunc(func(ctx context.Context) (net.Conn, error) {
		who := "client"
		if dials.Add(1) > 1 {
			who = "mallory"
		}
		return l.Dialer("sink", who, 0).Dial(ctx)
	}), rpc.ClientOptions{Timings: timings})
	stream, err := ep.Sender.Send(t.Context(), cairn.Step{Dataset: "db", To: v.VersionID}, []cairn.Format{cairn.FormatBlocks})
	if err == nil {
		var n int64
		n, err = io.Copy(io.Discard, stream.Body)
		if n > 0 {
			t.Errorf("%d bytes went to another identity", n)
		}
		_ = stream.Body.Close()
	}
	if !errors.Is(err, cairn.KindUnavailable) {
		t.Errorf("got %v", err)
	}
}

// A refused stream's body is not read: whoever made it can offer it elsewhere.
func TestRefusedStreamIsNotRead(t *testing.T) {
	p, _ := newPlace(t, "vault")
	p.Hook(memory.On("receive", memory.Begin, memory.Fail(0, cairn.KindConflict)))
	ep := remote(t, "unix", p.Endpoint())
	src := &source{left: 1 << 20}
	_, err := ep.Receiver.Receive(t.Context(), &cairn.Stream{Header: cairn.StreamHeader{Dataset: "new"}, Body: io.NopCloser(src)}, cairn.ReceiveOptions{})
	if !errors.Is(err, cairn.KindConflict) || src.left != 1<<20 {
		t.Errorf("%v, %d bytes left", err, src.left)
	}
}

// A call that takes long is no dead peer: heartbeats go on meanwhile, in both
// directions.
func TestLongCallsAreWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln, d := wire(t, "local")
		p, v := newPlace(t, "vault")
		p.Hook(memory.On("lease", memory.Begin, memory.Delay(3*time.Hour)), memory.On("receive", memory.Commit, memory.Delay(time.Hour)),
			memory.On("receive", memory.Begin, memory.Delay(time.Hour)))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- rpc.Serve(ctx, ln, rpc.ServerOptions{Endpoint: always(p.Endpoint())}) }()
		ep, err := rpc.Dial(t.Context(), d, rpc.ClientOptions{})
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		if err := ep.Leases.SetLease(t.Context(), cairn.LeaseSet{Dataset: "db", Owner: "o", Purpose: cairn.PurposePin, Versions: []cairn.VersionID{v.VersionID}}); err != nil {
			t.Error(err)
		}
		other, w := newPlace(t, "here")
		if err := other.Endpoint().Renames.Rename(t.Context(), "db", "new"); err != nil {
			t.Fatal(err)
		}
		if _, err := replicate(t.Context(), other.Endpoint(), ep, cairn.Step{Dataset: "new", To: w.VersionID}); err != nil {
			t.Error(err)
		}
		if took := time.Since(begin); took != 5*time.Hour {
			t.Errorf("took %s", took)
		}
		_ = ep.Close()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

package rpc_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cairn"
	"cairn/internal/mech/frame"
	"cairn/internal/system/rpc"
	"cairn/internal/system/transport"
	"cairn/internal/testkit/memory"
)

// What a network may do to a connection after a number of bytes.
const (
	cut     = "cut"     // both ends see it closed
	hang    = "hang"    // nobody reads any more
	swallow = "swallow" // all is read and nothing delivered
)

// bad is a network that goes bad after left bytes, counted over all connections.
type bad struct {
	transport.Dialer
	how  string
	left atomic.Int64
	ctx  context.Context // ends the relays
}

func (b *bad) Dial(ctx context.Context) (net.Conn, error) {
	inner, err := b.Dialer.Dial(ctx)
	if err != nil {
		return nil, err
	}
	near, far := net.Pipe()
	go b.relay(far, inner)
	go b.relay(inner, far)
	return near, nil
}

func (b *bad) relay(from, to net.Conn) {
	defer func() { _ = from.Close(); _ = to.Close() }()
	stop := context.AfterFunc(b.ctx, func() { _ = from.Close(); _ = to.Close() })
	defer stop()
	buf := make([]byte, 4096)
	for {
		n, err := from.Read(buf)
		left := b.left.Add(-int64(n)) + int64(n) // before this read
		if deliver := min(int64(n), max(left, 0)); deliver > 0 {
			if _, err := to.Write(buf[:deliver]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
		if left > int64(n) {
			continue
		}
		switch b.how {
		case cut:
			return
		case hang:
			<-b.ctx.Done()
			return
		}
	}
}

// trip replicates "db" both ways over d and reads the result; it returns the
// first error.
func trip(ctx context.Context, d transport.Dialer, here, there *cairn.Endpoint, v cairn.VersionID, stream []byte) error {
	far, err := rpc.Dial(ctx, d, rpc.ClientOptions{})
	if err != nil {
		return err
	}
	defer func() { _ = far.Close() }()
	if err := far.Receiver.Abort(ctx, "db"); err != nil && !errors.Is(err, cairn.KindNotFound) {
		return err
	}
	if _, err := replicate(ctx, here, far, cairn.Step{Dataset: "db", To: v}); err != nil && !errors.Is(err, cairn.KindExists) {
		return err
	}
	for _, err := range far.Lister.List(ctx, cairn.Query{Filter: cairn.All, Want: cairn.Want{Versions: true}}) {
		if err != nil {
			return err
		}
	}
	back, err := far.Sender.Send(ctx, cairn.Step{Dataset: "db", To: v}, []cairn.Format{cairn.FormatBlocks})
	if err != nil {
		return err
	}
	defer func() { _ = back.Body.Close() }()
	got, err := io.ReadAll(back.Body)
	if err != nil {
		return err
	}
	if !bytes.Equal(got, stream) {
		return errors.New("WRONG: a body ended well and is not whole")
	}
	return nil
}

// Connections go bad at every byte near the beginning and at many after it (with
// CAIRN_SCALE=full at every byte), in three ways. Every call then ends in bounded time with an error that says that
// the place is unavailable; nothing half is visible; both sides let go of
// everything; and the next attempt over a good network succeeds.
func TestNetworkGoesBadAnywhere(t *testing.T) {
	here := memory.New("here")
	if err := here.Create("db", 64<<10); err != nil {
		t.Fatal(err)
	}
	if err := here.Write("db", 4096, bytes.Repeat([]byte("network"), 1000)); err != nil {
		t.Fatal(err)
	}
	v := snapshot(t, here.Endpoint(), "@a").VersionID
	want, _ := here.Content("db", "@a")
	s, err := here.Endpoint().Sender.Send(t.Context(), cairn.Step{Dataset: "db", To: v}, []cairn.Format{cairn.FormatBlocks})
	if err != nil {
		t.Fatal(err)
	}
	stream, err := io.ReadAll(s.Body)
	if err != nil {
		t.Fatal(err)
	}
	run := func(t *testing.T, how string, after int64) (used int64, err error) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			there := memory.New("there")
			l := transport.NewLocal()
			ln, lnErr := l.Listen("sink")
			if lnErr != nil {
				t.Fatal(lnErr)
			}
			var open atomic.Int64
			served := make(chan error)
			go func() {
				served <- rpc.Serve(ctx, ln, rpc.ServerOptions{Endpoint: func(context.Context, string) (*cairn.Endpoint, error) {
					open.Add(1)
					ep := *there.Endpoint()
					ep.Close = func() error { open.Add(-1); return nil }
					return &ep, nil
				}})
			}()
			good := l.Dialer("sink", "client", 0)
			b := &bad{Dialer: good, how: how, ctx: ctx}
			b.left.Store(after)
			begin := time.Now()
			err = trip(ctx, b, here.Endpoint(), there.Endpoint(), v, stream)
			used = after - b.left.Load()
			if took := time.Since(begin); took > time.Minute {
				t.Errorf("%s after %d: took %s", how, after, took)
			}
			time.Sleep(time.Minute)
			if n := open.Load(); n != 0 {
				t.Errorf("%s after %d: %d sessions are open at the peer", how, after, n)
			}
			if have, contentErr := there.Content("db", "@a"); contentErr == nil && !bytes.Equal(have, want) {
				t.Errorf("%s after %d: half a version is visible", how, after)
			}
			if again := trip(ctx, good, here.Endpoint(), there.Endpoint(), v, stream); again != nil {
				t.Errorf("%s after %d: the next attempt: %v", how, after, again)
			}
			cancel()
			if err := <-served; err != nil {
				t.Errorf("%s after %d: serve: %v", how, after, err)
			}
		})
		return used, err
	}
	total, err := run(t, cut, 1<<40)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("a good trip takes %d bytes", total)
	for _, how := range []string{cut, hang, swallow} {
		t.Run(how, func(t *testing.T) {
			coarse := int64(30)
			if os.Getenv("CAIRN_SCALE") == "full" {
				coarse = 1 << 40
			}
			for after := int64(0); after < total && !t.Failed(); after += 1 + after/coarse {
				_, err := run(t, how, after)
				// The end of the very last connection may go unseen.
				if err == nil && after < total-100 {
					t.Errorf("after %d of %d bytes: no error", after, total)
				}
				if err != nil && !errors.Is(err, cairn.KindUnavailable) {
					t.Errorf("after %d: %v", after, err)
				}
			}
		})
	}
}

// flip is a network that damages one bit.
type flip struct {
	transport.Dialer
	at   atomic.Int64 // bytes written until the damage
	done atomic.Bool
}

type flipConn struct {
	net.Conn
	f    *flip
	sent int64
}

func (f *flip) Dial(ctx context.Context) (net.Conn, error) {
	c, err := f.Dialer.Dial(ctx)
	return &flipConn{Conn: c, f: f}, err
}

func (c *flipConn) Write(p []byte) (int, error) {
	at := c.f.at.Add(-int64(len(p))) + int64(len(p))
	where := c.sent + at
	c.sent += int64(len(p))
	// The minor version in a preface means nothing yet.
	if at >= 0 && at < int64(len(p)) && where != 10 && where != 11 {
		p = bytes.Clone(p)
		p[at] ^= 4
		c.f.done.Store(true)
	}
	return c.Conn.Write(p)
}

func TestDamagedByteIsNeverTaken(t *testing.T) {
	here, v := newPlace(t, "here")
	want, _ := here.Content("db", "@a")
	for at := int64(0); at < 20000; at += 1 + at/20 {
		synctest.Test(t, func(t *testing.T) {
			there := memory.New("there")
			ln, d := wire(t, "local")
			ctx, cancel := context.WithCancel(t.Context())
			served := make(chan error)
			go func() { served <- rpc.Serve(ctx, ln, rpc.ServerOptions{Endpoint: always(there.Endpoint())}) }()
			f := &flip{Dialer: d}
			f.at.Store(at)
			far, err := rpc.Dial(ctx, f, rpc.ClientOptions{})
			if err == nil {
				_, err = replicate(ctx, here.Endpoint(), far, cairn.Step{Dataset: "db", To: v.VersionID})
				_ = far.Close()
			}
			have, contentErr := there.Content("db", "@a")
			if f.done.Load() && err == nil || contentErr == nil && !bytes.Equal(have, want) {
				t.Errorf("damage at %d: %v, %v", at, err, contentErr)
			}
			cancel()
			if err := <-served; err != nil {
				t.Error(err)
			}
		})
	}
}

// rawDial returns a connection on which nothing was said yet.
func rawDial(t *testing.T, d transport.Dialer) net.Conn {
	t.Helper()
	c, err := d.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	return c
}

func rawPreface(major byte, role byte) []byte {
	return append([]byte("cairnrpc"), major, 0, 0, 0, role, 0, 0, 0)
}

func TestOtherVersionsAreRefusedInWords(t *testing.T) {
	// An old client hears the server's version.
	p, _ := newPlace(t, "vault")
	ln, d := wire(t, "tcp")
	serve(t, ln, rpc.ServerOptions{Endpoint: always(p.Endpoint()), Timings: quick})
	c := rawDial(t, d)
	if _, err := c.Write(append(rawPreface(9, 1), make([]byte, 300)...)); err != nil {
		t.Fatal(err)
	}
	var answer [16]byte
	if _, err := io.ReadFull(c, answer[:]); err != nil || answer[8] != 1 {
		t.Errorf("answer % x, %v", answer, err)
	}
	// A new client explains an old server.
	for _, other := range []struct {
		major byte
		hint  string
	}{{0, "upgrade Cairn on the peer"}, {2, "upgrade Cairn on this side"}} {
		_, err := rpc.Dial(t.Context(), transport.DialerFunc(func(context.Context) (net.Conn, error) {
			near, far := net.Pipe()
			go func() {
				_, _ = io.ReadFull(far, make([]byte, 17))
				go func() { _, _ = io.Copy(io.Discard, far) }()
				_, _ = far.Write(rawPreface(other.major, 1))
			}()
			return near, nil
		}), rpc.ClientOptions{Place: "vault", Timings: quick})
		if !errors.Is(err, cairn.KindUnsupported) || cairn.HintOf(err) != other.hint {
			t.Errorf("%v", err)
		}
	}
}

func TestStrangersAreDropped(t *testing.T) {
	p, _ := newPlace(t, "vault")
	ln, d := wire(t, "tcp")
	timings := quick
	timings.Handshake = 200 * time.Millisecond
	serve(t, ln, rpc.ServerOptions{Endpoint: always(p.Endpoint()), Timings: timings})
	for name, first := range map[string][]byte{
		"silent":          nil,
		"http":            []byte("GET / HTTP/1.1\r\nHost: vault\r\n\r\n"),
		"no role":         rawPreface(1, 7),
		"half a preface":  rawPreface(1, 1)[:9],
		"hostile length":  append(rawPreface(1, 1), 0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
		"hello that is a": append(rawPreface(1, 1), frame.Append(nil, frame.Header{Type: 4}, []byte("row"))...),
		"unknown token":   append(rawPreface(1, 2), frame.Append(nil, frame.Header{Type: 16}, append([]byte{33}, make([]byte, 32)...))...),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := rawDial(t, d)
			if _, err := c.Write(first); err != nil {
				t.Fatal(err)
			}
			_, err := io.Copy(io.Discard, c)
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() {
				t.Error("it was not dropped")
			}
		})
	}
	dial(t, d, rpc.ClientOptions{Timings: quick})
}

// A peer that says it lives and sends nonsense after the handshake ends only its
// own session.
func TestNonsenseEndsOnlyItsSession(t *testing.T) {
	p, _ := newPlace(t, "vault")
	ln, d := wire(t, "unix")
	serve(t, ln, rpc.ServerOptions{Endpoint: always(p.Endpoint()), Timings: quick})
	other := dial(t, d, rpc.ClientOptions{Timings: quick})
	nonsense := &afterwards{Dialer: d}
	ep, err := rpc.Dial(t.Context(), nonsense, rpc.ClientOptions{Timings: quick})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := nonsense.conn.Write(frame.Append(nil, frame.Header{Type: 99, ID: 3}, []byte("?"))); err != nil {
		t.Fatal(err)
	}
	for _, err := range ep.Lister.List(t.Context(), cairn.Query{}) {
		if !errors.Is(err, cairn.KindUnavailable) {
			t.Errorf("got %v", err)
		}
	}
	_ = ep.Close()
	if len(listings(t, other)) != 1 {
		t.Error("the other session is gone")
	}
}

type afterwards struct {
	transport.Dialer
	conn net.Conn
}

func (a *afterwards) Dial(ctx context.Context) (_ net.Conn, err error) {
	a.conn, err = a.Dialer.Dial(ctx)
	return a.conn, err
}

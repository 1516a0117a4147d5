package rpc_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cairn"
	"cairn/internal/mech/watchdog"
	"cairn/internal/system/rpc"
	"cairn/internal/system/transport"
	"cairn/internal/testkit/memory"
)

// leakCheck fails the test when goroutines outlive it.
func leakCheck(t *testing.T) {
	t.Helper()
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		for range 200 {
			if runtime.NumGoroutine() <= before {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		stacks := make([]byte, 1<<20)
		t.Errorf("%d goroutines before, %d after\n%s", before, runtime.NumGoroutine(), stacks[:runtime.Stack(stacks, true)])
	})
}

func TestAThousandCallsAtOnce(t *testing.T) {
	leakCheck(t)
	p, v := newPlace(t, "vault")
	ep := remote(t, "unix", p.Endpoint())
	var calls sync.WaitGroup
	var failed atomic.Int64
	for i := range 1000 {
		calls.Go(func() {
			var err error
			switch i % 4 {
			case 0:
				_, err = ep.Bookmarks.Bookmark(t.Context(), "db", v.VersionID, fmt.Sprintf("#b%d", i), false)
			case 1:
				err = ep.Leases.SetLease(t.Context(), cairn.LeaseSet{Dataset: "db", Owner: fmt.Sprint(i), Purpose: cairn.PurposePin, Versions: []cairn.VersionID{v.VersionID}})
			case 2:
				for _, e := range ep.Lister.List(t.Context(), cairn.Query{Filter: cairn.All, Want: cairn.Want{Versions: true}}) {
					err = errors.Join(err, e)
				}
			default:
				_, err = ep.Estimates.Estimate(t.Context(), []cairn.Step{{Dataset: "db", To: v.VersionID}})
			}
			if err != nil {
				failed.Add(1)
				t.Log(err)
			}
		})
	}
	calls.Wait()
	if failed.Load() > 0 {
		t.Errorf("%d calls failed", failed.Load())
	}
	if n := len(listings(t, ep)[0].Versions); n != 251 {
		t.Errorf("%d versions after 250 bookmarks", n)
	}
}

// More calls than the session allows wait for their turn.
func TestCallsBeyondTheLimitWait(t *testing.T) {
	p, _ := newPlace(t, "vault")
	ln, d := wire(t, "local")
	var running, most atomic.Int64
	p.Hook(memory.On("lease", memory.Begin, func(ctx context.Context, _ memory.Call) error {
		most.Store(max(most.Load(), running.Add(1)))
		time.Sleep(time.Millisecond)
		running.Add(-1)
		return nil
	}))
	serve(t, ln, rpc.ServerOptions{Endpoint: always(p.Endpoint()), MaxCalls: 3, Timings: quick})
	ep := dial(t, d, rpc.ClientOptions{Timings: quick})
	var calls sync.WaitGroup
	for range 30 {
		calls.Go(func() {
			if err := ep.Leases.SetLease(t.Context(), cairn.LeaseSet{Dataset: "db", Owner: "o", Purpose: cairn.PurposePin}); err != nil {
				t.Error(err)
			}
		})
	}
	calls.Wait()
	if most.Load() > 3 {
		t.Errorf("%d at once", most.Load())
	}
}

// A call that hangs at the peer ends soon after its context, and so does the
// peer's; the session goes on.
func TestCancelReachesThePeer(t *testing.T) {
	leakCheck(t)
	p, v := newPlace(t, "vault")
	ended := make(chan struct{}, 1)
	p.Hook(memory.On("lease", memory.Begin, func(ctx context.Context, c memory.Call) error {
		err := memory.Hang(ctx, c)
		ended <- struct{}{}
		return err
	}))
	ep := remote(t, "tls", p.Endpoint())
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := ep.Leases.SetLease(ctx, cairn.LeaseSet{Dataset: "db", Owner: "o", Purpose: cairn.PurposePin, Versions: []cairn.VersionID{v.VersionID}})
	if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, cairn.KindCanceled) {
		t.Errorf("got %v", err)
	}
	<-ended
	if len(listings(t, ep)) != 1 {
		t.Error("the session is gone")
	}
}

// An endpoint that ignores its context keeps a caller at most the grace time.
func TestDeafEndpointKeepsACallerForTheGraceTime(t *testing.T) {
	release := make(chan struct{})
	p, _ := newPlace(t, "vault")
	p.Hook(memory.On("lease", memory.Begin, func(context.Context, memory.Call) error { <-release; return nil }))
	ep := remote(t, "local", p.Endpoint())
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	begin := time.Now()
	err := ep.Leases.SetLease(ctx, cairn.LeaseSet{Dataset: "db"})
	if !errors.Is(err, context.Canceled) || time.Since(begin) > 3*quick.Grace {
		t.Errorf("after %s: %v", time.Since(begin), err)
	}
	close(release)
}

// blocked is a body that gives some bytes and then nothing until its context ends
// or it is closed.
type blocked struct {
	ctx    context.Context
	first  io.Reader
	closed chan struct{}
	once   sync.Once
}

func (b *blocked) Read(p []byte) (int, error) {
	if n, err := b.first.Read(p); err == nil {
		return n, nil
	}
	select {
	case <-b.ctx.Done():
		return 0, b.ctx.Err()
	case <-b.closed:
		return 0, io.ErrClosedPipe
	}
}

func (b *blocked) Close() error {
	b.once.Do(func() { close(b.closed) })
	return nil
}

func newBlocked(ctx context.Context) *blocked {
	return &blocked{ctx: ctx, first: strings.NewReader("beginning"), closed: make(chan struct{})}
}

func TestCancelWhileTheBodyIsBlocked(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			leakCheck(t)
			p, v := newPlace(t, "vault")
			p.Hook(memory.On("send", memory.Body, memory.Hang))
			ep := remote(t, kind, p.Endpoint())
			begin := time.Now()

			ctx, cancel := context.WithCancel(t.Context())
			stream, err := ep.Sender.Send(ctx, cairn.Step{Dataset: "db", To: v.VersionID}, []cairn.Format{cairn.FormatBlocks})
			if err != nil {
				t.Fatal(err)
			}
			time.AfterFunc(20*time.Millisecond, cancel)
			if _, err := io.Copy(io.Discard, stream.Body); !errors.Is(err, context.Canceled) {
				t.Errorf("pull: %v", err)
			}
			if err := stream.Body.Close(); err != nil {
				t.Error(err)
			}

			ctx, cancel = context.WithCancel(t.Context())
			time.AfterFunc(20*time.Millisecond, cancel)
			body := newBlocked(ctx)
			_, err = ep.Receiver.Receive(ctx, &cairn.Stream{Header: cairn.StreamHeader{Format: cairn.FormatBlocks, Dataset: "new", Kind: cairn.KindVolume,
				To: cairn.Version{VersionID: cairn.VersionID{Name: "@a", GUID: 5}}, Volume: 4096}, Body: body}, cairn.ReceiveOptions{})
			if !errors.Is(err, context.Canceled) {
				t.Errorf("push: %v", err)
			}
			select {
			case <-body.closed:
			default:
				t.Error("the body was not closed")
			}
			if took := time.Since(begin); took > 2*quick.Grace {
				t.Errorf("took %s", took)
			}
			if n := len(listings(t, ep)); n != 1 {
				t.Errorf("%d datasets afterwards", n)
			}
		})
	}
}

// A receiver that refuses early ends a push whose body gives nothing and knows
// nothing of our context.
func TestRefusalEndsABlockedPush(t *testing.T) {
	leakCheck(t)
	p, _ := newPlace(t, "vault")
	p.Hook(memory.On("receive", memory.Begin, memory.Fail(0, &cairn.Error{Op: "receive", Kind: cairn.KindSpace, Hint: "make room"})))
	ep := remote(t, "tcp", p.Endpoint())
	body := newBlocked(context.Background())
	_, err := ep.Receiver.Receive(t.Context(), &cairn.Stream{Header: cairn.StreamHeader{Format: cairn.FormatBlocks, Dataset: "new", Kind: cairn.KindVolume}, Body: body}, cairn.ReceiveOptions{})
	if !errors.Is(err, cairn.KindSpace) || cairn.HintOf(err) != "make room" {
		t.Errorf("got %v", err)
	}
}

// What ends a body with an error is the error of both sides, never an EOF.
func TestBodyErrorsCross(t *testing.T) {
	broken := &cairn.Error{Op: "read segment", Subject: "s1", Kind: cairn.KindDamaged, Hint: "heal it"}
	p, v := newPlace(t, "vault")
	ep := remote(t, "unix", p.Endpoint())
	p.Hook(memory.On("send", memory.Body, memory.Fail(0, broken)))
	stream, err := ep.Sender.Send(t.Context(), cairn.Step{Dataset: "db", To: v.VersionID}, []cairn.Format{cairn.FormatBlocks})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(stream.Body); !errors.Is(err, cairn.KindDamaged) || cairn.HintOf(err) != "heal it" || !strings.Contains(err.Error(), "vault") {
		t.Errorf("pull: %v", err)
	}
	if err := stream.Body.Close(); err != nil {
		t.Error(err)
	}
	for _, end := range []error{broken, io.ErrUnexpectedEOF, fmt.Errorf("x: %w", io.EOF)} {
		var got error
		seen := *p.Endpoint()
		seen.Receiver = receiverFunc(func(s *cairn.Stream) error {
			_, got = io.ReadAll(s.Body)
			return got
		})
		ep := remote(t, "local", &seen)
		_, err = ep.Receiver.Receive(t.Context(), &cairn.Stream{Header: cairn.StreamHeader{Dataset: "new"}, Body: io.NopCloser(io.MultiReader(strings.NewReader("some"), failing{end}))}, cairn.ReceiveOptions{})
		if got == nil || !errors.Is(err, end) {
			t.Errorf("push: the receiver saw %v, the caller %v, want %v", got, err, end)
		}
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

type receiverFunc func(*cairn.Stream) error

func (f receiverFunc) Receive(_ context.Context, s *cairn.Stream, _ cairn.ReceiveOptions) (cairn.Received, error) {
	defer func() { _ = s.Body.Close() }()
	return cairn.Received{}, f(s)
}

func (receiverFunc) Abort(context.Context, string) error { return nil }

// When the session ends, its calls' contexts end, then its endpoint is closed.
func TestSessionEndClosesTheEndpoint(t *testing.T) {
	leakCheck(t)
	ln, d := wire(t, "unix")
	var order []string
	closed := make(chan struct{})
	p, _ := newPlace(t, "vault")
	started := make(chan struct{})
	p.Hook(memory.On("lease", memory.Begin, func(ctx context.Context, c memory.Call) error {
		close(started)
		err := memory.Hang(ctx, c)
		order = append(order, "call")
		return err
	}))
	serve(t, ln, rpc.ServerOptions{Timings: quick, Endpoint: func(ctx context.Context, identity string) (*cairn.Endpoint, error) {
		if identity != "client" {
			return nil, errors.New("who?")
		}
		ep := *p.Endpoint()
		ep.Close = func() error {
			order = append(order, "close")
			close(closed)
			return ctx.Err()
		}
		return &ep, nil
	}})
	ep, err := rpc.Dial(t.Context(), d, rpc.ClientOptions{Timings: quick})
	if err != nil {
		t.Fatal(err)
	}
	result := make(chan error)
	go func() { result <- ep.Leases.SetLease(context.Background(), cairn.LeaseSet{Dataset: "db"}) }()
	<-started
	if err := ep.Close(); err != nil {
		t.Error(err)
	}
	if err := <-result; !errors.Is(err, cairn.KindUnavailable) {
		t.Errorf("the call: %v", err)
	}
	<-closed
	if fmt.Sprint(order) != "[call close]" {
		t.Errorf("order %v", order)
	}
	if err := ep.Leases.SetLease(t.Context(), cairn.LeaseSet{Dataset: "db"}); !errors.Is(err, cairn.KindUnavailable) {
		t.Errorf("after close: %v", err)
	}
}

func TestRefusedEndpointSaysWhy(t *testing.T) {
	ln, d := wire(t, "tcp")
	serve(t, ln, rpc.ServerOptions{Timings: quick, Endpoint: func(context.Context, string) (*cairn.Endpoint, error) {
		return nil, &cairn.Error{Op: "admit", Subject: "client", Kind: cairn.KindPermission, Hint: "ask the operator"}
	}})
	_, err := rpc.Dial(t.Context(), d, rpc.ClientOptions{Timings: quick})
	if !errors.Is(err, cairn.KindPermission) || cairn.HintOf(err) != "ask the operator" {
		t.Errorf("got %v", err)
	}
}

// A slow endpoint is waited for, heartbeats in between.
func TestSlowEndpointIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln, d := wire(t, "local")
		p, _ := newPlace(t, "vault")
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			done <- rpc.Serve(ctx, ln, rpc.ServerOptions{Endpoint: func(context.Context, string) (*cairn.Endpoint, error) {
				time.Sleep(5 * time.Minute)
				return p.Endpoint(), nil
			}})
		}()
		ep, err := rpc.Dial(t.Context(), d, rpc.ClientOptions{})
		if err != nil {
			t.Fatal(err)
		}
		_ = ep.Close()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestSessionsOfOneIdentityAreBounded(t *testing.T) {
	ln, d := wire(t, "local")
	p, _ := newPlace(t, "vault")
	serve(t, ln, rpc.ServerOptions{Endpoint: always(p.Endpoint()), MaxSessions: 2, Timings: quick})
	first := dial(t, d, rpc.ClientOptions{Timings: quick})
	dial(t, d, rpc.ClientOptions{Timings: quick})
	if _, err := rpc.Dial(t.Context(), d, rpc.ClientOptions{Timings: quick}); !errors.Is(err, cairn.KindBusy) {
		t.Errorf("third session: %v", err)
	}
	_ = first.Close()
	for range 100 {
		ep, err := rpc.Dial(t.Context(), d, rpc.ClientOptions{Timings: quick})
		if err == nil {
			_ = ep.Close()
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("a closed session's place was not given back")
}

// A listing whose consumer is slow stops its producer soon, and no other call.
func TestSlowConsumerStopsTheListing(t *testing.T) {
	leakCheck(t)
	p, _ := newPlace(t, "vault")
	var made atomic.Int64
	endless := *p.Endpoint()
	endless.Lister = listerFunc(func(ctx context.Context, yield func(*cairn.Listing, error) bool) {
		for i := 0; ctx.Err() == nil; i++ {
			made.Add(1)
			if !yield(&cairn.Listing{Dataset: cairn.Dataset{Name: fmt.Sprintf("d%09d", i), Why: strings.Repeat("x", 1000)}}, nil) {
				return
			}
		}
	})
	ep := remote(t, "unix", &endless)
	n := 0
	for l, err := range ep.Lister.List(t.Context(), cairn.Query{Filter: cairn.All}) {
		if err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf("d%09d", n); l.Dataset.Name != want {
			t.Fatalf("row %d is %s", n, l.Dataset.Name)
		}
		if n++; n == 1 {
			time.Sleep(100 * time.Millisecond)
			if ahead := made.Load(); ahead > 400 { // 256 KiB window, 32 KiB gathered
				t.Errorf("%d rows made before the second was taken", ahead)
			}
			if err := ep.Leases.SetLease(t.Context(), cairn.LeaseSet{Dataset: "db", Owner: "o", Purpose: cairn.PurposePin}); err != nil {
				t.Errorf("another call meanwhile: %v", err)
			}
		}
		if n == 2000 {
			break
		}
	}
	after := made.Load()
	time.Sleep(50 * time.Millisecond)
	if more := made.Load() - after; more > 400 {
		t.Errorf("%d more rows after the consumer left", more)
	}
}

type listerFunc func(ctx context.Context, yield func(*cairn.Listing, error) bool)

func (f listerFunc) List(ctx context.Context, _ cairn.Query) iter.Seq2[*cairn.Listing, error] {
	return func(yield func(*cairn.Listing, error) bool) { f(ctx, yield) }
}

// Progress of the passive side arrives in the caller's watchdog, and keeps its
// call alive; without it the call is stuck.
func TestPassiveSideFeedsTheWatchdog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln, d := wire(t, "local")
		p, _ := newPlace(t, "vault")
		move := true
		p.Hook(memory.On("lease", memory.Begin, func(ctx context.Context, _ memory.Call) error {
			progress := watchdog.From(ctx)
			progress.Enter("busy")
			for i := range int64(10) {
				if move {
					progress.Level("versions", i+1)
				}
				select {
				case <-time.After(20 * time.Second):
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			return nil
		}))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- rpc.Serve(ctx, ln, rpc.ServerOptions{Endpoint: always(p.Endpoint())}) }()
		ep, err := rpc.Dial(t.Context(), d, rpc.ClientOptions{})
		if err != nil {
			t.Fatal(err)
		}
		call := func() (watchdog.Report, error) {
			var progress watchdog.Progress
			err, _ := watchdog.Run(t.Context(), &progress, watchdog.Options{Limit: time.Minute}, func(ctx context.Context) error {
				return ep.Leases.SetLease(ctx, cairn.LeaseSet{Dataset: "db"})
			})
			return progress.Report(), err
		}
		if r, err := call(); err != nil || r.Phase != "busy" || r.Counters["vault versions"] != 10 {
			t.Errorf("moving: %v, %v", r, err)
		}
		move = false
		if _, err := call(); !errors.Is(err, cairn.KindStuck) {
			t.Errorf("still: %v", err)
		}
		_ = ep.Close()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// Serve returns in bounded time also when a call does not, and names it.
func TestServeNamesCallsThatDoNotEnd(t *testing.T) {
	ln, d := wire(t, "local")
	p, _ := newPlace(t, "vault")
	release, started := make(chan struct{}), make(chan struct{})
	p.Hook(memory.On("lease", memory.Begin, func(context.Context, memory.Call) error { close(started); <-release; return nil }))
	timings := quick
	timings.Limit = 300 * time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		done <- rpc.Serve(ctx, ln, rpc.ServerOptions{Endpoint: always(p.Endpoint()), Timings: timings})
	}()
	ep := dial(t, d, rpc.ClientOptions{Timings: timings})
	go func() { _ = ep.Leases.SetLease(t.Context(), cairn.LeaseSet{Dataset: "db"}) }()
	<-started
	cancel()
	if err := <-done; !errors.Is(err, cairn.KindStuck) || !strings.Contains(err.Error(), "lease of client") {
		t.Errorf("got %v", err)
	}
	close(release)
}

func TestAbilitiesAreTheHandshake(t *testing.T) {
	p, v := newPlace(t, "vault")
	full := p.Endpoint()
	few := &cairn.Endpoint{Info: full.Info, Lister: full.Lister, Receiver: full.Receiver}
	ep := remote(t, "local", few)
	if fmt.Sprint(ep.Abilities()) != "[list receive]" {
		t.Errorf("abilities %v", ep.Abilities())
	}
	if all := remote(t, "local", full); fmt.Sprint(all.Abilities()) != fmt.Sprint(full.Abilities()) {
		t.Errorf("abilities %v of %v", all.Abilities(), full.Abilities())
	}
	// A client that calls what was not offered is refused by the server itself.
	sly := ep.Lister.(cairn.Destroyer)
	if _, err := sly.Destroy(t.Context(), "db", []cairn.VersionID{v.VersionID}); !errors.Is(err, cairn.KindUnsupported) {
		t.Errorf("destroyed past the handshake: %v", err)
	}
}

var _ transport.Dialer = transport.DialerFunc(nil)

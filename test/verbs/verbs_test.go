//go:build linux

package verbs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cairn"
	"cairn/internal/mech/retry"
	"cairn/internal/policy/plan"
	"cairn/internal/system/rpc"
	"cairn/internal/system/transport"
	"cairn/internal/system/volume"
	"cairn/internal/system/wrap"
	"cairn/internal/work/capture"
	"cairn/internal/work/prune"
	"cairn/internal/work/replicate"
	"cairn/internal/work/restore"
)

const (
	size     = 6 << 20
	identity = "web1"
)

// must fails the test on an error.
func must[T any](v T, err error) func(t *testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// host is a place on disk with its lease table.
type host struct {
	place *volume.Place
	table wrap.Table
}

func newHost(t *testing.T, name string) *host {
	t.Helper()
	p := must(volume.OpenPlace(t.Context(), volume.PlaceOptions{Dir: t.TempDir(), Name: name}))(t)
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return &host{place: p}
}

func (h *host) session() *cairn.Endpoint { return wrap.Leased(h.place.Endpoint(), &h.table) }

// line is a way to a host that can be cut: each connection ends after some bytes.
type line struct {
	dialer transport.Dialer
	mu     sync.Mutex   // guards length
	length func() int64 // bytes until a connection is cut
	cuts   atomic.Int64 // connections that may still be cut
	sent   atomic.Int64 // bytes that went to the host, over all connections
}

// anywhere cuts connections at random.
func anywhere(seed uint64) func() int64 {
	rnd := rand.New(rand.NewPCG(seed, 1))
	return func() int64 { return 1000 + rnd.Int64N(4<<20) }
}

func (l *line) Dial(ctx context.Context) (net.Conn, error) {
	c, err := l.dialer.Dial(ctx)
	if err != nil {
		return c, err
	}
	if l.cuts.Load() <= 0 {
		return &cutConn{Conn: c, line: l}, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return &cutConn{Conn: c, line: l, left: l.length()}, nil
}

type cutConn struct {
	net.Conn
	line *line
	mu   sync.Mutex // guards left
	left int64
}

func (c *cutConn) spend(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	was := c.left
	c.left -= int64(n)
	if was > 0 && c.left <= 0 && c.line.cuts.Add(-1) >= 0 {
		_ = c.Close()
	}
}

func (c *cutConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.spend(n)
	return n, err
}

func (c *cutConn) Write(p []byte) (int, error) {
	c.spend(len(p))
	n, err := c.Conn.Write(p)
	c.line.sent.Add(int64(n))
	return n, err
}

// connect serves h to a client, confined where it is a sink, and dials it.
func connect(t *testing.T, h *host, confine bool, length func() int64, cuts int64) *cairn.Endpoint {
	t.Helper()
	ep, _ := connectLine(t, h, confine, length, cuts)
	return ep
}

// connectLine is connect, with the line.
func connectLine(t *testing.T, h *host, confine bool, length func() int64, cuts int64) (*cairn.Endpoint, *line) {
	t.Helper()
	local := transport.NewLocal()
	ln := must(local.Listen("h"))(t)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- rpc.Serve(ctx, ln, rpc.ServerOptions{Timings: timings, Endpoint: func(_ context.Context, who string) (*cairn.Endpoint, error) {
			ep := wrap.Owned(h.session(), "serving")
			if !confine {
				return ep, nil
			}
			return wrap.Confine(ep, "backups", who)
		}})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
			t.Error("serve:", err)
		}
	})
	l := &line{dialer: local.Dialer("h", identity, time.Second), length: length}
	ep := must(wrap.Redial(t.Context(), func(ctx context.Context) (*cairn.Endpoint, error) {
		return rpc.Dial(ctx, l, rpc.ClientOptions{Place: "vault", Self: identity, Timings: timings})
	}))(t)
	l.cuts.Store(cuts)
	t.Cleanup(func() { _ = ep.Close() })
	return ep, l
}

var timings = rpc.Timings{Beat: 200 * time.Millisecond, Limit: 3 * time.Second, Handshake: time.Second, Grace: time.Second}

// write changes a part of a volume's head.
func (h *host) write(t *testing.T, name string, rnd *rand.Rand) {
	t.Helper()
	d := must(h.place.Device(t.Context(), name))(t)
	p := make([]byte, 512<<10)
	for i := range p {
		p[i] = byte(rnd.Uint32())
	}
	off := rnd.Int64N((size-int64(len(p)))/4096) * 4096
	if err := d.WriteAt(t.Context(), p, off, 0); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(d.Flush(t.Context()), d.Close()); err != nil {
		t.Fatal(err)
	}
}

// content reads a snapshot.
func content(t *testing.T, ep *cairn.Endpoint, name string, id cairn.VersionID) []byte {
	t.Helper()
	r := must(ep.Blocks.OpenVersion(t.Context(), name, id))(t)
	p := make([]byte, r.Size())
	if err := errors.Join(r.ReadAt(t.Context(), p, 0), r.Close()); err != nil {
		t.Fatal(err)
	}
	return p
}

func list(t *testing.T, ep *cairn.Endpoint, names ...string) map[string]*cairn.Listing {
	t.Helper()
	out := map[string]*cairn.Listing{}
	for l, err := range ep.Lister.List(t.Context(), cairn.Query{Filter: cairn.All, Names: names, Want: cairn.Want{Versions: true, Leases: true, Partial: true}}) {
		if err != nil {
			t.Fatal(err)
		}
		out[l.Dataset.Name] = l
	}
	return out
}

// equal wants every snapshot of the sender that the receiver has to hold the same
// bytes, and the newest to be there.
func equal(t *testing.T, sender, receiver *cairn.Endpoint) {
	t.Helper()
	there := list(t, receiver)
	for name, l := range list(t, sender) {
		have := map[cairn.GUID]cairn.VersionID{}
		if there[name] == nil {
			t.Errorf("%s did not arrive", name)
			continue
		}
		for _, v := range there[name].Versions {
			have[v.GUID] = v.VersionID
		}
		newest := l.Versions[len(l.Versions)-1]
		if have[newest.GUID].IsZero() {
			t.Errorf("%s%s did not arrive", name, newest.Name)
		}
		for _, v := range l.Versions {
			if id := have[v.GUID]; v.IsSnapshot() && id.IsSnapshot() && !bytes.Equal(content(t, sender, name, v.VersionID), content(t, receiver, name, id)) {
				t.Errorf("%s%s differs", name, v.Name)
			}
		}
	}
}

func seeds() uint64 {
	if os.Getenv("CAIRN_SCALE") == "full" {
		return 40
	}
	return 3
}

// Versions of several volumes cross a line that is cut again and again, in both
// directions, with two steps at a time: all arrive, bit for bit, in one run that
// says so only then, little is sent twice, and no lease is left behind.
func TestReplicationOverACutLine(t *testing.T) {
	for _, kind := range []string{"push", "pull"} {
		for seed := range seeds() {
			t.Run(fmt.Sprintf("%s %d", kind, seed), func(t *testing.T) { cutLine(t, kind, seed) })
		}
	}
}

func cutLine(t *testing.T, kind string, seed uint64) {
	src, dst := newHost(t, "here"), newHost(t, "vault")
	rnd := rand.New(rand.NewPCG(seed, 2))
	names := []string{"db", "vm", "vm/disk"}
	for _, n := range names {
		if err := src.place.Create(t.Context(), n, size, "test"); err != nil {
			t.Fatal(err)
		}
	}
	const cuts, versions = 6, 3
	o := replicate.Options{Filter: cairn.All, Owner: "nightly", Initial: plan.All, Steps: 2,
		Retry: retry.Policy{Attempts: 10, First: 5 * time.Millisecond, Max: 50 * time.Millisecond}}
	local, remote := src.session(), connect(t, dst, true, anywhere(seed), cuts)
	o.Sender, o.Receiver = local, remote
	if kind == "pull" {
		o.Sender = connect(t, src, false, anywhere(seed), cuts)
		o.Receiver = must(wrap.Rebase(dst.session(), "backups/"+identity))(t)
	}
	for v := range versions {
		for _, n := range names {
			src.write(t, n, rnd)
		}
		must(capture.Run(t.Context(), capture.Options{Endpoint: local, Filter: cairn.All, Name: fmt.Sprint("v", v)}))(t)
	}
	r, err := replicate.Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	stored := must(wrap.Rebase(dst.session(), "backups/"+identity))(t)
	equal(t, local, stored)
	moved, attempts := int64(0), 0
	for _, d := range r.Datasets {
		attempts += len(d.Attempts)
		for _, a := range d.Attempts {
			for _, s := range a.Steps {
				moved += s.BytesMoved
			}
		}
		if d.State != replicate.Done {
			t.Errorf("%s is %s", d.Dataset, d.State)
		}
	}
	data := int64(len(names) * versions * 512 << 10)
	if limit := data + data/10 + cuts*2*(4<<20); moved > limit {
		t.Errorf("%d bytes were moved for %d of data", moved, data)
	}
	t.Logf("%d attempts, %d KiB moved for %d KiB of data", attempts, moved>>10, data>>10)
	for name, l := range list(t, local) {
		for _, v := range l.Versions {
			for _, lease := range v.Leases {
				if lease.Purpose != cairn.PurposeCursor || v.Name != "@v2" {
					t.Errorf("left: %s%s leased by %s (%s)", name, v.Name, lease.Owner, lease.Purpose)
				}
			}
		}
	}
}

// A long step that is cut goes on where it was: at most one resume window is sent
// twice.
func TestNothingIsSentTwiceBeyondAResumeWindow(t *testing.T) {
	src, dst := newHost(t, "here"), newHost(t, "vault")
	if err := src.place.Create(t.Context(), "db", 32<<20, "test"); err != nil {
		t.Fatal(err)
	}
	d := must(src.place.Device(t.Context(), "db"))(t)
	data := make([]byte, 20<<20)
	rnd := rand.New(rand.NewPCG(8, 8))
	for i := range data {
		data[i] = byte(rnd.Uint32())
	}
	if err := errors.Join(d.WriteAt(t.Context(), data, 0, 0), d.Flush(t.Context()), d.Close()); err != nil {
		t.Fatal(err)
	}
	local, remote := src.session(), connect(t, dst, true, func() int64 { return 11 << 20 }, 1)
	must(capture.Run(t.Context(), capture.Options{Endpoint: local, Filter: cairn.All, Name: "a"}))(t)
	r := must(replicate.Run(t.Context(), replicate.Options{Sender: local, Receiver: remote, Filter: cairn.All, Owner: "nightly",
		Retry: retry.Policy{First: 5 * time.Millisecond}}))(t)
	equal(t, local, remote)
	attempts := r.Datasets[0].Attempts
	moved := int64(0)
	for _, a := range attempts {
		for _, s := range a.Steps {
			moved += s.BytesMoved
		}
	}
	const window = 4 << 20
	const inFlight = 2 << 20 // read from the sender, lost on the way
	if last := attempts[len(attempts)-1].Steps[0]; len(attempts) != 2 || !last.Resumed || moved > int64(len(data))+window+inFlight {
		t.Errorf("%d attempts, resumed %v, %d bytes moved for %d", len(attempts), last.Resumed, moved, len(data))
	}
}

// Replication and pruning of both sides run side by side, with rules that keep as
// little as they may: nobody harms another, and the chain never breaks.
func TestReplicationAndPruningSideBySide(t *testing.T) {
	src, dst := newHost(t, "here"), newHost(t, "vault")
	rnd := rand.New(rand.NewPCG(9, 9))
	for _, n := range []string{"db", "vm"} {
		if err := src.place.Create(t.Context(), n, size, "test"); err != nil {
			t.Fatal(err)
		}
	}
	local, pruning, remote := src.session(), src.session(), connect(t, dst, true, nil, 0)
	keep := []cairn.KeepRule{{Type: "last_n", Count: 1}}
	here := prune.Options{Target: pruning, Side: prune.Sender, Peer: remote, Filter: cairn.All, Rules: keep, Owner: "nightly"}
	there := prune.Options{Target: remote, Side: prune.Receiver, Peer: pruning, Filter: cairn.All, Rules: keep, Owner: "nightly"}
	full, destroyed := 0, 0
	for round := range 8 {
		for v := range 2 {
			src.write(t, "db", rnd)
			src.write(t, "vm", rnd)
			must(capture.Run(t.Context(), capture.Options{Endpoint: local, Filter: cairn.All, Name: fmt.Sprintf("v%d.%d", round, v)}))(t)
		}
		var all sync.WaitGroup
		all.Go(func() {
			r, err := replicate.Run(t.Context(), replicate.Options{Sender: local, Receiver: remote, Filter: cairn.All, Owner: "nightly", Initial: plan.All, Steps: 2,
				Retry: retry.Policy{Attempts: 20, First: time.Millisecond, Max: 5 * time.Millisecond}})
			if err != nil {
				t.Errorf("round %d: replicate: %v", round, err)
			}
			for _, d := range r.Datasets {
				for _, a := range d.Attempts {
					for _, s := range a.Steps {
						if s.From == "" && s.State == replicate.Done {
							full++
						}
					}
				}
			}
		})
		for _, o := range []prune.Options{here, there} {
			all.Go(func() {
				for range 4 {
					r, err := prune.Run(t.Context(), o)
					if err != nil {
						t.Errorf("round %d: prune %s: %v", round, o.Side, err)
					}
					if o.Side == prune.Sender {
						destroyed += r.Destroyed
					}
				}
			})
		}
		all.Wait()
	}
	equal(t, local, remote)
	if full != 2 || destroyed == 0 {
		t.Errorf("%d full transfers, %d versions pruned at the sender", full, destroyed)
	}
}

// The whole round: captures, replication and pruning of both sides again and
// again, then the original is lost and comes back from the other side.
func TestRound(t *testing.T) {
	src, dst := newHost(t, "here"), newHost(t, "vault")
	rnd := rand.New(rand.NewPCG(5, 5))
	if err := src.place.Create(t.Context(), "db", size, "test"); err != nil {
		t.Fatal(err)
	}
	local, remote := src.session(), connect(t, dst, true, nil, 0)
	for v := range 6 {
		src.write(t, "db", rnd)
		must(capture.Run(t.Context(), capture.Options{Endpoint: local, Filter: cairn.All, Name: fmt.Sprint("v", v)}))(t)
		if v%2 == 1 {
			must(replicate.Run(t.Context(), replicate.Options{Sender: local, Receiver: remote, Filter: cairn.All, Owner: "nightly", Initial: plan.All}))(t)
		}
		keep := []cairn.KeepRule{{Type: "last_n", Count: 1}}
		p := prune.Options{Target: local, Side: prune.Sender, Peer: remote, Filter: cairn.All, Rules: keep, Owner: "nightly"}
		preview := must(prune.Preview(t.Context(), p))(t)
		run := must(prune.Run(t.Context(), p))(t)
		if preview.Destroyed != run.Destroyed || preview.Kept != run.Kept {
			t.Errorf("preview %+v, run %+v", preview, run)
		}
		p.Target, p.Peer, p.Side = remote, local, prune.Receiver
		p.Rules = []cairn.KeepRule{{Type: "last_n", Count: 2}}
		must(prune.Run(t.Context(), p))(t)
	}
	var here, there []string
	for _, v := range list(t, local)["db"].Versions {
		here = append(here, v.Name)
	}
	for _, v := range list(t, remote)["db"].Versions {
		there = append(there, v.Name)
	}
	if fmt.Sprint(here) != "[@v5]" || fmt.Sprint(there) != "[@v4 @v5]" && fmt.Sprint(there) != "[@v3 @v5]" {
		t.Errorf("here %v, there %v", here, there)
	}
	want := content(t, local, "db", list(t, local)["db"].Versions[0].VersionID)
	if err := src.place.DestroyVolume(t.Context(), "db"); err != nil {
		t.Fatal(err)
	}
	r := must(restore.ToVolume(t.Context(), restore.VolumeOptions{Source: remote, Dataset: "db", Version: "@v5", Target: local}))(t)
	if r.Method != restore.New || !r.Verified {
		t.Errorf("%+v", r)
	}
	d := must(src.place.Device(t.Context(), "db"))(t)
	got := make([]byte, size)
	if err := d.ReadAt(t.Context(), got, 0); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the restored head differs (%v)", err)
	}
	if err := errors.Join(d.WriteAt(t.Context(), make([]byte, 4096), 0, 0), d.Close()); err != nil {
		t.Error("the restored head takes no writes:", err)
	}
	path := filepath.Join(t.TempDir(), "disk.raw")
	f := must(restore.ToFile(t.Context(), restore.FileOptions{Source: remote, Dataset: "db", Version: "@v5", Path: path}))(t)
	if got := must(os.ReadFile(path))(t); !bytes.Equal(got, want) || !f.Verified {
		t.Errorf("the file differs: %+v", f)
	}
	rb := must(restore.ToVolume(t.Context(), restore.VolumeOptions{Source: local, Dataset: "db", Version: "@v5", Target: local,
		Confirm: func(context.Context, string) error { return nil }}))(t)
	if rb.Method != restore.Rollback {
		t.Errorf("%+v", rb)
	}
}

//go:build linux

package verbs_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"math/rand/v2"

	"cairn"
	"cairn/internal/system/rpc"
	"cairn/internal/system/transport"
	"cairn/internal/system/volume"
	"cairn/internal/work/capture"
	"cairn/internal/work/replicate"
	"cairn/internal/work/verify"
)

// meter counts the bytes that cross a line.
type meter struct {
	transport.Dialer
	bytes atomic.Int64
}

func (m *meter) Dial(ctx context.Context) (net.Conn, error) {
	c, err := m.Dialer.Dial(ctx)
	if err != nil {
		return nil, err
	}
	return metered{c, m}, nil
}

type metered struct {
	net.Conn
	m *meter
}

func (c metered) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.m.bytes.Add(int64(n))
	return n, err
}

func (c metered) Write(p []byte) (int, error) {
	c.m.bytes.Add(int64(len(p)))
	return c.Conn.Write(p)
}

// pair is a source with versions of one volume and a replica of it at a place that
// is reached over a metered line. The stores' folders can be spoiled while closed.
type pair struct {
	dirs [2]string
	rnd  *rand.Rand
	here *cairn.Endpoint
	far  *cairn.Endpoint
	line *meter
	shut func()
}

func newPair(t *testing.T) *pair {
	t.Helper()
	x := &pair{dirs: [2]string{t.TempDir(), t.TempDir()}, rnd: rand.New(rand.NewPCG(7, 7))}
	x.open(t)
	t.Cleanup(func() { x.shut() })
	return x
}

func (x *pair) open(t *testing.T) {
	t.Helper()
	src := &host{place: must(volume.OpenPlace(t.Context(), volume.PlaceOptions{Dir: x.dirs[0], Name: "here"}))(t)}
	dst := &host{place: must(volume.OpenPlace(t.Context(), volume.PlaceOptions{Dir: x.dirs[1], Name: "vault"}))(t)}
	local := transport.NewLocal()
	ln := must(local.Listen("h"))(t)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- rpc.Serve(ctx, ln, rpc.ServerOptions{Timings: timings, Endpoint: func(context.Context, string) (*cairn.Endpoint, error) { return dst.session(), nil }})
	}()
	x.line = &meter{Dialer: local.Dialer("h", identity, time.Second)}
	x.here = src.session()
	x.far = must(rpc.Dial(t.Context(), x.line, rpc.ClientOptions{Place: "vault", Self: identity, Timings: timings}))(t)
	x.shut = func() {
		err := x.far.Close()
		cancel()
		if e := <-ended; e != nil && !errors.Is(e, context.Canceled) {
			err = errors.Join(err, e)
		}
		if err = errors.Join(err, src.place.Close(), dst.place.Close()); err != nil {
			t.Error(err)
		}
		x.shut = func() {}
	}
	if list(t, x.here)["db"] == nil {
		x.fill(t, src)
	}
}

// fill makes three versions, replicated, whose changes lie apart.
func (x *pair) fill(t *testing.T, src *host) {
	t.Helper()
	if err := src.place.Create(t.Context(), "db", size, "test"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "b", "c"} {
		for range 4 {
			src.write(t, "db", x.rnd)
		}
		must(capture.Run(t.Context(), capture.Options{Endpoint: x.here, Filter: cairn.All, Name: name}))(t)
		must(replicate.Run(t.Context(), replicate.Options{Sender: x.here, Receiver: x.far, Filter: cairn.All, Owner: "nightly"}))(t)
	}
	src.write(t, "db", x.rnd)
}

// spoil changes bytes in every ninth block of the older or the newer half of the
// segments of one side, which is closed.
func (x *pair) spoil(t *testing.T, side int) (hurt int) {
	t.Helper()
	paths := must(filepath.Glob(filepath.Join(x.dirs[side], "db", "+store", "seg-*")))(t)
	half := paths[:len(paths)/2]
	if side == 1 {
		half = paths[len(paths)/2:]
	}
	for _, path := range half {
		p := must(os.ReadFile(path))(t)
		for off := 4096; off < len(p); off += 9 * 4096 {
			if string(p[off:off+4]) != "CSG1" {
				p[off+7] ^= 0x20
				hurt++
			}
		}
		if err := os.WriteFile(path, p, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return hurt
}

func (x *pair) sides(t *testing.T, name string) (a, b verify.Side) {
	t.Helper()
	find := func(ep *cairn.Endpoint) verify.Side {
		l := list(t, ep)["db"]
		i := slices.IndexFunc(l.Versions, func(v cairn.Version) bool { return v.Name == name })
		return verify.Side{Endpoint: ep, Dataset: "db", Version: l.Versions[i]}
	}
	return find(x.here), find(x.far)
}

// Two places compare a snapshot, each on its own disks: only hashes cross the wire.
func TestComparingMovesOnlyHashes(t *testing.T) {
	x := newPair(t)
	before := x.line.bytes.Load()
	a, b := x.sides(t, "@b")
	r := must(verify.Compare(t.Context(), a, b, verify.Options{}))(t)
	if moved := x.line.bytes.Load() - before; moved > 8<<10 || r.Read+r.Zeroes != size || !r.Equal() {
		t.Errorf("%d bytes crossed the wire for %d read and %d of zeroes; %d left", moved, r.Read, r.Zeroes, r.Left)
	}
	other, _ := x.sides(t, "@a")
	if r := must(verify.Compare(t.Context(), other, b, verify.Options{}))(t); r.Equal() || r.Left < 100 {
		t.Errorf("different versions are told to differ in %d blocks", r.Left)
	}
	_, err := verify.Compare(t.Context(), other, b, verify.Options{Heal: true})
	if !errors.Is(err, cairn.KindConflict) {
		t.Errorf("healing from another version: %v", err)
	}
}

// What rotted at the source is healed from the replica, and what rotted at the
// replica from the source, in the same comparison; only damaged blocks move.
func TestBothSidesHealEachOther(t *testing.T) {
	x := newPair(t)
	x.shut()
	lost := [2]int{x.spoil(t, 0), x.spoil(t, 1)}
	x.open(t)
	healed := [2]int{}
	for _, name := range []string{"@a", "@b", "@c"} {
		a, b := x.sides(t, name)
		dry := must(verify.Compare(t.Context(), a, b, verify.Options{Heal: true, DryRun: true}))(t)
		again := must(verify.Compare(t.Context(), a, b, verify.Options{}))(t)
		if len(dry.Differs) != len(again.Differs) || dry.Left != again.Left {
			t.Errorf("%s: a dry run changed something: %d extents, then %d", name, len(dry.Differs), len(again.Differs))
		}
		before := x.line.bytes.Load()
		r := must(verify.Compare(t.Context(), a, b, verify.Options{Heal: true}))(t)
		moved := x.line.bytes.Load() - before
		if r.HealedA != dry.HealedA || r.HealedB != dry.HealedB {
			t.Errorf("%s: a dry run told %+v %+v, then %+v %+v", name, dry.HealedA, dry.HealedB, r.HealedA, r.HealedB)
		}
		n := r.HealedA.BySum + r.HealedA.ByGUID + r.HealedB.BySum + r.HealedB.ByGUID
		if limit := int64(n)*4200 + 80<<10; moved > limit {
			t.Errorf("%s: %d bytes moved to heal %d blocks", name, moved, n)
		}
		if !r.Equal() {
			t.Errorf("%s: %d blocks left, %+v %+v", name, r.Left, r.HealedA, r.HealedB)
		}
		healed[0] += r.HealedA.BySum
		healed[1] += r.HealedB.BySum
	}
	t.Logf("%v blocks spoiled, %v healed", lost, healed)
	if healed[0] == 0 || healed[1] == 0 {
		t.Errorf("healed %v of %v", healed, lost)
	}
	for _, ep := range []*cairn.Endpoint{x.here, x.far} {
		l := list(t, ep)["db"]
		if l.Dataset.State != cairn.StateOK {
			t.Errorf("at %s the volume is %v: %s", ep.Info.Place, l.Dataset.State, l.Dataset.Why)
		}
	}
	equal(t, x.here, x.far)
}

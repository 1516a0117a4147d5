//go:build linux

package matrix_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cairn"
	"cairn/internal/mech/retry"
	"cairn/internal/policy/plan"
	"cairn/internal/system/volume"
	"cairn/internal/system/wrap"
	"cairn/internal/system/zfs"
	"cairn/internal/testkit/fakezfs"
	"cairn/internal/testkit/realzfs"
	"cairn/internal/work/replicate"
)

// A host is a place with one dataset, "d" below its root, as a job sees it.
type host struct {
	endpoint *cairn.Endpoint
	write    func(off int64, p []byte)
	read     func(version string) []byte // of a snapshot with its '@'
}

const size = 8 << 20

func must[T any](v T, err error) func(t *testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// volumes is a place of volumes; the sender's has the dataset already.
func volumes(t *testing.T, root string, sender bool) *host {
	p := must(volume.OpenPlace(t.Context(), volume.PlaceOptions{Dir: t.TempDir()}))(t)
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	if sender {
		if err := p.Create(t.Context(), root+"/d", size, "test"); err != nil {
			t.Fatal(err)
		}
	}
	h := &host{endpoint: composed(t, p.Endpoint(), root)}
	h.write = func(off int64, b []byte) {
		d := must(p.Device(t.Context(), root+"/d"))(t)
		if err := errors.Join(d.WriteAt(t.Context(), b, off, 0), d.Flush(t.Context()), d.Close()); err != nil {
			t.Fatal(err)
		}
	}
	h.read = func(version string) []byte {
		r := must(p.Endpoint().Blocks.OpenVersion(t.Context(), root+"/d", find(t, h.endpoint, version).VersionID))(t)
		b := make([]byte, r.Size())
		if err := errors.Join(r.ReadAt(t.Context(), b, 0), r.Close()); err != nil {
			t.Fatal(err)
		}
		return b
	}
	return h
}

// machine is a ZFS of the fake's kind or, with CAIRN_ZFS=real, the machine's own, as in
// test/vm.
type machine interface {
	Try(args ...string) (string, error)
	TryWrite(dataset string, off int64, p []byte) error
	TryRead(name string) ([]byte, error)
}

func newMachine(t *testing.T, pool string) (machine, zfs.Options) {
	dir := filepath.Join(t.TempDir(), "zfs")
	if os.Getenv("CAIRN_ZFS") == "real" {
		z := must(realzfs.In(dir, pool))(t)
		t.Cleanup(func() {
			if err := z.Close(); err != nil {
				t.Error(err)
			}
		})
		return z, zfs.Options{Devices: "/dev/zvol"}
	}
	f := fakezfs.New(t)
	f.Pool(pool)
	return f, zfs.Options{ZFS: f.ZFS, Devices: f.Devices, Grace: 200 * time.Millisecond}
}

// zfsHost is a place with ZFS; the sender's has the dataset, a zvol or a filesystem.
func zfsHost(t *testing.T, root string, create ...string) *host {
	m, o := newMachine(t, root)
	if len(create) > 0 {
		must(m.Try(append(append([]string{"create"}, create...), root+"/d")...))(t)
	}
	p := must(zfs.Open(t.Context(), o))(t)
	return &host{endpoint: composed(t, p.Endpoint(zfs.Job{Receive: zfs.ReceiveOptions{Placeholder: zfs.Inherit, Root: root}}), root),
		write: func(off int64, b []byte) {
			if err := m.TryWrite(root+"/d", off, b); err != nil {
				t.Fatal(err)
			}
		},
		read: func(version string) []byte { return must(m.TryRead(root + "/d" + version))(t) }}
}

// composed is an endpoint as the daemon composes it for a job.
func composed(t *testing.T, ep *cairn.Endpoint, root string) *cairn.Endpoint {
	return must(wrap.Rebase(wrap.Leased(wrap.Translate(ep), &wrap.Table{}), root))(t)
}

func find(t *testing.T, ep *cairn.Endpoint, version string) cairn.Version {
	t.Helper()
	for l, err := range ep.Lister.List(t.Context(), cairn.Query{Filter: cairn.All, Names: []string{"d"}, Want: cairn.Want{Versions: true}}) {
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range l.Versions {
			if v.Name == version {
				return v
			}
		}
	}
	return cairn.Version{}
}

func sender(t *testing.T, kind string) *host {
	switch kind {
	case "filesystem":
		return zfsHost(t, "tank", "-p")
	case "zvol":
		return zfsHost(t, "tank", "-V", fmt.Sprint(size), "-b", "4096")
	}
	return volumes(t, "tank", true)
}

func receiver(t *testing.T, kind string) *host {
	if kind == "zfs" {
		return zfsHost(t, "vault")
	}
	return volumes(t, "vault", false)
}

// cell is one way of one dataset from one place to another.
type cell struct {
	t        *testing.T
	from, to *host
	sends    *cairn.Endpoint // from and to as the job reaches them
	receives *cairn.Endpoint
	rnd      *rand.Rand
}

// capture writes some bytes and takes a snapshot.
func (c *cell) capture(name string, bytes int) {
	c.t.Helper()
	p := make([]byte, bytes)
	for i := range p {
		p[i] = byte(c.rnd.Uint32())
	}
	c.from.write(c.rnd.Int64N((size-int64(bytes))/4096)*4096, p)
	got := must(c.from.endpoint.Snapshots.Snapshot(c.t.Context(), name, []string{"d"}, false))(c.t)
	if got[0].Err != nil {
		c.t.Fatal(got[0].Err)
	}
}

// replicate runs the verb; through wraps the sender.
func (c *cell) replicate(ctx context.Context, through func(cairn.Sender) cairn.Sender) (steps []replicate.StepReport, err error) {
	from := *c.sends
	if through != nil {
		from.Sender = through(from.Sender)
	}
	r, err := replicate.Run(ctx, replicate.Options{Sender: &from, Receiver: c.receives, Filter: cairn.All, Names: []string{"d"}, Owner: "matrix", Initial: plan.All,
		Retry: retry.Policy{Attempts: 6, First: time.Millisecond, Max: 20 * time.Millisecond}})
	for _, d := range r.Datasets {
		for _, a := range d.Attempts {
			steps = append(steps, a.Steps...)
		}
	}
	return steps, err
}

func (c *cell) done(through func(cairn.Sender) cairn.Sender) []replicate.StepReport {
	c.t.Helper()
	return must(c.replicate(c.t.Context(), through))(c.t)
}

// arrived wants a snapshot to be at the receiver with its GUID and its bytes.
func (c *cell) arrived(version string) {
	c.t.Helper()
	here, there := find(c.t, c.from.endpoint, version), find(c.t, c.to.endpoint, version)
	if there.GUID != here.GUID || here.GUID == 0 {
		c.t.Errorf("%s has GUID %v at the sender, %v at the receiver", version, here.GUID, there.GUID)
		return
	}
	if !bytes.Equal(bytes.TrimRight(c.from.read(version), "\x00"), bytes.TrimRight(c.to.read(version), "\x00")) { // the fake ends where the data does
		c.t.Errorf("%s differs", version)
	}
}

// ways are what is done in a cell.
var ways = map[string]func(c *cell){
	"full": func(c *cell) {
		c.capture("@a", 64<<10)
		c.done(nil)
		c.arrived("@a")
	},
	"incremental": func(c *cell) {
		c.capture("@a", 64<<10)
		c.done(nil)
		c.capture("@b", 32<<10)
		if steps := c.done(nil); len(steps) != 1 || steps[0].From != "@a" || steps[0].BytesMoved > 64<<10 {
			c.t.Errorf("steps %+v", steps)
		}
		c.arrived("@b")
	},
	"bookmark": func(c *cell) {
		c.capture("@a", 64<<10)
		c.done(nil)
		a := find(c.t, c.from.endpoint, "@a")
		if _, err := c.from.endpoint.Bookmarks.Bookmark(c.t.Context(), "d", a.VersionID, "#a", false); err != nil {
			c.t.Fatal(err)
		}
		if gone := must(c.from.endpoint.Destroys.Destroy(c.t.Context(), "d", []cairn.VersionID{a.VersionID}))(c.t); gone[0] != nil {
			c.t.Fatal(gone[0])
		}
		c.capture("@b", 32<<10)
		if steps := c.done(nil); len(steps) != 1 || !strings.HasPrefix(steps[0].From, "#") {
			c.t.Errorf("steps %+v", steps)
		}
		c.arrived("@b")
	},
	"renamed": func(c *cell) {
		c.capture("@a", 64<<10)
		c.done(nil)
		if err := c.to.endpoint.Renames.Rename(c.t.Context(), "d", "aside"); err != nil {
			c.t.Fatal(err)
		}
		c.capture("@b", 32<<10)
		if steps := c.done(nil); len(steps) != 1 || steps[0].From != "@a" || steps[0].BytesMoved > 64<<10 {
			c.t.Errorf("steps %+v", steps)
		}
		c.arrived("@b")
	},
	"resumed": func(c *cell) {
		c.capture("@a", 7<<20)
		steps := c.done(func(s cairn.Sender) cairn.Sender { return &breaking{Sender: s, after: 6 << 20, times: 1} })
		if last := steps[len(steps)-1]; len(steps) != 2 || !last.Resumed || last.BytesMoved > 5<<20 {
			c.t.Errorf("steps %+v", steps)
		}
		c.arrived("@a")
	},
	"cancelled": func(c *cell) {
		c.capture("@a", 256<<10)
		ctx, cancel := context.WithCancel(c.t.Context())
		defer cancel()
		_, err := c.replicate(ctx, func(s cairn.Sender) cairn.Sender {
			return &breaking{Sender: s, after: 100 << 10, times: 1, then: func() error { cancel(); <-ctx.Done(); return ctx.Err() }}
		})
		if !errors.Is(err, context.Canceled) {
			c.t.Errorf("ended with %v", err)
		}
		if v := find(c.t, c.to.endpoint, "@a"); v.GUID != 0 {
			c.t.Error("a version of a cancelled stream is visible")
		}
		c.done(nil)
		c.arrived("@a")
	},
}

var wayNames = []string{"full", "incremental", "bookmark", "renamed", "resumed", "cancelled"}

// breaking is a sender whose first streams end with an error after some bytes.
type breaking struct {
	cairn.Sender
	after int64
	times int
	then  func() error
}

func (b *breaking) Send(ctx context.Context, step cairn.Step, accept []cairn.Format) (*cairn.Stream, error) {
	s, err := b.Sender.Send(ctx, step, accept)
	if err == nil && b.times > 0 {
		b.times--
		s.Body = &broken{s.Body, b.after, b.then}
	}
	return s, err
}

type broken struct {
	io.ReadCloser
	left int64
	then func() error
}

func (b *broken) Read(p []byte) (int, error) {
	if b.left <= 0 {
		if b.then != nil {
			return 0, b.then()
		}
		return 0, &cairn.Error{Op: "read stream", Kind: cairn.KindUnavailable, Err: errors.New("the line was cut")}
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

// impossible says why a dataset cannot go from one kind of place to another.
func impossible(sender, receiver string) string {
	if sender == "filesystem" && receiver == "volumes" {
		return "filesystem"
	}
	return ""
}

// refused wants the reason, and nothing at the receiver.
func (c *cell) refused(reason string) {
	c.capture("@a", 64<<10)
	_, err := c.replicate(c.t.Context(), nil)
	if !errors.Is(err, cairn.KindUnsupported) || !strings.Contains(err.Error(), reason) || cairn.HintOf(err) == "" {
		c.t.Errorf("refused with: %v", err)
	}
	for l, err := range c.to.endpoint.Lister.List(c.t.Context(), cairn.Query{Filter: cairn.All}) {
		if err != nil || !l.Dataset.Placeholder {
			c.t.Errorf("left behind: %+v, %v", l, err)
		}
	}
}

// TestMatrix runs the cells: here every way of every pair; over each transport, pushed
// and pulled, one way of one pair in turn, or with CAIRN_SCALE=full all of them.
func TestMatrix(t *testing.T) {
	var pairs [][2]string
	for _, from := range []string{"zvol", "volume", "filesystem"} {
		for _, to := range []string{"volumes", "zfs"} {
			pairs = append(pairs, [2]string{from, to})
		}
	}
	for _, p := range pairs {
		for _, way := range wayNames {
			run(t, p[0], p[1], "here", "", way)
			if impossible(p[0], p[1]) != "" {
				break // it is refused before any way begins
			}
		}
	}
	n := 0
	for _, transport := range transports {
		for _, direction := range []string{"push", "pull"} {
			for i, p := range pairs {
				for j, way := range wayNames {
					if os.Getenv("CAIRN_SCALE") == "full" || i == n%len(pairs) && j == n%len(wayNames) {
						run(t, p[0], p[1], direction, transport, way)
					}
				}
			}
			n++
		}
	}
}

func run(t *testing.T, from, to, direction, transport, way string) {
	t.Run(strings.Join([]string{from, to, direction + transport, way}, "-"), func(t *testing.T) {
		c := &cell{t: t, from: sender(t, from), to: receiver(t, to), rnd: rand.New(rand.NewPCG(1, 2))}
		c.sends, c.receives = c.from.endpoint, c.to.endpoint
		switch direction {
		case "push":
			c.receives = remote(t, transport, c.to.endpoint)
		case "pull":
			c.sends = remote(t, transport, c.from.endpoint)
		}
		if reason := impossible(from, to); reason != "" {
			c.refused(reason)
			return
		}
		ways[way](c)
	})
}

package restore_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"cairn"
	"cairn/internal/testkit/memory"
	"cairn/internal/work/restore"
)

const volume = 128 << 10

// bench is a place with "db" and its versions, and another place.
type bench struct {
	*testing.T
	src, dst *memory.Place
	rnd      *rand.Rand
}

func newBench(t *testing.T, versions ...string) *bench {
	t.Helper()
	b := &bench{T: t, src: memory.New("vault"), dst: memory.New("here"), rnd: rand.New(rand.NewPCG(3, 4))}
	b.create(b.src, "db", versions...)
	return b
}

func (b *bench) create(p *memory.Place, dataset string, versions ...string) {
	b.Helper()
	if err := p.Create(dataset, volume); err != nil && !errors.Is(err, cairn.KindExists) {
		b.Fatal(err)
	}
	for _, v := range versions {
		data := make([]byte, 20_000)
		for i := range data {
			data[i] = byte(b.rnd.Uint32())
		}
		if err := p.Write(dataset, int64(b.rnd.IntN(volume-len(data))), data); err != nil {
			b.Fatal(err)
		}
		if got, err := p.Endpoint().Snapshots.Snapshot(b.Context(), v, []string{dataset}, false); err != nil || got[0].Err != nil {
			b.Fatal(err, got)
		}
	}
}

// names renders the versions of a dataset.
func (b *bench) names(p *memory.Place, dataset string) string {
	b.Helper()
	var out []string
	for l, err := range p.Endpoint().Lister.List(b.Context(), cairn.Query{Filter: cairn.All, Names: []string{dataset}, Want: cairn.Want{Versions: true}}) {
		if err != nil {
			b.Fatal(err)
		}
		for _, v := range l.Versions {
			out = append(out, v.Name)
		}
	}
	return strings.Join(out, " ")
}

// same wants the head of a dataset to read as a version of db, and to be writable.
func (b *bench) same(p *memory.Place, dataset, version string) {
	b.Helper()
	want, err := b.src.Content("db", version)
	if err != nil {
		b.Fatal(err)
	}
	got, err := p.Content(dataset, "")
	if err != nil || !bytes.Equal(got, want) {
		b.Errorf("%s is not db%s (%v)", dataset, version, err)
	}
	if err := p.Write(dataset, 0, []byte("x")); err != nil {
		b.Errorf("the restored head takes no writes: %v", err)
	}
}

func (b *bench) options(version string) restore.VolumeOptions {
	return restore.VolumeOptions{Source: b.src.Endpoint(), Dataset: "db", Version: version, Target: b.dst.Endpoint(),
		Confirm: func(context.Context, string) error { return nil }}
}

// copyOf lets dst hold db up to a version.
func (b *bench) copyOf(version string) {
	b.Helper()
	if r, err := restore.ToVolume(b.Context(), b.options(version)); err != nil || r.Method != restore.New {
		b.Fatal(r, err)
	}
}

func TestToNewVolume(t *testing.T) {
	b := newBench(t, "@a", "@b", "@c")
	o := b.options("@b")
	o.As, o.Confirm = "db-old", nil
	r, err := restore.ToVolume(t.Context(), o)
	if err != nil || r.Method != restore.New || !r.Verified || r.BytesMoved == 0 || r.Size != volume || r.Ended.IsZero() {
		t.Fatalf("%+v, %v", r, err)
	}
	b.same(b.dst, "db-old", "@b")
	if got := b.names(b.dst, "db-old"); got != "@b" {
		t.Error(got)
	}
	if got := b.names(b.dst, "db"); got != "" {
		t.Errorf("db was touched: %s", got)
	}
}

// In place, at the place that holds the version.
func TestRollback(t *testing.T) {
	b := newBench(t, "@a", "@b", "@c")
	o := b.options("@a")
	o.Target = o.Source
	var asked string
	o.Confirm = func(_ context.Context, question string) error { asked = question; return nil }
	r, err := restore.ToVolume(t.Context(), o)
	if err != nil || r.Method != restore.Rollback {
		t.Fatalf("%+v, %v", r, err)
	}
	if want := "This will return db to @a, which it holds, lose what was written to db since, destroy 2 newer versions of it: @b @c."; asked != want {
		t.Errorf("asked %q", asked)
	}
	b.same(b.src, "db", "@a")
	if got := b.names(b.src, "db"); got != "@a" {
		t.Error(got)
	}
}

// What a job remembers of newer versions does not hold a restore up; what a person
// pinned does.
func TestRollbackOverReplicatedVersions(t *testing.T) {
	b := newBench(t, "@a", "@b", "@c")
	ep := b.src.Endpoint()
	lease := func(p cairn.Purpose, names ...string) {
		t.Helper()
		set := cairn.LeaseSet{Dataset: "db", Owner: "nightly", Purpose: p}
		for l, err := range ep.Lister.List(t.Context(), cairn.Query{Filter: cairn.All, Names: []string{"db"}, Want: cairn.Want{Versions: true}}) {
			if err != nil {
				t.Fatal(err)
			}
			for _, v := range l.Versions {
				if slices.Contains(names, v.Name) {
					set.Versions = append(set.Versions, v.VersionID)
				}
			}
		}
		if err := ep.Leases.SetLease(t.Context(), set); err != nil {
			t.Fatal(err)
		}
	}
	leases := func() (n int) {
		for l := range ep.Lister.List(t.Context(), cairn.Query{Filter: cairn.All, Names: []string{"db"}, Want: cairn.Want{Versions: true, Leases: true}}) {
			for _, v := range l.Versions {
				n += len(v.Leases)
			}
		}
		return n
	}
	o := b.options("@a")
	o.Target = o.Source
	lease(cairn.PurposeStep, "@a", "@c")
	lease(cairn.PurposeCursor, "@b")
	lease(cairn.PurposePin, "@c")
	if _, err := restore.ToVolume(t.Context(), o); !errors.Is(err, cairn.KindBusy) {
		t.Fatalf("over a pinned version: %v", err)
	}
	lease(cairn.PurposePin)
	if n := leases(); n != 3 {
		t.Errorf("%d leases are left of a restore that was refused, want 3", n)
	}
	if _, err := restore.ToVolume(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if got := b.names(b.src, "db"); got != "@a" {
		t.Error(got)
	}
	if n := leases(); n != 1 {
		t.Errorf("%d leases are left, want nightly's step on @a", n)
	}
}

func TestIncremental(t *testing.T) {
	b := newBench(t, "@a", "@b", "@c")
	b.copyOf("@a")
	b.create(b.dst, "db", "@mine") // the head went on here
	r, err := restore.ToVolume(t.Context(), b.options("@c"))
	if err != nil || r.Method != restore.Incremental || r.BytesMoved > 60<<10 || len(r.Plan) != 4 {
		t.Fatalf("%+v, %v", r, err)
	}
	b.same(b.dst, "db", "@c")
	if got := b.names(b.dst, "db"); got != "@a @b @c" {
		t.Error(got)
	}
}

func TestAside(t *testing.T) {
	b := newBench(t, "@a")
	b.create(b.dst, "db", "@other")
	old, err := b.dst.Content("db", "@other")
	if err != nil {
		t.Fatal(err)
	}
	r, err := restore.ToVolume(t.Context(), b.options("@a"))
	if err != nil || r.Method != restore.Aside || !strings.HasPrefix(r.MovedTo, "db.before-restore-") {
		t.Fatalf("%+v, %v", r, err)
	}
	b.same(b.dst, "db", "@a")
	if now, err := b.dst.Content(r.MovedTo, "@other"); err != nil || !bytes.Equal(now, old) {
		t.Errorf("what was there before is lost: %v", err)
	}
}

// A replica stays one.
func TestReplicaStaysSealed(t *testing.T) {
	b := newBench(t, "@a", "@b")
	b.copyOf("@a")
	if err := b.dst.Endpoint().Seals.Seal(t.Context(), "db", true); err != nil {
		t.Fatal(err)
	}
	if _, err := restore.ToVolume(t.Context(), b.options("@b")); err != nil {
		t.Fatal(err)
	}
	if err := b.dst.Write("db", 0, []byte("x")); !errors.Is(err, cairn.KindPermission) {
		t.Errorf("the replica takes writes: %v", err)
	}
}

// A dry run and a refusal say what would be done, and change nothing.
func TestNothingIsTouchedWithoutConsent(t *testing.T) {
	b := newBench(t, "@a", "@b")
	b.copyOf("@b")
	no := errors.New("no")
	for name, change := range map[string]func(o *restore.VolumeOptions){
		"dry run":        func(o *restore.VolumeOptions) { o.DryRun = true },
		"nobody to ask":  func(o *restore.VolumeOptions) { o.Confirm = nil },
		"answer no":      func(o *restore.VolumeOptions) { o.Confirm = func(context.Context, string) error { return no } },
		"cannot do this": func(o *restore.VolumeOptions) { o.Target.Rollbacks = nil },
	} {
		o := b.options("@b")
		o.Target = b.dst.Endpoint()
		change(&o)
		b.dst.Hook(memory.On("rollback", memory.Begin, memory.Fail(0, errors.New("touched"))))
		r, err := restore.ToVolume(t.Context(), o)
		b.dst.Unhook()
		if r.Method != restore.Rollback || len(r.Plan) == 0 || r.DryRun != (name == "dry run") {
			t.Errorf("%s: %+v", name, r)
		}
		switch name {
		case "dry run":
			if err != nil {
				t.Error(name, err)
			}
		case "nobody to ask":
			if !errors.Is(err, cairn.KindExists) || cairn.HintOf(err) == "" {
				t.Error(name, err)
			}
		case "answer no":
			if !errors.Is(err, no) {
				t.Error(name, err)
			}
		default:
			if !errors.Is(err, cairn.KindUnsupported) {
				t.Error(name, err)
			}
		}
	}
}

// A restore that was cut goes on where it was, without asking again.
func TestCutRestoreGoesOn(t *testing.T) {
	for _, method := range []restore.Method{restore.New, restore.Incremental} {
		t.Run(string(method), func(t *testing.T) {
			b := newBench(t, "@a")
			if method == restore.Incremental {
				b.copyOf("@a")
			}
			big := make([]byte, volume)
			for i := range big {
				big[i] = byte(b.rnd.Uint32())
			}
			if err := b.src.Write("db", 0, big); err != nil {
				t.Fatal(err)
			}
			b.create(b.src, "db", "@b")
			b.dst.Hook(memory.On("receive", memory.Body, func(_ context.Context, c memory.Call) error {
				if c.Bytes > 80<<10 {
					return cairn.KindSpace
				}
				return nil
			}))
			if _, err := restore.ToVolume(t.Context(), b.options("@b")); !errors.Is(err, cairn.KindSpace) {
				t.Fatal(err)
			}
			b.dst.Unhook()
			o := b.options("@b")
			o.Confirm = nil
			r, err := restore.ToVolume(t.Context(), o)
			if err != nil || r.Method != method || r.BytesMoved > 90<<10 || !strings.HasPrefix(r.Plan[0], "go on sending") {
				t.Fatalf("%+v, %v", r, err)
			}
			b.same(b.dst, "db", "@b")
		})
	}
}

// What was cut and cannot go on is given up with the rollback.
func TestCutRestoreThatCannotGoOn(t *testing.T) {
	b := newBench(t, "@a")
	b.copyOf("@a")
	b.create(b.src, "db", "@b", "@c", "@d")
	big := make([]byte, volume)
	for i := range big {
		big[i] = byte(b.rnd.Uint32())
	}
	if err := b.src.Write("db", 0, big); err != nil {
		t.Fatal(err)
	}
	b.create(b.src, "db", "@e")
	b.dst.Hook(memory.On("receive", memory.Body, func(_ context.Context, c memory.Call) error {
		if c.Bytes > 80<<10 {
			return cairn.KindSpace
		}
		return nil
	}))
	if _, err := restore.ToVolume(t.Context(), b.options("@e")); !errors.Is(err, cairn.KindSpace) {
		t.Fatal(err)
	}
	b.dst.Unhook()
	if err := b.dst.Endpoint().Seals.Seal(t.Context(), "db", false); err != nil {
		t.Fatal(err)
	}
	b.create(b.dst, "db", "@mine")
	r, err := restore.ToVolume(t.Context(), b.options("@e"))
	if err != nil || r.Method != restore.Incremental || !strings.HasPrefix(r.Plan[0], "return db to @d") {
		t.Fatalf("%+v, %v", r, err)
	}
	b.same(b.dst, "db", "@e")
}

func TestWhatCannotBeRestored(t *testing.T) {
	b := newBench(t, "@a", "@b")
	l := b.src.Endpoint()
	for got, err := range l.Lister.List(t.Context(), cairn.Query{Filter: cairn.All, Want: cairn.Want{Versions: true}}) {
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Bookmarks.Bookmark(t.Context(), "db", got.Versions[0].VersionID, "#m", false); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		dataset, version string
		kind             cairn.Kind
	}{{"gone", "@a", cairn.KindNotFound}, {"db", "@gone", cairn.KindNotFound}, {"db", "#m", cairn.KindInvalid}} {
		o := b.options(c.version)
		o.Dataset, o.As = c.dataset, "x"
		r, err := restore.ToVolume(t.Context(), o)
		if !errors.Is(err, c.kind) || cairn.HintOf(err) == "" || r == nil {
			t.Errorf("%s%s: %v", c.dataset, c.version, err)
		}
		if _, err := restore.ToFile(t.Context(), restore.FileOptions{Source: b.src.Endpoint(), Dataset: c.dataset, Version: c.version, Path: t.TempDir() + "/f"}); !errors.Is(err, c.kind) {
			t.Errorf("%s%s to a file: %v", c.dataset, c.version, err)
		}
	}
	o := b.options("@a")
	o.As = "../etc"
	if _, err := restore.ToVolume(t.Context(), o); !errors.Is(err, cairn.KindInvalid) {
		t.Error(err)
	}
}

package replicate_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"cairn"
	"cairn/internal/mech/retry"
	"cairn/internal/policy/plan"
	"cairn/internal/testkit/memory"
	"cairn/internal/work/replicate"
)

func TestLeasesOfAStep(t *testing.T) {
	for _, c := range []struct {
		protect replicate.Protection
		during  []string // at the sender while each step moves data
		after   string
	}{
		{replicate.Protection{}, []string{
			"@a:nightly/plan @a:nightly/step @b:nightly/plan",
			"@a:nightly/plan @a:nightly/step @a:nightly/cursor @b:nightly/plan @b:nightly/step",
		}, "@b:nightly/cursor"},
		{replicate.Protection{Initial: replicate.Incremental, Incremental: replicate.Incremental}, []string{
			"@a:nightly/plan @a:nightly/tentative @b:nightly/plan",
			"@a:nightly/plan @a:nightly/cursor @b:nightly/plan @b:nightly/tentative",
		}, "@b:nightly/cursor"},
		{replicate.Protection{Initial: replicate.Nothing, Incremental: replicate.Nothing}, []string{
			"@a:nightly/plan @b:nightly/plan",
			"@a:nightly/plan @b:nightly/plan",
		}, ""},
	} {
		bubble(t, func(b *bench) {
			b.grow("db", "@a", "@b")
			b.o.Protect = c.protect
			var during []string
			b.dst.Hook(memory.On("receive", memory.Begin, func(context.Context, memory.Call) error {
				during = append(during, b.leases(b.src, "db"))
				return nil
			}))
			b.run()
			if fmt.Sprint(during) != fmt.Sprint(c.during) {
				b.Errorf("%v during:\n%q, want\n%q", c.protect, during, c.during)
			}
			if got := b.leases(b.src, "db"); got != c.after {
				b.Errorf("%v after: %q, want %q", c.protect, got, c.after)
			}
			if got := b.leases(b.dst, "db"); got != "@b:nightly/received" {
				b.Errorf("at the receiver: %q", got)
			}
		})
	}
}

// What a run that died could not book, the next one does.
func TestNextRunBooksWhatWasLost(t *testing.T) {
	bubble(t, func(b *bench) {
		b.grow("db", "@a")
		b.o.Retry = retry.Policy{Attempts: 1}
		n := 0
		b.src.Hook(memory.On("lease", memory.Begin, func(context.Context, memory.Call) error {
			if n++; n >= 3 { // plan and step leases pass
				return cairn.KindUnavailable
			}
			return nil
		}))
		r, err := replicate.Run(b.Context(), b.o)
		if !errors.Is(err, cairn.KindUnavailable) || states(r) != "db=failed" {
			b.Error(err, states(r))
		}
		if got := b.leases(b.src, "db"); got != "@a:nightly/plan @a:nightly/step" {
			b.Errorf("left: %s", got)
		}
		b.src.Unhook()
		r = b.run()
		if got := b.leases(b.src, "db"); got != "@a:nightly/cursor" || states(r) != "db=done" {
			b.Errorf("booked: %s, %s", got, states(r))
		}
		if got := steps(r.Datasets[0]); got != "" {
			b.Errorf("sent again: %s", got)
		}
		if r = b.run(); states(r) != "db=up to date" {
			b.Error(states(r))
		}
	})
}

// A run that died between the new cursor and the end of the old one leaves both: the
// next run keeps the one that its base has.
func TestNextRunEndsOldCursor(t *testing.T) {
	bubble(t, func(b *bench) {
		b.grow("db", "@a", "@b")
		b.run()
		set := cairn.LeaseSet{Dataset: "db", Owner: b.o.Owner, Purpose: cairn.PurposeCursor}
		for l, err := range b.o.Sender.Lister.List(b.Context(), cairn.Query{Filter: cairn.All, Want: cairn.Want{Versions: true}}) {
			if err != nil {
				b.Fatal(err)
			}
			for _, v := range l.Versions {
				set.Versions = append(set.Versions, v.VersionID)
			}
		}
		if err := b.o.Sender.Leases.SetLease(b.Context(), set); err != nil {
			b.Fatal(err)
		}
		b.run()
		if got := b.leases(b.src, "db"); got != "@b:nightly/cursor" {
			b.Errorf("left: %s", got)
		}
		if r := b.run(); states(r) != "db=up to date" {
			b.Error(states(r))
		}
	})
}

// A remote sender books under the name of its own job: that is no reason to book
// again in every run.
func TestRemoteSenderBooksUnderItsOwnName(t *testing.T) {
	bubble(t, func(b *bench) {
		b.o.Sender.Info.Identity = "vault"
		b.o.Sender.Leases = ownedLeases{b.o.Sender.Leases}
		b.grow("db", "@a")
		b.run()
		if got := b.leases(b.src, "db"); got != "@a:source/cursor" {
			b.Error(got)
		}
		if r := b.run(); states(r) != "db=up to date" {
			b.Error(states(r))
		}
	})
}

type ownedLeases struct{ cairn.Leaser }

func (o ownedLeases) SetLease(ctx context.Context, set cairn.LeaseSet) error {
	set.Owner = "source"
	return o.Leaser.SetLease(ctx, set)
}

// A place that cannot lease is replicated from all the same.
func TestSenderWithoutLeases(t *testing.T) {
	bubble(t, func(b *bench) {
		b.grow("db", "@a")
		b.o.Sender.Leases, b.o.Receiver.Leases = nil, nil
		b.run()
		b.equal("db")
		b.grow("db", "@b")
		b.o.Sender.Leases = unsupported{}
		b.run()
		b.equal("db")
	})
}

type unsupported struct{}

func (unsupported) SetLease(context.Context, cairn.LeaseSet) error { return cairn.KindUnsupported }

// Room at the sender runs out in the middle of a step: the step ends with kind
// space, the snapshot becomes a bookmark, and the next run continues.
func TestSpaceEndsTheStepAndTheNextRunContinuesFromTheBookmark(t *testing.T) {
	bubble(t, func(b *bench) {
		b.grow("db", "@a", "@b")
		b.run()
		b.grow("db", "@c")
		b.src.Hook(memory.On("send", memory.Body, func(_ context.Context, c memory.Call) error {
			if c.Bytes > 0 {
				return cairn.KindSpace
			}
			return nil
		}))
		r, err := replicate.Run(b.Context(), b.o)
		if !errors.Is(err, cairn.KindSpace) || len(r.Datasets[0].Attempts) != 1 {
			b.Fatalf("%v, %s", err, steps(r.Datasets[0]))
		}
		b.src.Unhook()
		ep := b.src.Endpoint()
		for _, set := range []cairn.Purpose{cairn.PurposeStep, cairn.PurposeCursor} { // space beats a lease
			if err := ep.Leases.SetLease(b.Context(), cairn.LeaseSet{Dataset: "db", Owner: "nightly", Purpose: set}); err != nil {
				b.Fatal(err)
			}
		}
		for _, v := range b.list(b.src, "db").Versions {
			if v.Name == "@b" || v.Name == "@c" {
				if _, err := ep.Bookmarks.Bookmark(b.Context(), "db", v.VersionID, "#"+v.Name[1:], true); err != nil {
					b.Fatal(err)
				}
			}
		}
		b.grow("db", "@d")
		r = b.run()
		b.equal("db", "@d")
		if got := steps(r.Datasets[0]); got != "#b>@d" {
			b.Error(got)
		}
	})
}

// What the receiver's rules would destroy in the same run is not sent.
func TestReceiverRulesLeaveOut(t *testing.T) {
	for _, where := range []string{"job", "place"} {
		bubble(t, func(b *bench) {
			b.grow("db", "@z1", "@m", "@z2", "@z3", "@z4")
			rules := []cairn.KeepRule{{Type: "last_n", Count: 2, Regex: "^z"}, {Type: "regex", Regex: "^m"}}
			if where == "job" {
				b.o.ReceiverKeep = rules
			} else {
				b.o.Receiver.Info.Keep = rules
			}
			r := b.run()
			if got := steps(r.Datasets[0]); got != ">@m @m>@z3 @z3>@z4" || r.Datasets[0].LeftOut != 2 {
				b.Errorf("%s: %s, %d left out", where, got, r.Datasets[0].LeftOut)
			}
			b.equal("db", "@m", "@z3", "@z4")
		})
	}
	bubble(t, func(b *bench) { // positions at two places do not compare
		b.grow("db", "@a", "@b", "@c", "@d", "@e", "@f")
		var old []cairn.VersionID
		for _, v := range b.list(b.src, "db").Versions[:3] {
			old = append(old, v.VersionID)
		}
		if _, err := b.src.Endpoint().Destroys.Destroy(b.Context(), "db", old); err != nil {
			b.Fatal(err)
		}
		b.o.ReceiverKeep = []cairn.KeepRule{{Type: "not_replicated"}, {Type: "last_n", Count: 2}}
		if r := b.run(); steps(r.Datasets[0]) != ">@e @e>@f" {
			b.Error(steps(r.Datasets[0]))
		}
	})
	bubble(t, func(b *bench) {
		b.o.ReceiverKeep = []cairn.KeepRule{{Type: "last_n"}}
		if _, err := replicate.Run(b.Context(), b.o); !errors.Is(err, cairn.KindConfig) {
			b.Error(err)
		}
	})
}

// Versions that go away between listing and sending are planned around.
func TestVersionGoneMeanwhile(t *testing.T) {
	bubble(t, func(b *bench) {
		b.grow("db", "@a", "@b", "@c")
		gone := []cairn.VersionID{b.list(b.src, "db").Versions[0].VersionID}
		first := true
		b.src.Hook(memory.On("lease", memory.Begin, func(ctx context.Context, _ memory.Call) error {
			if first {
				first = false
				if errs, err := b.src.Endpoint().Destroys.Destroy(ctx, "db", gone); err != nil || errs[0] != nil {
					b.Error(err, errs)
				}
			}
			return nil
		}))
		r := b.run()
		b.equal("db")
		if got := steps(r.Datasets[0]); got != ">@a | >@b @b>@c" {
			b.Error(got)
		}
	})
}

// Not to know sizes is no error.
func TestEstimatesMayFail(t *testing.T) {
	bubble(t, func(b *bench) {
		b.grow("db", "@a")
		b.src.Hook(memory.On("estimate", memory.Begin, memory.Fail(0, cairn.KindIO)))
		r := b.run()
		if s := r.Datasets[0].Attempts[0].Steps[0]; s.BytesExpected != -1 || s.State != replicate.Done {
			b.Errorf("%+v", s)
		}
	})
}

// A receive that can not go on is given up, and the versions arrive all the same.
func TestCutReceiveThatCannotGoOn(t *testing.T) {
	bubble(t, func(b *bench) {
		b.grow("db", "@a")
		b.run()
		b.grow("db", "@b")
		b.dst.Hook(memory.On("receive", memory.Body, func(_ context.Context, c memory.Call) error {
			if c.Bytes > 40<<10 {
				return cairn.KindSpace
			}
			return nil
		}))
		if _, err := replicate.Run(b.Context(), b.o); !errors.Is(err, cairn.KindSpace) {
			b.Fatal(err)
		}
		b.dst.Unhook()
		if b.list(b.dst, "db").Partial == nil {
			b.Fatal("nothing was kept of the cut receive")
		}
		ep := b.src.Endpoint()
		if err := ep.Leases.SetLease(b.Context(), cairn.LeaseSet{Dataset: "db", Owner: "nightly", Purpose: cairn.PurposeStep}); err != nil {
			b.Fatal(err)
		}
		for _, v := range b.list(b.src, "db").Versions {
			if v.Name == "@b" {
				if errs, err := ep.Destroys.Destroy(b.Context(), "db", []cairn.VersionID{v.VersionID}); err != nil || errs[0] != nil {
					b.Fatal(err, errs)
				}
			}
		}
		b.grow("db", "@c")
		r := b.run()
		b.equal("db")
		if got := steps(r.Datasets[0]); got != "@a>@c" || b.list(b.dst, "db").Partial != nil {
			b.Error(got)
		}
	})
}

func TestConflictIsTypedAndNotRetried(t *testing.T) {
	bubble(t, func(b *bench) {
		b.grow("db", "@a")
		b.run()
		if err := b.dst.Endpoint().Seals.Seal(b.Context(), "db", false); err != nil {
			b.Fatal(err)
		}
		if _, err := b.dst.Endpoint().Snapshots.Snapshot(b.Context(), "@x", []string{"db"}, false); err != nil {
			b.Fatal(err)
		}
		b.grow("db", "@b")
		began := time.Now()
		r, err := replicate.Run(b.Context(), b.o)
		var c *plan.Conflict
		if !errors.As(err, &c) || c.Kind != plan.Diverged || states(r) != "db=failed" || time.Since(began) > 0 {
			b.Errorf("%v, %s", err, states(r))
		}
		if text := r.Datasets[0].Error; !strings.Contains(text, "only at the sender: @b; only at the receiver: @x") {
			b.Error(text)
		}
	})
}

// A conflict that comes up between two attempts ends them.
func TestConflictMeanwhile(t *testing.T) {
	bubble(t, func(b *bench) {
		b.grow("db", "@a")
		b.run()
		b.grow("db", "@b")
		b.dst.Hook(memory.On("receive", memory.Begin, func(ctx context.Context, _ memory.Call) error {
			if err := b.dst.Endpoint().Seals.Seal(ctx, "db", false); err != nil {
				b.Error(err)
			}
			if _, err := b.dst.Endpoint().Snapshots.Snapshot(ctx, "@x", []string{"db"}, false); err != nil {
				b.Error(err)
			}
			return cairn.KindUnavailable
		}))
		r, err := replicate.Run(b.Context(), b.o)
		var c *plan.Conflict
		if !errors.As(err, &c) || len(r.Datasets[0].Attempts) != 2 {
			b.Errorf("%v after %d attempts", err, len(r.Datasets[0].Attempts))
		}
	})
}

// When the sender breaks the stream, its error is the cause.
func TestSendersErrorIsTheCause(t *testing.T) {
	bubble(t, func(b *bench) {
		b.grow("db", "@a")
		b.src.Hook(memory.On("send", memory.Body, memory.Fail(0, cairn.KindDamaged)))
		_, err := replicate.Run(b.Context(), b.o)
		var e *cairn.Error
		if !errors.As(err, &e) || e.Kind != cairn.KindDamaged || e.Place != "here" {
			b.Error(err)
		}
	})
}

// A sender that answers with another version is not believed.
func TestStreamOfAnotherVersion(t *testing.T) {
	bubble(t, func(b *bench) {
		b.grow("db", "@a", "@b")
		b.o.Sender.Sender = wrongVersion{b.o.Sender.Sender}
		_, err := replicate.Run(b.Context(), b.o)
		if !errors.Is(err, cairn.KindCorrupt) || !strings.Contains(err.Error(), "instead of") {
			b.Error(err)
		}
		if l := b.list(b.dst, "db"); len(l.Versions) != 0 {
			b.Errorf("%+v", l.Versions)
		}
	})
}

type wrongVersion struct{ cairn.Sender }

func (w wrongVersion) Send(ctx context.Context, step cairn.Step, accept []cairn.Format) (*cairn.Stream, error) {
	s, err := w.Sender.Send(ctx, step, accept)
	if err == nil {
		s.Header.To.GUID++
	}
	return s, err
}

func TestNamesThatAreNotThere(t *testing.T) {
	bubble(t, func(b *bench) {
		b.grow("a", "@1")
		b.grow("b", "@1")
		b.o.Names = []string{"a", "nothing"}
		r, err := replicate.Run(b.Context(), b.o)
		if !errors.Is(err, cairn.KindNotFound) || states(r) != "a=done nothing=failed" {
			b.Error(err, states(r))
		}
	})
}

// A run can be watched while it is under way, and what is told of a step is true.
func TestLive(t *testing.T) {
	bubble(t, func(b *bench) {
		b.grow("a", "@1")
		b.grow("b", "@1")
		live := &replicate.Live{}
		b.o.Live = live
		var planning, moving replicate.Report
		b.src.Hook(memory.On("list", memory.Begin, func(context.Context, memory.Call) error {
			planning = live.Snapshot()
			return nil
		}))
		b.dst.Hook(memory.On("receive", memory.Commit, func(_ context.Context, c memory.Call) error {
			if c.Dataset == "a" {
				moving = live.Snapshot()
			}
			return nil
		}))
		final := b.run()
		if !strings.Contains(planning.Planning, "phase plan") || len(planning.Datasets) != 0 {
			b.Errorf("while planning: %+v", planning)
		}
		a, other := moving.Datasets[0], moving.Datasets[1]
		if s := a.Attempts[0].Steps[0]; a.State != replicate.Running || s.Phase != "commit" || s.BytesMoved == 0 || s.State != replicate.Running {
			b.Errorf("while moving: %+v", a)
		}
		if other.State != replicate.Waiting || other.BlockedOn != replicate.OnSlot {
			b.Errorf("while waiting: %+v", other)
		}
		if moving.Planning != "" || final.Planning != "" || final.Ended.IsZero() {
			b.Errorf("final: %+v", final)
		}
	})
}

func TestLacks(t *testing.T) {
	bubble(t, func(b *bench) {
		for _, take := range []func(o *replicate.Options){
			func(o *replicate.Options) { o.Sender.Lister = nil }, func(o *replicate.Options) { o.Sender.Sender = nil },
			func(o *replicate.Options) { o.Receiver.Lister = nil }, func(o *replicate.Options) { o.Receiver.Receiver = nil },
		} {
			o := b.o
			o.Sender, o.Receiver = b.src.Endpoint(), b.dst.Endpoint()
			take(&o)
			if r, err := replicate.Run(b.Context(), o); !errors.Is(err, cairn.KindUnsupported) || r == nil {
				b.Error(err)
			}
		}
	})
}

func TestParseGuarantee(t *testing.T) {
	for _, g := range []replicate.Guarantee{replicate.Resumability, replicate.Incremental, replicate.Nothing} {
		if got, err := replicate.ParseGuarantee(g.String()); err != nil || got != g {
			t.Error(got, err)
		}
	}
	if g, err := replicate.ParseGuarantee(""); err != nil || g != replicate.Resumability {
		t.Error(g, err)
	}
	if _, err := replicate.ParseGuarantee("all"); !errors.Is(err, cairn.KindConfig) {
		t.Error(err)
	}
}

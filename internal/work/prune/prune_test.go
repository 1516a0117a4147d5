package prune_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cairn"
	"cairn/internal/mech/watchdog"
	"cairn/internal/testkit/memory"
	"cairn/internal/work/prune"
)

// bench is a sender and a receiver with driven time.
type bench struct {
	*testing.T
	src, dst *memory.Place
}

func bubble(t *testing.T, fn func(b *bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { fn(&bench{t, memory.New("here"), memory.New("vault")}) })
}

// grow makes versions, an hour apart.
func (b *bench) grow(p *memory.Place, dataset string, names ...string) {
	b.Helper()
	if err := p.Create(dataset, 16384); err != nil && !errors.Is(err, cairn.KindExists) {
		b.Fatal(err)
	}
	for _, name := range names {
		time.Sleep(time.Hour)
		if err := p.Write(dataset, 0, []byte(name)); err != nil {
			b.Fatal(err)
		}
		if got, err := p.Endpoint().Snapshots.Snapshot(b.Context(), name, []string{dataset}, false); err != nil || got[0].Err != nil {
			b.Fatal(err, got)
		}
	}
}

func (b *bench) list(p *memory.Place, dataset string) *cairn.Listing {
	b.Helper()
	for l, err := range p.Endpoint().Lister.List(b.Context(), cairn.Query{Filter: cairn.All, Names: []string{dataset}, Want: cairn.Want{Versions: true, Leases: true}}) {
		if err != nil {
			b.Fatal(err)
		}
		return l
	}
	return &cairn.Listing{}
}

func (b *bench) names(p *memory.Place, dataset string) string {
	var out []string
	for _, v := range b.list(p, dataset).Versions {
		out = append(out, v.Name)
	}
	return strings.Join(out, " ")
}

func (b *bench) id(p *memory.Place, dataset, name string) cairn.VersionID {
	b.Helper()
	for _, v := range b.list(p, dataset).Versions {
		if v.Name == name {
			return v.VersionID
		}
	}
	b.Fatalf("no %s%s", dataset, name)
	return cairn.VersionID{}
}

// replicate sends the named snapshots, each on the one before.
func (b *bench) replicate(dataset string, names ...string) {
	b.Helper()
	var from cairn.VersionID
	for _, v := range b.list(b.dst, dataset).Versions {
		from = v.VersionID
	}
	for _, name := range names {
		to := b.id(b.src, dataset, name)
		s, err := b.src.Endpoint().Sender.Send(b.Context(), cairn.Step{Dataset: dataset, From: from, To: to}, []cairn.Format{cairn.FormatBlocks})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := b.dst.Endpoint().Receiver.Receive(b.Context(), s, cairn.ReceiveOptions{}); err != nil {
			b.Fatal(err)
		}
		from = to
	}
}

func (b *bench) lease(p *memory.Place, owner string, purpose cairn.Purpose, dataset string, names ...string) {
	b.Helper()
	set := cairn.LeaseSet{Dataset: dataset, Owner: owner, Purpose: purpose}
	for _, n := range names {
		set.Versions = append(set.Versions, b.id(p, dataset, n))
	}
	if err := p.Endpoint().Leases.SetLease(b.Context(), set); err != nil {
		b.Fatal(err)
	}
}

func lastN(n int) []cairn.KeepRule { return []cairn.KeepRule{{Type: "last_n", Count: n}} }

func (b *bench) options(side prune.Side, rules []cairn.KeepRule) prune.Options {
	o := prune.Options{Side: side, Target: b.src.Endpoint(), Filter: cairn.All, Rules: rules, Owner: "nightly", Explain: true}
	switch side {
	case prune.Sender:
		o.Peer = b.dst.Endpoint()
	case prune.Receiver:
		o.Target, o.Peer = b.dst.Endpoint(), b.src.Endpoint()
	}
	return o
}

// verdicts renders a dataset's report: "@a=destroy @b=keep".
func verdicts(d prune.DatasetReport) string {
	var out []string
	for _, v := range d.Versions {
		out = append(out, v.Name+"="+string(v.Action))
	}
	return strings.Join(out, " ")
}

func reasons(d prune.DatasetReport, name string) string {
	for _, v := range d.Versions {
		if v.Name == name {
			return strings.Join(v.Reasons, "; ")
		}
	}
	return ""
}

// run previews, runs, and wants both to say the same.
func (b *bench) run(o prune.Options) *prune.Report {
	b.Helper()
	before, err := prune.Preview(b.Context(), o)
	if err != nil {
		b.Fatal(err)
	}
	r, err := prune.Run(b.Context(), o)
	if err != nil {
		b.Fatal(err)
	}
	for i, d := range r.Datasets {
		if p := before.Datasets[i]; d.Dataset != p.Dataset || verdicts(d) != verdicts(p) || d.Destroyed != p.Destroyed || d.Kept != p.Kept {
			b.Errorf("preview: %s %s\nrun:     %s %s", p.Dataset, verdicts(p), d.Dataset, verdicts(d))
		}
		for _, v := range d.Versions {
			if len(v.Reasons) == 0 || v.Done != (v.Action != prune.Keep) {
				b.Errorf("%+v", v)
			}
		}
	}
	return r
}

func TestLocal(t *testing.T) {
	bubble(t, func(b *bench) {
		b.grow(b.src, "db", "@a", "@b", "@c")
		b.grow(b.src, "vm", "@a")
		r := b.run(b.options(prune.Local, lastN(2)))
		if b.names(b.src, "db") != "@b @c" || b.names(b.src, "vm") != "@a" || r.Destroyed != 1 || r.Kept != 3 {
			b.Errorf("%s, %s, %+v", b.names(b.src, "db"), b.names(b.src, "vm"), r)
		}
		if got := reasons(r.Datasets[0], "@a"); got != "last_n: is not among the youngest 2" {
			b.Error(got)
		}
		if _, err := json.Marshal(r); err != nil {
			b.Error(err)
		}
	})
}

// What is leased is kept, whoever holds it, and the report says who.
func TestLeasedIsKept(t *testing.T) {
	for _, purpose := range []cairn.Purpose{cairn.PurposePlan, cairn.PurposeStep, cairn.PurposeTentative, cairn.PurposeReceived, cairn.PurposePin, cairn.PurposeForeign} {
		bubble(t, func(b *bench) {
			b.grow(b.src, "db", "@a", "@b", "@c")
			b.lease(b.src, "weekly", purpose, "db", "@a")
			r := b.run(b.options(prune.Local, lastN(1)))
			if got := b.names(b.src, "db"); got != "@a @c" {
				b.Error(got)
			}
			if got := reasons(r.Datasets[0], "@a"); !strings.HasPrefix(got, fmt.Sprintf("is leased by weekly (%s)", purpose)) {
				b.Error(got)
			}
		})
	}
}

// The sender's last common version: a bookmark takes its place, the incremental
// chain goes on, and the bookmark goes when a newer one has replaced it.
func TestLastCommonVersionAtTheSender(t *testing.T) {
	bubble(t, func(b *bench) {
		b.grow(b.src, "db", "@a", "@b", "@c")
		b.replicate("db", "@a", "@b")
		b.lease(b.src, "nightly", cairn.PurposeCursor, "db", "@b")
		guid := b.id(b.src, "db", "@b").GUID
		cursor := "#cairn_CURSOR_G_" + guid.String() + "_J_nightly"
		r := b.run(b.options(prune.Sender, lastN(1)))
		if got := b.names(b.src, "db"); got != cursor+" @c" {
			b.Fatal(got)
		}
		if got := reasons(r.Datasets[0], "@b"); !strings.HasPrefix(got, "is the last common version: a bookmark takes its place") {
			b.Error(got)
		}
		b.run(b.options(prune.Sender, lastN(1))) // it stays while it is needed
		s, err := b.src.Endpoint().Sender.Send(b.Context(), cairn.Step{Dataset: "db", From: b.id(b.src, "db", cursor), To: b.id(b.src, "db", "@c")}, []cairn.Format{cairn.FormatBlocks})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := b.dst.Endpoint().Receiver.Receive(b.Context(), s, cairn.ReceiveOptions{}); err != nil {
			b.Fatal(err)
		}
		b.lease(b.src, "nightly", cairn.PurposeCursor, "db", "@c")
		b.grow(b.src, "db", "@d")
		b.run(b.options(prune.Sender, lastN(2)))
		if got := b.names(b.src, "db"); got != "@c @d" {
			b.Error(got)
		}
	})
	bubble(t, func(b *bench) { // without a lease it stays, too
		b.grow(b.src, "db", "@a", "@b")
		b.replicate("db", "@a")
		for range 3 {
			b.run(b.options(prune.Sender, lastN(1)))
			if got := b.list(b.src, "db").Versions; len(got) != 2 || !got[0].IsBookmark() {
				b.Error(got)
			}
		}
	})
	bubble(t, func(b *bench) { // the receiver's bookmarks are no common version
		b.grow(b.src, "db", "@a", "@b", "@c", "@d")
		b.replicate("db", "@a", "@b", "@c")
		dst := b.dst.Endpoint()
		if _, err := dst.Bookmarks.Bookmark(b.Context(), "db", b.id(b.dst, "db", "@c"), "#c", true); err != nil {
			b.Fatal(err)
		}
		if _, err := dst.Bookmarks.Bookmark(b.Context(), "db", b.id(b.dst, "db", "@b"), "#b", true); err != nil {
			b.Fatal(err)
		}
		a := b.id(b.src, "db", "@a").GUID
		b.run(b.options(prune.Sender, lastN(1)))
		if got := b.list(b.src, "db").Versions; len(got) != 2 || got[0].GUID != a {
			b.Error(got)
		}
	})
	bubble(t, func(b *bench) { // a bookmark of the same GUID counts
		b.grow(b.src, "db", "@a", "@b")
		b.replicate("db", "@a")
		if _, err := b.src.Endpoint().Bookmarks.Bookmark(b.Context(), "db", b.id(b.src, "db", "@a"), "#mine", false); err != nil {
			b.Fatal(err)
		}
		b.run(b.options(prune.Sender, lastN(1)))
		if got := b.names(b.src, "db"); got != "#mine @b" {
			b.Error(got)
		}
	})
	bubble(t, func(b *bench) { // a place without bookmarks keeps the snapshot
		b.grow(b.src, "db", "@a", "@b")
		b.replicate("db", "@a")
		o := b.options(prune.Sender, lastN(1))
		o.Target.Bookmarks = nil
		b.run(o)
		if got := b.names(b.src, "db"); got != "@a @b" {
			b.Error(got)
		}
	})
	bubble(t, func(b *bench) { // the cursor of another job is respected in the same way
		b.grow(b.src, "db", "@a", "@b")
		b.lease(b.src, "weekly", cairn.PurposeCursor, "db", "@a")
		b.run(b.options(prune.Local, lastN(1)))
		if got := b.list(b.src, "db").Versions; len(got) != 2 || !got[0].IsBookmark() || len(got[0].Leases) != 1 {
			b.Error(got)
		}
	})
}

// The receiver keeps what the next increment is applied to, and passes over what
// the sender does not have.
func TestReceiver(t *testing.T) {
	bubble(t, func(b *bench) {
		b.grow(b.src, "db", "@a", "@b", "@c")
		b.replicate("db", "@a", "@b", "@c")
		b.grow(b.dst, "old", "@x", "@y")
		nothing := []cairn.KeepRule{{Type: "regex", Regex: "^none$"}}
		r := b.run(b.options(prune.Receiver, nothing))
		if got := b.names(b.dst, "db"); got != "@c" {
			b.Error(got)
		}
		if d := r.Datasets[1]; d.Skipped == "" || b.names(b.dst, "old") != "@x @y" {
			b.Errorf("%+v", d)
		}
		if !strings.Contains(reasons(r.Datasets[0], "@c"), "last common version") {
			b.Error(reasons(r.Datasets[0], "@c"))
		}
		// a place that prunes itself knows no sender
		o := b.options(prune.Receiver, nothing)
		o.Peer = nil
		b.run(o)
		if b.names(b.dst, "db") != "@c" || b.names(b.dst, "old") != "@y" {
			b.Error(b.names(b.dst, "db"), b.names(b.dst, "old"))
		}
	})
	bubble(t, func(b *bench) { // the last common version, where the receiver went on by itself
		b.grow(b.src, "db", "@a")
		b.replicate("db", "@a")
		if err := b.dst.Endpoint().Seals.Seal(b.Context(), "db", false); err != nil {
			b.Fatal(err)
		}
		b.grow(b.dst, "db", "@x", "@y")
		b.run(b.options(prune.Receiver, lastN(1)))
		if got := b.names(b.dst, "db"); got != "@a @y" {
			b.Error(got)
		}
	})
}

// not_replicated goes by the other side's listing, and by the cursor when the other
// side is away.
func TestNotReplicated(t *testing.T) {
	rules := []cairn.KeepRule{{Type: "not_replicated"}}
	for _, away := range []bool{false, true} {
		bubble(t, func(b *bench) {
			b.grow(b.src, "db", "@a", "@b", "@c")
			b.grow(b.src, "new", "@a", "@b")
			b.replicate("db", "@a", "@b")
			b.lease(b.src, "nightly", cairn.PurposeCursor, "db", "@b")
			b.lease(b.src, "weekly", cairn.PurposeCursor, "db", "@c")
			o := b.options(prune.Sender, rules)
			if away {
				o.Peer = nil
			}
			r := b.run(o)
			if got := b.names(b.src, "db"); got != "@b @c" {
				b.Errorf("away %v: %s", away, got)
			}
			if b.names(b.src, "new") != "@a @b" || !strings.Contains(reasons(r.Datasets[1], "@a"), "nothing of this dataset is replicated yet") {
				b.Errorf("away %v: %s", away, reasons(r.Datasets[1], "@a"))
			}
		})
	}
	bubble(t, func(b *bench) {
		if _, err := prune.Run(b.Context(), b.options(prune.Local, rules)); !errors.Is(err, cairn.KindConfig) {
			b.Error(err)
		}
		if _, err := prune.Preview(b.Context(), b.options(prune.Local, lastN(0))); !errors.Is(err, cairn.KindConfig) {
			b.Error(err)
		}
	})
}

// Whatever the histories, a run destroys exactly what a preview lists, keeps what
// is leased, and the receiver can go on from what is left.
func TestRunIsPreview(t *testing.T) {
	for seed := range uint64(40) {
		bubble(t, func(b *bench) {
			rnd := rand.New(rand.NewPCG(seed, 9))
			b.grow(b.src, "db", "@m0")
			b.replicate("db", "@m0")
			last := "@m0"
			for i := range 2 + rnd.IntN(12) {
				name := fmt.Sprintf("@%c%d", "zm"[rnd.IntN(2)], i+1)
				b.grow(b.src, "db", name)
				if rnd.IntN(3) > 0 {
					b.replicate("db", name)
					last = name
				}
				if rnd.IntN(4) == 0 {
					b.lease(b.src, fmt.Sprint("owner", i), cairn.PurposePin, "db", name)
				}
			}
			common := b.id(b.src, "db", last).GUID
			o := b.options(prune.Sender, []cairn.KeepRule{
				{Type: "grid", Regex: "^z", Grid: "2x2h(keep=all) | 4x3h"}, {Type: "last_n", Count: 1 + rnd.IntN(2), Regex: "^m"}})
			preview, err := prune.Preview(b.Context(), o)
			if err != nil {
				b.Fatal(err)
			}
			var want []string
			for _, v := range preview.Datasets[0].Versions {
				if v.Action == prune.Keep {
					want = append(want, v.Name)
				}
			}
			b.run(o)
			var got []string
			has := false
			for _, v := range b.list(b.src, "db").Versions {
				has = has || v.GUID == common
				if v.IsSnapshot() {
					got = append(got, v.Name)
				}
			}
			if !slices.Equal(got, want) || !has {
				b.Errorf("seed %d: left %v, the preview keeps %v; last common there: %v", seed, got, want, has)
			}
			for _, v := range preview.Datasets[0].Versions {
				if strings.Contains(strings.Join(v.Reasons, ""), "leased by") && v.Action != prune.Keep {
					b.Errorf("seed %d: %+v", seed, v)
				}
			}
		})
	}
}

// A version that is leased between listing and destroying is kept.
func TestLeasedMeanwhile(t *testing.T) {
	bubble(t, func(b *bench) {
		b.grow(b.src, "db", "@a", "@b", "@c")
		b.src.Hook(memory.On("destroy", memory.Begin, func(context.Context, memory.Call) error {
			b.lease(b.src, "weekly", cairn.PurposePlan, "db", "@a")
			return nil
		}))
		r, err := prune.Run(b.Context(), b.options(prune.Local, lastN(1)))
		if err != nil || b.names(b.src, "db") != "@a @c" || r.Destroyed != 1 || r.Kept != 2 {
			b.Errorf("%v, %s, %+v", err, b.names(b.src, "db"), r)
		}
		if got := reasons(r.Datasets[0], "@a"); !strings.HasPrefix(got, "was leased meanwhile") {
			b.Error(got)
		}
	})
}

// Errors belong to their dataset; one that hangs is abandoned and locked.
func TestOneDatasetDoesNotStopOthers(t *testing.T) {
	bubble(t, func(b *bench) {
		for _, d := range []string{"a", "b", "c"} {
			b.grow(b.src, d, "@1", "@2")
		}
		free := make(chan struct{})
		b.src.Hook(memory.On("destroy", memory.Commit, func(_ context.Context, c memory.Call) error {
			switch c.Dataset {
			case "a":
				return cairn.KindIO
			case "b":
				<-free
			}
			return nil
		}))
		o := b.options(prune.Local, lastN(1))
		q := &watchdog.Quarantine{}
		o.Watchdog = watchdog.Options{Quarantine: q}
		o.Live = &prune.Live{}
		r, err := prune.Run(b.Context(), o)
		if !errors.Is(err, cairn.KindIO) || !strings.Contains(err.Error(), "2 of 3 datasets") || r.Failed != 2 {
			b.Error(err)
		}
		if b.names(b.src, "c") != "@2" || r.Datasets[0].ErrorKind != "i/o error" || r.Datasets[1].ErrorKind != "stuck" || r.Destroyed != 1 || r.Kept != 5 {
			b.Errorf("%+v", r)
		}
		if held := q.Held(); len(held) != 1 || held[0].Lock != "b" {
			b.Errorf("%+v", held)
		}
		if s := o.Live.Snapshot(); len(s.Datasets) != 3 || s.Destroyed != 1 || s.Ended.IsZero() {
			b.Errorf("%+v", s)
		}
		close(free)
	})
}

func TestCancelAndFailingLists(t *testing.T) {
	bubble(t, func(b *bench) {
		for _, d := range []string{"a", "b"} {
			b.grow(b.src, d, "@1", "@2")
		}
		ctx, cancel := context.WithCancel(b.Context())
		b.src.Hook(memory.On("destroy", memory.Done, func(context.Context, memory.Call) error { cancel(); return nil }))
		if r, err := prune.Run(ctx, b.options(prune.Local, lastN(1))); !errors.Is(err, cairn.KindCanceled) || r.Failed != 0 || r.Destroyed != 1 {
			b.Error(err, r)
		}
		if b.names(b.src, "a") != "@2" || b.names(b.src, "b") != "@1 @2" {
			b.Error(b.names(b.src, "a"), b.names(b.src, "b"))
		}
	})
	bubble(t, func(b *bench) {
		b.grow(b.src, "a", "@1", "@2")
		b.dst.Hook(memory.On("list", memory.Begin, memory.Fail(0, cairn.KindUnavailable)))
		if _, err := prune.Run(b.Context(), b.options(prune.Sender, lastN(1))); !errors.Is(err, cairn.KindUnavailable) || b.names(b.src, "a") != "@1 @2" {
			b.Error(err)
		}
		b.src.Hook(memory.On("list", memory.Begin, memory.Hang))
		_, err := prune.Preview(b.Context(), b.options(prune.Local, nil))
		var stall *watchdog.Stall
		if !errors.As(err, &stall) || stall.Phase != "list" {
			b.Error(err)
		}
	})
	bubble(t, func(b *bench) {
		o := b.options(prune.Local, nil)
		o.Target.Destroys = nil
		if _, err := prune.Run(b.Context(), o); !errors.Is(err, cairn.KindUnsupported) {
			b.Error(err)
		}
		if _, err := prune.Preview(b.Context(), o); err != nil {
			b.Errorf("a preview needs no right to destroy: %v", err)
		}
		o.Target.Lister = nil
		if _, err := prune.Preview(b.Context(), o); !errors.Is(err, cairn.KindUnsupported) {
			b.Error(err)
		}
	})
}

// With Each the caller gets everything, and the report stays small.
func TestEach(t *testing.T) {
	bubble(t, func(b *bench) {
		b.grow(b.src, "db", "@a", "@b")
		o := b.options(prune.Local, lastN(1))
		o.Explain = false
		if r, err := prune.Preview(b.Context(), o); err != nil || verdicts(r.Datasets[0]) != "@a=destroy" {
			b.Error(r, err)
		}
		var each []string
		o.Each = func(d prune.DatasetReport) { each = append(each, verdicts(d)) }
		if r, err := prune.Preview(b.Context(), o); err != nil || r.Datasets[0].Versions != nil || fmt.Sprint(each) != "[@a=destroy @b=keep]" {
			b.Error(r, err, each)
		}
	})
}

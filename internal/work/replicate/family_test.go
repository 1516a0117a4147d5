package replicate_test

import (
	"context"
	"errors"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"

	"cairn"
	"cairn/internal/policy/plan"
	"cairn/internal/work/replicate"
)

func (b *bench) clone(origin, version, name string, versions ...string) {
	b.Helper()
	if err := b.src.Clone(origin, version, name); err != nil {
		b.Fatal(err)
	}
	b.grow(name, versions...)
}

func (b *bench) try() (*replicate.Report, error) {
	b.Helper()
	return replicate.Run(b.Context(), b.o)
}

func of(r *replicate.Report, dataset string) replicate.DatasetReport {
	i := slices.IndexFunc(r.Datasets, func(d replicate.DatasetReport) bool { return d.Dataset == dataset })
	if i < 0 {
		return replicate.DatasetReport{}
	}
	return r.Datasets[i]
}

// sent is what a run moved for a dataset.
func sent(d replicate.DatasetReport) (n int64) {
	for _, a := range d.Attempts {
		for _, s := range a.Steps {
			n += s.BytesMoved
		}
	}
	return n
}

// Clones wait for their origins and begin as clones, in one slot, whatever their
// names' order; one whose origin is not there is whole, and says so.
func TestClones(t *testing.T) {
	bubble(t, func(b *bench) {
		b.grow("m", "@1", "@2")
		b.clone("m", "@1", "z", "@3")
		b.clone("z", "@3", "a", "@4", "@5")
		b.clone("m", "@2", "whole", "@6")
		sender := *b.o.Sender
		sender.Lister = hiding{sender.Lister, "whole"}
		b.o.Sender = &sender
		r, err := b.try()
		if err != nil {
			t.Fatal(err)
		}
		for name, origin := range map[string]string{"m": "", "z": "m@1", "a": "z@3", "whole": ""} {
			o := b.list(b.dst, name).Dataset.Origin
			if got := o.Dataset + o.Name; got != origin {
				t.Errorf("%s is a clone of %q at the receiver, want %q", name, got, origin)
			}
			if whole := of(r, name).Whole; (whole != "") != (name == "whole") {
				t.Errorf("%s is sent whole: %q", name, whole)
			}
			b.equal(name)
		}
		if n := sent(of(r, "z")); n > 80<<10 {
			t.Errorf("a clone with 64 KiB of its own took %d bytes", n)
		}
		if got := b.leases(b.src, "z"); got != "@3:nightly/cursor" {
			t.Errorf("the clone has leases %q", got)
		}
	})
}

// hiding tells nobody what one dataset is a clone of.
type hiding struct {
	cairn.Lister
	dataset string
}

func (h hiding) List(ctx context.Context, q cairn.Query) iter.Seq2[*cairn.Listing, error] {
	return func(yield func(*cairn.Listing, error) bool) {
		for l, err := range h.Lister.List(ctx, q) {
			if l != nil && l.Dataset.Name == h.dataset {
				l.Dataset.Origin.Dataset = ""
			}
			if !yield(l, err) {
				return
			}
		}
	}
}

// A clone above its own origin waits for nobody who waits for it: nothing hangs.
func TestCloneAboveItsOrigin(t *testing.T) {
	bubble(t, func(b *bench) {
		b.grow("x/b", "@1")
		b.clone("x/b", "@1", "x", "@2")
		b.clone("x", "@2", "x/b/c", "@3")
		r, err := b.try()
		if err != nil {
			t.Fatal(err)
		}
		if d := of(r, "x"); !strings.Contains(d.Whole, "does not have") {
			t.Errorf("the clone above its origin: %+v", d)
		}
		if o := b.list(b.dst, "x/b/c").Dataset.Origin; o.Dataset != "x" {
			t.Errorf("the clone below is a clone of %+v", o)
		}
		for _, name := range []string{"x", "x/b", "x/b/c"} {
			b.equal(name)
		}
	})
}

// The origin's failure is not the clone's: it is sent whole.
func TestCloneOfWhatFails(t *testing.T) {
	bubble(t, func(b *bench) {
		b.grow("o", "@1")
		b.clone("o", "@1", "c", "@2")
		receiver := *b.o.Receiver
		receiver.Receiver = refusing{receiver.Receiver, "o"}
		b.o.Receiver = &receiver
		r, err := b.try()
		if !errors.Is(err, cairn.KindSpace) {
			t.Errorf("got %v", err)
		}
		if d := of(r, "c"); d.State != replicate.Done || !strings.Contains(d.Whole, "does not have") {
			t.Errorf("the clone: %+v", d)
		}
		b.equal("c")
	})
}

type refusing struct {
	cairn.Receiver
	dataset string
}

func (f refusing) Receive(ctx context.Context, s *cairn.Stream, o cairn.ReceiveOptions) (cairn.Received, error) {
	if s.Header.Dataset == f.dataset {
		return cairn.Received{}, errors.Join(cairn.KindSpace, s.Body.Close())
	}
	return f.Receiver.Receive(ctx, s, o)
}

func (b *bench) rename(from, to string) {
	b.Helper()
	if err := b.src.Endpoint().Renames.Rename(b.Context(), from, to); err != nil {
		b.Fatal(err)
	}
}

// Volumes are renamed one by one, those below others too, and nothing is sent anew.
func TestRenames(t *testing.T) {
	bubble(t, func(b *bench) {
		b.grow("d", "@1")
		b.grow("d/kid", "@1")
		b.grow("stays", "@1")
		if _, err := b.try(); err != nil {
			t.Fatal(err)
		}
		b.rename("d", "n")
		b.rename("d/kid", "n/kid")
		b.grow("n/kid", "@2")
		var moved []string
		b.o.Moved = func(dataset, was string) { moved = append(moved, was+">"+dataset) }
		r, err := b.try()
		if err != nil {
			t.Fatal(err)
		}
		for name, was := range map[string]string{"n": "d", "n/kid": "d/kid", "stays": ""} {
			d := of(r, name)
			if d.RenamedFrom != was || sent(d) > 80<<10 || name == "n" && sent(d) != 0 {
				t.Errorf("%s: renamed from %q, %d bytes", name, d.RenamedFrom, sent(d))
			}
			b.equal(name)
		}
		if !slices.Equal(moved, []string{"d>n", "d/kid>n/kid"}) {
			t.Errorf("told of %q", moved)
		}
		if l := b.list(b.dst, "d"); l.Dataset.Name != "" {
			t.Errorf("the receiver still has %+v", l.Dataset)
		}
	})
}

// What cannot be renamed, or must not be, is an error of that dataset alone, and
// nothing of it is sent.
func TestRenamesThatFail(t *testing.T) {
	for what, c := range map[string]struct {
		change func(b *bench)
		kind   cairn.Kind
		why    string
	}{
		"refused by the job": {func(b *bench) { b.o.Renamed = plan.Refuse }, cairn.KindConflict, "does not rename"},
		"twice there": {func(b *bench) {
			b.twin("d", "copy")
		}, cairn.KindConflict, "twice"},
		"the rename fails": {func(b *bench) {
			receiver := *b.o.Receiver
			receiver.Renames = noRename{}
			b.o.Receiver = &receiver
		}, cairn.KindPermission, "permission"},
	} {
		t.Run(what, func(t *testing.T) {
			bubble(t, func(b *bench) {
				b.grow("d", "@1")
				b.grow("other", "@1")
				if _, err := b.try(); err != nil {
					t.Fatal(err)
				}
				b.rename("d", "n")
				b.grow("other", "@2")
				c.change(b)
				r, err := b.try()
				if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.why) {
					t.Errorf("got %v", err)
				}
				if d := of(r, "n"); sent(d) != 0 || d.State != replicate.Failed {
					t.Errorf("%+v", d)
				}
				if l := b.list(b.dst, "n"); l.Dataset.Name != "" {
					t.Error("it was sent anew")
				}
				b.equal("other")
			})
		})
	}
}

type noRename struct{}

func (noRename) Rename(context.Context, string, string) error { return cairn.KindPermission }

// twin lets another dataset of the receiver have the versions and leases of one.
func (b *bench) twin(of, name string) {
	b.Helper()
	v := b.list(b.dst, of).Versions[0]
	s, err := b.dst.Endpoint().Sender.Send(b.Context(), cairn.Step{Dataset: of, To: v.VersionID}, []cairn.Format{cairn.FormatBlocks})
	if err != nil {
		b.Fatal(err)
	}
	s.Header.Dataset = name
	if _, err := b.dst.Endpoint().Receiver.Receive(b.Context(), s, cairn.ReceiveOptions{Owner: b.o.Owner}); err != nil {
		b.Fatal(err)
	}
	set := cairn.LeaseSet{Dataset: name, Owner: b.o.Owner, Purpose: cairn.PurposeReceived, Versions: []cairn.VersionID{v.VersionID}}
	if err := b.dst.Endpoint().Leases.SetLease(b.Context(), set); err != nil {
		b.Fatal(err)
	}
	time.Sleep(time.Second)
}

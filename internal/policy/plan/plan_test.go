package plan_test

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"cairn"
	"cairn/internal/policy/plan"
)

// listing makes a dataset from words such as "@a,1 #b,2 @b,2": names with GUIDs,
// in order; a bookmark that comes right before its snapshot shares its position. A
// suffix "!" marks damaged data.
func listing(t *testing.T, words string) *cairn.Listing {
	t.Helper()
	l := &cairn.Listing{Dataset: cairn.Dataset{Name: "d", Kind: cairn.KindVolume}}
	var order uint64
	var last cairn.GUID
	for w := range strings.FieldsSeq(words) {
		w, bad := strings.CutSuffix(w, "!")
		name, guid, _ := strings.Cut(w, ",")
		n, err := strconv.Atoi(guid)
		if err != nil {
			t.Fatal(err)
		}
		if cairn.GUID(n) != last {
			order++
		}
		last = cairn.GUID(n)
		v := cairn.Version{VersionID: cairn.VersionID{Name: name, GUID: last}, Order: order, Created: time.Unix(int64(n)*60, 0)}
		if bad {
			v.State = cairn.StateDamaged
		}
		l.Versions = append(l.Versions, v)
	}
	return l
}

// render shows a plan as "from>to from>to".
func render(p plan.Plan) string {
	var steps []string
	for _, s := range p.Steps {
		text := s.Origin + s.From.Name + ">"
		for _, v := range s.Via {
			text += v.Name + "+"
		}
		text += s.To.Name
		if s.Resume != nil {
			text = "resume " + text
		}
		steps = append(steps, text)
	}
	return strings.Join(steps, " ")
}

func TestDataset(t *testing.T) {
	for _, c := range []struct {
		name             string
		sender, receiver string // receiver "-": it does not have the dataset
		partial          *cairn.Partial
		o                plan.Options
		want             string // the steps
		abort            string
		conflict         plan.ConflictKind
	}{
		{name: "up to date", sender: "@a,1 @b,2", receiver: "@a,1 @b,2", want: ""},
		{name: "behind", sender: "@a,1 @b,2 @c,3", receiver: "@a,1", want: "@a>@b @b>@c"},
		{name: "behind, under other names", sender: "@a,1 @b,2", receiver: "@x,1", want: "@a>@b"},
		{name: "no common version", sender: "@a,1 @b,2", receiver: "@a,11 @b,12", conflict: plan.NoCommon},
		{name: "diverged", sender: "@a,1 @b,2 @c,3", receiver: "@a,1 @x,9", conflict: plan.Diverged},
		{name: "gap on receiver", sender: "@a,1 @b,2 @c,3 @d,4", receiver: "@a,1 @c,3", want: "@c>@d"},
		{name: "gap on sender", sender: "@a,1 @d,4", receiver: "@a,1", want: "@a>@d"},
		{name: "receiver ahead", sender: "@a,1 @b,2", receiver: "@a,1 @b,2 @c,3", conflict: plan.Diverged},
		{name: "empty both", sender: "", receiver: "", conflict: plan.NoSnapshots},
		{name: "empty sender, receiver has something", sender: "", receiver: "@a,1", conflict: plan.NoCommon},
		{name: "sender has bookmarks only", sender: "#a,1", receiver: "-", conflict: plan.NoSnapshots},
		{name: "sender has bookmarks only, receiver is there", sender: "#a,1", receiver: "@a,1", want: ""},
		{name: "bookmark as base", sender: "#a,1 @b,2", receiver: "@a,1", want: "#a>@b"},
		{name: "two bookmarks", sender: "#a,1 #b,2 @c,3", receiver: "@a,1 @b,2", want: "#b>@c"},
		{name: "snapshot preferred over its bookmark", sender: "#m,1 @a,1 @b,2", receiver: "@a,1", want: "@a>@b"},
		{name: "bookmarks in between are no steps", sender: "@a,1 #b,2 @c,3", receiver: "@a,1", want: "@a>@c"},
		{name: "receiver bookmark ignored", sender: "@a,1 @b,2 @c,3", receiver: "@a,1 #b,2", want: "@a>@b @b>@c"},
		{name: "receiver only bookmark", sender: "@a,1 @b,2", receiver: "#a,1", want: ">@b"},

		{name: "initial most recent", sender: "@a,1 @b,2", receiver: "-", want: ">@b"},
		{name: "initial all", sender: "@a,1 #m,2 @b,2 @c,3", receiver: "-", o: plan.Options{Initial: plan.All}, want: ">@a @a>@b @b>@c"},
		{name: "initial forbidden", sender: "@a,1", receiver: "-", o: plan.Options{Initial: plan.Fail}, conflict: plan.InitialForbidden},
		{name: "forbidding the initial one does not concern increments", sender: "@a,1 @b,2", receiver: "@a,1", o: plan.Options{Initial: plan.Fail}, want: "@a>@b"},
		{name: "initial into an existing dataset without versions", sender: "@a,1", receiver: "", want: ">@a"},
		{name: "several in one step", sender: "@a,1 @b,2 @c,3 @d,4", receiver: "@a,1", o: plan.Options{Several: 9}, want: "@a>@b+@c+@d"},
		{name: "at most so many in one step", sender: "@a,1 @b,2 @c,3 @d,4 @e,5", receiver: "@a,1", o: plan.Options{Several: 2}, want: "@a>@b+@c @c>@d+@e"},
		{name: "several, from a snapshot only", sender: "#a,1 @b,2 @c,3 @d,4", receiver: "@a,1", o: plan.Options{Several: 9}, want: "#a>@b @b>@c+@d"},
		{name: "several, initial", sender: "@a,1 @b,2 @c,3", receiver: "-", o: plan.Options{Initial: plan.All, Several: 9}, want: ">@a @a>@b+@c"},
		{name: "several, but not over one that is not sent", sender: "@a,1 @b,2 @c,3! @d,4 @e,5", receiver: "@a,1", o: plan.Options{Several: 9}, want: "@a>@b @b>@d @d>@e"},
		{name: "until", sender: "@a,1 @b,2 @c,3", receiver: "@a,1", o: plan.Options{Until: cairn.VersionID{Name: "@b", GUID: 2}}, want: "@a>@b"},
		{name: "until, initial", sender: "@a,1 @b,2 @c,3", receiver: "-", o: plan.Options{Until: cairn.VersionID{Name: "@b", GUID: 2}}, want: ">@b"},
		{name: "damaged data is passed over", sender: "@a,1 @b,2! @c,3", receiver: "@a,1", want: "@a>@c"},
		{name: "damaged data is still a base", sender: "@a,1! @b,2", receiver: "@a,1", want: "@a>@b"},

		{name: "resume, then the rest", sender: "@a,1 @b,2 @c,3", receiver: "@a,1", want: "resume @a>@b @b>@c",
			partial: &cairn.Partial{From: cairn.VersionID{Name: "@a", GUID: 1}, To: cairn.VersionID{Name: "@b", GUID: 2}, Token: []byte("t")}},
		{name: "resume passes over what lies before", sender: "@a,1 @b,2 @c,3 @d,4", receiver: "@a,1", want: "resume @a>@c @c>@d",
			partial: &cairn.Partial{From: cairn.VersionID{Name: "@a", GUID: 1}, To: cairn.VersionID{Name: "@c", GUID: 3}, Token: []byte("t")}},
		{name: "resume from a bookmark", sender: "#a,1 @b,2", receiver: "@a,1", want: "resume #a>@b",
			partial: &cairn.Partial{From: cairn.VersionID{Name: "@a", GUID: 1}, To: cairn.VersionID{Name: "@b", GUID: 2}, Token: []byte("t")}},
		{name: "resume a full one, also an older one", sender: "@a,1 @b,2", receiver: "", want: "resume >@a @a>@b",
			partial: &cairn.Partial{To: cairn.VersionID{Name: "@a", GUID: 1}, Token: []byte("t")}},
		{name: "abort: the target is gone", sender: "@a,1 @c,3", receiver: "@a,1", want: "@a>@c", abort: "cannot be sent any more",
			partial: &cairn.Partial{From: cairn.VersionID{Name: "@a", GUID: 1}, To: cairn.VersionID{Name: "@b", GUID: 2}, Token: []byte("t")}},
		{name: "abort: the target is a bookmark now", sender: "@a,1 #b,2 @c,3", receiver: "@a,1", want: "@a>@c", abort: "cannot be sent any more",
			partial: &cairn.Partial{From: cairn.VersionID{Name: "@a", GUID: 1}, To: cairn.VersionID{Name: "@b", GUID: 2}, Token: []byte("t")}},
		{name: "abort: another base", sender: "@a,1 @b,2 @c,3", receiver: "@a,1 @b,2", want: "@b>@c", abort: "received on GUID",
			partial: &cairn.Partial{From: cairn.VersionID{Name: "@a", GUID: 1}, To: cairn.VersionID{Name: "@c", GUID: 3}, Token: []byte("t")}},
		{name: "abort: a full one into something", sender: "@a,1 @b,2", receiver: "@a,1", want: "@a>@b", abort: "received on GUID",
			partial: &cairn.Partial{To: cairn.VersionID{Name: "@b", GUID: 2}, Token: []byte("t")}},
		{name: "abort: no token", sender: "@a,1 @b,2 @c,3", receiver: "", want: ">@c", abort: "how to go on",
			partial: &cairn.Partial{To: cairn.VersionID{Name: "@b", GUID: 2}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var receiver *cairn.Listing
			if c.receiver != "-" {
				receiver = listing(t, c.receiver)
				receiver.Partial = c.partial
			}
			p, err := plan.Dataset(listing(t, c.sender), receiver, c.o)
			var conflict *plan.Conflict
			if errors.As(err, &conflict) != (c.conflict != "") || conflict != nil && (conflict.Kind != c.conflict || !errors.Is(err, cairn.KindConflict) || cairn.HintOf(err) == "") {
				t.Fatalf("error %v, want conflict %q", err, c.conflict)
			}
			if err == nil && (render(p) != c.want || !strings.Contains(p.Abort, c.abort) || (p.Abort == "") != (c.abort == "")) {
				t.Errorf("steps %q, abort %q; want %q, %q", render(p), p.Abort, c.want, c.abort)
			}
		})
	}
}

func TestConflictPrintsBothLists(t *testing.T) {
	_, err := plan.Dataset(listing(t, "@a,1 @b,2 @c,3"), listing(t, "@a,1 @x,8 @y,9"), plan.Options{})
	want := "cannot plan replication of d: diverged; last common version: @a; only at the sender: @b @c; only at the receiver: @x @y" +
		" (roll the receiver back to the last common version, or rename it aside, and it is replicated again)"
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	var words []string
	for i := range 1000 {
		words = append(words, fmt.Sprintf("@v%d,%d", i, i+1))
	}
	_, err = plan.Dataset(listing(t, strings.Join(words, " ")), listing(t, "@v0,5000"), plan.Options{})
	if err == nil || len(err.Error()) > 1000 || !strings.Contains(err.Error(), "@v7 … 984 more … @v992") {
		t.Errorf("a long list is not cut in the middle: %v", err)
	}
}

func TestUntilMustExist(t *testing.T) {
	_, err := plan.Dataset(listing(t, "@a,1"), nil, plan.Options{Until: cairn.VersionID{Name: "@a", GUID: 7}})
	if !errors.Is(err, cairn.KindNotFound) {
		t.Errorf("%v", err)
	}
}

func TestPlaceholderIsNotSent(t *testing.T) {
	l := listing(t, "")
	l.Dataset.Placeholder = true
	if p, err := plan.Dataset(l, nil, plan.Options{}); err != nil || len(p.Steps) != 0 {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestLeaveOut(t *testing.T) {
	var heldSeen []cairn.Version
	o := plan.Options{Initial: plan.All, LeaveOut: func(held, candidates []cairn.Version) []string {
		heldSeen = held
		why := make([]string, len(candidates))
		for i := range why {
			if i%2 == 1 {
				why[i] = "would be pruned"
			}
		}
		return why
	}}
	p, err := plan.Dataset(listing(t, "@a,1 @b,2 @c,3 @d,4 @e,5"), listing(t, "#a,1 @a,1"), o)
	if err != nil || render(p) != "@a>@b @b>@d @d>@e" || len(heldSeen) != 1 {
		t.Errorf("%q, %v; held %v", render(p), err, heldSeen)
	}
	if len(p.LeftOut) != 1 || p.LeftOut[0].Version.Name != "@c" || p.LeftOut[0].Why != "would be pruned" {
		t.Errorf("left out %+v; the newest is sent whatever the rules say", p.LeftOut)
	}
}

// An archive can send only what it stores.
func TestStoredStreams(t *testing.T) {
	id := func(name string, guid cairn.GUID) cairn.VersionID { return cairn.VersionID{Name: name, GUID: guid} }
	a, b := id("@a", 1), id("@b", 2)
	full := func(bytes int64) cairn.Stored {
		return cairn.Stored{Format: "blocks/1", Bytes: bytes, Media: []string{"T1"}}
	}
	on := func(from cairn.VersionID, bytes int64) cairn.Stored {
		return cairn.Stored{From: from, Format: "blocks/1", Bytes: bytes}
	}
	archive := func(sa, sb, sc []cairn.Stored) *cairn.Listing {
		l := listing(t, "@a,1 @b,2 @c,3")
		l.Versions[0].Stored, l.Versions[1].Stored, l.Versions[2].Stored = sa, sb, sc
		return l
	}
	for _, x := range []struct {
		name     string
		archive  *cairn.Listing
		receiver string
		o        plan.Options
		want     string
		conflict plan.ConflictKind
	}{
		{name: "walks back to the full", archive: archive([]cairn.Stored{full(100)}, []cairn.Stored{on(a, 1)}, []cairn.Stored{on(b, 1)}), receiver: "-", want: ">@a @a>@b @b>@c"},
		{name: "differential: passes over", archive: archive([]cairn.Stored{full(100)}, []cairn.Stored{on(a, 5)}, []cairn.Stored{on(a, 6)}), receiver: "-", want: ">@a @a>@c"},
		{name: "takes the cheaper way", archive: archive([]cairn.Stored{full(100)}, []cairn.Stored{on(a, 1)}, []cairn.Stored{on(b, 1), full(150), on(a, 90)}), receiver: "-", want: ">@a @a>@b @b>@c"},
		{name: "takes a cheap full", archive: archive([]cairn.Stored{full(100)}, []cairn.Stored{on(a, 90)}, []cairn.Stored{on(b, 90), full(150)}), receiver: "-", want: ">@c"},
		{name: "from what the receiver has", archive: archive([]cairn.Stored{full(1)}, []cairn.Stored{on(a, 1), full(1)}, []cairn.Stored{on(b, 1), full(1)}), receiver: "@b,2", want: "@b>@c"},
		{name: "a full does not go onto something", archive: archive([]cairn.Stored{full(1)}, nil, []cairn.Stored{full(1)}), receiver: "@a,1", conflict: plan.NoStoredWay},
		{name: "as far as streams lead", archive: archive([]cairn.Stored{full(1)}, []cairn.Stored{on(a, 1)}, []cairn.Stored{on(id("@z", 9), 1)}), receiver: "-", want: ">@a @a>@b"},
		{name: "formats the receiver does not take", archive: archive([]cairn.Stored{full(1)}, nil, nil), receiver: "-", o: plan.Options{Accept: []cairn.Format{"zfs"}}, conflict: plan.NoStoredWay},
		{name: "until", archive: archive([]cairn.Stored{full(1)}, []cairn.Stored{on(a, 1)}, []cairn.Stored{full(1)}), receiver: "-", o: plan.Options{Until: b}, want: ">@a @a>@b"},
		{name: "up to date", archive: archive([]cairn.Stored{full(1)}, nil, []cairn.Stored{full(1)}), receiver: "@c,3", want: ""},
	} {
		t.Run(x.name, func(t *testing.T) {
			var receiver *cairn.Listing
			if x.receiver != "-" {
				receiver = listing(t, x.receiver)
			}
			p, err := plan.Dataset(x.archive, receiver, x.o)
			var conflict *plan.Conflict
			if errors.As(err, &conflict) != (x.conflict != "") || conflict != nil && conflict.Kind != x.conflict {
				t.Fatalf("error %v, want %q", err, x.conflict)
			}
			if render(p) != x.want {
				t.Errorf("steps %q, want %q", render(p), x.want)
			}
			for _, s := range p.Steps {
				if s.From.IsZero() && x.name == "walks back to the full" && (s.Size != 100 || len(s.Media) != 1) {
					t.Errorf("step %+v does not say its size and media", s)
				}
			}
		})
	}
}

func TestParseInitial(t *testing.T) {
	for _, i := range []plan.Initial{plan.MostRecent, plan.All, plan.Fail} {
		if got, err := plan.ParseInitial(i.String()); err != nil || got != i {
			t.Errorf("%v: %v, %v", i, got, err)
		}
	}
	if got, err := plan.ParseInitial(""); err != nil || got != plan.MostRecent {
		t.Errorf("empty: %v, %v", got, err)
	}
	if _, err := plan.ParseInitial("newest"); !errors.Is(err, cairn.KindConfig) {
		t.Errorf("%v", err)
	}
}

// A clone begins on its origin where the receiver has that, and says so where not.
func TestClones(t *testing.T) {
	there := plan.Options{Origin: plan.Origin{There: true}, Several: 9}
	of := cairn.Origin{Dataset: "o", VersionID: cairn.VersionID{Name: "@s", GUID: 77}}
	cut := func(from, to cairn.GUID) *cairn.Partial {
		return &cairn.Partial{From: cairn.VersionID{GUID: from}, To: cairn.VersionID{Name: "@a", GUID: to}, Token: []byte("t")}
	}
	all := there
	all.Initial = plan.All
	for _, c := range []struct {
		name        string
		origin      cairn.Origin
		o           plan.Options
		receiver    string
		placeholder bool
		partial     *cairn.Partial
		want        string
		whole       string
		abort       string
	}{
		{name: "as a clone", origin: of, o: there, receiver: "-", want: "o@s>@c"},
		{name: "as a clone, all versions", origin: of, o: all, receiver: "-", want: "o@s>@a @a>@b+@c"},
		{name: "no clone", o: there, receiver: "-", want: ">@c"},
		{name: "the origin is not there", origin: of, o: plan.Options{Origin: plan.Origin{Why: "no such version"}}, receiver: "-", want: ">@c", whole: "no such version"},
		{name: "the origin is out of sight", origin: cairn.Origin{VersionID: of.VersionID}, o: there, receiver: "-", want: ">@c", whole: "not among"},
		{name: "in place of a placeholder", origin: of, o: there, placeholder: true, want: ">@c", whole: "placeholder"},
		{name: "later it is one of many", origin: of, o: there, receiver: "@a,1", want: "@a>@b+@c"},
		{name: "a cut clone goes on", origin: of, o: there, partial: cut(77, 1), want: "resume o@s>@a @a>@b @b>@c"},
		{name: "a cut whole one goes on", origin: of, o: there, partial: cut(0, 1), want: "resume >@a @a>@b @b>@c"},
		{name: "cut on another origin", origin: of, o: there, partial: cut(78, 1), want: "o@s>@c", abort: "received on GUID"},
	} {
		t.Run(c.name, func(t *testing.T) {
			sender := listing(t, "@a,1 @b,2 @c,3")
			sender.Dataset.Origin = c.origin
			var receiver *cairn.Listing
			if c.receiver != "-" {
				receiver = listing(t, c.receiver)
				receiver.Partial, receiver.Dataset.Placeholder = c.partial, c.placeholder
			}
			o := c.o
			if c.partial != nil {
				o.Several = 0
			}
			p, err := plan.Dataset(sender, receiver, o)
			if err != nil {
				t.Fatal(err)
			}
			if render(p) != c.want || !strings.Contains(p.Whole, c.whole) || (p.Whole == "") != (c.whole == "") || !strings.Contains(p.Abort, c.abort) || (p.Abort == "") != (c.abort == "") {
				t.Errorf("steps %q, whole %q, abort %q; want %q, %q, %q", render(p), p.Whole, p.Abort, c.want, c.whole, c.abort)
			}
		})
	}
}

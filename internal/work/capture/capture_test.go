package capture_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cairn"
	"cairn/internal/mech/watchdog"
	"cairn/internal/policy/schedule"
	"cairn/internal/testkit/memory"
	"cairn/internal/work/capture"
)

func place(t *testing.T, datasets ...string) *memory.Place {
	t.Helper()
	p := memory.New("here")
	for _, d := range datasets {
		if err := p.Create(d, 8192); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// render shows the results: "a@x b(error kind) c-skipped".
func render(r *capture.Report) string {
	var out []string
	for _, d := range r.Datasets {
		switch {
		case d.Skipped != "":
			out = append(out, d.Dataset+"-skipped")
		case d.Error != "":
			out = append(out, d.Dataset+"("+d.ErrorKind+")")
		default:
			out = append(out, d.Dataset+d.Version)
		}
	}
	return strings.Join(out, " ")
}

func versions(t *testing.T, p *memory.Place) string {
	t.Helper()
	var out []string
	for l, err := range p.Endpoint().Lister.List(t.Context(), cairn.Query{Filter: cairn.All, Want: cairn.Want{Versions: true}}) {
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range l.Versions {
			out = append(out, l.Dataset.Name+v.Name)
		}
	}
	return strings.Join(out, " ")
}

func seal(t *testing.T, p *memory.Place, dataset string) {
	t.Helper()
	if err := p.Endpoint().Seals.Seal(t.Context(), dataset, true); err != nil {
		t.Fatal(err)
	}
}

func TestRun(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(o *capture.Options, p *memory.Place)
		want   string // results
		there  string // versions afterwards
		kind   cairn.Kind
	}{
		{name: "all selected", want: "a@x b@x replica-skipped", there: "a@x b@x"},
		{name: "filter", change: func(o *capture.Options, _ *memory.Place) { o.Filter = cairn.Filter{{Name: "a", Keep: true}} }, want: "a@x", there: "a@x"},
		{name: "named", change: func(o *capture.Options, _ *memory.Place) { o.Names = []string{"b"} }, want: "b@x", there: "b@x"},
		{name: "named and not there", change: func(o *capture.Options, _ *memory.Place) { o.Names = []string{"a", "zz"} },
			want: "a@x zz(not found)", there: "a@x", kind: cairn.KindNotFound},
		{name: "a named replica", change: func(o *capture.Options, _ *memory.Place) { o.Names = []string{"a", "replica"} },
			want: "a@x replica(conflict)", there: "a@x", kind: cairn.KindConflict},
		{name: "atomic", change: func(o *capture.Options, _ *memory.Place) { o.Atomic = true }, want: "a@x b@x replica-skipped", there: "a@x b@x"},
		{name: "atomic: all or none", change: func(o *capture.Options, _ *memory.Place) { o.Atomic, o.Names = true, []string{"a", "zz"} },
			want: "a zz(not found)", there: "", kind: cairn.KindNotFound},
		{name: "bookmark", change: func(o *capture.Options, _ *memory.Place) { o.Bookmark = true }, want: "a#x b#x replica-skipped", there: "a#x b#x"},
		{name: "one fails, the others do not", change: func(o *capture.Options, p *memory.Place) {
			if _, err := p.Endpoint().Snapshots.Snapshot(context.Background(), "@x", []string{"a"}, false); err != nil {
				panic(err)
			}
		}, want: "a(exists) b@x replica-skipped", there: "a@x b@x", kind: cairn.KindExists},
		{name: "the call fails", change: func(_ *capture.Options, p *memory.Place) {
			p.Hook(memory.On("snapshot", memory.Begin, memory.Fail(1, cairn.KindSpace)))
		}, want: "a b replica-skipped", there: "", kind: cairn.KindSpace},
		{name: "not a name", change: func(o *capture.Options, _ *memory.Place) { o.Name = "x/y" }, kind: cairn.KindInvalid},
		{name: "no snapshots here", change: func(o *capture.Options, _ *memory.Place) { o.Endpoint.Snapshots = nil }, kind: cairn.KindUnsupported},
		{name: "no bookmarks here", change: func(o *capture.Options, _ *memory.Place) { o.Bookmark, o.Endpoint.Bookmarks = true, nil }, kind: cairn.KindUnsupported},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := place(t, "a", "b", "replica")
			seal(t, p, "replica")
			o := capture.Options{Endpoint: p.Endpoint(), Filter: cairn.All, Name: "x"}
			if c.change != nil {
				c.change(&o, p)
			}
			r, err := capture.Run(t.Context(), o)
			if render(r) != c.want || versions(t, p) != c.there || cairn.KindOf(err) != c.kind || (err == nil) != (c.kind == 0) {
				t.Errorf("results %q, versions %q, %v; want %q, %q, %v", render(r), versions(t, p), err, c.want, c.there, c.kind)
			}
		})
	}
}

func TestHangIsCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := place(t, "a")
		p.Hook(memory.On("snapshot", memory.Begin, memory.Hang))
		began := time.Now()
		r, err := capture.Run(t.Context(), capture.Options{Endpoint: p.Endpoint(), Filter: cairn.All, Name: "x"})
		var stall *watchdog.Stall
		if !errors.As(err, &stall) || stall.Phase != "capture" || time.Since(began) > watchdog.DefaultLimit+time.Minute || r == nil {
			t.Errorf("%v after %s", err, time.Since(began))
		}
	})
}

// The next periodic capture is due one interval after the newest matching snapshot,
// per dataset, at the earliest of these.
func TestDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := place(t, "a", "b", "replica")
		seal(t, p, "replica")
		naming, err := schedule.ParseNaming("p_", "", "")
		if err != nil {
			t.Fatal(err)
		}
		due := func() time.Duration {
			t.Helper()
			at, err := capture.Due(t.Context(), capture.DueOptions{Endpoint: p.Endpoint(), Filter: cairn.All, Naming: naming, Interval: time.Hour, Now: time.Now()})
			if err != nil {
				t.Fatal(err)
			}
			return time.Until(at)
		}
		take := func(name string, datasets ...string) {
			t.Helper()
			if _, err := capture.Run(t.Context(), capture.Options{Endpoint: p.Endpoint(), Filter: cairn.All, Names: datasets, Name: name}); err != nil {
				t.Fatal(err)
			}
		}
		if d := due(); d != 0 {
			t.Errorf("never captured: due in %v", d)
		}
		take("p_1", "a", "b")
		time.Sleep(20 * time.Minute)
		take("p_2", "a")
		take("manual", "b")
		if d := due(); d != 40*time.Minute {
			t.Errorf("b has its last one 20 minutes ago: due in %v", d)
		}
		p.Hook(memory.On("list", memory.Begin, memory.Fail(1, cairn.KindIO)))
		if _, err := capture.Due(t.Context(), capture.DueOptions{Endpoint: p.Endpoint(), Filter: cairn.All, Naming: naming, Interval: time.Hour, Now: time.Now()}); !errors.Is(err, cairn.KindIO) {
			t.Error(err)
		}
	})
}

func TestDueWithoutDatasets(t *testing.T) {
	now := time.Now()
	at, err := capture.Due(t.Context(), capture.DueOptions{Endpoint: place(t).Endpoint(), Filter: cairn.All, Interval: time.Hour, Now: now})
	if err != nil || !at.Equal(now.Add(time.Hour)) {
		t.Error(at, err)
	}
}

// TestHooks writes down every call; a hook that is told to fail does so before.
func TestHooks(t *testing.T) {
	hook := func(log *[]string, name string, filter cairn.Filter, fatal, fails bool) capture.Hook {
		return capture.Hook{Filter: filter, Fatal: fatal, Run: func(ctx context.Context, after bool, dataset, version string) error {
			word := "+"
			if after {
				word = "-"
			}
			*log = append(*log, word+name+" "+dataset+version)
			if fails && !after {
				return errors.New("the hook says no")
			}
			return ctx.Err()
		}}
	}
	onlyA := cairn.Filter{{Name: "a", Keep: true}}
	for _, c := range []struct {
		name         string
		atomic       bool
		fatal, fails bool
		calls, want  string
	}{
		{name: "around each", calls: "+one a@x +two a@x -two a@x -one a@x", want: "b@x a@x"},
		{name: "a warning", fails: true, calls: "+one a@x +two a@x -one a@x", want: "b@x a@x"},
		{name: "a fatal one", fails: true, fatal: true, calls: "+one a@x +two a@x -one a@x", want: "b@x"},
		{name: "atomic", atomic: true, calls: "+one a@x +two a@x -two a@x -one a@x", want: "a@x b@x"},
		{name: "atomic and fatal", atomic: true, fails: true, fatal: true, calls: "+one a@x +two a@x -one a@x"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, log := place(t, "a", "b"), []string{}
			report, err := capture.Run(t.Context(), capture.Options{Endpoint: p.Endpoint(), Filter: cairn.All, Name: "x", Atomic: c.atomic,
				Hooks: []capture.Hook{hook(&log, "one", onlyA, false, false), hook(&log, "two", onlyA, c.fatal, c.fails)}})
			if got := strings.Join(log, " "); got != c.calls {
				t.Errorf("calls %s\nwant %s", got, c.calls)
			}
			if got := versions(t, p); len(got) != len(c.want) {
				t.Errorf("versions %s, want %s", got, c.want)
			}
			if failed := err != nil; failed != c.fatal {
				t.Errorf("error %v", err)
			}
			if warned := report.Datasets[0].Warning != ""; warned != (c.fails && !c.fatal) {
				t.Errorf("warning %q", report.Datasets[0].Warning)
			}
		})
	}
}

// An application is told to go on even when the capture was cancelled.
func TestHookAfterACancelledCapture(t *testing.T) {
	p, over := place(t, "a"), false
	ctx, cancel := context.WithCancel(t.Context())
	_, err := capture.Run(ctx, capture.Options{Endpoint: p.Endpoint(), Filter: cairn.All, Name: "x", Hooks: []capture.Hook{{Filter: cairn.All,
		Run: func(ctx context.Context, after bool, _, _ string) error {
			cancel()
			over = over || after && ctx.Err() == nil
			return nil
		}}}})
	if err == nil || !over {
		t.Errorf("error %v, told to go on: %v", err, over)
	}
}

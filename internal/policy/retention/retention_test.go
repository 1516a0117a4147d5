package retention_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"cairn"
	"cairn/internal/policy/retention"
)

var t0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// snaps makes snapshots from "name:age" words, oldest position first.
func snaps(t *testing.T, words string) []cairn.Version {
	t.Helper()
	var vs []cairn.Version
	for w := range strings.FieldsSeq(words) {
		name, age, _ := strings.Cut(w, ":")
		d, err := time.ParseDuration(age)
		if err != nil {
			t.Fatal(err)
		}
		vs = append(vs, cairn.Version{VersionID: cairn.VersionID{Name: "@" + name, GUID: cairn.GUID(len(vs) + 1)}, Created: t0.Add(-d)})
	}
	slices.SortStableFunc(vs, func(a, b cairn.Version) int { return a.Created.Compare(b.Created) })
	for i := range vs {
		vs[i].Order = uint64(i + 1)
	}
	return vs
}

func mustCompile(t testing.TB, rules ...cairn.KeepRule) *retention.Policy {
	t.Helper()
	p, err := retention.Compile(rules)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// kept renders the names that stay, youngest first.
func kept(vs []cairn.Version, d retention.Decision) string {
	var names []string
	for i := range vs {
		if d.Keep(i) {
			names = append(names, vs[i].Name[1:])
		}
	}
	slices.Reverse(names)
	return strings.Join(names, " ")
}

func TestRules(t *testing.T) {
	no := false
	order := func(n uint64) *uint64 { return &n }
	grid := func(spec string) cairn.KeepRule { return cairn.KeepRule{Type: "grid", Regex: "^z", Grid: spec} }
	for _, c := range []struct {
		name       string
		rules      []cairn.KeepRule
		snapshots  string
		replicated *uint64
		want       string
	}{
		{name: "no rules keep everything", snapshots: "a:1h b:2h", want: "a b"},
		{name: "grid keeps the oldest of a bucket, its younger edge included", rules: []cairn.KeepRule{grid("2x1h")},
			snapshots: "za:0h zb:30m zc:1h zd:90m ze:2h", want: "zb zd"},
		{name: "grid counts from the youngest matching snapshot, not from the clock", rules: []cairn.KeepRule{grid("1x1h")},
			snapshots: "x:0h za:100h zb:100h30m zc:101h", want: "zb"},
		{name: "grid keeps K", rules: []cairn.KeepRule{grid("1x1h(keep=2)")}, snapshots: "za:0h zb:10m zc:20m zd:3h", want: "zb zc"},
		{name: "grid keep=all", rules: []cairn.KeepRule{grid("1x1h(keep=all) | 2x1h")}, snapshots: "za:0h zb:10m zc:59m zd:1h ze:90m zf:150m zg:9h", want: "za zb zc ze zf"},
		{name: "grid lists what does not match", rules: []cairn.KeepRule{grid("1x1h")}, snapshots: "za:0h other:0h", want: "za"},
		{name: "grid of nothing", rules: []cairn.KeepRule{grid("1x1h")}, snapshots: "a:0h", want: ""},
		{name: "grid lengths may fall after keep=all", rules: []cairn.KeepRule{grid("1x1d(keep=all) | 1x1h")}, snapshots: "za:0h zb:1h zc:24h10m zd:24h20m ze:26h", want: "za zb zd"},
		{name: "last_n", rules: []cairn.KeepRule{{Type: "last_n", Count: 2}}, snapshots: "a:3h b:2h c:1h", want: "c b"},
		{name: "last_n counts matching only", rules: []cairn.KeepRule{{Type: "last_n", Count: 2, Regex: "^z"}}, snapshots: "za:3h b:2h zc:1h d:0h ze:9h", want: "zc za"},
		{name: "last_n breaks ties by name, descending", rules: []cairn.KeepRule{{Type: "last_n", Count: 1}}, snapshots: "a:1h b:1h", want: "b"},
		{name: "last_n of fewer", rules: []cairn.KeepRule{{Type: "last_n", Count: 9}}, snapshots: "a:1h", want: "a"},
		{name: "regex is not anchored and sees no @", rules: []cairn.KeepRule{{Type: "regex", Regex: "an"}}, snapshots: "manual:1h auto:2h", want: "manual"},
		{name: "regex anchors at the name", rules: []cairn.KeepRule{{Type: "regex", Regex: "^m"}}, snapshots: "manual:1h auto:2h", want: "manual"},
		{name: "regex negated", rules: []cairn.KeepRule{{Type: "regex", Regex: "^auto", Negate: true}}, snapshots: "manual:1h auto:2h", want: "manual"},
		{name: "not replicated, cursor kept", rules: []cairn.KeepRule{{Type: "not_replicated"}}, snapshots: "a:3h b:2h c:1h", replicated: order(2), want: "c b"},
		{name: "not replicated, cursor free", rules: []cairn.KeepRule{{Type: "not_replicated", KeepSnapshotAtCursor: &no}}, snapshots: "a:3h b:2h c:1h", replicated: order(2), want: "c"},
		{name: "nothing replicated", rules: []cairn.KeepRule{{Type: "not_replicated"}}, snapshots: "a:3h b:2h", want: "b a"},
		{name: "max_age ends the protection", rules: []cairn.KeepRule{{Type: "not_replicated", MaxAgeSeconds: 9000}}, snapshots: "a:3h b:2h c:1h", want: "c b"},
		{name: "max_age leaves the cursor alone", rules: []cairn.KeepRule{{Type: "not_replicated", MaxAgeSeconds: 60}}, snapshots: "a:3h b:2h c:1h", replicated: order(1), want: "a"},
		{name: "a snapshot goes only when all rules list it", rules: []cairn.KeepRule{grid("1x1h"), {Type: "regex", Regex: "^m"}, {Type: "last_n", Count: 1}},
			snapshots: "za:0h zb:10m m:50h x:60h", want: "za zb m"},
	} {
		t.Run(c.name, func(t *testing.T) {
			vs := snaps(t, c.snapshots)
			d := mustCompile(t, c.rules...).Decide(vs, retention.Input{Replicated: c.replicated, Now: t0})
			if got := kept(vs, d); got != c.want {
				t.Errorf("kept %q, want %q", got, c.want)
			}
			for i := range vs {
				if r := d.Reasons(i); len(r) == 0 || strings.Contains(strings.Join(r, ""), "%!") {
					t.Errorf("%s: reasons %q", vs[i].Name, r)
				}
			}
		})
	}
}

func TestReasons(t *testing.T) {
	p := mustCompile(t, cairn.KeepRule{Type: "grid", Regex: "^z", Grid: "1x1h | 24x1h(keep=2)"}, cairn.KeepRule{Type: "last_n", Count: 1}, cairn.KeepRule{Type: "not_replicated"})
	vs := snaps(t, "za:0h zb:2h zc:130m zd:140m y:3h")
	at := vs[4].Order
	d := p.Decide(vs, retention.Input{Replicated: &at})
	for name, want := range map[string]string{
		"@za": "grid: is among the oldest 1 in bucket 1 of 1 of 1h0m0s; last_n: is among the youngest 1; not_replicated: is the version that was replicated last",
		"@zb": "grid: is not among the oldest 2 in bucket 2 of 24 of 1h0m0s; last_n: is not among the youngest 1; not_replicated: is replicated",
		"@y":  `grid: does not match "^z"; last_n: is not among the youngest 1; not_replicated: is replicated`,
	} {
		i := slices.IndexFunc(vs, func(v cairn.Version) bool { return v.Name == name })
		if got := strings.Join(d.Reasons(i), "; "); got != want {
			t.Errorf("%s:\n got %s\nwant %s", name, got, want)
		}
	}
	if got := (mustCompile(t)).Decide(vs, retention.Input{}).Reasons(0); got[0] != "no rules: everything is kept" {
		t.Errorf("%q", got)
	}
}

// Every input that crashes zrepl or that it misreads in silence is refused, by
// name and with what to write instead.
func TestCompileRefuses(t *testing.T) {
	grid := func(spec string) cairn.KeepRule { return cairn.KeepRule{Type: "grid", Regex: ".*", Grid: spec} }
	for _, c := range []struct {
		rule cairn.KeepRule
		says string
	}{
		{grid("1x1h(keep=0)"), "keep at least 1"},
		{grid("1x1h(keep=-2)"), "keep at least 1"},
		{grid("1x1h(keep=-1)"), "keep=all"},
		{grid("1x1h(keep=)"), "keep at least 1"},
		{grid("1x1h(keep=some)"), "keep at least 1"},
		{grid("1x1h(hold=1)"), "cannot be read"},
		{grid("0x1h"), "at least 1"},
		{grid("-3x1h"), "at least 1"},
		{grid("1x0h"), "no time at all"},
		{grid("1x1h30m"), "not a duration"},
		{grid("1x"), "not a duration"},
		{grid("1h"), "cannot be read"},
		{grid(""), "grid is empty"},
		{grid("1x1h |"), "cannot be read"},
		{grid("24x1d | 24x1h"), "must not decrease"},
		{grid("1x1h(keep=all) | 1x1d | 1x1h"), "must not decrease"},
		{grid("999999999999x1d"), "292 years"},
		{grid("200x52w | 100x53w"), "292 years"},
		{cairn.KeepRule{Type: "grid", Grid: "1x1h"}, "regex is empty"},
		{cairn.KeepRule{Type: "grid", Regex: "(", Grid: "1x1h"}, "cannot be read"},
		{cairn.KeepRule{Type: "regex"}, "regex is empty"},
		{cairn.KeepRule{Type: "regex", Regex: "["}, "cannot be read"},
		{cairn.KeepRule{Type: "last_n"}, "at least 1"},
		{cairn.KeepRule{Type: "last_n", Count: -4}, "at least 1"},
		{cairn.KeepRule{Type: "last_n", Count: 1, Regex: "a**"}, "cannot be read"},
		{cairn.KeepRule{Type: "not_replicated", MaxAgeSeconds: -1}, "max_age"},
		{cairn.KeepRule{Type: "keep_all"}, "no rule type"},
		{cairn.KeepRule{}, "has no type"},
	} {
		_, err := retention.Compile([]cairn.KeepRule{{Type: "last_n", Count: 1}, c.rule})
		if !errors.Is(err, cairn.KindConfig) || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "keep rule 2") {
			t.Errorf("%+v: %v; want KindConfig on rule 2 that says %q", c.rule, err, c.says)
		}
	}
}

// The grid is compared with its definition, bucket by bucket.
func TestGridAgainstDefinition(t *testing.T) {
	type span struct {
		n    int
		d    time.Duration
		keep int
	}
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		var spec []string
		var spans []span
		length := time.Hour
		for range 1 + rnd.IntN(3) {
			length += time.Duration(rnd.IntN(3)) * time.Hour
			s := span{1 + rnd.IntN(5), length, 1 + rnd.IntN(3)}
			spans = append(spans, s)
			spec = append(spec, fmt.Sprintf("%dx%dh(keep=%d)", s.n, int(s.d.Hours()), s.keep))
		}
		var vs []cairn.Version
		for i := range rnd.IntN(60) {
			vs = append(vs, cairn.Version{VersionID: cairn.VersionID{Name: fmt.Sprintf("@z%02d", i)}, Created: t0.Add(-time.Duration(rnd.IntN(40)) * 30 * time.Minute)})
		}
		d := mustCompile(t, cairn.KeepRule{Type: "grid", Regex: "z", Grid: strings.Join(spec, " | ")}).Decide(vs, retention.Input{})
		var flat []span
		for _, s := range spans {
			for range s.n {
				flat = append(flat, s)
			}
		}
		for i := range vs {
			now := vs[0].Created
			for _, v := range vs {
				if v.Created.After(now) {
					now = v.Created
				}
			}
			want, start := false, now
			for _, b := range flat {
				end := start.Add(-b.d)
				if in := func(x time.Time) bool { return x.After(end) && !x.After(start) }; in(vs[i].Created) {
					older := 0
					for j, v := range vs {
						if in(v.Created) && (v.Created.Before(vs[i].Created) || v.Created.Equal(vs[i].Created) && vs[j].Name < vs[i].Name) {
							older++
						}
					}
					want = older < b.keep
				}
				start = end
			}
			if d.Keep(i) != want {
				t.Fatalf("seed %d, grid %v, %s at -%v: kept %v, want %v", seed, spec, vs[i].Name, now.Sub(vs[i].Created), d.Keep(i), want)
			}
		}
	}
}

// many makes one dataset's history, one snapshot every ten minutes.
func many(n int) []cairn.Version {
	vs := make([]cairn.Version, n)
	for i := range vs {
		at := t0.Add(time.Duration(i-n) * 10 * time.Minute)
		vs[i] = cairn.Version{VersionID: cairn.VersionID{Name: "@zrepl_" + at.Format("20060102_150405_000"), GUID: cairn.GUID(i + 1)}, Order: uint64(i + 1), Created: at}
	}
	return vs
}

var manyRules = []cairn.KeepRule{
	{Type: "not_replicated"},
	{Type: "last_n", Count: 12},
	{Type: "grid", Regex: "^zrepl_", Grid: "1x1h(keep=all) | 24x1h | 3650x1d"},
	{Type: "regex", Regex: "^zrepl_", Negate: true},
}

// Deciding allocates per rule and per pattern, never per snapshot: the cost stays
// linear however long the history is.
func TestAllocationsDoNotGrowWithHistory(t *testing.T) {
	p := mustCompile(t, manyRules...)
	mark := uint64(1 << 40)
	measure := func(vs []cairn.Version) float64 {
		return testing.AllocsPerRun(3, func() { p.Decide(vs, retention.Input{Replicated: &mark}) })
	}
	// under the race detector the expressions' own buffers are thrown away at random
	if n := measure(many(10_000)); n > 5_000 {
		t.Errorf("%v allocations for 10,000 snapshots: at least one for each", n)
	}
}

func BenchmarkDecide100000(b *testing.B) {
	p, vs, mark := mustCompile(b, manyRules...), many(100_000), uint64(99_000)
	b.ReportAllocs()
	for b.Loop() {
		d := p.Decide(vs, retention.Input{Replicated: &mark, Now: t0})
		kept := 0
		for i := range vs {
			if d.Keep(i) {
				kept++
			}
		}
		if kept == 0 {
			b.Fatal("nothing kept")
		}
	}
}

package check_test

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"cairn"
	"cairn/internal/testkit/memory"
	"cairn/internal/work/check"
)

func fixture(p *memory.Place) check.Fixture {
	return check.Fixture{Endpoint: p.Endpoint(),
		Create: func(_ context.Context, ds string, size int64) error { return p.Create(ds, size) },
		Write:  func(_ context.Context, ds string, off int64, b []byte) error { return p.Write(ds, off, b) },
		Damage: func(_ context.Context, ds string, id cairn.VersionID, off int64) error {
			return p.Damage(ds, id.Name, off)
		}}
}

func only(t *testing.T, f check.Fixture, rule string) check.Result {
	t.Helper()
	got, err := check.Run(t.Context(), f, check.Options{Only: []string{rule}, Limit: 20 * time.Second, Patience: 200 * time.Millisecond})
	if err != nil || len(got) != 1 {
		t.Fatalf("%v, %v", got, err)
	}
	return got[0]
}

// Every rule passes on an endpoint that keeps it, fails on one that breaks it, and
// says why.
func TestEveryRuleCatchesItsFault(t *testing.T) {
	for _, r := range check.Rules() {
		t.Run(r.Name, func(t *testing.T) {
			planted := slices.DeleteFunc(slices.Clone(faults), func(f fault) bool { return f.rule != r.Name })
			if len(planted) == 0 {
				t.Fatal("no fault shows that this rule can fail")
			}
			for _, f := range planted {
				p := memory.New("here")
				fx := fixture(p)
				f.plant(fx.Endpoint, *fx.Endpoint, p)
				if res := only(t, fx, r.Name); res.Verdict != check.Failed || !strings.Contains(res.Why, f.why) {
					t.Errorf("with its fault planted: %s (%s), want it to fail with %q", res.Verdict, res.Why, f.why)
				}
			}
		})
	}
	for _, f := range faults {
		if !slices.ContainsFunc(check.Rules(), func(r check.Rule) bool { return r.Name == f.rule }) {
			t.Errorf("a fault is for %q, which is no rule", f.rule)
		}
	}
}

// A fault is seen by the rules it is about, and not by all the others: what a report
// names is where to look. CAIRN_SCALE=full, some minutes of CPU.
func TestAFaultFailsFewRules(t *testing.T) {
	if os.Getenv("CAIRN_SCALE") != "full" {
		t.Skip("CAIRN_SCALE=full runs all rules against every fault")
	}
	for _, f := range faults {
		p := memory.New("here")
		fx := fixture(p)
		f.plant(fx.Endpoint, *fx.Endpoint, p)
		got, err := check.Run(t.Context(), fx, check.Options{Limit: 20 * time.Second, Patience: 200 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		var failed []string
		for _, res := range got {
			if res.Verdict == check.Failed {
				failed = append(failed, res.Rule)
			}
		}
		t.Logf("%s (%q): %v", f.rule, f.why, failed)
		if !slices.Contains(failed, f.rule) || len(failed) > len(got)/3 {
			t.Errorf("the fault for %s fails %d of %d rules: %v", f.rule, len(failed), len(got), failed)
		}
	}
}

func TestWhatIsMissingIsNotOffered(t *testing.T) {
	p := memory.New("here")
	bare := check.Fixture{Endpoint: &cairn.Endpoint{Info: p.Endpoint().Info, Lister: p}}
	got, err := check.Run(t.Context(), bare, check.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, res := range got {
		if res.Verdict != check.NotOffered || res.Why == "" {
			// What needs no dataset can be checked on a bare lister.
			if res.Verdict == check.Passed && res.Rule == "unknown-dataset" {
				continue
			}
			t.Errorf("%s on an endpoint that only lists: %s (%s)", res.Rule, res.Verdict, res.Why)
		}
	}
}

// A place that can only receive and send is checked by what it receives.
func TestReceivedDatasetsAreEnough(t *testing.T) {
	p := memory.New("vault")
	f := check.Fixture{Endpoint: p.Endpoint()}
	if _, err := check.Run(t.Context(), f, check.Options{Only: []string{"rename", "receive-full"}}); err != nil {
		t.Fatal(err)
	}
	got, err := check.Run(t.Context(), f, check.Options{}) // beside what a run before has left
	if err != nil {
		t.Fatal(err)
	}
	passed := 0
	for _, res := range got {
		switch res.Verdict {
		case check.Passed:
			passed++
		case check.Failed:
			t.Errorf("%s: %s", res.Rule, res.Why)
		}
	}
	if passed < 40 {
		t.Errorf("only %d rules passed", passed)
	}
}

func TestARuleThatHangsIsGivenUp(t *testing.T) {
	p := memory.New("here")
	p.Hook(memory.On("verify", memory.Begin, memory.Hang))
	got, err := check.Run(t.Context(), fixture(p), check.Options{Only: []string{"verify", "estimate"}, Limit: 100 * time.Millisecond})
	if err != nil || len(got) != 2 {
		t.Fatalf("%v, %v", got, err)
	}
	if got[0].Verdict != check.Failed || !strings.Contains(got[0].Why, "no progress since") {
		t.Errorf("%+v", got[0])
	}
	if got[1].Verdict != check.Passed {
		t.Errorf("the rule after it: %+v", got[1])
	}
}

func TestDatasetsAreRemoved(t *testing.T) {
	p := memory.New("here")
	f := fixture(p)
	var removed []string
	f.Remove = func(_ context.Context, ds string) error {
		_, ds, _ = strings.Cut(ds, "/list-order/")
		removed = append(removed, ds)
		return nil
	}
	if res := only(t, f, "list-order"); res.Verdict != check.Passed {
		t.Fatal(res.Why)
	}
	if want := []string{"a/x", "a-b", "a"}; !slices.Equal(removed, want) {
		t.Errorf("removed %v, want %v", removed, want)
	}
	f.Remove = func(context.Context, string) error { return errors.New("no") }
	if res := only(t, f, "rename"); res.Verdict != check.Failed || !strings.Contains(res.Why, "remove") {
		t.Errorf("datasets that stay behind are not reported: %+v", res)
	}
}

func TestUnknownRuleIsRefused(t *testing.T) {
	_, err := check.Run(t.Context(), fixture(memory.New("here")), check.Options{Only: []string{"nonsense"}})
	if !errors.Is(err, cairn.KindNotFound) {
		t.Error(err)
	}
}

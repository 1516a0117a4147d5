// Package endpointtest runs the conformance suite (internal/work/check) as
// subtests: one per rule, skipped where the place does not offer what it needs.
//
// What can go wrong: a fixture that offers less than the author thinks passes with
// skips; Options.Offered turns those into failures.
package endpointtest

import (
	"slices"
	"testing"

	"cairn/internal/work/check"
)

// Options say what a test expects of the place.
type Options struct {
	// Offered, when set, fails rules that are not offered; NotOffered names the
	// exceptions. Rules for which the fixture has no Damage are skipped.
	Offered    bool
	NotOffered []string
}

// Run checks every rule against the fixture, each in a subtest of its own.
func Run(t *testing.T, f check.Fixture, o Options) {
	t.Helper()
	for _, r := range check.Rules() {
		t.Run(r.Name, func(t *testing.T) {
			results, err := check.Run(t.Context(), f, check.Options{Only: []string{r.Name}})
			if err != nil {
				t.Fatal(err)
			}
			res := results[0]
			switch {
			case res.Verdict == check.Failed:
				t.Errorf("%s: %s", res.Says, res.Why)
			case res.Verdict == check.NotOffered && o.Offered && !exempt(r, f, o):
				t.Errorf("not offered: %s", res.Why)
			case res.Verdict == check.NotOffered:
				t.Skip(res.Why)
			}
		})
	}
}

func exempt(r check.Rule, f check.Fixture, o Options) bool {
	return r.Damage && f.Damage == nil || slices.Contains(o.NotOffered, r.Name)
}

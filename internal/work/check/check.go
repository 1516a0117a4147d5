// Package check is the conformance suite of endpoints, as data: a list of named
// rules, each a function that checks one promise of the root package's contracts
// on datasets of its own. `cairn check endpoint` runs it against a place, and
// internal/testkit/endpointtest inside a Go test.
//
// It promises that a rule whose ability the place does not offer is reported as
// not offered, never as passed; that a rule which hangs is given up and failed; and
// that it touches only datasets below Fixture.Prefix. Rules prove nothing about
// power cuts: test/crash does.
//
// What can go wrong: the rules write some tens of MiB in all to the place, and a
// place without Fixture.Remove keeps what they made.
package check

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"cairn"
	"cairn/internal/mech/watchdog"
)

// Fixture is the place under test and what the rules need beside its abilities.
type Fixture struct {
	Endpoint *cairn.Endpoint
	Prefix   string // the datasets of a run are in a folder of their own below it; empty is "cairn-check"

	// Create makes an unsealed volume of zeroes, and Write writes to its head
	// (offset and length are multiples of 4 KiB) as its user would. When they are
	// nil, datasets are made by receiving, and rules that write are not offered.
	Create func(ctx context.Context, dataset string, size int64) error
	Write  func(ctx context.Context, dataset string, off int64, p []byte) error

	// Remove takes a dataset away with all its versions; nil leaves them behind.
	Remove func(ctx context.Context, dataset string) error

	// Damage changes a stored byte of the snapshot's block at off behind the
	// endpoint's back; nil when that cannot be done from here.
	Damage func(ctx context.Context, dataset string, id cairn.VersionID, off int64) error
}

// Rule is one promise and the function that checks it.
type Rule struct {
	Name   string          // "list-order"
	Says   string          // the promise, in one sentence
	Needs  []cairn.Ability // without all of them the rule is not offered
	Write  bool            // needs Fixture.Create and Write
	Damage bool            // needs Fixture.Damage
	run    func(l *lab)
}

// Verdict is what came out of one rule.
type Verdict string

// The verdicts.
const (
	Passed     Verdict = "passed"
	Failed     Verdict = "failed"
	NotOffered Verdict = "not offered"
)

// Result is the outcome of one rule.
type Result struct {
	Rule    string        `json:"rule"`
	Says    string        `json:"says"`
	Verdict Verdict       `json:"verdict"`
	Why     string        `json:"why,omitempty"` // of a failure, or what is not offered
	Took    time.Duration `json:"took"`
}

// Options choose what is run.
type Options struct {
	Only  []string      // names of rules; empty is all
	Limit time.Duration // a rule that takes longer is given up; 0 is two minutes

	// Patience is how long the place may take to notice that a context ended or a
	// stream was closed; 0 is ten seconds.
	Patience time.Duration

	Log  *slog.Logger
	Done func(Result) // told of each result as it comes; may be nil
}

// Rules lists all rules in the order in which they run.
func Rules() []Rule {
	return slices.Concat(listRules, versionRules, leaseRules, sendRules, receiveRules, cloneRules, resumeRules, volumeRules, callRules)
}

// Run checks the rules one after the other. The error is for the run as a whole;
// failed rules are in the results.
func Run(ctx context.Context, f Fixture, o Options) ([]Result, error) {
	if o.Limit == 0 {
		o.Limit = 2 * time.Minute
	}
	if o.Patience == 0 {
		o.Patience = 10 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if f.Prefix == "" {
		f.Prefix = "cairn-check"
	}
	f.Prefix += "/" + strconv.FormatUint(rand.Uint64(), 36) // what an earlier run left behind is not in the way
	for _, name := range o.Only {
		if !slices.ContainsFunc(Rules(), func(r Rule) bool { return r.Name == name }) {
			return nil, &cairn.Error{Op: "check endpoint", Subject: name, Kind: cairn.KindNotFound, Err: errors.New("there is no such rule")}
		}
	}
	var results []Result
	for _, r := range Rules() {
		if len(o.Only) > 0 && !slices.Contains(o.Only, r.Name) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return results, &cairn.Error{Op: "check endpoint", Place: f.Endpoint.Info.Place, Kind: cairn.KindCanceled, Err: err}
		}
		res := f.check(ctx, r, o)
		o.Log.Debug("rule checked", "rule", res.Rule, "verdict", string(res.Verdict), "why", res.Why)
		if o.Done != nil {
			o.Done(res)
		}
		results = append(results, res)
	}
	return results, nil
}

// check runs one rule under a watchdog and turns what it says into a result.
func (f Fixture) check(ctx context.Context, r Rule, o Options) Result {
	res := Result{Rule: r.Name, Says: r.Says, Verdict: Passed}
	if why := f.lacks(r); why != "" {
		res.Verdict, res.Why = NotOffered, why
		return res
	}
	begin := time.Now()
	err, _ := watchdog.Run(ctx, &watchdog.Progress{}, watchdog.Options{Op: "check rule", Subject: r.Name, Limit: o.Limit},
		func(ctx context.Context) error { return f.inLab(ctx, r, o) })
	res.Took = time.Since(begin)
	var none notOffered
	switch {
	case errors.As(err, &none):
		res.Verdict, res.Why = NotOffered, string(none)
	case err != nil:
		res.Verdict, res.Why = Failed, err.Error()
	}
	return res
}

func (f Fixture) lacks(r Rule) string {
	have := f.Endpoint.Abilities()
	for _, a := range r.Needs {
		if !slices.Contains(have, a) {
			return fmt.Sprintf("the place does not offer %q", a)
		}
	}
	if r.Write && (f.Create == nil || f.Write == nil) {
		return "volumes cannot be created and written from here"
	}
	if r.Damage && f.Damage == nil {
		return "stored bytes cannot be changed from here"
	}
	return ""
}

// failure and notOffered are how a rule ends early; inLab catches them.
type (
	failure    string
	notOffered string
)

func (f failure) Error() string    { return string(f) }
func (n notOffered) Error() string { return string(n) }

// inLab runs the rule on datasets of its own and removes them.
func (f Fixture) inLab(ctx context.Context, r Rule, o Options) (err error) {
	l := &lab{Endpoint: f.Endpoint, ctx: ctx, fixture: f, folder: f.Prefix + "/" + r.Name, patience: o.Patience}
	defer func() {
		switch end := recover().(type) {
		case nil:
		case failure:
			err = end
		case notOffered:
			err = end
		default: // whatever a place answers, the other rules are still checked
			err = failure(fmt.Sprintf("an answer that the rule cannot read: %v", end))
		}
		if cleanup := l.remove(); err == nil {
			err = cleanup
		}
	}()
	r.run(l)
	return nil
}

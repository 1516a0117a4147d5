// Package retention decides which snapshots of one dataset a set of keep rules
// keeps. It is zrepl's grammar and zrepl's meaning: every rule lists what it would
// destroy, and a snapshot goes only when all rules list it; without rules nothing
// goes.
//
//   - grid: of the snapshots that match regex, seen from the youngest of them (not
//     from the clock), adjacent buckets go back in time; in each the oldest K stay.
//     What is older than the last bucket, and what does not match, is listed.
//   - last_n: the youngest N of those that match the optional regex stay.
//   - regex: what matches stays, with negate what does not.
//   - not_replicated: what the other side does not have yet stays, up to max_age;
//     the snapshot at the cursor counts as not replicated unless
//     keep_snapshot_at_cursor is false.
//
// Regular expressions see names without their '@', and are not anchored.
//
// Compile refuses what zrepl accepts and then crashes on or reads in silence as
// something else: keep=0, negative keeps, intervals of no length, empty and broken
// expressions. A compiled Policy cannot fail, needs no clock but Input.Now, and
// costs O(n) per rule once the snapshots are in order. Leases, last common
// versions and placeholders are not its business (package work/prune).
package retention

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"sync"
	"time"

	"cairn"
)

// Policy is a compiled set of rules. It does not change and is safe for concurrent
// use.
type Policy struct {
	rules    []rule
	patterns []*regexp.Regexp // distinct; a rule refers to one by index, so that a name is matched once

	mu        sync.Mutex // guards sentences
	sentences map[opinion]string
}

// opinion is one rule's cause; few differ, so that sentences are made once.
type opinion struct {
	rule  int
	cause cause
}

// maxSentences bounds what is kept of a grid with very many buckets.
const maxSentences = 1 << 14

func (p *Policy) sentence(o opinion) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	s, made := p.sentences[o]
	if !made {
		s = p.rules[o.rule].String() + ": " + p.rules[o.rule].words(o.cause)
		if len(p.sentences) < maxSentences {
			p.sentences[o] = s
		}
	}
	return s
}

// rule is one compiled keep rule.
type rule interface {
	// judge writes into out, which follows s.versions, whether the rule keeps each
	// snapshot.
	judge(s *set, out []cause)
	// words says why, for one cause that judge wrote.
	words(c cause) string
	// String names the rule in reasons.
	String() string
}

// cause is a rule's opinion of one snapshot; words makes a sentence of it.
type cause struct {
	keep bool
	code uint8
	part int32 // grid: the interval
	nth  int64 // grid: the bucket in the interval
}

// set is what the rules look at.
type set struct {
	versions []cairn.Version
	young    []int32  // indices into versions, youngest first; equal times by name, descending
	matches  [][]bool // per pattern, per version
	Input
}

// Input is one dataset at one side.
type Input struct {
	// Replicated is the position (Version.Order, at this side) of the last version
	// that the other side confirmed; nil when there is none. Only not_replicated
	// asks for it.
	Replicated *uint64
	Now        time.Time // only max_age asks for it
}

// Compile checks the rules and makes a Policy of them. Errors are KindConfig and
// name the rule by number, from 1.
func Compile(rules []cairn.KeepRule) (*Policy, error) {
	p := &Policy{sentences: map[opinion]string{}}
	for i, r := range rules {
		compiled, err := p.compile(r)
		if err != nil {
			return nil, &cairn.Error{Op: "use", Subject: fmt.Sprintf("keep rule %d (%s)", i+1, cmp.Or(r.Type, "no type")), Kind: cairn.KindConfig, Err: err}
		}
		p.rules = append(p.rules, compiled)
	}
	return p, nil
}

// NeedsReplication reports whether a rule asks for Input.Replicated.
func (p *Policy) NeedsReplication() bool {
	return slices.ContainsFunc(p.rules, func(r rule) bool { _, is := r.(notReplicated); return is })
}

// Empty reports whether there is no rule, so that everything is kept.
func (p *Policy) Empty() bool { return len(p.rules) == 0 }

// Decision is what a Policy says of one list of snapshots.
type Decision struct {
	policy *Policy
	causes [][]cause // per rule, per snapshot
}

// Decide judges the snapshots, given in any order, bookmarks left out.
func (p *Policy) Decide(snapshots []cairn.Version, in Input) Decision {
	s := &set{versions: snapshots, young: youngestFirst(snapshots), Input: in}
	for _, re := range p.patterns {
		m := make([]bool, len(snapshots))
		for i := range snapshots {
			m[i] = re.MatchString(snapshots[i].Name[1:])
		}
		s.matches = append(s.matches, m)
	}
	d := Decision{policy: p, causes: make([][]cause, len(p.rules))}
	for i, r := range p.rules {
		d.causes[i] = make([]cause, len(snapshots))
		r.judge(s, d.causes[i])
	}
	return d
}

// Keep reports whether the snapshot with this index stays.
func (d Decision) Keep(i int) bool {
	for _, c := range d.causes {
		if c[i].keep {
			return true
		}
	}
	return len(d.causes) == 0
}

// Same reports whether the rules say the same of two snapshots, in the same words:
// neighbours in a long history often share their reasons.
func (d Decision) Same(i, j int) bool {
	for _, c := range d.causes {
		if c[i] != c[j] {
			return false
		}
	}
	return true
}

// Reasons says why: for a kept snapshot one sentence per rule that keeps it, for
// another one sentence per rule.
func (d Decision) Reasons(i int) []string {
	if len(d.causes) == 0 {
		return []string{"no rules: everything is kept"}
	}
	keep := d.Keep(i)
	reasons := make([]string, 0, len(d.causes))
	for r, c := range d.causes {
		if c[i].keep == keep {
			reasons = append(reasons, d.policy.sentence(opinion{r, c[i]}))
		}
	}
	return reasons
}

func youngestFirst(versions []cairn.Version) []int32 {
	order := make([]int32, len(versions))
	for i := range order {
		order[i] = int32(len(versions) - 1 - i) // listings are oldest first
	}
	younger := func(a, b int32) int {
		va, vb := &versions[a], &versions[b]
		if c := vb.Created.Compare(va.Created); c != 0 {
			return c
		}
		return cmp.Compare(vb.Name, va.Name)
	}
	if !slices.IsSortedFunc(order, younger) {
		slices.SortFunc(order, younger)
	}
	return order
}

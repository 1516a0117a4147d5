// Package syncpolicy decides when the index of a mounted tape is written: by
// time, at a close, because somebody asked, at unmount, again after a failure, and
// how the tape's budget for indexes slows that down. It is pure: a state and a
// time in, a decision out.
//
// # What it promises
//
//   - Policies combine. Whatever they are, unmounting writes an index when anything
//     changed, and nothing else does when nothing changed.
//   - A failed attempt is repeated with growing pauses for ever; it never ends the
//     schedule.
//   - Over the budget nobody is told yes without an index: who waits for one is
//     refused after Patience.
//
// The reasons for the budget's two steps are in docs/decisions/0901-index-budget.md.
package syncpolicy

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"cairn/internal/mech/duration"
)

// Times that hold for every policy.
const (
	DefaultEvery = 5 * time.Minute
	Slowed       = time.Minute      // the pause between indexes when half of the budget is spent
	Patience     = 60 * time.Second // how long a caller waits for an index that the budget forbids
	firstPause   = time.Second      // after the first failure; doubles
	longestPause = time.Minute
)

// Policy says when an index is written without anybody asking. The zero Policy is
// "unmount": only then, and when asked.
type Policy struct {
	Every   time.Duration // so long after the first change; 0: never by time
	OnClose bool          // before a close returns
}

// Default is time@5m.
func Default() Policy { return Policy{Every: DefaultEvery} }

// Parse reads policies that are to combine: "unmount", "close", "time" and
// "time@N" with N a duration or, as other LTFS software writes it, minutes.
func Parse(words ...string) (Policy, error) {
	var p Policy
	for _, word := range words {
		name, every, timed := strings.Cut(word, "@")
		switch {
		case word == "unmount":
		case word == "close":
			p.OnClose = true
		case word == "time":
			p.Every = DefaultEvery
		case name == "time" && timed:
			d, err := interval(every)
			if err != nil {
				return Policy{}, fmt.Errorf("%q is no sync policy: %w", word, err)
			}
			p.Every = d
		default:
			return Policy{}, fmt.Errorf("%q is no sync policy; there are unmount, close and time@N", word)
		}
	}
	return p, nil
}

func interval(text string) (time.Duration, error) {
	if minutes, err := strconv.ParseUint(text, 10, 20); err == nil {
		return time.Duration(minutes) * time.Minute, nil
	}
	d, err := duration.Parse(text)
	if err == nil && d < time.Second {
		err = fmt.Errorf("%s is shorter than a second", text)
	}
	return d, err
}

// String is the policy in the words of Parse.
func (p Policy) String() string {
	words := []string{"unmount"}
	if p.Every > 0 {
		words = append(words, "time@"+p.Every.String())
	}
	if p.OnClose {
		words = append(words, "close")
	}
	return strings.Join(words, ",")
}

// Reason is why an index is written.
type Reason uint8

// The reasons; a larger one names the index when several hold.
const (
	None Reason = iota
	ByTime
	OnClose
	Fsync
	Manual
	Unmount
	Worn // the medium cannot be written any more
)

// String is the word that other LTFS software has for it in an index's creator.
func (r Reason) String() string {
	return [...]string{"", "Periodic Sync", "Sync on close", "Fsync", "Sync by EA", "Unmount", "Write perm"}[r]
}

// Pace is how the budget stands.
type Pace uint8

// The paces.
const (
	Free      Pace = iota // as the policy says
	Slow                  // half is spent: one index a minute at most, a close waits for none
	Exhausted             // all is spent but the last index: none before unmount
)

// String is the pace in a word.
func (p Pace) String() string { return [...]string{"free", "slowed", "exhausted"}[p] }

// Budget is how many bytes of a tape indexes may take by default: 2 %, at least
// 1 GB, but on a small tape no more than a tenth.
func Budget(tapeBytes int64) int64 {
	const gigabyte = 1e9
	return max(tapeBytes/50, min(gigabyte, tapeBytes/10))
}

// PaceOf tells how a budget of limit bytes (0: none) stands when spent are on tape
// and the next index takes next bytes. Room for a last one is always kept.
func PaceOf(spent, next, limit int64) Pace {
	switch {
	case limit <= 0:
		return Free
	case spent+2*next > limit:
		return Exhausted
	case spent+next > limit/2:
		return Slow
	}
	return Free
}

// Ask is a caller who waits for an index.
type Ask struct {
	Reason Reason
	Since  time.Time
}

// State is what a decision looks at.
type State struct {
	Dirty       bool      // something is not in an index on tape
	Since       time.Time // the first such change
	LastIndex   time.Time // when the last index was written; zero: not yet
	Failures    int       // in a row
	LastFailure time.Time
	Pace        Pace
	Asks        []Ask
}

// Decision is what to do.
type Decision struct {
	Write   Reason    // not None: write an index now
	Refused []bool    // per Ask: waited for Patience, answer that the budget is spent
	Let     []bool    // per Ask: a close that the budget lets go without an index
	Next    time.Time // when to decide again if nothing happens before; zero: never
}

// Decide says what to do at a time.
func Decide(p Policy, s State, now time.Time) Decision {
	d := Decision{Refused: make([]bool, len(s.Asks)), Let: make([]bool, len(s.Asks))}
	if !s.Dirty {
		return d
	}
	asked, due := d.hear(s, now)
	if asked == Unmount {
		d.Write, d.Next = Unmount, time.Time{}
		return d
	}
	if s.Pace == Exhausted {
		return d
	}
	if at, ok := p.due(s); ok && (due.IsZero() || at.Before(due)) {
		due = at
	}
	if due.IsZero() {
		return d
	}
	if due.After(now) {
		d.wake(due)
		return d
	}
	d.Write, d.Next = max(asked, ByTime), time.Time{}
	return d
}

// hear goes through the callers: the weightiest reason of those who are still
// waiting, and when they are to be served.
func (d *Decision) hear(s State, now time.Time) (asked Reason, due time.Time) {
	for i, a := range s.Asks {
		switch {
		case a.Reason == OnClose && s.Pace != Free:
			d.Let[i] = true
			continue
		case a.Reason != Unmount && s.Pace != Free && !now.Before(a.Since.Add(Patience)) && d.late(s, now):
			d.Refused[i] = true
			continue
		}
		asked = max(asked, a.Reason)
		if at := s.allowed(a.Since); due.IsZero() || at.Before(due) {
			due = at
		}
		if s.Pace != Free {
			d.wake(a.Since.Add(Patience))
		}
	}
	return asked, due
}

// late reports whether the budget forbids an index now.
func (d *Decision) late(s State, now time.Time) bool {
	return s.Pace == Exhausted || s.allowed(now).After(now)
}

// allowed is when the budget's pace lets an index be written that is due at a
// time.
func (s State) allowed(at time.Time) time.Time {
	if next := s.LastIndex.Add(Slowed); s.Pace == Slow && !s.LastIndex.IsZero() && next.After(at) {
		return next
	}
	return at
}

// due is when the policy itself, or a failure before, wants an index.
func (p Policy) due(s State) (time.Time, bool) {
	every := p.Every
	if p.OnClose && s.Pace == Slow && (every == 0 || every > Slowed) {
		every = Slowed
	}
	if s.Failures > 0 {
		return s.allowed(s.LastFailure.Add(Pause(s.Failures))), true
	}
	return s.allowed(s.Since.Add(every)), every > 0
}

// Pause is how long to wait after so many failures in a row: a second, doubling,
// a minute at most; nothing without a failure.
func Pause(failures int) time.Duration {
	if failures <= 0 {
		return 0
	}
	return min(firstPause<<min(failures-1, 10), longestPause)
}

func (d *Decision) wake(at time.Time) {
	if d.Next.IsZero() || at.Before(d.Next) {
		d.Next = at
	}
}

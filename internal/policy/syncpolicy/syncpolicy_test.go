package syncpolicy_test

import (
	"slices"
	"testing"
	"time"

	. "cairn/internal/policy/syncpolicy"
)

var zero = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

func at(d time.Duration) time.Time { return zero.Add(d) }

func TestParse(t *testing.T) {
	for _, c := range []struct {
		words []string
		want  Policy
	}{
		{nil, Policy{}},
		{[]string{"unmount"}, Policy{}},
		{[]string{"time"}, Policy{Every: 5 * time.Minute}},
		{[]string{"time@7"}, Policy{Every: 7 * time.Minute}},
		{[]string{"time@90s"}, Policy{Every: 90 * time.Second}},
		{[]string{"time@0"}, Policy{}},
		{[]string{"close", "time@1m"}, Policy{Every: time.Minute, OnClose: true}},
	} {
		got, err := Parse(c.words...)
		if err != nil || got != c.want {
			t.Errorf("%v: %+v, %v", c.words, got, err)
		}
	}
	for _, bad := range []string{"", "time@", "time@x", "time@-1m", "time@5ms", "closed", "unmount@3"} {
		if got, err := Parse(bad); err == nil {
			t.Errorf("%q was read as %+v", bad, got)
		}
	}
}

func TestBudget(t *testing.T) {
	for _, c := range []struct{ tape, want int64 }{
		{6e12, 120e9}, {40e9, 1e9}, {50e9, 1e9}, {3e9, 300e6}, {0, 0},
	} {
		if got := Budget(c.tape); got != c.want {
			t.Errorf("tape of %d: %d, want %d", c.tape, got, c.want)
		}
	}
}

func TestDecide(t *testing.T) {
	timed, closing := Policy{Every: 5 * time.Minute}, Policy{OnClose: true}
	ask := func(r Reason, since time.Duration) Ask { return Ask{r, at(since)} }
	for _, c := range []struct {
		name   string
		policy Policy
		state  State
		now    time.Duration
		write  Reason
		next   time.Duration // -1: never
	}{
		{"nothing changed", timed, State{}, time.Hour, None, -1},
		{"nothing changed, unmount", timed, State{Asks: []Ask{ask(Unmount, 0)}}, 0, None, -1},
		{"changed just now", timed, State{Dirty: true, Since: zero}, 0, None, 5 * time.Minute},
		{"five minutes after the change", timed, State{Dirty: true, Since: zero}, 5 * time.Minute, ByTime, -1},
		{"an hour of idleness does not make it due", timed, State{Dirty: true, Since: at(time.Hour), LastIndex: zero}, time.Hour, None, time.Hour + 5*time.Minute},
		{"only unmount", Policy{}, State{Dirty: true, Since: zero}, time.Hour, None, -1},
		{"unmount", Policy{}, State{Dirty: true, Since: zero, Asks: []Ask{ask(Unmount, 0)}}, 0, Unmount, -1},
		{"fsync", Policy{}, State{Dirty: true, Since: zero, Asks: []Ask{ask(Fsync, 0)}}, 0, Fsync, -1},
		{"close and manual together", closing, State{Dirty: true, Since: zero, Asks: []Ask{ask(OnClose, 0), ask(Manual, 0)}}, 0, Manual, -1},
		{"close alone", closing, State{Dirty: true, Since: zero}, time.Hour, None, -1},
		{"failed once", Policy{}, State{Dirty: true, Since: zero, Failures: 1, LastFailure: zero}, 0, None, time.Second},
		{"failed once, a second later", Policy{}, State{Dirty: true, Since: zero, Failures: 1, LastFailure: zero}, time.Second, ByTime, -1},
		{"failed for days", timed, State{Dirty: true, Since: zero, Failures: 5000, LastFailure: zero}, time.Second, None, time.Minute},
		{"who asks is not made to wait for the pause", timed, State{Dirty: true, Since: zero, Failures: 9, LastFailure: zero, Asks: []Ask{ask(Fsync, 0)}}, 0, Fsync, -1},
		{"slowed: fsync waits for the minute", Policy{}, State{Dirty: true, Since: zero, LastIndex: zero, Pace: Slow, Asks: []Ask{ask(Fsync, time.Second)}}, time.Second, None, time.Minute},
		{"slowed: and gets it", Policy{}, State{Dirty: true, Since: zero, LastIndex: zero, Pace: Slow, Asks: []Ask{ask(Fsync, 0)}}, time.Minute, Fsync, -1},
		{"slowed: close becomes time@1m", closing, State{Dirty: true, Since: zero, Pace: Slow}, 0, None, time.Minute},
		{"slowed: a shorter time policy too", Policy{Every: 10 * time.Second}, State{Dirty: true, Since: zero, LastIndex: zero, Pace: Slow}, 10 * time.Second, None, time.Minute},
		{"exhausted: no time policy", timed, State{Dirty: true, Since: zero, Pace: Exhausted}, time.Hour, None, -1},
		{"exhausted: fsync waits", timed, State{Dirty: true, Since: zero, Pace: Exhausted, Asks: []Ask{ask(Fsync, 0)}}, 0, None, time.Minute},
		{"exhausted: unmount still writes", timed, State{Dirty: true, Since: zero, Pace: Exhausted, Asks: []Ask{ask(Unmount, 0)}}, 0, Unmount, -1},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := Decide(c.policy, c.state, at(c.now))
			if d.Write != c.write {
				t.Errorf("writes %d, want %d", d.Write, c.write)
			}
			if c.next < 0 != d.Next.IsZero() || c.next >= 0 && !d.Next.Equal(at(c.next)) {
				t.Errorf("next %v, want %v", d.Next, c.next)
			}
		})
	}
}

// Over the budget nobody is told yes: a close is let go (and the status says so),
// everybody else is refused after a minute.
func TestBudgetRefuses(t *testing.T) {
	asks := []Ask{{OnClose, zero}, {Fsync, zero}, {Manual, at(30 * time.Second)}}
	s := State{Dirty: true, Since: zero, Pace: Exhausted, Asks: asks}
	d := Decide(Policy{OnClose: true}, s, at(time.Minute))
	if d.Write != None || !slices.Equal(d.Let, []bool{true, false, false}) || !slices.Equal(d.Refused, []bool{false, true, false}) {
		t.Errorf("%+v", d)
	}
	if !d.Next.Equal(at(90 * time.Second)) {
		t.Errorf("wakes at %v", d.Next)
	}
}

func TestPaceKeepsRoomForTheLast(t *testing.T) {
	const limit, each = 1000, 10
	var spent int64
	for PaceOf(spent, each, limit) != Exhausted {
		if slow := PaceOf(spent, each, limit) == Slow; slow != (spent+each > limit/2) {
			t.Fatalf("at %d: slow %v", spent, slow)
		}
		spent += each
	}
	if spent+each > limit || spent+2*each <= limit {
		t.Errorf("stopped at %d of %d", spent, limit)
	}
	if PaceOf(1e12, 1e9, 0) != Free {
		t.Error("a budget of 0 is no limit")
	}
}

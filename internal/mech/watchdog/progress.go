package watchdog

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// maxCounters bounds what a peer can make us hold: its counters come from its
// reports. Further ones are ignored.
const maxCounters = 64

// Progress says how far one piece of work has come. One Progress serves all
// attempts of a step. The zero value is ready; all methods may be called from
// several goroutines.
type Progress struct {
	discard bool // set once, before the first use

	mu       sync.Mutex // guards all below
	phase    string
	since    time.Time // when the phase was entered
	lastMove time.Time
	counters map[string]int64
	still    map[string]time.Duration // standstill per phase, up to mark
	mark     time.Time                // up to when still is counted
	runs     int                      // calls of Run that are under way: the clock stands when there is none
}

// Report is what a Progress knew at one moment.
type Report struct {
	Phase    string           `json:"phase"`
	Since    time.Time        `json:"since"`     // when the phase was entered
	LastMove time.Time        `json:"last_move"` // when a counter last rose; the beginning when none did
	Counters map[string]int64 `json:"counters"`  // highest level of each
}

// String is for messages: "phase send since 15:04:05; bytes 4096, steps 2".
func (r Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "phase %s since %s", phaseName(r.Phase), r.Since.Format(time.TimeOnly))
	for i, c := range slices.Sorted(maps.Keys(r.Counters)) {
		sep := ", "
		if i == 0 {
			sep = "; "
		}
		fmt.Fprintf(&b, "%s%s %d", sep, c, r.Counters[c])
	}
	return b.String()
}

func phaseName(phase string) string {
	if phase == "" {
		return "start"
	}
	return phase
}

// Level reports that counter stands at level. It is progress only when the level
// is higher than any before; levels begin at 0.
func (p *Progress) Level(counter string, level int64) {
	if p.discard {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if level <= p.counters[counter] {
		return
	}
	if p.counters == nil {
		p.counters = map[string]int64{}
	}
	if _, known := p.counters[counter]; !known && len(p.counters) >= maxCounters {
		return
	}
	p.counters[counter] = level
	p.lastMove = time.Now()
	p.mark = p.lastMove
	clear(p.still)
}

// Enter says that the work is in another phase now. It is never progress.
func (p *Progress) Enter(phase string) {
	if p.discard {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.account()
	p.phase, p.since = phase, time.Now()
}

// Report tells where the work stands.
func (p *Progress) Report() Report {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.report()
}

func (p *Progress) report() Report {
	return Report{Phase: p.phase, Since: p.since, LastMove: p.lastMove, Counters: maps.Clone(p.counters)}
}

// account adds the time since mark to the phase's standstill; mu is held.
func (p *Progress) account() {
	now := time.Now()
	if p.runs > 0 {
		if p.still == nil {
			p.still = map[string]time.Duration{}
		}
		p.still[p.phase] += now.Sub(p.mark)
	}
	p.mark = now
}

// start lets the clock run while at least one Run is under way.
func (p *Progress) start() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.account()
	p.runs++
	if p.since.IsZero() {
		p.since = p.mark
	}
	if p.lastMove.IsZero() {
		p.lastMove = p.mark
	}
}

func (p *Progress) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.account()
	p.runs--
}

// overdue tells how long the current phase may still stand, or which phase stood
// too long: the work may have left it in the last moment.
func (p *Progress) overdue(limit func(phase string) time.Duration) (*Stall, time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.account()
	for _, phase := range slices.Sorted(maps.Keys(p.still)) {
		if l := limit(phase); l > 0 && p.still[phase] >= l {
			return &Stall{Report: p.report(), In: phase, Limit: l, Still: p.still[phase]}, 0
		}
	}
	if l := limit(p.phase); l > 0 {
		return nil, l - p.still[p.phase]
	}
	return nil, maxTick
}

type progressKey struct{}

var discarding = &Progress{discard: true}

// With returns a context that carries p to the code that does the work.
func With(ctx context.Context, p *Progress) context.Context {
	return context.WithValue(ctx, progressKey{}, p)
}

// From returns the Progress of ctx; never nil: without one, what is reported is
// forgotten.
func From(ctx context.Context) *Progress {
	if p, ok := ctx.Value(progressKey{}).(*Progress); ok && p != nil {
		return p
	}
	return discarding
}

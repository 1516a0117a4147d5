package watchdog

import (
	"context"
	"errors"
	"fmt"
	"time"

	"cairn"
)

// Blocked as a phase's limit says that the phase waits for the outside world: it
// is never stuck, and its time is not held against other phases.
const Blocked time.Duration = -1

// DefaultLimit holds for phases that Options do not name. One minute, tried by
// others first, killed healthy work; ten did not.
const DefaultLimit = 10 * time.Minute

const (
	defaultGrace = 10 * time.Second
	maxTick      = time.Second // a phase with a shorter limit is noticed this late at most
)

// Options say when work is stuck and what is done then.
type Options struct {
	Op      string // verb phrase of the error: "replicate"; empty is "finish"
	Subject string // what the error names
	Place   string // where it happens, when that is not here

	Limits map[string]time.Duration // per phase; Blocked for a phase that waits for the outside world
	Limit  time.Duration            // of the other phases; 0 is DefaultLimit
	Grace  time.Duration            // the work has this long to return after the cancel; 0 is 10 s
	Ladder []Rung                   // climbed after the cancel

	// Quarantine, when not nil, keeps Lock locked while work that was abandoned
	// has not returned; Run refuses to start on what is locked, with KindBusy.
	Quarantine *Quarantine
	Lock       string
}

// Rung is one escalation. Do runs in a goroutine of its own, so that it cannot
// hang the watchdog; after it the work has Grace (0: Options.Grace) to return.
type Rung struct {
	Name  string // as in "sent TERM"; appears in the error
	Do    func()
	Grace time.Duration
}

// Stall is the cause inside the error of work that was stuck.
type Stall struct {
	Report
	In        string        // the phase that stood too long
	Limit     time.Duration // its limit
	Still     time.Duration // spent in it since something last moved
	Climbed   []string      // names of the rungs that were tried
	Abandoned bool
}

// Error says since when nothing moved, in which phase, and the last counters.
func (s *Stall) Error() string {
	text := fmt.Sprintf("no progress since %s, limit of phase %s is %s (%s)",
		s.LastMove.Format(time.DateTime), phaseName(s.In), s.Limit, s.Report)
	for _, name := range s.Climbed {
		text += ", " + name
	}
	if s.Abandoned {
		text += ", did not end"
	}
	return text
}

// Run calls fn with a context that carries p and returns what fn returns, unless
// p stands still for the limit of its phase: then the context is cancelled, the
// ladder is climbed rung by rung until fn returns, and the error is KindStuck with
// a *Stall inside. An fn that succeeds after all has succeeded.
//
// With abandoned, fn has not returned: it may go on using what it was given. This
// happens too when ctx ends and fn does not within the same ladder; the error is
// then KindCanceled.
func Run(ctx context.Context, p *Progress, o Options, fn func(ctx context.Context) error) (err error, abandoned bool) {
	if err := o.Quarantine.refuse(o); err != nil {
		return err, false
	}
	w := &watch{Options: o, progress: p, done: make(chan error, 1)}
	work, cancel := context.WithCancelCause(With(ctx, p))
	defer cancel(nil)
	w.cancel = cancel
	p.start()
	defer p.stop()
	release := o.Quarantine.enter(o.Lock)
	go func() {
		err := fn(work)
		release()
		w.done <- err
	}()
	return w.wait(ctx)
}

// watch is one Run.
type watch struct {
	Options
	progress *Progress
	done     chan error
	cancel   context.CancelCauseFunc
}

func (w *watch) limit(phase string) time.Duration {
	if l, ok := w.Limits[phase]; ok {
		return l
	}
	if w.Limit == 0 {
		return DefaultLimit
	}
	return w.Limit
}

func (w *watch) wait(ctx context.Context) (error, bool) {
	for {
		stall, left := w.progress.overdue(w.limit)
		if stall != nil {
			return w.stuck(stall)
		}
		timer := time.NewTimer(min(left, maxTick))
		select {
		case err := <-w.done:
			timer.Stop()
			return err, false
		case <-ctx.Done():
			timer.Stop()
			return w.ended(ctx)
		case <-timer.C:
		}
	}
}

func (w *watch) stuck(stall *Stall) (error, bool) {
	w.cancel(stall)
	climbed, returned, err := w.climb()
	if returned && err == nil {
		return nil, false
	}
	stall.Climbed, stall.Abandoned = climbed, !returned
	out := &cairn.Error{Op: w.op(), Subject: w.Subject, Place: w.Place, Kind: cairn.KindStuck, Err: stall,
		Hint: "it was cancelled and its slot is free; the next attempt continues where it can"}
	if !returned {
		w.Quarantine.keep(w.Lock, out)
	}
	return out, !returned
}

// ended handles a ctx that is done before fn returned.
func (w *watch) ended(ctx context.Context) (error, bool) {
	climbed, returned, err := w.climb()
	if returned {
		return err, false
	}
	cause := ctx.Err()
	if c := context.Cause(ctx); !errors.Is(c, cause) {
		cause = fmt.Errorf("%w: %w", cause, c)
	}
	out := &cairn.Error{Op: w.op(), Subject: w.Subject, Place: w.Place, Kind: cairn.KindCanceled,
		Err: fmt.Errorf("%w; it did not end (%s; tried: cancel%s)", cause, w.progress.Report(), list(climbed))}
	w.Quarantine.keep(w.Lock, out)
	return out, true
}

func list(names []string) string {
	text := ""
	for _, n := range names {
		text += ", " + n
	}
	return text
}

func (w *watch) op() string {
	if w.Op == "" {
		return "finish"
	}
	return w.Op
}

// climb waits for fn after the cancel and after each rung. It tells the rungs it
// tried and whether fn returned.
func (w *watch) climb() (climbed []string, returned bool, err error) {
	grace := w.Grace
	if grace == 0 {
		grace = defaultGrace
	}
	wait := grace
	for _, r := range w.Ladder {
		if err, returned = w.await(wait); returned {
			return climbed, true, err
		}
		climbed = append(climbed, r.Name)
		go r.Do()
		wait = grace
		if r.Grace > 0 {
			wait = r.Grace
		}
	}
	err, returned = w.await(wait)
	return climbed, returned, err
}

func (w *watch) await(d time.Duration) (error, bool) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case err := <-w.done:
		return err, true
	case <-timer.C:
		return nil, false
	}
}

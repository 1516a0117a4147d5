package job

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"cairn"
)

const (
	scheduleGap  = time.Second      // least time between the end of a run and a scheduled one
	failureGap   = time.Minute      // the same, at most, after failures
	clockCheck   = 10 * time.Second // how often the wall clock is looked at while waiting
	scheduleTime = time.Minute      // limit for asking Next
	liveSteps    = 200              // steps of a running run that Status shows
)

// Run drives the job until the context ends. The run under way is then given the
// grace time to end and recorded as interrupted. It is called once.
func (j *Job) Run(ctx context.Context) {
	defer j.stop()
	j.looked, j.lookedRan = j.clock.now(), j.clock.ran()
	j.after = j.looked
	j.schedule(ctx)
	for j.wait(ctx) {
		now := j.clock.now()
		if j.takeReset() || !j.askAt.IsZero() && !now.Before(j.askAt) {
			j.schedule(ctx)
		}
		p := j.take(now)
		if p == nil {
			continue
		}
		if p.scheduled {
			j.after = now
		}
		j.execute(ctx, p)
		j.schedule(ctx)
	}
}

// stop refuses what still waits.
func (j *Job) stop() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.stopped = true
	j.next = time.Time{}
	if p := j.pending; p != nil {
		p.err = &cairn.Error{Op: "run job", Subject: j.o.Name, Kind: cairn.KindUnavailable, Hint: "the daemon is ending"}
		close(p.began)
		j.pending = nil
	}
}

// schedule asks when the next run is due.
func (j *Job) schedule(ctx context.Context) {
	var problem string
	j.due, j.askAt = time.Time{}, time.Time{}
	if j.o.Next != nil && ctx.Err() == nil {
		limited, cancel := context.WithTimeout(ctx, scheduleTime)
		due, err := j.o.Next(limited, j.after)
		cancel()
		if err == nil {
			j.due = due.Round(0)
		} else if ctx.Err() == nil {
			problem = err.Error()
			j.askAt = j.clock.now().Add(failureGap)
			j.log.Warn("cannot tell when the job is due; asking again later", "err", err, "kind", cairn.KindOf(err), "hint", cairn.HintOf(err))
		}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.problem = problem
	j.next = j.soonestRun()
}

// soonestRun is when the next run begins by itself; zero is never.
func (j *Job) soonestRun() time.Time {
	due := j.due
	if !due.IsZero() && due.Before(j.earliest) {
		due = j.earliest
	}
	return sooner(due, j.retryAt)
}

// sooner is the earlier of two times, of which zero is never.
func sooner(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// wait returns true when a request came or the soonest time did, false when the
// context ended. It looks at the wall clock again and again: a timer alone would
// sleep through a suspend of the machine.
func (j *Job) wait(ctx context.Context) bool {
	for {
		j.heedStep()
		at := sooner(j.soonestRun(), j.askAt)
		left := clockCheck
		if !at.IsZero() {
			left = min(left, at.Sub(j.clock.now()))
		}
		if left <= 0 {
			return ctx.Err() == nil
		}
		timer := time.NewTimer(left)
		select {
		case <-ctx.Done():
			timer.Stop()
			return false
		case <-j.wake:
			timer.Stop()
			return ctx.Err() == nil
		case <-timer.C:
		}
	}
}

// takeReset does what Reset asked for.
func (j *Job) takeReset() bool {
	j.mu.Lock()
	reset := j.reset
	j.reset = false
	if reset {
		j.failures = 0
	}
	j.mu.Unlock()
	if !reset {
		return false
	}
	j.retryAt, j.failed, j.earliest = time.Time{}, nil, time.Time{}
	j.after = j.clock.now()
	if j.o.Reset != nil {
		j.o.Reset()
	}
	j.log.Info("job was reset")
	return true
}

// take makes one request of everything that is to be done now; nil when nothing is.
func (j *Job) take(now time.Time) *pending {
	j.mu.Lock()
	defer j.mu.Unlock()
	p := j.pending
	j.pending = nil
	add := func(cause Cause, verbs []string) {
		if p == nil {
			p = newPending(cause, verbs, nil)
			return
		}
		p.merge(verbs, nil)
	}
	if !j.due.IsZero() && !now.Before(j.due) {
		add(BySchedule, nil)
		p.scheduled = true
	}
	if !j.retryAt.IsZero() && !now.Before(j.retryAt) {
		add(ByRetry, j.failed)
		j.retryAt = time.Time{}
	}
	return p
}

// execute carries out one run.
func (j *Job) execute(ctx context.Context, p *pending) {
	runCtx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	j.begin(p, cancel)
	var first error
	cut := false // verbs were left out because the run was ended
	for _, v := range j.o.Verbs {
		if !p.wants(v.Name) || first != nil && !v.Always {
			continue
		}
		if cut = runCtx.Err() != nil; cut {
			break
		}
		err := j.verb(runCtx, ctx, v, p)
		j.remember(v.Name, p, err)
		first = worse(first, err)
	}
	state := Done
	if cut || first != nil {
		state = outcome(runCtx, ctx, first)
	}
	j.end(state, first)
}

// remember keeps which verbs wait for a success. One that covered some datasets
// only proves nothing about the others.
func (j *Job) remember(verb string, p *pending, err error) {
	at := slices.Index(j.failed, verb)
	switch {
	case err != nil && at < 0:
		j.failed = append(j.failed, verb)
	case err == nil && at >= 0 && p.datasets == nil:
		j.failed = slices.Delete(j.failed, at, at+1)
	}
}

// worse keeps the first error, but lets one about being stuck stand before others.
func worse(first, err error) error {
	if first == nil || err != nil && errors.Is(err, cairn.KindStuck) && !errors.Is(first, cairn.KindStuck) {
		return err
	}
	return first
}

// outcome names how a run or verb ended that did not do all it should have.
func outcome(runCtx, ctx context.Context, err error) State {
	switch {
	case ctx.Err() != nil:
		return Interrupted
	case runCtx.Err() != nil:
		return Canceled
	case errors.Is(err, cairn.KindStuck):
		return Stuck
	}
	return Failed
}

// begin records the run and tells those who wait for it.
func (j *Job) begin(p *pending, cancel context.CancelCauseFunc) {
	r := &Run{Job: j.o.Name, Cause: p.cause, Merged: p.merged, Datasets: p.datasets, State: Running, Started: time.Now()}
	id, err := j.o.History.Begin(*r)
	j.recorded(err)
	r.ID = id
	j.mu.Lock()
	j.current, j.cancel, j.finished = r, cancel, make(chan struct{})
	p.run = r.copied()
	j.mu.Unlock()
	close(p.began)
	j.log.Info("run began", "run", id, "cause", string(p.cause))
}

// recorded says once that the history cannot be written, and once that it can again.
func (j *Job) recorded(err error) {
	j.mu.Lock()
	changed := j.unlogged != (err != nil)
	j.unlogged = err != nil
	j.mu.Unlock()
	switch {
	case !changed:
	case err != nil:
		j.log.Error("history is not recorded", "err", err, "kind", cairn.KindOf(err), "hint", cairn.HintOf(err))
	default:
		j.log.Info("history is recorded again")
	}
}

// verb runs one verb. Only the end of ctx, the daemon's, lets it go before it
// returns.
func (j *Job) verb(runCtx, ctx context.Context, v Verb, p *pending) error {
	record := VerbRecord{Verb: v.Name, State: Running, Started: time.Now()}
	j.mu.Lock()
	run := j.current
	index := len(run.Verbs)
	run.Verbs = append(run.Verbs, record)
	j.mu.Unlock()

	in := Input{Run: run.ID, Datasets: p.datasets, Step: func(s Step) { j.step(run, v.Name, s) }}
	done := make(chan error, 1)
	go func() { done <- v.Run(runCtx, in) }()
	err := j.await(ctx, v.Name, done)

	record.Ended, record.State, record.Failure = time.Now(), Done, failureOf(err)
	if err != nil {
		record.State = outcome(runCtx, ctx, err)
	}
	j.mu.Lock()
	run.Verbs[index] = record
	j.mu.Unlock()
	j.recorded(j.o.History.Verb(record))
	return err
}

func (j *Job) await(ctx context.Context, verb string, done <-chan error) error {
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	grace := time.NewTimer(j.o.Grace)
	defer grace.Stop()
	select {
	case err := <-done:
		return err
	case <-grace.C:
		return &cairn.Error{Op: verb, Subject: j.o.Name, Kind: cairn.KindStuck, Err: fmt.Errorf("did not end within %v of being told to", j.o.Grace)}
	}
}

// step records a step, unless its run is over: a verb that was left behind may
// still report.
func (j *Job) step(run *Run, verb string, s Step) {
	if s.Verb == "" {
		s.Verb = verb
	}
	j.mu.Lock()
	over := j.current != run
	if !over {
		if len(run.Steps) >= liveSteps {
			run.Steps = slices.Delete(run.Steps, 0, 1)
			run.Omitted++
		}
		run.Steps = append(run.Steps, s)
	}
	j.mu.Unlock()
	if over {
		return
	}
	if s.Error != "" {
		j.log.Warn("step failed", "dataset", s.Dataset, "step", s.Verb+" "+s.To, "err", s.Error, "kind", s.Kind, "hint", s.Hint)
	}
	j.recorded(j.o.History.Step(s))
}

// end records the run's end and decides what its failures lead to.
func (j *Job) end(state State, err error) {
	now := time.Now()
	f := failureOf(err)
	j.recorded(j.o.History.End(state, now, f))
	j.mu.Lock()
	run := j.current
	run.State, run.Ended, run.Failure = state, now, f
	j.last, j.current, j.cancel = run, nil, nil
	close(j.finished)
	switch {
	case len(j.failed) == 0:
		j.failures = 0
	case state == Failed || state == Stuck:
		j.failures++
	}
	failures := j.failures
	j.mu.Unlock()
	j.pause(j.clock.now(), state, err, failures)
	j.report(run, err)
}

// pause sets when the schedule may go on and when failed verbs are tried again.
func (j *Job) pause(now time.Time, state State, err error, failures int) {
	j.earliest = now.Add(min(failureGap, scheduleGap<<min(failures, 10)))
	if failures == 0 {
		j.retryAt = time.Time{}
		return
	}
	if state != Failed && state != Stuck || j.o.Retry == nil || !retryable(err) {
		return
	}
	if wait := j.o.Retry(failures); wait > 0 {
		j.retryAt = now.Add(wait)
	}
}

// retryable leaves out errors that only a person can end.
func retryable(err error) bool {
	switch cairn.KindOf(err) {
	case cairn.KindInvalid, cairn.KindConfig, cairn.KindUnsupported, cairn.KindPermission, cairn.KindAuth, cairn.KindConflict:
		return false
	}
	return true
}

func (j *Job) report(run *Run, err error) {
	took := run.Ended.Sub(run.Started).Round(time.Millisecond)
	switch run.State {
	case Failed, Stuck:
		j.log.Error("run "+string(run.State), "run", run.ID, "took", took, "err", err, "kind", cairn.KindOf(err), "hint", cairn.HintOf(err))
	default:
		j.log.Info("run "+string(run.State), "run", run.ID, "took", took, "steps", len(run.Steps))
	}
}

// Backoff is the usual Retry: 10 s, doubled with each failure, at most 10 min.
func Backoff(failures int) time.Duration {
	return min(10*time.Minute, 10*time.Second<<min(failures-1, 10))
}

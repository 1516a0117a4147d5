package replicate

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"cairn"
	"cairn/internal/mech/retry"
	"cairn/internal/mech/watchdog"
	"cairn/internal/policy/plan"
)

// task is one dataset's part of a run. Planning makes it; from then on only the
// goroutine of its work touches it, except for the node, which Live guards, and
// first, which children wait for.
type task struct {
	*run
	dataset  string
	todo     todo
	planned  bool // todo is a plan that was not tried yet
	above    []*task
	origin   *task         // of a clone that begins; nil: it waits for none
	done     chan struct{} // closed when the task ended; nil: no clone waits for it
	move     *plan.Move    // under which other name the receiver has it; nil: under its own, or not at all
	first    chan struct{} // closed when the receiver has the dataset, or will not get it in this run; nil: it has it
	arrived  bool          // what closed first; set before
	progress map[cairn.GUID]*watchdog.Progress
	place    func(context.Context) (func(), error) // in the queue for the first slot; nil once used
	node     *node
	err      error
}

func (r *run) newTask(dataset string) *task {
	return &task{run: r, dataset: dataset, progress: map[cairn.GUID]*watchdog.Progress{},
		node: &node{report: DatasetReport{Dataset: dataset, State: Waiting}}}
}

// take stores the first plan. The task is not in the tree yet.
func (t *task) take(w todo, err error) {
	if err != nil {
		t.end(err)
		return
	}
	t.todo, t.planned = w, true
	t.node.report.LeftOut = len(w.plan.LeftOut)
	if w.nothing() {
		t.node.report.State = UpToDate
	}
}

// settled reports whether planning left nothing to do.
func (t *task) settled() bool { return t.err != nil || t.todo.nothing() }

// end writes the outcome down.
func (t *task) end(err error) {
	t.err = err
	state, text, kind := outcome(err)
	t.live.update(func() {
		d := &t.node.report
		d.State, d.BlockedOn, d.Error, d.ErrorKind = state, OnNothing, text, kind
	})
	t.open(err == nil)
	if t.done != nil {
		close(t.done)
	}
}

// open lets the children go on.
func (t *task) open(arrived bool) {
	if t.first == nil {
		return
	}
	select {
	case <-t.first:
	default:
		t.arrived = arrived
		close(t.first)
	}
}

func (t *task) blocked(on Wait) {
	t.live.update(func() {
		t.node.report.BlockedOn = on
		t.node.report.State = Running
		if on != OnNothing {
			t.node.report.State = Waiting
		}
	})
}

// work carries the plan out, in as many attempts as get somewhere.
func (t *task) work(ctx context.Context) {
	err := t.awaitParents(ctx)
	if err == nil {
		err = t.awaitOrigin(ctx)
	}
	for again := err == nil; again; {
		again, err = t.round(ctx)
	}
	if cairn.KindOf(err) != cairn.KindStuck {
		t.releasePlan(ctx)
	}
	t.end(err)
}

func (t *task) awaitParents(ctx context.Context) error {
	for _, p := range t.above {
		t.blocked(OnParent)
		select {
		case <-p.first:
		case <-ctx.Done():
			return t.canceled(ctx)
		}
		if !p.arrived {
			return &cairn.Error{Op: "replicate", Subject: t.dataset, Kind: cairn.KindUnavailable,
				Err: fmt.Errorf("%s, which comes first, could not be replicated", p.dataset)}
		}
	}
	return nil
}

func (t *task) canceled(ctx context.Context) error {
	return &cairn.Error{Op: "replicate", Subject: t.dataset, Kind: cairn.KindCanceled, Err: context.Cause(ctx)}
}

// round makes attempts until one succeeds, fails for good, or gets somewhere
// before it fails: then a new round, with all its attempts, begins at once.
func (t *task) round(ctx context.Context) (again bool, err error) {
	policy := t.Retry
	policy.Again = transient
	waiting := policy.Waiting
	policy.Waiting = func(attempt int, err error, wait time.Duration) {
		t.blocked(OnRetry)
		t.Log.Warn("will try again", "dataset", t.dataset, "attempt", attempt, "wait", wait, "err", err)
		if waiting != nil {
			waiting(attempt, err, wait)
		}
	}
	err = retry.Do(ctx, policy, func(ctx context.Context, _ int) error {
		moved, err := t.attempt(ctx)
		if again = err != nil && moved && transient(err) && ctx.Err() == nil; again {
			return nil
		}
		return err
	})
	return again, err
}

// transient reports whether a new plan may do better: the connection or the stream
// broke, or the places are not any more what they were when they were listed.
func transient(err error) bool {
	var c *plan.Conflict
	if errors.As(err, &c) {
		return false
	}
	switch cairn.KindOf(err) {
	case cairn.KindUnavailable, cairn.KindIO, cairn.KindCorrupt, cairn.KindCanceled,
		cairn.KindBusy, cairn.KindConflict, cairn.KindNotFound, cairn.KindExists:
		return true
	}
	return false
}

// shownAttempts bounds a report: a bad line that lets a little through each time
// makes many.
const shownAttempts = 10

// attempt carries one plan out; the first uses what planning made. It tells
// whether it got anywhere. The first step runs in the slot that the plan was
// prepared in; each further one queues again.
func (t *task) attempt(ctx context.Context) (moved bool, err error) {
	a := &attemptNode{report: Attempt{Began: time.Now()}}
	t.live.update(func() {
		kept := t.node.attempts
		if len(kept) == shownAttempts {
			kept = kept[1:]
		}
		t.node.attempts = append(kept, a)
	})
	moved, err = t.steps(ctx, a)
	_, text, kind := outcome(err)
	t.live.update(func() { a.report.Ended, a.report.Error, a.report.ErrorKind = time.Now(), text, kind })
	return moved, err
}

func (t *task) steps(ctx context.Context, a *attemptNode) (moved bool, err error) {
	release, err := t.slot(ctx, 0)
	if err != nil {
		return false, err
	}
	defer func() { release() }()
	if err := t.prepare(ctx); err != nil {
		return false, err
	}
	a.plan(t)
	for i := range t.todo.plan.Steps {
		if i > 0 {
			release()
			if release, err = t.slot(ctx, i); err != nil {
				release = func() {}
				return moved, err
			}
		}
		stepMoved, err := t.step(ctx, t.todo.plan.Steps[i], a.steps[i])
		moved = moved || stepMoved
		if err != nil {
			return moved, err
		}
	}
	return moved, nil
}

// plan shows the steps of the task's plan in the tree.
func (a *attemptNode) plan(t *task) {
	steps := make([]*stepNode, len(t.todo.plan.Steps))
	for i, s := range t.todo.plan.Steps {
		p := t.progress[s.To.GUID]
		if p == nil {
			p = &watchdog.Progress{}
			t.progress[s.To.GUID] = p
		}
		steps[i] = &stepNode{progress: p, report: StepReport{From: s.From.Name, To: s.To.Name,
			Resumed: s.Resume != nil, BytesExpected: s.Size, State: Waiting}}
	}
	t.live.update(func() { a.steps = steps })
}

// prepare makes the plan ready: anew after a failed attempt, what an earlier run
// did not book is booked, a cut receive that cannot go on is given up, and sizes
// are estimated.
func (t *task) prepare(ctx context.Context) error {
	w, err, _ := watchdog.Value(ctx, &watchdog.Progress{}, t.watch("prepare replication of", t.dataset), t.ready)
	if err == nil {
		t.todo, t.planned, t.move = w, false, nil
		t.live.update(func() { t.node.report.LeftOut, t.node.report.Whole = len(w.plan.LeftOut), w.plan.Whole })
		if why := w.plan.Whole; why != "" {
			t.Log.Info("a clone is sent whole", "dataset", t.dataset, "why", why)
		}
	}
	return err
}

// priority of the slot for a step: the age of its target. Bookkeeping goes first.
func (w *todo) priority(step int) int64 {
	if step >= len(w.created) {
		return math.MinInt64
	}
	return w.created[step].UnixNano()
}

// queue takes the task's place for its first slot before it begins to run.
func (t *task) queue() {
	if len(t.above) == 0 && t.origin == nil {
		t.place = t.slots.Queue(t.todo.priority(0))
	}
}

// slot waits for one of the run's slots, the oldest target first.
func (t *task) slot(ctx context.Context, step int) (release func(), err error) {
	t.blocked(OnSlot)
	wait := t.place
	if t.place = nil; wait == nil {
		wait = t.slots.Queue(t.todo.priority(step))
	}
	if release, err = wait(ctx); err == nil {
		t.blocked(OnNothing)
	}
	return release, err
}

// ready is prepare's work. It changes nothing of the task, which goes on without
// it when it is abandoned.
func (t *task) ready(ctx context.Context) (w todo, err error) {
	progress := watchdog.From(ctx)
	if w = t.todo; !t.planned {
		progress.Enter("plan")
		if err = t.follow(ctx); err != nil {
			return w, err
		}
		progress.Enter("plan")
		if w, err = t.planAgain(ctx); err != nil {
			return w, err
		}
	}
	progress.Enter("confirm")
	if !w.confirm.IsZero() {
		if err := t.lease(ctx, t.dataset, cairn.PurposeCursor, w.confirm); err != nil {
			return w, err
		}
	}
	if w.stale {
		if err := t.releaseStep(ctx, t.dataset); err != nil {
			return w, err
		}
	}
	if why := w.plan.Abort; why != "" {
		t.Log.Warn("cut receive given up", "dataset", t.dataset, "why", why)
		progress.Enter("abort")
		if err := t.Receiver.Receiver.Abort(ctx, t.dataset); err != nil {
			return w, err
		}
	}
	progress.Enter("estimate")
	w.plan.Steps = t.estimated(ctx, w.plan.Steps)
	return w, nil
}

// planAgain lists one dataset at both places and plans it anew.
func (t *task) planAgain(ctx context.Context) (todo, error) {
	for pair, err := range t.pairs(ctx, []string{t.dataset}) {
		if err != nil {
			return todo{}, err
		}
		if pair.Name == t.dataset && pair.Sender != nil {
			origin, err := t.originThere(ctx, pair.Sender, pair.Receiver)
			if err != nil {
				return todo{}, err
			}
			return t.plan(pair.Sender, pair.Receiver, origin)
		}
	}
	return todo{}, &cairn.Error{Op: "replicate", Subject: t.dataset, Place: t.Sender.Info.Place, Kind: cairn.KindNotFound,
		Hint: "it was there when the run began"}
}

// estimated returns the steps with sizes where the sender knows them. Not to know
// is no error.
func (t *task) estimated(ctx context.Context, steps []cairn.Step) []cairn.Step {
	if t.Sender.Estimates == nil || len(steps) == 0 {
		return steps
	}
	sizes, err := t.Sender.Estimates.Estimate(ctx, steps)
	if err != nil || len(sizes) != len(steps) {
		t.Log.Debug("sizes not estimated", "dataset", t.dataset, "err", err)
		return steps
	}
	steps = slices.Clone(steps)
	for i := range steps {
		steps[i].Size = sizes[i]
	}
	return steps
}

// step runs one step under the watchdog and tells whether it got anywhere.
func (t *task) step(ctx context.Context, step cairn.Step, n *stepNode) (moved bool, err error) {
	t.live.update(func() { n.report.State, n.report.Began = Running, time.Now() })
	before := n.progress.Report().Counters
	m := &movement{run: t.run, step: step, moved: &n.moved}
	err, _ = watchdog.Run(ctx, n.progress, t.watch("replicate", t.dataset), m.do)
	moved = err == nil || further(before, n.progress.Report().Counters)
	state, text, kind := outcome(err)
	t.live.update(func() {
		n.report.State, n.report.Ended, n.report.Error, n.report.ErrorKind = state, time.Now(), text, kind
	})
	if t.StepDone != nil {
		t.StepDone(t.dataset, n.snapshot())
	}
	if err == nil {
		t.Log.Info("replicated", "dataset", t.dataset, "from", step.From.Name, "to", step.To.Name, "bytes", n.moved.Load())
		t.open(true)
	}
	return moved, err
}

// further reports whether a step got further than ever before. The CPU time of a
// program that fails again and again is no way forward.
func further(before, after map[string]int64) bool {
	return after["bytes"] > before["bytes"] || after["received"] > before["received"]
}

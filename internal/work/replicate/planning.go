package replicate

import (
	"context"
	"slices"
	"strings"
	"time"

	"cairn"
	"cairn/internal/mech/retry"
	"cairn/internal/mech/watchdog"
	"cairn/internal/policy/plan"
	"cairn/internal/policy/retention"
)

// planAll lists both places and makes a task of every dataset that the sender has.
// What may pass is tried again.
func (r *run) planAll(ctx context.Context) error {
	progress := &watchdog.Progress{}
	r.live.update(func() { r.live.planning = progress })
	defer r.live.update(func() { r.live.planning = nil })
	policy := r.Retry
	policy.Again = transient
	return retry.Do(ctx, policy, func(ctx context.Context, _ int) error {
		tasks, err, _ := watchdog.Value(ctx, progress, r.watch("plan replication", ""), r.listAll)
		if err != nil {
			return err
		}
		r.tasks = tasks
		nodes := make([]*node, len(tasks))
		for i, t := range tasks {
			nodes[i] = t.node
		}
		r.live.update(func() { r.live.nodes = nodes })
		return nil
	})
}

func (r *run) listAll(ctx context.Context) ([]*task, error) {
	progress := watchdog.From(ctx)
	progress.Enter("plan")
	var tasks []*task
	byName := map[string]*task{} // initial ones: their children wait for them
	found := map[string]bool{}
	var names places
	origins := map[*task]string{} // of clones that begin
	for pair, err := range r.pairs(ctx, r.Names) {
		if err != nil {
			return nil, err
		}
		names.add(pair)
		if pair.Sender == nil {
			continue
		}
		t := r.newTask(pair.Name)
		t.take(r.plan(pair.Sender, pair.Receiver, plan.Origin{Why: "its origin was not looked for yet"}))
		if begins(pair.Sender, pair.Receiver) {
			origins[t], t.planned = pair.Sender.Dataset.Origin.Dataset, false
		}
		t.above = ancestors(byName, pair.Name)
		if pair.Receiver == nil && !pair.Sender.Dataset.Placeholder {
			t.first = make(chan struct{})
			byName[pair.Name] = t
			if t.err != nil {
				t.open(false) // it will not run: what waits for it ends
			}
		}
		tasks, found[pair.Name] = append(tasks, t), true
		progress.Level("datasets", int64(len(tasks)))
	}
	moves, err := r.findMoves(ctx, names)
	if err != nil {
		return nil, err
	}
	r.applyMoves(tasks, moves)
	afterOrigins(tasks, origins)
	for _, name := range r.Names {
		if !found[name] {
			t := r.newTask(name)
			t.end(&cairn.Error{Op: "replicate", Subject: name, Place: r.Sender.Info.Place, Kind: cairn.KindNotFound, Hint: "cairn list shows what there is"})
			tasks = append(tasks, t)
		}
	}
	r.leasePlans(ctx, tasks)
	return tasks, nil
}

// pairs lists both places.
func (r *run) pairs(ctx context.Context, names []string) func(yield func(plan.Pair, error) bool) {
	return r.pairsOf(ctx, names, cairn.Want{Versions: true, Leases: r.Sender.Leases != nil}, cairn.Want{Versions: true, Partial: true})
}

func (r *run) pairsOf(ctx context.Context, names []string, here, there cairn.Want) func(yield func(plan.Pair, error) bool) {
	q := cairn.Query{Filter: r.Filter, Names: names, Want: here}
	q2 := q
	q2.Want = there
	return plan.Merge(r.Sender.Lister.List(ctx, q), r.Receiver.Lister.List(ctx, q2))
}

// ancestors are the tasks that have to come first: those above name that the
// receiver does not have yet.
func ancestors(byName map[string]*task, name string) []*task {
	var above []*task
	for i := strings.LastIndexByte(name, '/'); i > 0; i = strings.LastIndexByte(name[:i], '/') {
		if t := byName[name[:i]]; t != nil {
			above = append(above, t)
		}
	}
	return above
}

// work of one dataset, as planned.
type todo struct {
	plan    plan.Plan
	created []time.Time     // of each step's target
	confirm cairn.VersionID // base whose cursor is missing; zero: none
	stale   bool            // step leases of an earlier run are left
}

// nothing reports whether the dataset is up to date in all.
func (w *todo) nothing() bool {
	return len(w.plan.Steps) == 0 && w.plan.Abort == "" && w.confirm.IsZero() && !w.stale
}

// plan plans one dataset.
func (r *run) plan(sender, receiver *cairn.Listing, origin plan.Origin) (todo, error) {
	p, err := plan.Dataset(sender, receiver, plan.Options{Initial: r.Initial, Until: r.Until, Origin: origin,
		Accept: r.Receiver.Info.Accepts[sender.Dataset.Kind], Several: r.several(sender.Dataset.Kind), LeaveOut: r.leaveOut()})
	if err != nil {
		return todo{}, err
	}
	w := todo{plan: p}
	next := 0 // versions are in order, and so are the steps' targets
	for i := range sender.Versions {
		v := &sender.Versions[i]
		if next < len(p.Steps) && v.VersionID == p.Steps[next].To {
			w.created = append(w.created, v.Created)
			next++
		}
	}
	if r.Sender.Leases != nil && r.Protect.Incremental != Nothing {
		w.confirm, w.stale = r.missed(sender, p)
	}
	return w, nil
}

// several is how many versions both places take in one stream.
func (r *run) several(kind cairn.DatasetKind) int {
	return min(r.Sender.Info.Several[kind], r.Receiver.Info.Several[kind])
}

// missed finds what a run that ended early did not book at the sender: a cursor that
// is not there, or an old one that is there still. A remote sender writes the name of
// its own job into our leases, so that of its cursors nobody knows whose they are.
func (r *run) missed(sender *cairn.Listing, p plan.Plan) (cursor cairn.VersionID, stale bool) {
	remote := r.Sender.Info.Identity != ""
	there, old := false, false
	for _, v := range sender.Versions {
		for _, l := range v.Leases {
			switch {
			case l.Owner != r.Owner && !remote:
			case l.Purpose == cairn.PurposeCursor && v.GUID == p.Base.GUID:
				there = true
			case l.Purpose == cairn.PurposeCursor:
				old = !remote && len(p.Steps) == 0
			case l.Purpose == cairn.PurposeStep || l.Purpose == cairn.PurposeTentative:
				stale = len(p.Steps) == 0
			}
		}
	}
	if there && !old {
		return cairn.VersionID{}, stale
	}
	return p.Base, stale
}

// leaveOut says what the receiver's rules would destroy in the same run.
func (r *run) leaveOut() func(held, candidates []cairn.Version) []string {
	if len(r.keep) == 0 {
		return nil
	}
	return func(held, candidates []cairn.Version) []string {
		all := slices.Concat(held, candidates)
		for i := range all {
			all[i].Order = uint64(i) // positions at two places do not compare
		}
		last := uint64(len(all) - 1)
		why := make([]string, len(candidates))
		for _, policy := range r.keep {
			d := policy.Decide(all, retention.Input{Replicated: &last, Now: time.Now()})
			for i := range candidates {
				if at := len(held) + i; !d.Keep(at) {
					why[i] = "the receiver's rules would destroy it: " + strings.Join(d.Reasons(at), "; ")
				}
			}
		}
		return why
	}
}

// leasePlans holds what the plans rely on until each dataset is done. A place that
// cannot, or a version that went away meanwhile, is dealt with by the step itself.
func (r *run) leasePlans(ctx context.Context, tasks []*task) {
	if r.Sender.Leases == nil {
		return
	}
	watchdog.From(ctx).Enter("lease")
	for i, t := range tasks {
		if len(t.todo.plan.Steps) == 0 {
			continue
		}
		if err := t.lease(ctx, t.dataset, cairn.PurposePlan, relied(t.todo.plan.Steps)...); err != nil {
			r.Log.Debug("plan not leased", "dataset", t.dataset, "err", err)
		}
		watchdog.From(ctx).Level("leased", int64(i+1))
	}
}

// relied are the versions at the sender that steps need.
func relied(steps []cairn.Step) []cairn.VersionID {
	ids := make([]cairn.VersionID, 0, len(steps)+1)
	if from := steps[0].From; !from.IsZero() && steps[0].Origin == "" {
		ids = append(ids, from)
	}
	for _, s := range steps {
		ids = append(ids, s.To)
	}
	return ids
}

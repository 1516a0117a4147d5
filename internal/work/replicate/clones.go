package replicate

import (
	"context"
	"fmt"
	"slices"

	"cairn"
	"cairn/internal/policy/plan"
)

// begins reports whether the receiver has no snapshot of a dataset that is a clone.
func begins(sender, receiver *cairn.Listing) bool {
	if sender.Dataset.Origin.IsZero() || sender.Dataset.Placeholder {
		return false
	}
	return receiver == nil || !slices.ContainsFunc(receiver.Versions, func(v cairn.Version) bool { return v.IsSnapshot() })
}

// afterOrigins lets clones that begin wait for what is replicated of their origins,
// unless those wait for them.
func afterOrigins(tasks []*task, origins map[*task]string) {
	byName := make(map[string]*task, len(origins))
	for _, t := range tasks {
		byName[t.dataset] = t
	}
	for _, t := range tasks {
		of := byName[origins[t]]
		if of == nil || of.settled() || of.waitsFor(t) {
			continue
		}
		if of.done == nil {
			of.done = make(chan struct{})
		}
		t.origin = of
	}
}

// waitsFor reports whether t waits for another task, or for one that does.
func (t *task) waitsFor(other *task) bool {
	if t == other || t.origin != nil && t.origin.waitsFor(other) {
		return true
	}
	return slices.ContainsFunc(t.above, func(above *task) bool { return above.waitsFor(other) })
}

// awaitOrigin waits until the clone's origin has been replicated, well or not: the
// plan then goes by what the receiver has.
func (t *task) awaitOrigin(ctx context.Context) error {
	if t.origin == nil {
		return nil
	}
	t.blocked(OnOrigin)
	select {
	case <-t.origin.done:
		return nil
	case <-ctx.Done():
		return t.canceled(ctx)
	}
}

// originThere finds out whether a clone can begin as one at the receiver.
func (r *run) originThere(ctx context.Context, sender, receiver *cairn.Listing) (plan.Origin, error) {
	d := &sender.Dataset
	switch {
	case !begins(sender, receiver) || d.Origin.Dataset == "":
		return plan.Origin{}, nil
	case r.CopyClones:
		return plan.Origin{Why: "the job copies clones"}, nil
	case !slices.Contains(r.Sender.Info.Clones, d.Kind) || !slices.Contains(r.Receiver.Info.Clones, d.Kind):
		return plan.Origin{Why: fmt.Sprintf("the two places keep no clones of a %s", d.Kind)}, nil
	}
	for l, err := range r.Receiver.Lister.List(ctx, cairn.Query{Filter: r.Filter, Names: []string{d.Origin.Dataset}, Want: cairn.Want{Versions: true}}) {
		if err != nil {
			return plan.Origin{}, err
		}
		if slices.ContainsFunc(l.Versions, func(v cairn.Version) bool { return v.IsSnapshot() && v.GUID == d.Origin.GUID }) {
			return plan.Origin{There: true}, nil
		}
	}
	return plan.Origin{Why: fmt.Sprintf("the receiver does not have %s%s (%v), which it is a clone of", d.Origin.Dataset, d.Origin.Name, d.Origin.GUID)}, nil
}

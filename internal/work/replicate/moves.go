package replicate

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"cairn"
	"cairn/internal/mech/watchdog"
	"cairn/internal/policy/plan"
)

// places is what the two sides have, by names alone, as far as renames are about it.
type places struct {
	missing   []string // at the receiver
	strangers []string // to the sender
	shared    []string
}

func (p *places) add(pair plan.Pair) {
	switch {
	case pair.Sender == nil:
		p.strangers = append(p.strangers, pair.Name)
	case pair.Receiver != nil:
		p.shared = append(p.shared, pair.Name)
	case !pair.Sender.Dataset.Placeholder:
		p.missing = append(p.missing, pair.Name)
	}
}

// findMoves looks for datasets that the receiver lacks among those that it has under
// other names. It costs nothing unless there are some of both.
func (r *run) findMoves(ctx context.Context, p places) ([]plan.Move, error) {
	if len(p.missing) > 0 && r.Names != nil { // only those were listed
		missing := p.missing
		p = places{}
		for pair, err := range r.pairsOf(ctx, nil, cairn.Want{}, cairn.Want{}) {
			if err != nil {
				return nil, err
			}
			p.add(pair)
		}
		p.missing = missing
	}
	if len(p.missing) == 0 || len(p.strangers) == 0 {
		return nil, nil
	}
	var strangers []plan.Stranger
	for l, err := range r.Receiver.Lister.List(ctx, cairn.Query{Filter: r.Filter, Names: p.strangers, Want: cairn.Want{Versions: true, Leases: true}}) {
		if err != nil {
			return nil, err
		}
		if guid := r.received(l); guid != 0 {
			strangers = append(strangers, plan.Stranger{Name: l.Dataset.Name, Newest: guid})
		}
	}
	if len(strangers) == 0 {
		return nil, nil
	}
	var missing []*cairn.Listing
	for l, err := range r.Sender.Lister.List(ctx, cairn.Query{Filter: r.Filter, Names: p.missing, Want: cairn.Want{Versions: true}}) {
		if err != nil {
			return nil, err
		}
		missing = append(missing, l)
	}
	return plan.Moves(strangers, missing, p.shared), nil
}

// received is the newest snapshot of a dataset that this job received, as its lease
// there shows; 0 when it did not. A remote receiver shows nothing but what is ours,
// and writes the name of its own job.
func (r *run) received(l *cairn.Listing) (newest cairn.GUID) {
	ours := false
	for _, v := range l.Versions {
		if v.IsSnapshot() {
			newest = v.GUID
		}
		for _, lease := range v.Leases {
			ours = ours || lease.Purpose == cairn.PurposeReceived && (lease.Owner == r.Owner || r.Receiver.Info.Identity != "")
		}
	}
	if !ours {
		return 0
	}
	return newest
}

// applyMoves tells the tasks of renamed datasets what to do about it: never to send
// them anew.
func (r *run) applyMoves(tasks []*task, moves []plan.Move) {
	for _, m := range moves {
		of := tasksOf(tasks, []string{m.To})
		if len(of) == 0 {
			continue // it was destroyed meanwhile
		}
		t, why := of[0], m.Unsafe
		switch {
		case why != "":
		case r.Renamed == plan.Refuse:
			why = "the job does not rename at the receiver"
		case r.Receiver.Renames == nil:
			why = "the receiver lets nobody rename"
		default:
			t.planned, t.move, t.node.report.RenamedFrom = false, &m, m.From
			t.above = append(t.above, tasksOf(tasks, m.After)...)
			continue
		}
		t.end(&cairn.Error{Op: "replicate", Subject: t.dataset, Place: r.Receiver.Info.Place, Kind: cairn.KindConflict,
			Err:  fmt.Errorf("the receiver has it under another name, %s, and it is not renamed there: %s", m.From, why),
			Hint: "rename it at the receiver by hand, or rename what is there to a place outside the job's root, and it is sent anew"})
	}
}

// tasksOf finds tasks, which are in byte order, by name.
func tasksOf(tasks []*task, names []string) []*task {
	var found []*task
	for _, name := range names {
		if i, is := slices.BinarySearchFunc(tasks, name, func(t *task, name string) int { return cmp.Compare(t.dataset, name) }); is {
			found = append(found, tasks[i])
		}
	}
	return found
}

// follow renames the receiver's dataset, if that was not done: by an attempt that
// was abandoned, or together with one above it. Volumes move one by one.
func (t *task) follow(ctx context.Context) error {
	if t.move == nil {
		return nil
	}
	watchdog.From(ctx).Enter("rename")
	names := []string{t.move.Rename, t.move.From, t.dataset}
	there := map[string]bool{}
	for l, err := range t.Receiver.Lister.List(ctx, cairn.Query{Filter: t.Filter, Names: names}) {
		if err != nil {
			return err
		}
		there[l.Dataset.Name] = true
	}
	for _, name := range names[:2] {
		if there[name] && !there[t.dataset] {
			if err := t.Receiver.Renames.Rename(ctx, name, t.dataset); err != nil {
				return err
			}
			t.Log.Info("renamed at the receiver", "dataset", t.dataset, "was", t.move.From)
			if t.Moved != nil {
				t.Moved(t.dataset, t.move.From)
			}
			return nil
		}
	}
	return nil
}

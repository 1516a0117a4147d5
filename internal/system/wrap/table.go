package wrap

import (
	"fmt"
	"slices"
	"sync"

	"cairn"
)

// Table is who relies on which versions of one place, as far as memory knows it:
// plans, running sends, open readers. There is one per place, shared by every
// endpoint handed out. The zero value is ready.
type Table struct {
	mu    sync.Mutex                               // guards what follows
	plans map[string]map[planKey][]cairn.VersionID // by dataset: there may be ten thousand
	uses  map[useKey]map[*use]struct{}
	going map[useKey]int // calls that are destroying it: the exclusive lease
}

type planKey struct {
	session *session
	dataset string
	owner   string
}

type useKey struct {
	dataset string
	id      cairn.VersionID
}

// use is one running send or open reader.
type use struct{ what string }

// setPlan replaces a session's plan lease. What is just being destroyed cannot be
// leased.
func (t *Table) setPlan(key planKey, ids []cairn.VersionID) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if key.session.ended {
		return &cairn.Error{Op: "lease", Subject: key.dataset, Kind: cairn.KindCanceled, Err: errEnded}
	}
	for _, id := range ids {
		if t.going[useKey{key.dataset, id}] > 0 {
			return destroying("lease", key.dataset, id)
		}
	}
	if len(ids) == 0 {
		t.dropPlan(key)
		return nil
	}
	if t.plans == nil {
		t.plans = map[string]map[planKey][]cairn.VersionID{}
	}
	if t.plans[key.dataset] == nil {
		t.plans[key.dataset] = map[planKey][]cairn.VersionID{}
	}
	t.plans[key.dataset][key] = slices.Clone(ids)
	return nil
}

// dropPlan forgets one plan lease; mu is held.
func (t *Table) dropPlan(key planKey) {
	delete(t.plans[key.dataset], key)
	if len(t.plans[key.dataset]) == 0 {
		delete(t.plans, key.dataset)
	}
}

func destroying(op, dataset string, id cairn.VersionID) error {
	return &cairn.Error{Op: op, Subject: dataset + id.Name, Kind: cairn.KindBusy, Err: errDestroying, Hint: "list it again"}
}

// end drops the plan leases of a session.
func (t *Table) end(s *session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s.ended = true
	for _, plans := range t.plans {
		for key := range plans {
			if key.session == s {
				t.dropPlan(key)
			}
		}
	}
}

// hold keeps versions from being destroyed until release is called.
func (t *Table) hold(op, dataset, what string, ids ...cairn.VersionID) (release func(), err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	keys := make([]useKey, 0, len(ids))
	for _, id := range ids {
		if id.IsZero() {
			continue
		}
		k := useKey{dataset, id}
		if t.going[k] > 0 {
			return nil, destroying(op, dataset, id)
		}
		keys = append(keys, k)
	}
	u := &use{what}
	if t.uses == nil {
		t.uses = map[useKey]map[*use]struct{}{}
	}
	for _, k := range keys {
		if t.uses[k] == nil {
			t.uses[k] = map[*use]struct{}{}
		}
		t.uses[k][u] = struct{}{}
	}
	return sync.OnceFunc(func() { t.release(keys, u) }), nil
}

func (t *Table) release(keys []useKey, u *use) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, k := range keys {
		delete(t.uses[k], u)
		if len(t.uses[k]) == 0 {
			delete(t.uses, k)
		}
	}
}

// claim takes the exclusive lease on those ids that nobody relies on. It returns
// one error per id, nil where the claim holds until unclaim.
func (t *Table) claim(op, dataset string, ids []cairn.VersionID) (refused []error, unclaim func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	refused = make([]error, len(ids))
	var claimed []useKey
	for i, id := range ids {
		k := useKey{dataset, id}
		if refused[i] = t.busy(op, k); refused[i] != nil {
			continue
		}
		if t.going == nil {
			t.going = map[useKey]int{}
		}
		claimed = append(claimed, k)
		t.going[k]++
	}
	return refused, func() { t.unclaim(claimed) }
}

func (t *Table) unclaim(keys []useKey) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, k := range keys {
		if t.going[k]--; t.going[k] == 0 {
			delete(t.going, k)
		}
	}
}

// busy names who relies on the version; mu is held.
func (t *Table) busy(op string, k useKey) error {
	who := ""
	for plan, ids := range t.plans[k.dataset] {
		if slices.Contains(ids, k.id) {
			who = fmt.Sprintf("leased by %s (%s)", plan.owner, cairn.PurposePlan)
		}
	}
	for u := range t.uses[k] {
		who = u.what
	}
	if who == "" {
		return nil
	}
	return &cairn.Error{Op: op, Subject: k.dataset + k.id.Name, Kind: cairn.KindBusy, Err: fmt.Errorf("%s", who),
		Hint: "it can be destroyed when that is done"}
}

// inUse fails when anything relies on a version of the dataset.
func (t *Table) inUse(op, dataset string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, ids := range t.plans[dataset] {
		return t.busy(op, useKey{dataset, ids[0]})
	}
	for k := range t.uses {
		if k.dataset == dataset {
			return t.busy(op, k)
		}
	}
	return nil
}

// leases are the plan leases on the version, for listings.
func (t *Table) leases(dataset string, id cairn.VersionID) []cairn.Lease {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []cairn.Lease
	for plan, ids := range t.plans[dataset] {
		l := cairn.Lease{Owner: plan.owner, Purpose: cairn.PurposePlan}
		if slices.Contains(ids, id) && !slices.Contains(out, l) {
			out = append(out, l)
		}
	}
	return out
}

package wrap

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"

	"cairn"
)

// Side is one endpoint of a Union, of which only the datasets that the filter
// selects are there.
type Side struct {
	Endpoint *cairn.Endpoint
	Filter   cairn.Filter
}

// Union shows several endpoints of one place as one: volumes beside ZFS. A dataset
// belongs to the side that lists it, a new one to the side that accepts its stream.
// A name that two sides have is KindConflict: nobody could tell which is meant.
// Atomic captures that cross sides are KindUnsupported. Close is the caller's: the
// sides are closed by whoever opened them.
func Union(sides ...Side) *cairn.Endpoint {
	u := &union{sides: sides, home: map[string]int{}}
	out := &cairn.Endpoint{Info: u.info()}
	offers := func(has func(*cairn.Endpoint) bool) bool {
		return slices.ContainsFunc(sides, func(s Side) bool { return has(s.Endpoint) })
	}
	if offers(func(e *cairn.Endpoint) bool { return e.Lister != nil }) {
		out.Lister = u
	}
	if offers(func(e *cairn.Endpoint) bool { return e.Sender != nil }) {
		out.Sender = u
	}
	if offers(func(e *cairn.Endpoint) bool { return e.Receiver != nil }) {
		out.Receiver = u
	}
	if offers(func(e *cairn.Endpoint) bool { return e.Snapshots != nil }) {
		out.Snapshots = u
	}
	if offers(func(e *cairn.Endpoint) bool { return e.Bookmarks != nil }) {
		out.Bookmarks = u
	}
	if offers(func(e *cairn.Endpoint) bool { return e.Destroys != nil }) {
		out.Destroys = u
	}
	if offers(func(e *cairn.Endpoint) bool { return e.Leases != nil }) {
		out.Leases = u
	}
	if offers(func(e *cairn.Endpoint) bool { return e.Estimates != nil }) {
		out.Estimates = u
	}
	if offers(func(e *cairn.Endpoint) bool { return e.Blocks != nil }) {
		out.Blocks = u
	}
	if offers(func(e *cairn.Endpoint) bool { return e.Changes != nil }) {
		out.Changes = u
	}
	if offers(func(e *cairn.Endpoint) bool { return e.Rollbacks != nil }) {
		out.Rollbacks = u
	}
	if offers(func(e *cairn.Endpoint) bool { return e.Resizes != nil }) {
		out.Resizes = u
	}
	if offers(func(e *cairn.Endpoint) bool { return e.Renames != nil }) {
		out.Renames = u
	}
	if offers(func(e *cairn.Endpoint) bool { return e.Verifies != nil }) {
		out.Verifies = u
	}
	if offers(func(e *cairn.Endpoint) bool { return e.Seals != nil }) {
		out.Seals = u
	}
	if offers(func(e *cairn.Endpoint) bool { return e.Digests != nil }) {
		out.Digests = u
	}
	if offers(func(e *cairn.Endpoint) bool { return e.Heals != nil }) {
		out.Heals = u
	}
	return out
}

type union struct {
	sides []Side

	mu   sync.Mutex     // guards home
	home map[string]int // dataset → its side, as last listed or received
}

// List implements cairn.Lister. The sides are merged by name.
func (u *union) List(ctx context.Context, q cairn.Query) iter.Seq2[*cairn.Listing, error] {
	return func(yield func(*cairn.Listing, error) bool) {
		heads := make([]head, 0, len(u.sides))
		for i := range u.sides {
			next, stop := iter.Pull2(u.list(ctx, i, q))
			defer stop()
			h := head{side: i, next: next}
			h.advance()
			heads = append(heads, h)
		}
		for {
			h, err := least(heads)
			if h == nil && err == nil {
				return
			}
			if err != nil {
				yield(nil, err)
				return
			}
			u.remember(h.listing.Dataset.Name, h.side)
			if !yield(h.listing, nil) {
				return
			}
			h.advance()
		}
	}
}

// list is one side's listing, with the side's own filter applied.
func (u *union) list(ctx context.Context, side int, q cairn.Query) iter.Seq2[*cairn.Listing, error] {
	s := u.sides[side]
	return func(yield func(*cairn.Listing, error) bool) {
		if s.Endpoint.Lister == nil {
			return
		}
		wanted := q.Filter
		q.Filter = s.Filter
		for l, err := range s.Endpoint.Lister.List(ctx, q) {
			if err == nil && !wanted.Match(l.Dataset.Name) {
				continue
			}
			if err == nil && !s.Filter.Match(l.Dataset.Origin.Dataset) {
				l.Dataset.Origin.Dataset = ""
			}
			if !yield(l, err) {
				return
			}
		}
	}
}

// head is the next listing of a side.
type head struct {
	side    int
	next    func() (*cairn.Listing, error, bool)
	listing *cairn.Listing // nil at the end
	err     error
}

func (h *head) advance() { h.listing, h.err, _ = h.next() }

// least is the side whose next dataset comes first; nil at the end.
func least(heads []head) (*head, error) {
	var first *head
	for i := range heads {
		h := &heads[i]
		switch {
		case h.err != nil:
			return nil, h.err
		case h.listing == nil:
		case first == nil || h.listing.Dataset.Name < first.listing.Dataset.Name:
			first = h
		case h.listing.Dataset.Name == first.listing.Dataset.Name:
			return nil, &cairn.Error{Op: "list", Subject: h.listing.Dataset.Name, Kind: cairn.KindConflict,
				Err:  fmt.Errorf("a %s and a %s have the same name", first.listing.Dataset.Kind, h.listing.Dataset.Kind),
				Hint: "rename one of them, or leave one out of the job's filters"}
		}
	}
	return first, nil
}

func (u *union) remember(dataset string, side int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.home[dataset] = side
}

// side is the endpoint that has the dataset.
func (u *union) side(ctx context.Context, op, dataset string) (*cairn.Endpoint, error) {
	i, err := u.find(ctx, op, dataset)
	if err != nil {
		return nil, err
	}
	return u.sides[i].Endpoint, nil
}

func (u *union) find(ctx context.Context, op, dataset string) (int, error) {
	if len(u.sides) == 1 && u.sides[0].Filter.Match(dataset) {
		return 0, nil
	}
	u.mu.Lock()
	i, known := u.home[dataset]
	u.mu.Unlock()
	if known {
		return i, nil
	}
	for i := range u.sides {
		for _, err := range u.list(ctx, i, cairn.Query{Filter: cairn.All, Names: []string{dataset}}) {
			if err != nil {
				return 0, err
			}
			u.remember(dataset, i)
			return i, nil
		}
	}
	return 0, u.missing(op, dataset)
}

func (u *union) missing(op, dataset string) error {
	e := &cairn.Error{Op: op, Subject: dataset, Kind: cairn.KindNotFound, Hint: "cairn list shows what there is"}
	if len(u.sides) > 0 {
		e.Place = u.sides[0].Endpoint.Info.Place
	}
	return e
}

// can is the side that has the dataset, when it has the ability too.
func can[T comparable](ctx context.Context, u *union, a cairn.Ability, dataset string, field func(*cairn.Endpoint) T) (T, error) {
	var none T
	ep, err := u.side(ctx, string(a), dataset)
	if err != nil {
		return none, err
	}
	if v := field(ep); v != none {
		return v, nil
	}
	return none, ep.Lacks(a, dataset)
}

// Send implements cairn.Sender.
func (u *union) Send(ctx context.Context, step cairn.Step, accept []cairn.Format) (*cairn.Stream, error) {
	s, err := can(ctx, u, "send", step.Dataset, func(e *cairn.Endpoint) cairn.Sender { return e.Sender })
	if err != nil {
		return nil, err
	}
	return s.Send(ctx, step, accept)
}

// Receive implements cairn.Receiver: the side that has the dataset takes the stream,
// a new one goes to the side that makes datasets of its kind, rather than to one
// that takes them in translation.
func (u *union) Receive(ctx context.Context, s *cairn.Stream, o cairn.ReceiveOptions) (cairn.Received, error) {
	if i := u.taker(s.Header); i >= 0 {
		u.remember(s.Header.Dataset, i)
		return u.sides[i].Endpoint.Receiver.Receive(ctx, s, o)
	}
	err := &cairn.Error{Op: "receive", Subject: s.Header.Dataset, Kind: cairn.KindUnsupported,
		Err:  fmt.Errorf("this place takes no %s in format %s", s.Header.Kind, s.Header.Format),
		Hint: "a receiving job needs root_fs for ZFS and root_volumes for volumes"}
	return cairn.Received{}, errors.Join(err, s.Body.Close())
}

// taker is the side that a stream belongs to, -1 when there is none.
func (u *union) taker(h cairn.StreamHeader) int {
	u.mu.Lock()
	home, known := u.home[h.Dataset]
	u.mu.Unlock()
	best := -1
	for i, side := range u.sides {
		ep := side.Endpoint
		if ep.Receiver == nil || !side.Filter.Match(h.Dataset) || !slices.Contains(ep.Info.Accepts[h.Kind], h.Format) {
			continue
		}
		if known && home == i {
			return i
		}
		if best < 0 || len(ep.Info.Sends[h.Kind]) > len(u.sides[best].Endpoint.Info.Sends[h.Kind]) {
			best = i
		}
	}
	return best
}

// Abort implements cairn.Receiver. A dataset that is nowhere has nothing pending.
func (u *union) Abort(ctx context.Context, dataset string) error {
	r, err := can(ctx, u, "receive", dataset, func(e *cairn.Endpoint) cairn.Receiver { return e.Receiver })
	if cairn.KindOf(err) == cairn.KindNotFound {
		return nil
	}
	if err != nil {
		return err
	}
	return r.Abort(ctx, dataset)
}

// Snapshot implements cairn.Snapshotter.
func (u *union) Snapshot(ctx context.Context, name string, datasets []string, atomic bool) ([]cairn.Captured, error) {
	results := make([]cairn.Captured, len(datasets))
	groups := make([][]int, len(u.sides)) // indices into datasets
	for i, ds := range datasets {
		side, err := u.find(ctx, "capture", ds)
		if err != nil {
			results[i] = cairn.Captured{Dataset: ds, Err: err}
			continue
		}
		groups[side] = append(groups[side], i)
	}
	if atomic {
		if err := oneGroup(results, groups); err != nil {
			return nil, err
		}
	}
	for side, group := range groups {
		if len(group) == 0 {
			continue
		}
		if err := u.snapshotSide(ctx, side, group, results, name, datasets, atomic); err != nil {
			return nil, err
		}
	}
	return results, nil
}

// oneGroup refuses an atomic capture that is not one side's.
func oneGroup(results []cairn.Captured, groups [][]int) error {
	for _, r := range results {
		if r.Err != nil {
			return r.Err
		}
	}
	if used := slices.DeleteFunc(slices.Clone(groups), func(g []int) bool { return len(g) == 0 }); len(used) > 1 {
		return &cairn.Error{Op: "capture at one instant", Kind: cairn.KindUnsupported, Err: errors.New("the datasets are volumes and ZFS datasets"),
			Hint: "capture the volumes and the ZFS datasets as two groups"}
	}
	return nil
}

func (u *union) snapshotSide(ctx context.Context, side int, group []int, results []cairn.Captured, name string, datasets []string, atomic bool) error {
	names := make([]string, len(group))
	for i, at := range group {
		names[i] = datasets[at]
	}
	ep := u.sides[side].Endpoint
	if ep.Snapshots == nil {
		return ep.Lacks("snapshot", names[0])
	}
	captured, err := ep.Snapshots.Snapshot(ctx, name, names, atomic)
	if err != nil {
		return err
	}
	for i, at := range group {
		results[at] = captured[i]
	}
	return nil
}

// Bookmark implements cairn.Bookmarker.
func (u *union) Bookmark(ctx context.Context, dataset string, of cairn.VersionID, name string, degrade bool) (cairn.Version, error) {
	b, err := can(ctx, u, "bookmark", dataset, func(e *cairn.Endpoint) cairn.Bookmarker { return e.Bookmarks })
	if err != nil {
		return cairn.Version{}, err
	}
	return b.Bookmark(ctx, dataset, of, name, degrade)
}

// Destroy implements cairn.Destroyer.
func (u *union) Destroy(ctx context.Context, dataset string, ids []cairn.VersionID) ([]error, error) {
	d, err := can(ctx, u, "destroy", dataset, func(e *cairn.Endpoint) cairn.Destroyer { return e.Destroys })
	if err != nil {
		return nil, err
	}
	return d.Destroy(ctx, dataset, ids)
}

// SetLease implements cairn.Leaser.
func (u *union) SetLease(ctx context.Context, set cairn.LeaseSet) error {
	l, err := can(ctx, u, "lease", set.Dataset, func(e *cairn.Endpoint) cairn.Leaser { return e.Leases })
	if err != nil {
		return err
	}
	return l.SetLease(ctx, set)
}

// Estimate implements cairn.Estimator. A side that cannot estimate leaves -1.
func (u *union) Estimate(ctx context.Context, steps []cairn.Step) ([]int64, error) {
	sizes := make([]int64, len(steps))
	groups := make([][]int, len(u.sides))
	for i, step := range steps {
		side, err := u.find(ctx, "estimate", step.Dataset)
		if err != nil {
			return nil, err
		}
		sizes[i] = -1
		groups[side] = append(groups[side], i)
	}
	for side, group := range groups {
		estimates := u.sides[side].Endpoint.Estimates
		if len(group) == 0 || estimates == nil {
			continue
		}
		part := make([]cairn.Step, len(group))
		for i, at := range group {
			part[i] = steps[at]
		}
		got, err := estimates.Estimate(ctx, part)
		if err != nil {
			return nil, err
		}
		for i, at := range group {
			sizes[at] = got[i]
		}
	}
	return sizes, nil
}

// OpenVersion implements cairn.BlockOpener.
func (u *union) OpenVersion(ctx context.Context, dataset string, id cairn.VersionID) (cairn.BlockReader, error) {
	b, err := can(ctx, u, "blocks", dataset, func(e *cairn.Endpoint) cairn.BlockOpener { return e.Blocks })
	if err != nil {
		return nil, err
	}
	return b.OpenVersion(ctx, dataset, id)
}

// Changed implements cairn.Changer.
func (u *union) Changed(ctx context.Context, dataset string, from, to cairn.VersionID) iter.Seq2[cairn.Extent, error] {
	c, err := can(ctx, u, "changes", dataset, func(e *cairn.Endpoint) cairn.Changer { return e.Changes })
	if err != nil {
		return func(yield func(cairn.Extent, error) bool) { yield(cairn.Extent{}, err) }
	}
	return c.Changed(ctx, dataset, from, to)
}

// Rollback implements cairn.Rollbacker.
func (u *union) Rollback(ctx context.Context, dataset string, to cairn.VersionID, destroyNewer bool) error {
	r, err := can(ctx, u, "rollback", dataset, func(e *cairn.Endpoint) cairn.Rollbacker { return e.Rollbacks })
	if err != nil {
		return err
	}
	return r.Rollback(ctx, dataset, to, destroyNewer)
}

// Resize implements cairn.Resizer.
func (u *union) Resize(ctx context.Context, dataset string, size int64) error {
	r, err := can(ctx, u, "resize", dataset, func(e *cairn.Endpoint) cairn.Resizer { return e.Resizes })
	if err != nil {
		return err
	}
	return r.Resize(ctx, dataset, size)
}

// Rename implements cairn.Renamer.
func (u *union) Rename(ctx context.Context, from, to string) error {
	r, err := can(ctx, u, "rename", from, func(e *cairn.Endpoint) cairn.Renamer { return e.Renames })
	if err != nil {
		return err
	}
	if err := r.Rename(ctx, from, to); err != nil {
		return err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.home[to] = u.home[from]
	delete(u.home, from)
	return nil
}

package wrap

import (
	"context"
	"errors"
	"iter"
	"sync"

	"cairn"
)

// Redial returns the endpoint that dial opens, and opens it anew for the call
// after one that failed with KindUnavailable: a session that was lost is replaced
// by whoever retries. Nothing is retried here. What the first session could do is
// what the endpoint can do for good.
//
// Sessions that were given up stay open until Close, since other calls and streams
// may still run on them.
func Redial(ctx context.Context, dial func(ctx context.Context) (*cairn.Endpoint, error)) (*cairn.Endpoint, error) {
	first, err := dial(ctx)
	if err != nil {
		return nil, err
	}
	r := &redialer{dial: dial, current: first}
	ep := &cairn.Endpoint{Info: first.Info, Close: r.close}
	for _, ability := range []struct {
		has bool
		set func()
	}{
		{first.Lister != nil, func() { ep.Lister = r }}, {first.Sender != nil, func() { ep.Sender = r }},
		{first.Receiver != nil, func() { ep.Receiver = r }}, {first.Snapshots != nil, func() { ep.Snapshots = r }},
		{first.Bookmarks != nil, func() { ep.Bookmarks = r }}, {first.Destroys != nil, func() { ep.Destroys = r }},
		{first.Leases != nil, func() { ep.Leases = r }}, {first.Estimates != nil, func() { ep.Estimates = r }},
		{first.Blocks != nil, func() { ep.Blocks = r }}, {first.Changes != nil, func() { ep.Changes = r }},
		{first.Rollbacks != nil, func() { ep.Rollbacks = r }}, {first.Resizes != nil, func() { ep.Resizes = r }},
		{first.Renames != nil, func() { ep.Renames = r }}, {first.Verifies != nil, func() { ep.Verifies = r }},
		{first.Seals != nil, func() { ep.Seals = r }}, {first.Digests != nil, func() { ep.Digests = r }},
		{first.Heals != nil, func() { ep.Heals = r }},
	} {
		if ability.has {
			ability.set()
		}
	}
	return ep, nil
}

type redialer struct {
	dial func(ctx context.Context) (*cairn.Endpoint, error)

	mu      sync.Mutex      // guards the rest; held while dialling, so that one call dials for all
	current *cairn.Endpoint // nil after a failure
	retired []*cairn.Endpoint
	closed  bool
}

// session is the endpoint that calls go to now.
func (r *redialer) session(ctx context.Context) (*cairn.Endpoint, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, &cairn.Error{Op: "use session", Kind: cairn.KindCanceled, Err: errors.New("it was closed")}
	}
	if r.current == nil {
		ep, err := r.dial(ctx)
		if err != nil {
			return nil, err
		}
		r.current = ep
	}
	return r.current, nil
}

// judge gives up a session whose call could not reach the peer.
func (r *redialer) judge(ep *cairn.Endpoint, err error) {
	if !errors.Is(err, cairn.KindUnavailable) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.current == ep {
		r.current = nil
		r.retired = append(r.retired, ep)
	}
}

func (r *redialer) close() error {
	r.mu.Lock()
	r.closed = true
	open := r.retired
	if r.current != nil {
		open = append(open, r.current)
	}
	r.current, r.retired = nil, nil
	r.mu.Unlock()
	var failures []error
	for _, ep := range open {
		if ep.Close != nil {
			failures = append(failures, ep.Close())
		}
	}
	return errors.Join(failures...)
}

// redialled makes one call on the present session. An ability that a later session
// does not offer any more is nil there.
func redialled[A comparable, T any](ctx context.Context, r *redialer, a cairn.Ability, subject string, pick func(*cairn.Endpoint) A, call func(A) (T, error)) (T, error) {
	var none T
	var lacks A
	ep, err := r.session(ctx)
	if err != nil {
		return none, err
	}
	ability := pick(ep)
	if ability == lacks {
		return none, ep.Lacks(a, subject)
	}
	v, err := call(ability)
	r.judge(ep, err)
	return v, err
}

// List implements cairn.Lister.
func (r *redialer) List(ctx context.Context, q cairn.Query) iter.Seq2[*cairn.Listing, error] {
	return redialledSeq(ctx, r, "list", func(ep *cairn.Endpoint) iter.Seq2[*cairn.Listing, error] {
		if ep.Lister == nil {
			return nil
		}
		return ep.Lister.List(ctx, q)
	})
}

// Changed implements cairn.Changer.
func (r *redialer) Changed(ctx context.Context, dataset string, from, to cairn.VersionID) iter.Seq2[cairn.Extent, error] {
	return redialledSeq(ctx, r, "changes", func(ep *cairn.Endpoint) iter.Seq2[cairn.Extent, error] {
		if ep.Changes == nil {
			return nil
		}
		return ep.Changes.Changed(ctx, dataset, from, to)
	})
}

// redialledSeq is redialled for sequences; open returns nil when the ability is
// missing.
func redialledSeq[T any](ctx context.Context, r *redialer, a cairn.Ability, open func(*cairn.Endpoint) iter.Seq2[T, error]) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var none T
		ep, err := r.session(ctx)
		if err != nil {
			yield(none, err)
			return
		}
		seq := open(ep)
		if seq == nil {
			yield(none, ep.Lacks(a, ""))
			return
		}
		for v, err := range seq {
			r.judge(ep, err)
			if !yield(v, err) {
				return
			}
		}
	}
}

// Send implements cairn.Sender.
func (r *redialer) Send(ctx context.Context, step cairn.Step, accept []cairn.Format) (*cairn.Stream, error) {
	return redialled(ctx, r, "send", step.Dataset, func(ep *cairn.Endpoint) cairn.Sender { return ep.Sender },
		func(s cairn.Sender) (*cairn.Stream, error) { return s.Send(ctx, step, accept) })
}

// Receive implements cairn.Receiver. It closes the body in every case.
func (r *redialer) Receive(ctx context.Context, s *cairn.Stream, o cairn.ReceiveOptions) (cairn.Received, error) {
	taken := false
	got, err := redialled(ctx, r, "receive", s.Header.Dataset, func(ep *cairn.Endpoint) cairn.Receiver { return ep.Receiver },
		func(rc cairn.Receiver) (cairn.Received, error) {
			taken = true
			return rc.Receive(ctx, s, o)
		})
	if !taken {
		err = errors.Join(err, s.Body.Close())
	}
	return got, err
}

// Abort implements cairn.Receiver.
func (r *redialer) Abort(ctx context.Context, dataset string) error {
	_, err := redialled(ctx, r, "receive", dataset, func(ep *cairn.Endpoint) cairn.Receiver { return ep.Receiver },
		func(rc cairn.Receiver) (struct{}, error) { return struct{}{}, rc.Abort(ctx, dataset) })
	return err
}

// Snapshot implements cairn.Snapshotter.
func (r *redialer) Snapshot(ctx context.Context, name string, datasets []string, atomic bool) ([]cairn.Captured, error) {
	return redialled(ctx, r, "snapshot", name, func(ep *cairn.Endpoint) cairn.Snapshotter { return ep.Snapshots },
		func(s cairn.Snapshotter) ([]cairn.Captured, error) { return s.Snapshot(ctx, name, datasets, atomic) })
}

// Bookmark implements cairn.Bookmarker.
func (r *redialer) Bookmark(ctx context.Context, dataset string, of cairn.VersionID, name string, degrade bool) (cairn.Version, error) {
	return redialled(ctx, r, "bookmark", dataset, func(ep *cairn.Endpoint) cairn.Bookmarker { return ep.Bookmarks },
		func(b cairn.Bookmarker) (cairn.Version, error) { return b.Bookmark(ctx, dataset, of, name, degrade) })
}

// Destroy implements cairn.Destroyer.
func (r *redialer) Destroy(ctx context.Context, dataset string, ids []cairn.VersionID) ([]error, error) {
	return redialled(ctx, r, "destroy", dataset, func(ep *cairn.Endpoint) cairn.Destroyer { return ep.Destroys },
		func(d cairn.Destroyer) ([]error, error) { return d.Destroy(ctx, dataset, ids) })
}

// SetLease implements cairn.Leaser.
func (r *redialer) SetLease(ctx context.Context, set cairn.LeaseSet) error {
	_, err := redialled(ctx, r, "lease", set.Dataset, func(ep *cairn.Endpoint) cairn.Leaser { return ep.Leases },
		func(l cairn.Leaser) (struct{}, error) { return struct{}{}, l.SetLease(ctx, set) })
	return err
}

// Estimate implements cairn.Estimator.
func (r *redialer) Estimate(ctx context.Context, steps []cairn.Step) ([]int64, error) {
	return redialled(ctx, r, "estimate", "", func(ep *cairn.Endpoint) cairn.Estimator { return ep.Estimates },
		func(e cairn.Estimator) ([]int64, error) { return e.Estimate(ctx, steps) })
}

// OpenVersion implements cairn.BlockOpener.
func (r *redialer) OpenVersion(ctx context.Context, dataset string, id cairn.VersionID) (cairn.BlockReader, error) {
	return redialled(ctx, r, "blocks", dataset, func(ep *cairn.Endpoint) cairn.BlockOpener { return ep.Blocks },
		func(b cairn.BlockOpener) (cairn.BlockReader, error) { return b.OpenVersion(ctx, dataset, id) })
}

// Rollback implements cairn.Rollbacker.
func (r *redialer) Rollback(ctx context.Context, dataset string, to cairn.VersionID, destroyNewer bool) error {
	_, err := redialled(ctx, r, "rollback", dataset, func(ep *cairn.Endpoint) cairn.Rollbacker { return ep.Rollbacks },
		func(rb cairn.Rollbacker) (struct{}, error) {
			return struct{}{}, rb.Rollback(ctx, dataset, to, destroyNewer)
		})
	return err
}

// Resize implements cairn.Resizer.
func (r *redialer) Resize(ctx context.Context, dataset string, size int64) error {
	_, err := redialled(ctx, r, "resize", dataset, func(ep *cairn.Endpoint) cairn.Resizer { return ep.Resizes },
		func(rs cairn.Resizer) (struct{}, error) { return struct{}{}, rs.Resize(ctx, dataset, size) })
	return err
}

// Rename implements cairn.Renamer.
func (r *redialer) Rename(ctx context.Context, from, to string) error {
	_, err := redialled(ctx, r, "rename", from, func(ep *cairn.Endpoint) cairn.Renamer { return ep.Renames },
		func(rn cairn.Renamer) (struct{}, error) { return struct{}{}, rn.Rename(ctx, from, to) })
	return err
}

// Verify implements cairn.Verifier.
func (r *redialer) Verify(ctx context.Context, dataset string, id cairn.VersionID) (cairn.Coverage, error) {
	return redialled(ctx, r, "verify", dataset, func(ep *cairn.Endpoint) cairn.Verifier { return ep.Verifies },
		func(v cairn.Verifier) (cairn.Coverage, error) { return v.Verify(ctx, dataset, id) })
}

// Seal implements cairn.Sealer.
func (r *redialer) Seal(ctx context.Context, dataset string, sealed bool) error {
	_, err := redialled(ctx, r, "seal", dataset, func(ep *cairn.Endpoint) cairn.Sealer { return ep.Seals },
		func(s cairn.Sealer) (struct{}, error) { return struct{}{}, s.Seal(ctx, dataset, sealed) })
	return err
}

// Digest implements cairn.Digester.
func (r *redialer) Digest(ctx context.Context, dataset string, id cairn.VersionID, q cairn.DigestQuery) iter.Seq2[cairn.Digest, error] {
	return redialledSeq(ctx, r, "digest", func(ep *cairn.Endpoint) iter.Seq2[cairn.Digest, error] {
		if ep.Digests == nil {
			return nil
		}
		return ep.Digests.Digest(ctx, dataset, id, q)
	})
}

// Heal implements cairn.Healer.
func (r *redialer) Heal(ctx context.Context, dataset string, id cairn.VersionID, patches []cairn.Patch, o cairn.HealOptions) ([]cairn.Mending, error) {
	return redialled(ctx, r, "heal", dataset, func(ep *cairn.Endpoint) cairn.Healer { return ep.Heals },
		func(h cairn.Healer) ([]cairn.Mending, error) { return h.Heal(ctx, dataset, id, patches, o) })
}

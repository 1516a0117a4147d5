package volume

import (
	"context"
	"errors"
	"io"
	"iter"
	"slices"
	"strings"

	"cairn"
)

// Endpoint is the place with every ability of a volume. Closing it closes nothing:
// the place is closed by whoever opened it.
func (p *Place) Endpoint() *cairn.Endpoint {
	r := &router{p}
	return &cairn.Endpoint{Info: info(p.o.Name), Lister: r, Sender: r, Receiver: r, Snapshots: r, Bookmarks: r, Destroys: r, Leases: r,
		Estimates: r, Blocks: r, Changes: r, Rollbacks: r, Resizes: r, Renames: r, Verifies: r, Seals: r, Digests: r, Heals: r}
}

// router passes each call to the endpoint that serves its dataset.
type router struct{ p *Place }

func selects(q cairn.Query, name string) bool {
	return q.Filter.Match(name) && (q.Names == nil || slices.Contains(q.Names, name))
}

// with calls f with the endpoint that serves the dataset, and releases it.
func (r *router) with(ctx context.Context, dataset string, f func(*cairn.Endpoint) error) error {
	ep, done, err := r.p.endpoint(ctx, dataset)
	if err != nil {
		return err
	}
	err = f(ep)
	if cerr := done.Close(); err == nil {
		err = cerr
	}
	return err
}

func (r *router) List(ctx context.Context, q cairn.Query) iter.Seq2[*cairn.Listing, error] {
	return func(yield func(*cairn.Listing, error) bool) {
		names, err := r.p.registry.names()
		if err = errors.Join(ctx.Err(), err); err != nil {
			yield(nil, failed("list", r.p.o.Dir, err))
			return
		}
		for _, name := range names {
			if !selects(q, name) {
				continue
			}
			l, err := r.listing(ctx, name, q.Want)
			if l == nil && err == nil {
				continue // destroyed meanwhile
			}
			if err != nil {
				yield(nil, err)
				return
			}
			if above, _, ok := cutLast(name); ok && slices.Contains(names, above) {
				l.Dataset.Parent = above
			}
			if !yield(l, nil) {
				return
			}
		}
	}
}

func cutLast(name string) (above, last string, ok bool) {
	i := strings.LastIndexByte(name, '/')
	if i < 0 {
		return "", name, false
	}
	return name[:i], name[i+1:], true
}

// listing describes one volume. One that cannot be opened is listed with the
// reason; it does not hide the others.
func (r *router) listing(ctx context.Context, name string, want cairn.Want) (*cairn.Listing, error) {
	var l *cairn.Listing
	err := r.with(ctx, name, func(ep *cairn.Endpoint) error {
		for got, err := range ep.Lister.List(ctx, cairn.Query{Filter: cairn.All, Names: []string{name}, Want: want}) {
			if err != nil {
				return err
			}
			l = got
		}
		return nil
	})
	switch {
	case err == nil, ctx.Err() != nil:
		return l, err
	case errors.Is(err, cairn.KindNotFound):
		if _, serr := r.p.registry.store(name); errors.Is(serr, cairn.KindNotFound) {
			return nil, nil
		}
	}
	state := cairn.StateUnknown
	switch cairn.KindOf(err) {
	case cairn.KindUnverified:
		state = cairn.StateUnverified
	case cairn.KindCorrupt, cairn.KindDamaged:
		state = cairn.StateDamaged
	}
	return &cairn.Listing{Dataset: cairn.Dataset{Name: name, Kind: cairn.KindVolume, State: state, Why: err.Error()}}, nil
}

func (r *router) Send(ctx context.Context, step cairn.Step, accept []cairn.Format) (*cairn.Stream, error) {
	ep, done, err := r.p.endpoint(ctx, step.Dataset)
	if err != nil {
		return nil, err
	}
	s, err := ep.Sender.Send(ctx, step, accept)
	if err != nil {
		return nil, errors.Join(err, done.Close())
	}
	s.Body = held{s.Body, done}
	return s, nil
}

// held is a body that releases the endpoint it came from.
type held struct {
	io.ReadCloser
	done io.Closer
}

func (h held) Close() error { return errors.Join(h.ReadCloser.Close(), h.done.Close()) }

// Receive makes the volume, sealed, when it is not there yet.
func (r *router) Receive(ctx context.Context, s *cairn.Stream, o cairn.ReceiveOptions) (cairn.Received, error) {
	var got cairn.Received
	err := r.prepare(ctx, s)
	if err == nil {
		err = r.with(ctx, s.Header.Dataset, func(ep *cairn.Endpoint) error {
			var err error
			got, err = ep.Receiver.Receive(ctx, s, o)
			return err
		})
	}
	if err != nil {
		_ = s.Body.Close() // closed already, unless the receive was never begun
	}
	return got, err
}

func (r *router) prepare(ctx context.Context, s *cairn.Stream) error {
	_, err := r.p.registry.store(s.Header.Dataset)
	if !errors.Is(err, cairn.KindNotFound) {
		return err
	}
	if !s.Header.From.IsZero() {
		return &cairn.Error{Op: "receive", Subject: s.Header.Dataset + s.Header.To.Name, Kind: cairn.KindConflict,
			Err: errors.New("the volume is not here, and the stream stands on " + named(s.Header.From)), Hint: "send a full stream first"}
	}
	err = r.p.make(ctx, s.Header.Dataset, "", CreateOptions{Size: s.Header.Volume, Owner: "receive", Sealed: true})
	if errors.Is(err, cairn.KindExists) {
		return nil // another receive was faster; it decides
	}
	return err
}

// Abort also removes a volume that never got its first version.
func (r *router) Abort(ctx context.Context, dataset string) error {
	err := r.with(ctx, dataset, func(ep *cairn.Endpoint) error { return ep.Receiver.Abort(ctx, dataset) })
	if errors.Is(err, cairn.KindNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	v, err := r.p.Open(ctx, dataset)
	if err != nil {
		return nil // another process hosts it
	}
	if st := v.state(); len(st.Versions) > 0 || !st.Head.Sealed || st.Store.Owner != "receive" {
		return nil
	}
	return r.p.DestroyVolume(ctx, dataset)
}

func (r *router) Snapshot(ctx context.Context, name string, datasets []string, atomic bool) ([]cairn.Captured, error) {
	if atomic && len(datasets) > 1 {
		return r.p.captureTogether(ctx, name, datasets)
	}
	out := make([]cairn.Captured, len(datasets))
	for i, d := range datasets {
		out[i].Dataset = d
		out[i].Err = r.with(ctx, d, func(ep *cairn.Endpoint) error {
			got, err := ep.Snapshots.Snapshot(ctx, name, []string{d}, false)
			if err != nil {
				return err
			}
			out[i].Version = got[0].Version
			return got[0].Err
		})
	}
	return out, ctx.Err()
}

func (r *router) Bookmark(ctx context.Context, dataset string, of cairn.VersionID, name string, degrade bool) (v cairn.Version, err error) {
	err = r.with(ctx, dataset, func(ep *cairn.Endpoint) error {
		v, err = ep.Bookmarks.Bookmark(ctx, dataset, of, name, degrade)
		return err
	})
	return v, err
}

func (r *router) Destroy(ctx context.Context, dataset string, ids []cairn.VersionID) (errs []error, err error) {
	err = r.with(ctx, dataset, func(ep *cairn.Endpoint) error {
		errs, err = ep.Destroys.Destroy(ctx, dataset, ids)
		return err
	})
	return errs, err
}

func (r *router) SetLease(ctx context.Context, set cairn.LeaseSet) error {
	return r.with(ctx, set.Dataset, func(ep *cairn.Endpoint) error { return ep.Leases.SetLease(ctx, set) })
}

func (r *router) Estimate(ctx context.Context, steps []cairn.Step) ([]int64, error) {
	out := make([]int64, len(steps))
	for i, step := range steps {
		err := r.with(ctx, step.Dataset, func(ep *cairn.Endpoint) error {
			got, err := ep.Estimates.Estimate(ctx, []cairn.Step{step})
			if err == nil {
				out[i] = got[0]
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (r *router) OpenVersion(ctx context.Context, dataset string, id cairn.VersionID) (cairn.BlockReader, error) {
	ep, done, err := r.p.endpoint(ctx, dataset)
	if err != nil {
		return nil, err
	}
	b, err := ep.Blocks.OpenVersion(ctx, dataset, id)
	if err != nil {
		return nil, errors.Join(err, done.Close())
	}
	return heldReader{b, done}, nil
}

// heldReader is a reader that releases the endpoint it came from.
type heldReader struct {
	cairn.BlockReader
	done io.Closer
}

func (h heldReader) Close() error { return errors.Join(h.BlockReader.Close(), h.done.Close()) }

func (r *router) Changed(ctx context.Context, dataset string, from, to cairn.VersionID) iter.Seq2[cairn.Extent, error] {
	return routed(ctx, r, dataset, func(ep *cairn.Endpoint) iter.Seq2[cairn.Extent, error] {
		return ep.Changes.Changed(ctx, dataset, from, to)
	})
}

func (r *router) Digest(ctx context.Context, dataset string, id cairn.VersionID, q cairn.DigestQuery) iter.Seq2[cairn.Digest, error] {
	return routed(ctx, r, dataset, func(ep *cairn.Endpoint) iter.Seq2[cairn.Digest, error] {
		return ep.Digests.Digest(ctx, dataset, id, q)
	})
}

// routed is the sequence that the endpoint of the dataset gives.
func routed[T any](ctx context.Context, r *router, dataset string, open func(*cairn.Endpoint) iter.Seq2[T, error]) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		stopped := false
		err := r.with(ctx, dataset, func(ep *cairn.Endpoint) error {
			for x, err := range open(ep) {
				if err != nil {
					return err
				}
				if !yield(x, nil) {
					stopped = true
					return nil
				}
			}
			return nil
		})
		if err != nil && !stopped {
			var none T
			yield(none, err)
		}
	}
}

func (r *router) Heal(ctx context.Context, dataset string, id cairn.VersionID, patches []cairn.Patch, o cairn.HealOptions) (m []cairn.Mending, err error) {
	err = r.with(ctx, dataset, func(ep *cairn.Endpoint) error {
		m, err = ep.Heals.Heal(ctx, dataset, id, patches, o)
		return err
	})
	return m, err
}

func (r *router) Rollback(ctx context.Context, dataset string, to cairn.VersionID, destroyNewer bool) error {
	return r.with(ctx, dataset, func(ep *cairn.Endpoint) error { return ep.Rollbacks.Rollback(ctx, dataset, to, destroyNewer) })
}

func (r *router) Resize(ctx context.Context, dataset string, size int64) error {
	return r.with(ctx, dataset, func(ep *cairn.Endpoint) error { return ep.Resizes.Resize(ctx, dataset, size) })
}

func (r *router) Verify(ctx context.Context, dataset string, id cairn.VersionID) (c cairn.Coverage, err error) {
	err = r.with(ctx, dataset, func(ep *cairn.Endpoint) error {
		c, err = ep.Verifies.Verify(ctx, dataset, id)
		return err
	})
	return c, err
}

func (r *router) Seal(ctx context.Context, dataset string, sealed bool) error {
	return r.with(ctx, dataset, func(ep *cairn.Endpoint) error { return ep.Seals.Seal(ctx, dataset, sealed) })
}

// Rename renames a volume that this process can open, while nothing uses it.
func (r *router) Rename(ctx context.Context, from, to string) error {
	p := r.p
	if _, err := p.Open(ctx, from); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	err := p.idle(from)
	if err == nil {
		err = cairn.CheckDatasetName(to)
	}
	if err == nil {
		err = p.shut(from)
	}
	if err == nil {
		err = p.registry.rename(from, to)
	}
	return failed("rename", from, err)
}

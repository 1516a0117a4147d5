package wrap

import (
	"context"
	"errors"
	"iter"
	"slices"
	"strings"

	"cairn"
)

// below shows the datasets under one prefix as if they were the whole place, and
// nothing else. It begins empty: each ability of the endpoint is there only because
// it is named here, and translates names both ways.
type below struct {
	ep     *cairn.Endpoint
	prefix string // with its final '/'
}

func newBelow(ep *cairn.Endpoint, prefix string) *cairn.Endpoint {
	b := &below{ep, prefix + "/"}
	out := &cairn.Endpoint{Info: ep.Info, Close: ep.Close}
	if ep.Lister != nil {
		out.Lister = b
	}
	if ep.Sender != nil {
		out.Sender = b
	}
	if ep.Receiver != nil {
		out.Receiver = b
	}
	if ep.Snapshots != nil {
		out.Snapshots = b
	}
	if ep.Bookmarks != nil {
		out.Bookmarks = b
	}
	if ep.Destroys != nil {
		out.Destroys = b
	}
	if ep.Leases != nil {
		out.Leases = b
	}
	if ep.Estimates != nil {
		out.Estimates = b
	}
	if ep.Blocks != nil {
		out.Blocks = b
	}
	if ep.Changes != nil {
		out.Changes = b
	}
	if ep.Rollbacks != nil {
		out.Rollbacks = b
	}
	if ep.Resizes != nil {
		out.Resizes = b
	}
	if ep.Renames != nil {
		out.Renames = b
	}
	if ep.Verifies != nil {
		out.Verifies = b
	}
	if ep.Seals != nil {
		out.Seals = b
	}
	if ep.Digests != nil {
		out.Digests = b
	}
	if ep.Heals != nil {
		out.Heals = b
	}
	return out
}

// down is the place's name of a client's dataset. A name that is not one, such as
// "../other" or "", is refused before anything below sees it.
func (b *below) down(name string) (string, error) {
	if err := cairn.CheckDatasetName(name); err != nil {
		return "", err
	}
	full := b.prefix + name
	if err := cairn.CheckDatasetName(full); err != nil {
		return "", err
	}
	return full, nil
}

// up is the client's name of a dataset below the prefix; empty for all others.
func (b *below) up(full string) string {
	name, ok := strings.CutPrefix(full, b.prefix)
	if !ok {
		return ""
	}
	return name
}

// clean takes the prefix out of the names in an error; what is wrapped in another
// way than an *Error stays as it is, so that no cause gets lost.
func (b *below) clean(err error) error {
	e, ok := err.(*cairn.Error) //nolint:errorlint // only the outermost: see above
	if !ok {
		return err
	}
	copied := *e
	copied.Subject = strings.TrimPrefix(e.Subject, b.prefix)
	copied.Err = b.clean(e.Err)
	return &copied
}

// at runs a call on one dataset under its full name.
func (b *below) at(dataset string, call func(full string) error) error {
	full, err := b.down(dataset)
	if err != nil {
		return err
	}
	return b.clean(call(full))
}

func (b *below) query(q cairn.Query) cairn.Query {
	f := make(cairn.Filter, len(q.Filter))
	for i, r := range q.Filter {
		f[i] = r
		f[i].Name = strings.TrimSuffix(b.prefix+r.Name, "/")
	}
	q.Filter = f
	if q.Names == nil {
		return q
	}
	names := make([]string, 0, len(q.Names))
	for _, n := range q.Names {
		if full, err := b.down(n); err == nil {
			names = append(names, full)
		}
	}
	q.Names = names
	return q
}

func (b *below) List(ctx context.Context, q cairn.Query) iter.Seq2[*cairn.Listing, error] {
	return func(yield func(*cairn.Listing, error) bool) {
		for l, err := range b.ep.Lister.List(ctx, b.query(q)) {
			if err != nil {
				yield(nil, b.clean(err))
				return
			}
			name := b.up(l.Dataset.Name)
			if name == "" {
				continue
			}
			l.Dataset.Name, l.Dataset.Parent = name, b.up(l.Dataset.Parent)
			l.Dataset.Origin.Dataset = b.up(l.Dataset.Origin.Dataset)
			if !yield(l, nil) {
				return
			}
		}
	}
}

func (b *below) Send(ctx context.Context, step cairn.Step, accept []cairn.Format) (s *cairn.Stream, err error) {
	name, origin := step.Dataset, step.Origin
	if step.Origin, err = b.origin(origin); err != nil {
		return nil, err
	}
	err = b.at(name, func(full string) error {
		step.Dataset = full
		s, err = b.ep.Sender.Send(ctx, step, accept)
		return err
	})
	if err != nil {
		return nil, err
	}
	out := *s
	out.Header.Dataset, out.Header.Origin = name, origin
	return &out, nil
}

// origin is the place's name of a clone's origin, empty for what is no clone.
func (b *below) origin(name string) (string, error) {
	if name == "" {
		return "", nil
	}
	return b.down(name)
}

func (b *below) Receive(ctx context.Context, s *cairn.Stream, o cairn.ReceiveOptions) (r cairn.Received, err error) {
	full, err := b.down(s.Header.Dataset)
	origin, oerr := b.origin(s.Header.Origin)
	if err = errors.Join(err, oerr); err != nil {
		_ = s.Body.Close() // what was refused was not read
		return cairn.Received{}, err
	}
	in := *s
	in.Header.Dataset, in.Header.Origin = full, origin
	r, err = b.ep.Receiver.Receive(ctx, &in, o)
	return r, b.clean(err)
}

func (b *below) Abort(ctx context.Context, dataset string) error {
	return b.at(dataset, func(full string) error { return b.ep.Receiver.Abort(ctx, full) })
}

func (b *below) Snapshot(ctx context.Context, name string, datasets []string, atomic bool) ([]cairn.Captured, error) {
	out := make([]cairn.Captured, len(datasets))
	full := make([]string, 0, len(datasets))
	var places []int // of full in out
	for i, ds := range datasets {
		out[i].Dataset = ds
		f, err := b.down(ds)
		switch {
		case err == nil:
			full, places = append(full, f), append(places, i)
		case atomic:
			return nil, err
		default:
			out[i].Err = err
		}
	}
	got, err := b.ep.Snapshots.Snapshot(ctx, name, full, atomic)
	if err != nil {
		return nil, b.clean(err)
	}
	for i, c := range got {
		out[places[i]].Version, out[places[i]].Err = c.Version, b.clean(c.Err)
	}
	return out, nil
}

func (b *below) Bookmark(ctx context.Context, dataset string, of cairn.VersionID, name string, degrade bool) (v cairn.Version, err error) {
	err = b.at(dataset, func(full string) error {
		v, err = b.ep.Bookmarks.Bookmark(ctx, full, of, name, degrade)
		return err
	})
	return v, err
}

func (b *below) Destroy(ctx context.Context, dataset string, ids []cairn.VersionID) (results []error, err error) {
	err = b.at(dataset, func(full string) error {
		results, err = b.ep.Destroys.Destroy(ctx, full, ids)
		return err
	})
	results = slices.Clone(results)
	for i := range results {
		results[i] = b.clean(results[i])
	}
	return results, err
}

func (b *below) SetLease(ctx context.Context, set cairn.LeaseSet) error {
	return b.at(set.Dataset, func(full string) error {
		set.Dataset = full
		return b.ep.Leases.SetLease(ctx, set)
	})
}

func (b *below) Estimate(ctx context.Context, steps []cairn.Step) ([]int64, error) {
	steps = slices.Clone(steps)
	for i := range steps {
		full, err := b.down(steps[i].Dataset)
		if err != nil {
			return nil, err
		}
		steps[i].Dataset = full
		if steps[i].Origin, err = b.origin(steps[i].Origin); err != nil {
			return nil, err
		}
	}
	sizes, err := b.ep.Estimates.Estimate(ctx, steps)
	return sizes, b.clean(err)
}

func (b *below) OpenVersion(ctx context.Context, dataset string, id cairn.VersionID) (r cairn.BlockReader, err error) {
	err = b.at(dataset, func(full string) error {
		r, err = b.ep.Blocks.OpenVersion(ctx, full, id)
		return err
	})
	return r, err
}

func (b *below) Changed(ctx context.Context, dataset string, from, to cairn.VersionID) iter.Seq2[cairn.Extent, error] {
	return func(yield func(cairn.Extent, error) bool) {
		full, err := b.down(dataset)
		if err != nil {
			yield(cairn.Extent{}, err)
			return
		}
		for e, err := range b.ep.Changes.Changed(ctx, full, from, to) {
			if !yield(e, b.clean(err)) {
				return
			}
		}
	}
}

func (b *below) Rollback(ctx context.Context, dataset string, to cairn.VersionID, destroyNewer bool) error {
	return b.at(dataset, func(full string) error { return b.ep.Rollbacks.Rollback(ctx, full, to, destroyNewer) })
}

func (b *below) Resize(ctx context.Context, dataset string, size int64) error {
	return b.at(dataset, func(full string) error { return b.ep.Resizes.Resize(ctx, full, size) })
}

func (b *below) Rename(ctx context.Context, from, to string) error {
	target, err := b.down(to)
	if err != nil {
		return err
	}
	return b.at(from, func(full string) error { return b.ep.Renames.Rename(ctx, full, target) })
}

func (b *below) Verify(ctx context.Context, dataset string, id cairn.VersionID) (c cairn.Coverage, err error) {
	err = b.at(dataset, func(full string) error {
		c, err = b.ep.Verifies.Verify(ctx, full, id)
		return err
	})
	return c, err
}

func (b *below) Seal(ctx context.Context, dataset string, sealed bool) error {
	return b.at(dataset, func(full string) error { return b.ep.Seals.Seal(ctx, full, sealed) })
}

func (b *below) Digest(ctx context.Context, dataset string, id cairn.VersionID, q cairn.DigestQuery) iter.Seq2[cairn.Digest, error] {
	return func(yield func(cairn.Digest, error) bool) {
		full, err := b.down(dataset)
		if err != nil {
			yield(cairn.Digest{}, err)
			return
		}
		for d, err := range b.ep.Digests.Digest(ctx, full, id, q) {
			if !yield(d, b.clean(err)) {
				return
			}
		}
	}
}

func (b *below) Heal(ctx context.Context, dataset string, id cairn.VersionID, patches []cairn.Patch, o cairn.HealOptions) (m []cairn.Mending, err error) {
	err = b.at(dataset, func(full string) error {
		m, err = b.ep.Heals.Heal(ctx, full, id, patches, o)
		return err
	})
	return m, err
}

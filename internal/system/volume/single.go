package volume

import (
	"context"
	"iter"

	"cairn"
)

// Endpoint is the volume as an endpoint with one dataset, under the name it has at
// its place.
func (v *Volume) Endpoint(place, name string) *cairn.Endpoint {
	s := &single{v, name}
	return &cairn.Endpoint{Info: info(place), Lister: s, Sender: s, Receiver: s, Snapshots: s, Bookmarks: s, Destroys: s, Leases: s,
		Estimates: s, Blocks: s, Changes: s, Rollbacks: s, Resizes: s, Verifies: s, Seals: s, Digests: s, Heals: s}
}

func info(place string) cairn.Info {
	formats := map[cairn.DatasetKind][]cairn.Format{cairn.KindVolume: {cairn.FormatBlocks}}
	return cairn.Info{Place: place, Sends: formats, Accepts: formats}
}

type single struct {
	v    *Volume
	name string
}

func (s *single) check(dataset string) error {
	if dataset != s.name {
		return &cairn.Error{Op: "find volume", Subject: dataset, Kind: cairn.KindNotFound}
	}
	return nil
}

func (s *single) List(_ context.Context, q cairn.Query) iter.Seq2[*cairn.Listing, error] {
	return func(yield func(*cairn.Listing, error) bool) {
		if selects(q, s.name) {
			yield(s.v.Listing(s.name, q.Want), nil)
		}
	}
}

func (s *single) Send(ctx context.Context, step cairn.Step, accept []cairn.Format) (*cairn.Stream, error) {
	if err := s.check(step.Dataset); err != nil {
		return nil, err
	}
	return s.v.Send(ctx, step, accept)
}

func (s *single) Receive(ctx context.Context, st *cairn.Stream, o cairn.ReceiveOptions) (cairn.Received, error) {
	if err := s.check(st.Header.Dataset); err != nil {
		_ = st.Body.Close() // the first error counts
		return cairn.Received{}, err
	}
	return s.v.Receive(ctx, st, o)
}

func (s *single) Abort(ctx context.Context, dataset string) error {
	if err := s.check(dataset); err != nil {
		return err
	}
	return s.v.Abort(ctx)
}

func (s *single) Snapshot(ctx context.Context, name string, datasets []string, _ bool) ([]cairn.Captured, error) {
	out := make([]cairn.Captured, len(datasets))
	for i, d := range datasets {
		out[i].Dataset = d
		if out[i].Err = s.check(d); out[i].Err == nil {
			out[i].Version, out[i].Err = s.v.Snapshot(ctx, name)
		}
	}
	return out, nil
}

func (s *single) Bookmark(ctx context.Context, dataset string, of cairn.VersionID, name string, degrade bool) (cairn.Version, error) {
	if err := s.check(dataset); err != nil {
		return cairn.Version{}, err
	}
	return s.v.Bookmark(ctx, of, name, degrade)
}

func (s *single) Destroy(ctx context.Context, dataset string, ids []cairn.VersionID) ([]error, error) {
	if err := s.check(dataset); err != nil {
		return nil, err
	}
	return s.v.Destroy(ctx, ids)
}

func (s *single) SetLease(ctx context.Context, set cairn.LeaseSet) error {
	if err := s.check(set.Dataset); err != nil {
		return err
	}
	return s.v.SetLease(ctx, set)
}

func (s *single) Estimate(ctx context.Context, steps []cairn.Step) ([]int64, error) {
	out := make([]int64, len(steps))
	for i, step := range steps {
		if err := s.check(step.Dataset); err != nil {
			return nil, err
		}
		var err error
		if out[i], err = s.v.Estimate(ctx, step); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (s *single) OpenVersion(ctx context.Context, dataset string, id cairn.VersionID) (cairn.BlockReader, error) {
	if err := s.check(dataset); err != nil {
		return nil, err
	}
	r, err := s.v.OpenVersion(ctx, id)
	if err != nil {
		return nil, err
	}
	return r, nil
}

func (s *single) Changed(ctx context.Context, dataset string, from, to cairn.VersionID) iter.Seq2[cairn.Extent, error] {
	if err := s.check(dataset); err != nil {
		return failing[cairn.Extent](err)
	}
	return s.v.Changed(ctx, from, to)
}

// failing is the sequence of one error.
func failing[T any](err error) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var none T
		yield(none, err)
	}
}

func (s *single) Rollback(ctx context.Context, dataset string, to cairn.VersionID, destroyNewer bool) error {
	if err := s.check(dataset); err != nil {
		return err
	}
	return s.v.Rollback(ctx, to, destroyNewer)
}

func (s *single) Resize(ctx context.Context, dataset string, size int64) error {
	if err := s.check(dataset); err != nil {
		return err
	}
	return s.v.Resize(ctx, size)
}

func (s *single) Verify(ctx context.Context, dataset string, id cairn.VersionID) (cairn.Coverage, error) {
	if err := s.check(dataset); err != nil {
		return cairn.Coverage{}, err
	}
	return s.v.Verify(ctx, id)
}

func (s *single) Seal(ctx context.Context, dataset string, sealed bool) error {
	if err := s.check(dataset); err != nil {
		return err
	}
	return s.v.SetSealed(ctx, sealed)
}

func (s *single) Digest(ctx context.Context, dataset string, id cairn.VersionID, q cairn.DigestQuery) iter.Seq2[cairn.Digest, error] {
	if err := s.check(dataset); err != nil {
		return failing[cairn.Digest](err)
	}
	return s.v.Digest(ctx, id, q)
}

func (s *single) Heal(ctx context.Context, dataset string, id cairn.VersionID, patches []cairn.Patch, o cairn.HealOptions) ([]cairn.Mending, error) {
	if err := s.check(dataset); err != nil {
		return nil, err
	}
	return s.v.Heal(ctx, id, patches, o)
}

package wrap

import (
	"context"
	"errors"
	"iter"

	"cairn"
)

// Select is what a pulling client gets of a place: the datasets that the filter
// selects, with the right to list, send, read and lease them, and to bookmark and
// destroy their versions, which is how a puller keeps its cursor and prunes. What
// the filter does not select does not exist for the client. It begins empty: what
// is not named here is not let through.
func Select(ep *cairn.Endpoint, filter cairn.Filter, identity string) *cairn.Endpoint {
	s := &selected{ep: ep, filter: filter}
	out := &cairn.Endpoint{Info: ep.Info, Close: ep.Close}
	out.Info.Identity, out.Info.Accepts = identity, nil
	if ep.Lister != nil {
		out.Lister = s
	}
	if ep.Sender != nil {
		out.Sender = s
	}
	if ep.Bookmarks != nil {
		out.Bookmarks = s
	}
	if ep.Destroys != nil {
		out.Destroys = s
	}
	if ep.Leases != nil {
		out.Leases = s
	}
	if ep.Estimates != nil {
		out.Estimates = s
	}
	if ep.Blocks != nil {
		out.Blocks = s
	}
	if ep.Changes != nil {
		out.Changes = s
	}
	if ep.Digests != nil {
		out.Digests = s
	}
	return out
}

type selected struct {
	ep     *cairn.Endpoint
	filter cairn.Filter
}

// see fails for a dataset that is not selected as for one that is not there: who
// has no right to it does not learn whether it exists.
func (s *selected) see(op, dataset string) error {
	if s.filter.Match(dataset) {
		return nil
	}
	return &cairn.Error{Op: op, Subject: dataset, Place: s.ep.Info.Place, Kind: cairn.KindNotFound,
		Err: errors.New("there is no such dataset for your identity"), Hint: "'cairn list' shows what you may see; the job at the other side selects it"}
}

// seeStep is see for all that a step names.
func (s *selected) seeStep(op string, step cairn.Step) error {
	if err := s.see(op, step.Dataset); err != nil || step.Origin == "" {
		return err
	}
	return s.see(op, step.Origin)
}

// List implements cairn.Lister.
func (s *selected) List(ctx context.Context, q cairn.Query) iter.Seq2[*cairn.Listing, error] {
	return func(yield func(*cairn.Listing, error) bool) {
		for l, err := range s.ep.Lister.List(ctx, q) {
			if err == nil && !s.filter.Match(l.Dataset.Name) {
				continue
			}
			if err == nil && !s.filter.Match(l.Dataset.Origin.Dataset) {
				l.Dataset.Origin.Dataset = ""
			}
			if !yield(l, err) {
				return
			}
		}
	}
}

// Send implements cairn.Sender.
func (s *selected) Send(ctx context.Context, step cairn.Step, accept []cairn.Format) (*cairn.Stream, error) {
	if err := s.seeStep("send", step); err != nil {
		return nil, err
	}
	return s.ep.Sender.Send(ctx, step, accept)
}

// Bookmark implements cairn.Bookmarker. Giving up a snapshot's data is not for
// clients to decide.
func (s *selected) Bookmark(ctx context.Context, dataset string, of cairn.VersionID, name string, degrade bool) (cairn.Version, error) {
	if err := s.see("bookmark", dataset); err != nil {
		return cairn.Version{}, err
	}
	if degrade {
		return cairn.Version{}, &cairn.Error{Op: "bookmark", Subject: dataset + of.Name, Place: s.ep.Info.Place, Kind: cairn.KindPermission,
			Hint: "a client cannot turn a snapshot into a bookmark"}
	}
	return s.ep.Bookmarks.Bookmark(ctx, dataset, of, name, false)
}

// Destroy implements cairn.Destroyer.
func (s *selected) Destroy(ctx context.Context, dataset string, ids []cairn.VersionID) ([]error, error) {
	if err := s.see("destroy versions of", dataset); err != nil {
		return nil, err
	}
	return s.ep.Destroys.Destroy(ctx, dataset, ids)
}

// SetLease implements cairn.Leaser.
func (s *selected) SetLease(ctx context.Context, set cairn.LeaseSet) error {
	if err := s.see("lease versions of", set.Dataset); err != nil {
		return err
	}
	return s.ep.Leases.SetLease(ctx, set)
}

// Estimate implements cairn.Estimator.
func (s *selected) Estimate(ctx context.Context, steps []cairn.Step) ([]int64, error) {
	for _, step := range steps {
		if err := s.seeStep("estimate", step); err != nil {
			return nil, err
		}
	}
	return s.ep.Estimates.Estimate(ctx, steps)
}

// OpenVersion implements cairn.BlockOpener.
func (s *selected) OpenVersion(ctx context.Context, dataset string, id cairn.VersionID) (cairn.BlockReader, error) {
	if err := s.see("open versions of", dataset); err != nil {
		return nil, err
	}
	return s.ep.Blocks.OpenVersion(ctx, dataset, id)
}

// Changed implements cairn.Changer.
func (s *selected) Changed(ctx context.Context, dataset string, from, to cairn.VersionID) iter.Seq2[cairn.Extent, error] {
	if err := s.see("list changes of", dataset); err != nil {
		return func(yield func(cairn.Extent, error) bool) { yield(cairn.Extent{}, err) }
	}
	return s.ep.Changes.Changed(ctx, dataset, from, to)
}

// Digest implements cairn.Digester.
func (s *selected) Digest(ctx context.Context, dataset string, id cairn.VersionID, q cairn.DigestQuery) iter.Seq2[cairn.Digest, error] {
	if err := s.see("hash versions of", dataset); err != nil {
		return func(yield func(cairn.Digest, error) bool) { yield(cairn.Digest{}, err) }
	}
	return s.ep.Digests.Digest(ctx, dataset, id, q)
}

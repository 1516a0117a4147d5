package rpc

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"cairn"
)

// The abilities of a remote endpoint: each is one call.

func (s *session) List(ctx context.Context, q cairn.Query) iter.Seq2[*cairn.Listing, error] {
	return func(yield func(*cairn.Listing, error) bool) {
		for row, err := range s.rows(ctx, methodList, "list datasets", "", &listRequest{q}) {
			var l *cairn.Listing
			if err == nil {
				l, err = readListing(row)
			}
			if err != nil {
				yield(nil, err)
				return
			}
			if !yield(l, nil) {
				return
			}
		}
	}
}

func (s *session) Snapshot(ctx context.Context, name string, datasets []string, atomic bool) ([]cairn.Captured, error) {
	const op = "capture"
	var a snapshotAnswer
	if err := s.unary(ctx, methodSnapshot, op, name, &snapshotRequest{name, datasets, atomic}, &a); err != nil {
		return nil, err
	}
	if len(a.captured) != len(datasets) {
		return nil, s.miscounted(op, name, len(a.captured), len(datasets))
	}
	for i := range a.captured {
		a.captured[i].Err = s.ofPeer(a.captured[i].Err, op, a.captured[i].Dataset+name)
	}
	return a.captured, nil
}

func (s *session) Bookmark(ctx context.Context, dataset string, of cairn.VersionID, name string, degrade bool) (cairn.Version, error) {
	var a versionAnswer
	err := s.unary(ctx, methodBookmark, "bookmark", dataset+of.Name, &bookmarkRequest{dataset, of, name, degrade}, &a)
	return a.version, err
}

func (s *session) Destroy(ctx context.Context, dataset string, ids []cairn.VersionID) ([]error, error) {
	const op = "destroy"
	var a destroyAnswer
	if err := s.unary(ctx, methodDestroy, op, dataset, &destroyRequest{dataset, ids}, &a); err != nil {
		return nil, err
	}
	if len(a.results) != len(ids) {
		return nil, s.miscounted(op, dataset, len(a.results), len(ids))
	}
	for i, err := range a.results {
		a.results[i] = s.ofPeer(err, op, dataset+ids[i].Name)
	}
	return a.results, nil
}

func (s *session) SetLease(ctx context.Context, set cairn.LeaseSet) error {
	return s.unary(ctx, methodLease, "lease versions of", set.Dataset, &leaseRequest{set}, &nothing{})
}

func (s *session) Estimate(ctx context.Context, steps []cairn.Step) ([]int64, error) {
	const op = "estimate steps"
	var a estimateAnswer
	if err := s.unary(ctx, methodEstimate, op, "", &estimateRequest{steps}, &a); err != nil {
		return nil, err
	}
	if len(a.sizes) != len(steps) {
		return nil, s.miscounted(op, "", len(a.sizes), len(steps))
	}
	return a.sizes, nil
}

func (s *session) Abort(ctx context.Context, dataset string) error {
	return s.unary(ctx, methodAbort, "abort receive of", dataset, &datasetRequest{dataset}, &nothing{})
}

func (s *session) Changed(ctx context.Context, dataset string, from, to cairn.VersionID) iter.Seq2[cairn.Extent, error] {
	return s.extents(ctx, methodChanged, "list changes of", dataset, &changedRequest{dataset, from, to})
}

func (s *session) Rollback(ctx context.Context, dataset string, to cairn.VersionID, destroyNewer bool) error {
	return s.unary(ctx, methodRollback, "roll back to", dataset+to.Name, &rollbackRequest{dataset, to, destroyNewer}, &nothing{})
}

func (s *session) Resize(ctx context.Context, dataset string, size int64) error {
	return s.unary(ctx, methodResize, "resize", dataset, &resizeRequest{dataset, size}, &nothing{})
}

func (s *session) Rename(ctx context.Context, from, to string) error {
	return s.unary(ctx, methodRename, "rename", from, &renameRequest{from, to}, &nothing{})
}

func (s *session) Verify(ctx context.Context, dataset string, id cairn.VersionID) (cairn.Coverage, error) {
	var a coverageAnswer
	err := s.unary(ctx, methodVerify, "verify", dataset+id.Name, &versionRequest{dataset, id}, &a)
	return a.coverage, err
}

func (s *session) Seal(ctx context.Context, dataset string, sealed bool) error {
	return s.unary(ctx, methodSeal, "seal", dataset, &sealRequest{dataset, sealed}, &nothing{})
}

func (s *session) Digest(ctx context.Context, dataset string, id cairn.VersionID, q cairn.DigestQuery) iter.Seq2[cairn.Digest, error] {
	return func(yield func(cairn.Digest, error) bool) {
		for row, err := range s.rows(ctx, methodDigest, "hash", dataset+id.Name, &digestRequest{dataset, id, q}) {
			var some digestRows
			if err == nil {
				err = decode(row, &some)
			}
			if err != nil {
				yield(cairn.Digest{}, err)
				return
			}
			for _, d := range some.digests {
				if !yield(d, nil) {
					return
				}
			}
		}
	}
}

func (s *session) Heal(ctx context.Context, dataset string, id cairn.VersionID, patches []cairn.Patch, o cairn.HealOptions) ([]cairn.Mending, error) {
	const op = "heal"
	var a healAnswer
	if err := s.unary(ctx, methodHeal, op, dataset+id.Name, &healRequest{dataset, id, patches, o}, &a); err != nil {
		return nil, err
	}
	if len(a.mendings) != len(patches) {
		return nil, s.miscounted(op, dataset, len(a.mendings), len(patches))
	}
	return a.mendings, nil
}

func (s *session) OpenVersion(ctx context.Context, dataset string, id cairn.VersionID) (cairn.BlockReader, error) {
	subject := dataset + id.Name
	k, err := s.start(ctx, methodOpen, "open version", subject, &versionRequest{dataset, id})
	if err != nil {
		return nil, err
	}
	var r ready
	if err := k.readyMessage(ctx, &r); err != nil {
		return nil, err
	}
	conn, err := s.openData(ctx, r.token)
	if err != nil {
		return nil, s.noData(ctx, k, err)
	}
	l := newLink(s.ctx, conn, s.t)
	c := newCaller(l, s.place, maxReads)
	l.open(conn.in.frames(), func() []byte { return nil }, c.take)
	return &versionReader{caller: c, call: k, subject: subject, size: r.size}, nil
}

// ofPeer is fromPeer for errors inside an answer, which may be nil.
func (s *session) ofPeer(err error, op, subject string) error {
	if err == nil {
		return nil
	}
	return fromPeer(err, op, subject, s.place)
}

func (s *session) miscounted(op, subject string, got, want int) error {
	return &cairn.Error{Op: op, Subject: subject, Place: s.place, Kind: cairn.KindCorrupt,
		Err: fmt.Errorf("%d results came for %d", got, want), Hint: "list to see what was done; the peer's version may be faulty"}
}

// noData gives up a call whose data connection could not be opened. What the peer
// says of it comes first: it may know more.
func (s *session) noData(ctx context.Context, k *call, err error) error {
	if k.abandon() && k.fault != nil && !errors.Is(k.fault, cairn.KindCanceled) && ctx.Err() == nil {
		return k.fault
	}
	if ctx.Err() != nil {
		return ended(ctx, k.op, k.subject, s.place)
	}
	return &cairn.Error{Op: k.op, Subject: k.subject, Place: s.place, Kind: cairn.KindOf(err), Err: err}
}

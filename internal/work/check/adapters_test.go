package check_test

import (
	"context"
	"iter"

	"cairn"
)

// Each ability as a function, so that a fault is a few lines.
type (
	lister    func(ctx context.Context, q cairn.Query) iter.Seq2[*cairn.Listing, error]
	sender    func(ctx context.Context, step cairn.Step, accept []cairn.Format) (*cairn.Stream, error)
	snapper   func(ctx context.Context, name string, datasets []string, atomic bool) ([]cairn.Captured, error)
	bookmaker func(ctx context.Context, ds string, of cairn.VersionID, name string, degrade bool) (cairn.Version, error)
	destroyer func(ctx context.Context, ds string, ids []cairn.VersionID) ([]error, error)
	leaser    func(ctx context.Context, set cairn.LeaseSet) error
	estimator func(ctx context.Context, steps []cairn.Step) ([]int64, error)
	opener    func(ctx context.Context, ds string, id cairn.VersionID) (cairn.BlockReader, error)
	changer   func(ctx context.Context, ds string, from, to cairn.VersionID) iter.Seq2[cairn.Extent, error]
	roller    func(ctx context.Context, ds string, to cairn.VersionID, destroyNewer bool) error
	renamer   func(ctx context.Context, from, to string) error
	verifier  func(ctx context.Context, ds string, id cairn.VersionID) (cairn.Coverage, error)
	digester  func(context.Context, string, cairn.VersionID, cairn.DigestQuery) iter.Seq2[cairn.Digest, error]
	healer    func(context.Context, string, cairn.VersionID, []cairn.Patch, cairn.HealOptions) ([]cairn.Mending, error)
	sealer    func(ctx context.Context, ds string, sealed bool) error
)

func (f lister) List(ctx context.Context, q cairn.Query) iter.Seq2[*cairn.Listing, error] {
	return f(ctx, q)
}
func (f sender) Send(ctx context.Context, step cairn.Step, accept []cairn.Format) (*cairn.Stream, error) {
	return f(ctx, step, accept)
}
func (f snapper) Snapshot(ctx context.Context, name string, datasets []string, atomic bool) ([]cairn.Captured, error) {
	return f(ctx, name, datasets, atomic)
}
func (f bookmaker) Bookmark(ctx context.Context, ds string, of cairn.VersionID, name string, degrade bool) (cairn.Version, error) {
	return f(ctx, ds, of, name, degrade)
}
func (f destroyer) Destroy(ctx context.Context, ds string, ids []cairn.VersionID) ([]error, error) {
	return f(ctx, ds, ids)
}
func (f leaser) SetLease(ctx context.Context, set cairn.LeaseSet) error { return f(ctx, set) }
func (f estimator) Estimate(ctx context.Context, steps []cairn.Step) ([]int64, error) {
	return f(ctx, steps)
}
func (f opener) OpenVersion(ctx context.Context, ds string, id cairn.VersionID) (cairn.BlockReader, error) {
	return f(ctx, ds, id)
}
func (f changer) Changed(ctx context.Context, ds string, from, to cairn.VersionID) iter.Seq2[cairn.Extent, error] {
	return f(ctx, ds, from, to)
}
func (f roller) Rollback(ctx context.Context, ds string, to cairn.VersionID, destroyNewer bool) error {
	return f(ctx, ds, to, destroyNewer)
}
func (f renamer) Rename(ctx context.Context, from, to string) error { return f(ctx, from, to) }
func (f verifier) Verify(ctx context.Context, ds string, id cairn.VersionID) (cairn.Coverage, error) {
	return f(ctx, ds, id)
}
func (f digester) Digest(ctx context.Context, ds string, id cairn.VersionID, q cairn.DigestQuery) iter.Seq2[cairn.Digest, error] {
	return f(ctx, ds, id, q)
}
func (f healer) Heal(ctx context.Context, ds string, id cairn.VersionID, patches []cairn.Patch, o cairn.HealOptions) ([]cairn.Mending, error) {
	return f(ctx, ds, id, patches, o)
}
func (f sealer) Seal(ctx context.Context, ds string, sealed bool) error { return f(ctx, ds, sealed) }

// receiver replaces Receive and leaves Abort to the place.
type receiver struct {
	cairn.Receiver
	receive func(ctx context.Context, s *cairn.Stream, o cairn.ReceiveOptions) (cairn.Received, error)
}

func (r receiver) Receive(ctx context.Context, s *cairn.Stream, o cairn.ReceiveOptions) (cairn.Received, error) {
	return r.receive(ctx, s, o)
}

// aborter replaces Abort and leaves Receive to the place.
type aborter struct {
	cairn.Receiver
	abort func(ctx context.Context, ds string) error
}

func (a aborter) Abort(ctx context.Context, ds string) error { return a.abort(ctx, ds) }

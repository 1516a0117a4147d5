package wrap

import (
	"context"
	"errors"
	"io"
	"iter"
	"slices"

	"cairn"
)

var (
	errEnded      = errors.New("the session has ended")
	errDestroying = errors.New("it is being destroyed")
)

// Leased is one session's view of a place. Plan leases live in the table and end
// when the returned endpoint is closed; all other purposes pass to the endpoint,
// which keeps them durably. What a running Send or an open reader uses is held
// against every other session. Destroy, Rollback over newer versions and a Bookmark
// that degrades refuse, with KindBusy and the name of the holder, what anybody
// relies on; the exclusive lease exists only inside those calls.
//
// ep needs a Lister where it can roll back or lease.
func Leased(ep *cairn.Endpoint, t *Table) *cairn.Endpoint {
	out := *ep
	s := &session{Endpoint: ep, table: t}
	out.Close = func() error {
		t.end(s)
		return nil
	}
	if ep.Lister != nil {
		out.Lister = leasedLister{s}
	}
	if ep.Sender != nil {
		out.Sender = leasedSender{s}
	}
	if ep.Blocks != nil {
		out.Blocks = leasedBlocks{s}
	}
	if ep.Leases != nil {
		out.Leases = leasedLeases{s}
	}
	if ep.Destroys != nil {
		out.Destroys = leasedDestroys{s}
	}
	if ep.Bookmarks != nil {
		out.Bookmarks = leasedBookmarks{s}
	}
	if ep.Rollbacks != nil {
		out.Rollbacks = leasedRollbacks{s}
	}
	if ep.Renames != nil {
		out.Renames = leasedRenames{s}
	}
	return &out
}

// session is one Leased; the endpoint below and the table it shares.
type session struct {
	*cairn.Endpoint
	table *Table
	ended bool // guarded by table.mu
}

type leasedLister struct{ *session }

func (s leasedLister) List(ctx context.Context, q cairn.Query) iter.Seq2[*cairn.Listing, error] {
	rows := s.Lister.List(ctx, q)
	if !q.Want.Leases {
		return rows
	}
	return func(yield func(*cairn.Listing, error) bool) {
		for l, err := range rows {
			if l != nil {
				for i := range l.Versions {
					v := &l.Versions[i]
					v.Leases = append(v.Leases, s.table.leases(l.Dataset.Name, v.VersionID)...)
				}
			}
			if !yield(l, err) {
				return
			}
		}
	}
}

type leasedSender struct{ *session }

func (s leasedSender) Send(ctx context.Context, step cairn.Step, accept []cairn.Format) (*cairn.Stream, error) {
	ids := append([]cairn.VersionID{step.From, step.To}, step.Via...)
	if step.Origin != "" { // its dataset cannot lose it while the clone is there
		ids = ids[1:]
	}
	release, err := s.table.hold("send", step.Dataset, "it is being sent", ids...)
	if err != nil {
		return nil, err
	}
	stream, err := s.Sender.Send(ctx, step, accept)
	if err != nil {
		release()
		return nil, err
	}
	return &cairn.Stream{Header: stream.Header, Body: heldBody{stream.Body, release}}, nil
}

type heldBody struct {
	io.ReadCloser
	release func()
}

func (b heldBody) Close() error {
	defer b.release()
	return b.ReadCloser.Close()
}

type leasedBlocks struct{ *session }

func (s leasedBlocks) OpenVersion(ctx context.Context, dataset string, id cairn.VersionID) (cairn.BlockReader, error) {
	release, err := s.table.hold("open", dataset, "it is being read", id)
	if err != nil {
		return nil, err
	}
	r, err := s.Blocks.OpenVersion(ctx, dataset, id)
	if err != nil {
		release()
		return nil, err
	}
	return heldReader{r, release}, nil
}

type heldReader struct {
	cairn.BlockReader
	release func()
}

func (r heldReader) Close() error {
	defer r.release()
	return r.BlockReader.Close()
}

type leasedLeases struct{ *session }

func (s leasedLeases) SetLease(ctx context.Context, set cairn.LeaseSet) error {
	if set.Purpose != cairn.PurposePlan {
		return s.durable(ctx, set)
	}
	key := planKey{s.session, set.Dataset, set.Owner}
	// Held before it is looked at: what is seen to be there then stays there.
	release, err := s.table.hold("lease", set.Dataset, "it is being leased", set.Versions...)
	if err != nil {
		return err
	}
	defer release()
	if err := s.exist(ctx, set); err != nil {
		return err
	}
	return s.table.setPlan(key, set.Versions)
}

// durable keeps a Destroy that is under way and the new lease apart.
func (s leasedLeases) durable(ctx context.Context, set cairn.LeaseSet) error {
	release, err := s.table.hold("lease", set.Dataset, "it is being leased", set.Versions...)
	if err != nil {
		return err
	}
	defer release()
	return s.Leases.SetLease(ctx, set)
}

func (s leasedLeases) exist(ctx context.Context, set cairn.LeaseSet) error {
	if len(set.Versions) == 0 {
		return ctx.Err()
	}
	there, err := s.versions(ctx, set.Dataset)
	if err != nil {
		return err
	}
	guids := make(map[string]cairn.GUID, len(there))
	for _, v := range there {
		guids[v.Name] = v.GUID
	}
	for _, id := range set.Versions {
		switch g, ok := guids[id.Name]; {
		case !ok:
			return &cairn.Error{Op: "lease", Subject: set.Dataset + id.Name, Kind: cairn.KindNotFound}
		case g != id.GUID:
			return &cairn.Error{Op: "lease", Subject: set.Dataset + id.Name, Kind: cairn.KindConflict, Err: errors.New("it has GUID " + g.String() + ", not " + id.GUID.String())}
		}
	}
	return nil
}

// versions lists one dataset; KindNotFound when it is not there.
func (s *session) versions(ctx context.Context, dataset string) ([]cairn.Version, error) {
	q := cairn.Query{Filter: cairn.Filter{{Name: dataset, Keep: true}}, Names: []string{dataset}, Want: cairn.Want{Versions: true}}
	for l, err := range s.Lister.List(ctx, q) {
		if err != nil {
			return nil, err
		}
		return l.Versions, nil
	}
	return nil, &cairn.Error{Op: "list", Subject: dataset, Place: s.Info.Place, Kind: cairn.KindNotFound}
}

type leasedDestroys struct{ *session }

func (s leasedDestroys) Destroy(ctx context.Context, dataset string, ids []cairn.VersionID) ([]error, error) {
	results, unclaim := s.table.claim("destroy", dataset, ids)
	defer unclaim()
	free := make([]cairn.VersionID, 0, len(ids))
	for i, id := range ids {
		if results[i] == nil {
			free = append(free, id)
		}
	}
	below, err := s.Destroys.Destroy(ctx, dataset, free)
	if err != nil {
		return nil, err
	}
	for i := range results {
		if results[i] == nil && len(below) > 0 {
			results[i], below = below[0], below[1:]
		}
	}
	return results, nil
}

type leasedBookmarks struct{ *session }

func (s leasedBookmarks) Bookmark(ctx context.Context, dataset string, of cairn.VersionID, name string, degrade bool) (cairn.Version, error) {
	if degrade {
		refused, unclaim := s.table.claim("degrade", dataset, []cairn.VersionID{of})
		defer unclaim()
		if refused[0] != nil {
			return cairn.Version{}, refused[0]
		}
	}
	return s.Bookmarks.Bookmark(ctx, dataset, of, name, degrade)
}

type leasedRollbacks struct{ *session }

func (s leasedRollbacks) Rollback(ctx context.Context, dataset string, to cairn.VersionID, destroyNewer bool) error {
	if !destroyNewer {
		return s.Rollbacks.Rollback(ctx, dataset, to, false)
	}
	there, err := s.versions(ctx, dataset)
	if err != nil {
		return err
	}
	refused, unclaim := s.table.claim("roll back over", dataset, newerThan(there, to))
	defer unclaim()
	for _, err := range refused {
		if err != nil {
			return err
		}
	}
	return s.Rollbacks.Rollback(ctx, dataset, to, true)
}

// newerThan lists the versions after to; none when to is not there: the endpoint
// says what is wrong then.
func newerThan(there []cairn.Version, to cairn.VersionID) []cairn.VersionID {
	i := slices.IndexFunc(there, func(v cairn.Version) bool { return v.VersionID == to })
	if i < 0 {
		return nil
	}
	var ids []cairn.VersionID
	for _, v := range there[i:] {
		if v.Order > there[i].Order {
			ids = append(ids, v.VersionID)
		}
	}
	return ids
}

type leasedRenames struct{ *session }

func (s leasedRenames) Rename(ctx context.Context, from, to string) error {
	if err := s.table.inUse("rename", from); err != nil {
		return err
	}
	return s.Renames.Rename(ctx, from, to)
}

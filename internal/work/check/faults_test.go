package check_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"iter"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"cairn"
	"cairn/internal/format/blocks"
	"cairn/internal/testkit/memory"
)

// fault breaks one promise of an endpoint; was is the endpoint as it was.
type fault struct {
	rule  string // that has to fail
	why   string // that its report has to hold
	plant func(ep *cairn.Endpoint, was cairn.Endpoint, p *memory.Place)
}

// rows changes what a listing says.
func rows(was cairn.Endpoint, change func(l *cairn.Listing)) lister {
	return func(ctx context.Context, q cairn.Query) iter.Seq2[*cairn.Listing, error] {
		return func(yield func(*cairn.Listing, error) bool) {
			for l, err := range was.Lister.List(ctx, q) {
				if l != nil {
					change(l)
				}
				if !yield(l, err) {
					return
				}
			}
		}
	}
}

func listed(was cairn.Endpoint, ds string) *cairn.Listing {
	q := cairn.Query{Filter: cairn.All, Names: []string{ds}, Want: cairn.Want{Versions: true, Leases: true, Partial: true}}
	for l := range was.Lister.List(context.Background(), q) {
		return l
	}
	return &cairn.Listing{}
}

// byName finds a version by its name alone.
func byName(was cairn.Endpoint, ds string, id cairn.VersionID) cairn.VersionID {
	for _, v := range listed(was, ds).Versions {
		if v.Name == id.Name {
			return v.VersionID
		}
	}
	return id
}

// receiving replaces Receive by a function around the true one.
func receiving(ep *cairn.Endpoint, was cairn.Endpoint, around func(ctx context.Context, s *cairn.Stream, o cairn.ReceiveOptions) (cairn.Received, error)) {
	ep.Receiver = receiver{was.Receiver, around}
}

// forgiving lets a receive that fails with the kind succeed.
func forgiving(kind cairn.Kind) func(ep *cairn.Endpoint, was cairn.Endpoint, p *memory.Place) {
	return func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		receiving(ep, was, func(ctx context.Context, s *cairn.Stream, o cairn.ReceiveOptions) (cairn.Received, error) {
			r, err := was.Receiver.Receive(ctx, wholeBody(s), o)
			if errors.Is(err, kind) {
				return cairn.Received{}, nil
			}
			return r, err
		})
	}
}

func destroyAll(was cairn.Endpoint, ds string, which func(v cairn.Version) bool) {
	var ids []cairn.VersionID
	for _, v := range listed(was, ds).Versions {
		if which(v) {
			ids = append(ids, v.VersionID)
		}
	}
	_, _ = was.Destroys.Destroy(context.Background(), ds, ids)
}

// wholeBody reads the stream and hands it over detached from its sender.
func wholeBody(s *cairn.Stream) *cairn.Stream {
	all, _ := io.ReadAll(s.Body)
	s.Body.Close()
	return &cairn.Stream{Header: s.Header, Body: io.NopCloser(bytes.NewReader(all))}
}

var faults = []fault{
	{"list-order", "not in byte order", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		ep.Lister = lister(func(ctx context.Context, q cairn.Query) iter.Seq2[*cairn.Listing, error] {
			return func(yield func(*cairn.Listing, error) bool) {
				var all []*cairn.Listing
				for l, err := range was.Lister.List(ctx, q) {
					if err != nil {
						yield(nil, err)
						return
					}
					all = append(all, l)
				}
				slices.SortFunc(all, func(a, b *cairn.Listing) int { // by folders, as a tree prints
					return strings.Compare(strings.ReplaceAll(a.Dataset.Name, "/", "\x00"), strings.ReplaceAll(b.Dataset.Name, "/", "\x00"))
				})
				for _, l := range all {
					if !yield(l, nil) {
						return
					}
				}
			}
		})
	}},
	{"list-filter", "all but what is below", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		ep.Lister = lister(func(ctx context.Context, q cairn.Query) iter.Seq2[*cairn.Listing, error] {
			q.Filter = cairn.All
			return was.Lister.List(ctx, q)
		})
	}},
	{"list-names", "no names lists", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		ep.Lister = lister(func(ctx context.Context, q cairn.Query) iter.Seq2[*cairn.Listing, error] {
			if len(q.Names) == 0 {
				q.Names = nil
			}
			return was.Lister.List(ctx, q)
		})
	}},
	{"list-versions", "has versions", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		ep.Lister = rows(was, func(l *cairn.Listing) { slices.Reverse(l.Versions) })
	}},
	{"list-stop", "stopped early", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		stopped := false
		ep.Lister = lister(func(ctx context.Context, q cairn.Query) iter.Seq2[*cairn.Listing, error] {
			return func(yield func(*cairn.Listing, error) bool) {
				if stopped {
					stopped = false
					return
				}
				for l, err := range was.Lister.List(ctx, q) {
					if !yield(l, err) {
						stopped = true
						return
					}
				}
			}
		})
	}},
	{"list-owned", "after a caller changed", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		kept := map[string][]cairn.Version{}
		ep.Lister = rows(was, func(l *cairn.Listing) {
			if kept[l.Dataset.Name] == nil {
				kept[l.Dataset.Name] = l.Versions
			}
			l.Versions = kept[l.Dataset.Name]
		})
	}},
	{"snapshot-content", "does not read what was captured", func(ep *cairn.Endpoint, was cairn.Endpoint, p *memory.Place) {
		ep.Blocks = opener(func(ctx context.Context, ds string, id cairn.VersionID) (cairn.BlockReader, error) {
			r, err := was.Blocks.OpenVersion(ctx, ds, id)
			return headReader{r, p, ds}, err
		})
	}},
	{"snapshot-exists", "a second @a", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		ep.Snapshots = snapper(func(ctx context.Context, name string, datasets []string, atomic bool) ([]cairn.Captured, error) {
			got, err := was.Snapshots.Snapshot(ctx, name, datasets, atomic)
			for i := range got {
				got[i].Err = nil
			}
			return got, err
		})
	}},
	{"snapshot-each", "result 0 is of", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		ep.Snapshots = snapper(func(ctx context.Context, name string, datasets []string, atomic bool) ([]cairn.Captured, error) {
			got, err := was.Snapshots.Snapshot(ctx, name, datasets, atomic)
			slices.Reverse(got)
			return got, err
		})
	}},
	{"snapshot-atomic", "atomic snapshot", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		ep.Snapshots = snapper(func(ctx context.Context, name string, datasets []string, _ bool) ([]cairn.Captured, error) {
			return was.Snapshots.Snapshot(ctx, name, datasets, false)
		})
	}},
	{"bookmark", "the bookmark of @a", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		ep.Bookmarks = bookmaker(func(ctx context.Context, ds string, of cairn.VersionID, name string, degrade bool) (cairn.Version, error) {
			v, err := was.Bookmarks.Bookmark(ctx, ds, of, name, degrade)
			v.GUID++
			return v, err
		})
	}},
	{"bookmark-taken", "under the same name: succeeded", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		ep.Bookmarks = bookmaker(func(ctx context.Context, ds string, of cairn.VersionID, name string, degrade bool) (cairn.Version, error) {
			destroyAll(was, ds, func(v cairn.Version) bool { return v.Name == name })
			return was.Bookmarks.Bookmark(ctx, ds, of, name, degrade)
		})
	}},
	{"bookmark-degrade", "after a degrade", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		ep.Bookmarks = bookmaker(func(ctx context.Context, ds string, of cairn.VersionID, name string, _ bool) (cairn.Version, error) {
			return was.Bookmarks.Bookmark(ctx, ds, of, name, false)
		})
	}},
	{"destroy", "destroy @never", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		ep.Destroys = destroyer(func(ctx context.Context, ds string, ids []cairn.VersionID) ([]error, error) {
			results, err := was.Destroys.Destroy(ctx, ds, ids)
			for i, id := range ids {
				if id.Name == "@never" {
					results[i] = cairn.KindNotFound
				}
			}
			return results, err
		})
	}},
	{"destroy-neighbours", "after destroy", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		ep.Destroys = destroyer(func(ctx context.Context, ds string, ids []cairn.VersionID) ([]error, error) {
			destroyAll(was, ds, func(v cairn.Version) bool { return v.Name < ids[0].Name })
			return was.Destroys.Destroy(ctx, ds, ids)
		})
	}},
	{"guid-mismatch", "destroy with a wrong GUID", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		ep.Destroys = destroyer(func(ctx context.Context, ds string, ids []cairn.VersionID) ([]error, error) {
			ids = slices.Clone(ids)
			for i := range ids {
				ids[i] = byName(was, ds, ids[i])
			}
			return was.Destroys.Destroy(ctx, ds, ids)
		})
	}},
	{"lease-holds", "destroy of a leased version", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		ep.Destroys = destroyer(func(ctx context.Context, ds string, ids []cairn.VersionID) ([]error, error) {
			for _, v := range listed(was, ds).Versions {
				for _, le := range v.Leases {
					_ = was.Leases.SetLease(ctx, cairn.LeaseSet{Dataset: ds, Owner: le.Owner, Purpose: le.Purpose})
				}
			}
			return was.Destroys.Destroy(ctx, ds, ids)
		})
	}},
	{"lease-replaces", "no longer holds", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		var all []cairn.VersionID
		ep.Leases = leaser(func(ctx context.Context, set cairn.LeaseSet) error {
			all = append(all, set.Versions...)
			set.Versions = all
			return was.Leases.SetLease(ctx, set)
		})
	}},
	{"lease-sets", "another purpose", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		ep.Leases = leaser(func(ctx context.Context, set cairn.LeaseSet) error {
			set.Purpose = cairn.PurposeStep
			return was.Leases.SetLease(ctx, set)
		})
	}},
	{"lease-missing", "version that is not there: succeeded", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		ep.Leases = leaser(func(ctx context.Context, set cairn.LeaseSet) error {
			set.Versions = slices.DeleteFunc(slices.Clone(set.Versions), func(id cairn.VersionID) bool { return id.Name == "@never" })
			return was.Leases.SetLease(ctx, set)
		})
	}},
	{"lease-cursor", "cursor's snapshot", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		ep.Leases = leaser(func(ctx context.Context, set cairn.LeaseSet) error {
			set.Purpose = cairn.PurposeStep
			return was.Leases.SetLease(ctx, set)
		})
	}},
	{"send-full", "carries something else", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		ep.Sender = sender(func(ctx context.Context, step cairn.Step, accept []cairn.Format) (*cairn.Stream, error) {
			step.From = byName(was, step.Dataset, cairn.VersionID{Name: "@a"})
			s, err := was.Sender.Send(ctx, step, accept)
			if err == nil {
				s.Header.From = cairn.VersionID{}
			}
			return s, err
		})
	}},
	{"send-incremental", "are sent as", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		ep.Sender = sender(func(ctx context.Context, step cairn.Step, accept []cairn.Format) (*cairn.Stream, error) {
			from := step.From
			step.From = cairn.VersionID{}
			s, err := was.Sender.Send(ctx, step, accept)
			if err == nil {
				s.Header.From = from
			}
			return s, err
		})
	}},
	{"send-bookmark", "unsupported", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		ep.Sender = sender(func(ctx context.Context, step cairn.Step, accept []cairn.Format) (*cairn.Stream, error) {
			if step.From.IsBookmark() {
				return nil, cairn.KindUnsupported
			}
			return was.Sender.Send(ctx, step, accept)
		})
	}},
	{"send-format", "in no known format: succeeded", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		ep.Sender = sender(func(ctx context.Context, step cairn.Step, _ []cairn.Format) (*cairn.Stream, error) {
			return was.Sender.Send(ctx, step, []cairn.Format{cairn.FormatBlocks})
		})
	}},
	{"send-missing", "not there", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		ep.Sender = sender(func(ctx context.Context, step cairn.Step, accept []cairn.Format) (*cairn.Stream, error) {
			if step.From.Name == "@never" {
				step.From = cairn.VersionID{}
			}
			return was.Sender.Send(ctx, step, accept)
		})
	}},
	{"send-resume", "begins at 0", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		ep.Sender = sender(func(ctx context.Context, step cairn.Step, accept []cairn.Format) (*cairn.Stream, error) {
			step.Resume = nil
			return was.Sender.Send(ctx, step, accept)
		})
	}},
	{"send-holds", "being sent: succeeded", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		ep.Sender = sender(func(ctx context.Context, step cairn.Step, accept []cairn.Format) (*cairn.Stream, error) {
			s, err := was.Sender.Send(ctx, step, accept)
			if err != nil {
				return nil, err
			}
			return wholeBody(s), nil
		})
	}},
	{"send-cancel", "ends with EOF", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		ep.Sender = sender(func(ctx context.Context, step cairn.Step, accept []cairn.Format) (*cairn.Stream, error) {
			return was.Sender.Send(context.WithoutCancel(ctx), step, accept)
		})
	}},
	{"receive-full", "listed", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		receiving(ep, was, func(ctx context.Context, s *cairn.Stream, o cairn.ReceiveOptions) (cairn.Received, error) {
			s.Header.To.Created = time.Now()
			return was.Receiver.Receive(ctx, s, o)
		})
	}},
	{"receive-incremental", "after three receives", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		receiving(ep, was, func(ctx context.Context, s *cairn.Stream, o cairn.ReceiveOptions) (cairn.Received, error) {
			r, err := was.Receiver.Receive(ctx, s, o)
			destroyAll(was, s.Header.Dataset, func(v cairn.Version) bool { return v.GUID != s.Header.To.GUID })
			return r, err
		})
	}},
	{"receive-below", "not found", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		receiving(ep, was, func(ctx context.Context, s *cairn.Stream, o cairn.ReceiveOptions) (cairn.Received, error) {
			defer s.Body.Close()
			if strings.HasSuffix(s.Header.Dataset, "/x/y/z") && listed(was, path.Dir(s.Header.Dataset)).Dataset.Name == "" {
				return cairn.Received{}, &cairn.Error{Op: "receive", Kind: cairn.KindNotFound}
			}
			return was.Receiver.Receive(ctx, s, o)
		})
	}},
	{"receive-tail", "are listed as", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		ep.Lister = rows(was, func(l *cairn.Listing) { l.Dataset.Size = l.Dataset.Size / cairn.BlockSize * cairn.BlockSize })
	}},
	{"receive-eof", "before it had read the body to EOF", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		receiving(ep, was, func(ctx context.Context, s *cairn.Stream, o cairn.ReceiveOptions) (cairn.Received, error) {
			defer s.Body.Close()
			all := make([]byte, s.Header.Size)
			_, _ = io.ReadFull(s.Body, all)
			return was.Receiver.Receive(ctx, &cairn.Stream{Header: s.Header, Body: io.NopCloser(bytes.NewReader(all))}, o)
		})
	}},
	{"receive-cut", "after a cut", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		receiving(ep, was, func(ctx context.Context, s *cairn.Stream, o cairn.ReceiveOptions) (cairn.Received, error) {
			r, err := was.Receiver.Receive(ctx, s, o)
			if err != nil {
				destroyAll(was, s.Header.Dataset, func(cairn.Version) bool { return true })
			}
			return r, err
		})
	}},
	{"receive-unseen", "while all but EOF has arrived", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		var early atomic.Pointer[cairn.Version]
		receiving(ep, was, func(ctx context.Context, s *cairn.Stream, o cairn.ReceiveOptions) (cairn.Received, error) {
			early.Store(&s.Header.To)
			defer early.Store(nil)
			return was.Receiver.Receive(ctx, s, o)
		})
		ep.Lister = rows(was, func(l *cairn.Listing) {
			if v := early.Load(); v != nil {
				l.Versions = append(l.Versions, *v)
			}
		})
	}},
	{"receive-flip", "a flipped bit", forgiving(cairn.KindCorrupt)},
	{"receive-exists", "receive of @a again: succeeded", forgiving(cairn.KindExists)},
	{"receive-base", "succeeded", forgiving(cairn.KindConflict)},
	{"receive-taken", "a name that is taken: succeeded", forgiving(cairn.KindConflict)},
	{"receive-header", "whose header has another", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		receiving(ep, was, func(ctx context.Context, s *cairn.Stream, o cairn.ReceiveOptions) (cairn.Received, error) {
			h, _, r, err := blocks.Peek(s.Body)
			if err != nil {
				return cairn.Received{}, err
			}
			s.Header.From, s.Header.To.VersionID, s.Header.Format = h.From, h.To, cairn.FormatBlocks
			return was.Receiver.Receive(ctx, &cairn.Stream{Header: s.Header, Body: readCloser{r, s.Body}}, o)
		})
	}},
	{"receive-cancel", "after its context ended", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		receiving(ep, was, func(ctx context.Context, s *cairn.Stream, o cairn.ReceiveOptions) (cairn.Received, error) {
			return was.Receiver.Receive(context.WithoutCancel(ctx), s, o)
		})
	}},
	{"receive-sealed", "not sealed: succeeded", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		receiving(ep, was, func(ctx context.Context, s *cairn.Stream, o cairn.ReceiveOptions) (cairn.Received, error) {
			_ = was.Seals.Seal(ctx, s.Header.Dataset, true)
			return was.Receiver.Receive(ctx, s, o)
		})
	}},
	{"receive-pins", "base of a running receive: succeeded", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		ep.Destroys = neverBusy(was)
	}},
	{"resume", "nothing is kept", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		ep.Lister = rows(was, func(l *cairn.Listing) { l.Partial = nil })
	}},
	{"resume-increment", "nothing is kept", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		receiving(ep, was, func(ctx context.Context, s *cairn.Stream, o cairn.ReceiveOptions) (cairn.Received, error) {
			r, err := was.Receiver.Receive(ctx, s, o)
			if err != nil && !s.Header.From.IsZero() {
				_ = was.Receiver.Abort(ctx, s.Header.Dataset)
			}
			return r, err
		})
	}},
	{"resume-wrong", "forget its partial", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		receiving(ep, was, func(ctx context.Context, s *cairn.Stream, o cairn.ReceiveOptions) (cairn.Received, error) {
			r, err := was.Receiver.Receive(ctx, s, o)
			if err != nil && s.Header.Resume > 0 {
				_ = was.Receiver.Abort(ctx, s.Header.Dataset)
			}
			return r, err
		})
	}},
	{"resume-restart", "another version from its beginning", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		receiving(ep, was, func(ctx context.Context, s *cairn.Stream, o cairn.ReceiveOptions) (cairn.Received, error) {
			defer s.Body.Close()
			if p := listed(was, s.Header.Dataset).Partial; p != nil && s.Header.Resume == 0 {
				return cairn.Received{}, errors.New("a receive is pending")
			}
			return was.Receiver.Receive(ctx, s, o)
		})
	}},
	{"resume-pins", "base of a cut increment: succeeded", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		ep.Destroys = neverBusy(was)
	}},
	{"abort-full", "receive another version", func(ep *cairn.Endpoint, was cairn.Endpoint, p *memory.Place) {
		ep.Receiver = aborter{was.Receiver, func(ctx context.Context, ds string) error {
			return errors.Join(was.Receiver.Abort(ctx, ds), p.Create(ds, 4096)) // what is left is no replica
		}}
	}},
	{"abort", "still a partial", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		ep.Receiver = aborter{was.Receiver, func(context.Context, string) error { return nil }}
	}},
	{"abort-nothing", "after abort", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		ep.Receiver = aborter{was.Receiver, func(ctx context.Context, ds string) error {
			destroyAll(was, ds, func(v cairn.Version) bool { return v.Name == "@b" })
			return was.Receiver.Abort(ctx, ds)
		}}
	}},
	{"blocks", "said to be zero", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		ep.Blocks = opener(func(ctx context.Context, ds string, id cairn.VersionID) (cairn.BlockReader, error) {
			r, err := was.Blocks.OpenVersion(ctx, ds, id)
			return allHoles{r}, err
		})
	}},
	{"blocks-hold", "snapshot that is open: succeeded", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		ep.Destroys = neverBusy(was)
	}},
	{"changes", "is not in the change set", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		ep.Changes = changer(func(ctx context.Context, ds string, from, to cairn.VersionID) iter.Seq2[cairn.Extent, error] {
			return func(yield func(cairn.Extent, error) bool) {
				first := true
				for e, err := range was.Changes.Changed(ctx, ds, from, to) {
					if first && err == nil {
						first = false
						continue
					}
					if !yield(e, err) {
						return
					}
				}
			}
		})
	}},
	{"changes-gone", "is not in the change set", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		ep.Changes = changer(func(ctx context.Context, ds string, from, to cairn.VersionID) iter.Seq2[cairn.Extent, error] {
			if !slices.ContainsFunc(listed(was, ds).Versions, func(v cairn.Version) bool { return v.Name == "@b" }) {
				return func(func(cairn.Extent, error) bool) {}
			}
			return was.Changes.Changed(ctx, ds, from, to)
		})
	}},
	{"rollback", "rollback over newer versions: succeeded", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		ep.Rollbacks = roller(func(ctx context.Context, ds string, to cairn.VersionID, _ bool) error {
			return was.Rollbacks.Rollback(ctx, ds, to, true)
		})
	}},
	{"rollback-lease", "over a leased version: succeeded", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		ep.Rollbacks = roller(func(ctx context.Context, ds string, to cairn.VersionID, newer bool) error {
			_ = was.Leases.SetLease(ctx, cairn.LeaseSet{Dataset: ds, Owner: "cairn-check", Purpose: cairn.PurposeStep})
			return was.Rollbacks.Rollback(ctx, ds, to, newer)
		})
	}},
	{"resize", "sizes are", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		ep.Lister = rows(was, func(l *cairn.Listing) {
			for i := range l.Versions {
				l.Versions[i].Size = l.Dataset.Size
			}
		})
	}},
	{"rename", "name that is taken: succeeded", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		ep.Renames = renamer(func(ctx context.Context, from, to string) error {
			if err := was.Renames.Rename(ctx, from, to); !errors.Is(err, cairn.KindExists) {
				return err
			}
			return nil
		})
	}},
	{"clone", "origin is listed as", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		ep.Lister = rows(was, func(l *cairn.Listing) { l.Dataset.Origin = cairn.Origin{} })
	}},
	{"clone", "is listed as a clone of", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		ep.Lister = rows(was, func(l *cairn.Listing) {
			if l.Dataset.Origin.IsZero() {
				l.Dataset.Origin = cairn.Origin{Dataset: "x", VersionID: cairn.VersionID{Name: "@x", GUID: 1}}
			}
		})
	}},
	{"clone", "stream stands on", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		ep.Sender = sender(func(ctx context.Context, step cairn.Step, accept []cairn.Format) (*cairn.Stream, error) {
			s, err := was.Sender.Send(ctx, step, accept)
			if err == nil {
				s.Header.Origin = ""
			}
			return s, err
		})
	}},
	{"clone-origin", "not here: succeeded", forgiving(cairn.KindConflict)},
	{"seal", "not listed as sealed", func(ep *cairn.Endpoint, _ cairn.Endpoint, _ *memory.Place) {
		ep.Seals = sealer(func(context.Context, string, bool) error { return nil })
	}},
	{"verify", "one version of", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		ep.Verifies = verifier(func(ctx context.Context, ds string, id cairn.VersionID) (cairn.Coverage, error) {
			c, err := was.Verifies.Verify(ctx, ds, id)
			c.Checked *= 10
			return c, err
		})
	}},
	{"damage", "does not find the damage", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		ep.Verifies = verifier(func(ctx context.Context, ds string, id cairn.VersionID) (cairn.Coverage, error) {
			c, err := was.Verifies.Verify(ctx, ds, id)
			c.Damaged = nil
			return c, err
		})
	}},
	{"damage", "as if it were sound", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		ep.Sender = sender(func(ctx context.Context, step cairn.Step, accept []cairn.Format) (*cairn.Stream, error) {
			s, err := was.Sender.Send(ctx, step, accept)
			if errors.Is(err, cairn.KindDamaged) {
				step.To = byName(was, step.Dataset, cairn.VersionID{Name: "@b"})
				return was.Sender.Send(ctx, step, accept)
			}
			return s, err
		})
	}},
	{"digest", "is not that of its content", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		ep.Digests = digester(func(ctx context.Context, ds string, id cairn.VersionID, q cairn.DigestQuery) iter.Seq2[cairn.Digest, error] {
			q.Nonce = [16]byte{}
			return was.Digests.Digest(ctx, ds, id, q)
		})
	}},
	{"heal", "wrong content for a damaged block", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		ep.Heals = healer(func(ctx context.Context, ds string, id cairn.VersionID, patches []cairn.Patch, o cairn.HealOptions) ([]cairn.Mending, error) {
			got, err := was.Heals.Heal(ctx, ds, id, patches, o)
			for i := range got {
				if got[i] == cairn.MendRefused {
					got[i] = cairn.MendedByGUID
				}
			}
			return got, err
		})
	}},
	{"heal", "before healing", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		ep.Heals = healer(func(ctx context.Context, ds string, id cairn.VersionID, patches []cairn.Patch, _ cairn.HealOptions) ([]cairn.Mending, error) {
			return was.Heals.Heal(ctx, ds, id, patches, cairn.HealOptions{})
		})
	}},
	{"estimate", "the increment is estimated at", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		ep.Estimates = estimator(func(ctx context.Context, steps []cairn.Step) ([]int64, error) {
			sizes, err := was.Estimates.Estimate(ctx, steps)
			slices.Reverse(sizes)
			return sizes, err
		})
	}},
	{"unknown-dataset", "destroy of a dataset that is not there: succeeded", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		ep.Destroys = destroyer(func(ctx context.Context, ds string, ids []cairn.VersionID) ([]error, error) {
			results, err := was.Destroys.Destroy(ctx, ds, ids)
			if errors.Is(err, cairn.KindNotFound) {
				return make([]error, len(ids)), nil
			}
			return results, err
		})
	}},
	{"hostile-name", "receive into", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		receiving(ep, was, func(ctx context.Context, s *cairn.Stream, o cairn.ReceiveOptions) (cairn.Received, error) {
			s.Header.Dataset = strings.TrimLeft(path.Clean("/"+s.Header.Dataset), "/")
			return was.Receiver.Receive(ctx, s, o)
		})
	}},
	{"hostile-version", "snapshot", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		ep.Snapshots = snapper(func(ctx context.Context, name string, datasets []string, atomic bool) ([]cairn.Captured, error) {
			return was.Snapshots.Snapshot(ctx, strings.ReplaceAll(name, "/", "-"), datasets, atomic)
		})
	}},
	{"context-ended", "snapshot with a context", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		ep.Snapshots = snapper(func(ctx context.Context, name string, datasets []string, atomic bool) ([]cairn.Captured, error) {
			return was.Snapshots.Snapshot(context.WithoutCancel(ctx), name, datasets, atomic)
		})
	}},
	{"concurrent", "versions after", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		var mu sync.Mutex // guards running
		running := map[string][]cairn.Captured{}
		ep.Snapshots = snapper(func(ctx context.Context, name string, datasets []string, atomic bool) ([]cairn.Captured, error) {
			mu.Lock()
			defer mu.Unlock()
			round, inRounds := strings.CutPrefix(name, "@w")
			key := round[max(0, len(round)-2):]
			if inRounds && running[key] != nil {
				return running[key], nil // one call's work is taken for another's
			}
			got, err := was.Snapshots.Snapshot(ctx, name, datasets, atomic)
			if inRounds {
				running[key] = got
			}
			return got, err
		})
	}},
	{"concurrent-name", "of one name succeeded", func(ep *cairn.Endpoint, was cairn.Endpoint, _ *memory.Place) {
		ep.Snapshots = snapper(func(ctx context.Context, name string, datasets []string, atomic bool) ([]cairn.Captured, error) {
			got, err := was.Snapshots.Snapshot(ctx, name, datasets, atomic)
			for i := range got {
				got[i].Err = nil
			}
			return got, err
		})
	}},
}

// neverBusy says that what is held was destroyed.
func neverBusy(was cairn.Endpoint) destroyer {
	return func(ctx context.Context, ds string, ids []cairn.VersionID) ([]error, error) {
		results, err := was.Destroys.Destroy(ctx, ds, ids)
		for i := range results {
			if errors.Is(results[i], cairn.KindBusy) {
				results[i] = nil
			}
		}
		return results, err
	}
}

// headReader reads the head in the place of a snapshot.
type headReader struct {
	cairn.BlockReader
	p  *memory.Place
	ds string
}

func (h headReader) ReadAt(_ context.Context, b []byte, off int64) error {
	content, err := h.p.Content(h.ds, "")
	copy(b, content[off:])
	return err
}

// allHoles says that nothing is allocated.
type allHoles struct{ cairn.BlockReader }

func (a allHoles) Extents(_ context.Context, off, length int64) iter.Seq2[cairn.Extent, error] {
	return func(yield func(cairn.Extent, error) bool) {
		yield(cairn.Extent{Offset: off, Length: length, Kind: cairn.ExtentHole}, nil)
	}
}

type readCloser struct {
	io.Reader
	io.Closer
}

package check

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"cairn"
)

var callRules = []Rule{
	{Name: "unknown-dataset", Says: "a dataset that is not there is KindNotFound, in every ability", Needs: []cairn.Ability{"list"}, run: unknownDataset},
	{Name: "hostile-name", Says: "what is no name is refused by every ability and makes nothing", Needs: []cairn.Ability{"list"}, run: hostileName},
	{Name: "hostile-version", Says: "what is no version's name is refused and makes nothing", Needs: []cairn.Ability{"list"}, run: hostileVersion},
	{Name: "context-ended", Says: "a call whose context has ended fails with its error, and happened entirely or not at all", Needs: []cairn.Ability{"list"}, run: contextEnded},
	{Name: "concurrent", Says: "all abilities may be called at once, and nothing gets lost", Needs: []cairn.Ability{"list", "snapshot"}, Write: true, run: concurrent},
	{Name: "concurrent-name", Says: "of many snapshots of one name at once exactly one succeeds", Needs: []cairn.Ability{"list", "snapshot"}, Write: true, run: concurrentName},
}

func itoa(n int) string { return strconv.Itoa(n) }

// call is one ability called on one dataset, with what it answered.
type call struct {
	name string
	do   func(ctx context.Context) error
}

// versionCalls are the offered calls that name the version id; newer is another
// version of the dataset.
func (l *lab) versionCalls(ds string, id, newer cairn.VersionID) []call {
	var calls []call
	add := func(has bool, name string, do func(ctx context.Context) error) {
		if has {
			calls = append(calls, call{name, do})
		}
	}
	add(l.Sender != nil, "send", func(ctx context.Context) error { return l.opens(ctx, cairn.Step{Dataset: ds, To: id}) })
	add(l.Sender != nil, "send from", func(ctx context.Context) error {
		return l.opens(ctx, cairn.Step{Dataset: ds, From: id, To: newer})
	})
	add(l.Bookmarks != nil, "bookmark", func(ctx context.Context) error {
		_, err := l.Bookmarks.Bookmark(ctx, ds, id, "#call", false)
		return err
	})
	add(l.Destroys != nil, "destroy", func(ctx context.Context) error {
		results, err := l.Destroys.Destroy(ctx, ds, []cairn.VersionID{id})
		return errors.Join(append(results, err)...)
	})
	add(l.Leases != nil, "lease", func(ctx context.Context) error {
		return l.Leases.SetLease(ctx, cairn.LeaseSet{Dataset: ds, Owner: checkOwner + "-call", Purpose: cairn.PurposeStep, Versions: []cairn.VersionID{id}})
	})
	add(l.Estimates != nil, "estimate", func(ctx context.Context) error {
		_, err := l.Estimates.Estimate(ctx, []cairn.Step{{Dataset: ds, To: id}})
		return err
	})
	add(l.Blocks != nil, "open", func(ctx context.Context) error {
		r, err := l.Blocks.OpenVersion(ctx, ds, id)
		if err == nil {
			err = r.Close()
		}
		return err
	})
	add(l.Changes != nil, "changes", func(ctx context.Context) error {
		for _, err := range l.Changes.Changed(ctx, ds, id, newer) {
			if err != nil {
				return err
			}
		}
		return nil
	})
	add(l.Rollbacks != nil, "rollback", func(ctx context.Context) error { return l.Rollbacks.Rollback(ctx, ds, id, true) })
	add(l.Verifies != nil, "verify", func(ctx context.Context) error {
		_, err := l.Verifies.Verify(ctx, ds, id)
		return err
	})
	return calls
}

// formats are all that the place sends.
func (l *lab) formats() []cairn.Format {
	var all []cairn.Format
	for _, f := range l.Info.Sends {
		all = append(all, f...)
	}
	return all
}

// opens opens a stream and closes it.
func (l *lab) opens(ctx context.Context, step cairn.Step) error {
	s, err := l.Sender.Send(ctx, step, l.formats())
	if err == nil {
		err = s.Body.Close()
	}
	return err
}

// datasetCalls are the offered calls that name the dataset alone.
func (l *lab) datasetCalls(ds string) []call {
	var calls []call
	add := func(has bool, name string, do func(ctx context.Context) error) {
		if has {
			calls = append(calls, call{name, do})
		}
	}
	add(l.Snapshots != nil, "snapshot", func(ctx context.Context) error {
		got, err := l.Snapshots.Snapshot(ctx, "@call", []string{ds}, false)
		if err == nil && len(got) == 1 {
			err = got[0].Err
		}
		return err
	})
	add(l.Resizes != nil, "resize", func(ctx context.Context) error { return l.Resizes.Resize(ctx, ds, size+cairn.BlockSize) })
	add(l.Renames != nil, "rename", func(ctx context.Context) error { return l.Renames.Rename(ctx, ds, l.name("renamed")) })
	add(l.Seals != nil, "seal", func(ctx context.Context) error { return l.Seals.Seal(ctx, ds, true) })
	return calls
}

func unknownDataset(l *lab) {
	ds := l.folder + "/nothing"
	id := cairn.VersionID{Name: "@a", GUID: 1}
	for _, c := range append(l.versionCalls(ds, id, cairn.VersionID{Name: "@b", GUID: 2}), l.datasetCalls(ds)...) {
		l.want(c.name+" of a dataset that is not there", c.do(l.ctx), cairn.KindNotFound)
	}
	if l.find(ds) != nil {
		l.fail("calls on a dataset that is not there made it")
	}
}

// The names hold a word that tells whether a place made something of them.
const hostile = "cairnhostile"

var hostileNames = []string{"", "..", "../" + hostile, "/" + hostile, hostile + "/", hostile + "//y", "x/../" + hostile, "./" + hostile,
	hostile + "\x00y", hostile + "\ny", hostile + "@y", hostile + "#y", hostile + string(make([]byte, 300))}

func hostileName(l *lab) {
	id := cairn.VersionID{Name: "@a", GUID: 1}
	ds, points := l.dataset("d", 1)
	for _, name := range hostileNames {
		for _, c := range append(l.versionCalls(name, id, cairn.VersionID{Name: "@b", GUID: 2}), l.datasetCalls(name)...) {
			l.want(fmt.Sprintf("%s of %q", c.name, name), c.do(l.ctx), cairn.KindInvalid, cairn.KindNotFound)
		}
		if l.Receiver != nil {
			_, err := l.receive(l.encode(name, nil, points[0], nil))
			l.want(fmt.Sprintf("receive into %q", name), err, cairn.KindInvalid)
		}
		if l.Renames != nil {
			l.want(fmt.Sprintf("rename to %q", name), l.Renames.Rename(l.ctx, ds, name), cairn.KindInvalid)
		}
		if got := l.names(cairn.Query{Filter: cairn.All, Names: []string{name}}); len(got) > 0 {
			l.fail("the name %q lists %v", name, got)
		}
	}
	for _, n := range l.names(cairn.Query{Filter: cairn.All}) {
		if strings.Contains(n, hostile) {
			l.fail("calls with hostile names made %q", n)
		}
	}
	l.wantContent(ds, points...)
}

func hostileVersion(l *lab) {
	ds, points := l.dataset("d", 1)
	for _, name := range []string{"", "@", "#", "x", "@a/b", "@a@b", "@..", "@a\x00", "@\n", "@" + string(make([]byte, 300))} {
		if l.Snapshots != nil {
			got, err := l.Snapshots.Snapshot(l.ctx, name, []string{ds}, false)
			if err == nil && len(got) == 1 {
				err = got[0].Err
			}
			l.want(fmt.Sprintf("snapshot %q", name), err, cairn.KindInvalid)
		}
		if l.Bookmarks != nil {
			_, err := l.Bookmarks.Bookmark(l.ctx, ds, points[0].VersionID, strings.Replace(name, "@", "#", 1), false)
			l.want(fmt.Sprintf("bookmark %q", name), err, cairn.KindInvalid)
		}
		if l.Receiver != nil {
			e := l.encode(ds, &points[0], points[0].next("@b", 1), nil)
			e.header.To.Name = name
			if _, err := l.receive(e); err == nil {
				l.fail("a version named %q was received", name)
			}
		}
	}
	l.wantVersions(ds, "after hostile names of versions", "@a")
}

func contextEnded(l *lab) {
	ds, points := l.dataset("d", 2)
	ended, cancel := context.WithCancel(l.ctx)
	cancel()
	calls := append(l.versionCalls(ds, points[0].VersionID, points[1].VersionID), l.datasetCalls(ds)...)
	calls = append(calls, call{"list", func(ctx context.Context) error {
		for _, err := range l.Lister.List(ctx, cairn.Query{Filter: cairn.All}) {
			if err != nil {
				return err
			}
		}
		return nil
	}})
	if l.Receiver != nil {
		calls = append(calls, call{"receive", func(ctx context.Context) error {
			e := l.encode(l.name("r"), nil, points[0], nil)
			b := newBody(e.bytes)
			_, err := l.Receiver.Receive(ctx, &cairn.Stream{Header: e.header, Body: b}, cairn.ReceiveOptions{})
			if !b.isClosed() {
				l.fail("a receive whose context has ended did not close the body")
			}
			return err
		}})
	}
	for _, c := range calls {
		if err := c.do(ended); !errors.Is(err, context.Canceled) {
			l.fail("%s with a context that has ended: %v", c.name, err)
		}
	}
	row := l.list(ds)
	if len(row.Versions) < 2 {
		return // an earlier call happened entirely, which a listing tells
	}
	l.wantContent(ds, points...)
}

func concurrent(l *lab) {
	ds, points := l.dataset("d", 2)
	other := l.create("other", size)
	const workers, rounds = 6, 4
	var wg sync.WaitGroup
	errs := make([]error, workers)
	for w := range workers {
		wg.Go(func() {
			for r := range rounds {
				if errs[w] = errors.Join(errs[w], l.oneOfEach(ds, other, fmt.Sprintf("@w%d-%d", w, r), points[0])); errs[w] != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	l.ok("calls at once", errors.Join(errs...))
	row := l.list(ds)
	seen := map[cairn.GUID]bool{}
	orders := map[uint64]bool{}
	for _, v := range row.Versions {
		if seen[v.GUID] || orders[v.Order] {
			l.fail("two snapshots share a GUID or an order: %+v", row.Versions)
		}
		seen[v.GUID], orders[v.Order] = true, true
	}
	if want := 2 + workers*rounds; len(row.Versions) != want {
		l.fail("%d versions after %d snapshots", len(row.Versions), want)
	}
	l.wantContent(ds, points...)
}

// oneOfEach captures, lists, reads and destroys beside others that do the same.
func (l *lab) oneOfEach(ds, other, name string, p point) error {
	got, err := l.Snapshots.Snapshot(l.ctx, name, []string{ds, other}, false)
	if err == nil && len(got) != 2 {
		err = fmt.Errorf("snapshot of two datasets has %d results", len(got))
	}
	if err != nil {
		return err
	}
	for _, c := range got {
		if c.Err != nil {
			return c.Err
		}
	}
	for row, err := range l.Lister.List(l.ctx, cairn.Query{Filter: l.folderFilter(), Want: cairn.Want{Versions: true}}) {
		if err != nil {
			return err
		}
		if row.Dataset.Name == ds && !slices.ContainsFunc(row.Versions, func(v cairn.Version) bool { return v.VersionID == got[0].Version.VersionID }) {
			return fmt.Errorf("%s was reported and is not listed", name)
		}
	}
	if l.Sender != nil {
		if err := l.opens(l.ctx, cairn.Step{Dataset: ds, To: p.VersionID}); err != nil {
			return err
		}
	}
	if l.Destroys != nil {
		results, err := l.Destroys.Destroy(l.ctx, other, []cairn.VersionID{got[1].Version.VersionID})
		return errors.Join(append(results, err)...)
	}
	return nil
}

func concurrentName(l *lab) {
	ds := l.create("d", size)
	const workers = 8
	errs := make([]error, workers)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			got, err := l.Snapshots.Snapshot(l.ctx, "@same", []string{ds}, false)
			if err == nil && len(got) == 1 {
				err = got[0].Err
			}
			errs[w] = err
		})
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
			continue
		}
		l.want("a snapshot of a name that is taken", err, cairn.KindExists)
	}
	if won != 1 {
		l.fail("%d of %d snapshots of one name succeeded", won, workers)
	}
	l.wantVersions(ds, "after all", "@same")
}

package wrap_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"

	"cairn"
	"cairn/internal/system/wrap"
	"cairn/internal/testkit/memory"
)

// threeVersions is a place with a dataset "db" and its snapshots @a, @b, @c.
func threeVersions(t *testing.T) (*memory.Place, []cairn.VersionID) {
	t.Helper()
	p := memory.New("here")
	if err := p.Create("db", 64<<10); err != nil {
		t.Fatal(err)
	}
	var ids []cairn.VersionID
	for i, name := range []string{"@a", "@b", "@c"} {
		if err := p.Write("db", int64(i)*4096, []byte(name)); err != nil {
			t.Fatal(err)
		}
		got := must[[]cairn.Captured](t)(p.Snapshot(t.Context(), name, []string{"db"}, false))
		ids = append(ids, got[0].Version.VersionID)
	}
	return p, ids
}

func plan(ids ...cairn.VersionID) cairn.LeaseSet {
	return cairn.LeaseSet{Dataset: "db", Owner: "nightly", Purpose: cairn.PurposePlan, Versions: ids}
}

func destroy(t *testing.T, ep *cairn.Endpoint, id cairn.VersionID) error {
	t.Helper()
	return must[[]error](t)(ep.Destroys.Destroy(t.Context(), "db", []cairn.VersionID{id}))[0]
}

func versions(t *testing.T, ep *cairn.Endpoint, ds string) []cairn.Version {
	t.Helper()
	for l, err := range ep.Lister.List(t.Context(), cairn.Query{Filter: cairn.All, Names: []string{ds}, Want: cairn.Want{Versions: true, Leases: true}}) {
		if err != nil {
			t.Fatal(err)
		}
		return l.Versions
	}
	return nil
}

func wantBusy(t *testing.T, what string, err error, words ...string) {
	t.Helper()
	if !errors.Is(err, cairn.KindBusy) {
		t.Errorf("%s: %v, want KindBusy", what, err)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%s: %q does not name %q", what, err, w)
		}
	}
}

// A plan lease of one session holds against every other one, in all calls that
// destroy, and ends with its session.
func TestPlanLeaseHoldsUntilItsSessionEnds(t *testing.T) {
	p, ids := threeVersions(t)
	var table wrap.Table
	planner, pruner := wrap.Leased(p.Endpoint(), &table), wrap.Leased(p.Endpoint(), &table)
	if err := planner.Leases.SetLease(t.Context(), plan(ids[1])); err != nil {
		t.Fatal(err)
	}
	wantBusy(t, "destroy", destroy(t, pruner, ids[1]), "nightly", "plan", "db@b")
	wantBusy(t, "destroy in the session itself", destroy(t, planner, ids[1]))
	_, err := pruner.Bookmarks.Bookmark(t.Context(), "db", ids[1], "#b", true)
	wantBusy(t, "degrade", err, "nightly")
	wantBusy(t, "rollback", pruner.Rollbacks.Rollback(t.Context(), "db", ids[0], true), "nightly")
	wantBusy(t, "rename", pruner.Renames.Rename(t.Context(), "db", "new"), "nightly")
	if err := destroy(t, pruner, ids[0]); err != nil {
		t.Errorf("a version that is not leased: %v", err)
	}
	v := versions(t, pruner, "db")
	if len(v) != 2 || !slices.Contains(v[0].Leases, cairn.Lease{Owner: "nightly", Purpose: cairn.PurposePlan}) || len(v[1].Leases) != 0 {
		t.Errorf("listed as %+v", v)
	}
	if v := versions(t, p.Endpoint(), "db"); len(v[0].Leases) != 0 {
		t.Errorf("a plan lease reached the endpoint: %+v", v)
	}
	if err := planner.Close(); err != nil {
		t.Fatal(err)
	}
	if err := planner.Leases.SetLease(t.Context(), plan(ids[2])); !errors.Is(err, cairn.KindCanceled) {
		t.Errorf("a lease after the end of its session: %v", err)
	}
	if err := destroy(t, pruner, ids[1]); err != nil {
		t.Errorf("after the session ended: %v", err)
	}
	if err := pruner.Renames.Rename(t.Context(), "db", "new"); err != nil {
		t.Error(err)
	}
}

func TestPlanLeaseIsReplacedAndReleased(t *testing.T) {
	p, ids := threeVersions(t)
	ep := wrap.Leased(p.Endpoint(), &wrap.Table{})
	for _, set := range []cairn.LeaseSet{plan(ids[0], ids[1]), plan(ids[1])} {
		if err := ep.Leases.SetLease(t.Context(), set); err != nil {
			t.Fatal(err)
		}
	}
	if err := destroy(t, ep, ids[0]); err != nil {
		t.Errorf("what the set no longer holds: %v", err)
	}
	for what, c := range map[string]struct {
		id   cairn.VersionID
		want cairn.Kind
	}{"gone": {ids[0], cairn.KindNotFound}, "wrong GUID": {cairn.VersionID{Name: "@c", GUID: 1}, cairn.KindConflict}} {
		if err := ep.Leases.SetLease(t.Context(), plan(ids[2], c.id)); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", what, err)
		}
		wantBusy(t, "what the set held before", destroy(t, ep, ids[1]))
	}
	if err := destroy(t, ep, ids[2]); err != nil {
		t.Errorf("a lease that failed was set in part: %v", err)
	}
	if err := ep.Leases.SetLease(t.Context(), plan()); err != nil {
		t.Fatal(err)
	}
	if err := destroy(t, ep, ids[1]); err != nil {
		t.Error(err)
	}
}

// Sends and open readers hold their versions against other sessions even where the
// endpoint below does not.
func TestUseHoldsAcrossSessions(t *testing.T) {
	p, ids := threeVersions(t)
	below := p.Endpoint()
	below.Sender = detached{below.Sender}
	var table wrap.Table
	user, pruner := wrap.Leased(below, &table), wrap.Leased(below, &table)
	s, err := user.Sender.Send(t.Context(), cairn.Step{Dataset: "db", From: ids[0], To: ids[1]}, []cairn.Format{cairn.FormatBlocks})
	if err != nil {
		t.Fatal(err)
	}
	wantBusy(t, "base of a running send", destroy(t, pruner, ids[0]), "being sent")
	wantBusy(t, "target of a running send", destroy(t, pruner, ids[1]), "being sent")
	s.Body.Close()
	s.Body.Close()
	if err := destroy(t, pruner, ids[0]); err != nil {
		t.Error(err)
	}
	r := must[cairn.BlockReader](t)(user.Blocks.OpenVersion(t.Context(), "db", ids[1]))
	wantBusy(t, "an open snapshot", destroy(t, pruner, ids[1]), "being read")
	r.Close()
	if err := destroy(t, pruner, ids[1]); err != nil {
		t.Error(err)
	}
	// What fails holds nothing.
	if _, err := user.Sender.Send(t.Context(), cairn.Step{Dataset: "db", To: ids[2]}, nil); err == nil {
		t.Error("sent without a format")
	}
	if err := destroy(t, pruner, ids[2]); err != nil {
		t.Error(err)
	}
}

// detached is a sender whose streams hold nothing.
type detached struct{ cairn.Sender }

func (d detached) Send(ctx context.Context, step cairn.Step, accept []cairn.Format) (*cairn.Stream, error) {
	s, err := d.Sender.Send(ctx, step, accept)
	if err != nil {
		return nil, err
	}
	defer s.Body.Close()
	all, err := io.ReadAll(s.Body)
	return &cairn.Stream{Header: s.Header, Body: io.NopCloser(bytes.NewReader(all))}, err
}

// While a destroy is under way nobody can begin to rely on its versions.
func TestNothingIsLeasedWhileItIsDestroyed(t *testing.T) {
	p, ids := threeVersions(t)
	var table wrap.Table
	a, b := wrap.Leased(p.Endpoint(), &table), wrap.Leased(p.Endpoint(), &table)
	inside := false
	p.Hook(memory.On("destroy", memory.Commit, func(context.Context, memory.Call) error {
		inside = true
		wantBusy(t, "plan", a.Leases.SetLease(t.Context(), plan(ids[0])), "being destroyed")
		wantBusy(t, "durable", a.Leases.SetLease(t.Context(), cairn.LeaseSet{Dataset: "db", Owner: "x", Purpose: cairn.PurposeStep, Versions: ids[:1]}))
		_, err := a.Sender.Send(t.Context(), cairn.Step{Dataset: "db", To: ids[0]}, []cairn.Format{cairn.FormatBlocks})
		wantBusy(t, "send", err)
		_, err = a.Blocks.OpenVersion(t.Context(), "db", ids[0])
		wantBusy(t, "open", err)
		if err := a.Leases.SetLease(t.Context(), plan(ids[1])); err != nil {
			t.Errorf("another version: %v", err)
		}
		return errors.New("the destroy fails after all")
	}))
	if _, err := b.Destroys.Destroy(t.Context(), "db", ids[:1]); err == nil || !inside {
		t.Fatalf("%v, inside %v", err, inside)
	}
	p.Unhook()
	if err := a.Leases.SetLease(t.Context(), plan(ids[0])); err != nil {
		t.Errorf("after a destroy that failed: %v", err)
	}
}

// Planners and pruners at once: whoever got a lease finds its version there until
// the release.
func TestLeasedVersionsAreThere(t *testing.T) {
	p, _ := threeVersions(t)
	var table wrap.Table
	setup := p.Endpoint()
	const n = 40
	var ids []cairn.VersionID
	for i := range n {
		got := must[[]cairn.Captured](t)(setup.Snapshots.Snapshot(t.Context(), fmt.Sprintf("@s%02d", i), []string{"db"}, false))
		ids = append(ids, got[0].Version.VersionID)
	}
	pruner := wrap.Leased(p.Endpoint(), &table)
	var wg sync.WaitGroup
	leased := 0
	var mu sync.Mutex // guards leased
	for w := range 4 {
		wg.Go(func() {
			ep := wrap.Leased(p.Endpoint(), &table)
			for i := w; i < n; i += 2 {
				if ep.Leases.SetLease(t.Context(), plan(ids[i])) != nil {
					continue
				}
				mu.Lock()
				leased++
				mu.Unlock()
				if !slices.ContainsFunc(versions(t, ep, "db"), func(v cairn.Version) bool { return v.VersionID == ids[i] }) {
					t.Errorf("%s is leased and gone", ids[i])
				}
				if err := ep.Leases.SetLease(t.Context(), plan()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 2 {
		wg.Go(func() {
			for i := n - 1; i >= 0; i-- {
				if err := destroy(t, pruner, ids[i]); err != nil && !errors.Is(err, cairn.KindBusy) {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%d leases were granted", leased)
}

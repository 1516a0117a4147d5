package check

import (
	"slices"
	"strings"

	"cairn"
)

// checkOwner is the owner of the leases that rules set.
const checkOwner = "cairn-check"

var leaseNeeds = []cairn.Ability{"list", "lease", "destroy"}

var leaseRules = []Rule{
	{Name: "lease-holds", Says: "a leased version is listed with its lease and not destroyed: KindBusy, naming owner and purpose, until it is released", Needs: leaseNeeds, run: leaseHolds},
	{Name: "lease-replaces", Says: "setting a lease replaces what the set held", Needs: leaseNeeds, run: leaseReplaces},
	{Name: "lease-sets", Says: "sets of other owners and purposes stay as they are", Needs: leaseNeeds, run: leaseSets},
	{Name: "lease-missing", Says: "a lease on a version that is not there fails with KindNotFound and changes nothing", Needs: leaseNeeds, run: leaseMissing},
	{Name: "lease-cursor", Says: "a cursor lease is satisfied by a bookmark of the same GUID", Needs: append(leaseNeeds, "bookmark"), run: leaseCursor},
}

func (l *lab) lease(ds string, p cairn.Purpose, ids ...cairn.VersionID) {
	l.ok("lease "+ds, l.Leases.SetLease(l.ctx, cairn.LeaseSet{Dataset: ds, Owner: checkOwner, Purpose: p, Versions: ids}))
}

// destroyOne is the result for one version.
func (l *lab) destroyOne(ds string, id cairn.VersionID) error {
	results, err := l.Destroys.Destroy(l.ctx, ds, []cairn.VersionID{id})
	l.ok("destroy", err)
	if len(results) != 1 {
		l.fail("one version, %d results", len(results))
	}
	return results[0]
}

func (l *lab) leased(ds, name string) []cairn.Lease {
	for _, v := range l.list(ds).Versions {
		if v.Name == name {
			return v.Leases
		}
	}
	return nil
}

func leaseHolds(l *lab) {
	ds, points := l.dataset("d", 2)
	l.lease(ds, cairn.PurposeStep, points[0].VersionID)
	l.lease(ds, cairn.PurposeStep, points[0].VersionID) // twice is once
	if got := l.leased(ds, "@a"); !slices.Contains(got, cairn.Lease{Owner: checkOwner, Purpose: cairn.PurposeStep}) {
		l.fail("@a is leased and listed with leases %+v", got)
	}
	err := l.destroyOne(ds, points[0].VersionID)
	l.want("destroy of a leased version", err, cairn.KindBusy)
	for _, word := range []string{checkOwner, cairn.PurposeStep.String()} {
		if !strings.Contains(err.Error(), word) {
			l.fail("the error does not name %q: %v", word, err)
		}
	}
	l.wantVersions(ds, "after a destroy that was refused", "@a", "@b")
	l.lease(ds, cairn.PurposeStep)
	l.ok("destroy after the release", l.destroyOne(ds, points[0].VersionID))
}

func leaseReplaces(l *lab) {
	ds, points := l.dataset("d", 2)
	l.lease(ds, cairn.PurposeStep, points[0].VersionID)
	l.lease(ds, cairn.PurposeStep, points[1].VersionID)
	l.ok("destroy of what the set no longer holds", l.destroyOne(ds, points[0].VersionID))
	l.want("destroy of what it holds now", l.destroyOne(ds, points[1].VersionID), cairn.KindBusy)
	l.lease(ds, cairn.PurposeStep)
}

func leaseSets(l *lab) {
	ds, points := l.dataset("d", 1)
	l.lease(ds, cairn.PurposeStep, points[0].VersionID)
	l.lease(ds, cairn.PurposeReceived, points[0].VersionID)
	l.lease(ds, cairn.PurposeStep)
	l.want("destroy of what another purpose holds", l.destroyOne(ds, points[0].VersionID), cairn.KindBusy)
	l.lease(ds, cairn.PurposeReceived)
	l.ok("destroy after both are released", l.destroyOne(ds, points[0].VersionID))
}

func leaseMissing(l *lab) {
	ds, points := l.dataset("d", 2)
	l.lease(ds, cairn.PurposeStep, points[0].VersionID)
	err := l.Leases.SetLease(l.ctx, cairn.LeaseSet{Dataset: ds, Owner: checkOwner, Purpose: cairn.PurposeStep,
		Versions: []cairn.VersionID{points[1].VersionID, {Name: "@never", GUID: 1}}})
	l.want("a lease on a version that is not there", err, cairn.KindNotFound)
	if len(l.leased(ds, "@b")) > 0 {
		l.fail("a lease that failed was set in part")
	}
	l.want("destroy of what the set held before", l.destroyOne(ds, points[0].VersionID), cairn.KindBusy)
	l.lease(ds, cairn.PurposeStep)
}

func leaseCursor(l *lab) {
	ds, points := l.dataset("d", 2)
	l.lease(ds, cairn.PurposeCursor, points[0].VersionID)
	_, err := l.Bookmarks.Bookmark(l.ctx, ds, points[0].VersionID, "#cursor", false)
	l.ok("bookmark", err)
	l.ok("destroy of a cursor's snapshot that has a bookmark", l.destroyOne(ds, points[0].VersionID))
	if got := l.versions(ds); !slices.Contains(got, "@b") || slices.Contains(got, "@a") || len(got) < 2 {
		l.fail("versions are %v: the bookmark is to stay", got)
	}
}

package check

import (
	"errors"
	"slices"
	"strings"

	"cairn"
)

var versionRules = []Rule{
	{Name: "snapshot-content", Says: "a snapshot is listed as it was reported and keeps its content while the head changes", Needs: []cairn.Ability{"list", "snapshot"}, Write: true, run: snapshotContent},
	{Name: "snapshot-exists", Says: "a second snapshot of the same name fails with KindExists and changes nothing", Needs: []cairn.Ability{"list", "snapshot"}, Write: true, run: snapshotExists},
	{Name: "snapshot-each", Says: "results follow the order of the datasets, and without atomic each stands alone", Needs: []cairn.Ability{"list", "snapshot"}, Write: true, run: snapshotEach},
	{Name: "snapshot-atomic", Says: "with atomic all are captured or none", Needs: []cairn.Ability{"list", "snapshot"}, Write: true, run: snapshotAtomic},
	{Name: "bookmark", Says: "a bookmark has its snapshot's GUID, is listed before it, and making it twice succeeds", Needs: []cairn.Ability{"list", "bookmark"}, run: bookmark},
	{Name: "bookmark-taken", Says: "a bookmark's name that stands for another version is not overwritten", Needs: []cairn.Ability{"list", "bookmark"}, run: bookmarkTaken},
	{Name: "bookmark-degrade", Says: "degrade puts the bookmark in the place of the snapshot, and older and newer versions stay as they are", Needs: []cairn.Ability{"list", "bookmark"}, run: bookmarkDegrade},
	{Name: "destroy", Says: "destroy gives one result per version in order, nil when it is gone, also when it was gone before", Needs: []cairn.Ability{"list", "destroy"}, run: destroy},
	{Name: "destroy-neighbours", Says: "destroying a version in the middle leaves the content of the others as it was", Needs: []cairn.Ability{"list", "destroy"}, run: destroyNeighbours},
	{Name: "guid-mismatch", Says: "where name and GUID disagree a call does nothing and fails with KindConflict", Needs: []cairn.Ability{"list"}, run: guidMismatch},
}

func snapshotContent(l *lab) {
	ds := l.create("d", size)
	points := history()[:2]
	l.writeChanged(ds, nil, points[0].content)
	v := l.snapshot(ds, "@a")
	if v.Name != "@a" || v.GUID == 0 || v.Size != size || v.Created.IsZero() {
		l.fail("the snapshot was reported as %+v", v)
	}
	row := l.list(ds)
	if len(row.Versions) != 1 || row.Versions[0].VersionID != v.VersionID || row.Versions[0].Order != v.Order || !row.Versions[0].Created.Equal(v.Created) {
		l.fail("reported %+v, listed %+v", v, row.Versions)
	}
	l.writeChanged(ds, points[0].content, points[1].content)
	points[0].VersionID = v.VersionID
	l.wantContent(ds, points[0])
	points[1].VersionID = l.snapshot(ds, "@b").VersionID
	l.wantContent(ds, points...)
}

func snapshotExists(l *lab) {
	ds := l.create("d", size)
	first := l.snapshot(ds, "@a")
	got, err := l.Snapshots.Snapshot(l.ctx, "@a", []string{ds}, false)
	if err == nil && len(got) == 1 {
		err = got[0].Err
	}
	l.want("a second @a", err, cairn.KindExists)
	if row := l.list(ds); len(row.Versions) != 1 || row.Versions[0].VersionID != first.VersionID {
		l.fail("the first @a became %+v", row.Versions)
	}
}

func snapshotEach(l *lab) {
	one, two := l.create("one", size), l.create("two", size)
	missing := l.folder + "/missing"
	asked := []string{two, missing, one}
	got, err := l.Snapshots.Snapshot(l.ctx, "@a", asked, false)
	l.ok("snapshot of three, one missing", err)
	if len(got) != 3 {
		l.fail("three datasets, %d results", len(got))
	}
	for i, c := range got {
		if c.Dataset != asked[i] {
			l.fail("result %d is of %s, want %s", i, c.Dataset, asked[i])
		}
	}
	l.ok("snapshot of "+two, got[0].Err)
	l.want("snapshot of a dataset that is not there", got[1].Err, cairn.KindNotFound)
	l.ok("snapshot of "+one, got[2].Err)
	l.wantVersions(one, "after the call", "@a")
	l.wantVersions(two, "after the call", "@a")
}

func snapshotAtomic(l *lab) {
	one, two := l.create("one", size), l.create("two", size)
	got, err := l.Snapshots.Snapshot(l.ctx, "@a", []string{one, l.folder + "/missing"}, true)
	if err == nil && !slices.ContainsFunc(got, func(c cairn.Captured) bool { return c.Dataset == one && c.Err != nil }) {
		l.fail("an atomic snapshot with a missing dataset reports success for the other")
	}
	l.wantVersions(one, "after an atomic snapshot that failed")
	got, err = l.Snapshots.Snapshot(l.ctx, "@b", []string{one, two}, true)
	if errors.Is(err, cairn.KindUnsupported) {
		l.wantVersions(one, "after an atomic snapshot that is not supported")
		return
	}
	l.ok("atomic snapshot", err)
	for _, c := range got {
		l.ok("atomic snapshot of "+c.Dataset, c.Err)
	}
	l.wantVersions(one, "after an atomic snapshot", "@b")
	l.wantVersions(two, "after an atomic snapshot", "@b")
}

func bookmark(l *lab) {
	ds, points := l.dataset("d", 2)
	for range 2 {
		v, err := l.Bookmarks.Bookmark(l.ctx, ds, points[0].VersionID, "#m", false)
		l.ok("bookmark", err)
		if v.Name != "#m" || v.GUID != points[0].GUID {
			l.fail("the bookmark of %s (%v) is %s (%v)", points[0].Name, points[0].GUID, v.Name, v.GUID)
		}
		l.wantVersions(ds, "after a bookmark", "#m", "@a", "@b")
	}
	l.wantContent(ds, points...)
}

func bookmarkTaken(l *lab) {
	ds, points := l.dataset("d", 2)
	_, err := l.Bookmarks.Bookmark(l.ctx, ds, points[0].VersionID, "#m", false)
	l.ok("bookmark", err)
	_, err = l.Bookmarks.Bookmark(l.ctx, ds, points[1].VersionID, "#m", false)
	l.want("a bookmark of another version under the same name", err, cairn.KindExists, cairn.KindConflict)
	if row := l.list(ds); row.Versions[0].GUID != points[0].GUID {
		l.fail("the bookmark stands for another version now: %+v", row.Versions)
	}
}

func bookmarkDegrade(l *lab) {
	ds, points := l.dataset("d", 3)
	v, err := l.Bookmarks.Bookmark(l.ctx, ds, points[1].VersionID, "#b", true)
	l.ok("bookmark with degrade", err)
	if v.GUID != points[1].GUID {
		l.fail("the bookmark has GUID %v, the snapshot had %v", v.GUID, points[1].GUID)
	}
	l.wantVersions(ds, "after a degrade", "@a", "#b", "@c")
	l.wantContent(ds, points[0], points[2])
}

func destroy(l *lab) {
	ds, points := l.dataset("d", 3)
	wrong := cairn.VersionID{Name: "@b", GUID: points[1].GUID + 1}
	ids := []cairn.VersionID{points[2].VersionID, wrong, {Name: "@never", GUID: 1}, points[0].VersionID}
	for range 2 {
		results, err := l.Destroys.Destroy(l.ctx, ds, ids)
		l.ok("destroy", err)
		if len(results) != len(ids) {
			l.fail("%d versions, %d results", len(ids), len(results))
		}
		for _, i := range []int{0, 2, 3} {
			l.ok("destroy "+ids[i].Name, results[i])
		}
		l.want("destroy @b by a wrong GUID", results[1], cairn.KindConflict)
		l.wantVersions(ds, "after destroy", "@b")
	}
}

func destroyNeighbours(l *lab) {
	ds, points := l.dataset("d", 3)
	results, err := l.Destroys.Destroy(l.ctx, ds, []cairn.VersionID{points[1].VersionID})
	l.ok("destroy", errors.Join(append(results, err)...))
	l.wantVersions(ds, "after destroy", "@a", "@c")
	l.wantContent(ds, points[0], points[2])
}

func guidMismatch(l *lab) {
	ds, points := l.dataset("d", 2)
	wrong := cairn.VersionID{Name: "@a", GUID: points[0].GUID + 1}
	for _, call := range l.versionCalls(ds, wrong, points[1].VersionID) {
		l.want(call.name+" with a wrong GUID", call.do(l.ctx), cairn.KindConflict)
	}
	l.wantVersions(ds, "after calls with a wrong GUID", "@a", "@b")
	for _, v := range l.list(ds).Versions {
		if len(v.Leases) > 0 && slices.ContainsFunc(v.Leases, func(le cairn.Lease) bool { return strings.HasPrefix(le.Owner, checkOwner) }) {
			l.fail("a lease was set by a wrong GUID: %+v", v.Leases)
		}
	}
	l.wantContent(ds, points...)
}

package zfscases

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"cairn"
	"cairn/internal/system/zfs"
)

// placeCases are about one place: listing, holds, bookmarks, destruction.
var placeCases = []Case{
	{"BatchDestroy", batchDestroy},
	{"CreateReplicationCursor", createCursor},
	{"GetNonexistent", getNonexistent},
	{"HoldsWork", holdsWork},
	{"IdempotentBookmark", idempotentBookmark},
	{"IdempotentDestroy", idempotentDestroy},
	{"IdempotentHold", idempotentHold},
	{"ListFilesystemVersionsFilesystemNotExist", versionsOfNothing},
	{"ListFilesystemVersionsTypeFilteringAndPrefix", versionsByKind},
	{"ListFilesystemVersionsUserrefs", versionsUserrefs},
	{"ListFilesystemVersionsZeroExistIsNotAnError", versionsNone},
	{"ListFilesystemsNoFilter", listAll},
	{"UndestroyableSnapshotParsing", undestroyable},
	{"ListOrderWithSpaces", orderWithSpaces},
	{"SnapshotGroupIsAtomic", snapshotGroup},
	{"SnapshotAcrossPoolsIsRefused", snapshotPools},
	{"RollbackSparesHeld", rollbackSparesHeld},
	{"LongAndStrangeNames", strangeNames},
	{"LongestNames", longestNames},
	{"HostileProperties", hostileProperties},
	{"DestroyByGUID", destroyByGUID},
	{"MarksAdoptReleaseRestore", marks},
}

func batchDestroy(t *testing.T, w *World) {
	l := w.lab(t)
	fs := l.filesystem("foo", "1", "2", "3")
	l.zfs("hold", "zrepl_platformtest", fs+"@2")
	ids := []cairn.VersionID{l.id(fs, "@1"), l.id(fs, "@2"), l.id(fs, "@3")}
	results, err := l.ep.Destroys.Destroy(l.Context(), fs, ids)
	l.ok(err)
	if results[0] != nil || results[2] != nil {
		l.Errorf("snapshots that nothing holds were not destroyed: %v", results)
	}
	l.want("destroy of a held snapshot", results[1], cairn.KindBusy)
	if results[1] != nil && !strings.Contains(results[1].Error(), "zrepl_platformtest") {
		l.Errorf("the error does not name the hold: %v", results[1])
	}
	l.wantNames(fs, "@2")
	l.zfs("release", "zrepl_platformtest", fs+"@2")
}

func createCursor(t *testing.T, w *World) {
	l := w.lab(t)
	fs := l.filesystem("foo", "1", "2")
	one, two := l.id(fs, "@1"), l.id(fs, "@2")
	cursor := func(id cairn.VersionID) string { return "#zrepl_CURSOR_G_" + id.GUID.String() + "_J_" + owner }
	l.lease(fs, owner, cairn.PurposeCursor, one)
	l.wantNames(fs, cursor(one), "@1", "@2")
	if got := l.leases(fs, cursor(one)); !slices.Equal(got, []cairn.Lease{{Owner: owner, Purpose: cairn.PurposeCursor}}) {
		l.Errorf("the cursor's bookmark has leases %v", got)
	}
	l.lease(fs, owner, cairn.PurposeCursor, one) // twice is once
	l.lease(fs, owner, cairn.PurposeCursor, two)
	l.wantNames(fs, "@1", cursor(two), "@2")
	l.want("destroy of a cursor", l.destroy(fs, l.id(fs, cursor(two))), cairn.KindBusy)
	l.lease(fs, "other", cairn.PurposeCursor, one)
	l.lease(fs, owner, cairn.PurposeTentative, two)
	l.lease(fs, owner, cairn.PurposeCursor)
	l.wantNames(fs, "#zrepl_CURSOR_G_"+one.GUID.String()+"_J_other", "@1", "#zrepl_CURSORTENTATIVE__G_"+two.GUID.String()+"_J_"+owner, "@2")
}

// destroy is the result for one version.
func (l *lab) destroy(name string, id cairn.VersionID) error {
	l.Helper()
	results, err := l.ep.Destroys.Destroy(l.Context(), name, []cairn.VersionID{id})
	l.ok(err)
	return results[0]
}

func getNonexistent(t *testing.T, w *World) {
	l := w.lab(t)
	fs := l.filesystem("foo", "1")
	nothing := cairn.VersionID{Name: "@none", GUID: 1}
	for what, err := range map[string]error{
		"lease of a snapshot":   l.ep.Leases.SetLease(l.Context(), cairn.LeaseSet{Dataset: fs, Owner: owner, Purpose: cairn.PurposeStep, Versions: []cairn.VersionID{nothing}}),
		"lease of a filesystem": l.ep.Leases.SetLease(l.Context(), cairn.LeaseSet{Dataset: l.pool + "/none", Owner: owner, Purpose: cairn.PurposeStep, Versions: []cairn.VersionID{nothing}}),
		"rollback":              l.ep.Rollbacks.Rollback(l.Context(), fs, nothing, false),
		"seal":                  l.ep.Seals.Seal(l.Context(), l.pool+"/none", true),
	} {
		l.want(what+" that does not exist", err, cairn.KindNotFound)
	}
	if is, err := l.place.Placeholder(l.Context(), fs); is || err != nil {
		l.Errorf("a filesystem is a placeholder: %v, %v", is, err)
	}
	_, err := l.place.Placeholder(l.Context(), l.pool+"/none")
	l.want("a placeholder that does not exist", err, cairn.KindNotFound)
}

func holdsWork(t *testing.T, w *World) {
	l := w.lab(t)
	fs := l.filesystem("foo", "1", "2")
	l.lease(fs, owner, cairn.PurposeStep, l.id(fs, "@1"), l.id(fs, "@2"))
	if out := l.zfs("holds", "-H", fs+"@1", fs+"@2"); strings.Count(out, "zrepl_STEP_J_j") != 2 {
		l.Errorf("two snapshots are to be held under zrepl's tag: %s", out)
	}
	l.lease(fs, owner, cairn.PurposeStep, l.id(fs, "@2"))
	if out := l.zfs("holds", "-H", fs+"@1", fs+"@2"); strings.Count(out, "zrepl_STEP_J_j") != 1 {
		l.Errorf("one snapshot is to be held: %s", out)
	}
	l.want("destroy", l.destroy(fs, l.id(fs, "@2")), cairn.KindBusy)
	l.lease(fs, owner, cairn.PurposeReceived, l.id(fs, "@1"))
	if out := l.zfs("holds", "-H", fs+"@1"); !strings.Contains(out, "zrepl_last_received_J_j") {
		l.Errorf("zrepl's tag of received snapshots is missing: %s", out)
	}
}

func idempotentBookmark(t *testing.T, w *World) {
	l := w.lab(t)
	fs := l.filesystem("foo", "a snap", "another snap")
	one := l.id(fs, "@a snap")
	for range 2 {
		v, err := l.ep.Bookmarks.Bookmark(l.Context(), fs, one, "#a bookmark", false)
		l.ok(err)
		if v.GUID != one.GUID || v.Name != "#a bookmark" || v.Order == 0 {
			l.Errorf("the bookmark is %+v", v)
		}
	}
	_, err := l.ep.Bookmarks.Bookmark(l.Context(), fs, l.id(fs, "@another snap"), "#a bookmark", false)
	l.want("a bookmark of another version", err, cairn.KindExists)
	l.ok(l.destroy(fs, one))
	mark := l.id(fs, "#a bookmark")
	if v, err := l.ep.Bookmarks.Bookmark(l.Context(), fs, mark, "#of a bookmark", false); err != nil || v.GUID != one.GUID {
		l.Errorf("a bookmark of a bookmark: %+v, %v", v, err)
	}
	l.wantNames(fs, "#a bookmark", "#of a bookmark", "@another snap")
}

func idempotentDestroy(t *testing.T, w *World) {
	l := w.lab(t)
	fs := l.filesystem("foo", "1")
	id := l.id(fs, "@1")
	mark, err := l.ep.Bookmarks.Bookmark(l.Context(), fs, id, "#m", false)
	l.ok(err)
	for range 2 {
		l.ok(l.destroy(fs, id))
		l.ok(l.destroy(fs, mark.VersionID))
	}
	_, err = l.ep.Destroys.Destroy(l.Context(), l.pool+"/none", []cairn.VersionID{id})
	l.want("destroy in a filesystem that does not exist", err, cairn.KindNotFound)
	l.wantNames(fs)
}

func idempotentHold(t *testing.T, w *World) {
	l := w.lab(t)
	fs := l.filesystem("foo", "1")
	id := l.id(fs, "@1")
	l.zfs("hold", "zrepl_STEP_J_j", fs+"@1") // behind the place's back
	l.lease(fs, owner, cairn.PurposeStep, id)
	l.lease(fs, owner, cairn.PurposeStep, id)
	l.zfs("release", "zrepl_STEP_J_j", fs+"@1")
	l.lease(fs, owner, cairn.PurposeStep)
	l.lease(fs, owner, cairn.PurposeStep)
	l.ok(l.destroy(fs, id))
}

func versionsOfNothing(t *testing.T, w *World) {
	l := w.lab(t)
	if row := l.find(l.pool + "/none"); row != nil {
		l.Errorf("a filesystem that does not exist is listed: %+v", row)
	}
	for _, err := range l.ep.Lister.List(l.Context(), cairn.Query{Filter: cairn.Filter{{Name: "nopool", Subtree: true, Keep: true}}}) {
		l.Errorf("a pool that does not exist lists something: %v", err)
	}
}

func versionsByKind(t *testing.T, w *World) {
	l := w.lab(t)
	fs := l.filesystem("foo", "1", "foo 1", "bar 1")
	l.filesystem("foo/child", "1")
	l.zfs("bookmark", fs+"@foo 1", fs+"#foo 1")
	l.zfs("bookmark", fs+"@bar 1", fs+"#bookfoo 1")
	l.wantNames(fs, "@1", "#foo 1", "@foo 1", "#bookfoo 1", "@bar 1")
	l.wantNames(fs+"/child", "@1")
	for _, v := range l.list(fs).Versions {
		if v.IsSnapshot() == v.IsBookmark() || v.GUID == 0 || v.Order == 0 || v.Created.IsZero() {
			l.Errorf("listed as %+v", v)
		}
	}
}

func versionsUserrefs(t *testing.T, w *World) {
	l := w.lab(t)
	fs := l.filesystem("foo", "1", "2", "3")
	l.zfs("hold", "t1", fs+"@1")
	l.zfs("hold", "t2", fs+"@1")
	l.zfs("hold", "zrepl_STEP_J_a job", fs+"@2")
	want := [][]cairn.Lease{{{Owner: "t1", Purpose: cairn.PurposeForeign}, {Owner: "t2", Purpose: cairn.PurposeForeign}}, {{Owner: "a job", Purpose: cairn.PurposeStep}}, nil}
	for i, v := range l.list(fs).Versions {
		if got := v.Leases; len(got) != len(want[i]) || !slices.ContainsFunc(append(want[i], cairn.Lease{}), func(x cairn.Lease) bool { return len(got) == 0 || slices.Contains(got, x) }) {
			l.Errorf("%s has leases %v, want %v", v.Name, got, want[i])
		}
	}
}

func versionsNone(t *testing.T, w *World) {
	l := w.lab(t)
	l.wantNames(l.filesystem("foo"))
}

func listAll(t *testing.T, w *World) {
	l := w.lab(t)
	l.filesystem("foo")
	l.filesystem("bar/baz")
	l.zvol("vol")
	var got []string
	for row, err := range l.ep.Lister.List(l.Context(), cairn.Query{Filter: cairn.All}) {
		l.ok(err)
		if name := row.Dataset.Name; name == l.pool || strings.HasPrefix(name, l.pool+"/") {
			got = append(got, strings.TrimPrefix(name, l.pool)+" "+row.Dataset.Kind.String())
		}
	}
	if want := []string{" filesystem", "/bar filesystem", "/bar/baz filesystem", "/foo filesystem", "/vol zvol"}; !slices.Equal(got, want) {
		l.Errorf("got %q, want %q", got, want)
	}
}

func undestroyable(t *testing.T, w *World) {
	l := w.lab(t)
	fs := l.filesystem("foo", "1", "2", "3", "4", "5")
	l.zfs("clone", fs+"@3", l.pool+"/clone")
	var ids []cairn.VersionID
	for _, v := range l.list(fs).Versions {
		ids = append(ids, v.VersionID)
	}
	results, err := l.ep.Destroys.Destroy(l.Context(), fs, append(ids, cairn.VersionID{Name: "@none", GUID: 1}))
	l.ok(err)
	for i, err := range results {
		if i == 2 {
			l.want("destroy of a clone's origin", err, cairn.KindBusy)
		} else if err != nil {
			l.Errorf("version %d: %v", i, err)
		}
	}
	l.wantNames(fs, "@3")
}

func orderWithSpaces(t *testing.T, w *World) {
	l := w.lab(t)
	for _, short := range []string{"a", "a b", "a-b", "a/x", "a.b", "a b/c"} {
		fs := l.filesystem(short, "1")
		l.zfs("bookmark", fs+"@1", fs+"#m")
	}
	var names []string
	for row, err := range l.ep.Lister.List(l.Context(), cairn.Query{Filter: cairn.Filter{{Name: l.pool, Subtree: true, Keep: true}}, Want: cairn.Want{Versions: true}}) {
		l.ok(err)
		names = append(names, row.Dataset.Name)
		if row.Dataset.Name != l.pool && (len(row.Versions) != 2 || row.Versions[0].Name != "#m" || row.Versions[1].Name != "@1") {
			l.Errorf("%s has versions %+v", row.Dataset.Name, row.Versions)
		}
	}
	if !slices.IsSorted(names) || len(names) != 7 {
		l.Errorf("listed %q", names)
	}
}

func snapshotGroup(t *testing.T, w *World) {
	l := w.lab(t)
	top, kid := l.filesystem("top"), l.filesystem("top/kid", "taken")
	got, err := l.ep.Snapshots.Snapshot(l.Context(), "@g", []string{kid, top}, true)
	l.ok(err)
	for _, c := range got {
		l.ok(c.Err)
		if c.Version.GUID == 0 || c.Version.Order != got[0].Version.Order {
			l.Errorf("captured %+v beside %+v: not one instant", c, got[0])
		}
	}
	_, err = l.ep.Snapshots.Snapshot(l.Context(), "@taken", []string{top, kid}, true)
	l.want("an atomic capture under a name that is taken", err, cairn.KindExists)
	l.wantNames(top, "@g")
	got, err = l.ep.Snapshots.Snapshot(l.Context(), "@taken", []string{top, l.pool + "/none", kid}, false)
	l.ok(err)
	l.ok(got[0].Err)
	l.want("capture of nothing", got[1].Err, cairn.KindNotFound)
	l.want("capture of what is taken", got[2].Err, cairn.KindExists)
	l.wantNames(top, "@g", "@taken")
}

func snapshotPools(t *testing.T, w *World) {
	l, other := w.lab(t), w.lab(t)
	a, b := l.filesystem("a"), other.filesystem("b")
	_, err := l.ep.Snapshots.Snapshot(l.Context(), "@g", []string{a, b}, true)
	l.want("an atomic capture over two pools", err, cairn.KindUnsupported)
	l.wantNames(a)
	got, err := l.ep.Snapshots.Snapshot(l.Context(), "@g", []string{a, b}, false)
	l.ok(err)
	l.ok(errors.Join(got[0].Err, got[1].Err))
}

func rollbackSparesHeld(t *testing.T, w *World) {
	l := w.lab(t)
	fs := l.filesystem("foo", "1", "2", "3")
	l.zfs("hold", "h", fs+"@3")
	l.want("rollback over a held snapshot", l.ep.Rollbacks.Rollback(l.Context(), fs, l.id(fs, "@1"), true), cairn.KindBusy)
	l.wantNames(fs, "@1", "@2", "@3")
	l.zfs("release", "h", fs+"@3")
	l.want("rollback over newer ones", l.ep.Rollbacks.Rollback(l.Context(), fs, l.id(fs, "@1"), false), cairn.KindConflict)
	l.ok(l.ep.Rollbacks.Rollback(l.Context(), fs, l.id(fs, "@1"), true))
	l.wantNames(fs, "@1")
}

func strangeNames(t *testing.T, w *World) {
	l := w.lab(t)
	long := strings.Repeat("n", 190)
	fs := l.filesystem(long, "snap with: strange.chars_-")
	id := l.id(fs, "@snap with: strange.chars_-")
	l.lease(fs, "a job: with.strange_-", cairn.PurposeStep, id)
	l.lease(fs, "a job: with.strange_-", cairn.PurposeStep)
	err := l.ep.Leases.SetLease(l.Context(), cairn.LeaseSet{Dataset: fs, Owner: owner, Purpose: cairn.PurposeCursor, Versions: []cairn.VersionID{id}})
	if len(fs)+len("#zrepl_CURSOR_G__J_")+16+len(owner) > 255 {
		l.want("a cursor that does not fit", err, cairn.KindInvalid)
	}
	for _, name := range []string{l.pool + "/ünïcode", "-x/y", l.pool + "/a\tb", l.pool + "/" + strings.Repeat("m", 260), l.pool + "/a%b", ""} {
		_, err := l.ep.Snapshots.Snapshot(l.Context(), "@1", []string{name}, true)
		l.want(fmt.Sprintf("capture of %q", name), err, cairn.KindInvalid)
	}
	l.want("a job's name that is none", l.ep.Leases.SetLease(l.Context(), cairn.LeaseSet{Dataset: fs, Owner: "a/b@c", Purpose: cairn.PurposeStep}), cairn.KindInvalid)
	l.ok(l.destroy(fs, id))
}

// A name of 255 bytes in all is worked with; one byte more is refused before zfs sees
// it, whatever is asked.
func longestNames(t *testing.T, w *World) {
	l := w.lab(t)
	short := strings.Repeat("a", 200) + "/"
	fs := l.filesystem(short + strings.Repeat("b", 255-len("@12")-len(l.pool)-1-len(short)))
	got, err := l.ep.Snapshots.Snapshot(l.Context(), "@12", []string{fs}, false)
	l.ok(errors.Join(err, got[0].Err))
	id := l.id(fs, "@12")
	l.lease(fs, owner, cairn.PurposeStep, id)
	l.want("destroy of what is held", l.destroy(fs, id), cairn.KindBusy)
	l.lease(fs, owner, cairn.PurposeStep)
	_, err = l.ep.Snapshots.Snapshot(l.Context(), "@123", []string{fs}, true)
	l.want("a capture whose name is 256 bytes long", err, cairn.KindInvalid)
	_, err = l.ep.Bookmarks.Bookmark(l.Context(), fs, id, "#123", false)
	l.want("a bookmark whose name is 256 bytes long", err, cairn.KindInvalid)
	h, all := l.bytes(cairn.Step{Dataset: fs, To: id})
	_, err = l.receive(fs+"b", h, bytes.NewReader(all))
	l.want("a receive whose name is 256 bytes long", err, cairn.KindInvalid)
	l.want("a rename to a name of 256 bytes", l.ep.Renames.Rename(l.Context(), fs, fs+"1234"), cairn.KindInvalid)
	l.wantNames(fs, "@12")
	l.ok(l.destroy(fs, id))
	l.wantNames(fs)
}

func hostileProperties(t *testing.T, w *World) {
	l := w.lab(t)
	evil, victim := l.filesystem("evil"), l.filesystem("victim")
	l.zfs("set", zrepl+"=on\tlocal\n"+victim+"\t"+zrepl+"\ton", evil)
	l.zfs("set", "user:prop=a@b\tc#d\n"+victim+"@1\tsnapshot\t1\t1", evil)
	for _, name := range []string{evil, victim} {
		if is, err := l.place.Placeholder(l.Context(), name); is || err != nil {
			l.Errorf("a property forged %s to be a placeholder: %v", name, err)
		}
	}
	l.wantNames(victim)
	l.wantNames(evil)
	for i, value := range []string{"@", "x@y", strings.Repeat("v", 8000), "\x1b[2J", "$(reboot); `reboot`", "-r", "a,b=c"} {
		l.zfs("set", fmt.Sprintf("user:p%d=%s", i, value), evil)
	}
	l.zfs("snapshot", evil+"@1")
	id := l.id(evil, "@1")
	h, all := l.bytes(cairn.Step{Dataset: evil, To: id})
	_, err := l.receive(l.pool+"/to", h, bytes.NewReader(all))
	l.ok(err)
	l.wantNames(l.pool+"/to", "@1")
	l.ok(l.destroy(evil, id))
	l.wantNames(evil)
	l.wantNames(l.pool+"/to", "@1")
	l.wantNames(victim)
}

const zrepl = "zrepl:placeholder"

func destroyByGUID(t *testing.T, w *World) {
	l := w.lab(t)
	fs := l.filesystem("foo", "1")
	old := l.id(fs, "@1")
	l.zfs("destroy", fs+"@1")
	l.zfs("snapshot", fs+"@1") // another version under the name, behind the place's back
	l.want("destroy of a version whose name another one has now", l.destroy(fs, old), cairn.KindConflict)
	l.want("rollback to it", l.ep.Rollbacks.Rollback(l.Context(), fs, old, true), cairn.KindConflict)
	l.wantNames(fs, "@1")
}

// marks covers stale holds and cursors of an old job.
func marks(t *testing.T, w *World) {
	l := w.lab(t)
	fs := l.filesystem("foo", "1", "2")
	one, two := l.id(fs, "@1"), l.id(fs, "@2")
	l.zfs("hold", "zrepl_STEP_J_old", fs+"@1")
	l.zfs("hold", "zrepl_last_received_J_old", fs+"@2")
	l.zfs("hold", "stranger", fs+"@2")
	l.zfs("bookmark", fs+"@1", fs+"#zrepl_CURSOR_G_"+one.GUID.String()+"_J_old")
	l.zfs("bookmark", fs+"@1", fs+"#zrepl_CURSOR_G_"+two.GUID.String()+"_J_old") // its name lies: no cursor
	l.zfs("bookmark", fs+"@1", fs+"#zrepl_replication_cursor")
	filter := cairn.Filter{{Name: fs, Subtree: true, Keep: true}}
	all, err := l.place.Marks(l.Context(), filter)
	l.ok(err)
	var of []zfs.Mark
	for _, m := range all {
		if m.Owner == "old" {
			of = append(of, m)
		}
		if m.Created.IsZero() {
			l.Errorf("no age of %+v", m)
		}
	}
	if len(all) != 5 || len(of) != 3 {
		l.Fatalf("marks are %+v", all)
	}
	l.ok(l.place.Adopt(l.Context(), of, "new"))
	if got := l.leases(fs, "@1"); !slices.Equal(got, []cairn.Lease{{Owner: "new", Purpose: cairn.PurposeStep}}) {
		l.Errorf("@1 has leases %v", got)
	}
	if !slices.Contains(l.names(fs), "#zrepl_CURSOR_G_"+one.GUID.String()+"_J_new") || slices.Contains(l.names(fs), "#zrepl_CURSOR_G_"+one.GUID.String()+"_J_old") {
		l.Errorf("after the adoption there are %v", l.names(fs))
	}
	all, err = l.place.Marks(l.Context(), filter)
	l.ok(err)
	mine := slices.DeleteFunc(slices.Clone(all), func(m zfs.Mark) bool { return m.Purpose == cairn.PurposeForeign })
	for range 2 {
		l.ok(l.place.Release(l.Context(), mine))
	}
	if got := l.names(fs); !slices.Equal(got, []string{"#zrepl_CURSOR_G_" + two.GUID.String() + "_J_old", "@1", "@2"}) {
		l.Errorf("after the release there are %v", got)
	}
	if got := l.leases(fs, "@2"); len(got) != 1 || got[0].Purpose != cairn.PurposeForeign {
		l.Errorf("@2 has leases %v", got)
	}
	for range 2 {
		l.ok(l.place.Restore(l.Context(), mine))
	}
	again, err := l.place.Marks(l.Context(), filter)
	l.ok(err)
	if len(again) != len(all) {
		l.Errorf("after the undo there are %+v, want %+v", again, all)
	}
	l.want("adoption of a stranger's hold", l.place.Adopt(l.Context(), slices.DeleteFunc(all, func(m zfs.Mark) bool { return m.Purpose != cairn.PurposeForeign }), "new"), cairn.KindInvalid)
}

package check

import (
	"cmp"
	"slices"

	"cairn"
)

var listRules = []Rule{
	{Name: "list-order", Says: "datasets are listed in byte order of their names, each once", Needs: []cairn.Ability{"list"}, run: listOrder},
	{Name: "list-filter", Says: "a listing holds exactly the datasets that the filter selects", Needs: []cairn.Ability{"list"}, run: listFilter},
	{Name: "list-names", Says: "names limit a listing in addition to the filter, and a name that is not there is left out", Needs: []cairn.Ability{"list"}, run: listNames},
	{Name: "list-versions", Says: "versions are ordered, bookmarks before the snapshot of the same order, with GUID, time and size", Needs: []cairn.Ability{"list"}, run: listVersions},
	{Name: "list-stop", Says: "a caller may stop a listing early and list again", Needs: []cairn.Ability{"list"}, run: listStop},
	{Name: "list-owned", Says: "a listing belongs to its receiver: changing it changes nothing", Needs: []cairn.Ability{"list"}, run: listOwned},
}

// three makes datasets whose byte order is not the order of their folders. Nothing
// lies below a zvol: where these are kept, a is the filesystem that came with a/x.
func (l *lab) three() []string {
	shorts := []string{"a/x", "a-b", "a"}
	names := make([]string, 0, len(shorts))
	for _, short := range shorts {
		if short == "a" && l.zvols() {
			names = append(names, l.name(short))
			continue
		}
		name, _ := l.dataset(short, 1)
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (l *lab) names(q cairn.Query) []string {
	var names []string
	for row, err := range l.Lister.List(l.ctx, q) {
		l.ok("list", err)
		names = append(names, row.Dataset.Name)
	}
	return names
}

func (l *lab) wantNames(what string, q cairn.Query, want ...string) {
	if got := l.names(q); !slices.Equal(got, want) {
		l.fail("%s lists %v, want %v", what, got, want)
	}
}

func (l *lab) folderFilter() cairn.Filter {
	return cairn.Filter{{Name: l.folder, Subtree: true, Keep: true}, {Name: l.folder, Keep: false}}
}

// only keeps the names of this rule: placeholders and parents may be there too.
func only(names, want []string) []string {
	return slices.DeleteFunc(names, func(n string) bool { return !slices.Contains(want, n) })
}

func listOrder(l *lab) {
	want := l.three()
	all := l.names(cairn.Query{Filter: cairn.All})
	if !slices.IsSorted(all) || len(slices.Compact(slices.Clone(all))) != len(all) {
		l.fail("the listing is not in byte order, or names one twice: %v", all)
	}
	if got := only(all, want); !slices.Equal(got, want) {
		l.fail("the listing has %v of %v", got, want)
	}
}

func listFilter(l *lab) {
	names := l.three() // a, a-b, a/x
	a, ab, ax := names[0], names[1], names[2]
	below := append(l.folderFilter(), cairn.FilterRule{Name: a, Subtree: true}, cairn.FilterRule{Name: a, Keep: true})
	if got := only(l.names(cairn.Query{Filter: below}), names); !slices.Equal(got, []string{a, ab}) {
		l.fail("all but what is below %s: got %v", a, got)
	}
	l.wantNames("a filter for one dataset", cairn.Query{Filter: cairn.Filter{{Name: ax, Keep: true}}}, ax)
	l.wantNames("the empty filter", cairn.Query{})
}

func listNames(l *lab) {
	names := l.three()
	l.wantNames("two names and one that is not there", cairn.Query{Filter: cairn.All, Names: []string{names[2], names[0], l.folder + "/nothing"}}, names[0], names[2])
	l.wantNames("no names", cairn.Query{Filter: cairn.All, Names: []string{}})
	l.wantNames("a name that the filter leaves out", cairn.Query{Filter: cairn.Filter{{Name: names[0], Keep: true}}, Names: names}, names[0])
}

func listVersions(l *lab) {
	ds, points := l.dataset("d", 3)
	want := []string{"@a", "@b", "@c"}
	if l.Bookmarks != nil {
		_, err := l.Bookmarks.Bookmark(l.ctx, ds, points[1].VersionID, "#z", false)
		l.ok("bookmark", err)
		want = []string{"@a", "#z", "@b", "@c"}
	}
	l.wantVersions(ds, "after captures", want...)
	row := l.list(ds)
	if !slices.IsSortedFunc(row.Versions, func(a, b cairn.Version) int { return cmp.Compare(a.Order, b.Order) }) {
		l.fail("versions are not ordered by Order: %+v", row.Versions)
	}
	guids := map[cairn.GUID]bool{}
	for _, v := range row.Versions {
		if v.GUID == 0 || v.Created.IsZero() || v.Size != size {
			l.fail("%s has GUID %v, created %s, size %d", v.Name, v.GUID, v.Created, v.Size)
		}
		if v.IsSnapshot() && guids[v.GUID] {
			l.fail("two snapshots share GUID %v", v.GUID)
		}
		guids[v.GUID] = guids[v.GUID] || v.IsSnapshot()
	}
	if row.Dataset.Kind == 0 || row.Dataset.ID == 0 || row.Dataset.Size != size {
		l.fail("the dataset is listed as %+v", row.Dataset)
	}
}

func listStop(l *lab) {
	names := l.three()
	q := cairn.Query{Filter: l.folderFilter(), Want: cairn.Want{Versions: true}}
	for range 3 {
		for _, err := range l.Lister.List(l.ctx, q) {
			l.ok("list", err)
			break
		}
	}
	if got := only(l.names(q), names); !slices.Equal(got, names) {
		l.fail("after listings that were stopped early: %v, want %v", got, names)
	}
}

func listOwned(l *lab) {
	ds, _ := l.dataset("d", 2)
	row := l.list(ds)
	for i := range row.Versions {
		row.Versions[i] = cairn.Version{}
	}
	row.Dataset.Name = "spoilt"
	l.wantVersions(ds, "after a caller changed its listing", "@a", "@b")
}

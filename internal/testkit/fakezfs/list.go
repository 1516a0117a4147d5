package fakezfs

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"cairn/internal/format/zfsstream"
)

// entry is one line of a listing.
type entry struct {
	name    string
	kind    string
	key     string // by which zfs sorts: a snapshot right behind its dataset
	dataset *dataset
	snap    *snapshot
	mark    *bookmark
}

func (c *command) entries(name string, types []string) []entry {
	d := c.Datasets[name]
	all := []entry{{name: name, kind: d.Kind, key: name, dataset: d}}
	for _, v := range d.Snapshots {
		all = append(all, entry{name: name + "@" + v.Name, kind: "snapshot", key: name, dataset: d, snap: v})
	}
	for _, v := range d.Bookmarks {
		all = append(all, entry{name: name + "#" + v.Name, kind: "bookmark", key: name + "#" + v.Name, dataset: d, mark: v})
	}
	return slices.DeleteFunc(all, func(e entry) bool {
		return !slices.Contains(types, e.kind) && !slices.Contains(types, "all")
	})
}

func (e entry) order() uint64 {
	switch {
	case e.snap != nil:
		return e.snap.Txg
	case e.mark != nil:
		return e.mark.Txg
	}
	return 0
}

// selected are the entries that the arguments name.
func (c *command) selected() []entry {
	types := strings.Split(cmp.Or(c.value("t"), "filesystem,volume"), ",")
	depth := map[bool]int{true: 1 << 20}[c.has("r") || len(c.args) == 0]
	if c.has("d") {
		_, _ = fmt.Sscan(c.value("d"), &depth)
	}
	seen := map[string]bool{}
	var all []entry
	add := func(e entry) {
		if !seen[e.name] {
			seen[e.name] = true
			all = append(all, e)
		}
	}
	roots := c.args
	if len(roots) == 0 {
		for name := range c.Datasets {
			if parent(name) == "" {
				roots = append(roots, name)
			}
		}
	}
	for _, root := range roots {
		found := false
		for _, name := range c.below(dataset0(root)) {
			for _, e := range c.entries(name, types) {
				if levels := levelsBelow(root, e); e.name == root || levels >= 0 && levels <= depth {
					add(e)
				}
				found = found || e.name == root
			}
			found = found || name == root
		}
		if !found {
			c.fail(1, "cannot open '%s': dataset does not exist", root)
		}
	}
	slices.SortFunc(all, func(a, b entry) int {
		return cmp.Or(cmp.Compare(a.key, b.key), cmp.Compare(a.order(), b.order()))
	})
	return all
}

func dataset0(name string) string {
	if i := strings.IndexAny(name, "@#"); i >= 0 {
		return name[:i]
	}
	return name
}

// levelsBelow counts how far an entry lies below the root: a version is one level
// below its dataset.
func levelsBelow(root string, e entry) int {
	name := dataset0(e.name)
	if name != root && !strings.HasPrefix(name, root+"/") {
		return -1
	}
	n := strings.Count(name[len(root):], "/")
	if name != e.name {
		n++
	}
	return n
}

func (c *command) list() {
	columns := strings.Split(c.value("o"), ",")
	for _, e := range c.selected() {
		values := make([]string, len(columns))
		for i, col := range columns {
			values[i] = c.column(e, col)
		}
		c.print("%s\n", strings.Join(values, "\t"))
	}
}

// column is one property of an entry, "-" where it has none.
func (c *command) column(e entry, name string) string {
	d := e.dataset
	native := map[string]func() any{
		"name": func() any { return e.name }, "type": func() any { return e.kind },
		"encryption":           func() any { return d.Encrypted },
		"receive_resume_token": func() any { return "" },
	}
	switch {
	case e.snap != nil:
		v := e.snap
		maps.Copy(native, map[string]func() any{"guid": func() any { return v.GUID }, "createtxg": func() any { return v.Txg }, "creation": func() any { return v.Created },
			"used": func() any { return v.Written }, "written": func() any { return v.Written }, "referenced": func() any { return c.length(v.Content) }, "userrefs": func() any { return len(v.Holds) }})
		if d.Kind == "volume" {
			native["volsize"] = func() any { return v.Size }
		}
	case e.mark != nil:
		v := e.mark
		maps.Copy(native, map[string]func() any{"guid": func() any { return v.GUID }, "createtxg": func() any { return v.Txg }, "creation": func() any { return v.Created }})
		delete(native, "encryption")
	default:
		maps.Copy(native, map[string]func() any{"guid": func() any { return d.GUID }, "createtxg": func() any { return d.Txg }, "creation": func() any { return d.Created },
			"used": func() any { return c.length(d.Content) }, "written": func() any { return d.Written }, "referenced": func() any { return c.length(d.Content) },
			"origin": func() any { return d.Origin }, "readonly": func() any { return c.property(e.name, "readonly") }})
		if d.Kind == "volume" {
			native["volsize"] = func() any { return d.Size }
		}
		if d.Partial != nil {
			native["receive_resume_token"] = func() any { return d.Partial.Token }
		}
	}
	if value := native[name]; value != nil {
		if text := fmt.Sprint(value()); text != "" {
			return text
		}
	}
	return "-"
}

func (c *command) length(blob string) int {
	content, err := c.blob(blob)
	if err != nil {
		c.fail(1, "fakezfs: %v", err)
	}
	return len(content)
}

// get prints properties that are set on the datasets themselves, or with no -s
// those that hold.
func (c *command) get() {
	properties, names := strings.Split(c.args[0], ","), c.args[1:]
	c.args = names
	columns := strings.Split(cmp.Or(c.value("o"), "name,property,value,source"), ",")
	for _, e := range c.selected() {
		for _, p := range properties {
			value, source := c.value0(e, p)
			if c.has("s") && source != "local" {
				continue
			}
			row := map[string]string{"name": e.name, "property": p, "value": value, "source": source}
			out := make([]string, len(columns))
			for i, col := range columns {
				out[i] = row[col]
			}
			c.print("%s\n", strings.Join(out, "\t"))
		}
	}
}

func (c *command) value0(e entry, property string) (value, source string) {
	if v := c.column(e, property); v != "-" && property != "readonly" {
		return v, "-"
	}
	if v, local := e.dataset.Props[property]; local && e.snap == nil {
		return v, "local"
	}
	for above := parent(e.name); above != ""; above = parent(above) {
		if v, set := c.Datasets[above].Props[property]; set {
			return v, "inherited from " + above
		}
	}
	if v := c.property(e.name, property); v != "" {
		return v, "default"
	}
	return "-", "-"
}

func (c *command) holds() {
	for _, name := range c.args {
		v := c.find(name)
		if v == nil {
			c.fail(1, "cannot open '%s': dataset does not exist", name)
			continue
		}
		for _, tag := range slices.Sorted(maps.Keys(v.Holds)) {
			c.print("%s\t%s\t%d\n", name, tag, v.Holds[tag])
		}
	}
}

// find is a snapshot by its full name.
func (c *command) find(name string) *snapshot {
	dataset, snap, _ := strings.Cut(name, "@")
	if d := c.Datasets[dataset]; d != nil {
		return d.snapshot(snap)
	}
	return nil
}

func now() int64 { return time.Now().Unix() }

// token makes a resume token.
func (p *partial) token(name string) string {
	t := zfsstream.Token{ToName: name, Object: object, Offset: uint64(p.Offset), Bytes: uint64(p.Offset) + 1}
	t.ToGUID, t.FromGUID = guidOf(p.ToGUID), guidOf(p.FromGUID)
	return t.String()
}

package fakezfs

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
)

func (c *command) hold() {
	tag := c.args[0]
	for _, name := range c.args[1:] {
		v := c.find(name)
		switch {
		case v == nil:
			c.fail(1, "cannot hold snapshot '%s': dataset does not exist", name)
		case v.Holds[tag] != 0:
			c.fail(1, "cannot hold snapshot '%s': tag already exists on this dataset", name)
		default:
			if v.Holds == nil {
				v.Holds = map[string]int64{}
			}
			v.Holds[tag] = now()
		}
	}
}

func (c *command) release() {
	tag := c.args[0]
	for _, name := range c.args[1:] {
		v := c.find(name)
		switch {
		case v == nil:
			c.fail(1, "cannot release hold from snapshot '%s': dataset does not exist", name)
		case v.Holds[tag] == 0:
			c.fail(1, "cannot release hold from snapshot '%s': no such tag on this dataset", name)
		default:
			delete(v.Holds, tag)
		}
	}
}

func (c *command) snapshot() {
	type target struct {
		d    *dataset
		snap string
	}
	var targets []target
	for _, name := range c.args {
		dataset, snap, _ := strings.Cut(name, "@")
		names := []string{dataset}
		if c.Datasets[dataset] == nil {
			c.fail(2, "cannot open '%s': dataset does not exist\nusage:\n\tsnapshot [-r] [-o property=value] ... <filesystem|volume>@<snap> ...", dataset)
			return
		}
		if c.has("r") {
			names = c.below(dataset)
		}
		for _, n := range names {
			if c.Datasets[n].snapshot(snap) != nil {
				c.fail(1, "cannot create snapshot '%s@%s': dataset already exists\nno snapshots were created", n, snap)
				return
			}
			targets = append(targets, target{c.Datasets[n], snap})
		}
	}
	txg := c.tick()
	for _, t := range targets {
		t.d.capture(t.snap, txg)
	}
}

func (d *dataset) capture(name string, txg uint64) {
	d.Snapshots = append(d.Snapshots, &snapshot{Name: name, GUID: rand.Uint64() | 1, Txg: txg, Created: now(), Size: d.Size, Content: d.Content, Written: d.Written})
	d.Modified, d.Written = false, 0
}

func (c *command) bookmark() {
	of, mark := c.args[0], c.args[1]
	dataset, name, _ := strings.Cut(mark, "#")
	d := c.Datasets[dataset]
	var source *bookmark
	if v := c.find(of); v != nil {
		source = &bookmark{name, v.GUID, v.Txg, v.Created, v.Content}
	} else if _, from, is := strings.Cut(of, "#"); is && d != nil && d.bookmark(from) != nil {
		copied := *d.bookmark(from)
		copied.Name = name
		source = &copied
	}
	switch {
	case source == nil:
		c.fail(2, "cannot open '%s': dataset does not exist\nusage:\n\tbookmark <snapshot|bookmark> <newbookmark>", of)
	case d.bookmark(name) != nil:
		c.fail(1, "cannot create bookmark '%s': bookmark exists", mark)
	default:
		d.Bookmarks = append(d.Bookmarks, source)
	}
}

func (c *command) destroy() {
	name := c.args[0]
	switch {
	case strings.Contains(name, "#"):
		dataset, mark, _ := strings.Cut(name, "#")
		d := c.Datasets[dataset]
		if d == nil || d.bookmark(mark) == nil {
			c.fail(1, "bookmark '%s' does not exist.", name)
			return
		}
		d.Bookmarks = slices.DeleteFunc(d.Bookmarks, func(v *bookmark) bool { return v.Name == mark })
	case strings.Contains(name, "@"):
		c.destroySnapshots(name)
	default:
		c.destroyDataset(name)
	}
}

func (c *command) destroySnapshots(arg string) {
	dataset, list, _ := strings.Cut(arg, "@")
	d := c.Datasets[dataset]
	if d == nil {
		c.fail(1, "cannot open '%s': dataset does not exist", dataset)
		return
	}
	found := map[string]bool{}
	for snap := range strings.SplitSeq(list, ",") {
		v, name := d.snapshot(snap), dataset+"@"+snap
		switch {
		case v == nil:
			continue
		case len(v.Holds) > 0:
			c.fail(1, "cannot destroy snapshot %s: it's being held. Run 'zfs holds -r %s' to see holders.", name, name)
		case c.sending(name):
			c.fail(1, "cannot destroy snapshot %s: dataset is busy", name)
		case v.Clones > 0 || d.Partial != nil && d.Partial.FromGUID == v.GUID:
			c.fail(1, "cannot destroy '%s': snapshot has dependent clones\nuse '-R' to destroy the following datasets:", name)
		}
		found[snap] = true
	}
	if len(found) == 0 {
		c.fail(1, "could not find any snapshots to destroy; check snapshot names.")
	}
	if c.status == 0 {
		d.Snapshots = slices.DeleteFunc(d.Snapshots, func(v *snapshot) bool { return found[v.Name] })
	}
}

func (c *command) destroyDataset(name string) {
	all := c.below(name)
	switch d := c.Datasets[name]; {
	case d == nil:
		c.fail(1, "cannot open '%s': dataset does not exist", name)
	case !c.has("r") && (len(all) > 1 || len(d.Snapshots) > 0):
		c.fail(1, "cannot destroy '%s': filesystem has children\nuse '-r' to destroy the following datasets:", name)
	default:
		for _, n := range all {
			if o := c.find(c.Datasets[n].Origin); o != nil {
				o.Clones--
			}
			delete(c.Datasets, n)
		}
	}
}

func (c *command) rename() {
	from, to := c.args[0], c.args[1]
	switch {
	case c.Datasets[from] == nil:
		c.fail(1, "cannot open '%s': dataset does not exist", from)
	case c.Datasets[to] != nil:
		c.fail(1, "cannot rename '%s': dataset already exists", from)
	case c.Datasets[parent(to)] == nil:
		c.fail(1, "cannot create '%s': parent does not exist", to)
	default:
		for _, n := range c.below(from) {
			c.Datasets[to+n[len(from):]] = c.Datasets[n]
			delete(c.Datasets, n)
		}
		for _, d := range c.Datasets {
			if of := dataset0(d.Origin); of == from || strings.HasPrefix(of, from+"/") {
				d.Origin = to + d.Origin[len(from):]
			}
		}
	}
}

func (c *command) rollback() {
	dataset, snap, _ := strings.Cut(c.args[0], "@")
	v := c.find(c.args[0])
	if v == nil {
		c.fail(1, "cannot open '%s': dataset does not exist", c.args[0])
		return
	}
	d := c.Datasets[dataset]
	newer := func(txg uint64) bool { return txg > v.Txg }
	blocked := slices.ContainsFunc(d.Snapshots, func(o *snapshot) bool { return newer(o.Txg) }) ||
		slices.ContainsFunc(d.Bookmarks, func(o *bookmark) bool { return newer(o.Txg) })
	if blocked && !c.has("r") {
		c.fail(1, "cannot rollback to '%s@%s': more recent snapshots or bookmarks exist\nuse '-r' to force deletion of the following snapshots and bookmarks:", dataset, snap)
		return
	}
	for _, o := range d.Snapshots {
		if newer(o.Txg) && len(o.Holds) > 0 {
			c.fail(1, "cannot destroy '%s@%s': dataset is busy", dataset, o.Name)
			return
		}
	}
	d.Snapshots = slices.DeleteFunc(d.Snapshots, func(o *snapshot) bool { return newer(o.Txg) })
	d.Bookmarks = slices.DeleteFunc(d.Bookmarks, func(o *bookmark) bool { return newer(o.Txg) })
	d.Content, d.Size, d.Modified, d.Written, d.Partial = v.Content, v.Size, false, 0, nil
}

// set is for properties and for the size of a volume.
func (c *command) set() {
	d := c.Datasets[c.args[len(c.args)-1]]
	if d == nil {
		c.fail(1, "cannot open '%s': dataset does not exist", c.args[len(c.args)-1])
		return
	}
	for _, a := range c.args[:len(c.args)-1] {
		name, value, _ := strings.Cut(a, "=")
		d.assign(name, value)
		if content, err := c.blob(d.Content); err == nil && name == "volsize" && int64(len(content)) > d.Size {
			d.Content = c.store(content[:d.Size])
		}
	}
}

func (c *command) inherit() {
	if d := c.Datasets[c.args[1]]; d != nil {
		delete(d.Props, c.args[0])
		return
	}
	c.fail(1, "cannot open '%s': dataset does not exist", c.args[1])
}

func (d *dataset) assign(name, value string) {
	switch name {
	case "volsize":
		d.Size, _ = strconv.ParseInt(value, 10, 64)
	case "encryption":
		d.Encrypted = value
	default:
		d.Props[name] = value
	}
}

func (c *command) create() {
	name := c.args[0]
	kind := map[bool]string{true: "volume", false: "filesystem"}[c.has("V")]
	above := c.Datasets[parent(name)]
	switch {
	case c.Datasets[name] != nil && c.Datasets[name].Kind == kind && c.has("p"):
		return
	case c.Datasets[name] != nil:
		c.fail(1, "cannot create '%s': dataset already exists", name)
		return
	case above != nil && above.Kind != "filesystem":
		c.fail(1, "cannot create '%s': parent is not a filesystem", name)
		return
	case above == nil && (!c.has("p") || c.Datasets[strings.Split(name, "/")[0]] == nil):
		c.fail(1, "cannot create '%s': parent does not exist", name)
		return
	}
	parts := strings.Split(name, "/")
	for i := range parts {
		if above := strings.Join(parts[:i+1], "/"); above != name && c.Datasets[above] == nil {
			c.make(above, "filesystem")
		}
	}
	d := c.make(name, kind)
	if c.has("V") {
		_, _ = fmt.Sscan(c.value("V"), &d.Size)
	}
	for _, a := range c.flags["o"] {
		property, value, _ := strings.Cut(a, "=")
		d.assign(property, value)
	}
}

func (c *command) clone() {
	origin, name := c.args[0], c.args[1]
	v := c.find(origin)
	if v == nil {
		c.fail(1, "cannot open '%s': dataset does not exist", origin)
		return
	}
	of := c.Datasets[dataset0(origin)]
	d := c.make(name, of.Kind)
	d.Origin, d.Content, d.Size, d.Encrypted, d.Props = origin, v.Content, v.Size, of.Encrypted, maps.Clone(d.Props)
	v.Clones++
}

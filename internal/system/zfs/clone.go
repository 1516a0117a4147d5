package zfs

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"cairn"
)

// fillOrigins says which version each clone stands on. `zfs list` gives its name
// only: what is not known of it already is asked for, with one process per
// holdsPerProcess clones.
func (p *Place) fillOrigins(ctx context.Context, all []*dataset) error {
	waiting := map[string][]*dataset{} // by the full name of the origin
	var names []string
	for _, d := range all {
		name := d.texts[origin]
		of, version, is := strings.Cut(name, "@")
		if !is {
			continue
		}
		d.base = cairn.Origin{Dataset: of, VersionID: cairn.VersionID{Name: "@" + version}}
		if was := p.remembered(d.name()); was != nil && was.texts[origin] == name && was.base.GUID != 0 {
			d.base = was.base // a snapshot with a clone cannot be made anew under its name
			continue
		}
		if waiting[name] == nil {
			names = append(names, name)
		}
		waiting[name] = append(waiting[name], d)
	}
	for _, chunk := range chunks(names, holdsPerProcess) {
		err := p.lines(ctx, func(line string) error {
			f, ok := fields(line, 2)
			guid, err := strconv.ParseUint(f[len(f)-1], 10, 64)
			if !ok || err != nil {
				return fmt.Errorf("a line of `zfs list` makes no sense: %q", shortened(line))
			}
			for _, d := range waiting[f[0]] {
				d.base.GUID = cairn.GUID(guid)
			}
			return nil
		}, append([]string{"list", "-Hp", "-t", "snapshot", "-o", "name,guid"}, chunk...)...)
		if err != nil && !notThere(err) {
			return err
		}
	}
	for _, d := range all {
		if d.base.GUID == 0 {
			d.base = cairn.Origin{} // it was promoted or destroyed since
		}
	}
	return nil
}

// standsOn finds what the clone of a step was made of: `zfs send -i` takes no other
// version of another dataset.
func (p *Place) standsOn(ctx context.Context, d *dataset, step cairn.Step) (*dataset, error) {
	is := func() bool { return d.base == cairn.Origin{Dataset: step.Origin, VersionID: step.From} }
	if is() {
		return d, nil
	}
	d, err := p.fresh(ctx, "send", d.name())
	if err != nil || is() {
		return d, err
	}
	return nil, &cairn.Error{Op: "send", Subject: d.name() + step.To.Name, Kind: cairn.KindConflict,
		Err: fmt.Errorf("it is no clone of %s%s (%v)", step.Origin, step.From.Name, step.From.GUID), Hint: "plan anew"}
}

// clone finds the snapshot here that a new dataset becomes a clone of.
func (r *receive) clone(ctx context.Context) error {
	h := r.header
	if err := checkDataset(h.Origin); err != nil {
		return err
	}
	if r.there != nil && (r.there.newest() != nil || r.there.placeholder) {
		return r.conflict("send it whole, or rename one of them", "the clone would take the place of a dataset that is there")
	}
	of, err := r.place.look(ctx, "receive", h.Origin)
	if err != nil && !errors.Is(err, cairn.KindNotFound) {
		return err
	}
	for range 2 {
		for i := range versionsOf(of) {
			if v := &of.versions[i]; v.kind == "snapshot" && v.guid == h.From.GUID {
				r.origin = of.name() + v.version
				return nil
			}
		}
		if of, err = r.place.fresh(ctx, "receive", h.Origin); err != nil && !errors.Is(err, cairn.KindNotFound) {
			return err // what is remembered may be old
		}
	}
	return r.conflict("send it whole", "the stream makes a clone of %s%s (%v), which is not here", h.Origin, h.From.Name, h.From.GUID)
}

func versionsOf(d *dataset) []version {
	if d == nil {
		return nil
	}
	return d.versions
}

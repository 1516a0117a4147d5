package zfs

import (
	"context"
	"errors"
	"slices"
	"time"

	"cairn"
)

// table is what is known of datasets from listings and from what was done since.
// What it says of single versions is checked by whoever relies on it: zfs itself,
// or a fresh listing. Place.mu guards it.
type table struct {
	datasets map[string]*dataset
	versions int // in all
	covered  map[string]coverage
}

// coverage is what a filter selected when everything was listed.
type coverage struct {
	since time.Time
	names []string
}

// maxKnown bounds the table, in versions: some 100 MiB. What does not fit is listed
// when it is needed.
const maxKnown = 500_000

func (t *table) init() {
	t.datasets, t.covered = map[string]*dataset{}, map[string]coverage{}
}

func (t *table) put(d *dataset) {
	t.drop(d.name())
	if t.versions+len(d.versions) > maxKnown {
		return
	}
	t.datasets[d.name()] = d
	t.versions += len(d.versions)
}

func (t *table) drop(name string) {
	if d := t.datasets[name]; d != nil {
		t.versions -= len(d.versions)
		delete(t.datasets, name)
	}
}

// learn books a listed dataset. The table keeps a copy: the caller may change his.
func (p *Place) learn(d *dataset, complete bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if complete {
		p.known.put(d.clone())
	}
}

// forget makes the next look at the dataset a fresh one.
func (p *Place) forget(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.known.drop(name)
}

func (d *dataset) clone() *dataset {
	c := *d
	c.versions = slices.Clone(d.versions)
	for i := range c.versions {
		c.versions[i].holds = slices.Clone(c.versions[i].holds)
	}
	return &c
}

// remembered is a copy of what is known of a dataset, nil when that is nothing.
func (p *Place) remembered(name string) *dataset {
	p.mu.Lock()
	defer p.mu.Unlock()
	if d := p.known.datasets[name]; d != nil {
		return d.clone()
	}
	return nil
}

// amend changes what is known of a dataset, if it is known.
func (p *Place) amend(name string, change func(d *dataset)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	d := p.known.datasets[name]
	if d == nil {
		return
	}
	before := len(d.versions)
	change(d)
	d.sort()
	p.known.versions += len(d.versions) - before
}

// look is the dataset with all of the versions, by what is known or, when that
// lacks one, by a fresh listing. KindNotFound and KindConflict name what is wrong.
func (p *Place) look(ctx context.Context, op, name string, ids ...cairn.VersionID) (*dataset, error) {
	if err := checkDataset(name); err != nil {
		return nil, err
	}
	for _, id := range ids {
		if err := checkVersion(name, id); err != nil {
			return nil, err
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, p.failed(op, name, err)
	}
	if err := p.free(op, name); err != nil {
		return nil, err
	}
	if d := p.remembered(name); d != nil && d.has(op, ids) == nil {
		return d, nil
	}
	d, err := p.fresh(ctx, op, name)
	if err != nil {
		return nil, err
	}
	return d, p.failed(op, name, d.has(op, ids))
}

// whole is look for callers that need sizes and the order of versions too: a version
// that was received and not listed yet has neither.
func (p *Place) whole(ctx context.Context, op, name string, ids ...cairn.VersionID) (*dataset, error) {
	d, err := p.look(ctx, op, name, ids...)
	if err != nil || !d.incomplete() {
		return d, err
	}
	if d, err = p.fresh(ctx, op, name); err != nil {
		return nil, err
	}
	return d, p.failed(op, name, d.has(op, ids))
}

// has checks that the versions are there, by name and GUID together.
func (d *dataset) has(op string, ids []cairn.VersionID) error {
	for _, id := range ids {
		v := d.find(id.Name)
		if v == nil {
			return &cairn.Error{Op: op, Subject: d.name() + id.Name, Kind: cairn.KindNotFound, Hint: "`cairn list` shows what there is"}
		}
		if v.guid != id.GUID {
			return mismatch(op, v, id)
		}
	}
	return nil
}

func mismatch(op string, v *version, id cairn.VersionID) error {
	return &cairn.Error{Op: op, Subject: v.dataset + v.version, Kind: cairn.KindConflict,
		Err: errors.New("it has GUID " + v.guid.String() + ", not " + id.GUID.String()), Hint: "another version has the name now; list again"}
}

// incomplete reports whether a version's place in the order is not known: it was
// received and not listed yet.
func (d *dataset) incomplete() bool {
	return slices.ContainsFunc(d.versions, func(v version) bool { return v.order == 0 || v.order == unlisted })
}

// unlisted is the order of a version that was received here and not listed yet.
const unlisted = ^uint64(0)

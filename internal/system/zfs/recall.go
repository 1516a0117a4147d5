package zfs

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"cairn"
)

// maxCovered is how many filters are remembered with what they selected.
const maxCovered = 64

// cover notes what a filter selects.
func (p *Place) cover(f cairn.Filter, since time.Time, names []string) {
	if p.o.Remember == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.known.covered) >= maxCovered {
		clear(p.known.covered)
	}
	p.known.covered[fmt.Sprint(f)] = coverage{since, names}
}

// uncover makes the next listing by a filter a fresh one: a dataset is new.
func (p *Place) uncover() {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.known.covered)
}

// selected are the names that a query is about, as far as that is known from a
// listing after the horizon.
func (p *Place) selected(q cairn.Query, horizon time.Time) (names []string, known bool) {
	if q.Names != nil {
		names = slices.Clone(q.Names)
		slices.Sort(names)
		return slices.DeleteFunc(slices.Compact(names), func(n string) bool { return !q.Filter.Match(n) }), true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	c, known := p.known.covered[fmt.Sprint(q.Filter)]
	return c.names, known && !c.since.Before(horizon)
}

// datasets streams what a query selects: from memory what this endpoint listed
// before and what only we have changed since, the rest from zfs.
func (s *side) datasets(ctx context.Context, q cairn.Query) iter.Seq2[*dataset, error] {
	p := s.place
	if p.o.Remember == 0 || ctx.Err() != nil {
		return p.list(ctx, q)
	}
	horizon := p.horizon(s.since)
	names, known := p.selected(q, horizon)
	if !known {
		return p.list(ctx, q)
	}
	missing := slices.DeleteFunc(slices.Clone(names), func(n string) bool { return p.recall(n, horizon) != nil })
	if len(missing) > len(names)/2 {
		return p.list(ctx, q)
	}
	return p.mixed(ctx, q, names, missing, horizon)
}

// horizon is when a listing must have begun at the earliest to be told again.
func (p *Place) horizon(since time.Time) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range []time.Time{p.renewed, time.Now().Add(-p.o.Remember)} {
		if t.After(since) {
			since = t
		}
	}
	return since
}

// recall is what is known of a dataset, if it is all and not too old.
func (p *Place) recall(name string, horizon time.Time) *dataset {
	d := p.remembered(name)
	if d == nil || d.at.Before(horizon) || d.incomplete() {
		return nil
	}
	return d
}

// mixed streams datasets from memory, and between them those that were listed anew.
func (p *Place) mixed(ctx context.Context, q cairn.Query, names, missing []string, horizon time.Time) iter.Seq2[*dataset, error] {
	return func(yield func(*dataset, error) bool) {
		anew := map[string]*dataset{}
		if len(missing) > 0 {
			for d, err := range p.list(ctx, cairn.Query{Filter: q.Filter, Names: missing, Want: cairn.Want{Versions: true}}) {
				if err != nil {
					yield(nil, err)
					return
				}
				anew[d.name()] = d
			}
		}
		for _, name := range names {
			d := anew[name]
			if d == nil && !slices.Contains(missing, name) {
				d = p.recall(name, horizon)
			}
			if d != nil && !yield(d, nil) {
				return
			}
		}
	}
}

// forgetBelow forgets a dataset and everything below it, and the clones of these.
func (p *Place) forgetBelow(name string) {
	p.uncover()
	p.mu.Lock()
	defer p.mu.Unlock()
	within := func(n string) bool { return n == name || strings.HasPrefix(n, name+"/") }
	for n, d := range p.known.datasets {
		if within(n) || within(d.base.Dataset) {
			p.known.drop(n)
		}
	}
}

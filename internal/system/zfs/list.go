package zfs

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
	"time"

	"cairn"
)

// scope is what one listing asks zfs for.
type scope struct {
	names   []string // datasets, or the roots of subtrees; nil with subtree: every pool
	subtree bool     // all below the names too
	bare    bool     // no versions
}

// namesPerProcess is how many datasets one process is asked for by name, and
// holdsPerProcess how many snapshots one process is asked for holds.
const (
	namesPerProcess = 200
	holdsPerProcess = 500
)

// scopes turns a query into what zfs is asked for, in byte order. Where single
// datasets and subtrees are selected together, the datasets' subtrees are read too:
// zfs keeps the order only within one process.
func scopes(q cairn.Query) []scope {
	bare := !q.Want.Versions && !q.Want.Partial && !q.Want.Sizes && !q.Want.Leases
	if q.Names != nil {
		var names []string
		for _, name := range q.Names {
			if checkDataset(name) == nil && q.Filter.Match(name) {
				names = append(names, name)
			}
		}
		return named(names, bare)
	}
	var names []string
	subtree := false
	for _, r := range q.Filter {
		switch {
		case !r.Keep:
		case r.Subtree && r.Name == "":
			return []scope{{subtree: true, bare: bare}}
		case checkDataset(r.Name) == nil:
			names, subtree = append(names, r.Name), subtree || r.Subtree
		}
	}
	if !subtree {
		return named(names, bare)
	}
	return []scope{{names: outermost(names), subtree: true, bare: bare}}
}

func named(names []string, bare bool) []scope {
	names = slices.Clone(names)
	slices.Sort(names)
	var all []scope
	for _, chunk := range chunks(slices.Compact(names), namesPerProcess) {
		all = append(all, scope{names: chunk, bare: bare})
	}
	return all
}

// outermost leaves out names below others.
func outermost(names []string) []string {
	names = slices.Clone(names)
	slices.Sort(names)
	return slices.DeleteFunc(slices.Compact(names), func(name string) bool {
		return slices.ContainsFunc(names, func(above string) bool { return strings.HasPrefix(name, above+"/") })
	})
}

func (s scope) args(verb string, more ...string) []string {
	args := append([]string{verb, "-Hp"}, more...)
	switch {
	case s.subtree:
		args = append(args, "-r")
	case verb == "list" && !s.bare:
		args = append(args, "-d", "1") // versions are one level below
	}
	return append(args, s.names...)
}

// wants reports whether a dataset that zfs listed was asked for: with the versions
// of one it lists its children.
func (s scope) wants(name string) bool {
	if s.subtree {
		return true
	}
	_, found := slices.BinarySearch(s.names, name)
	return found
}

// list asks zfs, which feeds the sequence as the caller takes it.
func (p *Place) list(ctx context.Context, q cairn.Query) iter.Seq2[*dataset, error] {
	return func(yield func(*dataset, error) bool) {
		var seen []string
		since := time.Now()
		for _, s := range scopes(q) {
			more := true
			err := p.listScope(ctx, s, func(d *dataset) bool {
				if q.Filter.Match(d.name()) {
					seen = append(seen, d.name())
					more = yield(d, nil)
				}
				return more
			})
			if !more {
				return
			}
			if err != nil {
				yield(nil, p.failed("list", strings.Join(s.names, " "), err))
				return
			}
		}
		if q.Names == nil {
			p.cover(q.Filter, since, seen)
		}
	}
}

var errEnough = errors.New("the caller wants no more")

// listScope lists with one process for properties, one for all rows, and one per
// holdsPerProcess held snapshots.
func (p *Place) listScope(ctx context.Context, s scope, each func(*dataset) bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	local, err := p.properties(ctx, s)
	if err != nil {
		return err
	}
	a := assembler{place: p, scope: s, local: local, each: each, since: time.Now()}
	types := "filesystem,volume,snapshot,bookmark"
	if s.bare {
		types = "filesystem,volume"
	}
	err = p.lines(ctx, func(line string) error { return a.add(ctx, line) }, s.args("list", "-t", types, "-o", columns)...)
	if err != nil && !notThere(err) {
		if errors.Is(err, errEnough) {
			return nil
		}
		return err
	}
	if err := a.flush(ctx, true); err != nil && !errors.Is(err, errEnough) {
		return err
	}
	return nil
}

// property is a line of `zfs get`.
type property struct{ name, value, source string }

// properties reads what is set on the datasets themselves. There are few.
func (p *Place) properties(ctx context.Context, s scope) (map[string][]property, error) {
	all := map[string][]property{}
	args := s.args("get", "-t", "filesystem,volume", "-s", "local,received", "-o", "name,property,value,source")
	i := len(args) - len(s.names)
	args = slices.Insert(args, i, readonlyProperty+","+placeholderProperty)
	err := p.lines(ctx, func(line string) error {
		if f, ok := fields(line, 4); ok { // a value may hold line ends: its parts are no lines of ours
			all[f[0]] = append(all[f[0]], property{f[1], f[2], f[3]})
		}
		return nil
	}, args...)
	if err != nil && !notThere(err) {
		return nil, err
	}
	return all, nil
}

// assembler makes datasets of rows. zfs sorts by name, a snapshot right behind its
// dataset, but a bookmark by its whole name: "a", "a@s", "a b", "a#m".
type assembler struct {
	place *Place
	scope scope
	local map[string][]property
	each  func(*dataset) bool
	since time.Time
	last  string
	open  []*dataset // not handed out yet, in order
	held  []string   // snapshots of open datasets with holds
	rows  int        // of open datasets
}

// flushRows bounds what waits for its holds.
const flushRows = 100_000

func (a *assembler) add(ctx context.Context, line string) error {
	r, err := parseRow(line)
	if err != nil {
		return err
	}
	if !a.scope.wants(r.dataset) {
		return nil
	}
	if r.version == "" {
		return a.begin(ctx, r)
	}
	for _, d := range slices.Backward(a.open) {
		if d.name() == r.dataset {
			d.versions = append(d.versions, version{row: r})
			a.rows++
			if r.numbers[userrefs] > 0 {
				a.held = append(a.held, r.dataset+r.version)
			}
			return nil
		}
	}
	return fmt.Errorf("`zfs list` names %s before its dataset, or out of order", r.dataset+r.version)
}

func (a *assembler) begin(ctx context.Context, r row) error {
	if a.last != "" && r.dataset <= a.last {
		return fmt.Errorf("`zfs list` is out of order: %s after %s", r.dataset, a.last)
	}
	a.last = r.dataset
	if len(a.held) >= holdsPerProcess || a.rows >= flushRows {
		if err := a.flush(ctx, false); err != nil {
			return err
		}
	}
	d := &dataset{row: r, at: a.since}
	for _, p := range a.local[r.dataset] {
		d.setProperty(p.name, p.value, p.source)
	}
	a.open = append(a.open, d)
	a.rows++
	return nil
}

// flush hands the open datasets out, with their holds. Unless all are complete, the
// last ones, whose bookmarks may still come, stay.
func (a *assembler) flush(ctx context.Context, all bool) error {
	ready := len(a.open)
	for !all && ready > 0 && strings.HasPrefix(a.last, a.open[ready-1].name()) {
		ready--
	}
	if err := errors.Join(a.place.fillHolds(ctx, a.open[:ready]), a.place.fillOrigins(ctx, a.open[:ready])); err != nil {
		return err
	}
	for _, d := range a.open[:ready] {
		d.sort()
		a.place.learn(d, !a.scope.bare)
		if !a.each(d) {
			return errEnough
		}
	}
	a.open = slices.Clone(a.open[ready:])
	a.held, a.rows = nil, 0
	for _, d := range a.open {
		for i := range d.versions {
			if v := &d.versions[i]; v.numbers[userrefs] > 0 {
				a.held = append(a.held, v.dataset+v.version)
			}
		}
		a.rows += 1 + len(d.versions)
	}
	return nil
}

// fillHolds asks for the holds of the snapshots that have some.
func (p *Place) fillHolds(ctx context.Context, all []*dataset) error {
	var names []string
	held := map[string]*version{}
	for _, d := range all {
		for i := range d.versions {
			if v := &d.versions[i]; v.numbers[userrefs] > 0 {
				names = append(names, v.dataset+v.version)
				held[names[len(names)-1]] = v
			}
		}
	}
	for _, chunk := range chunks(names, holdsPerProcess) {
		err := p.lines(ctx, func(line string) error {
			f, ok := fields(line, 3)
			if !ok || held[f[0]] == nil {
				return fmt.Errorf("a line of `zfs holds` makes no sense: %q", shortened(line))
			}
			v := held[f[0]]
			v.holds = append(v.holds, hold{tag: f[1], created: holdTime(f[2])})
			return nil
		}, append([]string{"holds", "-Hp"}, chunk...)...)
		if err != nil && !notThere(err) {
			return err
		}
	}
	return nil
}

// holdTime reads seconds, or the form of OpenZFS before 2.2; zero when it is
// neither.
func holdTime(text string) time.Time {
	if s, err := strconv.ParseInt(text, 10, 64); err == nil {
		return time.Unix(s, 0).UTC()
	}
	t, err := time.Parse("Mon Jan _2 15:04 2006", text)
	if err != nil {
		return time.Time{}
	}
	return t
}

// fresh lists one dataset anew, with its versions; KindNotFound when it is not
// there.
func (p *Place) fresh(ctx context.Context, op, name string) (*dataset, error) {
	if err := errors.Join(checkDataset(name), p.free(op, name)); err != nil {
		return nil, err
	}
	var found *dataset
	err := p.listScope(ctx, scope{names: []string{name}}, func(d *dataset) bool {
		found = d
		return true
	})
	if err != nil {
		return nil, p.failed(op, name, err)
	}
	if found == nil {
		p.forget(name)
		return nil, p.failed(op, name, &cairn.Error{Op: op, Subject: name, Kind: cairn.KindNotFound, Hint: "`cairn list` shows what there is"})
	}
	return found, nil
}

package zfs

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"cairn"
)

// Snapshot captures. One process captures all datasets of a pool at one instant;
// without atomic, halves are tried after a failure, so that each dataset gets its
// own result.
func (s *side) Snapshot(ctx context.Context, name string, datasets []string, atomic bool) ([]cairn.Captured, error) {
	const op = "snapshot"
	p := s.place
	results := make([]cairn.Captured, len(datasets))
	pools := map[string][]int{}
	var order []string
	for i, d := range datasets {
		results[i].Dataset = d
		results[i].Err = checkCapture(d, name)
		if results[i].Err != nil {
			if atomic {
				return nil, results[i].Err
			}
			continue
		}
		pool, _, _ := strings.Cut(d, "/")
		if pools[pool] == nil {
			order = append(order, pool)
		}
		pools[pool] = append(pools[pool], i)
	}
	if err := ctx.Err(); err != nil {
		return nil, p.failed(op, name, err)
	}
	c := capture{ctx: ctx, place: p, name: name, results: results}
	if atomic {
		return c.atomic(pools)
	}
	for _, pool := range order {
		c.each(pools[pool])
	}
	return results, c.describe()
}

func checkCapture(dataset, name string) error {
	if err := checkDataset(dataset); err != nil {
		return err
	}
	if !strings.HasPrefix(name, "@") {
		return &cairn.Error{Op: "snapshot", Subject: dataset, Kind: cairn.KindInvalid, Err: fmt.Errorf("%q is no name of a snapshot", name), Hint: "it begins with '@'"}
	}
	return checkVersion(dataset, cairn.VersionID{Name: name})
}

// capture is one call of Snapshot.
type capture struct {
	ctx     context.Context
	place   *Place
	name    string
	results []cairn.Captured
}

func (c *capture) names(at []int) []string {
	names := make([]string, len(at))
	for i, k := range at {
		names[i] = c.results[k].Dataset + c.name
	}
	return names
}

// maxAtomic is how many bytes of names one atomic capture may have: the kernel's
// limit for all arguments, less our environment.
const maxAtomic = 1 << 20

func (c *capture) atomic(pools map[string][]int) ([]cairn.Captured, error) {
	if len(pools) > 1 {
		return nil, &cairn.Error{Op: "snapshot", Subject: c.name, Kind: cairn.KindUnsupported,
			Err: fmt.Errorf("the datasets lie in %d pools, and ZFS captures one pool at one instant", len(pools)), Hint: "make one group of each pool"}
	}
	for pool, at := range pools {
		names := c.names(at)
		if len(strings.Join(names, " ")) > maxAtomic {
			return nil, &cairn.Error{Op: "snapshot", Subject: pool, Kind: cairn.KindUnsupported,
				Err: fmt.Errorf("%d datasets are more than one process can be told", len(names)), Hint: "capture fewer at one instant"}
		}
		if err := c.take(names); err != nil {
			return nil, err
		}
	}
	return c.results, c.describe()
}

func (c *capture) take(names []string) error {
	return c.place.failed("snapshot", names[0], c.place.run(c.ctx, append([]string{"snapshot"}, names...)...))
}

// each captures, in as few processes as the failures allow.
func (c *capture) each(at []int) {
	for len(at) > 0 {
		n := len(chunks(c.names(at), snapshotsPerProcess)[0])
		c.halves(at[:n])
		at = at[n:]
	}
}

const snapshotsPerProcess = 1000

func (c *capture) halves(at []int) {
	err := c.take(c.names(at))
	switch {
	case err == nil:
	case len(at) == 1 || c.ctx.Err() != nil:
		for _, k := range at {
			c.results[k].Err = err
		}
	default:
		c.halves(at[:len(at)/2])
		c.halves(at[len(at)/2:])
	}
}

// describe asks zfs for what was captured.
func (c *capture) describe() error {
	var names []string
	at := map[string]*cairn.Captured{}
	for i := range c.results {
		if r := &c.results[i]; r.Err == nil {
			names = append(names, r.Dataset+c.name)
			at[r.Dataset+c.name] = r
		}
	}
	for _, chunk := range chunks(names, holdsPerProcess) {
		err := c.place.lines(c.ctx, func(line string) error {
			r, err := parseRow(line)
			if err != nil {
				return err
			}
			if got := at[r.dataset+r.version]; got != nil {
				d := dataset{row: r, versions: []version{{row: r}}}
				got.Version = d.listed(0, cairn.Want{})
				c.place.amend(r.dataset, func(d *dataset) { d.versions = append(d.versions, version{row: r}) })
			}
			return nil
		}, append([]string{"list", "-Hp", "-t", "snapshot", "-o", columns}, chunk...)...)
		if err != nil && !notThere(err) {
			return c.place.failed("list", c.name, err)
		}
	}
	for _, r := range at {
		if r.Version.GUID == 0 {
			r.Err = &cairn.Error{Op: "snapshot", Subject: r.Dataset + c.name, Kind: cairn.KindNotFound, Err: errors.New("it was destroyed right after it was made")}
		}
	}
	return nil
}

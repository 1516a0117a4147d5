package zfs

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"cairn"
	"cairn/internal/mech/child"
)

// process is one zfs that was started. When it is abandoned, because nothing ends it,
// its dataset is locked until it has ended after all.
type process struct {
	*child.Child
	place   *Place
	verb    string
	dataset string // "" when it names none
	since   time.Time
}

// Wait is the child's; one that was abandoned lingers.
func (c *process) Wait() error {
	err := c.Child.Wait()
	if isStuck(err) && c.dataset != "" {
		c.since = time.Now()
		c.place.mu.Lock()
		defer c.place.mu.Unlock()
		c.place.lingering = append(c.place.lingering, c)
	}
	return err
}

// subjectOf is the dataset that a command line is about: its last argument is, or is
// of, that dataset. Listings and resumed sends name none.
func subjectOf(args []string) string {
	last := args[len(args)-1]
	if args[0] == "list" || args[0] == "get" || args[0] == "holds" || args[0] == "version" || slices.Contains(args, "-t") {
		return ""
	}
	if i := strings.IndexAny(last, "@#"); i >= 0 {
		last = last[:i]
	}
	return last
}

// free fails with KindBusy while an abandoned process may still touch the dataset.
func (p *Place) free(op, name string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lingering = slices.DeleteFunc(p.lingering, func(c *process) bool {
		select {
		case <-c.Ended():
			return true
		default:
			return false
		}
	})
	for _, c := range p.lingering {
		if c.dataset == name {
			return &cairn.Error{Op: op, Subject: name, Kind: cairn.KindBusy,
				Err:  fmt.Errorf("process %d, a `zfs %s` that was given up at %s, has not ended", c.PID(), c.verb, c.since.Format(time.DateTime)),
				Hint: "it waits for a device: look at `zpool status`; the dataset is free when the process has ended"}
		}
	}
	return nil
}

// start starts zfs; every process is counted.
func (p *Place) start(ctx context.Context, o child.Options) (*process, error) {
	o.Path = p.o.ZFS
	o.Env = []string{"TZ=UTC"}
	o.AfterTerm, o.AfterKill, o.AfterClose = p.o.Grace, p.o.Grace, p.o.Grace
	p.mu.Lock()
	p.processes["zfs "+o.Args[0]]++
	p.mu.Unlock()
	p.o.Log.Debug("zfs", "args", o.Args)
	c, err := child.Start(ctx, o)
	if err != nil {
		return nil, err
	}
	return &process{Child: c, place: p, verb: o.Args[0], dataset: subjectOf(o.Args)}, nil
}

package job

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"cairn"
)

// Request asks for a run.
type Request struct {
	Cause    Cause    // ByRequest when empty
	Verbs    []string // only these; none: all the job has
	Datasets []string // only these; none: all the job selects
}

// A pending request waits for its run to begin; several become one.
type pending struct {
	cause     Cause
	scheduled bool     // the schedule is among those who asked
	verbs     []string // nil is all
	datasets  []string // nil is all
	merged    int
	began     chan struct{} // closed when the fields below are set
	run       Run
	err       error
}

func newPending(cause Cause, verbs, datasets []string) *pending {
	return &pending{cause: cause, verbs: verbs, datasets: datasets, began: make(chan struct{})}
}

// merge makes p carry out another request too. It may do more than both asked for,
// never less.
func (p *pending) merge(verbs, datasets []string) {
	p.verbs, p.datasets = union(p.verbs, verbs), union(p.datasets, datasets)
	p.merged++
}

// union of two lists in which nil is everything.
func union(a, b []string) []string {
	if a == nil || b == nil {
		return nil
	}
	all := slices.Concat(a, b)
	slices.Sort(all)
	return slices.Compact(all)
}

func (p *pending) wants(verb string) bool { return p.verbs == nil || slices.Contains(p.verbs, verb) }

// Wake asks for a run now, or once more after the one under way, and returns the
// run that carries the request out as soon as it has begun. Requests that wait are
// carried out together. When the context ends first the request stays.
func (j *Job) Wake(ctx context.Context, r Request) (Run, error) {
	const op = "run job"
	if err := j.knows(op, r.Verbs); err != nil {
		return Run{}, err
	}
	j.mu.Lock()
	if j.stopped {
		j.mu.Unlock()
		return Run{}, &cairn.Error{Op: op, Subject: j.o.Name, Kind: cairn.KindUnavailable, Hint: "the daemon is ending"}
	}
	if j.pending == nil {
		cause := r.Cause
		if cause == "" {
			cause = ByRequest
		}
		j.pending = newPending(cause, nonEmpty(r.Verbs), nonEmpty(r.Datasets))
	} else {
		j.pending.merge(nonEmpty(r.Verbs), nonEmpty(r.Datasets))
	}
	p := j.pending
	j.mu.Unlock()
	j.poke()
	select {
	case <-p.began:
		return p.run, p.err
	case <-ctx.Done():
		return Run{}, &cairn.Error{Op: "wait for the run of job", Subject: j.o.Name, Kind: cairn.KindCanceled, Err: ctx.Err(), Hint: "the request stays; the job carries it out when it is free"}
	}
}

func nonEmpty(list []string) []string {
	if len(list) == 0 {
		return nil
	}
	return list
}

// knows refuses verbs that the job has not.
func (j *Job) knows(op string, verbs []string) error {
	var has []string
	for _, v := range j.o.Verbs {
		has = append(has, v.Name)
	}
	if len(has) == 0 {
		return &cairn.Error{Op: op, Subject: j.o.Name, Kind: cairn.KindUnsupported, Hint: "it serves peers and has no runs of its own"}
	}
	for _, v := range verbs {
		if !slices.Contains(has, v) {
			return &cairn.Error{Op: op, Subject: j.o.Name, Kind: cairn.KindInvalid,
				Err: fmt.Errorf("it does not %s", v), Hint: "it can: " + strings.Join(slices.Compact(has), ", ")}
		}
	}
	return nil
}

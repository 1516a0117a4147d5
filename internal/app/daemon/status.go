package daemon

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"cairn"
	"cairn/client"
	"cairn/internal/app/job"
)

// Status tells how protection stands. Memory and answer are bounded by the query's
// limit and the number of jobs, not by the number of versions.
func (d *Daemon) Status(ctx context.Context, q client.StatusQuery) (*client.Status, error) {
	units := d.units
	if q.Job != "" {
		u, err := d.unit(q.Job)
		if err != nil {
			return nil, err
		}
		units = []*unit{u}
	}
	s := &client.Status{Now: time.Now(), Problems: []client.Problem{}, Places: []string{HereName}, Datasets: []client.Dataset{}, Jobs: []client.Job{}}
	v := &view{now: s.Now, sights: d.seen.all(), units: units, onsets: &d.onsets}
	for _, u := range units {
		s.Jobs = append(s.Jobs, u.describe())
		if c := u.cfg.Connect; c != nil && !slices.Contains(s.Places, placeOf(c)) {
			s.Places = append(s.Places, placeOf(c))
		}
	}
	for l, err := range d.here.Endpoint.Lister.List(ctx, cairn.Query{Filter: cairn.All, Want: cairn.Want{Versions: true, Partial: true}}) {
		if err != nil {
			return nil, err
		}
		if q.Job != "" && !v.concerns(l.Dataset) {
			continue
		}
		s.Total++
		row, problems := v.row(l)
		if len(s.Datasets) < q.Limit {
			s.Datasets = append(s.Datasets, row)
		}
		if len(s.Problems) < q.Limit {
			s.Problems = append(s.Problems, problems...)
		}
	}
	s.Problems = append(d.jobProblems(units), s.Problems...)
	if q.Job == "" {
		s.Tapes = d.tapes(ctx)
		s.Problems = slices.Concat(d.trouble.list(), d.heldProblems(), d.tapeProblems(s.Tapes, s.Now), s.Problems)
	}
	return s, nil
}

// view is what rows are made from.
type view struct {
	now    time.Time
	units  []*unit
	sights map[string]*sight // by job
	onsets *onsets
}

// onsets remember since when datasets are in a state that is not ok, as far as
// anybody looked.
type onsets struct {
	mu sync.Mutex // guards by
	by map[string]onset
}

type onset struct {
	state cairn.State
	since time.Time
}

// of tells since when the dataset is in its state.
func (o *onsets) of(dataset string, state cairn.State, now time.Time) time.Time {
	o.mu.Lock()
	defer o.mu.Unlock()
	if state == cairn.StateOK {
		delete(o.by, dataset)
		return now
	}
	if known, ok := o.by[dataset]; ok && known.state == state {
		return known.since
	}
	if o.by == nil {
		o.by = map[string]onset{}
	}
	o.by[dataset] = onset{state, now}
	return now
}

// concerns reports whether one of the jobs touches the dataset.
func (v *view) concerns(dataset cairn.Dataset) bool {
	return slices.ContainsFunc(v.units, func(u *unit) bool { return u.touches(dataset) })
}

// touches reports whether the job selects or receives the dataset.
func (u *unit) touches(dataset cairn.Dataset) bool {
	if root := u.root(dataset.Kind); root != "" {
		return below(root).Match(dataset.Name)
	}
	if dataset.Kind == cairn.KindVolume {
		return u.cfg.Volumes.Match(dataset.Name)
	}
	return u.cfg.Filesystems.Match(dataset.Name)
}

// root is where the job receives datasets of a kind; empty when it does not.
func (u *unit) root(kind cairn.DatasetKind) string {
	if kind == cairn.KindVolume {
		return u.cfg.RootVolumes
	}
	return u.cfg.RootFS
}

// row is one dataset with its cells, and what is wrong with it.
func (v *view) row(l *cairn.Listing) (client.Dataset, []client.Problem) {
	ds := l.Dataset
	row := client.Dataset{Name: ds.Name, Kind: ds.Kind.String(), Size: ds.Size, State: ds.State.String(), Why: ds.Why, Places: map[string]client.Protected{}}
	own := glimpseOf(l)
	row.Places[HereName] = client.Protected{Newest: own.at, Count: own.count, State: cairn.StateOK.String(), Seen: v.now}
	var problems []client.Problem
	if since := v.onsets.of(ds.Name, ds.State, v.now); ds.State != cairn.StateOK {
		problems = append(problems, client.Problem{Dataset: ds.Name, State: row.State, Since: since, What: ds.Why})
	}
	for _, u := range v.units {
		if !u.touches(ds) {
			continue
		}
		v.schedule(&row, u)
		if u.cfg.Connect == nil {
			continue
		}
		cell, late := v.cell(u, l, own)
		place := placeOf(u.cfg.Connect)
		row.Places[place] = cell
		if late > 0 {
			problems = append(problems, client.Problem{Job: u.cfg.Name, Dataset: ds.Name, Place: place, State: cairn.StateLate.String(),
				Since: v.now.Add(-late), What: "its newest version is not there yet"})
		}
	}
	return row, problems
}

func glimpseOf(l *cairn.Listing) glimpse {
	s := newSight("")
	s.add(l)
	return s.datasets[l.Dataset.Name]
}

// schedule notes the next thing that happens to a dataset.
func (v *view) schedule(row *client.Dataset, u *unit) {
	at := u.job.Status().Next
	if at.IsZero() || !row.NextAt.IsZero() && !at.Before(row.NextAt) {
		return
	}
	row.Next, row.NextAt = u.cfg.Name, at
}

// cell is a dataset at the peer of a job. A push is late when a version has been
// waiting for longer than two of the job's periods; a pull when it has not looked
// for so long.
func (v *view) cell(u *unit, l *cairn.Listing, own glimpse) (client.Protected, time.Duration) {
	cell := client.Protected{State: cairn.StateUnknown.String()}
	s := v.sights[u.cfg.Name]
	if s == nil {
		return cell, 0
	}
	there := s.datasets[u.peerName(l.Dataset)]
	cell = client.Protected{Newest: there.at, Count: there.count, State: there.state, Seen: s.seen}
	if there.count == 0 {
		cell.State = cairn.StateOK.String()
	}
	limit := max(2*u.activity.period(), time.Minute)
	if u.cfg.Type != "push" || own.count == 0 || u.activity.period() == 0 {
		return cell, 0
	}
	waiting := v.now.Sub(firstUnsent(l, there.newest))
	if own.newest.GUID == there.newest.GUID || waiting < limit {
		return cell, 0
	}
	cell.State = cairn.StateLate.String()
	return cell, waiting
}

// firstUnsent is when the oldest snapshot was captured that is newer than what the
// peer has.
func firstUnsent(l *cairn.Listing, there cairn.VersionID) time.Time {
	var at time.Time
	for _, v := range slices.Backward(l.Versions) {
		if v.GUID == there.GUID {
			break
		}
		if v.IsSnapshot() {
			at = v.Created
		}
	}
	if at.IsZero() {
		return time.Now()
	}
	return at
}

// peerName is what the peer calls a dataset of ours.
func (u *unit) peerName(dataset cairn.Dataset) string {
	root := u.root(dataset.Kind)
	if u.cfg.Type == "pull" && len(dataset.Name) > len(root)+1 {
		return dataset.Name[len(root)+1:]
	}
	return dataset.Name
}

// jobProblems are the jobs whose last run did not end well, or whose next cannot
// be told.
func (d *Daemon) jobProblems(units []*unit) []client.Problem {
	problems := []client.Problem{}
	for _, u := range units {
		s := u.job.Status()
		p := client.Problem{Job: u.cfg.Name, Next: whatNext(s)}
		switch last := s.Last; {
		case s.Problem != "":
			p.State, p.Since, p.What = cairn.StateBlocked.String(), time.Now(), s.Problem
		case last != nil && last.State == job.Stuck:
			p.State, p.Since, p.What = cairn.StateStuck.String(), last.Ended, last.Error
		case last != nil && (last.State == job.Failed || last.State == job.Interrupted):
			p.State, p.Since, p.What = cairn.StateDegraded.String(), last.Ended, fmt.Sprintf("run %d %s: %s", last.ID, last.State, last.Error)
		default:
			continue
		}
		problems = append(problems, p)
	}
	return problems
}

func whatNext(s job.Status) string {
	see := "see: cairn job history " + s.Name
	switch {
	case s.Running != nil:
		return "runs again now; " + see
	case !s.Next.IsZero():
		return "next run in " + max(time.Until(s.Next), 0).Round(time.Second).String() + "; " + see
	}
	return see
}

// heldProblems are the datasets that work left behind still locks.
func (d *Daemon) heldProblems() []client.Problem {
	var problems []client.Problem
	for _, h := range d.held.Held() {
		problems = append(problems, client.Problem{Dataset: h.Lock, State: cairn.StateStuck.String(), Since: h.Since,
			What: h.Why.Error(), Next: "locked until that work ends"})
	}
	return problems
}

package daemon

import (
	"context"
	"errors"

	"cairn"
	"cairn/client"
	"cairn/internal/app/job"
	"cairn/internal/work/prune"
)

func (d *Daemon) unit(name string) (*unit, error) {
	for _, u := range d.units {
		if u.cfg.Name == name {
			return u, nil
		}
	}
	return nil, &cairn.Error{Op: "find job", Subject: name, Kind: cairn.KindNotFound, Err: errors.New("no job has that name"), Hint: "'cairn job list' shows them"}
}

// Jobs lists the jobs in the order of the file.
func (d *Daemon) Jobs() []client.Job {
	jobs := make([]client.Job, 0, len(d.units))
	for _, u := range d.units {
		jobs = append(jobs, u.describe())
	}
	return jobs
}

func (u *unit) describe() client.Job {
	s := u.job.Status()
	out := client.Job{Name: u.cfg.Name, Type: u.cfg.Type, State: s.State, Phase: s.Verb, Next: s.Next}
	if u.cfg.Connect != nil {
		out.Place = placeOf(u.cfg.Connect)
	}
	if u.cfg.Serve != nil {
		out.Listen, out.Clients = u.serving.look()
		if s.State == "waiting" && out.Listen != "" {
			out.State = "serving"
		}
	}
	if s.Running != nil {
		out.Running = u.running(*s.Running)
	}
	if s.Last != nil {
		out.Last = describeRun(*s.Last)
	}
	return out
}

// running is the run under way with the steps that are under way too.
func (u *unit) running(r job.Run) *client.Run {
	out := describeRun(r)
	live := u.activity.live.Load()
	if live == nil {
		return out
	}
	for _, dataset := range live.Snapshot().Datasets {
		for _, a := range dataset.Attempts {
			for _, s := range a.Steps {
				if s.Ended.IsZero() && s.Began.After(r.Started) {
					out.Steps = append(out.Steps, describeStep(replicationStep(dataset.Dataset, s)))
				}
			}
		}
	}
	return out
}

func describeRun(r job.Run) *client.Run {
	out := &client.Run{ID: r.ID, Job: r.Job, Cause: string(r.Cause), State: string(r.State), Started: r.Started, Ended: r.Ended,
		Error: r.Error, Kind: r.Kind, Hint: r.Hint, Omitted: r.Omitted}
	for _, v := range r.Verbs {
		out.Verbs = append(out.Verbs, client.Verb{Verb: v.Verb, State: string(v.State), Started: v.Started, Ended: v.Ended, Error: v.Error})
	}
	for _, s := range r.Steps {
		out.Steps = append(out.Steps, describeStep(s))
	}
	return out
}

func describeStep(s job.Step) client.Step {
	return client.Step{Verb: s.Verb, Dataset: s.Dataset, Place: s.Place, From: s.From, To: s.To, State: string(s.State), Started: s.Started, Ended: s.Ended,
		Expected: s.Expected, Moved: s.Moved, Resumed: s.Resumed, Error: s.Error}
}

// Wake runs a job now.
func (d *Daemon) Wake(ctx context.Context, name string, w client.Wake) (*client.Run, error) {
	u, err := d.unit(name)
	if err != nil {
		return nil, err
	}
	r := job.Request{Cause: job.Cause(w.Cause), Verbs: w.Verbs, Datasets: w.Datasets}
	if len(w.Verbs) > 0 && u.cfg.Connect != nil {
		r.Verbs = append(r.Verbs, verbLook)
	}
	run, err := u.job.Wake(ctx, r)
	if err != nil {
		return nil, err
	}
	return describeRun(run), nil
}

// Cancel ends the job's present run.
func (d *Daemon) Cancel(name string) error {
	u, err := d.unit(name)
	if err == nil {
		u.job.Cancel()
	}
	return err
}

// Reset ends the job's present run and begins its schedule anew.
func (d *Daemon) Reset(name string) error {
	u, err := d.unit(name)
	if err == nil {
		u.job.Reset()
	}
	return err
}

// History lists the job's runs, newest first; the one under way is as it stands.
func (d *Daemon) History(name string, limit int) ([]client.Run, error) {
	u, err := d.unit(name)
	if err != nil {
		return nil, err
	}
	runs, err := u.job.Runs(limit)
	if err != nil {
		return nil, err
	}
	out := make([]client.Run, 0, len(runs))
	for _, r := range runs {
		out = append(out, *describeRun(r))
	}
	if now := u.job.Status().Running; now != nil && len(out) > 0 && out[0].ID == now.ID {
		out[0] = *u.running(*now)
	}
	return out, nil
}

// Run returns one run; with wait when it has ended or the context is done.
func (d *Daemon) Run(ctx context.Context, name string, id uint64, wait bool) (*client.Run, error) {
	u, err := d.unit(name)
	if err != nil {
		return nil, err
	}
	if !wait {
		if now := u.job.Status().Running; now != nil && now.ID == id {
			return u.running(*now), nil
		}
	}
	run, err := u.job.Wait(ctx, id)
	if err != nil {
		return nil, err
	}
	return describeRun(run), nil
}

// PrunePreview shows what a prune of the job would do now.
func (d *Daemon) PrunePreview(ctx context.Context, name string) ([]client.PruneSide, error) {
	u, err := d.unit(name)
	if err != nil {
		return nil, err
	}
	sides := []client.PruneSide{}
	look := func(place string, o prune.Options) error {
		o.Explain = true
		report, err := prune.Preview(ctx, o)
		sides = append(sides, describePrune(place, report))
		return err
	}
	a := u.activity
	switch u.cfg.Type {
	case "push", "pull":
		err = a.eachSide(ctx, nil, look)
	case "snap", "sink":
		var o prune.Options
		if o, err = a.local(ctx); err == nil {
			err = look(HereName, a.pruning(o, nil))
		}
	default:
		err = &cairn.Error{Op: "prune", Subject: name, Kind: cairn.KindUnsupported, Hint: "the clients of a source job prune it"}
	}
	if err != nil {
		return nil, err
	}
	return sides, nil
}

func describePrune(place string, r *prune.Report) client.PruneSide {
	side := client.PruneSide{Side: place, Datasets: []client.PruneDataset{}}
	for _, d := range r.Datasets {
		out := client.PruneDataset{Dataset: d.Dataset, Error: d.Error, Versions: []client.PruneVersion{}}
		for _, v := range d.Versions {
			out.Versions = append(out.Versions, client.PruneVersion{Name: v.Name, Created: v.Created, Destroy: v.Action != prune.Keep, Why: joinReasons(v.Reasons)})
		}
		side.Datasets = append(side.Datasets, out)
	}
	return side
}

func joinReasons(reasons []string) string {
	out := ""
	for i, r := range reasons {
		if i > 0 {
			out += "; "
		}
		out += r
	}
	return out
}

// Listings tells what each place holds.
func (d *Daemon) Listings(ctx context.Context, dataset, place string) ([]client.Place, error) {
	return Listings(ctx, d.here, dataset, place)
}

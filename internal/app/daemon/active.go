package daemon

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"cairn"
	"cairn/internal/app/config"
	"cairn/internal/app/job"
	"cairn/internal/mech/watchdog"
	"cairn/internal/policy/plan"
	"cairn/internal/policy/schedule"
	"cairn/internal/system/hook"
	"cairn/internal/system/wrap"
	"cairn/internal/work/capture"
	"cairn/internal/work/prune"
	"cairn/internal/work/replicate"
)

// The verbs of jobs, in the order of a run.
const (
	verbCapture   = "capture"
	verbReplicate = "replicate"
	verbRename    = "rename" // of a dataset at the receiver, as part of a replication
	verbPrune     = "prune"
	verbLook      = "look" // at the peer afterwards, for status and list
)

// activity carries out the verbs of one job that has any.
type activity struct {
	job        *config.Job
	here       *Here
	dial       func(ctx context.Context) (*cairn.Endpoint, error) // the peer; nil without one
	quarantine *watchdog.Quarantine                               // shared by all jobs
	seen       *sightings
	log        *slog.Logger
	send, recv *wrap.Bucket                   // bandwidth limits; nil without
	lastName   string                         // of the last capture; used by the one run at a time
	lastRun    uint64                         // likewise
	live       atomic.Pointer[replicate.Live] // of the newest replication

	opening sync.Mutex // guards opened
	opened  sides
}

// verbs are what the job does, in order.
func (a *activity) verbs() []job.Verb {
	var verbs []job.Verb
	if a.captures() {
		verbs = append(verbs, job.Verb{Name: verbCapture, Run: a.capture})
	}
	switch a.job.Type {
	case "push", "pull":
		verbs = append(verbs,
			job.Verb{Name: verbReplicate, Always: true, Run: a.replicate},
			job.Verb{Name: verbPrune, Always: true, Run: a.prunePair},
			job.Verb{Name: verbLook, Always: true, Run: a.look})
	case "snap", "sink":
		if len(a.job.Pruning.Keep) > 0 {
			verbs = append(verbs, job.Verb{Name: verbPrune, Always: true, Run: a.pruneHere})
		}
	}
	for i := range verbs {
		verbs[i].Run = a.anew(verbs[i].Run)
	}
	return verbs
}

// anew lets the first verb of a run see what others did since the last run.
func (a *activity) anew(verb func(context.Context, job.Input) error) func(context.Context, job.Input) error {
	return func(ctx context.Context, in job.Input) error {
		if in.Run != a.lastRun {
			a.lastRun = in.Run
			a.here.renew()
		}
		return verb(ctx, in)
	}
}

func (a *activity) captures() bool {
	t := a.job.Snapshotting.Type
	return t == "periodic" || t == "cron"
}

// next says when the job is due by its schedule.
func (a *activity) next(ctx context.Context, after time.Time) (time.Time, error) {
	s := a.job.Snapshotting
	switch {
	case a.job.Type == "pull" && !a.job.Interval.Manual:
		return after.Add(a.job.Interval.Every), nil
	case a.job.Type == "sink":
		return after.Add(a.job.Pruning.Interval), nil
	case s.Type == "cron":
		c, err := schedule.ParseCron(s.Cron)
		if err != nil {
			return time.Time{}, err
		}
		return c.Next(after), nil
	case s.Type == "periodic":
		return a.due(ctx)
	}
	return time.Time{}, nil
}

// due is when the periodic capture is.
func (a *activity) due(ctx context.Context) (time.Time, error) {
	naming, err := a.naming()
	if err != nil {
		return time.Time{}, err
	}
	own, err := a.own(ctx)
	if err != nil {
		return time.Time{}, err
	}
	return capture.Due(ctx, capture.DueOptions{Endpoint: own.selected(), Filter: cairn.All, Naming: naming,
		Interval: a.job.Snapshotting.Interval, Now: time.Now(), Watchdog: a.limits()})
}

// own is this machine's side of the job. It is opened by the first who needs it,
// and tried again by the next when that failed.
func (a *activity) own(ctx context.Context) (sides, error) {
	a.opening.Lock()
	defer a.opening.Unlock()
	if a.opened == nil {
		s, err := a.here.sides(ctx, a.job)
		if err != nil {
			return nil, err
		}
		a.opened = s
	}
	return a.opened, nil
}

// period is the usual time between two versions; 0 when nobody can tell.
func (a *activity) period() time.Duration {
	s := a.job.Snapshotting
	switch {
	case a.job.Type == "pull":
		return a.job.Interval.Every
	case s.Type == "periodic":
		return s.Interval
	case s.Type == "cron":
		if c, err := schedule.ParseCron(s.Cron); err == nil {
			first := c.Next(time.Now())
			return c.Next(first).Sub(first)
		}
	}
	return 0
}

func (a *activity) naming() (schedule.Naming, error) {
	s := a.job.Snapshotting
	return schedule.ParseNaming(s.Prefix, s.TimestampFormat, s.TimestampLocation)
}

func (a *activity) limits() watchdog.Options {
	return watchdog.Options{Limit: a.job.Watchdog.Limit, Limits: a.job.Watchdog.Phases}
}

func (a *activity) capture(ctx context.Context, in job.Input) error {
	naming, err := a.naming()
	if err != nil {
		return err
	}
	own, err := a.own(ctx)
	if err != nil {
		return err
	}
	name, err := a.freshName(ctx, naming)
	if err != nil {
		return err
	}
	began := time.Now()
	report, err := capture.Run(ctx, capture.Options{Endpoint: own.selected(), Filter: cairn.All, Names: in.Datasets,
		Name: name, Hooks: a.hooks(), Watchdog: a.limits(), Log: a.log})
	for _, d := range report.Datasets {
		if d.Version != "" || d.Error != "" {
			in.Step(job.Step{Dataset: d.Dataset, To: d.Version, State: stepState(d.Error, d.ErrorKind), Started: began, Ended: time.Now(),
				Failure: job.Failure{Error: d.Error, Kind: d.ErrorKind}})
		}
	}
	return err
}

// hooks are the programs that the job runs around a capture.
func (a *activity) hooks() []capture.Hook {
	var hooks []capture.Hook
	for _, h := range a.job.Snapshotting.Hooks {
		filter := h.Filesystems
		if filter == nil {
			filter = cairn.All
		}
		hooks = append(hooks, capture.Hook{Filter: filter, Fatal: h.ErrIsFatal, Run: hook.Command{Path: h.Path, Timeout: h.Timeout, Log: a.log}.Run})
	}
	return hooks
}

// freshName waits for up to two seconds until the clock gives another name than
// the last capture's: the usual timestamps count seconds.
func (a *activity) freshName(ctx context.Context, naming schedule.Naming) (string, error) {
	for began := time.Now(); ; {
		name := naming.Name(time.Now())
		if name != a.lastName || time.Since(began) > 2*time.Second {
			a.lastName = name
			return name, nil
		}
		wait := time.NewTimer(time.Second / 10)
		select {
		case <-ctx.Done():
			wait.Stop()
			return "", &cairn.Error{Op: "capture", Kind: cairn.KindCanceled, Err: ctx.Err()}
		case <-wait.C:
		}
	}
}

func stepState(failure, kind string) job.State {
	switch {
	case failure == "":
		return job.Done
	case kind == cairn.KindStuck.String():
		return job.Stuck
	case kind == cairn.KindCanceled.String():
		return job.Canceled
	}
	return job.Failed
}

// ends are the two sides of a replication, named alike on both.
type ends struct {
	sender, receiver *cairn.Endpoint
	peer             *cairn.Endpoint
}

// pair names the sides of a connection.
func (a *activity) pair(own sides, peer *cairn.Endpoint) (*ends, error) {
	e := &ends{peer: peer, sender: own.selected(), receiver: peer}
	if a.job.Type == "pull" {
		received, err := own.rebased()
		if err != nil {
			return nil, err
		}
		e.sender, e.receiver = peer, received
	}
	e.sender, e.receiver = wrap.Limit(e.sender, a.send, nil), wrap.Limit(e.receiver, nil, a.recv)
	return e, nil
}

// limit makes the bandwidth limits that all streams of the job share; which of the
// two a job can have depends on its type.
func (a *activity) limit() {
	bucket := func(l config.BandwidthLimit) *wrap.Bucket {
		if !l.Limited() {
			return nil
		}
		return wrap.NewBucket(l.Max, l.BucketCapacity)
	}
	switch a.job.Type {
	case "push", "source":
		a.send = bucket(a.job.Send.BandwidthLimit)
	case "pull", "sink":
		a.recv = bucket(a.job.Recv.BandwidthLimit)
	}
}

// open connects to the peer for one verb; the caller closes the peer.
func (a *activity) open(ctx context.Context) (*ends, error) {
	own, err := a.own(ctx)
	if err != nil {
		return nil, err
	}
	peer, err := a.dial(ctx)
	if err != nil {
		return nil, err
	}
	e, err := a.pair(own, peer)
	if err != nil {
		return nil, errors.Join(err, closeEndpoint(peer))
	}
	return e, nil
}

// replicate sends what the receiver lacks.
func (a *activity) replicate(ctx context.Context, in job.Input) (err error) {
	e, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = joinClose(err, e.peer) }()
	if err := a.checkKeep(e.receiver); err != nil {
		return err
	}
	o, err := a.replication(e)
	if err != nil {
		return err
	}
	o.Names = in.Datasets
	o.StepDone = func(dataset string, s replicate.StepReport) { in.Step(replicationStep(dataset, s)) }
	place := "" // the receiver's, when that is not here
	if a.job.Type == "push" {
		place = placeOf(a.job.Connect)
	}
	o.Moved = func(dataset, was string) {
		now := time.Now()
		in.Step(job.Step{Verb: verbRename, Dataset: dataset, Place: place, From: was, To: dataset, State: job.Done, Started: now, Ended: now})
	}
	_, err = replicate.Run(ctx, o)
	return err
}

func (a *activity) replication(e *ends) (replicate.Options, error) {
	initial, err := plan.ParseInitial(a.job.ConflictResolution.InitialReplication)
	if err != nil {
		return replicate.Options{}, err
	}
	renamed, err := plan.ParseRenamed(a.job.ConflictResolution.Renamed)
	if err != nil {
		return replicate.Options{}, err
	}
	var protect replicate.Protection
	if protect.Initial, err = replicate.ParseGuarantee(a.job.Replication.Protection.Initial); err != nil {
		return replicate.Options{}, err
	}
	if protect.Incremental, err = replicate.ParseGuarantee(a.job.Replication.Protection.Incremental); err != nil {
		return replicate.Options{}, err
	}
	live, limits := &replicate.Live{}, a.limits()
	a.live.Store(live)
	limits.Quarantine = a.quarantine
	return replicate.Options{Sender: e.sender, Receiver: e.receiver, Filter: cairn.All, Owner: a.job.Name, Initial: initial, CopyClones: a.job.Replication.Clones == "copy", Renamed: renamed,
		Protect: protect, ReceiverKeep: a.job.Pruning.KeepReceiver, Steps: a.job.Replication.Concurrency.Steps,
		Watchdog: limits, Live: live, Log: a.log}, nil
}

// checkKeep refuses rules that the receiver will not let us carry out: a job that
// seems to prune and never does would fill the place.
func (a *activity) checkKeep(receiver *cairn.Endpoint) error {
	if receiver.Info.AppendOnly && len(a.job.Pruning.KeepReceiver) > 0 {
		return &cairn.Error{Op: "use keep_receiver of job", Subject: a.job.Name, Place: receiver.Info.Place, Kind: cairn.KindConfig,
			Err: errors.New("the place is append-only and lets no client destroy"), Hint: "write keep_receiver: [] and let the sink prune itself"}
	}
	return nil
}

func replicationStep(dataset string, s replicate.StepReport) job.Step {
	step := job.Step{Verb: verbReplicate, Dataset: dataset, From: s.From, To: s.To, Started: s.Began, Ended: s.Ended,
		Expected: s.BytesExpected, Moved: s.BytesMoved, Resumed: s.Resumed, State: stepState(s.Error, s.ErrorKind), Failure: job.Failure{Error: s.Error, Kind: s.ErrorKind}}
	if s.Error == "" && s.Ended.IsZero() {
		step.State = job.Running
	}
	return step
}

func joinClose(err error, ep *cairn.Endpoint) error {
	if closing := closeEndpoint(ep); err == nil {
		return closing
	}
	return err
}

// prunePair prunes both sides. When the peer cannot be reached our own side is
// pruned all the same: cursors and leases then say what the peer still needs.
func (a *activity) prunePair(ctx context.Context, in job.Input) error {
	return a.eachSide(ctx, in.Datasets, func(place string, o prune.Options) error {
		report, err := prune.Run(ctx, o)
		recordPrune(in, place, report)
		return err
	})
}

// eachSide calls do for both sides, sender first.
func (a *activity) eachSide(ctx context.Context, names []string, do func(place string, o prune.Options) error) (err error) {
	e, unreachable := a.open(ctx)
	if unreachable != nil {
		alone, err := a.pruneAlone(ctx)
		if err != nil {
			return errors.Join(unreachable, err)
		}
		return errors.Join(unreachable, do(HereName, a.pruning(alone, names)))
	}
	defer func() { err = joinClose(err, e.peer) }()
	if err := a.checkKeep(e.receiver); err != nil {
		return err
	}
	sender := prune.Options{Target: e.sender, Side: prune.Sender, Peer: e.receiver, Filter: cairn.All, Rules: a.job.Pruning.KeepSender}
	receiver := prune.Options{Target: e.receiver, Side: prune.Receiver, Peer: e.sender, Filter: cairn.All, Rules: a.job.Pruning.KeepReceiver}
	here, there := HereName, placeOf(a.job.Connect)
	if a.job.Type == "pull" {
		here, there = there, here
	}
	err = do(here, a.pruning(sender, names))
	if len(receiver.Rules) == 0 {
		return err
	}
	return errors.Join(err, do(there, a.pruning(receiver, names)))
}

// pruneAlone is our side of a pair whose peer cannot be reached.
func (a *activity) pruneAlone(ctx context.Context) (prune.Options, error) {
	own, err := a.own(ctx)
	if err != nil {
		return prune.Options{}, err
	}
	if a.job.Type == "push" {
		return prune.Options{Target: own.selected(), Side: prune.Sender, Filter: cairn.All, Rules: a.job.Pruning.KeepSender}, nil
	}
	received, err := own.rebased()
	return prune.Options{Target: received, Side: prune.Receiver, Filter: cairn.All, Rules: a.job.Pruning.KeepReceiver}, err
}

func (a *activity) pruning(o prune.Options, names []string) prune.Options {
	o.Names, o.Owner, o.Now, o.Watchdog, o.Log = names, a.job.Name, time.Now(), a.limits(), a.log
	return o
}

// pruneHere prunes what a snap job captures or a sink holds.
func (a *activity) pruneHere(ctx context.Context, in job.Input) error {
	o, err := a.local(ctx)
	if err != nil {
		return err
	}
	report, err := prune.Run(ctx, a.pruning(o, in.Datasets))
	recordPrune(in, HereName, report)
	return err
}

func (a *activity) local(ctx context.Context) (prune.Options, error) {
	own, err := a.own(ctx)
	if err != nil {
		return prune.Options{}, err
	}
	o := prune.Options{Target: own.selected(), Side: prune.Local, Filter: cairn.All, Rules: a.job.Pruning.Keep}
	if a.job.Type == "sink" {
		o.Target = own.received()
	}
	return o, nil
}

func recordPrune(in job.Input, place string, report *prune.Report) {
	if place == HereName {
		place = ""
	}
	for _, d := range report.Datasets {
		for _, v := range d.Versions {
			if !v.Done && v.Error == "" {
				continue
			}
			s := job.Step{Verb: verbPrune, Dataset: d.Dataset, Place: place, To: v.Name, State: stepState(v.Error, ""), Ended: time.Now(), Failure: job.Failure{Error: v.Error}}
			s.Started = s.Ended
			in.Step(s)
		}
	}
}

// look lists the peer once more and remembers what it holds.
func (a *activity) look(ctx context.Context, _ job.Input) (err error) {
	peer, err := a.dial(ctx)
	if err != nil {
		return err
	}
	defer func() { err = joinClose(err, peer) }()
	next := newSight(placeOf(a.job.Connect))
	if err := a.here.keep(ctx, a.job.Name, next.place, peer, next.add); err != nil {
		return err
	}
	a.seen.set(a.job.Name, next)
	return nil
}

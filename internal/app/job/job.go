package job

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"cairn"
)

// Verb is one thing a job does in a run.
type Verb struct {
	Name   string // capture, replicate, prune
	Always bool   // also when an earlier verb of the run failed

	// Run does it. It returns soon after its context is done. Errors of single
	// datasets are part of the error it returns once all are dealt with.
	Run func(ctx context.Context, in Input) error
}

// Input is what a verb is told about its run.
type Input struct {
	Run      uint64
	Datasets []string   // only these; none: all the job selects
	Step     func(Step) // records a step that ended; Verb may be left empty
}

// Options make a Job.
type Options struct {
	Name    string
	Verbs   []Verb // in the order of a run; none for a job that only serves
	History *History

	// Next returns when the next run is due by schedule, given when the last
	// scheduled run began (or the job, before the first); a past time is due at
	// once, the zero time never. Nil: the job runs only when asked.
	Next func(ctx context.Context, after time.Time) (time.Time, error)

	// Retry returns how long to wait before what failed is tried again, given how
	// often in a row it failed; 0 leaves it to the schedule. Nil: never.
	Retry func(failures int) time.Duration

	// Reset forgets what the verbs remember of failures; may be nil.
	Reset func()

	Grace time.Duration // how long Run waits for a verb when its context ends; 0 is 10 s
	Log   *slog.Logger  // nil discards
}

// Job is a configured activity at run time. Run drives it; the other methods may
// be called from any goroutine.
type Job struct {
	o     Options
	log   *slog.Logger
	clock clock

	wake chan struct{} // capacity 1: something below changed

	mu       sync.Mutex // guards what follows
	pending  *pending
	current  *Run
	cancel   context.CancelCauseFunc // of the current run
	finished chan struct{}           // closed when the current run ends
	last     *Run
	next     time.Time
	problem  string
	failures int
	reset    bool
	stopped  bool
	unlogged bool // the history cannot be written, and that was said

	// Owned by the goroutine of Run.
	after     time.Time     // when the last scheduled run began
	due       time.Time     // by schedule; zero: never, or not known
	askAt     time.Time     // when to ask Next again that could not tell
	earliest  time.Time     // a scheduled run does not begin before
	retryAt   time.Time     // when failed verbs are tried again
	looked    time.Time     // when the clock was last looked at
	lookedRan time.Duration // the same, of the process
	failed    []string      // verbs that failed and have not succeeded since
}

// New makes a job; it does nothing before Run. The last run is taken from the
// history.
func New(o Options) (*Job, error) {
	j := &Job{o: o, log: o.Log, clock: systemClock(), wake: make(chan struct{}, 1)}
	if j.log == nil {
		j.log = slog.New(slog.DiscardHandler)
	}
	j.log = j.log.With("job", o.Name)
	if j.o.Grace == 0 {
		j.o.Grace = 10 * time.Second
	}
	runs, err := o.History.List(1)
	if err != nil {
		return nil, err
	}
	if len(runs) > 0 {
		j.last = &runs[0]
	}
	return j, nil
}

// Status is how a job stands.
type Status struct {
	Name     string    `json:"name"`
	State    string    `json:"state"`              // waiting, running or stopped
	Verb     string    `json:"verb,omitempty"`     // under way
	Next     time.Time `json:"next,omitzero"`      // next run by schedule or to retry; zero: none
	Failures int       `json:"failures,omitempty"` // failed runs in a row
	Problem  string    `json:"problem,omitempty"`  // why the schedule cannot be told
	Queued   bool      `json:"queued,omitempty"`   // a request waits for the present run to end
	Running  *Run      `json:"running,omitempty"`
	Last     *Run      `json:"last,omitempty"` // the newest run that ended, without its steps
}

// Status returns a copy.
func (j *Job) Status() Status {
	j.mu.Lock()
	defer j.mu.Unlock()
	s := Status{Name: j.o.Name, State: "waiting", Next: j.next, Failures: j.failures, Problem: j.problem, Queued: j.pending != nil}
	if j.last != nil {
		last := *j.last
		last.Steps = nil
		s.Last = &last
	}
	switch {
	case j.stopped:
		s.State = "stopped"
	case j.current != nil:
		s.State = "running"
		run := j.current.copied()
		s.Running = &run
		if n := len(run.Verbs); n > 0 && run.Verbs[n-1].State == Running {
			s.Verb = run.Verbs[n-1].Verb
		}
	}
	return s
}

func (r *Run) copied() Run {
	c := *r
	c.Verbs, c.Steps = slices.Clone(r.Verbs), slices.Clone(r.Steps)
	return c
}

// Runs lists the newest runs, newest first; limit 0 is all that are kept.
func (j *Job) Runs(limit int) ([]Run, error) { return j.o.History.List(limit) }

// Wait returns the run when it has ended, or as it stands when the context ends.
func (j *Job) Wait(ctx context.Context, id uint64) (Run, error) {
	j.mu.Lock()
	var finished chan struct{}
	if j.current != nil && j.current.ID == id {
		finished = j.finished
	}
	j.mu.Unlock()
	if finished != nil {
		select {
		case <-finished:
		case <-ctx.Done():
		}
	}
	j.mu.Lock()
	if j.current != nil && j.current.ID == id {
		defer j.mu.Unlock()
		return j.current.copied(), nil
	}
	j.mu.Unlock()
	runs, err := j.o.History.List(0)
	if err != nil {
		return Run{}, err
	}
	for _, r := range runs {
		if r.ID == id {
			return r, nil
		}
	}
	return Run{}, &cairn.Error{Op: "find run of job", Subject: j.o.Name, Kind: cairn.KindNotFound, Hint: "old runs are forgotten; see job history"}
}

var errCanceled = errors.New("canceled by request")

// Cancel ends the run under way; without one it does nothing. Requests that wait
// and the schedule stay.
func (j *Job) Cancel() {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.cancel != nil {
		j.cancel(errCanceled)
	}
}

// Reset ends the run under way, drops requests that wait, forgets failures and
// lets the schedule start anew.
func (j *Job) Reset() {
	j.mu.Lock()
	if p := j.pending; p != nil {
		p.err = &cairn.Error{Op: "run job", Subject: j.o.Name, Kind: cairn.KindCanceled, Err: errors.New("the job was reset")}
		close(p.began)
		j.pending = nil
	}
	if j.cancel != nil {
		j.cancel(errCanceled)
	}
	j.reset = true
	j.mu.Unlock()
	j.poke()
}

func (j *Job) poke() {
	select {
	case j.wake <- struct{}{}:
	default:
	}
}

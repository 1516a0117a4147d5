// Package prune is the verb that destroys what the keep rules of one side do not
// keep. Preview and Run are one walk: Run destroys what a Preview at that moment
// would list, and nothing else.
//
// Beyond the rules (package policy/retention) it keeps, and says so:
//
//   - what a lease holds: a plan, a running step, a person, a foreign hold;
//   - the last common version of a dataset that is replicated. At the sender a
//     bookmark of the same GUID counts as that version; where the place makes
//     bookmarks, one is made first and the snapshot goes. At the receiver the
//     snapshot stays, since the next increment is applied to it;
//   - at a receiver whose sender is unknown or away, the newest snapshot.
//
// What is replicated is read from the other side's listing; when the other side is
// away, from the cursor leases. Placeholders are passed over, and at the receiver
// datasets that the sender does not have.
//
// One dataset is held at a time. Errors belong to a dataset and do not stop the
// others; a version that was leased between listing and destroying is kept. Each
// dataset's destruction runs under the watchdog: one that hangs is abandoned and
// locked, and the walk goes on. Nothing is retried; the next run is the retry.
package prune

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"cairn"
	"cairn/internal/mech/watchdog"
	"cairn/internal/policy/plan"
	"cairn/internal/policy/retention"
)

// Side says which part the pruned place plays.
type Side string

// The sides.
const (
	Local    Side = "local"    // captures only; nothing is replicated by this job
	Sender   Side = "sender"   // its versions are replicated from here
	Receiver Side = "receiver" // its versions come from elsewhere
)

// Options say what to prune.
type Options struct {
	Target   *cairn.Endpoint
	Side     Side
	Peer     *cairn.Endpoint // the other side of the replication; nil: away or unknown
	Filter   cairn.Filter
	Names    []string // nil: all that Filter selects
	Rules    []cairn.KeepRule
	Owner    string    // the job: cursors of this owner say what is replicated when Peer is nil
	Now      time.Time // zero: the present
	Explain  bool      // report kept versions too
	Watchdog watchdog.Options
	Live     *Live               // nil, or where to watch the run
	Each     func(DatasetReport) // gets each dataset's full report; the returned Report then holds counts only
	Log      *slog.Logger        // nil discards
}

// Report says what was, or would be, destroyed and why.
type Report struct {
	Side      Side            `json:"side"`
	Preview   bool            `json:"preview"`
	Began     time.Time       `json:"began"`
	Ended     time.Time       `json:"ended,omitzero"`
	Kept      int             `json:"kept"`
	Destroyed int             `json:"destroyed"` // in a preview: would be
	Failed    int             `json:"failed"`    // datasets
	Datasets  []DatasetReport `json:"datasets"`
}

// DatasetReport is one dataset's part.
type DatasetReport struct {
	Dataset   string          `json:"dataset"`
	Skipped   string          `json:"skipped,omitempty"` // why nothing was looked at
	Kept      int             `json:"kept"`
	Destroyed int             `json:"destroyed"`
	Versions  []VersionReport `json:"versions,omitempty"`
	Error     string          `json:"error,omitempty"`
	ErrorKind string          `json:"error_kind,omitempty"`
}

// Action is what happens to a version.
type Action string

// The actions.
const (
	Keep     Action = "keep"
	Destroy  Action = "destroy"
	Bookmark Action = "bookmark" // the snapshot is destroyed after a bookmark took its place
)

// VersionReport is one version's verdict.
type VersionReport struct {
	Name    string    `json:"name"` // with its '@' or '#'
	GUID    string    `json:"guid"`
	Created time.Time `json:"created"`
	Action  Action    `json:"action"`
	Done    bool      `json:"done"` // destroyed, in a run
	Reasons []string  `json:"reasons"`
	Error   string    `json:"error,omitempty"`

	id cairn.VersionID
}

// Live shows a run that is under way. The zero value is ready.
type Live struct {
	mu     sync.Mutex // guards report
	report Report     // without versions
}

// Snapshot copies the counts of what was done up to now.
func (l *Live) Snapshot() Report {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.report
	r.Datasets = append([]DatasetReport(nil), r.Datasets...)
	return r
}

func (l *Live) set(r *Report, add *DatasetReport) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	datasets := l.report.Datasets
	if add != nil {
		counts := *add
		counts.Versions = nil
		datasets = append(datasets, counts)
	}
	l.report = *r
	l.report.Datasets = datasets
}

// Preview says what Run would do now, and why.
func Preview(ctx context.Context, o Options) (*Report, error) { return walk(ctx, o, nil) }

// Run destroys what Preview lists. The report is never nil; the error is not nil
// when anything failed.
func Run(ctx context.Context, o Options) (*Report, error) {
	if o.Target.Destroys == nil {
		return &Report{Side: o.Side, Began: time.Now(), Ended: time.Now()}, o.Target.Lacks("destroy", "")
	}
	return walk(ctx, o, destroy)
}

// walk judges every dataset and, unless act is nil, acts on the verdicts.
func walk(ctx context.Context, o Options, act func(context.Context, *Options, *DatasetReport) error) (*Report, error) {
	report := &Report{Side: o.Side, Preview: act == nil, Began: time.Now()}
	if o.Now.IsZero() {
		o.Now = report.Began
	}
	o.Live.set(report, nil)
	policy, err := o.check()
	var first error
	if err == nil {
		j := judge{Options: &o, policy: policy}
		for pair, listErr := range pairs(ctx, &o) {
			if err = listErr; err != nil {
				break
			}
			if pair.Sender == nil { // only the peer has it
				continue
			}
			d := j.dataset(pair.Sender, pair.Receiver)
			if err = canceled(ctx); err != nil {
				break
			}
			if act != nil && d.Destroyed > 0 {
				if failed := act(ctx, &o, &d); failed != nil && first == nil {
					first = failed
				}
			}
			o.add(report, d)
		}
	}
	report.Ended = time.Now()
	o.Live.set(report, nil)
	if err == nil && first != nil {
		err = &cairn.Error{Op: "prune", Subject: fmt.Sprintf("%d of %d datasets", report.Failed, len(report.Datasets)),
			Place: o.Target.Info.Place, Kind: cairn.KindOf(first), Err: first}
	}
	return report, err
}

func (o *Options) check() (*retention.Policy, error) {
	if o.Target.Lister == nil {
		return nil, o.Target.Lacks("list", "")
	}
	policy, err := retention.Compile(o.Rules)
	if err != nil {
		return nil, err
	}
	if o.Side == Local && policy.NeedsReplication() {
		return nil, &cairn.Error{Op: "prune", Kind: cairn.KindConfig, Err: fmt.Errorf("the rule not_replicated says nothing where nothing is replicated"),
			Hint: "take the rule out, or prune in the job that replicates"}
	}
	return policy, nil
}

// add books one dataset's report.
func (o *Options) add(report *Report, d DatasetReport) {
	report.Kept += d.Kept
	report.Destroyed += d.Destroyed
	if d.Error != "" {
		report.Failed++
	}
	if o.Log != nil && !report.Preview && d.Destroyed > 0 {
		o.Log.Info("pruned", "dataset", d.Dataset, "destroyed", d.Destroyed, "kept", d.Kept)
	}
	o.Live.set(report, &d)
	if o.Each != nil {
		o.Each(d)
		d.Versions = nil
	} else if !o.Explain {
		d.Versions = changed(d.Versions)
	}
	report.Datasets = append(report.Datasets, d)
}

func changed(versions []VersionReport) []VersionReport {
	var out []VersionReport
	for _, v := range versions {
		if v.Action != Keep {
			out = append(out, v)
		}
	}
	return out
}

// pairs walks the target's datasets with the peer's, under the watchdog. While the
// caller works on a dataset the listing only waits.
func pairs(ctx context.Context, o *Options) func(yield func(plan.Pair, error) bool) {
	return func(yield func(plan.Pair, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		w := o.Watchdog
		w.Op, w.Place, w.Quarantine = "list for pruning", o.Target.Info.Place, nil
		w.Limits = map[string]time.Duration{deliver: watchdog.Blocked}
		for phase, limit := range o.Watchdog.Limits {
			w.Limits[phase] = limit
		}
		out, ended := make(chan plan.Pair), make(chan error, 1)
		var lister sync.WaitGroup
		defer lister.Wait()
		defer cancel()
		lister.Go(func() {
			err, _ := watchdog.Run(ctx, &watchdog.Progress{}, w, func(ctx context.Context) error { return o.list(ctx, out) })
			ended <- err
		})
		for {
			select {
			case pair := <-out:
				if !yield(pair, nil) {
					return
				}
			case err := <-ended:
				if err != nil {
					yield(plan.Pair{}, err)
				}
				return
			}
		}
	}
}

func canceled(ctx context.Context) error {
	if ctx.Err() == nil {
		return nil
	}
	return &cairn.Error{Op: "prune", Kind: cairn.KindCanceled, Err: context.Cause(ctx)}
}

// deliver is the phase in which a listing waits for its reader.
const deliver = "deliver"

func (o *Options) list(ctx context.Context, out chan<- plan.Pair) error {
	progress := watchdog.From(ctx)
	progress.Enter("list")
	q := cairn.Query{Filter: o.Filter, Names: o.Names, Want: cairn.Want{Versions: true, Leases: true}}
	target := o.Target.Lister.List(ctx, q)
	both := plan.Merge(target, nil)
	if o.Peer != nil {
		q.Want.Leases = false
		both = plan.Merge(target, o.Peer.Lister.List(ctx, q))
	}
	listed := int64(0)
	for pair, err := range both {
		if err != nil {
			return err
		}
		listed++
		progress.Level("datasets", listed)
		progress.Enter(deliver)
		select {
		case out <- pair:
		case <-ctx.Done():
			return canceled(ctx)
		}
		progress.Enter("list")
	}
	return nil
}

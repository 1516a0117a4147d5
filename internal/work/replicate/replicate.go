// Package replicate is the verb that brings the versions of many datasets from one
// place to another: plan, lease, send, receive, confirm.
//
// It lists both places once, plans every dataset (package policy/plan), leases what
// the plans rely on, and then runs the steps in Options.Steps slots, the oldest
// version first over all datasets. Parents are replicated for the first time before
// their children. Each step runs under a watchdog, with phases lease, send,
// receive, commit and confirm; planning does too. A dataset that hangs is
// cancelled, its slot is given to others, and if it does not even end then it is
// locked until it does.
//
// An attempt that fails for a reason that may pass (a lost connection, a broken
// stream, a version that went away meanwhile) is followed by another one: both
// places are listed anew for that dataset, and the new plan goes on from what the
// receiver kept. Whether to try again is decided per dataset, from its own error.
// Attempts that get nowhere are bounded; the progress of a step is one over all its
// attempts, so that failing at the same place for ever is a stall. A dataset is
// done only when a plan was carried out to its end.
//
// A dataset that the receiver has under another name, as GUIDs and its lease on what
// it received show, is renamed there, or is a conflict: it is never sent anew
// because of a name. A clone waits for what is replicated of its origin, and begins
// as a clone at the receiver where that has the origin's version.
//
// After the receiver confirmed a version the sender's cursor moves there, and step
// leases end. If that is lost, the next run makes it good.
//
// What can go wrong: conflicts (typed, with both lists), no room at the receiver
// (the next run resumes) or at the sender (the next run continues from the
// bookmark), damaged data. Errors of one dataset never stop another. When the
// context ends no queued step is begun, and Run returns within the watchdog's
// grace.
package replicate

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"cairn"
	"cairn/internal/mech/retry"
	"cairn/internal/mech/slots"
	"cairn/internal/mech/watchdog"
	"cairn/internal/policy/plan"
	"cairn/internal/policy/retention"
)

// Guarantee says what of a step is held at the sender while it is under way.
type Guarantee uint8

// The guarantees, from the strongest. The zero value is zrepl's default.
const (
	Resumability Guarantee = iota // the versions of the step are held: a cut step can be resumed
	Incremental                   // the target may be destroyed, its bookmark stays: the next step can be incremental
	Nothing                       // nothing is held, and no cursor is kept
)

var guaranteeNames = [...]string{"guarantee_resumability", "guarantee_incremental", "guarantee_nothing"}

// String is the word in the configuration.
func (g Guarantee) String() string { return guaranteeNames[g] }

// ParseGuarantee reads the word of the configuration; empty is the default.
func ParseGuarantee(word string) (Guarantee, error) {
	i := slices.Index(guaranteeNames[:], cmp.Or(word, guaranteeNames[0]))
	if i < 0 {
		return 0, &cairn.Error{Op: "use", Subject: fmt.Sprintf("protection %q", word), Kind: cairn.KindConfig,
			Hint: "write guarantee_resumability, guarantee_incremental or guarantee_nothing"}
	}
	return Guarantee(i), nil
}

// Protection is what is guaranteed for full and for incremental steps.
type Protection struct {
	Initial, Incremental Guarantee
}

// Options say what to replicate. Both endpoints call a dataset by the same name. A
// remote endpoint connects anew by itself on the call after a lost connection.
type Options struct {
	Sender, Receiver *cairn.Endpoint
	Filter           cairn.Filter
	Names            []string // only these, each of which must exist; nil: all that Filter selects
	Owner            string   // of leases: the job's name
	Initial          plan.Initial
	CopyClones       bool            // a clone is sent whole, and is a dataset of its own at the receiver
	Renamed          plan.Renamed    // what is done about a dataset that the receiver has under another name
	Until            cairn.VersionID // the version to end at, when Names is one dataset; zero: the newest
	Protect          Protection
	ReceiverKeep     []cairn.KeepRule // the job's rules for the receiver; what these or Receiver.Info.Keep would destroy is not sent
	Steps            int              // concurrent steps; 0 is 1
	Retry            retry.Policy
	Watchdog         watchdog.Options // its Quarantine, when set, is shared by all runs of the process
	Live             *Live            // nil, or where to watch the run

	// StepDone is told of every step that ended, well or not, by the goroutine of
	// its dataset.
	StepDone func(dataset string, s StepReport)
	// Moved is told when a dataset that the receiver had as was got the sender's name.
	Moved func(dataset, was string)
	Log   *slog.Logger // nil discards
}

// run is one invocation.
type run struct {
	*Options
	live  *Live
	keep  []*retention.Policy // of the receiver
	slots *slots.Slots
	tasks []*task // in byte order of names; set by planning
}

// Run replicates. The report is never nil; the error is not nil when anything
// failed.
func Run(ctx context.Context, o Options) (*Report, error) {
	r := &run{Options: &o, live: o.Live, slots: slots.New(max(o.Steps, 1))}
	if r.live == nil {
		r.live = &Live{}
	}
	if r.Log == nil {
		r.Log = slog.New(slog.DiscardHandler)
	}
	r.live.update(func() { r.live.report.Began = time.Now() })
	err := r.check()
	if err == nil {
		err = r.planAll(ctx)
	}
	if err == nil {
		r.work(ctx)
		err = r.failure()
	}
	r.live.update(func() {
		r.live.report.Ended = time.Now()
		if err != nil {
			r.live.report.Error = err.Error()
		}
	})
	report := r.live.Snapshot()
	return &report, err
}

func (r *run) check() error {
	switch {
	case r.Sender.Lister == nil:
		return r.Sender.Lacks("list", "")
	case r.Sender.Sender == nil:
		return r.Sender.Lacks("send", "")
	case r.Receiver.Lister == nil:
		return r.Receiver.Lacks("list", "")
	case r.Receiver.Receiver == nil:
		return r.Receiver.Lacks("receive", "")
	}
	for _, rules := range [][]cairn.KeepRule{r.ReceiverKeep, r.Receiver.Info.Keep} {
		policy, err := retention.Compile(rules)
		if err != nil {
			return err
		}
		if !policy.Empty() {
			r.keep = append(r.keep, policy)
		}
	}
	return nil
}

// work runs all tasks and waits for them; what is abandoned is not waited for.
// They queue for slots in the order of their versions' age.
func (r *run) work(ctx context.Context) {
	var tasks []*task
	for _, t := range r.tasks {
		if t.settled() {
			continue
		}
		if err := r.Watchdog.Quarantine.Check(t.dataset); err != nil {
			t.end(err)
			continue
		}
		tasks = append(tasks, t)
	}
	slices.SortStableFunc(tasks, func(a, b *task) int { return cmp.Compare(a.todo.priority(0), b.todo.priority(0)) })
	var all sync.WaitGroup
	for _, t := range tasks {
		t.queue()
		all.Go(func() { t.work(ctx) })
	}
	all.Wait()
}

// failure sums the datasets' errors up.
func (r *run) failure() error {
	var first error
	failed := 0
	for _, t := range r.tasks {
		if t.err != nil {
			failed++
			if first == nil {
				first = t.err
			}
		}
	}
	if failed == 0 || len(r.tasks) == 1 {
		return first
	}
	return &cairn.Error{Op: "replicate", Subject: fmt.Sprintf("%d of %d datasets", failed, len(r.tasks)),
		Place: r.Receiver.Info.Place, Kind: cairn.KindOf(first), Err: first}
}

// watch is the watchdog's options for one piece of work.
func (r *run) watch(op, dataset string) watchdog.Options {
	w := r.Watchdog
	w.Op, w.Subject, w.Lock = op, dataset, dataset
	if dataset == "" {
		w.Quarantine = nil
	}
	return w
}

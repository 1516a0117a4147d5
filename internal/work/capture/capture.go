// Package capture is the verb that makes versions: a snapshot of every selected
// dataset under one name, at one instant where the place can and the caller asks,
// or bookmarks alone.
//
// Each dataset has its own result; one that fails does not stop the others, except
// in an atomic capture, where all or none is made. Sealed replicas and placeholders
// that a filter selects are passed over and said to be; named outright, they are an
// error. Nothing is retried: the next period, or the person who asked, is the retry.
// A place that stands still is cancelled by the watchdog.
//
// What can go wrong: the name is taken (KindExists, as when a clock was set back),
// a volume is unverified or out of room, the place cannot do it (KindUnsupported).
package capture

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"cairn"
	"cairn/internal/mech/watchdog"
	"cairn/internal/policy/schedule"
)

// Options say what to capture.
type Options struct {
	Endpoint *cairn.Endpoint
	Filter   cairn.Filter
	Names    []string // only these, each of which must exist; nil: all that Filter selects
	Name     string   // of the version, without its '@'
	Atomic   bool     // all at one instant, or none
	Bookmark bool     // leave only a bookmark: the changes are tracked from here on, no data is kept
	Hooks    []Hook   // in this order before, in the reverse order after
	Watchdog watchdog.Options
	Log      *slog.Logger // nil discards

	settled int64 // datasets captured or failed, for progress
}

// Report says what became of every dataset.
type Report struct {
	Name     string    `json:"name"`
	Began    time.Time `json:"began"`
	Ended    time.Time `json:"ended"`
	Datasets []Result  `json:"datasets"`
}

// Result is one dataset's. One of Version, Skipped and Error is set.
type Result struct {
	Dataset   string    `json:"dataset"`
	Version   string    `json:"version,omitempty"` // with its '@' or '#'
	GUID      string    `json:"guid,omitempty"`
	Created   time.Time `json:"created,omitzero"`
	Skipped   string    `json:"skipped,omitempty"` // why it was passed over
	Warning   string    `json:"warning,omitempty"` // of a hook whose failure did not prevent the version
	Error     string    `json:"error,omitempty"`
	ErrorKind string    `json:"error_kind,omitempty"`

	err error
}

func (r *Result) fail(err error) {
	r.err, r.Error, r.ErrorKind = err, err.Error(), cairn.KindOf(err).String()
}

// Run captures. The report is never nil; the error is not nil when anything failed.
func Run(ctx context.Context, o Options) (*Report, error) {
	report := &Report{Name: o.Name, Began: time.Now()}
	err := o.check()
	if err == nil {
		w := o.Watchdog
		w.Op, w.Subject, w.Place = "capture", "@"+o.Name, o.Endpoint.Info.Place
		report.Datasets, err, _ = watchdog.Value(ctx, &watchdog.Progress{}, w, o.run)
	}
	report.Ended = time.Now()
	if err != nil {
		return report, err
	}
	return report, report.failure()
}

func (o *Options) check() error {
	if err := cairn.CheckVersionName("@" + o.Name); err != nil {
		return err
	}
	switch {
	case o.Endpoint.Lister == nil:
		return o.Endpoint.Lacks("list", "")
	case o.Endpoint.Snapshots == nil:
		return o.Endpoint.Lacks("snapshot", "")
	case o.Bookmark && o.Endpoint.Bookmarks == nil:
		return o.Endpoint.Lacks("bookmark", "")
	}
	return nil
}

func (o *Options) run(ctx context.Context) ([]Result, error) {
	progress := watchdog.From(ctx)
	progress.Enter("list")
	results, err := o.selected(ctx)
	if err != nil {
		return nil, err
	}
	if err := firstError(results); err != nil && o.Atomic {
		return results, err
	}
	var fit []*Result
	for i := range results {
		if r := &results[i]; r.Skipped == "" && r.err == nil {
			fit = append(fit, r)
		}
	}
	for _, b := range o.batches(fit) {
		if err := o.captureBatch(ctx, b); err != nil {
			return results, err
		}
	}
	return results, nil
}

// captureBatch captures datasets by one call, with their hooks around it.
func (o *Options) captureBatch(ctx context.Context, batch []*Result) error {
	ran := o.before(ctx, batch)
	defer o.after(ctx, ran)
	if o.Atomic && slices.ContainsFunc(batch, prevented) {
		return nil
	}
	batch = slices.DeleteFunc(batch, prevented)
	if len(batch) == 0 {
		return nil
	}
	names := make([]string, len(batch))
	for i, r := range batch {
		names[i] = r.Dataset
	}
	progress := watchdog.From(ctx)
	progress.Enter("capture")
	captured, err := o.Endpoint.Snapshots.Snapshot(ctx, "@"+o.Name, names, o.Atomic)
	if err != nil {
		return err
	}
	for i, c := range captured {
		o.settle(ctx, batch[i], c)
		o.settled++
		progress.Level("datasets", o.settled)
	}
	return nil
}

// settle writes one result down and makes the bookmark that was asked for.
func (o *Options) settle(ctx context.Context, r *Result, c cairn.Captured) {
	v, err := c.Version, c.Err
	if err == nil && o.Bookmark {
		v, err = o.Endpoint.Bookmarks.Bookmark(ctx, r.Dataset, v.VersionID, "#"+o.Name, true)
	}
	if err != nil {
		r.fail(err)
		return
	}
	r.Version, r.GUID, r.Created = v.Name, v.GUID.String(), v.Created
	if o.Log != nil {
		o.Log.Info("captured", "dataset", r.Dataset, "version", v.Name)
	}
}

// selected lists what to capture, with a result ready for each; what is named and
// cannot be is an error in its result.
func (o *Options) selected(ctx context.Context) ([]Result, error) {
	var results []Result
	found := map[string]bool{}
	for l, err := range o.Endpoint.Lister.List(ctx, cairn.Query{Filter: o.Filter, Names: o.Names}) {
		if err != nil {
			return nil, err
		}
		r := Result{Dataset: l.Dataset.Name}
		found[r.Dataset] = true
		if why := unfit(l.Dataset); why != "" && o.Names == nil {
			r.Skipped = why
		} else if why != "" {
			r.fail(&cairn.Error{Op: "capture", Subject: r.Dataset, Kind: cairn.KindConflict, Err: fmt.Errorf("it %s", why)})
		}
		results = append(results, r)
	}
	for _, name := range o.Names {
		if !found[name] {
			r := Result{Dataset: name}
			r.fail(&cairn.Error{Op: "capture", Subject: name, Place: o.Endpoint.Info.Place, Kind: cairn.KindNotFound, Hint: "cairn list shows what there is"})
			results = append(results, r)
		}
	}
	return results, nil
}

// unfit says why a dataset is not captured.
func unfit(d cairn.Dataset) string {
	switch {
	case d.Placeholder:
		return "only holds children"
	case d.Sealed:
		return "is a sealed replica, which takes its versions from the sender"
	}
	return ""
}

func firstError(results []Result) error {
	for _, r := range results {
		if r.err != nil {
			return r.err
		}
	}
	return nil
}

// failure sums the datasets' errors up.
func (r *Report) failure() error {
	failed := 0
	for _, d := range r.Datasets {
		if d.err != nil {
			failed++
		}
	}
	first := firstError(r.Datasets)
	if failed == 0 || len(r.Datasets) == 1 {
		return first
	}
	return &cairn.Error{Op: "capture", Subject: fmt.Sprintf("%d of %d datasets", failed, len(r.Datasets)), Kind: cairn.KindOf(first), Err: first}
}

// DueOptions ask when a periodic capture is due.
type DueOptions struct {
	Endpoint *cairn.Endpoint
	Filter   cairn.Filter
	Naming   schedule.Naming
	Interval time.Duration
	Now      time.Time
	Watchdog watchdog.Options
}

// Due is when the next periodic capture should take place: one interval after the
// newest snapshot of this naming, counted per dataset, the earliest of all. With no
// dataset it is one interval from now.
func Due(ctx context.Context, o DueOptions) (time.Time, error) {
	due := o.Now.Add(o.Interval)
	w := o.Watchdog
	w.Op, w.Subject, w.Place = "find when to capture", "", o.Endpoint.Info.Place
	at, err, _ := watchdog.Value(ctx, &watchdog.Progress{}, w, func(ctx context.Context) (time.Time, error) {
		watchdog.From(ctx).Enter("list")
		return o.earliest(ctx, due)
	})
	return at, err
}

func (o *DueOptions) earliest(ctx context.Context, due time.Time) (time.Time, error) {
	listed := int64(0)
	for l, err := range o.Endpoint.Lister.List(ctx, cairn.Query{Filter: o.Filter, Want: cairn.Want{Versions: true}}) {
		if err != nil {
			return time.Time{}, err
		}
		listed++
		watchdog.From(ctx).Level("datasets", listed)
		if unfit(l.Dataset) != "" {
			continue
		}
		if at := schedule.Due(newest(l.Versions, o.Naming), o.Now, o.Interval); at.Before(due) {
			due = at
		}
	}
	return due, nil
}

// newest is when the youngest snapshot of this naming was captured.
func newest(versions []cairn.Version, naming schedule.Naming) time.Time {
	var at time.Time
	for _, v := range versions {
		if v.IsSnapshot() && naming.Matches(v.Name[1:]) && v.Created.After(at) {
			at = v.Created
		}
	}
	return at
}

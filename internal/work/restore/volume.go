package restore

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"cairn"
	"cairn/internal/mech/retry"
	"cairn/internal/mech/watchdog"
	"cairn/internal/policy/plan"
	"cairn/internal/work/replicate"
)

// VolumeOptions say what to restore to which dataset.
type VolumeOptions struct {
	Source  *cairn.Endpoint
	Dataset string
	Version string          // with its '@'
	Target  *cairn.Endpoint // may be the same place as Source
	As      string          // name at the target; empty is Dataset

	// Confirm is asked before an existing dataset is touched; an error is the
	// answer no. nil refuses.
	Confirm  func(ctx context.Context, question string) error
	DryRun   bool
	Retry    retry.Policy
	Watchdog watchdog.Options
	Live     *replicate.Live // nil, or where to watch the transfer
	Log      *slog.Logger
}

// owner of what a restore leases.
const owner = "restore"

// toVolume is one call of ToVolume.
type toVolume struct {
	*VolumeOptions
	source  *cairn.Listing
	version cairn.Version
	target  *cairn.Listing // nil: it does not exist
	base    cairn.Version  // at the target: what it is rolled back to
	report  *Report
}

// ToVolume restores a version to a dataset. The report is never nil.
func ToVolume(ctx context.Context, o VolumeOptions) (*Report, error) {
	o.As = cmp.Or(o.As, o.Dataset)
	t := &toVolume{VolumeOptions: &o, report: &Report{Version: o.Dataset + o.Version, Target: o.As, DryRun: o.DryRun, Began: time.Now()}}
	err := t.restore(ctx)
	t.report.Ended = time.Now()
	return t.report, err
}

func (t *toVolume) restore(ctx context.Context) error {
	if err := cairn.CheckDatasetName(t.As); err != nil {
		return err
	}
	if err := t.watched(ctx, "list", t.look); err != nil {
		return err
	}
	if err := t.choose(); err != nil {
		return err
	}
	if t.DryRun {
		return nil
	}
	if t.target != nil && !t.continues() {
		if err := t.confirm(ctx); err != nil {
			return err
		}
	}
	return t.carryOut(ctx)
}

// watched runs one short piece under the watchdog.
func (t *toVolume) watched(ctx context.Context, phase string, fn func(ctx context.Context) error) error {
	w := t.Watchdog
	w.Op, w.Subject, w.Lock = "restore", t.As, t.As
	err, _ := watchdog.Run(ctx, &watchdog.Progress{}, w, func(ctx context.Context) error {
		watchdog.From(ctx).Enter(phase)
		return fn(ctx)
	})
	return err
}

func (t *toVolume) look(ctx context.Context) (err error) {
	if t.source, t.version, err = wanted(ctx, t.Source, t.Dataset, t.Version); err != nil {
		return err
	}
	t.target, err = find(ctx, t.Target, t.As)
	return err
}

// continues reports whether the target is what an interrupted restore of this
// version left.
func (t *toVolume) continues() bool {
	if t.target == nil || t.target.Partial == nil || t.target.Partial.To.GUID != t.version.GUID {
		return false
	}
	var newest cairn.GUID
	for _, v := range t.target.Versions {
		if v.IsSnapshot() {
			newest = v.GUID
		}
	}
	return t.target.Partial.From.GUID == newest
}

// choose finds the gentlest way and describes it.
func (t *toVolume) choose() error {
	t.report.Size = t.version.Size
	version := t.Dataset + t.Version
	switch same, common := t.common(); {
	case t.target == nil:
		t.report.Method = New
		t.say("create %s and send %s there in full", t.As, version)
	case t.continues():
		t.report.Method = New
		if !common.IsZero() {
			t.report.Method = Incremental
		}
		t.say("go on sending %s to %s", version, t.As)
	case !same.IsZero():
		t.report.Method, t.base = Rollback, same
		t.say("return %s to %s, which it holds", t.As, same.Name)
		t.sayLosses()
	case !common.IsZero():
		t.report.Method, t.base = Incremental, common
		t.say("return %s to %s, the newest version it has in common with %s", t.As, common.Name, version)
		t.sayLosses()
		t.say("send what changed since then up to %s", t.Version)
	default:
		t.report.Method = Aside
		t.report.MovedTo = t.As + ".before-restore-" + t.report.Began.UTC().Format("20060102_150405")
		t.say("rename %s to %s, since it has no version in common with %s", t.As, t.report.MovedTo, version)
		t.say("create %s and send %s there in full", t.As, version)
	}
	return t.check()
}

func (t *toVolume) sayLosses() {
	t.say("lose what was written to %s since", t.As)
	if newer := t.newer(); len(newer) > 0 {
		t.say("destroy %d newer versions of it: %s", len(newer), strings.Join(newer, " "))
	}
}

func (t *toVolume) say(format string, args ...any) {
	t.report.Plan = append(t.report.Plan, fmt.Sprintf(format, args...))
}

func (t *toVolume) newer() []string {
	var names []string
	for _, v := range t.target.Versions {
		if v.Order > t.base.Order {
			names = append(names, v.Name)
		}
	}
	return names
}

// common finds, at the target, the version itself, or the newest snapshot that is
// older and known at the source.
func (t *toVolume) common() (same, base cairn.Version) {
	if t.target == nil {
		return same, base
	}
	older := map[cairn.GUID]bool{}
	for _, v := range t.source.Versions {
		if v.Order < t.version.Order {
			older[v.GUID] = true
		}
	}
	for _, v := range t.target.Versions {
		switch {
		case !v.IsSnapshot():
		case v.GUID == t.version.GUID:
			same = v
		case older[v.GUID]:
			base = v
		}
	}
	return same, base
}

// check refuses before anything is touched what the places cannot do.
func (t *toVolume) check() error {
	m := t.report.Method
	switch {
	case (m == Rollback || m == Incremental) && t.Target.Rollbacks == nil:
		return t.Target.Lacks("rollback", t.As)
	case m == Aside && t.Target.Renames == nil:
		return t.Target.Lacks("rename", t.As)
	case m != Rollback && t.Source.Sender == nil:
		return t.Source.Lacks("send", t.Dataset)
	case m != Rollback && t.Target.Receiver == nil:
		return t.Target.Lacks("receive", t.As)
	case m == Incremental && t.Target.Seals == nil:
		return t.Target.Lacks("seal", t.As)
	}
	return nil
}

func (t *toVolume) confirm(ctx context.Context) error {
	if t.Confirm == nil {
		return &cairn.Error{Op: "restore", Subject: t.Dataset + t.Version, Place: t.Target.Info.Place, Kind: cairn.KindExists,
			Err: fmt.Errorf("%s is there already", t.As), Hint: "confirm it, or restore under another name"}
	}
	return t.Confirm(ctx, "This will "+strings.Join(t.report.Plan, ", ")+".")
}

func (t *toVolume) carryOut(ctx context.Context) error {
	for _, step := range t.steps() {
		if err := step(ctx); err != nil {
			return err
		}
	}
	t.report.Verified = t.report.Method != Rollback
	return nil
}

// steps are what the method consists of. A replica that was sealed stays so; what
// was restored otherwise can be written to.
func (t *toVolume) steps() (steps []func(context.Context) error) {
	add := func(phase string, fn func(context.Context) error) {
		steps = append(steps, func(ctx context.Context) error { return t.watched(ctx, phase, fn) })
	}
	m := t.report.Method
	switch {
	case m == Aside:
		add("rename", func(ctx context.Context) error { return t.Target.Renames.Rename(ctx, t.As, t.report.MovedTo) })
	case m == Rollback, m == Incremental && !t.continues():
		add("rollback", t.rollBack)
	}
	if m == Rollback {
		return steps
	}
	steps = append(steps, t.transfer)
	if replica := m == Incremental && t.target.Dataset.Sealed && !t.continues(); !replica {
		add("seal", t.unseal)
	}
	return steps
}

func (t *toVolume) rollBack(ctx context.Context) error {
	if t.target.Partial != nil && t.Target.Receiver != nil {
		if err := t.Target.Receiver.Abort(ctx, t.As); err != nil {
			return err
		}
	}
	if err := ReleaseNewer(ctx, t.Target, t.target, t.base.Order); err != nil {
		return err
	}
	if err := t.Target.Rollbacks.Rollback(ctx, t.As, t.base.VersionID, true); err != nil {
		return err
	}
	if t.report.Method == Incremental {
		return t.Target.Seals.Seal(ctx, t.As, true)
	}
	return nil
}

// unseal makes the restored dataset writable. A place without seals has it so.
func (t *toVolume) unseal(ctx context.Context) error {
	if t.Target.Seals == nil {
		return nil
	}
	return t.Target.Seals.Seal(ctx, t.As, false)
}

// transfer replicates up to the version.
func (t *toVolume) transfer(ctx context.Context) error {
	nothing := replicate.Protection{Initial: replicate.Nothing, Incremental: replicate.Nothing}
	r, err := replicate.Run(ctx, replicate.Options{
		Sender: renamed(t.Source, t.Dataset, t.As), Receiver: t.Target, Filter: cairn.All, Names: []string{t.As}, Owner: owner,
		Initial: plan.MostRecent, Until: t.version.VersionID, Protect: nothing, Retry: t.Retry, Watchdog: t.Watchdog, Live: t.Live, Log: t.Log,
	})
	for _, d := range r.Datasets {
		for _, a := range d.Attempts {
			for _, s := range a.Steps {
				t.report.BytesMoved += s.BytesMoved
			}
		}
	}
	return err
}

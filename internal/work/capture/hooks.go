package capture

import (
	"context"
	"slices"

	"cairn"
	"cairn/internal/mech/watchdog"
)

// Hook is called before and after the capture of the datasets it is for. What it
// was called for before, it is called for after, whatever became of the capture.
type Hook struct {
	Filter cairn.Filter
	Fatal  bool // a failure before prevents the capture; otherwise it is a warning
	Run    func(ctx context.Context, after bool, dataset, version string) error
}

// A hookRun is a hook that was called before a capture.
type hookRun struct {
	hook   *Hook
	result *Result
}

// batches splits datasets into those captured by one call: all of an atomic
// capture, else all without hooks, and each with hooks for itself, so that an
// application pauses for its own capture only.
func (o *Options) batches(fit []*Result) [][]*Result {
	hooked := func(r *Result) bool {
		return slices.ContainsFunc(o.Hooks, func(h Hook) bool { return h.Filter.Match(r.Dataset) })
	}
	if o.Atomic || !slices.ContainsFunc(fit, hooked) {
		return [][]*Result{fit}
	}
	var plain []*Result
	var single [][]*Result
	for _, r := range fit {
		if hooked(r) {
			single = append(single, []*Result{r})
		} else {
			plain = append(plain, r)
		}
	}
	return append([][]*Result{plain}, single...)
}

// before calls the hooks of a batch and returns those to call again afterwards. A
// dataset whose capture a hook prevents has its error.
func (o *Options) before(ctx context.Context, batch []*Result) []hookRun {
	var ran []hookRun
	for _, r := range batch {
		for i := range o.Hooks {
			h := &o.Hooks[i]
			if r.err != nil || !h.Filter.Match(r.Dataset) {
				continue
			}
			watchdog.From(ctx).Enter("hook")
			err := h.Run(ctx, false, r.Dataset, "@"+o.Name)
			switch {
			case err == nil:
				ran = append(ran, hookRun{h, r})
			case h.Fatal:
				r.fail(err)
			default:
				o.warn(r, err)
			}
		}
	}
	return ran
}

// after calls the hooks again, last first, also when the context has ended: an
// application must not stay paused.
func (o *Options) after(ctx context.Context, ran []hookRun) {
	for _, run := range slices.Backward(ran) {
		watchdog.From(ctx).Enter("hook")
		if err := run.hook.Run(context.WithoutCancel(ctx), true, run.result.Dataset, "@"+o.Name); err != nil {
			o.warn(run.result, err)
		}
	}
}

func prevented(r *Result) bool { return r.err != nil }

func (o *Options) warn(r *Result, err error) {
	r.Warning = err.Error()
	if o.Log != nil {
		o.Log.Warn("hook failed", "dataset", r.Dataset, "err", err)
	}
}

// Package retry calls something again while it fails in a way that may pass.
//
// It promises at most so many attempts, waits between them that double with
// jitter up to a limit, and that nothing is started once the context is done. It
// knows nothing of progress: attempts share a watchdog.Progress, so that a loop
// of retries that gets nowhere is a stall (internal/mech/watchdog).
//
// What can go wrong: retrying a call that is not safe to make twice. Every call of
// the root contracts is.
package retry

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"cairn"
)

// Policy says how often, how long, and after which errors. The zero value is
// three attempts, 1 s and 2 s apart, after KindUnavailable.
type Policy struct {
	Attempts int           // in all; 0 is 3
	First    time.Duration // wait after the first failure; 0 is 1 s
	Max      time.Duration // longest wait; 0 is one minute
	Again    func(error) bool

	// Waiting, when not nil, is told of each wait before it begins: the attempt
	// that failed (from 1), its error, and how long the wait will be.
	Waiting func(attempt int, err error, wait time.Duration)
}

// Transient reports whether err may pass by itself: the place cannot be reached.
// It is what a Policy without Again goes by.
func Transient(err error) bool { return cairn.KindOf(err) == cairn.KindUnavailable }

// Do calls fn (with the attempt's number, from 1) until it succeeds, fails for
// good, or has had its attempts, and returns its last error. When ctx ends between
// two attempts the error is KindCanceled and holds both causes.
func Do(ctx context.Context, p Policy, fn func(ctx context.Context, attempt int) error) error {
	again := p.Again
	if again == nil {
		again = Transient
	}
	for attempt := 1; ; attempt++ {
		err := fn(ctx, attempt)
		if err == nil || attempt >= p.attempts() || !again(err) {
			return err
		}
		wait := p.wait(attempt)
		if p.Waiting != nil {
			p.Waiting(attempt, err, wait)
		}
		if cause := sleep(ctx, wait); cause != nil {
			return &cairn.Error{Op: "try again", Kind: cairn.KindCanceled, Err: fmt.Errorf("%w; attempt %d failed: %w", cause, attempt, err)}
		}
	}
}

func (p Policy) attempts() int {
	if p.Attempts == 0 {
		return 3
	}
	return p.Attempts
}

// wait is the pause after the n-th failure: between half of the doubled time and
// all of it, so that those who failed together do not return together.
func (p Policy) wait(n int) time.Duration {
	d, limit := p.First, p.Max
	if d <= 0 {
		d = time.Second
	}
	if limit <= 0 {
		limit = time.Minute
	}
	for ; n > 1 && d < limit; n-- {
		d *= 2
	}
	d = min(d, limit)
	return d/2 + rand.N(d/2+1)
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

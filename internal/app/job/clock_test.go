package job_test

import (
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cairn/internal/app/job"
)

const year = 365 * 24 * time.Hour

// A clock that was a year ahead is set right: the schedule does not wait a year,
// nor does a retry.
func TestClockSetBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var ahead atomic.Int64
		ahead.Store(int64(year))
		b := runAt(t, job.Options{Next: every(10 * time.Minute)}, &ahead)
		synctest.Wait()
		pass(time.Minute)
		ahead.Store(0)
		pass(time.Minute)
		b.want("")
		pass(10 * time.Minute)
		if b.seen() == "" {
			t.Errorf("nothing was done in 12 minutes; next is %v", b.job.Status().Next)
		}
	})
	bubble(t, func(t *testing.T) {
		var ahead atomic.Int64
		ahead.Store(int64(year))
		b := runAt(t, job.Options{Retry: func(int) time.Duration { return 5 * time.Minute }}, &ahead)
		b.set("replicate", errors.New("away"), 0)
		wake(t, b)
		b.forget()
		b.set("replicate", nil, 0)
		ahead.Store(0)
		pass(6 * time.Minute)
		if b.seen() == "" {
			t.Errorf("no retry in 6 minutes; next is %v", b.job.Status().Next)
		}
	})
}

// A clock that is set forward, or a machine that slept, is late: what is due is
// done at once, and once.
func TestClockSetForward(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var ahead atomic.Int64
		b := runAt(t, job.Options{Next: every(10 * time.Minute), Retry: func(int) time.Duration { return 5 * time.Minute }}, &ahead)
		b.set("replicate", errors.New("away"), 0)
		wake(t, b)
		b.forget()
		b.set("replicate", nil, 0)
		ahead.Store(int64(year))
		pass(11 * time.Second)
		if b.seen() == "" {
			t.Errorf("nothing was done; next is %v", b.job.Status().Next)
		}
		b.forget()
		pass(9 * time.Minute)
		b.want("")
	})
}

// wake runs the job once.
func wake(t *testing.T, b *bench) {
	t.Helper()
	synctest.Wait()
	if _, err := b.job.Wake(t.Context(), job.Request{Cause: job.ByRequest}); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
}

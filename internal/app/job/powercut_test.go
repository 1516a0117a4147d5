package job_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"cairn/internal/app/job"
	"cairn/internal/mech/blockio"
	"cairn/internal/testkit/fakedisk"
)

// promise is what a call that returned has promised.
type promise struct {
	at    int // entries of the disk's log when it returned
	run   uint64
	ended bool
}

// small opens a history that rotates every few runs.
func small(fsys blockio.FS) (*job.History, error) {
	s := job.Open(fsys, nil)
	s.SetFileBytes(2000)
	return s.History("nightly")
}

// writeRuns records runs of three steps and says what each call promised.
func writeRuns(t *testing.T, d *fakedisk.Disk, h *job.History, runs int) (promises []promise) {
	t.Helper()
	for range runs {
		id := begin(t, h)
		promises = append(promises, promise{d.Len(), id, false})
		for n := range 3 {
			must(t, h.Step(step(n)))
		}
		must(t, h.Verb(job.VerbRecord{Verb: "replicate", State: job.Done, Started: t0}))
		must(t, h.End(job.Done, t0, job.Failure{}))
		promises = append(promises, promise{d.Len(), id, true})
	}
	return promises
}

// A power cut at any call leaves a log that opens, in which every run that had begun
// is there, every run that had ended is whole, and what was cut shows as interrupted.
func TestPowerCutAtEveryCall(t *testing.T) {
	d := fakedisk.New()
	h, err := small(d)
	must(t, err)
	promises := writeRuns(t, d, h, 8)
	rotated := false
	for r := d.Replay(); ; {
		for what := range fakedisk.Subset(12) {
			crashed := r.Crash(what)
			if err := checkCut(crashed, promises, r.Pos()); err != nil {
				t.Fatalf("cut after %d of %d calls, subset %d: %v", r.Pos(), d.Len(), what, err)
			}
			names, err := crashed.ReadDir(".")
			must(t, err)
			rotated = rotated || len(names) == 2
		}
		if !r.Next() {
			break
		}
	}
	if !rotated {
		t.Error("no cut met a rotated log")
	}
}

func checkCut(crashed *fakedisk.Disk, promises []promise, pos int) error {
	h, err := small(crashed)
	if err != nil {
		return err
	}
	runs, err := h.List(0)
	if err != nil {
		return err
	}
	byID := map[uint64]job.Run{}
	oldest := uint64(0)
	for _, r := range runs {
		byID[r.ID], oldest = r, r.ID
		if r.State == job.Running {
			return fmt.Errorf("run %d is running after the cut", r.ID)
		}
	}
	kept := 0
	for _, p := range promises {
		if p.at > pos {
			break
		}
		r, ok := byID[p.run]
		switch {
		case p.run < oldest: // rotated away
		case !ok:
			return fmt.Errorf("run %d is gone; there are %v", p.run, ids(runs))
		case p.ended && (r.State != job.Done || len(r.Steps) != 3 || len(r.Verbs) != 1):
			return fmt.Errorf("run %d had ended and is %+v", p.run, r)
		default:
			kept++
		}
		if p.run > 3 && len(runs) < 3 {
			return fmt.Errorf("after run %d only %v are kept", p.run, ids(runs))
		}
	}
	if kept == 0 && pos >= promises[0].at {
		return fmt.Errorf("nothing that was promised is kept; there are %v", ids(runs))
	}
	id, err := h.Begin(job.Run{Started: t0})
	if err != nil {
		return err
	}
	if len(runs) > 0 && id != runs[0].ID+1 {
		return fmt.Errorf("run %d follows %d", id, runs[0].ID)
	}
	return h.End(job.Done, t0, job.Failure{})
}

// Only steps of the second after the last sync may be lost.
func TestPowerCutLosesStepsOfOneSecondAtMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := fakedisk.New()
		h, err := small(d)
		must(t, err)
		begin(t, h)
		must(t, h.Step(step(1)))
		time.Sleep(time.Second)
		must(t, h.Step(step(2)))
		r := d.Replay()
		r.Seek(d.Len())
		h, err = small(r.Crash(fakedisk.Nothing))
		must(t, err)
		if runs := list(t, h); len(runs) != 1 || len(runs[0].Steps) != 2 {
			t.Errorf("recorded %+v", runs)
		}
	})
}

// Whatever call fails, once, the log opens afterwards and what ends later is whole.
func TestEveryCallFailsOnce(t *testing.T) {
	for n := 1; ; n++ {
		d := fakedisk.New()
		calls, hit := 0, false
		d.OnCall(func(fakedisk.Call) error {
			if calls++; calls == n {
				hit = true
				return errFault
			}
			return nil
		})
		h, err := small(d)
		if err != nil {
			if h, err = small(d); err != nil {
				t.Fatalf("call %d failed, then opening did: %v", n, err)
			}
		}
		failures := 0
		for range 6 {
			_, err := h.Begin(job.Run{Started: t0})
			for _, err := range []error{err, h.Step(step(1)), h.End(job.Done, t0, job.Failure{})} {
				if err != nil {
					failures++
				}
			}
		}
		d.OnCall(nil)
		if failures > 2 {
			t.Fatalf("call %d failed, and %d records did", n, failures)
		}
		h, err = small(d)
		must(t, err)
		runs := list(t, h)
		if len(runs) < 2 || runs[0].ID < 5 {
			t.Fatalf("call %d failed, and there are runs %v", n, ids(runs))
		}
		if !hit {
			return
		}
	}
}

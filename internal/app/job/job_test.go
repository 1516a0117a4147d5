package job_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cairn"
	"cairn/internal/app/job"
)

// bench is a job under a driven clock, whose verbs do what the test says.
type bench struct {
	t    *testing.T
	job  *job.Job
	hist *job.History
	end  context.CancelFunc
	done chan struct{}
	logs *bytes.Buffer

	mu     sync.Mutex // guards what follows
	calls  []string   // "verb@minutes" with datasets
	busy   int
	begun  time.Time
	fail   map[string]error
	length map[string]time.Duration
}

// verb is a verb of the bench: it takes its length, fails as told and heeds its
// context.
func (b *bench) verb(name string, always bool) job.Verb {
	return job.Verb{Name: name, Always: always, Run: func(ctx context.Context, in job.Input) error {
		b.mu.Lock()
		b.calls = append(b.calls, fmt.Sprintf("%s@%v%s", name, time.Since(b.begun), strings.Join(in.Datasets, "+")))
		b.busy++
		if b.busy > 1 {
			b.t.Error("two verbs at once")
		}
		err, length := b.fail[name], b.length[name]
		b.mu.Unlock()
		defer func() {
			b.mu.Lock()
			b.busy--
			b.mu.Unlock()
		}()
		in.Step(job.Step{Dataset: "db", State: job.Done, Started: time.Now(), Ended: time.Now()})
		select {
		case <-time.After(length):
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}}
}

func (b *bench) set(verb string, err error, length time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fail[verb], b.length[verb] = err, length
}

func (b *bench) seen() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Join(b.calls, " ")
}

func (b *bench) forget() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.calls = nil
}

// run starts a job in the bubble; the test ends it.
func run(t *testing.T, o job.Options) *bench {
	t.Helper()
	return runAt(t, o, nil)
}

// runAt is run with a wall clock that is off by what ahead says.
func runAt(t *testing.T, o job.Options, ahead *atomic.Int64) *bench {
	t.Helper()
	b := &bench{t: t, begun: time.Now(), fail: map[string]error{}, length: map[string]time.Duration{}, logs: &bytes.Buffer{}}
	b.hist = open(t, folder(t, t.TempDir()))
	o.Name, o.History = "nightly", b.hist
	if o.Verbs == nil {
		o.Verbs = []job.Verb{b.verb("capture", false), b.verb("replicate", true), b.verb("prune", true)}
	}
	o.Log = slog.New(slog.NewTextHandler(b.logs, &slog.HandlerOptions{Level: slog.LevelWarn}))
	j, err := job.New(o)
	must(t, err)
	b.job = j
	if ahead != nil {
		j.SetWallClock(func() time.Time { return time.Now().Round(0).Add(time.Duration(ahead.Load())) })
	}
	ctx, cancel := context.WithCancel(t.Context())
	b.end, b.done = cancel, make(chan struct{})
	go func() {
		defer close(b.done)
		j.Run(ctx)
	}()
	t.Cleanup(func() { cancel(); <-b.done })
	return b
}

// every is a schedule like zrepl's periodic one.
func every(d time.Duration) func(context.Context, time.Time) (time.Time, error) {
	return func(_ context.Context, after time.Time) (time.Time, error) { return after.Add(d), nil }
}

func bubble(t *testing.T, fn func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, fn)
}

func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (b *bench) want(calls string) {
	b.t.Helper()
	if got := b.seen(); got != calls {
		b.t.Errorf("did %q, want %q", got, calls)
	}
}

func (b *bench) newest() job.Run {
	b.t.Helper()
	runs, err := b.job.Runs(1)
	must(b.t, err)
	if len(runs) == 0 {
		b.t.Fatal("no run is recorded")
	}
	return runs[0]
}

func TestRunsBySchedule(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := run(t, job.Options{Next: every(10 * time.Minute)})
		synctest.Wait()
		if s := b.job.Status(); s.State != "waiting" || time.Until(s.Next) != 10*time.Minute {
			t.Errorf("status %+v", s)
		}
		pass(10*time.Minute + time.Second)
		b.want("capture@10m0s replicate@10m0s prune@10m0s")
		r := b.newest()
		if r.Cause != job.BySchedule || r.State != job.Done || len(r.Verbs) != 3 || len(r.Steps) != 3 || r.Steps[1].Verb != "replicate" {
			t.Errorf("recorded %+v", r)
		}
		b.forget()
		pass(10 * time.Minute)
		b.want("capture@20m0s replicate@20m0s prune@20m0s")
	})
}

func TestPruningFollowsFailedAndStuckReplication(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := run(t, job.Options{})
		for _, c := range []struct {
			kind cairn.Kind
			want job.State
		}{{cairn.KindUnavailable, job.Failed}, {cairn.KindStuck, job.Stuck}} {
			b.forget()
			b.set("replicate", &cairn.Error{Op: "send", Kind: c.kind, Hint: "look at the vault"}, 0)
			b.set("prune", errors.New("something small"), 0)
			_, err := b.job.Wake(t.Context(), job.Request{})
			must(t, err)
			synctest.Wait()
			b.want("capture@0s replicate@0s prune@0s")
			r := b.newest()
			if r.State != c.want || r.Kind != c.kind.String() || r.Hint != "look at the vault" {
				t.Errorf("%v: recorded %+v", c.kind, r)
			}
			if r.Verbs[0].State != job.Done || r.Verbs[1].State != c.want || r.Verbs[2].State != job.Failed {
				t.Errorf("%v: verbs %+v", c.kind, r.Verbs)
			}
		}
	})
}

func TestFailedVerbSkipsThoseThatNeedIt(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := run(t, job.Options{})
		b.set("capture", errors.New("no room"), 0)
		var needs []job.Verb
		needs = append(needs, b.verb("capture", false), b.verb("replicate", false), b.verb("prune", true))
		b2 := run(t, job.Options{Verbs: needs})
		_, err := b2.job.Wake(t.Context(), job.Request{})
		must(t, err)
		synctest.Wait()
		b.want("capture@0s prune@0s")
	})
}

// While busy, requests and schedule times are merged into one run that follows.
// The schedule asks for all verbs and datasets, so that the run does all of them.
func TestNothingIsDroppedWhileBusy(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := run(t, job.Options{Next: every(10 * time.Minute)})
		b.set("replicate", nil, 35*time.Minute)
		pass(15 * time.Minute)
		b.forget()
		var wg sync.WaitGroup
		var got [2]job.Run
		for i, r := range []job.Request{
			{Verbs: []string{"replicate"}, Datasets: []string{"a"}},
			{Verbs: []string{"prune", "replicate"}, Datasets: []string{"b", "a"}},
		} {
			wg.Go(func() {
				var err error
				got[i], err = b.job.Wake(t.Context(), r)
				must(t, err)
			})
			synctest.Wait()
		}
		if s := b.job.Status(); !s.Queued || s.State != "running" || s.Verb != "replicate" || len(s.Running.Steps) != 2 {
			t.Errorf("status %+v", s)
		}
		b.set("replicate", nil, 0)
		pass(35 * time.Minute)
		wg.Wait()
		// The run of 10m ended at 45m; 20m, 30m and 40m passed meanwhile.
		b.want("prune@45m0s capture@45m0s replicate@45m0s prune@45m0s")
		if got[0].ID != got[1].ID || got[0].Merged != 2 || got[0].Cause != job.ByRequest {
			t.Errorf("two requests got runs %+v", got)
		}
	})
}

func TestRequestsAreMerged(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := run(t, job.Options{})
		b.set("capture", nil, time.Minute)
		_, err := b.job.Wake(t.Context(), job.Request{Verbs: []string{"capture"}})
		must(t, err)
		for _, r := range []job.Request{
			{Verbs: []string{"replicate"}, Datasets: []string{"b"}},
			{Verbs: []string{"prune", "replicate"}, Datasets: []string{"a", "b"}},
		} {
			go func() { _, _ = b.job.Wake(t.Context(), r) }()
			synctest.Wait()
		}
		pass(time.Minute)
		b.want("capture@0s replicate@1m0sa+b prune@1m0sa+b")
	})
}

func TestRequestsAreChecked(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := run(t, job.Options{})
		if _, err := b.job.Wake(t.Context(), job.Request{Verbs: []string{"archive"}}); !errors.Is(err, cairn.KindInvalid) || !strings.Contains(err.Error(), "capture, replicate, prune") {
			t.Errorf("an unknown verb: %v", err)
		}
		passive := run(t, job.Options{Verbs: []job.Verb{}})
		if _, err := passive.job.Wake(t.Context(), job.Request{}); !errors.Is(err, cairn.KindUnsupported) {
			t.Errorf("a job without verbs: %v", err)
		}
		b.end()
		synctest.Wait()
		if _, err := b.job.Wake(t.Context(), job.Request{}); !errors.Is(err, cairn.KindUnavailable) {
			t.Errorf("a job that ended: %v", err)
		}
	})
}

func TestCancelEndsTheRunOnly(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := run(t, job.Options{Next: every(time.Hour), Retry: job.Backoff})
		b.set("replicate", nil, 24*time.Hour)
		r, err := b.job.Wake(t.Context(), job.Request{})
		must(t, err)
		pass(time.Minute)
		b.job.Cancel()
		ended, err := b.job.Wait(t.Context(), r.ID)
		must(t, err)
		if ended.State != job.Canceled || len(ended.Verbs) != 2 || ended.Verbs[1].State != job.Canceled {
			t.Errorf("recorded %+v", ended)
		}
		b.set("replicate", nil, 0)
		b.forget()
		pass(58 * time.Minute)
		b.want("") // no retry: somebody wanted it to end
		pass(2 * time.Minute)
		b.want("capture@1h0m0s replicate@1h0m0s prune@1h0m0s")
		b.job.Cancel() // nothing runs
	})
}

func TestRetriesWhatFailed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := run(t, job.Options{Next: every(24 * time.Hour), Retry: job.Backoff})
		b.set("replicate", &cairn.Error{Op: "send", Kind: cairn.KindUnavailable}, 0)
		_, err := b.job.Wake(t.Context(), job.Request{})
		must(t, err)
		pass(35 * time.Second)
		b.want("capture@0s replicate@0s prune@0s replicate@10s replicate@30s")
		if s := b.job.Status(); s.Failures != 3 || time.Until(s.Next) != 35*time.Second {
			t.Errorf("status %+v, next in %v", s, time.Until(s.Next))
		}
		// Success of something else does not end the retries; success of it does.
		b.forget()
		_, err = b.job.Wake(t.Context(), job.Request{Verbs: []string{"prune"}})
		must(t, err)
		b.set("replicate", nil, 0)
		pass(time.Hour)
		b.want("prune@35s replicate@1m10s")
		if s := b.job.Status(); s.Failures != 0 || s.Last.Cause != job.ByRetry {
			t.Errorf("status %+v", s)
		}
	})
}

func TestErrorsForAPersonAreNotRetried(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := run(t, job.Options{Retry: job.Backoff})
		b.set("replicate", &cairn.Error{Op: "send", Kind: cairn.KindConflict}, 0)
		_, err := b.job.Wake(t.Context(), job.Request{})
		must(t, err)
		pass(time.Hour)
		b.want("capture@0s replicate@0s prune@0s")
	})
}

func TestResetForgetsFailuresAndRequests(t *testing.T) {
	bubble(t, func(t *testing.T) {
		forgot := 0
		b := run(t, job.Options{Next: every(time.Hour), Retry: job.Backoff, Reset: func() { forgot++ }})
		b.set("replicate", errors.New("no"), 0)
		_, err := b.job.Wake(t.Context(), job.Request{})
		must(t, err)
		synctest.Wait()
		b.set("capture", nil, time.Hour)
		first, err := b.job.Wake(t.Context(), job.Request{})
		must(t, err)
		waiting := make(chan error)
		go func() {
			_, err := b.job.Wake(t.Context(), job.Request{})
			waiting <- err
		}()
		synctest.Wait()
		b.job.Reset()
		if err := <-waiting; !errors.Is(err, cairn.KindCanceled) {
			t.Errorf("the waiting request got %v", err)
		}
		if r, err := b.job.Wait(t.Context(), first.ID); err != nil || r.State != job.Canceled {
			t.Errorf("the run under way: %+v, %v", r, err)
		}
		b.forget()
		pass(59 * time.Minute)
		b.want("")
		if s := b.job.Status(); s.Failures != 0 || forgot != 1 || time.Until(s.Next) != time.Minute {
			t.Errorf("status %+v after %d resets", s, forgot)
		}
	})
}

func TestScheduleThatIsAlwaysDueDoesNotSpin(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := run(t, job.Options{Next: func(context.Context, time.Time) (time.Time, error) { return time.Now(), nil }})
		b.set("capture", errors.New("no room"), 0)
		pass(time.Hour)
		runs, err := b.job.Runs(0)
		must(t, err)
		if len(runs) < 55 || len(runs) > 70 {
			t.Errorf("%d runs in an hour of failures, want about one a minute", len(runs))
		}
	})
}

func TestScheduleThatCannotBeTold(t *testing.T) {
	bubble(t, func(t *testing.T) {
		asked := 0
		b := run(t, job.Options{Next: func(ctx context.Context, after time.Time) (time.Time, error) {
			switch asked++; asked {
			case 1:
				return time.Time{}, errors.New("the disk is away")
			case 2: // hangs until its limit
				<-ctx.Done()
				return time.Time{}, ctx.Err()
			}
			return after.Add(4 * time.Minute), nil
		}})
		synctest.Wait()
		if s := b.job.Status(); s.Problem != "the disk is away" || !s.Next.IsZero() {
			t.Errorf("status %+v", s)
		}
		pass(3*time.Minute + time.Second)
		b.want("")
		if s := b.job.Status(); s.Problem != "" || s.Next.IsZero() {
			t.Errorf("status %+v", s)
		}
		pass(time.Minute)
		b.want("capture@4m0s replicate@4m0s prune@4m0s")
	})
}

func TestStuckOutweighsOtherFailures(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := run(t, job.Options{})
		b.set("replicate", &cairn.Error{Op: "send", Kind: cairn.KindUnavailable}, 0)
		b.set("prune", &cairn.Error{Op: "destroy", Kind: cairn.KindStuck}, 0)
		_, err := b.job.Wake(t.Context(), job.Request{})
		must(t, err)
		synctest.Wait()
		if r := b.newest(); r.State != job.Stuck || r.Kind != "stuck" || r.Verbs[1].State != job.Failed {
			t.Errorf("recorded %+v", r)
		}
	})
}

// What a verb left behind reports later belongs to no run, least of all to the next.
func TestLateStepsBelongToNoRun(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var late func(job.Step)
		verb := job.Verb{Name: "replicate", Run: func(_ context.Context, in job.Input) error {
			if late != nil {
				late(job.Step{Dataset: "late", Failure: job.Failure{Error: "too late"}})
			}
			late = in.Step
			return nil
		}}
		b := run(t, job.Options{Verbs: []job.Verb{verb}})
		for range 2 {
			_, err := b.job.Wake(t.Context(), job.Request{})
			must(t, err)
			synctest.Wait()
		}
		runs, err := b.job.Runs(0)
		must(t, err)
		if len(runs) != 2 || len(runs[0].Steps)+len(runs[1].Steps) != 0 {
			t.Errorf("recorded %+v", runs)
		}
	})
}

func TestEndIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		release := make(chan struct{})
		late := make(chan func(job.Step), 1)
		deaf := job.Verb{Name: "replicate", Run: func(_ context.Context, in job.Input) error {
			late <- in.Step
			<-release
			return nil
		}}
		b := run(t, job.Options{Verbs: []job.Verb{deaf}, Grace: 5 * time.Second})
		_, err := b.job.Wake(t.Context(), job.Request{})
		must(t, err)
		waiting := make(chan error)
		go func() {
			_, err := b.job.Wake(t.Context(), job.Request{})
			waiting <- err
		}()
		synctest.Wait()
		began := time.Now()
		b.end()
		<-b.done
		if took := time.Since(began); took != 5*time.Second {
			t.Errorf("the end took %v", took)
		}
		if err := <-waiting; !errors.Is(err, cairn.KindUnavailable) {
			t.Errorf("the waiting request got %v", err)
		}
		(<-late)(job.Step{Dataset: "late"})
		close(release)
		r := b.newest()
		if r.State != job.Interrupted || len(r.Steps) != 0 || r.Kind != "stuck" {
			t.Errorf("recorded %+v", r)
		}
		if s := b.job.Status(); s.State != "stopped" {
			t.Errorf("status %+v", s)
		}
	})
}

func TestEndRecordsTheRunAsInterrupted(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := run(t, job.Options{})
		b.set("replicate", nil, time.Hour)
		_, err := b.job.Wake(t.Context(), job.Request{})
		must(t, err)
		synctest.Wait()
		b.end()
		<-b.done
		r := b.newest()
		if r.State != job.Interrupted || r.Verbs[0].State != job.Done || r.Verbs[1].State != job.Interrupted || len(r.Verbs) != 2 {
			t.Errorf("recorded %+v", r)
		}
	})
}

func TestUnwritableHistoryStopsNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		disk := &fullDisk{FS: folder(t, t.TempDir())}
		h := open(t, disk) // makes the file
		must(t, h.Close())
		h = open(t, disk)
		b := &bench{t: t, begun: time.Now(), fail: map[string]error{}, length: map[string]time.Duration{}}
		var logs bytes.Buffer
		j, err := job.New(job.Options{Name: "nightly", History: h, Verbs: []job.Verb{b.verb("capture", true), b.verb("prune", true)}, Log: slog.New(slog.NewTextHandler(&logs, nil))})
		must(t, err)
		disk.full = true
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { j.Run(ctx); close(done) }()
		_, err = j.Wake(ctx, job.Request{})
		must(t, err)
		synctest.Wait()
		if s := j.Status(); s.Last == nil || s.Last.State != job.Done {
			t.Errorf("status %+v", s)
		}
		b.want("capture@0s prune@0s")
		cancel()
		<-done
		if n := strings.Count(logs.String(), "history is not recorded"); n != 1 {
			t.Errorf("said %d times that the history cannot be written:\n%s", n, logs.String())
		}
	})
}

func TestWaitAndRuns(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := run(t, job.Options{})
		b.set("capture", nil, time.Minute)
		r, err := b.job.Wake(t.Context(), job.Request{Cause: job.ByWakeup})
		must(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if got, err := b.job.Wait(ctx, r.ID); err != nil || got.State != job.Running || got.Cause != job.ByWakeup {
			t.Errorf("waiting shortly: %+v, %v", got, err)
		}
		if got, err := b.job.Wait(t.Context(), r.ID); err != nil || got.State != job.Done {
			t.Errorf("waiting: %+v, %v", got, err)
		}
		if got, err := b.job.Wait(t.Context(), r.ID); err != nil || got.ID != r.ID {
			t.Errorf("afterwards: %+v, %v", got, err)
		}
		if _, err := b.job.Wait(t.Context(), 99); !errors.Is(err, cairn.KindNotFound) {
			t.Errorf("an unknown run: %v", err)
		}
	})
}

func TestBackoff(t *testing.T) {
	var got []time.Duration
	for n := 1; n <= 8; n++ {
		got = append(got, job.Backoff(n))
	}
	want := []time.Duration{10 * time.Second, 20 * time.Second, 40 * time.Second, 80 * time.Second, 160 * time.Second, 320 * time.Second, 10 * time.Minute, 10 * time.Minute}
	if !slices.Equal(got, want) || job.Backoff(1000) != 10*time.Minute {
		t.Errorf("waits %v, want %v", got, want)
	}
}

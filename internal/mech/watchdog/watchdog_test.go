package watchdog_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cairn"
	"cairn/internal/mech/watchdog"
)

var errWork = errors.New("work failed")

// loop calls step once a second until it fails or ctx ends.
func loop(ctx context.Context, step func(i int) error) error {
	for i := 0; ; i++ {
		if err := step(i); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

// Work in which something stands still is ended at its limit, whatever it does
// meanwhile; work that moves is left alone, however long it takes.
func TestWhatIsAStall(t *testing.T) {
	limits := map[string]time.Duration{"plan": 10 * time.Second, "send": 20 * time.Second, "tape": watchdog.Blocked}
	for _, c := range []struct {
		name string
		step func(p *watchdog.Progress, i int) error
		want time.Duration // until the stall; 0: none within 10 minutes
	}{
		{"nothing reported", func(*watchdog.Progress, int) error { return nil }, 30 * time.Second},
		{"level rises", func(p *watchdog.Progress, i int) error { p.Level("bytes", int64(i)); return nil }, 0},
		{"level rises rarely", func(p *watchdog.Progress, i int) error { p.Level("bytes", int64(i/25)); return nil }, 0},
		{"one of two rises", func(p *watchdog.Progress, i int) error {
			p.Level("bytes", 7)
			p.Level("steps", int64(i/20))
			return nil
		}, 0},
		{"same level again", func(p *watchdog.Progress, _ int) error { p.Level("bytes", 7); return nil }, 30 * time.Second},
		{"level zero", func(p *watchdog.Progress, i int) error { p.Level(fmt.Sprint("counter", i), 0); return nil }, 30 * time.Second},
		{"failing retries that get as far each time", func(p *watchdog.Progress, i int) error {
			p.Level("bytes", int64(i%10))
			return nil
		}, 39 * time.Second},
		{"entering phases", func(p *watchdog.Progress, i int) error {
			p.Enter([]string{"plan", "send"}[i%2])
			return nil
		}, 18 * time.Second},
		{"a night of waiting, then work", func(p *watchdog.Progress, i int) error {
			switch {
			case i == 5:
				p.Enter("tape")
			case i == 300:
				p.Enter("send")
			case i > 310:
				p.Level("bytes", int64(i))
			}
			return nil
		}, 0},
		{"waiting does not forgive what stood still before", func(p *watchdog.Progress, i int) error {
			p.Enter([]string{"send", "tape"}[i/15%2])
			return nil
		}, 35 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
				defer cancel()
				begin := time.Now()
				err, abandoned := watchdog.Run(ctx, &watchdog.Progress{}, watchdog.Options{Limits: limits, Limit: 30 * time.Second},
					func(ctx context.Context) error {
						p := watchdog.From(ctx)
						return loop(ctx, func(i int) error { return c.step(p, i) })
					})
				took := time.Since(begin)
				if abandoned {
					t.Error("abandoned")
				}
				if c.want == 0 {
					if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, cairn.KindStuck) {
						t.Errorf("healthy work ended after %s: %v", took, err)
					}
					return
				}
				if !errors.Is(err, cairn.KindStuck) || took < c.want || took > c.want+2*time.Second {
					t.Errorf("ended after %s, want %s: %v", took, c.want, err)
				}
			})
		})
	}
}

// Attempts that share one Progress are one piece of work: that each of them fails
// fast does not hide that none gets further than the first.
func TestRetriesSharingAProgressAreAStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &watchdog.Progress{}
		begin := time.Now()
		attempts := 0
		for {
			err, _ := watchdog.Run(t.Context(), p, watchdog.Options{Limit: time.Minute}, func(context.Context) error {
				attempts++
				p.Enter("send")
				p.Level("bytes", 4096)
				time.Sleep(7 * time.Second)
				return errWork
			})
			if errors.Is(err, cairn.KindStuck) {
				break
			}
			if !errors.Is(err, errWork) || time.Since(begin) > time.Hour {
				t.Fatalf("after %s: %v", time.Since(begin), err)
			}
			time.Sleep(time.Hour / 100) // between attempts the clock stands
		}
		if attempts != 9 {
			t.Errorf("stuck in attempt %d, want 9: one minute of 7-second attempts", attempts)
		}
	})
}

func TestLadderIsClimbedInOrderUntilTheWorkReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		var mu sync.Mutex // guards at
		var at []string
		note := func(what string) {
			mu.Lock()
			defer mu.Unlock()
			at = append(at, fmt.Sprint(what, " ", time.Since(begin)))
		}
		killed, end := make(chan struct{}), make(chan struct{})
		defer close(end)
		rung := func(name string, do func()) watchdog.Rung {
			return watchdog.Rung{Name: name, Do: func() { note(name); do() }}
		}
		o := watchdog.Options{Op: "receive", Subject: "db@a", Limit: 10 * time.Second, Grace: 3 * time.Second, Ladder: []watchdog.Rung{
			rung("sent TERM", func() {}),
			rung("sent KILL", func() { <-end }), // a rung that hangs stops nothing
			rung("closed pipes", func() { close(killed) }),
			rung("not reached", func() {}),
		}}
		err, abandoned := watchdog.Run(t.Context(), &watchdog.Progress{}, o, func(ctx context.Context) error {
			<-ctx.Done()
			note("cancel")
			if !errors.As(context.Cause(ctx), new(*watchdog.Stall)) {
				t.Errorf("cause is %v", context.Cause(ctx))
			}
			<-killed
			return ctx.Err()
		})
		want := []string{"cancel 10s", "sent TERM 13s", "sent KILL 16s", "closed pipes 19s"}
		if !slices.Equal(at, want) {
			t.Errorf("got %v, want %v", at, want)
		}
		var stall *watchdog.Stall
		if abandoned || !errors.Is(err, cairn.KindStuck) || !errors.As(err, &stall) || len(stall.Climbed) != 3 {
			t.Errorf("abandoned %v, %v", abandoned, err)
		}
	})
}

func TestErrorSaysSinceWhenOnWhatAndHowFar(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		err, _ := watchdog.Run(t.Context(), &watchdog.Progress{}, watchdog.Options{Op: "receive", Subject: "db@a", Place: "vault", Limit: time.Minute},
			func(ctx context.Context) error {
				watchdog.From(ctx).Level("bytes", 4096)
				time.Sleep(30 * time.Second)
				watchdog.From(ctx).Enter("commit")
				<-ctx.Done()
				return ctx.Err()
			})
		text := err.Error()
		for _, want := range []string{"cannot receive db@a at vault", "no progress since 2000-01-01 00:00:00", "phase commit since 00:00:30", "bytes 4096", "limit of phase commit is 1m0s"} {
			if !strings.Contains(strings.ReplaceAll(text, "\n", " "), want) {
				t.Errorf("%q does not say %q", text, want)
			}
		}
	})
}

// Work that never returns is left behind, keeps its lock, and gives it back when
// it does return.
func TestAbandonedWorkIsQuarantined(t *testing.T) {
	for _, how := range []string{"stall", "caller ends"} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := &watchdog.Quarantine{}
				release := make(chan struct{})
				o := watchdog.Options{Op: "receive", Subject: "db@a", Lock: "db", Limit: 10 * time.Second, Grace: time.Second, Quarantine: q}
				ctx, cancel := context.WithCancel(t.Context())
				wantKind, wantTook := cairn.KindStuck, 11*time.Second
				if how == "caller ends" {
					time.AfterFunc(3*time.Second, cancel)
					wantKind, wantTook = cairn.KindCanceled, 4*time.Second
				}
				defer cancel()
				begin := time.Now()
				err, abandoned := watchdog.Run(ctx, &watchdog.Progress{}, o, func(context.Context) error { <-release; return nil })
				if !abandoned || !errors.Is(err, wantKind) || time.Since(begin) != wantTook {
					t.Fatalf("abandoned %v after %s: %v", abandoned, time.Since(begin), err)
				}
				if how == "caller ends" && !errors.Is(err, context.Canceled) {
					t.Errorf("%v is not context.Canceled", err)
				}
				ran := false
				err, abandoned = watchdog.Run(t.Context(), &watchdog.Progress{}, o, func(context.Context) error { ran = true; return nil })
				if ran || abandoned || !errors.Is(err, cairn.KindBusy) {
					t.Errorf("ran %v on a quarantined dataset: %v", ran, err)
				}
				if held := q.Held(); len(held) != 1 || held[0].Lock != "db" {
					t.Errorf("held: %v", held)
				}
				if err := q.Check("other"); err != nil {
					t.Error(err)
				}
				close(release)
				synctest.Wait()
				if err := q.Check("db"); err != nil || len(q.Held()) != 0 {
					t.Errorf("not given back: %v", err)
				}
			})
		})
	}
}

func TestWorkThatSucceedsInTheLastMomentSucceeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		err, abandoned := watchdog.Run(t.Context(), &watchdog.Progress{}, watchdog.Options{Limit: time.Second}, func(ctx context.Context) error {
			<-ctx.Done()
			return nil
		})
		if err != nil || abandoned {
			t.Errorf("%v, abandoned %v", err, abandoned)
		}
	})
}

func TestCancelledWorkReturnsItsOwnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err, abandoned := watchdog.Run(ctx, &watchdog.Progress{}, watchdog.Options{}, func(ctx context.Context) error {
			<-ctx.Done()
			return fmt.Errorf("%w: %w", errWork, ctx.Err())
		})
		if abandoned || !errors.Is(err, errWork) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v, abandoned %v", err, abandoned)
		}
	})
}

func TestFromWithoutAProgressForgets(t *testing.T) {
	p := watchdog.From(t.Context())
	p.Level("bytes", 5)
	p.Enter("send")
	if r := p.Report(); r.Phase != "" || len(r.Counters) != 0 {
		t.Errorf("remembered %v", r)
	}
}

func TestCountersOfAPeerAreBounded(t *testing.T) {
	p := &watchdog.Progress{}
	for i := range 10_000 {
		p.Level(fmt.Sprint(i), 1)
	}
	p.Level("0", 2)
	if r := p.Report(); len(r.Counters) > 64 || r.Counters["0"] != 2 {
		t.Errorf("%d counters, first at %d", len(r.Counters), r.Counters["0"])
	}
}

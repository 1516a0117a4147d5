package retry_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"cairn"
	"cairn/internal/mech/retry"
)

func TestDo(t *testing.T) {
	away := &cairn.Error{Op: "dial", Kind: cairn.KindUnavailable}
	full := &cairn.Error{Op: "receive", Kind: cairn.KindSpace}
	for _, c := range []struct {
		name   string
		policy retry.Policy
		fails  []error // one per attempt, then success
		calls  int
		want   error
	}{
		{"success", retry.Policy{}, nil, 1, nil},
		{"passes", retry.Policy{}, []error{away, away}, 3, nil},
		{"attempts end", retry.Policy{}, []error{away, away, away, away}, 3, cairn.KindUnavailable},
		{"one attempt", retry.Policy{Attempts: 1}, []error{away}, 1, cairn.KindUnavailable},
		{"for good", retry.Policy{}, []error{away, full, away}, 2, cairn.KindSpace},
		{"caller's choice", retry.Policy{Again: func(error) bool { return true }}, []error{full}, 2, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				calls := 0
				err := retry.Do(t.Context(), c.policy, func(_ context.Context, attempt int) error {
					if calls++; attempt != calls {
						t.Errorf("attempt %d is call %d", attempt, calls)
					}
					if calls <= len(c.fails) {
						return c.fails[calls-1]
					}
					return nil
				})
				if calls != c.calls || !errors.Is(err, c.want) {
					t.Errorf("%d calls, %v", calls, err)
				}
			})
		})
	}
}

func TestWaitsDoubleWithJitterUpToTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		want := []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 5 * time.Second, 5 * time.Second}
		seen := map[time.Duration]bool{}
		for range 20 {
			last := time.Now()
			p := retry.Policy{Attempts: 6, First: time.Second, Max: 5 * time.Second, Again: func(error) bool { return true }}
			_ = retry.Do(t.Context(), p, func(_ context.Context, attempt int) error {
				if attempt > 1 {
					waited, full := time.Since(last), want[attempt-2]
					seen[waited] = true
					if waited < full/2 || waited > full {
						t.Errorf("wait %d took %s, want %s to %s", attempt-1, waited, full/2, full)
					}
				}
				last = time.Now()
				return errors.New("no")
			})
		}
		if len(seen) < 50 {
			t.Errorf("only %d different waits in 100: no jitter", len(seen))
		}
	})
}

func TestNothingStartsAfterTheContextEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		calls := 0
		begin := time.Now()
		err := retry.Do(ctx, retry.Policy{}, func(context.Context, int) error {
			calls++
			return cairn.KindUnavailable
		})
		if calls != 1 || !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, cairn.KindUnavailable) || cairn.KindOf(err) != cairn.KindCanceled {
			t.Errorf("%d calls, %v", calls, err)
		}
		if time.Since(begin) != 100*time.Millisecond {
			t.Errorf("returned after %s", time.Since(begin))
		}
	})
}

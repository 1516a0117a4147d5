package slots_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cairn"
	"cairn/internal/mech/slots"
)

func TestLowestPriorityFirstThenFirstCome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := slots.New(1)
		first, err := s.Acquire(t.Context(), 99)
		if err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex // guards order
		var order []int
		var wg sync.WaitGroup
		for i, priority := range []int64{5, 3, 5, 1, 3} {
			wg.Go(func() {
				release, err := s.Acquire(t.Context(), priority)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				order = append(order, i)
				mu.Unlock()
				release()
			})
			synctest.Wait()
		}
		if s.Waiting() != 5 {
			t.Errorf("%d wait", s.Waiting())
		}
		first()
		wg.Wait()
		if want := []int{3, 1, 4, 0, 2}; !slices.Equal(order, want) {
			t.Errorf("order %v, want %v", order, want)
		}
	})
}

// Places taken in one order are served in that order, whenever who took them comes
// to wait.
func TestQueueKeepsPlaces(t *testing.T) {
	s := slots.New(1)
	first, second, urgent := s.Queue(7), s.Queue(7), s.Queue(1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Queue(0)(ctx); !errors.Is(err, cairn.KindCanceled) {
		t.Errorf("a done context got a slot: %v", err)
	}
	for i, wait := range []func(context.Context) (func(), error){first, urgent, second} {
		release, err := wait(t.Context())
		if err != nil {
			t.Fatal(i, err)
		}
		release()
	}
	if _, err := s.Queue(0)(ctx); !errors.Is(err, cairn.KindCanceled) {
		t.Errorf("a done context got a free slot: %v", err)
	}
	if release, err := s.Acquire(t.Context(), 0); err != nil {
		t.Error("the slot was lost")
	} else {
		release()
	}
}

func TestReleaseTwiceFreesOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := slots.New(1)
		release, _ := s.Acquire(t.Context(), 0)
		release()
		release()
		if _, err := s.Acquire(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.Acquire(ctx, 0); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, cairn.KindCanceled) {
			t.Errorf("a second slot: %v", err)
		}
		if s.Waiting() != 0 {
			t.Errorf("%d wait", s.Waiting())
		}
	})
}

func TestADoneContextGetsNoSlot(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := slots.New(1).Acquire(ctx, 0); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// Whatever is cancelled when, never more than n run and no slot is lost.
func TestNeverMoreThanNAndNoneLost(t *testing.T) {
	const n = 3
	s := slots.New(n)
	var running atomic.Int32
	var wg sync.WaitGroup
	for range 200 {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rand.IntN(2000))*time.Microsecond)
			defer cancel()
			release, err := s.Acquire(ctx, rand.Int64N(5))
			if err != nil {
				return
			}
			if running.Add(1) > n {
				t.Error("too many run")
			}
			time.Sleep(time.Duration(rand.IntN(200)) * time.Microsecond)
			running.Add(-1)
			release()
		})
	}
	wg.Wait()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	for range n {
		if _, err := s.Acquire(ctx, 0); err != nil {
			t.Fatalf("a slot was lost: %v", err)
		}
	}
}

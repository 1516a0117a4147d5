// Package slots limits how much runs at once and decides who is next: a semaphore
// whose queue is ordered by priority.
//
// It promises that the waiter with the lowest priority number gets the next slot,
// equal ones in order of arrival; that a wait ends with its context; and that a
// slot can be given back early, and twice, without harm: work that a watchdog
// abandoned gives its slot back although it has not returned.
package slots

import (
	"container/heap"
	"context"
	"fmt"
	"sync"

	"cairn"
)

// Slots is a fixed number of slots. Use New.
type Slots struct {
	mu      sync.Mutex // guards what follows
	free    int
	queue   queue
	arrived uint64
}

// New makes n slots; less than one is one.
func New(n int) *Slots { return &Slots{free: max(n, 1)} }

// Acquire waits for a slot. Lower priorities go first: a time in Unix seconds lets
// the oldest go first. The slot is held until release is called; later calls of
// release do nothing. A done ctx gets no slot: the error is KindCanceled.
func (s *Slots) Acquire(ctx context.Context, priority int64) (release func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, ended(err)
	}
	return s.Queue(priority)(ctx)
}

// Queue takes a place in the queue now and returns what waits there, as Acquire
// does: who queues several in one order has them served in that order. It must be
// called, once: a place nobody waits at would keep its slot.
func (s *Slots) Queue(priority int64) (wait func(ctx context.Context) (release func(), err error)) {
	w := s.enqueue(priority)
	return func(ctx context.Context) (func(), error) {
		select {
		case <-w.ready:
			if ctx.Err() == nil {
				return sync.OnceFunc(s.release), nil
			}
		case <-ctx.Done():
			if s.leave(w) {
				return nil, ended(ctx.Err())
			}
		}
		s.release() // the slot came, but too late
		return nil, ended(ctx.Err())
	}
}

// Waiting tells how many wait.
func (s *Slots) Waiting() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.queue)
}

func ended(err error) error {
	return &cairn.Error{Op: "wait for a slot", Kind: cairn.KindCanceled, Err: fmt.Errorf("the work was not started: %w", err)}
}

func (s *Slots) enqueue(priority int64) *waiter {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.arrived++
	w := &waiter{priority: priority, arrived: s.arrived, ready: make(chan struct{})}
	heap.Push(&s.queue, w)
	s.serve()
	return w
}

// leave takes w out of the queue; false when it has a slot already.
func (s *Slots) leave(w *waiter) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.index < 0 {
		return false
	}
	heap.Remove(&s.queue, w.index)
	return true
}

func (s *Slots) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free++
	s.serve()
}

// serve hands free slots out; mu is held.
func (s *Slots) serve() {
	for s.free > 0 && len(s.queue) > 0 {
		s.free--
		close(heap.Pop(&s.queue).(*waiter).ready)
	}
}

// waiter is one Acquire in the queue; Slots.mu guards index.
type waiter struct {
	priority int64
	arrived  uint64
	ready    chan struct{}
	index    int // in the queue; -1 once it left
}

type queue []*waiter

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	if q[i].priority != q[j].priority {
		return q[i].priority < q[j].priority
	}
	return q[i].arrived < q[j].arrived
}
func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}
func (q *queue) Push(x any) {
	w := x.(*waiter)
	w.index = len(*q)
	*q = append(*q, w)
}
func (q *queue) Pop() any {
	old := *q
	w := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	w.index = -1
	return w
}

package watchdog

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"time"

	"cairn"
)

// Quarantine is the set of things (datasets, by name) that abandoned work may
// still touch. A lock is given back when the last such work returns. The zero
// value is empty and ready; a nil *Quarantine holds nothing.
type Quarantine struct {
	mu    sync.Mutex         // guards locks
	locks map[string]*locked // of running and of abandoned work
}

type locked struct {
	running int // calls of fn that have not returned
	held    Held
}

// Held is one locked thing.
type Held struct {
	Lock  string
	Since time.Time // when its work was abandoned
	Why   error     // the error of that Run
}

// Held lists what is locked, ordered by name.
func (q *Quarantine) Held() []Held {
	if q == nil {
		return nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	var held []Held
	for _, l := range q.locks {
		if l.held.Why != nil {
			held = append(held, l.held)
		}
	}
	slices.SortFunc(held, func(a, b Held) int { return cmp.Compare(a.Lock, b.Lock) })
	return held
}

// Check fails with KindBusy when lock is held by abandoned work.
func (q *Quarantine) Check(lock string) error {
	return q.refuse(Options{Op: "use", Subject: lock, Lock: lock})
}

func (q *Quarantine) refuse(o Options) error {
	if q == nil {
		return nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.locks[o.Lock]
	if l == nil || l.held.Why == nil {
		return nil
	}
	w := watch{Options: o}
	return &cairn.Error{Op: w.op(), Subject: o.Subject, Place: o.Place, Kind: cairn.KindBusy,
		Err:  fmt.Errorf("work abandoned at %s still holds it: %w", l.held.Since.Format(time.DateTime), l.held.Why),
		Hint: "it is given back when that work ends; see what its process or device waits for"}
}

// enter counts one fn that begins and returns what it calls when it returns.
func (q *Quarantine) enter(lock string) (release func()) {
	if q == nil {
		return func() {}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.locks == nil {
		q.locks = map[string]*locked{}
	}
	if q.locks[lock] == nil {
		q.locks[lock] = &locked{}
	}
	q.locks[lock].running++
	return func() { q.leave(lock) }
}

func (q *Quarantine) leave(lock string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.locks[lock].running--
	if q.locks[lock].running == 0 {
		delete(q.locks, lock)
	}
}

// keep locks what an fn that has not returned may touch. When it returned in the
// last moment there is nothing to lock.
func (q *Quarantine) keep(lock string, why error) {
	if q == nil {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if l := q.locks[lock]; l != nil && l.held.Why == nil {
		l.held = Held{Lock: lock, Since: time.Now(), Why: why}
	}
}

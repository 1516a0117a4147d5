package nbd

import (
	"sync"
	"time"
)

// patience is how long a request may run in the leader before somebody else goes
// on reading in its place: a device that hangs must neither hide the client's
// goodbye nor hold up its other requests. A request is noticed after at most twice
// that.
const patience = 2 * time.Millisecond

// lonePatience is the same while the client waits for each answer: then only its
// goodbye can come, and each look wakes a thread, which costs as much as a request.
const lonePatience = 50 * time.Millisecond

// turn watches the requests that one leader executes. Its timer runs on while
// there are any: setting it for each would wake a thread of the runtime each time,
// which costs more than the request.
type turn struct {
	timer *time.Timer // looks every patience; set by the leader

	mu      sync.Mutex // guards what follows
	number  uint64     // of the latest request
	seen    uint64     // the latest at the last look
	running bool
	armed   bool // the timer is set
	every   time.Duration
	lost    bool // a successor leads
}

// begin notes that a request starts, which may run for twice every before it is
// noticed.
func (t *turn) begin(every time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.number++
	t.running = true
	if !t.armed || every < t.every {
		t.armed = true
		t.timer.Reset(every)
	}
	t.every = every
}

// end notes that the request is over, and reports whether the caller still leads.
func (t *turn) end() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.running = false
	return !t.lost
}

// look is the timer's. It calls succeed, and reports so, when the request that ran
// at the last look is still running: the leader then stays until succeed is done.
func (t *turn) look(succeed func()) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	same := t.seen == t.number
	t.seen = t.number
	switch {
	case same && t.running:
		t.lost = true
		succeed()
		return true
	case same:
		t.armed = false
	default:
		t.timer.Reset(t.every)
	}
	return false
}

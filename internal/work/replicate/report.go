package replicate

import (
	"sync"
	"sync/atomic"
	"time"

	"cairn"
	"cairn/internal/mech/watchdog"
)

// Report is one run, as plain data.
type Report struct {
	Began    time.Time       `json:"began"`
	Ended    time.Time       `json:"ended,omitzero"`
	Planning string          `json:"planning,omitempty"` // while the places are listed: where that stands
	Datasets []DatasetReport `json:"datasets"`
	Error    string          `json:"error,omitempty"` // of the run as a whole
}

// State says where a dataset, an attempt or a step stands.
type State string

// The states.
const (
	Waiting  State = "waiting"
	Running  State = "running"
	Done     State = "done"
	UpToDate State = "up to date" // nothing had to be sent
	Failed   State = "failed"
	Stuck    State = "stuck"    // the watchdog ended it
	Canceled State = "canceled" // the run was ended before it was done
)

// Wait says what a waiting dataset waits for.
type Wait string

// The waits.
const (
	OnNothing Wait = ""
	OnSlot    Wait = "slot"   // others move data
	OnOrigin  Wait = "origin" // what is replicated of the dataset that this is a clone of
	OnParent  Wait = "parent" // the first replication of a dataset above it
	OnRetry   Wait = "retry"  // the pause before another attempt
)

// DatasetReport is one dataset's part of a run.
type DatasetReport struct {
	Dataset     string    `json:"dataset"`
	State       State     `json:"state"`
	BlockedOn   Wait      `json:"blocked_on,omitempty"`
	LeftOut     int       `json:"left_out,omitempty"`     // versions not sent, since the receiver would destroy them or their data is lost
	RenamedFrom string    `json:"renamed_from,omitempty"` // its name at the receiver when the run began
	Whole       string    `json:"whole,omitempty"`        // why a clone is sent whole; empty of what is none, or begins as one
	Attempts    []Attempt `json:"attempts,omitempty"`
	Error       string    `json:"error,omitempty"`
	ErrorKind   string    `json:"error_kind,omitempty"`
}

// Attempt is one try of a dataset's plan. A later attempt plans anew, and so holds
// only what was still missing.
type Attempt struct {
	Began     time.Time    `json:"began"`
	Ended     time.Time    `json:"ended,omitzero"`
	Steps     []StepReport `json:"steps"`
	Error     string       `json:"error,omitempty"`
	ErrorKind string       `json:"error_kind,omitempty"`
}

// StepReport is one stream.
type StepReport struct {
	From          string    `json:"from,omitempty"` // empty: a full stream
	To            string    `json:"to"`
	Resumed       bool      `json:"resumed,omitempty"`
	BytesExpected int64     `json:"bytes_expected"` // -1: not known
	BytesMoved    int64     `json:"bytes_moved"`    // in this attempt
	State         State     `json:"state"`
	Phase         string    `json:"phase,omitempty"` // while it runs: lease, send, receive, commit, confirm
	LastMove      time.Time `json:"last_move,omitzero"`
	Began         time.Time `json:"began,omitzero"`
	Ended         time.Time `json:"ended,omitzero"`
	Error         string    `json:"error,omitempty"`
	ErrorKind     string    `json:"error_kind,omitempty"`
}

// Live shows a run that is under way. The zero value is ready; one Live belongs to
// one run.
type Live struct {
	mu       sync.Mutex // guards all below
	report   Report     // without datasets
	planning *watchdog.Progress
	nodes    []*node
}

// node is one dataset in the tree.
type node struct {
	report   DatasetReport // without attempts
	attempts []*attemptNode
}

type attemptNode struct {
	report Attempt // without steps
	steps  []*stepNode
}

// stepNode is one step. The step itself moves moved and progress, without the
// lock: an abandoned one may go on doing so.
type stepNode struct {
	report   StepReport
	moved    atomic.Int64
	progress *watchdog.Progress
}

// update changes the tree.
func (l *Live) update(change func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change()
}

// Snapshot copies the state of the run.
func (l *Live) Snapshot() Report {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.report
	if l.planning != nil {
		r.Planning = l.planning.Report().String()
	}
	r.Datasets = make([]DatasetReport, len(l.nodes))
	for i, n := range l.nodes {
		r.Datasets[i] = n.snapshot()
	}
	return r
}

func (n *node) snapshot() DatasetReport {
	d := n.report
	for _, a := range n.attempts {
		attempt := a.report
		attempt.Steps = make([]StepReport, len(a.steps))
		for i, s := range a.steps {
			attempt.Steps[i] = s.snapshot()
		}
		d.Attempts = append(d.Attempts, attempt)
	}
	return d
}

func (s *stepNode) snapshot() StepReport {
	r := s.report
	r.BytesMoved = s.moved.Load()
	if r.State == Running {
		p := s.progress.Report()
		r.Phase, r.LastMove = p.Phase, p.LastMove
	}
	return r
}

// outcome is how an error shows in the tree.
func outcome(err error) (state State, text, kind string) {
	if err == nil {
		return Done, "", ""
	}
	state = Failed
	switch cairn.KindOf(err) {
	case cairn.KindStuck:
		state = Stuck
	case cairn.KindCanceled:
		state = Canceled
	}
	return state, err.Error(), cairn.KindOf(err).String()
}

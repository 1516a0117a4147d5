package job

import (
	"time"

	"cairn"
)

// State is how a run, verb or step stands.
type State string

// The states. Running is the only one that is not final.
const (
	Running     State = "running"
	Done        State = "done"
	Failed      State = "failed"
	Stuck       State = "stuck"       // made no progress within its limit
	Canceled    State = "canceled"    // somebody asked for it
	Interrupted State = "interrupted" // the daemon ended before the run did
)

// Cause says why a run began.
type Cause string

// The causes.
const (
	BySchedule Cause = "schedule"
	ByRequest  Cause = "manual"
	ByWakeup   Cause = "wakeup" // zrepl's signal: what the job does without a capture
	ByRetry    Cause = "retry"  // of what failed in the run before
)

// Run is one invocation of a job, as recorded.
type Run struct {
	ID       uint64       `json:"id"` // ascending per job
	Job      string       `json:"job"`
	Cause    Cause        `json:"cause"`
	Merged   int          `json:"merged,omitempty"`   // further requests that the run carries out
	Datasets []string     `json:"datasets,omitempty"` // only these were asked for; none: all
	State    State        `json:"state"`
	Started  time.Time    `json:"started"`
	Ended    time.Time    `json:"ended,omitzero"`
	Failure               // of the first verb that failed
	Verbs    []VerbRecord `json:"verbs,omitempty"`
	Steps    []Step       `json:"steps,omitempty"`
	Omitted  int          `json:"omitted,omitempty"` // steps that found no room in the log
}

// Failure is an error as recorded; all fields are empty without one.
type Failure struct {
	Error string `json:"error,omitempty"`
	Kind  string `json:"kind,omitempty"`
	Hint  string `json:"hint,omitempty"`
}

// VerbRecord is one verb of a run.
type VerbRecord struct {
	Verb    string    `json:"verb"`
	State   State     `json:"state"`
	Started time.Time `json:"started"`
	Ended   time.Time `json:"ended,omitzero"`
	Failure
}

// Step is one capture, transfer or destruction within a verb.
type Step struct {
	Verb     string    `json:"verb"`
	Dataset  string    `json:"dataset"`
	Place    string    `json:"place,omitempty"` // where, when that is not here
	From     string    `json:"from,omitempty"`
	To       string    `json:"to,omitempty"`
	State    State     `json:"state"`
	Started  time.Time `json:"started,omitzero"`
	Ended    time.Time `json:"ended,omitzero"`
	Expected int64     `json:"expected,omitempty"` // bytes, -1 unknown
	Moved    int64     `json:"moved,omitempty"`    // bytes
	Resumed  bool      `json:"resumed,omitempty"`  // the transfer went on where an earlier one was cut
	Failure
}

// maxText bounds each recorded text in bytes.
const maxText = 1000

// failureOf records an error.
func failureOf(err error) Failure {
	if err == nil {
		return Failure{}
	}
	return Failure{Error: err.Error(), Kind: cairn.KindOf(err).String(), Hint: cairn.HintOf(err)}.clipped()
}

func (f Failure) clipped() Failure {
	return Failure{Error: clip(f.Error), Kind: f.Kind, Hint: clip(f.Hint)}
}

func clip(text string) string {
	if len(text) <= maxText {
		return text
	}
	return text[:maxText] + "…"
}

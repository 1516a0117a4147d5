package client

import "time"

// Job is a configured activity and what it does now.
type Job struct {
	Name    string    `json:"name"`
	Type    string    `json:"type"`  // snap, push, pull, source or sink
	State   string    `json:"state"` // waiting, running, serving or stopped
	Phase   string    `json:"phase,omitempty"`
	Place   string    `json:"place,omitempty"` // the peer of an active job
	Next    time.Time `json:"next,omitzero"`   // next run by schedule; zero: none
	Running *Run      `json:"running,omitempty"`
	Last    *Run      `json:"last,omitempty"`
	Clients []string  `json:"clients,omitempty"` // identities connected to a passive job
	Listen  string    `json:"listen,omitempty"`  // address of a passive job
}

// Run is one invocation of a job.
type Run struct {
	ID      uint64    `json:"id"` // ascending per job
	Job     string    `json:"job"`
	Cause   string    `json:"cause"` // schedule, manual, wakeup or retry
	State   string    `json:"state"` // running, done, failed, stuck, canceled or interrupted
	Started time.Time `json:"started"`
	Ended   time.Time `json:"ended,omitzero"`
	Error   string    `json:"error,omitempty"`
	Kind    string    `json:"kind,omitempty"` // of the error
	Hint    string    `json:"hint,omitempty"`
	Verbs   []Verb    `json:"verbs,omitempty"`
	Steps   []Step    `json:"steps,omitempty"`
	Omitted int       `json:"omitted,omitempty"` // steps that are not listed
}

// Verb is one part of a run: all captures, all transfers, all destructions.
type Verb struct {
	Verb    string    `json:"verb"`
	State   string    `json:"state"`
	Started time.Time `json:"started"`
	Ended   time.Time `json:"ended,omitzero"`
	Error   string    `json:"error,omitempty"`
}

// Step is one capture, transfer or destruction within a run.
type Step struct {
	Verb     string    `json:"verb"` // capture, replicate, rename (at the receiver, during a replication) or prune
	Dataset  string    `json:"dataset"`
	Place    string    `json:"place,omitempty"` // where, when that is not here
	From     string    `json:"from,omitempty"`
	To       string    `json:"to,omitempty"`
	State    string    `json:"state"`
	Started  time.Time `json:"started,omitzero"`
	Ended    time.Time `json:"ended,omitzero"`
	Expected int64     `json:"expected,omitempty"` // bytes, -1 unknown
	Moved    int64     `json:"moved,omitempty"`    // bytes
	Resumed  bool      `json:"resumed,omitempty"`  // the transfer went on where an earlier one was cut
	Error    string    `json:"error,omitempty"`
}

// Wake asks a job to run now.
type Wake struct {
	Verbs    []string `json:"verbs,omitempty"`    // capture, replicate, prune; none: all the job has
	Datasets []string `json:"datasets,omitempty"` // only these; none: all the job selects
	Cause    string   `json:"cause,omitempty"`    // "manual" when empty
}

// PruneSide is what a prune would do at one side of a job.
type PruneSide struct {
	Side     string         `json:"side"` // "here" or the peer's place
	Datasets []PruneDataset `json:"datasets"`
}

// PruneDataset is the fate of one dataset's versions.
type PruneDataset struct {
	Dataset  string         `json:"dataset"`
	Error    string         `json:"error,omitempty"`
	Versions []PruneVersion `json:"versions"`
}

// PruneVersion is one version and why it stays or goes.
type PruneVersion struct {
	Name    string    `json:"name"`
	Created time.Time `json:"created"`
	Destroy bool      `json:"destroy"`
	Why     string    `json:"why"`
}

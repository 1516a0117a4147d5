package client

import "time"

// Tape is a tape drive that the configuration declares, or a mounted tape. Of a
// drive in which no tape is mounted only Declared and Drive are known.
type Tape struct {
	Declared string `json:"declared,omitempty"` // the drive's name in the configuration
	Drive    string `json:"drive"`              // empty: the mount does not answer
	Folder   string `json:"folder,omitempty"`   // on which the tape is mounted
	PID      int    `json:"pid,omitempty"`      // of the process that mounted it
	Name     string `json:"name"`               // of the volume
	Barcode  string `json:"barcode,omitempty"`

	ReadOnly     bool      `json:"read_only"`
	SyncCalls    bool      `json:"sync_calls"` // sync(2) and umount(2) reach the tape
	Policy       string    `json:"sync,omitempty"`
	Fsync        string    `json:"fsync,omitempty"`
	State        string    `json:"state,omitempty"` // ok, late (failing, tried again), degraded (budget), stuck, damaged (stopped), unknown (no answer)
	Why          string    `json:"why,omitempty"`
	Generation   uint64    `json:"generation"`
	LastIndex    time.Time `json:"last_index,omitzero"`
	IndexBytes   int64     `json:"index_bytes"`
	IndexBudget  int64     `json:"index_budget"` // 0: none
	Failures     int       `json:"failures"`     // of syncs, since the last good one
	LastFailure  time.Time `json:"last_failure,omitzero"`
	LastError    string    `json:"last_error,omitempty"` // of the sync that failed last; stays when a later one is good
	Waiting      time.Time `json:"waiting,omitzero"`     // since when a call of the drive is under way
	OpenForWrite int       `json:"open_for_write"`
	AtRisk       TapeRisk  `json:"at_risk"` // what a power cut now would lose
	Total        int64     `json:"total_bytes"`
	Free         int64     `json:"free_bytes"`
}

// TapeRisk is what a power cut would lose.
type TapeRisk struct {
	Files   int       `json:"files"`   // changed or new
	Bytes   int64     `json:"bytes"`   // written
	Changes int       `json:"changes"` // of names, times, attributes
	Since   time.Time `json:"since"`   // the oldest of them; zero when there is none
}

// None reports whether a power cut would lose nothing.
func (r TapeRisk) None() bool { return r.Files == 0 && r.Bytes == 0 && r.Changes == 0 }

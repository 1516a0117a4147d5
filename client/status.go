package client

import "time"

// Version tells who answers.
type Version struct {
	Version string    `json:"version"`
	Go      string    `json:"go"`
	PID     int       `json:"pid"`
	Started time.Time `json:"started"`
	Config  string    `json:"config"` // path of the file in use, empty when there is none
}

// StatusQuery limits a Status.
type StatusQuery struct {
	Job   string // only what this job touches; empty is everything
	Limit int    // rows of datasets at most; 0 is DefaultRows
}

// DefaultRows bounds the datasets of a Status that asked for no other limit.
const DefaultRows = 1000

// Status is how protection stands: what is wrong first, then a row per dataset.
type Status struct {
	Now      time.Time `json:"now"`
	Problems []Problem `json:"problems"`
	Places   []string  `json:"places"`   // columns, "here" first
	Datasets []Dataset `json:"datasets"` // in byte order of names, at most the query's limit
	Total    int       `json:"total"`    // datasets in all
	Jobs     []Job     `json:"jobs"`
	Tapes    []Tape    `json:"tapes,omitempty"` // declared drives and mounted tapes of the daemon's machine
}

// Problem is one thing that needs a person or will be retried.
type Problem struct {
	Job     string    `json:"job,omitempty"`
	Dataset string    `json:"dataset,omitempty"`
	Place   string    `json:"place,omitempty"`
	State   string    `json:"state"` // one of the state words
	Since   time.Time `json:"since"`
	What    string    `json:"what"`           // what is wrong
	Next    string    `json:"next,omitempty"` // what happens next, or what to do
}

// Dataset is a row of the status: one dataset and its versions at every place.
type Dataset struct {
	Name   string               `json:"name"` // as it is called here
	Kind   string               `json:"kind"`
	Size   int64                `json:"size"` // bytes
	State  string               `json:"state"`
	Why    string               `json:"why,omitempty"` // one sentence when State is not ok
	Places map[string]Protected `json:"places"`
	Next   string               `json:"next,omitempty"` // the next thing that happens to it
	NextAt time.Time            `json:"next_at,omitzero"`
}

// Protected is one cell: the versions of a dataset at one place.
type Protected struct {
	Newest time.Time `json:"newest,omitzero"` // creation of the newest version there
	Count  int       `json:"count"`           // versions there
	State  string    `json:"state"`
	Seen   time.Time `json:"seen,omitzero"` // when the place was last listed
}

// Place is the last listing of one place.
type Place struct {
	Name     string    `json:"name"`
	Seen     time.Time `json:"seen,omitzero"` // when it was listed; zero: never
	Error    string    `json:"error,omitempty"`
	Datasets []Listing `json:"datasets"`
}

// Listing is one dataset with its versions at one place.
type Listing struct {
	Dataset  string        `json:"dataset"`
	Kind     string        `json:"kind"`
	Size     int64         `json:"size"`
	Sealed   bool          `json:"sealed,omitempty"`
	State    string        `json:"state"`
	Why      string        `json:"why,omitempty"`
	Versions []VersionInfo `json:"versions"`
	Partial  *Partial      `json:"partial,omitempty"`
}

// VersionInfo is one version in a Listing.
type VersionInfo struct {
	Name    string    `json:"name"` // with its '@' or '#'
	GUID    string    `json:"guid"` // 16 hex digits
	Created time.Time `json:"created"`
	Size    int64     `json:"size"`
	Unique  int64     `json:"unique"` // bytes that destroying it alone would free
	State   string    `json:"state"`
	Leases  []string  `json:"leases,omitempty"` // "OWNER PURPOSE"
}

// Partial is a receive that was cut and will go on.
type Partial struct {
	From     string `json:"from,omitempty"`
	To       string `json:"to"`
	Received int64  `json:"received"`
}

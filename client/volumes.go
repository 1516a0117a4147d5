package client

import "time"

// NewVolume says how to make or adopt a volume.
type NewVolume struct {
	Name   string `json:"name"`
	Size   int64  `json:"size,omitempty"`   // bytes of a new sparse volume
	Origin string `json:"origin,omitempty"` // file or device to adopt in place
	Store  string `json:"store,omitempty"`  // folder for what snapshots need; empty: below the state folder
	Hashes bool   `json:"hashes,omitempty"` // with a block hash table
}

// Volume is what the registry knows of a volume beside its listing.
type Volume struct {
	Store      string    `json:"store"`                // folder of its store
	Origin     string    `json:"origin,omitempty"`     // adopted file or device; empty for a sparse head of ours
	Owner      string    `json:"owner,omitempty"`      // the file or command that made it
	Host       string    `json:"host,omitempty"`       // the process that hosts it, when another than the one that answers
	Continuity string    `json:"continuity,omitempty"` // why the changes of the head are believed
	Hashes     string    `json:"hashes,omitempty"`     // of which version its block hash table is; empty without one
	HashBytes  int64     `json:"hash_bytes,omitempty"` // room that the table takes
	GivenUp    []GivenUp `json:"given_up,omitempty"`
}

// GivenUp is a snapshot whose data went for want of room.
type GivenUp struct {
	Bookmark string    `json:"bookmark"` // that took its place
	At       time.Time `json:"at"`
}

// Serve asks the daemon to export volumes it hosts over NBD for as long as the
// request stands.
type Serve struct {
	Volumes  []string `json:"volumes"` // DATASET or DATASET@SNAPSHOT; none: everything
	Network  string   `json:"network"` // "unix" or "tcp"
	Address  string   `json:"address"`
	ReadOnly bool     `json:"read_only,omitempty"`
	CA       string   `json:"ca,omitempty"` // paths of PEM files; all three or none
	Cert     string   `json:"cert,omitempty"`
	Key      string   `json:"key,omitempty"`
}

// Serving is the daemon's answer once it listens.
type Serving struct {
	Network string   `json:"network"`
	Address string   `json:"address"`
	Exports []string `json:"exports"`
}

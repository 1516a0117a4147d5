// Package restore is the verb that brings a version back: to a volume, new or
// existing, or to a plain file or a device.
//
// ToVolume chooses the gentlest way that leads there, says in sentences what it
// will do, and asks before it touches a dataset that exists:
//
//   - new: the target does not exist; the version is sent in full;
//   - rollback: the target holds the version itself; newer ones are destroyed;
//   - incremental: the target holds an older common version; it is rolled back to
//     that and brought forward;
//   - aside: the target has nothing in common; it is renamed, never overwritten,
//     and the version is sent under its name.
//
// The transfer is a replication (package work/replicate): resumed when it is cut,
// verified at the receiver, committed at once. A restore that was interrupted goes
// on when it is called again.
//
// ToFile writes a version's bytes to PATH. A file appears under its name only when
// it is complete, durable and read back equal; holes stay holes. A device is
// overwritten in place, and only with Force. The content comes from the place's own
// block reader when the place is local, else from a stream whose final hash is
// checked; an archive's chain of streams is applied one after the other.
//
// What can go wrong: the version is a bookmark (no data), its data was given up or
// is damaged, the device is too small or mounted, no room.
package restore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"cairn"
)

// Method is how a version was brought back.
type Method string

// The methods.
const (
	New         Method = "new"
	Rollback    Method = "rollback"
	Incremental Method = "incremental"
	Aside       Method = "aside"
	File        Method = "file"
	Device      Method = "device"
)

// Report says what was done, or would be.
type Report struct {
	Method     Method    `json:"method"`
	Version    string    `json:"version"` // address at the source
	Target     string    `json:"target"`
	Plan       []string  `json:"plan"` // sentences: what is done, in order
	DryRun     bool      `json:"dry_run,omitempty"`
	Size       int64     `json:"size"`
	BytesMoved int64     `json:"bytes_moved"`
	SHA256     string    `json:"sha256,omitempty"`   // of all Size bytes, as read back; files and devices
	Verified   bool      `json:"verified"`           // what is there now was compared with what was read at the source
	Notes      []string  `json:"notes,omitempty"`    // what was not covered
	MovedTo    string    `json:"moved_to,omitempty"` // aside: the new name of the old dataset
	Began      time.Time `json:"began"`
	Ended      time.Time `json:"ended,omitzero"`
}

// find lists one dataset with its versions; nil when the place does not have it.
func find(ctx context.Context, ep *cairn.Endpoint, dataset string) (*cairn.Listing, error) {
	if ep.Lister == nil {
		return nil, ep.Lacks("list", dataset)
	}
	q := cairn.Query{Filter: cairn.All, Names: []string{dataset}, Want: cairn.Want{Versions: true, Leases: true, Partial: true}}
	for l, err := range ep.Lister.List(ctx, q) {
		if err != nil {
			return nil, err
		}
		if l.Dataset.Name == dataset {
			return l, nil
		}
	}
	return nil, nil
}

// wanted finds the snapshot to restore.
func wanted(ctx context.Context, ep *cairn.Endpoint, dataset, name string) (*cairn.Listing, cairn.Version, error) {
	bad := func(kind cairn.Kind, err error, hint string) (*cairn.Listing, cairn.Version, error) {
		return nil, cairn.Version{}, &cairn.Error{Op: "restore", Subject: dataset + name, Place: ep.Info.Place, Kind: kind, Err: err, Hint: hint}
	}
	l, err := find(ctx, ep, dataset)
	if err != nil {
		return nil, cairn.Version{}, err
	}
	if l == nil {
		return bad(cairn.KindNotFound, errors.New("the dataset is not there"), "cairn list shows what there is")
	}
	for _, v := range l.Versions {
		if v.Name != name {
			continue
		}
		if !v.IsSnapshot() {
			return bad(cairn.KindInvalid, errors.New("a bookmark has no data"), "choose a snapshot, or another place that still has this one")
		}
		return l, v, nil
	}
	return bad(cairn.KindNotFound, errors.New("the dataset has no such version"), fmt.Sprintf("cairn list %s shows its versions", dataset))
}

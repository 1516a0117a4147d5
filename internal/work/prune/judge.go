package prune

import (
	"fmt"
	"slices"

	"cairn"
	"cairn/internal/policy/retention"
)

// judge turns listings into verdicts; it does no I/O.
type judge struct {
	*Options
	policy *retention.Policy
}

// dataset judges one dataset of the target. peer is the other side's listing of
// it, nil when there is none.
func (j judge) dataset(target, peer *cairn.Listing) DatasetReport {
	d := DatasetReport{Dataset: target.Dataset.Name}
	switch {
	case target.Dataset.Placeholder:
		d.Skipped = "only holds children"
		return d
	case j.Side == Receiver && j.Peer != nil && peer == nil:
		d.Skipped = "the sender does not have it, or does not replicate it"
		return d
	}
	at := j.position(target, peer)
	var snapshots []cairn.Version
	for _, v := range target.Versions {
		if v.IsSnapshot() {
			snapshots = append(snapshots, v)
		} else if j.superseded(v, at) {
			d.put(v, Destroy, []string{"is a cursor of this job that a newer one has replaced"})
		}
	}
	decision := j.policy.Decide(snapshots, retention.Input{Replicated: at.replicated, Now: j.Now})
	for i, v := range snapshots {
		if decision.Keep(i) {
			d.put(v, Keep, decision.Reasons(i))
			continue
		}
		action, why := j.protect(v, at)
		d.put(v, action, append(why, decision.Reasons(i)...))
	}
	return d
}

func (d *DatasetReport) put(v cairn.Version, a Action, reasons []string) {
	if a == Keep {
		d.Kept++
	} else {
		d.Destroyed++
	}
	d.Versions = append(d.Versions, VersionReport{Name: v.Name, GUID: v.GUID.String(), Created: v.Created, Action: a, Reasons: reasons, id: v.VersionID})
}

// position is how far replication has come, in terms of the target.
type position struct {
	common     cairn.GUID // last common version; zero: none is known
	replicated *uint64    // its Order
	bookmarked map[cairn.GUID]bool
	newest     cairn.GUID // newest snapshot
}

func (j judge) position(target, peer *cairn.Listing) position {
	at := position{bookmarked: map[cairn.GUID]bool{}}
	var there map[cairn.GUID]bool
	if j.Peer != nil {
		there = j.useful(peer)
	}
	for i := range target.Versions {
		v := &target.Versions[i]
		if v.IsBookmark() {
			at.bookmarked[v.GUID] = true
		} else {
			at.newest = v.GUID
		}
		if j.Side != Local && (there[v.GUID] || j.Peer == nil && j.confirmed(v)) {
			at.common, at.replicated = v.GUID, &v.Order
		}
	}
	return at
}

// useful are the versions of the peer that make a common version: the receiver's
// snapshots, the sender's snapshots and bookmarks.
func (j judge) useful(peer *cairn.Listing) map[cairn.GUID]bool {
	if peer == nil {
		return nil
	}
	there := make(map[cairn.GUID]bool, len(peer.Versions))
	for i := range peer.Versions {
		if v := &peer.Versions[i]; j.Side == Receiver || v.IsSnapshot() {
			there[v.GUID] = true
		}
	}
	return there
}

// confirmed reports whether a lease says that the other side has v: at the sender
// the job's cursor, at the receiver that v was received.
func (j judge) confirmed(v *cairn.Version) bool {
	return slices.ContainsFunc(v.Leases, func(l cairn.Lease) bool {
		if j.Side == Receiver {
			return l.Purpose == cairn.PurposeReceived
		}
		return l.Purpose == cairn.PurposeCursor && l.Owner == j.Owner
	})
}

// protect decides about a snapshot that no rule keeps. Why is set when it is kept
// or becomes a bookmark.
func (j judge) protect(v cairn.Version, at position) (Action, []string) {
	cursor := ""
	for _, l := range v.Leases {
		if l.Purpose != cairn.PurposeCursor {
			return Keep, []string{fmt.Sprintf("is leased by %s (%s)", l.Owner, l.Purpose)}
		}
		cursor = l.Owner
	}
	switch {
	case j.Side == Receiver && v.GUID == at.common:
		return Keep, []string{"is the last common version: the next increment is applied to it"}
	case j.Side == Receiver && j.Peer == nil && v.GUID == at.newest:
		return Keep, []string{"is the newest version: the next increment is applied to it"}
	case v.GUID != at.common && cursor == "", at.bookmarked[v.GUID]:
		return Destroy, nil
	}
	why := "is the last common version"
	if v.GUID != at.common {
		why = fmt.Sprintf("is the cursor of %s", cursor)
	}
	if j.Target.Bookmarks == nil {
		return Keep, []string{why}
	}
	return Bookmark, []string{why + ": a bookmark takes its place"}
}

// cursorName is the bookmark that takes the place of a last common snapshot.
func cursorName(guid cairn.GUID, owner string) string {
	return "#cairn_CURSOR_G_" + guid.String() + "_J_" + owner
}

// superseded reports whether v is a bookmark that an earlier run of this job made
// and that is not the last common version any more.
func (j judge) superseded(v cairn.Version, at position) bool {
	return at.replicated != nil && v.Order < *at.replicated && len(v.Leases) == 0 &&
		v.Name == cursorName(v.GUID, j.Owner)
}

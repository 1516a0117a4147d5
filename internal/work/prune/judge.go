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
	d.Versions = make([]VersionReport, 0, len(target.Versions))
	snapshots := make([]cairn.Version, 0, len(target.Versions))
	for _, v := range target.Versions {
		if v.IsSnapshot() {
			snapshots = append(snapshots, v)
		} else if j.superseded(v, at) {
			d.put(v, Destroy, []string{"is a cursor of this job that a newer one has replaced"})
		}
	}
	decision := j.policy.Decide(snapshots, retention.Input{Replicated: at.replicated, Now: j.Now})
	var reasons []string
	for i, v := range snapshots {
		if i == 0 || !decision.Same(i, i-1) {
			reasons = decision.Reasons(i)
		}
		if decision.Keep(i) {
			d.put(v, Keep, reasons)
			continue
		}
		action, why := j.protect(v, at)
		if why == "" {
			d.put(v, action, reasons)
		} else {
			d.put(v, action, append([]string{why}, reasons...))
		}
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
	for i := range target.Versions {
		v := &target.Versions[i]
		if v.IsBookmark() {
			at.bookmarked[v.GUID] = true
		} else {
			at.newest = v.GUID
		}
		if j.Side != Local && j.Peer == nil && j.confirmed(v) {
			at.common, at.replicated = v.GUID, &v.Order
		}
	}
	if j.Side == Local || peer == nil {
		return at
	}
	if v := j.lastCommon(target.Versions, peer.Versions); v != nil {
		at.common, at.replicated = v.GUID, &v.Order
	}
	return at
}

// lastCommon is the newest version of the target that the peer has in a form that
// makes it common: a receiver as a snapshot, a sender as a snapshot or a bookmark.
// Nearly always it is the peer's newest, which is looked for without an index.
func (j judge) lastCommon(target, peer []cairn.Version) *cairn.Version {
	counts := func(v *cairn.Version) bool { return j.Side == Receiver || v.IsSnapshot() }
	there := map[cairn.GUID]bool{}
	for p := len(peer) - 1; p >= 0; p-- {
		if !counts(&peer[p]) {
			continue
		}
		if len(there) == 0 {
			if i := lastIndex(target, func(v *cairn.Version) bool { return v.GUID == peer[p].GUID }); i >= 0 {
				return &target[i]
			}
		}
		there[peer[p].GUID] = true
	}
	if i := lastIndex(target, func(v *cairn.Version) bool { return there[v.GUID] }); i >= 0 {
		return &target[i]
	}
	return nil
}

func lastIndex(versions []cairn.Version, is func(*cairn.Version) bool) int {
	for i := len(versions) - 1; i >= 0; i-- {
		if is(&versions[i]) {
			return i
		}
	}
	return -1
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
func (j judge) protect(v cairn.Version, at position) (a Action, why string) {
	cursor := ""
	for _, l := range v.Leases {
		if l.Purpose != cairn.PurposeCursor {
			return Keep, fmt.Sprintf("is leased by %s (%s)", l.Owner, l.Purpose)
		}
		cursor = l.Owner
	}
	switch {
	case j.Side == Receiver && v.GUID == at.common:
		return Keep, "is the last common version: the next increment is applied to it"
	case j.Side == Receiver && j.Peer == nil && v.GUID == at.newest:
		return Keep, "is the newest version: the next increment is applied to it"
	case v.GUID != at.common && cursor == "", at.bookmarked[v.GUID]:
		return Destroy, ""
	case v.GUID == at.common:
		why = "is the last common version"
	default:
		why = fmt.Sprintf("is the cursor of %s", cursor)
	}
	if j.Target.Bookmarks == nil {
		return Keep, why
	}
	return Bookmark, why + ": a bookmark takes its place"
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

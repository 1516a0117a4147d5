package volume

import (
	"fmt"
	"time"

	"cairn"
	"cairn/internal/system/volume/catalog"
)

// makeRoom gives up the data of the oldest snapshots until a segment could be
// freed, and reports whether one was. Only the oldest frees anything: the
// segments of any other pass to its older neighbour. A replica never gives up
// anything, nor is one given up that a person or an overlay holds, nor are fewer
// than KeepAtLeast left. given is what v.given was when the caller last tried without
// success: where room was made since, that may do for all who wait.
func (v *Volume) makeRoom(adminHeld bool, given int64) bool {
	if !adminHeld {
		v.admin.Lock()
		defer v.admin.Unlock()
	}
	if v.closed || v.state().Head.Sealed && !v.o.Faults.has(FaultSinkGivesUp) {
		return false
	}
	if v.given.Load() != given {
		return true
	}
	for {
		st := v.state()
		oldest, ok := v.spare(st)
		if !ok {
			return false
		}
		before := len(st.Segments)
		v.o.Log.Warn("no room: the oldest snapshot is given up and becomes a bookmark", "volume", v.o.Name, "snapshot", oldest.Name)
		if err := v.giveUp("no room", catalog.Edit{GoneVersions: []string{oldest.Name}, Versions: []catalog.Version{asBookmark(st, oldest, v.o.Now())}}); err != nil {
			v.o.Log.Error("cannot give up a snapshot", "volume", v.o.Name, "snapshot", oldest.Name, "error", err)
			return false
		}
		v.given.Add(1)
		if len(v.state().Segments) < before {
			if !v.o.Faults.has(FaultReserveSpent) {
				keepReserve(v.fs, st.Head.Size, v.o.Log)
			}
			return true
		}
	}
}

// spare is the snapshot to be given up next.
func (v *Volume) spare(st *catalog.State) (catalog.Version, bool) {
	var oldest catalog.Version
	n := 0
	for _, r := range st.Versions {
		if !r.ID().IsSnapshot() {
			continue
		}
		if n == 0 {
			oldest = r
		}
		n++
	}
	if n == 0 || n <= v.o.KeepAtLeast {
		return oldest, false
	}
	for _, l := range oldest.Leases {
		if l.Purpose == cairn.PurposePin && !v.o.Faults.has(FaultGiveUpPinned) {
			return oldest, false
		}
	}
	return oldest, true
}

// asBookmark is what a snapshot becomes: its name, or where that is taken by
// another version, its GUID.
func asBookmark(st *catalog.State, r catalog.Version, now time.Time) catalog.Version {
	name := "#" + r.Name[1:]
	if other, taken := st.Find(name); taken && other.GUID != r.GUID {
		name = "#" + r.GUID.String()
	}
	r.Name, r.Damaged, r.GivenUp = name, false, now.UTC()
	return r
}

// toldFor is how long a volume is degraded after snapshots were given up.
const toldFor = 24 * time.Hour

// givenUp lists the bookmarks whose data went for want of room.
func givenUp(st *catalog.State) (list []catalog.Version) {
	for _, r := range st.Versions {
		if !r.GivenUp.IsZero() {
			list = append(list, r)
		}
	}
	return list
}

// outOfRoom says what was given up of late; empty when nothing was.
func outOfRoom(st *catalog.State, now time.Time) string {
	n, last := 0, catalog.Version{}
	for _, r := range givenUp(st) {
		if now.Sub(r.GivenUp) < toldFor {
			n++
			last = r
		}
	}
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("out of room: the data of %d snapshots was given up, last of %s at %s; give the store more room or keep fewer snapshots",
		n, last.Name, last.GivenUp.Format(time.RFC3339))
}

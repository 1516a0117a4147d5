package volume

import (
	"cairn"
	"cairn/internal/system/volume/catalog"
)

// Listing describes the volume under the name it has at its place.
func (v *Volume) Listing(name string, want cairn.Want) *cairn.Listing {
	st := v.state()
	l := &cairn.Listing{Dataset: cairn.Dataset{Name: name, Kind: cairn.KindVolume, ID: cairn.GUID(st.Store.ID),
		Size: st.Head.Size, Sealed: st.Head.Sealed}}
	l.Dataset.State, l.Dataset.Why = v.condition(st)
	if want.Versions {
		for _, r := range st.Versions {
			l.Versions = append(l.Versions, v.listed(st, r, want))
		}
	}
	if rc := st.Head.Receiving; rc != nil && want.Partial {
		l.Partial = &cairn.Partial{From: rc.From, To: rc.To, Received: rc.Received, Token: rc.Token}
	}
	return l
}

func (v *Volume) listed(st *catalog.State, r catalog.Version, want cairn.Want) cairn.Version {
	c := v.describe(r)
	if !want.Leases {
		c.Leases = nil
	} else if rc := st.Head.Receiving; rc != nil && rc.From == c.VersionID {
		c.Leases = append(c.Leases[:len(c.Leases):len(c.Leases)], cairn.Lease{Owner: rc.Owner, Purpose: cairn.PurposeStep})
	}
	if want.Sizes {
		c.Unique = v.unique(st, r)
	}
	return c
}

// unique is what destroying the version alone would free: the segments that no
// younger snapshot reads, when it is the oldest; else they pass to its older
// neighbour.
func (v *Volume) unique(st *catalog.State, r catalog.Version) int64 {
	next := st.Head.NextID // first interval of the second snapshot
	oldest := true
	for _, o := range st.Versions {
		if !o.ID().IsSnapshot() || o.Name == r.Name {
			continue
		}
		oldest = oldest && o.Order > r.Order
		next = min(next, o.Start)
	}
	var sum int64
	for _, g := range st.Segments {
		if oldest && r.ID().IsSnapshot() && g.Interval < next {
			sum += v.segmentLength(g)
		}
	}
	return sum
}

func (v *Volume) segmentLength(g catalog.Segment) int64 {
	if g.Closed {
		return g.Length
	}
	info, err := v.fs.Stat(numbered(segPrefix, g.ID))
	if err != nil {
		return 0 // given up meanwhile
	}
	return info.Size()
}

// condition is the volume's state word and the sentence that explains it.
func (v *Volume) condition(st *catalog.State) (cairn.State, string) {
	if e := v.flushErr.Load(); e != nil {
		return cairn.StateDamaged, (*e).Error()
	}
	if why := v.doubt(); why != "" {
		return cairn.StateUnverified, why
	}
	for _, r := range st.Versions {
		if r.Damaged {
			return cairn.StateDamaged, "snapshot " + r.Name + " lost blocks"
		}
	}
	if st.Head.FailedFlush != "" {
		return cairn.StateUnverified, "failed flush: " + st.Head.FailedFlush + "; writes acknowledged before it may be missing: check what uses the volume, then run cairn volume mark-dirty"
	}
	if st.Head.RollingBack != "" {
		return cairn.StateDegraded, "a rollback to " + st.Head.RollingBack + " is not finished: roll back to it again"
	}
	if why := outOfRoom(st, v.o.Now()); why != "" {
		return cairn.StateDegraded, why
	}
	return cairn.StateOK, ""
}

// Owner is the file or command that made the volume.
func (v *Volume) Owner() string { return v.state().Store.Owner }

// Origin is the path of an adopted head, empty for a head of our own.
func (v *Volume) Origin() string { return v.state().Store.Origin }

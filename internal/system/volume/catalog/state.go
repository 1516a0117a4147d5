package catalog

import (
	"cmp"
	"slices"
	"time"

	"cairn"
)

// Store is what is decided when a store is made and never changes.
type Store struct {
	ID      uint64    `json:"id,string"`
	Format  int       `json:"format"` // of the whole store; docs/formats/volume.md
	Created time.Time `json:"created"`
	Origin  string    `json:"origin,omitempty"` // path of an adopted head; empty: the file "head" of the store
	Owner   string    `json:"owner,omitempty"`  // the file or command that made the volume
}

// Version is a snapshot ('@') or bookmark ('#'). Its data and its changes are
// found by number: it reads the segments of interval Start and later, and the
// change sets from Start up to the next version's Start are its own.
type Version struct {
	Name    string        `json:"name"`
	GUID    cairn.GUID    `json:"guid,string"`
	Order   uint64        `json:"order"`
	Start   uint64        `json:"start"` // first interval after it
	Created time.Time     `json:"created"`
	Size    int64         `json:"size"`
	Damaged bool          `json:"damaged,omitempty"`
	GivenUp time.Time     `json:"givenup,omitzero"` // of a bookmark: when the data of its snapshot went for want of room
	Leases  []cairn.Lease `json:"leases,omitempty"`
}

// ID is the version's name and GUID.
func (v Version) ID() cairn.VersionID { return cairn.VersionID{Name: v.Name, GUID: v.GUID} }

// Segment is a file of preserved blocks.
type Segment struct {
	ID          uint64 `json:"id"`
	Interval    uint64 `json:"interval"`
	Incarnation uint64 `json:"incarnation"`
	Closed      bool   `json:"closed,omitempty"`   // its index file is complete
	Length      int64  `json:"length,omitempty"`   // bytes known durable, once closed
	Epoch       uint64 `json:"epoch,omitempty"`    // highest of its batches, once closed
	Damaged     bool   `json:"damaged,omitempty"`  // blocks of it are missing; a later segment of the interval has them as lost
	Extended    bool   `json:"extended,omitempty"` // until closed its file is longer than what it holds
	Heals       uint64 `json:"heals,omitempty"`    // the segment before which it is looked at; 0: none
}

// SegmentOrder is the order in which segments are looked at: in time, those that
// heal another before it, the latest of them first.
func SegmentOrder(a, b Segment) int {
	place := func(g Segment) uint64 {
		if g.Heals != 0 {
			return g.Heals
		}
		return g.ID
	}
	if c := cmp.Compare(place(a), place(b)); c != 0 {
		return c
	}
	return cmp.Or(-cmp.Compare(min(a.Heals, 1), min(b.Heals, 1)), -cmp.Compare(a.ID, b.ID))
}

// Set is the file of the blocks written in the intervals [From, To).
type Set struct {
	ID   uint64 `json:"id"`
	From uint64 `json:"from"`
	To   uint64 `json:"to"`
}

// Receiving is a receive under way, or cut.
type Receiving struct {
	From     cairn.VersionID `json:"from"`
	To       cairn.VersionID `json:"to"`
	Created  time.Time       `json:"created"`
	Size     int64           `json:"size"` // of the volume at To
	Received int64           `json:"received"`
	Token    []byte          `json:"token,omitempty"`
	Owner    string          `json:"owner,omitempty"` // of the lease that pins From
}

// Hashes says which block hash table a volume has, and what it tells.
type Hashes struct {
	Table uint64 `json:"table"`           // number of its file
	Key   []byte `json:"key"`             // of its hashes
	AsOf  uint64 `json:"as_of,omitempty"` // the first interval after the version that it is of; 0: it tells nothing yet
	Size  int64  `json:"size,omitempty"`  // bytes of that version
}

// As is the same table, as of a version.
func (t Hashes) As(start uint64, size int64) *Hashes {
	t.AsOf, t.Size = start, size
	return &t
}

// Evidence is what a head looked like when it was closed cleanly.
type Evidence struct {
	Device  uint64 `json:"device"`
	Inode   uint64 `json:"inode"`
	Size    int64  `json:"size"`
	Mtime   int64  `json:"mtime"`
	Ctime   int64  `json:"ctime"`
	Boot    string `json:"boot"`
	DiskSeq uint64 `json:"diskseq,omitempty"`
	Writes  uint64 `json:"writes,omitempty"`
}

// Head is everything about a volume of which there is one.
type Head struct {
	Size        int64      `json:"size"`
	Sealed      bool       `json:"sealed,omitempty"`
	Interval    uint64     `json:"interval"`    // the open one; higher ones are folded into it after a crash
	Incarnation uint64     `json:"incarnation"` // raised whenever the store is opened for writing
	Clean       bool       `json:"clean"`       // closed properly since
	NextID      uint64     `json:"next"`        // of the next segment, set or interval: lower numbers are taken
	Checkpoint  uint64     `json:"checkpoint,omitempty"`
	Epoch       uint64     `json:"epoch"` // marks of this epoch and before are in Checkpoint
	Receiving   *Receiving `json:"receiving,omitempty"`
	RollingBack string     `json:"rollingback,omitempty"` // the snapshot that the head is being made equal to
	Unverified  string     `json:"unverified,omitempty"`  // why the head's continuity cannot be shown
	FailedFlush string     `json:"failedflush,omitempty"` // what a flush of the head failed with: acknowledged writes may be missing
	Evidence    *Evidence  `json:"evidence,omitempty"`
	Hashes      *Hashes    `json:"hashes,omitempty"` // nil: no block hash table
}

// State is what a catalog says.
type State struct {
	Store    Store     `json:"store"`
	Head     Head      `json:"head"`
	Versions []Version `json:"versions,omitempty"` // by Order; at one Order, bookmarks before the snapshot
	Segments []Segment `json:"segments,omitempty"` // in the order in which they are looked at
	Sets     []Set     `json:"sets,omitempty"`     // by From
}

// Edit is one change: all of it happens or none. What it names is put in place of
// what has the same name or ID.
type Edit struct {
	Why          string    `json:"why"` // for people who read a catalog
	Head         *Head     `json:"head,omitempty"`
	Versions     []Version `json:"versions,omitempty"`
	Segments     []Segment `json:"segments,omitempty"`
	Sets         []Set     `json:"sets,omitempty"`
	GoneVersions []string  `json:"goneVersions,omitempty"`
	GoneSegments []uint64  `json:"goneSegments,omitempty"`
	GoneSets     []uint64  `json:"goneSets,omitempty"`
}

// apply gives the state after the edit; s stays as it was, so that whoever reads
// it needs no lock.
func (s *State) apply(e Edit) *State {
	n := *s
	if e.Head != nil {
		n.Head = *e.Head
	}
	n.Versions = merge(s.Versions, e.Versions, e.GoneVersions, func(v Version) string { return v.Name }, versionOrder)
	n.Segments = merge(s.Segments, e.Segments, e.GoneSegments, func(v Segment) uint64 { return v.ID },
		SegmentOrder)
	n.Sets = merge(s.Sets, e.Sets, e.GoneSets, func(v Set) uint64 { return v.ID },
		func(a, b Set) int { return cmp.Compare(a.From, b.From) })
	return &n
}

func versionOrder(a, b Version) int {
	// '#' sorts before '@', as wanted.
	return cmp.Or(cmp.Compare(a.Order, b.Order), cmp.Compare(a.Name[0], b.Name[0]), cmp.Compare(a.Name, b.Name))
}

func merge[T any, K comparable](old, put []T, gone []K, key func(T) K, order func(a, b T) int) []T {
	if len(put) == 0 && len(gone) == 0 {
		return old
	}
	drop := make(map[K]bool, len(put)+len(gone))
	for _, k := range gone {
		drop[k] = true
	}
	for _, v := range put {
		drop[key(v)] = true
	}
	out := make([]T, 0, len(old)+len(put))
	for _, v := range old {
		if !drop[key(v)] {
			out = append(out, v)
		}
	}
	out = append(out, put...)
	slices.SortStableFunc(out, order)
	return out
}

// Find gives the version of that name.
func (s *State) Find(name string) (Version, bool) {
	for _, v := range s.Versions {
		if v.Name == name {
			return v, true
		}
	}
	return Version{}, false
}

// NewestSnapshot gives the snapshot that receives preserved blocks.
func (s *State) NewestSnapshot() (Version, bool) {
	for _, v := range slices.Backward(s.Versions) {
		if v.ID().IsSnapshot() {
			return v, true
		}
	}
	return Version{}, false
}

// Garbage lists the segments and sets that nothing needs: segments older than every
// snapshot, sets older than every version and the block hash table's.
func (s *State) Garbage() (segments, sets []uint64) {
	firstSnapshot, firstVersion := s.Head.NextID, s.Head.NextID
	if t := s.Head.Hashes; t != nil && t.AsOf != 0 && len(s.Versions) > 0 {
		firstVersion = t.AsOf
	}
	for _, v := range s.Versions {
		firstVersion = min(firstVersion, v.Start)
		if v.ID().IsSnapshot() {
			firstSnapshot = min(firstSnapshot, v.Start)
		}
	}
	for _, g := range s.Segments {
		if g.Interval < firstSnapshot {
			segments = append(segments, g.ID)
		}
	}
	for _, g := range s.Sets {
		if g.From < firstVersion {
			sets = append(sets, g.ID)
		}
	}
	return segments, sets
}

// After gives the state that the edit would lead to.
func (s *State) After(e Edit) *State { return s.apply(e) }

package memory

import (
	"cmp"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"cairn"
)

// version is one point of a dataset; image is nil for a bookmark.
type version struct {
	cairn.Version
	image *image
	users int // open readers and running streams
}

// leaseKey names a set of leases of one dataset.
type leaseKey struct {
	owner   string
	purpose cairn.Purpose
}

// partial is a receive that was cut.
type partial struct {
	cairn.Partial
	image   *image
	changed blockSet
}

// dataset is one volume. Place.mu guards all of it; images in versions never
// change.
type dataset struct {
	info      cairn.Dataset
	head      *image
	versions  []*version          // by Order, bookmarks before the snapshot
	changes   map[uint64]blockSet // Order → written since the version before
	dirty     blockSet            // written since the newest version
	leases    map[leaseKey][]cairn.VersionID
	order     uint64
	partial   *partial
	receiving bool
	unfilled  bool // made by a receive that has not committed yet
}

func newGUID() cairn.GUID {
	var b [8]byte
	for {
		rand.Read(b[:])
		if g := cairn.GUID(binary.LittleEndian.Uint64(b[:])); g != 0 {
			return g
		}
	}
}

func newDataset(name string, size int64) *dataset {
	return &dataset{info: cairn.Dataset{Name: name, Kind: cairn.KindVolume, ID: newGUID()},
		head: newImage(size), changes: map[uint64]blockSet{}, dirty: blockSet{}, leases: map[leaseKey][]cairn.VersionID{}}
}

// find returns the version of that name and GUID; KindNotFound or KindConflict.
func (d *dataset) find(op string, id cairn.VersionID) (*version, error) {
	for _, v := range d.versions {
		if v.Name != id.Name {
			continue
		}
		if v.GUID != id.GUID {
			return nil, failed(op, d.info.Name+id.Name, cairn.KindConflict, fmt.Errorf("it has GUID %v, not %v", v.GUID, id.GUID))
		}
		return v, nil
	}
	return nil, failed(op, d.info.Name+id.Name, cairn.KindNotFound, nil)
}

func (d *dataset) newest() *version {
	if len(d.versions) == 0 {
		return nil
	}
	return d.versions[len(d.versions)-1]
}

// add inserts v where the order of listings wants it.
func (d *dataset) add(v *version) {
	d.versions = append(d.versions, v)
	slices.SortStableFunc(d.versions, func(a, b *version) int {
		if a.Order != b.Order {
			return cmp.Compare(a.Order, b.Order)
		}
		return cmp.Compare(b.Name[0]&1, a.Name[0]&1) // '#' is odd, '@' even
	})
}

// capture makes a snapshot of the head.
func (d *dataset) capture(id cairn.VersionID, created time.Time) *version {
	d.order++
	d.changes[d.order] = d.dirty
	d.dirty = blockSet{}
	v := &version{Version: cairn.Version{VersionID: id, Order: d.order, Created: created, Size: d.head.size}, image: d.head.clone()}
	d.add(v)
	return v
}

// remove takes v out; the change set of the last version of its order goes to the
// next one, so that no write is forgotten.
func (d *dataset) remove(v *version) {
	d.versions = slices.DeleteFunc(d.versions, func(o *version) bool { return o == v })
	next := d.dirty
	for _, o := range d.versions {
		if o.Order == v.Order {
			return
		}
		if o.Order > v.Order {
			next = d.changes[o.Order]
			break
		}
	}
	next.add(d.changes[v.Order])
	delete(d.changes, v.Order)
}

// changed is the union of the change sets after from, up to to (nil: the head).
func (d *dataset) changed(from uint64, to *version) blockSet {
	set := blockSet{}
	for order, c := range d.changes {
		if order > from && (to == nil || order <= to.Order) {
			set.add(c)
		}
	}
	if to == nil {
		set.add(d.dirty)
	}
	return set
}

// held fails with KindBusy when a lease, a reader, a stream or a pending receive
// needs v.
func (d *dataset) held(v *version) error {
	busy := func(format string, args ...any) error {
		return failed("destroy", d.info.Name+v.Name, cairn.KindBusy, fmt.Errorf(format, args...))
	}
	if v.users > 0 {
		return busy("it is being read")
	}
	if d.partial != nil && d.partial.From.GUID == v.GUID && v.IsSnapshot() {
		return busy("a receive that was cut stands on it")
	}
	for key, ids := range d.leases {
		if slices.Contains(ids, v.VersionID) && (key.purpose != cairn.PurposeCursor || d.twin(v) == nil) {
			return busy("leased by %s (%s)", key.owner, key.purpose)
		}
	}
	return nil
}

// twin is a bookmark of the same GUID, which satisfies a cursor lease on v.
func (d *dataset) twin(v *version) *version {
	for _, o := range d.versions {
		if o != v && o.GUID == v.GUID && o.IsBookmark() {
			return o
		}
	}
	return nil
}

// destroy removes v when nothing holds it; cursor leases move to its twin.
func (d *dataset) destroy(v *version) error {
	if err := d.held(v); err != nil {
		return err
	}
	d.passCursors(v, d.twin(v))
	d.remove(v)
	return nil
}

// passCursors lets the leases on v be satisfied by to.
func (d *dataset) passCursors(v, to *version) {
	if to == nil {
		return
	}
	for key, ids := range d.leases {
		if i := slices.Index(ids, v.VersionID); i >= 0 {
			ids = slices.Clone(ids)
			ids[i] = to.VersionID
			d.leases[key] = ids
		}
	}
}

// leasesOf lists who holds v.
func (d *dataset) leasesOf(v *version) []cairn.Lease {
	var out []cairn.Lease
	for key, ids := range d.leases {
		if slices.Contains(ids, v.VersionID) {
			out = append(out, cairn.Lease{Owner: key.owner, Purpose: key.purpose})
		}
	}
	slices.SortFunc(out, func(a, b cairn.Lease) int {
		return cmp.Or(cmp.Compare(a.Purpose, b.Purpose), cmp.Compare(a.Owner, b.Owner))
	})
	return out
}

// unique is what destroying v alone would free.
func (d *dataset) unique(v *version) int64 {
	if v.image == nil {
		return 0
	}
	shared := map[*block]bool{}
	for _, b := range d.head.blocks {
		shared[b] = true
	}
	for _, o := range d.versions {
		if o != v && o.image != nil {
			for _, b := range o.image.blocks {
				shared[b] = true
			}
		}
	}
	free := int64(0)
	for _, b := range v.image.blocks {
		if b != nil && !shared[b] {
			free += cairn.BlockSize
		}
	}
	return free
}

// listing renders d as a caller wants it.
func (d *dataset) listing(w cairn.Want) *cairn.Listing {
	l := &cairn.Listing{Dataset: d.info}
	l.Dataset.Size = d.head.size
	if w.Versions {
		l.Versions = make([]cairn.Version, len(d.versions))
		for i, v := range d.versions {
			l.Versions[i] = v.Version
			if w.Leases {
				l.Versions[i].Leases = d.leasesOf(v)
			}
			if w.Sizes {
				l.Versions[i].Unique = d.unique(v)
			}
		}
	}
	if w.Partial && d.partial != nil {
		p := d.partial.Partial
		p.Token = slices.Clone(p.Token)
		l.Partial = &p
	}
	return l
}

func failed(op, subject string, kind cairn.Kind, err error) *cairn.Error {
	return &cairn.Error{Op: op, Subject: subject, Kind: kind, Err: err}
}

package volume

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"cairn"
	"cairn/internal/format/blocks"
	"cairn/internal/mech/extent"
	"cairn/internal/system/volume/catalog"
	"cairn/internal/system/volume/hashes"
)

// The block hash table is as of one version, which the catalog names, and for the
// sets of blocks that were written before or since it counts as a bookmark. What a
// send or a receive reads brings it to a newer version; that the catalog names the
// newer one comes after its pages are durable.

// maxTableSets is how many change sets may be kept for the table alone. Beyond it
// the table knows nothing until it is next brought to a version.
const maxTableSets = 256

// hashing is the block hash table of an open volume.
type hashing struct {
	mu     sync.Mutex // guards what follows
	table  *hashes.Table
	number uint64 // of its file

	stamp atomic.Uint64 // for the update of the next receive; 0: none
}

func (h *hashing) get() (*hashes.Table, uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.table, h.number
}

// swap puts a table in place of the one there is.
func (h *hashing) swap(t *hashes.Table, number uint64) error {
	h.mu.Lock()
	old := h.table
	h.table, h.number = t, number
	h.mu.Unlock()
	if old == nil {
		return nil
	}
	return old.Close()
}

func (h *hashing) close() error { return h.swap(nil, 0) }

// newTable is the record of a table that knows nothing.
func newTable(number uint64) *catalog.Hashes {
	return &catalog.Hashes{Table: number, Key: hashes.NewKey()}
}

// openTable opens the table that the catalog names, if it names one.
func (v *Volume) openTable() error {
	rec := v.state().Head.Hashes
	if rec == nil {
		return v.hashing.close()
	}
	t, err := hashes.Open(v.fs, numbered(hashPrefix, rec.Table), hashes.Identity{Store: v.store, Table: rec.Table}, rec.Key)
	if err != nil {
		return err
	}
	return v.hashing.swap(t, rec.Table)
}

// SetHashes gives the volume a block hash table, or takes it away. A new one knows
// nothing until a stream is sent or received, or Verify reads everything.
func (v *Volume) SetHashes(ctx context.Context, on bool) error {
	v.admin.Lock()
	defer v.admin.Unlock()
	err := ctx.Err()
	if err == nil && v.closed {
		err = errClosed
	}
	if err == nil && on != (v.state().Head.Hashes != nil) {
		err = v.replaceTable(on)
	}
	return failed("set hashes of", v.o.Name, err)
}

// HasHashes tells whether the volume has a block hash table.
func (v *Volume) HasHashes() bool { return v.state().Head.Hashes != nil }

// replaceTable puts an empty table, or none, in place of the one there is.
func (v *Volume) replaceTable(with bool) error {
	if err := v.activate(); err != nil {
		return err
	}
	var old, fresh *catalog.Hashes
	if with {
		fresh = newTable(v.newID())
	}
	err := v.commit("block hash table", func(_ *catalog.State, h *catalog.Head) catalog.Edit {
		old, h.Hashes = h.Hashes, fresh
		return catalog.Edit{}
	})
	if err != nil {
		return err
	}
	err = v.openTable()
	if old != nil {
		v.remove(numbered(hashPrefix, old.Table))
	}
	return err
}

// loseTable begins a new table after an error of the old one: what that says cannot
// be relied on. The volume is none the worse for it.
func (v *Volume) loseTable(number uint64, why error) {
	if rec := v.state().Head.Hashes; rec == nil || rec.Table != number {
		return
	}
	v.o.Log.Warn("the block hash table is begun anew", "volume", v.o.Name, "error", why)
	if err := v.replaceTable(true); err != nil {
		v.o.Log.Warn("cannot begin a new block hash table", "volume", v.o.Name, "error", err)
	}
}

// settleTable makes the table forget what it is of when the change sets that it
// needs are not made or kept any more. after is the state that is being committed.
func (v *Volume) settleTable(after *catalog.State, h *catalog.Head) {
	t := h.Hashes
	if t == nil || t.AsOf == 0 {
		return
	}
	own := 0
	for _, s := range after.Sets {
		if len(after.Versions) > 0 && s.From < after.Versions[0].Start {
			own++
		}
	}
	if len(after.Versions) == 0 || own > maxTableSets {
		h.Hashes = t.As(0, 0)
	}
}

// moment is what the catalog and the open change set say at one instant, with a
// table that is of some version.
type moment struct {
	v     *Volume
	st    *catalog.State
	table *catalog.Hashes
	open  *extent.Bitmap // written since the last version
	head  catalog.Version
}

func (v *Volume) moment() moment {
	st, open, size := v.openChanges(cairn.VersionID{})
	head := catalog.Version{Start: st.Head.NextID + v.nextID.Load(), Size: size} // above every interval
	return moment{v: v, st: st, table: st.Head.Hashes, open: open, head: head}
}

// apart is the blocks written between the table's version and another, whichever is
// older; up to the head when x is nil.
func (m moment) apart(x *catalog.Version) (hashes.Changed, error) {
	if m.table.AsOf == 0 {
		return hashes.Changed{All: true}, nil
	}
	set := &extent.Bitmap{}
	older, newer := catalog.Version{Start: m.table.AsOf, Size: m.table.Size}, m.head
	if x != nil {
		newer = *x
	} else {
		set = m.open.Clone()
	}
	if newer.Start < older.Start {
		newer, older = older, newer
	}
	if m.v.o.Faults.has(FaultTableUndated) {
		return hashes.Changed{}, nil
	}
	return hashes.Changed{Set: set}, m.v.addChanges(m.st, older, newer, set)
}

// both is apart of a version and of the head.
func (m moment) both(x *catalog.Version) (apart, unsure hashes.Changed, err error) {
	if apart, err = m.apart(x); err != nil || x == nil {
		return apart, apart, err
	}
	unsure, err = m.apart(nil)
	return apart, unsure, err
}

// tableUpdate is an update of the table by a stream. Nil does nothing: the volume has
// no table, or another update is under way. No error of the table ends a stream.
type tableUpdate struct {
	v      *Volume
	u      *hashes.Update
	number uint64
	asOf   uint64
	to     catalog.Version
	since  hashes.Changed
	whole  bool  // what no record covers is zeroes
	next   int64 // with whole, where the next record is expected
}

// updateTable begins an update to a version that exists.
func (v *Volume) updateTable(to catalog.Version) *tableUpdate {
	if m := v.moment(); m.table != nil && to.Start >= m.table.AsOf {
		return m.update(to, to.Start, &to)
	}
	return nil
}

// drawStamp draws the number of the update that a receive makes. The next record of
// the catalog makes it certain that it is never drawn again. Callers hold admin.
func (v *Volume) drawStamp() {
	if v.HasHashes() {
		v.hashing.stamp.Store(v.newID())
	}
}

// receiveTable begins the update of a receive, from a position of its stream on.
func (v *Volume) receiveTable(h blocks.Header, position int64) *tableUpdate {
	stamp, m := v.hashing.stamp.Load(), v.moment()
	if stamp == 0 || m.table == nil {
		return nil
	}
	x := m.update(catalog.Version{Size: h.Size}, stamp, nil)
	if x != nil {
		x.whole, x.next = h.From.IsZero(), position
	}
	return x
}

func (m moment) update(to catalog.Version, stamp uint64, upTo *catalog.Version) *tableUpdate {
	since, unsure, err := m.both(upTo)
	if err != nil {
		m.v.o.Log.Warn("cannot tell what the block hash table is to be brought over", "volume", m.v.o.Name, "error", err)
		return nil
	}
	t, number := m.v.hashing.get()
	if t == nil || number != m.table.Table {
		return nil
	}
	u := t.Update(hashes.UpdateOptions{AsOf: m.table.AsOf, Stamp: stamp, Size: to.Size, Since: since, Unsure: unsure, Faults: m.v.o.Faults.ofTable()})
	if u == nil {
		return nil
	}
	x := &tableUpdate{v: m.v, u: u, number: number, asOf: m.table.AsOf, to: to, since: since}
	if h := m.v.state().Head; !x.current(&h) { // another update ended meanwhile, maybe of a newer version
		x.end()
		return nil
	}
	return x
}

// did notes the outcome of a step.
func (x *tableUpdate) did(err error) {
	if err == nil {
		return
	}
	x.u.End()
	x.u = nil
	if !errors.Is(err, hashes.ErrEnded) {
		x.v.loseTable(x.number, err)
	}
}

func (x *tableUpdate) live() bool { return x != nil && x.u != nil }

func (x *tableUpdate) data(off int64, p []byte) {
	if x.live() {
		x.did(x.u.Data(off, p))
	}
}

func (x *tableUpdate) zero(off, length int64) {
	if x.live() {
		x.did(x.u.Zero(off, length))
	}
}

// applied takes what a receive has applied to the head, zeroes when p is nil. Not
// before: what the table says of it has to be under a durable mark.
func (x *tableUpdate) applied(off, length int64, p []byte) {
	if !x.live() {
		return
	}
	x.fill(off)
	if p != nil {
		x.data(off, p)
	} else {
		x.zero(off, length)
	}
	x.next = off + length
}

// fill takes what no record covers, up to an offset.
func (x *tableUpdate) fill(off int64) {
	if x.whole && off > x.next {
		x.zero(x.next, off-x.next)
	}
}

// finish makes the update durable and puts its version on record.
func (x *tableUpdate) finish() {
	if !x.live() {
		return
	}
	if err := x.u.Finish(x.since); err != nil {
		x.did(err)
		return
	}
	defer x.end()
	if x.asOf == x.to.Start {
		return // it was of that version already
	}
	if err := x.putOnRecord(); err != nil {
		x.v.o.Log.Warn("cannot record what the block hash table is of", "volume", x.v.o.Name, "error", err)
	}
}

// putOnRecord enters the version, unless the table is another now, or none because
// the volume is being closed, or the version was rolled back.
func (x *tableUpdate) putOnRecord() error {
	v := x.v
	v.hashing.mu.Lock()
	defer v.hashing.mu.Unlock()
	if v.hashing.table == nil || v.hashing.number != x.number {
		return nil
	}
	if err := v.activate(); err != nil {
		return err
	}
	return v.commit("hashes as of "+x.to.Name, func(s *catalog.State, h *catalog.Head) catalog.Edit {
		now, found := s.Find(x.to.Name)
		if found && now.Start == x.to.Start && x.current(h) {
			h.Hashes = h.Hashes.As(x.to.Start, x.to.Size)
		}
		return catalog.Edit{}
	})
}

// current tells whether the table is still as the update found it.
func (x *tableUpdate) current(h *catalog.Head) bool {
	return h.Hashes != nil && h.Hashes.Table == x.number && h.Hashes.AsOf == x.asOf
}

// prepare makes the update of a receive durable; what it gives puts the version on
// record, in the record that makes it. Callers hold admin.
func (x *tableUpdate) prepare() func(*catalog.Head) {
	if !x.live() {
		return func(*catalog.Head) {}
	}
	x.fill(x.to.Size)
	if !x.live() {
		return func(*catalog.Head) {}
	}
	m := x.v.moment()
	if m.table == nil || m.table.AsOf != x.asOf {
		return func(*catalog.Head) {}
	}
	since, err := m.apart(nil)
	if err == nil {
		err = x.u.Finish(since)
	}
	x.did(err)
	return func(h *catalog.Head) {
		if x.live() && x.current(h) {
			h.Hashes = h.Hashes.As(h.Interval, x.to.Size)
		}
	}
}

// end lets go of the table.
func (x *tableUpdate) end() {
	if x == nil {
		return
	}
	if x.u != nil {
		x.u.End()
		x.u = nil
	}
}

// rollTableBack makes the table forget what a rollback undoes, before the record
// that ends it. Callers hold persist.
func (v *Volume) rollTableBack(target catalog.Version) {
	t, number := v.hashing.get()
	if t == nil || v.o.Faults.has(FaultTableAhead) {
		return
	}
	m := v.moment()
	err := v.addChanges(m.st, target, m.head, m.open)
	if err == nil {
		err = t.Clear(hashes.Changed{Set: m.open})
	}
	if err != nil {
		v.loseTable(number, fmt.Errorf("while rolling back: %w", err))
	}
}

// tableView tells what the blocks of a version should hold, or with nil those of
// the head; nil without a table, or when it knows nothing. It believes no page of an
// update to a version that was not on record at its moment: what that version holds
// may have been written since, also where its number had been drawn already.
func (v *Volume) tableView(x *catalog.Version) (*hashes.View, error) {
	m := v.moment()
	t, number := v.hashing.get()
	if m.table == nil || m.table.AsOf == 0 || t == nil || number != m.table.Table {
		return nil, nil
	}
	apart, unsure, err := m.both(x)
	if err != nil {
		return nil, err
	}
	return t.View(hashes.ViewOptions{AsOf: m.table.AsOf, Limit: m.st.Head.Interval + 1, Apart: apart, Unsure: unsure, Faults: v.o.Faults.ofTable()})
}

package hashes

import (
	"errors"

	"cairn/internal/mech/extent"
)

// UpdateOptions say from where to where an update leads.
type UpdateOptions struct {
	AsOf  uint64 // number of the version on record; 0: none
	Stamp uint64 // number of the update: of its version, or one that is never a version's
	Size  int64  // bytes of the version
	// Since is the blocks written between the version on record and this one, as far
	// as it is known when the update begins; Unsure those written between the version
	// on record and this moment.
	Since, Unsure Changed
	Faults        Fault
}

// Fault breaks one rule of the table on purpose. Only tests set it.
type Fault uint8

// The faults.
const (
	FaultUnsynced  Fault = 1 << iota // an update ends before its pages are durable
	FaultKeepStale                   // entries of blocks that changed and were not seen are kept
	FaultMisplaced                   // an entry stands in its neighbour's place
	FaultTrust                       // pages of an update that did not end are believed
)

// Update brings a table to a version. It takes content in any order, ascending for
// little work. It serves one goroutine at a time.
type Update struct {
	t      *Table
	o      UpdateOptions
	h      *Hasher
	seen   *extent.Bitmap // groups that were brought to the version
	cur    *held          // the page of entries that takes some now
	bits   *held          // the page of bits
	hashed uint64         // blocks
}

// held is a page in memory and whether it has to be stored.
type held struct {
	*page
	dirty bool
}

// Update begins one; nil when one is under way.
func (t *Table) Update(o UpdateOptions) *Update {
	t.mu.Lock()
	defer t.mu.Unlock()
	h, err := NewHasher(t.key)
	if t.update != nil || t.closed || err != nil {
		return nil
	}
	t.update = &Update{t: t, o: o, h: h, seen: &extent.Bitmap{}}
	return t.update
}

// End lets go of the table. After Finish it does nothing; without it the update is
// given up, and what it wrote does no harm.
func (u *Update) End() {
	u.t.mu.Lock()
	defer u.t.mu.Unlock()
	if u.t.update == u {
		u.t.update = nil
	}
}

// ErrEnded says that the table was cleared or closed under an update.
var ErrEnded = errors.New("the update of the block hash table was ended")

// Hashed is how many blocks were given an entry.
func (u *Update) Hashed() uint64 { return u.hashed }

// Data takes content of the version. Of a block that it holds in part nothing is
// known afterwards.
func (u *Update) Data(off int64, p []byte) error {
	for len(p) > 0 {
		block := uint64(off) / blockSize
		n := min(int64(len(p)), blockSize-off%blockSize)
		whole := off%blockSize == 0 && (n == blockSize || off+n == u.o.Size)
		e := Unknown
		if whole {
			e = u.h.Entry(p[:n])
		}
		if err := u.put(block, e); err != nil {
			return err
		}
		p, off = p[n:], off+n
	}
	return nil
}

// Zero takes a range of the version that is all zeroes. Of a block that it holds in
// part nothing is known afterwards.
func (u *Update) Zero(off, length int64) error {
	for end := off + length; off < end; {
		block := uint64(off) / blockSize
		groupEnd := min(int64(block/perPage+1)*perPage*blockSize, u.o.Size)
		if off%(perPage*blockSize) == 0 && end >= groupEnd {
			if err := u.zeroGroup(block / perPage); err != nil {
				return err
			}
			off = groupEnd
			continue
		}
		n := min(end-off, blockSize-off%blockSize)
		e := Unknown
		if off%blockSize == 0 && (n == blockSize || off+n == u.o.Size) {
			e = Zero
		}
		if err := u.put(block, e); err != nil {
			return err
		}
		off += n
	}
	return nil
}

func (u *Update) put(block uint64, e Entry) error {
	group, at := groupOf(block)
	if err := u.aim(uint64(group)); err != nil {
		return err
	}
	if u.o.Faults&FaultMisplaced != 0 {
		at = (at + 1) % perPage
	}
	u.hashed++
	if u.cur.entry(at) != e {
		u.cur.setEntry(at, e)
		u.cur.dirty = true
	}
	return nil
}

// aim makes the group's page the one that takes entries.
func (u *Update) aim(group uint64) error {
	if u.cur != nil && u.cur.number == pageOf(group) {
		return nil
	}
	u.t.mu.Lock()
	defer u.t.mu.Unlock()
	if err := u.writeOut(&u.cur); err != nil {
		return err
	}
	if err := u.aimBits(group); err != nil {
		return err
	}
	cur, err := u.fetch(pageOf(group))
	if err != nil {
		return err
	}
	if _, bit := mapOf(group); u.bits.bit(bit) {
		u.bits.setBit(bit, false)
		u.bits.dirty = true
		for at := range perPage {
			cur.setEntry(at, Zero)
		}
		cur.dirty = true
	}
	u.cur = cur
	u.seen.Set(group, 1)
	return nil
}

// zeroGroup notes that all blocks of a group are zeroes.
func (u *Update) zeroGroup(group uint64) error {
	u.t.mu.Lock()
	defer u.t.mu.Unlock()
	if u.cur != nil && u.cur.number == pageOf(group) {
		if err := u.writeOut(&u.cur); err != nil {
			return err
		}
	}
	if err := u.aimBits(group); err != nil {
		return err
	}
	u.hashed += perPage
	_, bit := mapOf(group)
	u.bits.setBit(bit, true)
	u.bits.dirty = true
	return nil
}

// aimBits makes the page of the group's bit the one at hand. Callers hold the
// table's mu.
func (u *Update) aimBits(group uint64) error {
	number, _ := mapOf(group)
	if u.bits != nil && u.bits.number == number {
		return nil
	}
	if err := u.writeOut(&u.bits); err != nil {
		return err
	}
	bits, err := u.fetch(number)
	if err == nil {
		u.bits = bits
	}
	return err
}

// fetch loads a page and leaves in it only what holds for the version too. Callers
// hold the table's mu.
func (u *Update) fetch(number uint64) (*held, error) {
	if u.t.update != u {
		return nil, ErrEnded
	}
	first, count, magic := span(number)
	p, known, err := u.t.load(number, magic)
	if err != nil {
		return nil, err
	}
	h := &held{page: p}
	if known {
		h.dirty = u.bring(p, first, count)
	}
	p.stamp = u.o.Stamp
	return h, nil
}

// bring clears what does not hold for the version.
func (u *Update) bring(p *page, first, count uint64) (changed bool) {
	switch {
	case p.stamp == u.o.Stamp || u.o.Faults&FaultKeepStale != 0:
		return false
	case p.stamp > u.o.AsOf:
		changed = p.clear(first, count, u.o.Unsure)
	}
	return p.clear(first, count, u.o.Since) || changed
}

// writeOut stores a page in memory. Callers hold the table's mu.
func (u *Update) writeOut(h **held) error {
	if u.t.update != u {
		return ErrEnded
	}
	p := *h
	*h = nil
	if p == nil || !p.dirty {
		return nil
	}
	return u.t.store(p.page)
}

// Finish makes the update durable. since is all blocks written between the version
// on record and the update's: what it says of those that were not seen goes. The
// owner puts the version on record next, and then calls End.
func (u *Update) Finish(since Changed) error {
	u.t.mu.Lock()
	defer u.t.mu.Unlock()
	if err := errors.Join(u.writeOut(&u.cur), u.writeOut(&u.bits)); err != nil {
		return err
	}
	u.o.Since = since
	err := u.t.each(since, func(p *page, first, count uint64) (bool, error) {
		if p.magic == magicHashes && u.seen.Has(first/perPage) {
			return false, nil
		}
		changed := u.bring(p, first, count)
		p.stamp = u.o.Stamp
		return changed, nil
	})
	if err != nil || u.o.Faults&FaultUnsynced != 0 {
		return err
	}
	return u.t.sync()
}

package hashes

// ViewOptions say of what a view tells.
type ViewOptions struct {
	AsOf  uint64  // number of the version on record; 0: nothing is known
	Limit uint64  // pages with this stamp or a higher one are of a version that came later, or never: nothing is known of them
	Apart Changed // written between the version on record and what is looked at, whichever is older
	// Unsure is the blocks written between the version on record and the moment from
	// which Limit is.
	Unsure Changed
	Faults Fault
}

// View tells what blocks of a version, or of the head, should hold. It serves one
// goroutine at a time.
type View struct {
	t *Table
	o ViewOptions
	h *Hasher
	// The pages looked at last; nil when they know nothing.
	entries, bits       *page
	entriesAt, bitsAt   uint64 // numbers of the pages looked at last
	entriesOld, bitsOld bool   // they are of an update that did not end
}

// View gives one. What it says stays right while the table is updated.
func (t *Table) View(o ViewOptions) (*View, error) {
	h, err := NewHasher(t.key)
	return &View{t: t, o: o, h: h, entriesAt: ^uint64(0), bitsAt: ^uint64(0)}, err
}

// Entry is what the block should hold; Unknown when nothing is known of it.
func (v *View) Entry(block uint64) (Entry, error) {
	if v.o.AsOf == 0 || v.o.Apart.Has(block) {
		return Unknown, nil
	}
	unsure := v.o.Unsure.Has(block)
	group, at := groupOf(block)
	number, bit := mapOf(uint64(group))
	if v.bitsAt != number {
		if err := v.fetch(number, magicZeroes, &v.bits, &v.bitsOld); err != nil {
			return Unknown, err
		}
		v.bitsAt = number
	}
	if v.bits != nil && (!v.bitsOld || !unsure) && v.bits.bit(bit) {
		return Zero, nil
	}
	if number = pageOf(uint64(group)); v.entriesAt != number {
		if err := v.fetch(number, magicHashes, &v.entries, &v.entriesOld); err != nil {
			return Unknown, err
		}
		v.entriesAt = number
	}
	if v.entries == nil || v.entriesOld && unsure {
		return Unknown, nil
	}
	return v.entries.entry(at), nil
}

// Zeroes is how many blocks from one on, at most limit, are known to be zeroes
// without a look at each; often none, also where they are.
func (v *View) Zeroes(block, limit uint64) (n uint64, err error) {
	group, at := groupOf(block)
	if e, err := v.Entry(block); e != Zero || err != nil || v.o.Apart.All {
		return 0, err
	}
	if _, bit := mapOf(uint64(group)); v.bits == nil || !v.bits.bit(bit) || v.bitsOld {
		return 1, nil
	}
	n = min(limit, perPage-uint64(at))
	for first := range v.o.Apart.within(block, n) {
		return first - block, nil
	}
	return n, nil
}

func (v *View) fetch(number uint64, magic uint32, into **page, old *bool) error {
	v.t.mu.Lock()
	defer v.t.mu.Unlock()
	*into = nil
	p, known, err := v.t.load(number, magic)
	if err != nil || !known {
		return err
	}
	trust := v.o.Faults&FaultTrust != 0
	if p.stamp < v.o.Limit || trust {
		*into, *old = p, p.stamp > v.o.AsOf && !trust
	}
	return nil
}

// Apart tells whether the block was written between the table's version and what is
// looked at, so that the table cannot know it.
func (v *View) Apart(block uint64) bool { return v.o.Apart.Has(block) }

// AsOf is the number of the table's version.
func (v *View) AsOf() uint64 { return v.o.AsOf }

// Of is the entry that content has.
func (v *View) Of(p []byte) Entry { return v.h.Entry(p) }

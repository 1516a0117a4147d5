package rpc

import (
	"encoding/binary"
	"time"

	"cairn"
)

// A listing is the one message there are millions of: versions are written as
// differences from the one before, and what is usual takes no byte.
const (
	hasSize   = 1 << 0 // differs from the version before
	hasUnique = 1 << 1
	hasState  = 1 << 2
	hasLeases = 1 << 3
	hasStored = 1 << 4
	hasNanos  = 1 << 5

	knownFlags = 1<<6 - 1
	minRow     = 13   // bytes of a version: flags, shared, rest, GUID, order, seconds
	maxName    = 1024 // bytes of a version's name that a row may hold; cairn's own limit is lower
)

// appendListing writes one listing.
func appendListing(dst []byte, l *cairn.Listing) []byte {
	c := coder{buf: dst}
	codeDataset(&c, &l.Dataset)
	optional(&c, &l.Partial, codePartial)
	n := uint64(len(l.Versions))
	c.uint(&n)
	before := &cairn.Version{Created: time.Unix(0, 0)}
	for i := range l.Versions {
		v := &l.Versions[i]
		appendVersion(&c, v, before)
		before = v
	}
	return c.buf
}

func appendVersion(c *coder, v, before *cairn.Version) {
	flags, shared := flagsOf(v, before), sharedPrefix(v.Name, before.Name)
	c.buf = append(c.buf, flags)
	c.buf = binary.AppendUvarint(c.buf, uint64(shared))
	c.buf = binary.AppendUvarint(c.buf, uint64(len(v.Name)-shared))
	c.buf = append(c.buf, v.Name[shared:]...)
	c.buf = binary.LittleEndian.AppendUint64(c.buf, uint64(v.GUID))
	c.buf = binary.AppendVarint(c.buf, int64(v.Order-before.Order))
	c.buf = binary.AppendVarint(c.buf, v.Created.Unix()-before.Created.Unix())
	nanos := v.Created.Nanosecond()
	codeRare(c, v, &nanos, flags)
}

// codeRare codes the fields that flags say are there.
func codeRare(c *coder, v *cairn.Version, nanos *int, flags uint8) {
	if flags&hasNanos != 0 {
		small(c, nanos)
	}
	if flags&hasSize != 0 {
		c.int(&v.Size)
	}
	if flags&hasUnique != 0 {
		c.int(&v.Unique)
	}
	if flags&hasState != 0 {
		small(c, &v.State)
	}
	if flags&hasLeases != 0 {
		list(c, &v.Leases, 2, codeLease)
	}
	if flags&hasStored != 0 {
		list(c, &v.Stored, 12, codeStored)
	}
}

func flagsOf(v, before *cairn.Version) (flags uint8) {
	set := func(bit uint8, yes bool) {
		if yes {
			flags |= bit
		}
	}
	set(hasSize, v.Size != before.Size)
	set(hasUnique, v.Unique != 0)
	set(hasState, v.State != 0)
	set(hasLeases, len(v.Leases) > 0)
	set(hasStored, len(v.Stored) > 0)
	set(hasNanos, v.Created.Nanosecond() != 0)
	return flags
}

func sharedPrefix(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

// readListing reads what appendListing wrote.
func readListing(p []byte) (*cairn.Listing, error) {
	l := new(cairn.Listing)
	return l, decode(p, (*listingRow)(l))
}

type listingRow cairn.Listing

func (r *listingRow) code(c *coder) {
	codeDataset(c, &r.Dataset)
	optional(c, &r.Partial, codePartial)
	n := uint64(0)
	c.uint(&n)
	if n > uint64(len(c.buf)/minRow) {
		c.fail()
		return
	}
	names := names{text: make([]byte, 0, 32*n), ends: make([]int, 0, n)}
	r.Versions = make([]cairn.Version, n)
	before := &cairn.Version{Created: time.Unix(0, 0)}
	for i := range r.Versions {
		if len(c.buf) < minRow {
			c.fail()
		}
		if c.err != nil {
			return
		}
		v := &r.Versions[i]
		readVersion(c, v, before, &names)
		before = v
	}
	names.give(r.Versions)
}

// readVersion cuts what every version has from a copy of the coder's slice: the
// coder lies on the heap, and to move its pointer per field would cost more than
// reading the field.
func readVersion(c *coder, v, before *cairn.Version, names *names) {
	p := c.buf
	flags := p[0] // listingRow.code made sure that there is one
	p = p[1:]
	shared, n1 := binary.Uvarint(p)
	rest, n2 := binary.Uvarint(p[max(n1, 0):])
	p = p[max(n1, 0)+max(n2, 0):]
	if flags&^knownFlags != 0 || n1 <= 0 || n2 <= 0 || rest > maxName || uint64(len(p)) < rest+8 || !names.add(shared, p[:rest]) {
		c.fail()
		return
	}
	p = p[rest:]
	v.GUID = cairn.GUID(binary.LittleEndian.Uint64(p))
	p = p[8:]
	order, n3 := binary.Varint(p)
	sec, n4 := binary.Varint(p[max(n3, 0):])
	if n3 <= 0 || n4 <= 0 {
		c.fail()
		return
	}
	c.buf = p[n3+n4:]
	v.Order = before.Order + uint64(order)
	v.Size = before.Size
	nanos := 0
	codeRare(c, v, &nanos, flags)
	if nanos < 0 || nanos >= 1e9 {
		c.fail()
	}
	v.Created = time.Unix(before.Created.Unix()+sec, int64(nanos)).UTC()
}

// names collects the versions' names of one listing in one text, so that a
// thousand names cost one allocation.
type names struct {
	text  []byte
	start int // of the last name
	ends  []int
}

// add makes a name of what it shares with the last one and the rest; false when
// that cannot be.
func (n *names) add(shared uint64, rest []byte) bool {
	if shared > uint64(len(n.text)-n.start) || shared+uint64(len(rest)) > maxName {
		return false
	}
	start := len(n.text)
	n.text = append(n.text, n.text[n.start:n.start+int(shared)]...)
	n.text = append(n.text, rest...)
	n.start = start
	n.ends = append(n.ends, len(n.text))
	return true
}

func (n *names) give(versions []cairn.Version) {
	all, start := string(n.text), 0
	for i, end := range n.ends {
		versions[i].Name = all[start:end]
		start = end
	}
}

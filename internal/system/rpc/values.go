package rpc

import (
	"maps"
	"slices"

	"cairn"
)

// How the values of the root package are laid out, one function each.

func codeVersionID(c *coder, v *cairn.VersionID) {
	text(c, &v.Name)
	c.guid(&v.GUID)
}

const minVersionID = 9 // bytes

func codeLease(c *coder, l *cairn.Lease) {
	text(c, &l.Owner)
	small(c, &l.Purpose)
}

func codeStored(c *coder, s *cairn.Stored) {
	codeVersionID(c, &s.From)
	text(c, &s.Format)
	c.int(&s.Bytes)
	list(c, &s.Media, 1, text[string])
}

func codeVersion(c *coder, v *cairn.Version) {
	codeVersionID(c, &v.VersionID)
	c.uint(&v.Order)
	c.time(&v.Created)
	c.int(&v.Size)
	c.int(&v.Unique)
	small(c, &v.State)
	list(c, &v.Leases, 2, codeLease)
	list(c, &v.Stored, 12, codeStored)
}

const minVersion = 17 // bytes

func codePartial(c *coder, p *cairn.Partial) {
	codeVersionID(c, &p.From)
	codeVersionID(c, &p.To)
	c.int(&p.Received)
	c.bytes(&p.Token)
}

func codeDataset(c *coder, d *cairn.Dataset) {
	text(c, &d.Name)
	small(c, &d.Kind)
	c.guid(&d.ID)
	c.int(&d.Size)
	text(c, &d.Parent)
	text(c, &d.Origin.Dataset)
	codeVersionID(c, &d.Origin.VersionID)
	c.bool(&d.Placeholder)
	c.bool(&d.Encrypted)
	c.bool(&d.Sealed)
	small(c, &d.State)
	text(c, &d.Why)
}

func codeQuery(c *coder, q *cairn.Query) {
	list(c, (*[]cairn.FilterRule)(&q.Filter), 3, func(c *coder, r *cairn.FilterRule) {
		text(c, &r.Name)
		c.bool(&r.Subtree)
		c.bool(&r.Keep)
	})
	list(c, &q.Names, 1, text[string])
	c.bool(&q.Want.Versions)
	c.bool(&q.Want.Leases)
	c.bool(&q.Want.Sizes)
	c.bool(&q.Want.Partial)
}

func codeStep(c *coder, s *cairn.Step) {
	text(c, &s.Dataset)
	text(c, &s.Origin)
	codeVersionID(c, &s.From)
	list(c, &s.Via, minVersionID, codeVersionID)
	codeVersionID(c, &s.To)
	c.bytes(&s.Resume)
	c.int(&s.Size)
	list(c, &s.Media, 1, text[string])
}

const minStep = 24 // bytes

func codeHeader(c *coder, h *cairn.StreamHeader) {
	text(c, &h.Format)
	text(c, &h.Dataset)
	small(c, &h.Kind)
	text(c, &h.Origin)
	codeVersionID(c, &h.From)
	list(c, &h.Via, minVersion, codeVersion)
	codeVersion(c, &h.To)
	c.int(&h.Volume)
	c.int(&h.Resume)
	c.int(&h.Size)
}

func codeKeepRule(c *coder, r *cairn.KeepRule) {
	text(c, &r.Type)
	count := int64(r.Count)
	c.int(&count)
	if c.reading {
		r.Count = int(count)
	}
	text(c, &r.Regex)
	c.bool(&r.Negate)
	text(c, &r.Grid)
	optional(c, &r.KeepSnapshotAtCursor, (*coder).bool)
	c.int(&r.MaxAgeSeconds)
}

func codeFormats(c *coder, m *map[cairn.DatasetKind][]cairn.Format) {
	type entry struct {
		kind    cairn.DatasetKind
		formats []cairn.Format
	}
	var entries []entry
	for kind, formats := range *m {
		entries = append(entries, entry{kind, formats})
	}
	slices.SortFunc(entries, func(a, b entry) int { return int(a.kind) - int(b.kind) })
	list(c, &entries, 2, func(c *coder, e *entry) {
		small(c, &e.kind)
		list(c, &e.formats, 1, text[cairn.Format])
	})
	if !c.reading {
		return
	}
	*m = map[cairn.DatasetKind][]cairn.Format{}
	for _, e := range entries {
		(*m)[e.kind] = e.formats
	}
}

func codeSeveral(c *coder, m *map[cairn.DatasetKind]int) {
	type entry struct {
		kind cairn.DatasetKind
		most int64
	}
	var entries []entry
	for _, k := range slices.Sorted(maps.Keys(*m)) {
		entries = append(entries, entry{k, int64((*m)[k])})
	}
	list(c, &entries, 2, func(c *coder, e *entry) {
		small(c, &e.kind)
		c.int(&e.most)
	})
	if !c.reading {
		return
	}
	*m = map[cairn.DatasetKind]int{}
	for _, e := range entries {
		(*m)[e.kind] = int(e.most)
	}
}

func codeInfo(c *coder, i *cairn.Info) {
	text(c, &i.Place)
	text(c, &i.Identity)
	codeFormats(c, &i.Sends)
	codeFormats(c, &i.Accepts)
	codeSeveral(c, &i.Several)
	list(c, &i.Clones, 1, small[cairn.DatasetKind])
	c.bool(&i.AppendOnly)
	list(c, &i.Keep, 7, codeKeepRule)
}

func codeSum(c *coder, sum *[16]byte) {
	if !c.reading {
		c.buf = append(c.buf, sum[:]...)
		return
	}
	copy(sum[:], c.take(uint64(len(sum))))
}

func codeExtent(c *coder, e *cairn.Extent) {
	c.int(&e.Offset)
	c.int(&e.Length)
	small(c, &e.Kind)
}

func codeCoverage(c *coder, v *cairn.Coverage) {
	c.int(&v.Checked)
	c.int(&v.Unchecked)
	list(c, &v.Damaged, 3, codeExtent)
	list(c, &v.Notes, 1, text[string])
}

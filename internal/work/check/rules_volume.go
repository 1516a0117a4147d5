package check

import (
	"bytes"
	"slices"

	"cairn"
	"cairn/internal/mech/digest"
)

var volumeRules = []Rule{
	{Name: "blocks", Says: "an open snapshot reads within its size, KindInvalid beyond, and its extents tell the truth without gaps", Needs: []cairn.Ability{"list", "blocks"}, run: readBlocks},
	{Name: "blocks-hold", Says: "an open snapshot is held until it is closed", Needs: []cairn.Ability{"list", "blocks", "destroy"}, run: blocksHold},
	{Name: "changes", Says: "changed extents are ascending whole blocks, hold every block that differs, and are few", Needs: []cairn.Ability{"list", "changes", "snapshot"}, Write: true, run: changes},
	{Name: "changes-gone", Says: "change sets stay right across versions that are destroyed or become bookmarks", Needs: []cairn.Ability{"list", "changes", "destroy", "bookmark"}, run: changesGone},
	{Name: "rollback", Says: "rollback makes the head read as the snapshot; newer versions block it or go, bookmarks included", Needs: []cairn.Ability{"list", "rollback", "snapshot", "bookmark"}, Write: true, run: rollback},
	{Name: "rollback-lease", Says: "rollback does not destroy a leased version", Needs: []cairn.Ability{"list", "rollback", "lease"}, run: rollbackLease},
	{Name: "resize", Says: "versions keep their size and content; what grows reads zero and counts as changed", Needs: []cairn.Ability{"list", "resize", "snapshot"}, Write: true, run: resize},
	{Name: "rename", Says: "a rename keeps identity, versions and content, and never takes a name that is there", Needs: []cairn.Ability{"list", "rename"}, run: rename},
	{Name: "seal", Says: "a sealed head takes no writes, an unsealed one does", Needs: []cairn.Ability{"list", "seal"}, Write: true, run: seal},
	{Name: "verify", Says: "verify claims no more than there is and finds sound data sound", Needs: []cairn.Ability{"list", "verify"}, run: verify},
	{Name: "damage", Says: "a changed byte in storage is found by verify, fails reads with KindDamaged or KindCorrupt, and ends streams without EOF", Needs: []cairn.Ability{"list", "verify", "blocks", "send"}, Damage: true, run: damage},
	{Name: "digest", Says: "digests cover the snapshot in ascending pieces, are those of its content under the nonce, and tell zeroes", Needs: []cairn.Ability{"list", "digest"}, run: digests},
	{Name: "heal", Says: "a damaged block is healed by the content that it had and by no other; a good one is left", Needs: []cairn.Ability{"list", "heal", "digest", "blocks"}, Damage: true, run: heal},
	{Name: "estimate", Says: "estimates come one per step, in order, and tell full from incremental", Needs: []cairn.Ability{"list", "estimate"}, run: estimate},
}

func readBlocks(l *lab) {
	ds, points := l.dataset("d", 2)
	r, err := l.Blocks.OpenVersion(l.ctx, ds, points[0].VersionID)
	l.ok("open", err)
	defer l.close(r)
	if r.Size() != size {
		l.fail("size %d, want %d", r.Size(), size)
	}
	for _, at := range [][2]int64{{0, 1}, {4095, 2}, {size - 1, 1}, {19 * cairn.BlockSize, 3 * cairn.BlockSize}, {100, 200_000}, {size, 0}} {
		p := make([]byte, at[1])
		l.ok("read", r.ReadAt(l.ctx, p, at[0]))
		if !bytes.Equal(p, points[0].content[at[0]:at[0]+at[1]]) {
			l.fail("%d bytes at %d are wrong", at[1], at[0])
		}
	}
	for _, at := range [][2]int64{{size, 1}, {size - 1, 2}, {-1, 1}, {1 << 62, 4096}} {
		l.want("read outside", r.ReadAt(l.ctx, make([]byte, at[1]), at[0]), cairn.KindInvalid)
	}
	l.wantExtents(r, points[0].content, 0, size)
	l.wantExtents(r, points[0].content, 18*cairn.BlockSize, 7*cairn.BlockSize)
}

func (l *lab) wantExtents(r cairn.BlockReader, content []byte, off, length int64) {
	at := off
	for e, err := range r.Extents(l.ctx, off, length) {
		l.ok("extents", err)
		if e.Offset != at || e.Length <= 0 || e.End() > off+length {
			l.fail("extent %+v does not follow %d within %d+%d", e, at, off, length)
		}
		if e.Kind != cairn.ExtentData && len(bytes.Trim(content[e.Offset:e.End()], "\x00")) > 0 {
			l.fail("extent %+v is said to be zero and is not", e)
		}
		at = e.End()
	}
	if at != off+length {
		l.fail("extents end at %d, want %d", at, off+length)
	}
}

func blocksHold(l *lab) {
	ds, points := l.dataset("d", 2)
	r, err := l.Blocks.OpenVersion(l.ctx, ds, points[0].VersionID)
	l.ok("open", err)
	defer l.close(r)
	l.want("destroy of a snapshot that is open", l.destroyOne(ds, points[0].VersionID), cairn.KindBusy)
	p := make([]byte, size)
	l.ok("read", r.ReadAt(l.ctx, p, 0))
	if !bytes.Equal(p, points[0].content) {
		l.fail("the open snapshot reads something else")
	}
	l.ok("close", r.Close())
	l.eventually("destroy after the close", func() error { return l.destroyOne(ds, points[0].VersionID) })
}

// wantChanged checks the extents between two versions against the contents.
func (l *lab) wantChanged(ds string, from, to cairn.VersionID, before, after []byte) {
	var set []cairn.Extent
	end, total := int64(-1), int64(0)
	for e, err := range l.Changes.Changed(l.ctx, ds, from, to) {
		l.ok("changed", err)
		if e.Offset <= end || e.Length <= 0 {
			l.fail("extent %+v after %d: not ascending, or touching", e, end)
		}
		if e.Offset%cairn.BlockSize != 0 || e.End()%cairn.BlockSize != 0 && e.End() != int64(len(after)) {
			l.fail("extent %+v is not of whole blocks", e)
		}
		set, end, total = append(set, e), e.End()-1, total+e.Length
	}
	for _, d := range differing(before, after) {
		if !slices.ContainsFunc(set, func(e cairn.Extent) bool { return e.Offset <= d.Offset && d.End() <= e.End() }) {
			l.fail("between %s and %s the block at %d differs and is not in the change set %v", from, to, d.Offset, set)
		}
	}
	if total > int64(len(after))/2 {
		l.fail("a few changed blocks make a change set of %d bytes", total)
	}
}

func changes(l *lab) {
	ds, points := l.dataset("d", 3)
	last := points[2].next("head", 11, 12)
	l.writeChanged(ds, points[2].content, last.content)
	for i := range points {
		l.wantChanged(ds, points[i].VersionID, cairn.VersionID{}, points[i].content, last.content)
		for j := i; j < len(points); j++ {
			l.wantChanged(ds, points[i].VersionID, points[j].VersionID, points[i].content, points[j].content)
		}
	}
}

func changesGone(l *lab) {
	ds, points := l.dataset("d", 3)
	mark, err := l.Bookmarks.Bookmark(l.ctx, ds, points[0].VersionID, "#m", true)
	l.ok("bookmark", err)
	l.wantChanged(ds, mark.VersionID, points[1].VersionID, points[0].content, points[1].content)
	l.ok("destroy", l.destroyOne(ds, points[1].VersionID))
	l.wantChanged(ds, mark.VersionID, points[2].VersionID, points[0].content, points[2].content)
	l.ok("destroy", l.destroyOne(ds, points[2].VersionID))
	l.wantChanged(ds, mark.VersionID, cairn.VersionID{}, points[0].content, points[2].content)
}

func rollback(l *lab) {
	ds, points := l.dataset("d", 3)
	_, err := l.Bookmarks.Bookmark(l.ctx, ds, points[1].VersionID, "#m", false)
	l.ok("bookmark", err)
	l.want("rollback over newer versions", l.Rollbacks.Rollback(l.ctx, ds, points[0].VersionID, false), cairn.KindConflict)
	l.wantVersions(ds, "after a rollback that was refused", "@a", "#m", "@b", "@c")
	for range 2 {
		l.ok("rollback", l.Rollbacks.Rollback(l.ctx, ds, points[0].VersionID, true))
		l.wantVersions(ds, "after a rollback", "@a")
	}
	head := points[0]
	head.VersionID = l.snapshot(ds, "@back").VersionID
	head.Name = "@back"
	l.wantContent(ds, points[0], head)

	l.write(ds, 0, noise("scratch", cairn.BlockSize))
	l.ok("rollback to the newest", l.Rollbacks.Rollback(l.ctx, ds, head.VersionID, false))
	head.VersionID = l.snapshot(ds, "@again").VersionID
	l.wantContent(ds, head)
}

func rollbackLease(l *lab) {
	ds, points := l.dataset("d", 2)
	l.lease(ds, cairn.PurposeStep, points[1].VersionID)
	l.want("rollback over a leased version", l.Rollbacks.Rollback(l.ctx, ds, points[0].VersionID, true), cairn.KindBusy)
	l.wantVersions(ds, "after a rollback that was refused", "@a", "@b")
	l.lease(ds, cairn.PurposeStep)
}

func resize(l *lab) {
	ds, points := l.dataset("d", 1)
	const grown, shrunk = 80 * cairn.BlockSize, 30 * cairn.BlockSize
	l.want("resize to no multiple of the sector", l.Resizes.Resize(l.ctx, ds, 1001), cairn.KindInvalid)
	for range 2 {
		l.ok("grow", l.Resizes.Resize(l.ctx, ds, grown))
	}
	bigger := point{l.snapshot(ds, "@big").VersionID, points[0].created, append(bytes.Clone(points[0].content), make([]byte, grown-size)...)}
	l.wantContent(ds, points[0], bigger)
	if l.Changes != nil {
		grownAll := append(bytes.Clone(points[0].content), noise("all", grown-size)...) // every block counts
		l.wantChanged(ds, points[0].VersionID, bigger.VersionID, bigger.content, grownAll)
	}
	l.ok("shrink", l.Resizes.Resize(l.ctx, ds, shrunk))
	small := point{l.snapshot(ds, "@small").VersionID, points[0].created, points[0].content[:shrunk]}
	l.wantContent(ds, points[0], bigger, small)
	row := l.list(ds)
	if row.Dataset.Size != shrunk || row.Versions[0].Size != size || row.Versions[1].Size != grown || row.Versions[2].Size != shrunk {
		l.fail("sizes are %d, versions %+v", row.Dataset.Size, row.Versions)
	}
	l.ok("grow again", l.Resizes.Resize(l.ctx, ds, size))
	again := point{l.snapshot(ds, "@again").VersionID, points[0].created, append(bytes.Clone(small.content), make([]byte, size-shrunk)...)}
	l.wantContent(ds, again)
}

func rename(l *lab) {
	ds, points := l.dataset("old", 2)
	taken, _ := l.dataset("taken", 1)
	id := l.list(ds).Dataset.ID
	l.want("rename to a name that is taken", l.Renames.Rename(l.ctx, ds, taken), cairn.KindExists)
	l.wantVersions(taken, "after a rename that was refused", "@a")
	to := l.name("new")
	l.ok("rename", l.Renames.Rename(l.ctx, ds, to))
	if l.find(ds) != nil {
		l.fail("the old name is still there")
	}
	if l.list(to).Dataset.ID != id {
		l.fail("the dataset has another identity after a rename")
	}
	l.wantVersions(to, "after a rename", "@a", "@b")
	l.wantContent(to, points...)
}

func seal(l *lab) {
	ds := l.create("d", size)
	for range 2 {
		l.ok("seal", l.Seals.Seal(l.ctx, ds, true))
		if !l.list(ds).Dataset.Sealed {
			l.fail("a sealed dataset is not listed as sealed")
		}
		if l.fixture.Write(l.ctx, ds, 0, noise("x", cairn.BlockSize)) == nil {
			l.fail("a sealed head took a write")
		}
	}
	l.ok("unseal", l.Seals.Seal(l.ctx, ds, false))
	if l.list(ds).Dataset.Sealed {
		l.fail("an unsealed dataset is listed as sealed")
	}
	l.write(ds, 0, noise("x", cairn.BlockSize))
}

func verify(l *lab) {
	ds, points := l.dataset("d", 3)
	one, err := l.Verifies.Verify(l.ctx, ds, points[0].VersionID)
	l.ok("verify", err)
	all, err := l.Verifies.Verify(l.ctx, ds, cairn.VersionID{})
	l.ok("verify", err)
	if len(one.Damaged)+len(all.Damaged) > 0 {
		l.fail("sound data is damaged: %+v, %+v", one.Damaged, all.Damaged)
	}
	if one.Checked+one.Unchecked <= 0 || one.Checked > size {
		l.fail("one version of %d bytes: %+v", size, one)
	}
	if all.Checked+all.Unchecked <= 0 || all.Checked > 4*size {
		l.fail("three versions and a head of %d bytes: %+v", size, all)
	}
}

func digests(l *lab) {
	ds, points := l.dataset("d", 2)
	p := points[0]
	q := cairn.DigestQuery{Nonce: [16]byte{1, 2, 3}, Unit: cairn.BlockSize}
	at := int64(0)
	for d, err := range l.Digests.Digest(l.ctx, ds, p.VersionID, q) {
		l.ok("digest", err)
		if d.Offset != at || d.Length != min(q.Unit, int64(len(p.content))-at) || d.Bad {
			l.fail("piece %+v where %d was expected", d, at)
		}
		block := p.content[at : at+d.Length]
		if empty := bytes.Count(block, []byte{0}) == len(block); d.Zero != empty || !empty && d.Sum != digest.Sum(q.Nonce, at, block) {
			l.fail("the digest at %d is not that of its content", at)
		}
		at += d.Length
	}
	if at != int64(len(p.content)) {
		l.fail("the digests end at %d of %d", at, len(p.content))
	}
	q.Unit = 1
	for _, err := range l.Digests.Digest(l.ctx, ds, p.VersionID, q) {
		l.want("digest of pieces of one byte", err, cairn.KindInvalid)
		return
	}
	l.fail("digest of pieces of one byte: nothing")
}

func heal(l *lab) {
	ds, points := l.dataset("d", 3)
	const off = cairn.BlockSize // changed in @b: the old block is stored for @a alone
	l.ok("damage", l.fixture.Damage(l.ctx, ds, points[0].VersionID, off))
	right := points[0].content[off : off+cairn.BlockSize]
	wrong := bytes.Repeat([]byte{0x5a}, cairn.BlockSize)
	offer := func(p []byte, dry bool, at int64) cairn.Mending {
		got, err := l.Heals.Heal(l.ctx, ds, points[0].VersionID, []cairn.Patch{{Offset: at, Data: p}}, cairn.HealOptions{DryRun: dry})
		l.ok("heal", err)
		return got[0]
	}
	if m := offer(wrong, false, 0); m != cairn.MendNotBad && m != cairn.MendDoubtful {
		l.fail("wrong content for a good block: outcome %d", m)
	}
	if m := offer(wrong, false, off); m != cairn.MendRefused {
		l.fail("wrong content for a damaged block: outcome %d", m)
	}
	if m := offer(right, true, off); m != cairn.MendedBySum && m != cairn.MendedByGUID {
		l.fail("a dry run with the right content: outcome %d", m)
	}
	for d, err := range l.Digests.Digest(l.ctx, ds, points[0].VersionID, cairn.DigestQuery{Unit: cairn.BlockSize}) {
		l.ok("digest", err)
		if d.Bad != (d.Offset == off) {
			l.fail("before healing the digest at %d is bad: %v", d.Offset, d.Bad)
		}
	}
	if m := offer(right, false, off); m != cairn.MendedBySum && m != cairn.MendedByGUID {
		l.fail("the right content: outcome %d", m)
	}
	l.wantContent(ds, points...)
}

func damage(l *lab) {
	ds, points := l.dataset("d", 3)
	const off = cairn.BlockSize // changed in @b: the old block is stored for @a alone
	l.ok("damage", l.fixture.Damage(l.ctx, ds, points[0].VersionID, off))
	c, err := l.Verifies.Verify(l.ctx, ds, points[0].VersionID)
	l.ok("verify", err)
	if !slices.ContainsFunc(c.Damaged, func(e cairn.Extent) bool { return e.Offset <= off && off < e.End() }) {
		l.fail("verify does not find the damage: %+v", c)
	}
	r, err := l.Blocks.OpenVersion(l.ctx, ds, points[0].VersionID)
	l.ok("open", err)
	defer l.close(r)
	l.want("read of a damaged block", r.ReadAt(l.ctx, make([]byte, cairn.BlockSize), off), cairn.KindDamaged, cairn.KindCorrupt)
	p := make([]byte, cairn.BlockSize)
	l.ok("read of a sound block", r.ReadAt(l.ctx, p, 0))
	if !bytes.Equal(p, points[0].content[:cairn.BlockSize]) {
		l.fail("a sound block reads something else")
	}
	s, err := l.Sender.Send(l.ctx, cairn.Step{Dataset: ds, To: points[0].VersionID}, []cairn.Format{cairn.FormatBlocks})
	if err == nil {
		_, _, err = l.apply(s.Body, nil)
		l.close(s.Body)
	}
	if err == nil {
		l.fail("a damaged version was sent as if it were sound")
	}
	l.wantContent(ds, points[1], points[2])
}

func estimate(l *lab) {
	ds, points := l.dataset("d", 2)
	steps := []cairn.Step{{Dataset: ds, From: points[0].VersionID, To: points[1].VersionID}, {Dataset: ds, To: points[1].VersionID}}
	sizes, err := l.Estimates.Estimate(l.ctx, steps)
	l.ok("estimate", err)
	if len(sizes) != 2 || sizes[0] < -1 || sizes[1] < -1 {
		l.fail("two steps, estimates %v", sizes)
	}
	if sizes[0] >= 0 && sizes[1] >= 0 && sizes[0] >= sizes[1] {
		l.fail("the increment is estimated at %d, the full stream at %d", sizes[0], sizes[1])
	}
}

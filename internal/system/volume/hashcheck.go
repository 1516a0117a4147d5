package volume

import (
	"context"
	"fmt"

	"cairn"
	"cairn/internal/mech/extent"
	"cairn/internal/mech/watchdog"
	"cairn/internal/system/volume/catalog"
	"cairn/internal/system/volume/hashes"
)

// table compares what the version holds, or the newest snapshot, with the table, and
// without a version gives the table what it did not know. found is what a
// reconciliation just before has found.
func (k *checking) table(ctx context.Context, found *reconciliation) error {
	if found != nil {
		k.lost.Union(found.foreign)
	}
	rec, exists := k.target()
	k.end = rec.Size
	if !exists {
		k.end = k.size
		if found != nil {
			k.count(found.covered)
		}
		k.note(0)
		return nil
	}
	view, err := k.v.tableView(&rec)
	if err != nil {
		return err
	}
	c := &comparing{k: k, view: view, found: found, differ: &extent.Bitmap{}, covered: &extent.Bitmap{}}
	if k.id.IsZero() && !rec.Damaged && !k.hit[rec.Name] && k.v.doubt() == "" {
		c.fill = k.v.updateTable(rec)
		defer c.fill.end()
	}
	if view != nil || c.fill != nil {
		if err := c.run(ctx, rec); err != nil {
			return err
		}
	}
	k.count(c.covered)
	k.note(c.filled)
	return k.spoiled(ctx, c.differ)
}

// target is the version to be read, and whether there is one.
func (k *checking) target() (catalog.Version, bool) {
	if k.id.IsZero() {
		return k.v.state().NewestSnapshot()
	}
	return k.v.state().Find(k.id.Name)
}

// count enters what was compared with the table, of which preserved blocks have
// been counted before.
func (k *checking) count(covered *extent.Bitmap) {
	k.covered = covered.Count()
	covered.Subtract(k.kept)
	n := int64(covered.Count()) * blockSize
	if k.end%blockSize != 0 && covered.Has(uint64(k.end)/blockSize) {
		n -= blockSize - k.end%blockSize
	}
	n = min(n, k.c.Unchecked)
	k.c.Checked, k.c.Unchecked = k.c.Checked+n, k.c.Unchecked-n
}

// note says what was covered.
func (k *checking) note(filled uint64) {
	rec := k.v.state().Head.Hashes
	if rec == nil || k.covered == 0 && filled == 0 {
		k.c.Notes = append(k.c.Notes, "the head is plain and has no checksums: what is read from it was not checked; compare with a replica for that")
		return
	}
	total, rest := blocksOf(0, k.size).count, ""
	if k.covered < total {
		rest = "; others that are read from the plain head were not checked"
	}
	k.c.Notes = append(k.c.Notes, fmt.Sprintf("the block hash table %s covered %d of %d blocks%s", tableAsOf(k.v.state()), k.covered, total, rest))
	if filled > 0 {
		k.c.Notes = append(k.c.Notes, fmt.Sprintf("%d blocks of which it knew nothing were given a hash", filled))
	}
}

// tableAsOf says of which version the table is.
func tableAsOf(st *catalog.State) string {
	if st.Head.Hashes == nil || st.Head.Hashes.AsOf == 0 {
		return "knows nothing yet"
	}
	for _, r := range st.Versions {
		if r.Start == st.Head.Hashes.AsOf {
			return "as of " + r.Name
		}
	}
	return "as of a version that is gone"
}

// spoiled names the snapshots that hold something else than the table says.
func (k *checking) spoiled(ctx context.Context, differ *extent.Bitmap) error {
	if differ.Count() == 0 {
		return nil
	}
	k.lost.Union(differ)
	for _, r := range k.v.state().Versions {
		if !r.ID().IsSnapshot() || r.Damaged {
			continue
		}
		bad, err := k.v.holdsOther(ctx, r, differ)
		if err != nil {
			return err
		}
		if bad {
			k.hit[r.Name] = true
		}
	}
	return nil
}

// holdsOther tells whether one of the blocks holds something else in the snapshot
// than the table says.
func (v *Volume) holdsOther(ctx context.Context, rec catalog.Version, blocks *extent.Bitmap) (bool, error) {
	view, err := v.tableView(&rec)
	if err != nil || view == nil {
		return false, err
	}
	r, err := v.OpenVersion(ctx, rec.ID())
	if err != nil {
		return false, err
	}
	defer func() { _ = r.Close() }() // never fails
	p := make([]byte, blockSize)
	for first, count := range blocks.Runs(0, blocksOf(0, rec.Size).count) {
		for b := first; b < first+count; b++ {
			e, err := view.Entry(b)
			if err != nil {
				return false, err
			}
			off := int64(b) * blockSize
			block := p[:min(blockSize, rec.Size-off)]
			if e == hashes.Unknown || r.ReadAt(ctx, block, off) != nil {
				continue // an unreadable block was found before
			}
			if view.Of(block) != e {
				return true, nil
			}
		}
	}
	return false, nil
}

// comparing is the comparison of one snapshot with the table.
type comparing struct {
	k       *checking
	view    *hashes.View // nil: nothing is known
	found   *reconciliation
	fill    *tableUpdate // takes what was not known; may be nil
	covered *extent.Bitmap
	differ  *extent.Bitmap
	filled  uint64 // blocks
}

func (c *comparing) run(ctx context.Context, rec catalog.Version) error {
	r, err := c.k.v.OpenVersion(ctx, rec.ID())
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }() // never fails
	progress := watchdog.From(ctx)
	buf := make([]byte, windowBytes)
	for e, err := range r.Extents(ctx, 0, rec.Size) {
		if err != nil {
			return err
		}
		if e.Kind != cairn.ExtentData && c.view == nil {
			c.learn(blocksOf(e.Offset, e.Length), func() { c.fill.zero(e.Offset, e.Length) })
			continue
		}
		for e.Length > 0 {
			n := min(e.Length, windowBytes)
			if e.Kind == cairn.ExtentData {
				err = c.window(ctx, r, buf[:n], e.Offset)
			} else {
				err = c.zeroes(blocksOf(e.Offset, n), rec.Size)
			}
			if err != nil {
				return err
			}
			e.Offset, e.Length = e.Offset+n, e.Length-n
			progress.Level("compared with the block hash table", e.Offset)
		}
	}
	c.fill.finish()
	return nil
}

// learn gives the table blocks that it did not know, when it takes any.
func (c *comparing) learn(blocks run, give func()) {
	if c.fill.live() {
		give()
		c.filled += blocks.count
	}
}

// entry is what a block should hold.
func (c *comparing) entry(b uint64) (hashes.Entry, error) {
	if c.view == nil {
		return hashes.Unknown, nil
	}
	return c.view.Entry(b)
}

// done tells whether a reconciliation compared all blocks of a window just before.
func (c *comparing) done(blocks run) bool {
	if c.found == nil {
		return false
	}
	for b := blocks.first; b < blocks.first+blocks.count; b++ {
		if !c.found.covered.Has(b) || c.k.kept.Has(b) {
			return false
		}
	}
	c.covered.Set(blocks.first, blocks.count)
	return true
}

// window compares data.
func (c *comparing) window(ctx context.Context, r *Reader, p []byte, off int64) error {
	blocks := blocksOf(off, int64(len(p)))
	if c.done(blocks) {
		return nil
	}
	whole := r.ReadAt(ctx, p, off) == nil
	for b := blocks.first; b < blocks.first+blocks.count; b++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		at := int64(b)*blockSize - off
		block := p[at:min(at+blockSize, int64(len(p)))]
		if !whole && r.ReadAt(ctx, block, off+at) != nil {
			continue // its checksum is bad, or the disk cannot read it: others say so
		}
		e, err := c.entry(b)
		switch {
		case err != nil:
			return err
		case e == hashes.Unknown:
			c.learn(run{b, 1}, func() { c.fill.data(off+at, block) })
		case c.view.Of(block) == e:
			c.covered.Set(b, 1)
		default:
			c.differ.Set(b, 1)
		}
	}
	return nil
}

// zeroes compares blocks that read as zeroes.
func (c *comparing) zeroes(blocks run, size int64) error {
	unknown := &extent.Bitmap{}
	for b, end := blocks.first, blocks.first+blocks.count; b < end; {
		n, err := c.view.Zeroes(b, end-b)
		if err != nil {
			return err
		}
		if n > 0 {
			c.covered.Set(b, n)
			b += n
			continue
		}
		e, err := c.entry(b)
		switch {
		case err != nil:
			return err
		case e == hashes.Unknown:
			unknown.Set(b, 1)
		case e == hashes.Zero:
			c.covered.Set(b, 1)
		default:
			c.differ.Set(b, 1)
		}
		b++
	}
	for first, count := range unknown.All() {
		off := int64(first) * blockSize
		c.learn(run{first, count}, func() { c.fill.zero(off, min(int64(count)*blockSize, size-off)) })
	}
	return nil
}

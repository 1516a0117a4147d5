package volume

import (
	"context"
	"errors"
	"fmt"

	"cairn"
	"cairn/internal/mech/extent"
)

// Verify reads every preserved block and compares it with its checksum: those one
// version reads, or all when id is zero.
func (v *Volume) Verify(ctx context.Context, id cairn.VersionID) (cairn.Coverage, error) {
	start, size, err := v.verifyRange(id)
	if err != nil {
		return cairn.Coverage{}, failed("verify", v.o.Name+id.Name, err)
	}
	var c cairn.Coverage
	bad, kept := &extent.Bitmap{}, &extent.Bitmap{}
	for _, x := range v.stack.since(start) {
		if err := ctx.Err(); err != nil {
			return c, failed("verify", v.o.Name+id.Name, err)
		}
		v.verifySegment(x, &c, bad, kept)
		if err := v.stack.trim(); err != nil {
			return c, failed("verify", v.o.Name+id.Name, err)
		}
	}
	for first, count := range bad.All() {
		c.Damaged = append(c.Damaged, cairn.Extent{Offset: int64(first) * blockSize, Length: int64(count) * blockSize, Kind: cairn.ExtentData})
	}
	c.Unchecked = size
	if !id.IsZero() {
		c.Unchecked = max(size-int64(kept.Count())*blockSize, 0)
	}
	c.Notes = append(c.Notes, "the head is plain and has no checksums: what is read from it was not checked; compare with a replica for that")
	return c, nil
}

// verifySegment checks one segment, holding off only for so long that it is
// dropped.
func (v *Volume) verifySegment(x *stacked, c *cairn.Coverage, bad, kept *extent.Bitmap) {
	v.stack.use.RLock()
	defer v.stack.use.RUnlock()
	s, err := x.get()
	if errors.Is(err, errDropped) {
		return
	}
	if err != nil {
		c.Notes = append(c.Notes, fmt.Sprintf("segment %d cannot be opened: %v", x.rec.ID, err))
		return
	}
	checked, damaged, headless := s.Check()
	c.Checked += checked
	bad.Union(damaged)
	s.Union(kept)
	if headless {
		c.Notes = append(c.Notes, fmt.Sprintf("segment %d has an unreadable header: which blocks it held is not known", x.rec.ID))
	}
}

func (v *Volume) verifyRange(id cairn.VersionID) (start uint64, size int64, err error) {
	v.mu.Lock()
	size = v.size
	v.mu.Unlock()
	if id.IsZero() {
		return 0, size, nil
	}
	r, err := find(v.state(), id)
	if err == nil && !id.IsSnapshot() {
		err = &cairn.Error{Op: "verify", Subject: id.Name, Kind: cairn.KindInvalid, Hint: "a bookmark has no data"}
	}
	return r.Start, r.Size, err
}

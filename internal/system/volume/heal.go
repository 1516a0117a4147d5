package volume

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"

	"cairn"
	"cairn/internal/mech/digest"
	"cairn/internal/mech/extent"
	"cairn/internal/system/volume/catalog"
	"cairn/internal/system/volume/hashes"
	"cairn/internal/system/volume/segment"
)

// Digest hashes a snapshot in pieces; what it reads is all that it looks at.
func (v *Volume) Digest(ctx context.Context, id cairn.VersionID, q cairn.DigestQuery) iter.Seq2[cairn.Digest, error] {
	return func(yield func(cairn.Digest, error) bool) {
		r, err := v.OpenVersion(ctx, id)
		if err != nil {
			yield(cairn.Digest{}, failed("hash", v.o.Name+id.Name, err))
			return
		}
		defer func() { _ = r.Close() }() // never fails
		for d, err := range digest.Of(ctx, r, q) {
			if !yield(d, failed("hash", v.o.Name+id.Name, err)) {
				return
			}
		}
	}
}

// maxPatches bounds the content that one call of Heal holds.
const maxPatches = 4096

// Heal puts content back in place of blocks of a snapshot that are lost. Where the
// block was preserved, it goes into a segment that is looked at before the bad
// one; where it is read from the head, and nobody wrote it since, into the head.
func (v *Volume) Heal(ctx context.Context, id cairn.VersionID, patches []cairn.Patch, o cairn.HealOptions) ([]cairn.Mending, error) {
	v.admin.Lock()
	defer v.admin.Unlock()
	out, err := v.heal(ctx, id, patches, o)
	return out, failed("heal", v.o.Name+id.Name, err)
}

func (v *Volume) heal(ctx context.Context, id cairn.VersionID, patches []cairn.Patch, o cairn.HealOptions) ([]cairn.Mending, error) {
	h, err := v.newHealing(id, o)
	if err != nil {
		return nil, err
	}
	if len(patches) > maxPatches {
		return nil, &cairn.Error{Op: "heal", Kind: cairn.KindInvalid, Err: fmt.Errorf("%d blocks in one call", len(patches)), Hint: fmt.Sprintf("offer at most %d", maxPatches)}
	}
	out := make([]cairn.Mending, len(patches))
	for i, p := range patches {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if out[i], err = h.offer(p); err != nil {
			return nil, err
		}
	}
	if o.DryRun {
		return out, nil
	}
	if err := h.commit(); err != nil {
		return nil, err
	}
	if o.Whole {
		err = v.declareSound(ctx, h.version)
	}
	return out, err
}

// healing is one call of Heal under way.
type healing struct {
	v       *Volume
	dry     bool
	version catalog.Version
	since   *extent.Bitmap              // written between the version and this call
	into    map[uint64][]segment.Record // by the segment that is healed
	order   []uint64                    // of into
	inHead  bool                        // blocks were written to the head
	doubt   bool                        // others may have written to the head
	foreign []segment.Record            // what the snapshot had where they did
	view    *hashes.View                // what the block hash table says of the version; may be nil
}

func (v *Volume) newHealing(id cairn.VersionID, o cairn.HealOptions) (*healing, error) {
	if v.closed {
		return nil, errClosed
	}
	r, err := find(v.state(), id)
	if err == nil && !id.IsSnapshot() {
		err = &cairn.Error{Op: "heal", Subject: id.Name, Kind: cairn.KindDegraded, Hint: "a bookmark has no data; name a snapshot"}
	}
	if err != nil {
		return nil, err
	}
	set, _, err := v.knownChanges(id, cairn.VersionID{})
	if err != nil {
		return nil, err
	}
	h := &healing{v: v, dry: o.DryRun, version: r, since: set, into: map[uint64][]segment.Record{}, doubt: v.doubt() != ""}
	if h.view, err = v.tableView(&r); err != nil {
		return nil, err
	}
	if o.DryRun {
		return h, nil
	}
	return h, v.activate()
}

// written tells whether the head's block was written since the version. Callers
// hold a claim of it.
func (h *healing) written(block uint64) bool {
	h.v.mu.Lock()
	defer h.v.mu.Unlock()
	return h.since.Has(block) || h.v.dirty.Has(block) || h.v.stage.Holds(block, 1)
}

// offer decides about one patch, and does at once what concerns the head.
func (h *healing) offer(p cairn.Patch) (cairn.Mending, error) {
	if p.Offset < 0 || p.Offset%blockSize != 0 || p.Offset >= h.version.Size || int64(len(p.Data)) != min(blockSize, h.version.Size-p.Offset) {
		return 0, &cairn.Error{Op: "heal", Kind: cairn.KindInvalid, Err: fmt.Errorf("%d bytes at %d are not one block of it", len(p.Data), p.Offset)}
	}
	block := uint64(p.Offset) / blockSize
	whole := make([]byte, blockSize)
	copy(whole, p.Data)
	for {
		m, err := h.offerBlock(block, whole, p.Data)
		if h.v.mend(err) {
			continue
		}
		return m, err
	}
}

func (h *healing) offerBlock(block uint64, whole, data []byte) (cairn.Mending, error) {
	m, err := h.offerSegment(block, whole)
	if m == 0 && err == nil {
		m, err = h.offerHead(block, whole, data)
	}
	return m, err
}

// offerSegment decides about a block that was preserved; 0 when it is read from
// the head.
func (h *healing) offerSegment(block uint64, whole []byte) (cairn.Mending, error) {
	h.v.stack.use.RLock()
	defer h.v.stack.use.RUnlock()
	found, err := h.v.stack.find(h.version.Start, run{block, 1})
	if err != nil || found[0].seg == nil {
		return 0, err
	}
	x := found[0]
	if x.seg.Read(x.Run, make([]byte, blockSize)) == nil {
		return cairn.MendNotBad, nil
	}
	same, known := x.seg.Matches(block, whole)
	if !known {
		if same, known, err = h.matches(block, whole); err != nil {
			return 0, err
		}
	}
	if known && !same && !h.v.o.Faults.has(FaultHealUnchecked) {
		return cairn.MendRefused, nil
	}
	h.put(x.seg.ID(), block, whole)
	if known {
		return cairn.MendedBySum, nil
	}
	return cairn.MendedByGUID, nil
}

// matches tells whether content is what the block hash table says of the block, as
// far as it knows.
func (h *healing) matches(block uint64, p []byte) (same, known bool, err error) {
	if h.view == nil {
		return false, false, nil
	}
	e, err := h.view.Entry(block)
	return e == h.view.Of(p), e != hashes.Unknown, err
}

// put notes that the block is to be looked at before the segment.
func (h *healing) put(target, block uint64, whole []byte) {
	rec := recordOf(block, whole)
	if h.into[target] == nil {
		h.order = append(h.order, target)
	}
	h.into[target] = append(h.into[target], rec)
}

func recordOf(block uint64, whole []byte) segment.Record {
	if isZero(whole) {
		return segment.Record{First: block, Count: 1, Kind: segment.Zero}
	}
	return segment.Record{First: block, Count: 1, Kind: segment.Data, Bytes: whole}
}

// offerHead decides about a block that is read from the head: it is bad when the
// disk cannot read it, and then written anew, unless it changed since. Where
// others may have written to the head and it differs, they did: what they wrote
// stays, counts as changed, and the snapshot gets back what it had.
func (h *healing) offerHead(block uint64, whole, data []byte) (cairn.Mending, error) {
	v := h.v
	r := run{block, 1}
	v.gate.RLock()
	defer v.gate.RUnlock()
	v.claim(r)
	defer v.unclaim(r)
	off := int64(block) * blockSize
	have := make([]byte, len(data))
	err := v.readHead(have, off)
	if err == nil && bytes.Equal(have, data) {
		return cairn.MendNotBad, nil
	}
	vouched := cairn.MendedByGUID
	same, known, terr := h.matches(block, data)
	if terr != nil {
		return 0, terr
	}
	if known {
		if err == nil {
			if right, _, terr := h.matches(block, have); right || terr != nil {
				return cairn.MendNotBad, terr
			}
		}
		if !same {
			return cairn.MendRefused, nil
		}
		vouched = cairn.MendedBySum
	}
	written := h.written(block)
	switch {
	case err == nil && known && !written && !v.state().Head.Sealed:
		// Rot or a foreign write: what the head holds now may be meant, and stays.
		h.foreign = append(h.foreign, recordOf(block, whole))
		return vouched, nil
	case err == nil && known && !written: // a replica's head has to be right, and takes no writes
	case err == nil && h.doubt && !written:
		h.foreign = append(h.foreign, recordOf(block, whole))
		return cairn.MendedByGUID, nil
	case err == nil || written || off+int64(len(data)) > v.size:
		return cairn.MendDoubtful, nil
	}
	if h.dry {
		return vouched, nil
	}
	if _, err := v.head.WriteAt(data, off); err != nil {
		return 0, err
	}
	h.inHead = true
	return vouched, nil
}

// commit makes what was put durable, in one record.
func (h *healing) commit() error {
	v := h.v
	if h.inHead && !v.o.Faults.has(FaultSkipHeadFlush) {
		if err := v.flush(); err != nil {
			return err
		}
	}
	if len(h.order)+len(h.foreign) == 0 {
		return nil
	}
	v.gate.Lock()
	defer v.gate.Unlock()
	v.persist.Lock()
	defer v.persist.Unlock()
	if err := h.untouched(); err != nil {
		return err
	}
	made, err := h.write()
	if err == nil && len(h.foreign) > 0 {
		// Its batch is a mark too: what others wrote counts as changed by the same record.
		var x *stacked
		if x, err = v.writeSegment(catalog.Segment{Interval: v.interval, Epoch: v.epoch}, h.foreign); err == nil {
			made = append(made, x)
		}
	}
	if err != nil {
		for _, x := range made {
			err = v.unwritten(x, err)
		}
		return err
	}
	err = v.commit("heal "+h.version.Name, func(*catalog.State, *catalog.Head) catalog.Edit {
		var e catalog.Edit
		for _, x := range made {
			e.Segments = append(e.Segments, x.rec)
		}
		return e
	})
	if err != nil {
		for _, x := range made {
			err = v.unwritten(x, err)
		}
		return err
	}
	for _, x := range made {
		v.stack.push(x)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, r := range h.foreign {
		v.kept.Set(r.First, r.Count)
		v.dirty.Set(r.First, r.Count)
	}
	return nil
}

// untouched makes sure that no write preserved meanwhile what others had written.
// Callers hold gate.
func (h *healing) untouched() error {
	h.v.mu.Lock()
	defer h.v.mu.Unlock()
	for _, r := range h.foreign {
		if h.v.kept.Has(r.First) {
			return &cairn.Error{Op: "heal", Subject: h.version.Name, Kind: cairn.KindBusy, Err: errors.New("blocks of it were written meanwhile"), Hint: "do it again"}
		}
	}
	return nil
}

// write makes a segment for each that is healed.
func (h *healing) write() (made []*stacked, err error) {
	places := map[uint64]catalog.Segment{}
	for _, g := range h.v.state().Segments {
		places[g.ID] = g
	}
	for _, id := range h.order {
		target, found := places[id]
		if !found {
			return made, &cairn.Error{Op: "heal", Subject: h.version.Name, Kind: cairn.KindConflict, Hint: "its blocks were given up meanwhile; list the versions again"}
		}
		before := target.ID
		if target.Heals != 0 {
			before = target.Heals
		}
		x, err := h.v.writeSegment(catalog.Segment{Interval: target.Interval, Heals: before}, h.into[id])
		if err != nil {
			return made, err
		}
		made = append(made, x)
	}
	return made, nil
}

// declareSound ends the state damaged of a snapshot that was compared in full, and
// the doubt about the head, when nothing of it is unreadable. Of newer snapshots
// nobody knows what others overwrote: they are damaged when there was doubt.
func (v *Volume) declareSound(ctx context.Context, r catalog.Version) error {
	doubt := v.doubt() != ""
	if now, found := v.state().Find(r.Name); !doubt && (!found || !now.Damaged) {
		return nil
	}
	k := v.checks(r.ID(), r.Size)
	if err := k.segments(ctx, r.Start); err != nil || k.lost.Count() > 0 {
		return err
	}
	err := v.commit("sound "+r.Name, func(s *catalog.State, h *catalog.Head) catalog.Edit {
		h.Unverified = ""
		var e catalog.Edit
		for _, x := range s.Versions {
			switch {
			case x.Name == r.Name && x.Damaged:
				x.Damaged = false
			case doubt && x.ID().IsSnapshot() && x.Start > r.Start && !x.Damaged:
				x.Damaged = true
			default:
				continue
			}
			e.Versions = append(e.Versions, x)
		}
		return e
	})
	if err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.unverified = ""
	return nil
}

package tape

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"cairn/internal/system/tape/drive"
	"cairn/ltfs"
)

// salvage looks at what stands behind the newest index of each partition.
type salvage struct {
	t       *Tape
	repair  *Repair
	now     ltfs.Timestamp
	index   *ltfs.Index // what the tape will hold
	from    map[byte]uint64
	found   []stretch
	named   spans // what some index gives a name
	nowhere []*ltfs.File
}

// stretch is data between two filemarks: the lengths of its records.
type stretch struct {
	letter byte
	block  uint64
	sizes  []uint32
}

func (s *salvage) run(ctx context.Context) error {
	var err error
	if s.index, err = cloneIndex(s.t.index); err != nil { // a dry run leaves the open tape as it is
		return s.t.formatFailure("recover tape", err)
	}
	s.from = map[byte]uint64{}
	for letter, end := range s.t.ends {
		s.from[letter] = end.end
		if end.last == nil {
			s.from[letter] = min(4, end.end)
		} else if !end.inIndex() {
			s.from[letter] = end.end - end.extra
		}
	}
	for _, letter := range []byte{s.t.label.IndexPart, s.t.label.DataPart} {
		for block := s.from[letter]; block < s.t.ends[letter].end; {
			if block, err = s.section(ctx, letter, block); err != nil {
				return err
			}
		}
	}
	if err := s.collectNames(ctx); err != nil {
		return err
	}
	for _, f := range s.found {
		s.unnamed(f)
	}
	return nil
}

func cloneIndex(ix *ltfs.Index) (*ltfs.Index, error) {
	var text bytes.Buffer
	if _, err := ix.WriteTo(&text); err != nil {
		return nil, err
	}
	return ltfs.ReadIndex(&text)
}

// section handles what stands from block to the next filemark and returns the
// block behind that.
func (s *salvage) section(ctx context.Context, letter byte, block uint64) (next uint64, err error) {
	at := ltfs.Location{Partition: letter, Block: block}
	kind, err := s.t.kindAt(ctx, at)
	if err != nil && !lostToDamage(err) {
		return 0, err
	}
	taken := false
	switch kind {
	case incrementalIndex:
		taken, err = s.incremental(ctx, at)
	case fullIndex:
		taken, err = s.torn(ctx, at)
	}
	if err != nil && !lostToDamage(err) {
		return 0, err
	}
	return s.pass(ctx, at, !taken)
}

// pass goes to behind the next filemark, noting records that are data. A record
// that cannot be read ends a stretch and is named.
func (s *salvage) pass(ctx context.Context, at ltfs.Location, data bool) (uint64, error) {
	t := s.t
	end := t.ends[at.Partition].end
	found := stretch{letter: at.Partition, block: at.Block}
	keep := func() {
		if data && len(found.sizes) > 0 {
			s.found = append(s.found, found)
		}
	}
	t.mover.forget()
	block := at.Block
	for ; block < end; block++ {
		n, err := t.mover.read(ctx, drive.Position{Partition: t.number[at.Partition], Block: block}, t.buf)
		switch {
		case errors.Is(err, drive.ErrFilemark):
			keep()
			return block + 1, nil
		case errors.Is(err, drive.ErrEndOfData):
			keep()
			return end, nil
		case err == nil:
			found.sizes = append(found.sizes, uint32(n))
		case lostToDamage(err) && ctx.Err() == nil:
			keep()
			s.repair.Problems = append(s.repair.Problems, fmt.Sprintf("the record at %c:%d cannot be read and is lost: %v", at.Partition, block, err))
			found = stretch{letter: at.Partition, block: block + 1}
		default:
			return 0, err
		}
	}
	keep()
	return block, nil
}

func (s *salvage) act(format string, args ...any) {
	s.repair.Actions = append(s.repair.Actions, fmt.Sprintf(format, args...))
}

// incremental replays an incremental index when it fits; taken is false when it is
// a file that looks like one.
func (s *salvage) incremental(ctx context.Context, at ltfs.Location) (taken bool, err error) {
	r, err := s.t.recordsAt(ctx, at)
	if err != nil {
		return true, err
	}
	inc, err := ltfs.ReadIncremental(r)
	if err == nil && inc.Self != at {
		return false, nil
	}
	if err == nil {
		err = s.replay(inc)
	}
	if err != nil {
		s.act("the incremental index at %c:%d is torn or does not fit and is passed over: %v", at.Partition, at.Block, err)
		return true, err
	}
	s.act("the incremental index at %c:%d (generation %d) is replayed", at.Partition, at.Block, inc.Generation)
	for _, repaired := range inc.Repairs {
		s.act("in it, %s", repaired)
	}
	return true, nil
}

// replay applies an incremental index to a copy first, and keeps it when it fits.
func (s *salvage) replay(inc *ltfs.Incremental) error {
	copied, err := cloneIndex(s.index)
	if err != nil {
		return err
	}
	if err := inc.Apply(copied); err != nil {
		return err
	}
	s.index = copied
	return nil
}

// torn takes from an index that was cut off the names of what stands behind the
// last whole one; taken is false when it is a file that looks like an index.
func (s *salvage) torn(ctx context.Context, at ltfs.Location) (taken bool, err error) {
	r, err := s.t.recordsAt(ctx, at)
	if err != nil {
		return true, err
	}
	ix, why, err := ltfs.ReadTornIndex(r)
	if err != nil {
		s.act("the index at %c:%d is torn and is passed over: %v", at.Partition, at.Block, err)
		return true, err
	}
	if ix.Self != at || ix.VolumeUUID != s.index.VolumeUUID {
		return false, nil
	}
	names := 0
	if ix.Generation > s.index.Generation {
		names = s.takeNames(ix.Root, s.index.Root, "/", s.index.HighestUID)
		s.index.Generation = ix.Generation
	}
	s.act("the index at %c:%d (generation %d) is torn (%v); it names %d new files", at.Partition, at.Block, ix.Generation, why, names)
	return true, nil
}

// takeNames enters the files of a torn tree that the tree does not have: those
// with data behind the last index, and what was made since. It returns how many.
func (s *salvage) takeNames(torn, into *ltfs.Directory, at string, highest uint64) (count int) {
	for _, sub := range torn.Dirs {
		there := findDir(into, sub.Name)
		fresh := there == nil
		if fresh {
			there = &ltfs.Directory{Name: sub.Name, UID: s.uid(sub.UID, highest), ReadOnly: sub.ReadOnly, Times: sub.Times, XAttrs: sub.XAttrs}
		}
		n := s.takeNames(sub, there, at+sub.Name+"/", highest)
		if fresh && (n > 0 || sub.UID > highest) && !hasFile(into, sub.Name) {
			into.Dirs = append(into.Dirs, there)
		}
		count += n
	}
	for _, f := range torn.Files {
		isNew := s.newData(f) || len(f.Extents) == 0 && f.UID > highest
		if !isNew || findDir(into, f.Name) != nil || !s.onTape(f) {
			continue
		}
		was := f.UID
		if !sameUID(into, f) {
			f.UID = s.uid(f.UID, highest)
		}
		s.index.HighestUID = max(s.index.HighestUID, was)
		removeEntry(into, f.Name)
		into.Files = append(into.Files, f)
		s.repair.Named = append(s.repair.Named, at+f.Name)
		count++
	}
	return count
}

// uid keeps an identity that was given out after the last index, and replaces one
// from before: its owner may stand elsewhere in the tree.
func (s *salvage) uid(was, highest uint64) uint64 {
	if was > highest {
		s.index.HighestUID = max(s.index.HighestUID, was)
		return was
	}
	s.index.HighestUID++
	return s.index.HighestUID
}

func sameUID(d *ltfs.Directory, f *ltfs.File) bool {
	return slices.ContainsFunc(d.Files, func(o *ltfs.File) bool { return o.Name == f.Name && o.UID == f.UID })
}

func hasFile(d *ltfs.Directory, name string) bool {
	return slices.ContainsFunc(d.Files, func(o *ltfs.File) bool { return o.Name == name })
}

// newData reports whether a file has data behind the last index.
func (s *salvage) newData(f *ltfs.File) bool {
	return slices.ContainsFunc(f.Extents, func(e ltfs.Extent) bool {
		from, known := s.from[e.Partition]
		return known && e.StartBlock >= from
	})
}

// onTape reports whether the records that a file names are there.
func (s *salvage) onTape(f *ltfs.File) bool {
	return !slices.ContainsFunc(f.Extents, func(e ltfs.Extent) bool { return s.t.checkExtent(e) != nil })
}

// collectNames gathers what has a name: in the tree that will be, and, for the
// index partition, in any generation, since that one keeps what was removed.
func (s *salvage) collectNames(ctx context.Context) error {
	s.named.addTree(s.index, s.t.label.BlockSize)
	if s.from[s.t.label.IndexPart] < s.t.ends[s.t.label.IndexPart].end {
		for g, err := range s.t.History(ctx) {
			if err != nil {
				return err
			}
			s.named.addTree(g.Index, s.t.label.BlockSize)
		}
	}
	s.named.merge()
	return nil
}

// unnamed makes files of what nobody names in a stretch. A record shorter than the
// volume's blocks ends a file: files are written one behind the other.
func (s *salvage) unnamed(f stretch) {
	var open *ltfs.Extent
	var last uint64
	end := func() {
		if open != nil {
			s.keep(*open, last)
		}
		open = nil
	}
	for i, size := range f.sizes {
		block := f.block + uint64(i)
		for from, to := range s.named.gaps(f.letter, block, size) {
			if open != nil && from > 0 {
				end()
			}
			if open == nil {
				open = &ltfs.Extent{Partition: f.letter, StartBlock: block, ByteOffset: from}
			}
			open.ByteCount, last = open.ByteCount+uint64(to-from), block
			if to < size || uint64(size) < s.t.label.BlockSize {
				end()
			}
		}
		if open != nil && last != block {
			end()
		}
	}
	end()
}

func (s *salvage) keep(e ltfs.Extent, last uint64) {
	f := &ltfs.File{Name: fmt.Sprintf("partition-%c_block-%d-%d_%d-bytes", e.Partition, e.StartBlock, last, e.ByteCount), Length: e.ByteCount,
		ReadOnly: true, Times: ltfs.Times{Creation: s.now, Change: s.now, Modify: s.now, Access: s.now, Backup: s.now}, Extents: []ltfs.Extent{e}}
	if e.ByteOffset > 0 {
		f.Name += fmt.Sprintf("_from-%d", e.ByteOffset)
	}
	s.nowhere = append(s.nowhere, f)
	s.repair.Files = append(s.repair.Files, f.Name)
}

// place puts the files without a name into the tree.
func (s *salvage) place() error {
	if len(s.nowhere) == 0 {
		return nil
	}
	into, err := s.t.folder(lostFolder)
	if err != nil {
		return err
	}
	for _, f := range s.nowhere {
		s.t.index.HighestUID++
		f.UID = s.t.index.HighestUID
		removeEntry(into, f.Name)
		into.Files = append(into.Files, f)
	}
	return nil
}

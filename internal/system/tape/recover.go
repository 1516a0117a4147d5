package tape

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"cairn"
	"cairn/internal/system/tape/drive"
	"cairn/ltfs"
)

// lostFolder is where data without a name is brought back, the name that other
// LTFS tools use.
const lostFolder = "_ltfs_lostandfound"

// Repair is what Recover did or would do, in sentences.
type Repair struct {
	Problems []string // what is wrong
	Actions  []string // what is done about it; none: nothing can or needs to be
	Files    []string // brought back
}

// Check looks at everything the indexes say: the ends of both partitions, the
// rules of the format, and every record that the current index names, which with
// data set is also read.
func (t *Tape) Check(ctx context.Context, data bool) ([]string, error) {
	problems := append([]string(nil), t.notes...)
	for _, p := range t.index.Check(t.label) {
		problems = append(problems, p.String())
	}
	for name, node := range t.index.All() {
		if node.File == nil {
			continue
		}
		for _, e := range node.File.Extents {
			if err := t.checkExtent(ctx, e, data); err != nil {
				if cairn.KindOf(err) == cairn.KindCanceled || ctx.Err() != nil {
					return problems, err
				}
				problems = append(problems, name+": "+err.Error())
			}
		}
	}
	return problems, nil
}

func (t *Tape) checkExtent(ctx context.Context, e ltfs.Extent, data bool) error {
	end := t.ends[e.Partition]
	last := e.StartBlock + (uint64(e.ByteOffset)+e.ByteCount-1)/t.label.BlockSize
	if end == nil || last >= end.end {
		return fmt.Errorf("its data ends at %c:%d, behind the end of the partition", e.Partition, last)
	}
	if !data {
		return nil
	}
	x := &extractor{t: t}
	for block := e.StartBlock; block <= last; block++ {
		if _, err := x.record(ctx, drive.Position{Partition: t.number[e.Partition], Block: block}); err != nil {
			return err
		}
	}
	return nil
}

// Recover brings a tape whose ends are out of order back to two partitions that
// end in an index. Later incremental indexes are replayed, so that data behind
// the last full index gets its names back; other data behind it becomes whole files under
// _ltfs_lostandfound; a torn index stays where it is and is passed over. Nothing
// that stands on the data partition is overwritten. With dryRun nothing is
// written.
func (t *Tape) Recover(ctx context.Context, dryRun bool, creator string, now time.Time) (Repair, error) {
	r := Repair{Problems: t.notes}
	if len(t.notes) == 0 {
		return r, nil
	}
	s := &salvage{t: t, repair: &r, now: now}
	if err := s.behindIndex(ctx); err != nil {
		return r, err
	}
	if len(r.Files) > 0 {
		r.Actions = append(r.Actions, fmt.Sprintf("%d files without a name are put into %s", len(r.Files), lostFolder))
	}
	r.Actions = append(r.Actions, fmt.Sprintf("generation %d is written behind everything in the data partition and to the index partition", s.index.Generation+1))
	if dryRun {
		return r, nil
	}
	t.index, t.dirty = s.index, true
	if len(s.lost) > 0 {
		if err := s.place(); err != nil {
			return r, err
		}
	}
	if err := t.commit(ctx, creator, now); err != nil {
		return r, err
	}
	t.notes = nil
	return r, nil
}

// salvage looks at what stands behind the newest full index of the data partition.
type salvage struct {
	t      *Tape
	repair *Repair
	now    time.Time
	index  *ltfs.Index
	lost   []*ltfs.File
}

func (s *salvage) behindIndex(ctx context.Context) error {
	t := s.t
	// A dry run must leave the open tape as it is: work on a copy.
	var text bytes.Buffer
	if _, err := t.index.WriteTo(&text); err != nil {
		return t.formatFailure("recover tape", err)
	}
	var err error
	if s.index, err = ltfs.ReadIndex(&text); err != nil {
		return t.formatFailure("recover tape", err)
	}
	letter := t.label.DataPart
	end := t.ends[letter]
	from := uint64(4)
	if end.last != nil {
		from = end.end - end.extra
	}
	for block := from; block < end.end; {
		next, err := s.section(ctx, letter, block, end.end)
		if err != nil {
			return err
		}
		block = next
	}
	return nil
}

// section handles what stands from block to the next filemark and returns the
// block behind that.
func (s *salvage) section(ctx context.Context, letter byte, block, end uint64) (uint64, error) {
	t := s.t
	at := drive.Position{Partition: t.number[letter], Block: block}
	if err := t.drive.Locate(ctx, at); err != nil {
		return 0, err
	}
	n, err := t.drive.Read(ctx, t.buf)
	switch {
	case errors.Is(err, drive.ErrFilemark):
		return block + 1, nil
	case errors.Is(err, drive.ErrEndOfData):
		return end, nil
	case err != nil:
		return 0, err
	}
	head := t.buf[:min(n, 512)]
	if bytes.Contains(head, []byte("<ltfsincrementalindex")) || bytes.Contains(head, []byte("<ltfsindex")) {
		return s.indexSection(ctx, letter, at)
	}
	return s.dataSection(ctx, letter, at, n)
}

// indexSection replays an incremental index; any other one here is torn.
func (s *salvage) indexSection(ctx context.Context, letter byte, at drive.Position) (uint64, error) {
	t := s.t
	if err := t.drive.Locate(ctx, at); err != nil {
		return 0, err
	}
	inc, err := ltfs.ReadIncremental(&recordReader{ctx: ctx, t: t})
	if err == nil {
		err = s.replay(inc)
	}
	if err == nil {
		s.repair.Actions = append(s.repair.Actions, fmt.Sprintf("the incremental index at %c:%d (generation %d) is replayed", letter, at.Block, inc.Generation))
	} else {
		s.repair.Actions = append(s.repair.Actions, fmt.Sprintf("the index at %c:%d is torn or does not fit and is passed over: %v", letter, at.Block, err))
	}
	if err := t.drive.Locate(ctx, at); err != nil {
		return 0, err
	}
	if err := t.drive.SpaceFilemarks(ctx, 1); err != nil && !errors.Is(err, drive.ErrEndOfData) {
		return 0, err
	}
	behind, err := t.drive.Position(ctx)
	return behind.Block, err
}

// replay applies an incremental index to a copy first, and keeps it when it fits.
func (s *salvage) replay(inc *ltfs.Incremental) error {
	var text bytes.Buffer
	if _, err := s.index.WriteTo(&text); err != nil {
		return err
	}
	copied, err := ltfs.ReadIndex(&text)
	if err != nil {
		return err
	}
	if err := inc.Apply(copied); err != nil {
		return err
	}
	s.index = copied
	s.dropNamed()
	return nil
}

// dropNamed forgets lost files whose data has a name now.
func (s *salvage) dropNamed() {
	named := map[uint64]bool{}
	for _, node := range s.index.All() {
		if node.File == nil {
			continue
		}
		for _, e := range node.File.Extents {
			if e.Partition == s.t.label.DataPart {
				for b := e.StartBlock; b <= e.StartBlock+(uint64(e.ByteOffset)+e.ByteCount-1)/s.t.label.BlockSize; b++ {
					named[b] = true
				}
			}
		}
	}
	kept := s.lost[:0]
	s.repair.Files = s.repair.Files[:0]
	for _, f := range s.lost {
		if !named[f.Extents[0].StartBlock] {
			kept = append(kept, f)
			s.repair.Files = append(s.repair.Files, f.Name)
		}
	}
	s.lost = kept
}

// dataSection makes files of the records up to the next filemark. A record shorter
// than the volume's blocks ends a file: files are written one behind the other.
func (s *salvage) dataSection(ctx context.Context, letter byte, at drive.Position, first int) (uint64, error) {
	t := s.t
	block, n := at.Block, first
	file := s.newLost(letter, block)
	for {
		file.Length += uint64(n)
		file.Extents[0].ByteCount += uint64(n)
		block++
		full := uint64(n) == t.label.BlockSize
		var err error
		n, err = t.drive.Read(ctx, t.buf)
		over := errors.Is(err, drive.ErrFilemark) || errors.Is(err, drive.ErrEndOfData)
		if err != nil && !over {
			return 0, err
		}
		if over || !full {
			s.keep(file, letter, block)
			if over {
				return block + 1, nil
			}
			file = s.newLost(letter, block)
		}
	}
}

func (s *salvage) newLost(letter byte, block uint64) *ltfs.File {
	return &ltfs.File{Extents: []ltfs.Extent{{Partition: letter, StartBlock: block}}}
}

func (s *salvage) keep(f *ltfs.File, letter byte, end uint64) {
	now := ltfs.TimestampOf(s.now)
	f.Name = fmt.Sprintf("partition-%c_block-%d-%d_%d-bytes", letter, f.Extents[0].StartBlock, end-1, f.Length)
	f.Times = ltfs.Times{Creation: now, Change: now, Modify: now, Access: now, Backup: now}
	f.ReadOnly = true
	s.lost = append(s.lost, f)
	s.repair.Files = append(s.repair.Files, f.Name)
}

// place puts the lost files into the tree.
func (s *salvage) place() error {
	into, err := s.t.folder(lostFolder)
	if err != nil {
		return err
	}
	for _, f := range s.lost {
		s.t.index.HighestUID++
		f.UID = s.t.index.HighestUID
		removeEntry(into, f.Name)
		into.Files = append(into.Files, f)
	}
	return nil
}

// Rollback makes the tree of an older generation the current one, in a new
// generation; nothing on the tape is lost, and rolling forward is the same call.
func (t *Tape) Rollback(ctx context.Context, generation uint64, creator string, now time.Time) error {
	if len(t.notes) > 0 {
		return t.fail("roll back tape", cairn.KindDamaged, "cairn tape check --repair first", "it is out of order")
	}
	old, err := t.At(ctx, generation)
	if err != nil {
		return err
	}
	current, highest := t.index.Generation, t.index.HighestUID
	copied := *old
	copied.Generation, copied.HighestUID = current, max(highest, old.HighestUID)
	t.index, t.dirty = &copied, true
	return t.Commit(ctx, creator, fmt.Sprintf("Rollback to generation %d", generation), now)
}

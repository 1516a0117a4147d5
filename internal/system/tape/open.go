package tape

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"cairn"
	"cairn/internal/system/tape/drive"
	"cairn/ltfs"
)

// Tape is an open volume. It belongs to one goroutine at a time.
type Tape struct {
	drive   drive.Drive
	mover   *mover
	subject string // the drive's name in messages
	label   *ltfs.Label
	barcode string
	number  map[byte]int // partition letter → number
	index   *ltfs.Index  // the current generation; Put and others change it
	dirty   bool
	ends    map[byte]*tail
	notes   []string // what opening found out of order
	unnamed bool     // a partition's label cannot be read; nothing on the tape can bring it back
	buf     []byte   // one record

	replayed int // incremental indexes that index stands on; see replay.go
}

// tail is how a partition ends.
type tail struct {
	last  *ltfs.Index // newest full index in it, without its tree; nil when there is none, or when data was written over it
	end   uint64      // end of data
	extra uint64      // records behind last's closing filemark
	ended bool        // has an end mark
	open  bool        // last lacks its closing filemark
	torn  error       // why the newest thing that looks like an index cannot be read; nil when it can
}

// inIndex reports whether the partition ends in an index.
func (e *tail) inIndex() bool { return e.last != nil && e.extra == 0 && !e.open }

// Open reads the volume on a drive; subject names the drive in messages.
func Open(ctx context.Context, d drive.Drive, subject string) (*Tape, error) {
	t, err := begin(ctx, d, subject)
	if err != nil {
		return nil, err
	}
	if err := t.findIndex(ctx); err != nil {
		return nil, err
	}
	return t, nil
}

// begin reads the labels.
func begin(ctx context.Context, d drive.Drive, subject string) (*Tape, error) {
	t := &Tape{drive: d, mover: &mover{drive: d}, subject: subject, number: map[byte]int{}, ends: map[byte]*tail{}}
	if d.Partitions() != 2 {
		return nil, t.fail("open tape", cairn.KindUnsupported, "format it, or name an LTFS tape", "it has %d partition, LTFS has two", d.Partitions())
	}
	if err := t.readLabels(ctx); err != nil {
		return nil, err
	}
	t.buf = make([]byte, max(int(t.label.BlockSize), ltfs.MaxLabelBytes))
	return t, nil
}

func (t *Tape) fail(op string, kind cairn.Kind, hint, format string, args ...any) error {
	return &cairn.Error{Op: op, Subject: t.subject, Kind: kind, Err: fmt.Errorf(format, args...), Hint: hint}
}

func (t *Tape) formatFailure(op string, err error) error {
	var fe *ltfs.FormatError
	if errors.As(err, &fe) {
		return &cairn.Error{Op: op, Subject: t.subject, Kind: cairn.KindCorrupt, Err: err}
	}
	if cairn.KindOf(err) != cairn.KindOther {
		return err
	}
	return &cairn.Error{Op: op, Subject: t.subject, Kind: cairn.KindIO, Err: err}
}

// findIndex finds the newest index, by the coherency attributes if they are to be
// trusted, else by looking at the end of both partitions.
func (t *Tape) findIndex(ctx context.Context) error {
	if found, err := t.trustAttributes(ctx); err != nil || found {
		return err
	}
	if err := t.examineEnds(ctx); err != nil {
		return err
	}
	if t.index == nil {
		why := errors.New("there is none")
		for _, letter := range []byte{t.label.DataPart, t.label.IndexPart} {
			if torn := t.ends[letter].torn; torn != nil {
				why = torn
			}
		}
		return t.fail("open tape", cairn.KindDamaged, "a captured index opens it: cairn tape extract --index, cairn tape check --index",
			"neither partition holds an index that can be read: %w", why)
	}
	if err := t.replayTrailing(ctx); err != nil {
		return err
	}
	t.describeEnds()
	return nil
}

// examineEnds looks at the ends of both partitions for the newest index.
func (t *Tape) examineEnds(ctx context.Context) error {
	var pointer ltfs.Location
	for _, letter := range []byte{t.label.IndexPart, t.label.DataPart} {
		end, ix, err := t.examine(ctx, letter, pointer)
		if err != nil {
			return err
		}
		t.ends[letter] = end
		if ix == nil {
			continue
		}
		pointer = ix.Previous
		if t.index == nil || ix.Generation > t.index.Generation {
			t.index = ix
		}
	}
	return nil
}

func (t *Tape) describeEnds() {
	if t.replayed > 0 {
		t.notes = append(t.notes, fmt.Sprintf("%d incremental indexes stand behind the last full one; they are replayed (generation %d)", t.replayed, t.index.Generation))
	}
	for _, letter := range []byte{t.label.IndexPart, t.label.DataPart} {
		end := t.ends[letter]
		switch {
		case !end.ended:
			t.notes = append(t.notes, fmt.Sprintf("partition %c has no end mark", letter))
		case end.last == nil && end.torn != nil:
			t.notes = append(t.notes, fmt.Sprintf("partition %c holds no index that can be read: %v", letter, end.torn))
		case end.last == nil:
			t.notes = append(t.notes, fmt.Sprintf("partition %c holds no index that can be read", letter))
		case end.extra > 0:
			t.notes = append(t.notes, fmt.Sprintf("partition %c: %d records stand behind its last index (generation %d)", letter, end.extra, end.last.Generation))
		case end.open:
			t.notes = append(t.notes, fmt.Sprintf("partition %c: its last index (generation %d) lacks the filemark behind it", letter, end.last.Generation))
		}
	}
	index := t.ends[t.label.IndexPart].last
	data := t.ends[t.label.DataPart].last
	ahead := t.index.Self.Partition == t.label.IndexPart && data != nil && t.index.Previous == data.Self // as other software leaves a tape
	if index != nil && data != nil && index.Generation != data.Generation && !ahead {
		t.notes = append(t.notes, fmt.Sprintf("the index partition ends in generation %d, the data partition in %d", index.Generation, data.Generation))
	}
}

// trustAttributes uses the coherency attributes when the medium's change reference
// says that nothing was written since, and both partitions end where they say.
// Attributes only save time: whatever is wrong with them, the tape itself is asked.
func (t *Tape) trustAttributes(ctx context.Context) (bool, error) {
	v, err := t.drive.Attribute(ctx, 0, ltfs.AttrVolumeChangeReference)
	if err != nil || len(v) != 4 {
		return false, nil
	}
	reference := uint64(binary.BigEndian.Uint32(v))
	var best *ltfs.Index
	ends := map[byte]*tail{}
	for _, letter := range []byte{t.label.DataPart, t.label.IndexPart} {
		end := t.vouchedEnd(ctx, letter, reference)
		if end == nil {
			return false, ctx.Err()
		}
		ends[letter] = end
		if best == nil || end.last.Generation >= best.Generation {
			best = end.last
		}
	}
	ix, err := t.readIndexAt(ctx, best.Self)
	if err != nil || ix.Generation != best.Generation {
		return false, ctx.Err()
	}
	t.index, t.ends = ix, ends
	t.describeEnds()
	return true, nil
}

// vouchedEnd is the end of a partition as its coherency attribute tells, nil when
// the attribute is not to be trusted. Of the index only place and generation are
// known then.
func (t *Tape) vouchedEnd(ctx context.Context, letter byte, reference uint64) *tail {
	part := t.number[letter]
	v, err := t.drive.Attribute(ctx, part, ltfs.AttrCoherency)
	if err != nil {
		return nil
	}
	c, err := ltfs.ParseCoherency(v)
	if err != nil || !c.Trusted || reference == 0 || c.ChangeReference != reference || c.VolumeUUID != t.label.VolumeUUID {
		return nil
	}
	end, err := t.drive.SeekEnd(ctx, part)
	if err != nil || !t.marksAt(ctx, end.Block-1, c.Block-1) {
		return nil
	}
	last := &ltfs.Index{Generation: c.Generation, Self: ltfs.Location{Partition: letter, Block: c.Block}}
	return &tail{last: last, end: end.Block, ended: true}
}

// marksAt reports whether the next filemarks backward from here stand at blocks.
func (t *Tape) marksAt(ctx context.Context, blocks ...uint64) bool {
	for _, want := range blocks {
		if t.drive.SpaceFilemarks(ctx, -1) != nil {
			return false
		}
		if at, err := t.drive.Position(ctx); err != nil || at.Block != want {
			return false
		}
	}
	return true
}

// head is what is kept of an index about the end of a partition: the tree goes on
// changing.
func head(ix *ltfs.Index) *ltfs.Index {
	h := *ix
	h.Root = nil
	return &h
}

// Label is the volume's label; the caller does not change it.
func (t *Tape) Label() *ltfs.Label { return t.label }

// Barcode is the volume's, empty when it has none.
func (t *Tape) Barcode() string { return t.barcode }

// Index is the current index; the caller does not change it.
func (t *Tape) Index() *ltfs.Index { return t.index }

// Notes are sentences about what is out of order; none: the volume is consistent.
func (t *Tape) Notes() []string { return t.notes }

// Capacity tells the room of the data partition.
func (t *Tape) Capacity(ctx context.Context) (drive.Capacity, error) {
	return t.drive.Capacity(ctx, t.number[t.label.DataPart])
}

// Close closes the drive. Changes that were not committed are lost.
func (t *Tape) Close() error { return t.drive.Close() }

package tape

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

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
	buf     []byte   // one record
}

// tail is how a partition ends.
type tail struct {
	last  *ltfs.Index // newest full index in it, without its tree; nil when there is none
	end   uint64      // end of data
	extra uint64      // records behind last's closing filemark
	ended bool        // has an end mark
}

// Open reads the volume on a drive; subject names the drive in messages.
func Open(ctx context.Context, d drive.Drive, subject string) (*Tape, error) {
	t := &Tape{drive: d, mover: &mover{drive: d}, subject: subject, number: map[byte]int{}, ends: map[byte]*tail{}}
	if d.Partitions() != 2 {
		return nil, t.fail("open tape", cairn.KindUnsupported, "format it, or name an LTFS tape", "it has %d partition, LTFS has two", d.Partitions())
	}
	if err := t.readLabels(ctx); err != nil {
		return nil, err
	}
	t.buf = make([]byte, max(int(t.label.BlockSize), ltfs.MaxLabelBytes))
	if err := t.findIndex(ctx); err != nil {
		return nil, err
	}
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

// readLabels reads the label construct of both partitions.
func (t *Tape) readLabels(ctx context.Context) error {
	var labels [2]*ltfs.Label
	var barcodes [2]string
	for p := range 2 {
		var err error
		if barcodes[p], labels[p], err = t.readLabel(ctx, p); err != nil {
			return t.formatFailure(fmt.Sprintf("read the label of partition %d of tape", p), err)
		}
	}
	if err := labels[0].Agree(labels[1]); err != nil {
		return t.formatFailure("open tape", err)
	}
	if barcodes[0] != barcodes[1] {
		return t.fail("open tape", cairn.KindConflict, "", "the partitions carry the barcodes %q and %q", barcodes[0], barcodes[1])
	}
	t.label, t.barcode = labels[0], barcodes[0]
	t.number[labels[0].Location], t.number[labels[1].Location] = 0, 1
	return nil
}

func (t *Tape) readLabel(ctx context.Context, p int) (barcode string, l *ltfs.Label, err error) {
	if err := t.drive.Locate(ctx, drive.Position{Partition: p}); err != nil {
		return "", nil, err
	}
	buf := make([]byte, ltfs.MaxLabelBytes)
	n, err := t.drive.Read(ctx, buf)
	if err != nil {
		return "", nil, notLabelled(err)
	}
	if barcode, err = ltfs.ParseVOL1(buf[:n]); err != nil {
		return "", nil, err
	}
	if _, err := t.drive.Read(ctx, buf); !errors.Is(err, drive.ErrFilemark) {
		return "", nil, &ltfs.FormatError{What: "label", Offset: -1, Reason: "no filemark follows the VOL1 record"}
	}
	if n, err = t.drive.Read(ctx, buf); err != nil {
		return "", nil, notLabelled(err)
	}
	l, err = ltfs.ReadLabel(bytes.NewReader(buf[:n]))
	return barcode, l, err
}

func notLabelled(err error) error {
	if errors.Is(err, drive.ErrFilemark) || errors.Is(err, drive.ErrEndOfData) {
		return &ltfs.FormatError{What: "label", Offset: -1, Reason: "there is none: the tape is blank or of another format"}
	}
	return err
}

// findIndex finds the newest index, by the coherency attributes if they are to be
// trusted, else by looking at the end of both partitions.
func (t *Tape) findIndex(ctx context.Context) error {
	if found, err := t.trustAttributes(ctx); err != nil || found {
		return err
	}
	for _, letter := range []byte{t.label.DataPart, t.label.IndexPart} {
		end, ix, err := t.examine(ctx, letter)
		if err != nil {
			return err
		}
		t.ends[letter] = end
		if ix != nil && (t.index == nil || ix.Generation >= t.index.Generation) {
			t.index = ix
		}
	}
	if t.index == nil {
		return t.fail("open tape", cairn.KindDamaged, "", "neither partition holds an index that can be read")
	}
	t.describeEnds()
	return nil
}

func (t *Tape) describeEnds() {
	for _, letter := range []byte{t.label.IndexPart, t.label.DataPart} {
		end := t.ends[letter]
		switch {
		case !end.ended:
			t.notes = append(t.notes, fmt.Sprintf("partition %c has no end mark", letter))
		case end.last == nil:
			t.notes = append(t.notes, fmt.Sprintf("partition %c holds no index that can be read", letter))
		case end.extra > 0:
			t.notes = append(t.notes, fmt.Sprintf("partition %c: %d records stand behind its last index (generation %d)", letter, end.extra, end.last.Generation))
		}
	}
	index := t.ends[t.label.IndexPart].last
	data := t.ends[t.label.DataPart].last
	if index != nil && data != nil && index.Generation != data.Generation {
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

// readIndexAt reads the full index whose first block stands at l.
func (t *Tape) readIndexAt(ctx context.Context, l ltfs.Location) (*ltfs.Index, error) {
	part, known := t.number[l.Partition]
	if !known {
		return nil, t.fail("read index", cairn.KindCorrupt, "", "there is no partition %c", l.Partition)
	}
	if err := t.drive.Locate(ctx, drive.Position{Partition: part, Block: l.Block}); err != nil {
		return nil, err
	}
	ix, err := ltfs.ReadIndex(&recordReader{ctx: ctx, t: t})
	if err != nil {
		return nil, err
	}
	switch {
	case ix.VolumeUUID != t.label.VolumeUUID:
		return nil, &ltfs.FormatError{What: "index", Offset: -1, Reason: fmt.Sprintf("it is of volume %s, the label of %s", ix.VolumeUUID, t.label.VolumeUUID)}
	case ix.Self != l:
		return nil, &ltfs.FormatError{What: "index", Offset: -1, Reason: fmt.Sprintf("it says that it stands at %c:%d, it stands at %c:%d",
			ix.Self.Partition, ix.Self.Block, l.Partition, l.Block)}
	}
	return ix, nil
}

// recordReader reads records up to the next filemark as one text.
type recordReader struct {
	ctx  context.Context
	t    *Tape
	rest []byte
	done bool
}

func (r *recordReader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		if r.done {
			return 0, io.EOF
		}
		n, err := r.t.drive.Read(r.ctx, r.t.buf)
		if errors.Is(err, drive.ErrFilemark) || errors.Is(err, drive.ErrEndOfData) {
			r.done = true
			continue
		}
		if err != nil {
			return 0, err
		}
		r.rest = r.t.buf[:n]
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// examine walks back from the end of a partition to its newest readable full
// index, nil when there is none.
func (t *Tape) examine(ctx context.Context, letter byte) (*tail, *ltfs.Index, error) {
	part := t.number[letter]
	end := &tail{ended: true}
	at, err := t.drive.SeekEnd(ctx, part)
	if cairn.KindOf(err) == cairn.KindDamaged {
		end.ended = false
		if err = t.drive.Locate(ctx, drive.Position{Partition: part, Block: 1 << 62}); errors.Is(err, drive.ErrEndOfData) {
			at, err = t.drive.Position(ctx)
		}
	}
	if err != nil {
		return nil, nil, err
	}
	end.end = at.Block
	for mark := range t.filemarksBack(ctx, part, at.Block) {
		ix, err := t.readIndexAt(ctx, ltfs.Location{Partition: letter, Block: mark + 1})
		if err != nil {
			continue // data, a torn index, or one of another kind
		}
		behind, err := t.drive.Position(ctx)
		if err != nil {
			return nil, nil, err
		}
		end.last, end.extra = head(ix), end.end-min(end.end, behind.Block)
		return end, ix, nil
	}
	end.extra = end.end - min(end.end, 4)
	return end, nil, nil
}

// head is what is kept of an index about the end of a partition: the tree goes on
// changing.
func head(ix *ltfs.Index) *ltfs.Index {
	h := *ix
	h.Root = nil
	return &h
}

// filemarksBack yields the blocks of the filemarks before from, last first, down
// to the one before the first index.
func (t *Tape) filemarksBack(ctx context.Context, part int, from uint64) func(func(uint64) bool) {
	return func(yield func(uint64) bool) {
		for from > 4 {
			if err := t.drive.Locate(ctx, drive.Position{Partition: part, Block: from}); err != nil {
				return
			}
			if err := t.drive.SpaceFilemarks(ctx, -1); err != nil {
				return
			}
			at, err := t.drive.Position(ctx)
			if err != nil || at.Block < 4 || !yield(at.Block) {
				return
			}
			from = at.Block
		}
	}
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

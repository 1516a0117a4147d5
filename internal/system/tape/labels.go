package tape

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"cairn"
	"cairn/internal/system/tape/drive"
	"cairn/ltfs"
)

// readLabels reads the label construct of both partitions.
func (t *Tape) readLabels(ctx context.Context) error {
	var labels [2]*ltfs.Label
	var barcodes [2]string
	var failures [2]error
	for p := range 2 {
		barcodes[p], labels[p], failures[p] = t.readLabel(ctx, p)
	}
	for p, err := range failures {
		if err == nil {
			continue
		}
		if failures[1-p] != nil || !lostToDamage(err) || ctx.Err() != nil {
			return t.formatFailure(fmt.Sprintf("read the label of partition %d of tape", p), err)
		}
		t.adopt(p, labels[1-p], barcodes[1-p], err)
		return nil
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

// adopt opens a tape of which partition p has lost its label, by the other one's:
// the two differ only in where they stand. It can be read, and not written, since
// a label can only be written to an empty partition.
func (t *Tape) adopt(p int, l *ltfs.Label, barcode string, why error) {
	t.label, t.barcode, t.unnamed = l, barcode, true
	t.number[l.Location], t.number[l.IndexPart^l.DataPart^l.Location] = 1-p, p
	t.notes = append(t.notes, fmt.Sprintf("the label of partition %d cannot be read (%v): the tape can be read, and not written; copy it to another", p, why))
}

// lostToDamage tells a place of the medium that cannot be read, or holds something
// else, from a drive that does not work.
func lostToDamage(err error) bool {
	var fe *ltfs.FormatError
	if errors.As(err, &fe) {
		return true
	}
	switch cairn.KindOf(err) {
	case cairn.KindIO, cairn.KindDamaged, cairn.KindCorrupt, cairn.KindInvalid:
		return true
	}
	return false
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

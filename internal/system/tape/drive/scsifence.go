package drive

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"cairn"
	"cairn/internal/mech/scsi"
)

// seenMedium is what tells one medium from another: its serial number, and what
// stands in the label of each partition, as far as it was read or written.
type seenMedium struct {
	serial string
	labels map[Position][sha256.Size]byte
}

// lastLabelBlock is where an LTFS label construct has its last record.
const lastLabelBlock = 2

// remember keeps what a record at a block of the label is. The partition is the one
// that was located last.
func (d *SCSI) remember(block uint64, record []byte) {
	if block > lastLabelBlock {
		return
	}
	if d.seen.labels == nil {
		d.seen.labels = map[Position][sha256.Size]byte{}
	}
	d.seen.labels[Position{Partition: d.part, Block: block}] = sha256.Sum256(record)
}

// attention handles a unit attention in the middle of work: the medium may be
// another now, the buffer may be lost. Everything is refused until Locate has
// found that the medium is the same. An early warning is nothing of the kind.
func (d *SCSI) attention(op string, cdb []byte, s scsi.Sense) error {
	err := d.senseFailure(op, cdb, s)
	if s.Code() != senseEarlyAttention {
		d.fence = err
	}
	return err
}

// revalidate lifts a fence when the drive is ours and the medium is the one it was.
func (d *SCSI) revalidate(ctx context.Context) error {
	if d.fence == nil {
		return nil
	}
	fence := d.fence
	d.fence = nil
	if err := d.sameMedium(ctx); err != nil {
		d.fence = fence
		return d.fail("go on with tape", cairn.KindConflict, "put the tape back that was in the drive, or unmount and begin anew", errors.Join(err, fence))
	}
	d.log.Warn("the drive was disturbed and holds the same medium still: going on", "drive", d.name, "cause", fence)
	return nil
}

func (d *SCSI) sameMedium(ctx context.Context) error {
	if err := d.ready(ctx); err != nil {
		return err
	}
	if !d.opt.ReadOnly && !d.opt.Look {
		if err := d.take(ctx); err != nil {
			return err
		}
	}
	had, partitions := d.seen, d.partitions
	if err := d.learnMedium(ctx); err != nil {
		return err
	}
	if d.partitions != partitions {
		return fmt.Errorf("the medium has %d partitions, it had %d", d.partitions, partitions)
	}
	if serial := d.mediumSerial(ctx); serial != had.serial {
		return fmt.Errorf("the medium is %q, it was %q", serial, had.serial)
	}
	return d.sameLabels(ctx, had.labels)
}

func (d *SCSI) sameLabels(ctx context.Context, labels map[Position][sha256.Size]byte) error {
	places := make([]Position, 0, len(labels))
	for at := range labels {
		places = append(places, at)
	}
	slices.SortFunc(places, func(a, b Position) int {
		if a.Partition != b.Partition {
			return a.Partition - b.Partition
		}
		return int(a.Block) - int(b.Block)
	})
	buf := make([]byte, d.maxBlock)
	for _, at := range places {
		want := labels[at]
		if err := d.locate(ctx, at); err != nil {
			return err
		}
		n, err := d.Read(ctx, buf)
		if err != nil {
			return fmt.Errorf("the label in partition %d cannot be read: %w", at.Partition, err)
		}
		if sha256.Sum256(buf[:n]) != want {
			return fmt.Errorf("the label in partition %d is another", at.Partition)
		}
	}
	return nil
}

package drive

import (
	"context"
	"errors"
	"fmt"
	"math"

	"cairn"
	"cairn/internal/mech/scsi"
)

// Locate moves to a position.
func (d *SCSI) Locate(ctx context.Context, to Position) error {
	if to.Partition < 0 || to.Partition >= d.partitions {
		return d.fail("locate on tape", cairn.KindInvalid, "", fmt.Errorf("there is no partition %d", to.Partition))
	}
	if err := d.revalidate(ctx); err != nil {
		return err
	}
	return d.locate(ctx, to)
}

func (d *SCSI) locate(ctx context.Context, to Position) error {
	d.part, d.sure, d.moved = to.Partition, false, true
	r, err := d.sendLocate(ctx, to)
	switch {
	case err != nil:
		return err
	case r.checked && r.sense.Key == scsi.KeyBlankCheck:
		return ErrEndOfData
	}
	d.next, d.sure = to.Block, true
	return nil
}

// sendLocate uses the short form with drives that do not know the long one.
func (d *SCSI) sendLocate(ctx context.Context, to Position) (reply, error) {
	const op = "locate on tape"
	if !d.oldForms {
		r, err := d.do(ctx, op, scsi.Command{CDB: scsi.Locate16(byte(to.Partition), to.Block)})
		if codeOf(err) != senseUnknownOpcode {
			return r, err
		}
		d.oldForms = true
	}
	return d.do(ctx, op, scsi.Command{CDB: scsi.Locate10(byte(to.Partition), uint32(min(to.Block, math.MaxUint32)))})
}

// SeekEnd moves to the end of data, by asking for a block that cannot be there: one
// motion from wherever the medium stands.
func (d *SCSI) SeekEnd(ctx context.Context, part int) (Position, error) {
	err := d.Locate(ctx, Position{Partition: part, Block: math.MaxUint64})
	var sense *senseError
	switch {
	case err == nil:
		return Position{}, d.fail("find end of data on tape", cairn.KindIO, "", errors.New("the drive says that the tape has no end"))
	case errors.As(err, &sense) && sense.sense.Key == scsi.KeyMedium:
		return Position{}, &cairn.Error{Op: "find end of data on tape", Subject: d.name, Kind: cairn.KindDamaged,
			Err: fmt.Errorf("partition %d has no end mark that can be read: %w", part, err), Hint: "check the tape: its last block is taken for the end"}
	case !errors.Is(err, ErrEndOfData):
		return Position{}, err
	}
	return d.Position(ctx)
}

// Position asks the drive.
func (d *SCSI) Position(ctx context.Context) (Position, error) {
	p, err := d.tell(ctx)
	if err != nil {
		return Position{}, err
	}
	if !p.Known {
		return Position{}, d.fail("tell position of tape", cairn.KindIO, "", errors.New("the drive does not know where it stands"))
	}
	d.part, d.next, d.sure = p.Partition, p.Block, true
	return Position{Partition: p.Partition, Block: p.Block}, nil
}

func (d *SCSI) tell(ctx context.Context) (scsi.Place, error) {
	const op = "tell position of tape"
	form, room := byte(scsi.PositionLong), 32
	if d.shortTell {
		form, room = scsi.PositionShort, 20
	}
	b, err := d.ask(ctx, op, scsi.ReadPosition(form), room)
	if code := codeOf(err); !d.shortTell && (code == senseUnknownField || code == senseUnknownOpcode) {
		d.shortTell = true
		return d.tell(ctx)
	}
	if err != nil {
		return scsi.Place{}, err
	}
	p, ok := scsi.ParsePosition(form, b)
	if !ok {
		return p, d.fail(op, cairn.KindIO, "", fmt.Errorf("READ POSITION: %d bytes make no sense", len(b)))
	}
	return p, nil
}

// SpaceFilemarks moves over filemarks.
func (d *SCSI) SpaceFilemarks(ctx context.Context, n int) error {
	if n == 0 {
		return nil
	}
	d.sure, d.moved = false, true
	r, err := d.sendSpace(ctx, n)
	switch {
	case err != nil || !r.checked:
		return err
	case r.sense.Key == scsi.KeyBlankCheck:
		return ErrEndOfData
	case r.sense.EndOfMedium:
		return d.fail("space on tape", cairn.KindNotFound, "", errors.New("beginning of the partition"))
	}
	return nil
}

func (d *SCSI) sendSpace(ctx context.Context, n int) (reply, error) {
	const op = "space on tape"
	if !d.oldForms {
		r, err := d.do(ctx, op, scsi.Command{CDB: scsi.SpaceFilemarks16(n)})
		if codeOf(err) != senseUnknownOpcode {
			return r, err
		}
		d.oldForms = true
	}
	return d.do(ctx, op, scsi.Command{CDB: scsi.SpaceFilemarks6(n)})
}

// Read reads one record.
func (d *SCSI) Read(ctx context.Context, p []byte) (int, error) {
	const op = "read tape record"
	p = p[:min(len(p), d.maxBlock)]
	at, sure := d.next, d.sure
	d.sure = false
	r, err := d.do(ctx, op, scsi.Command{CDB: scsi.Read(len(p)), In: p})
	if err != nil {
		return 0, err
	}
	n := len(p)
	if r.checked {
		switch s := r.sense; {
		case s.Key == scsi.KeyBlankCheck:
			return 0, ErrEndOfData
		case s.Filemark:
			d.next, d.sure = at+1, sure
			return 0, ErrFilemark
		case s.WrongLength && s.Known && s.Missing < 0:
			return 0, d.fail(op, cairn.KindInvalid, "", fmt.Errorf("it has %d bytes, at most %d were expected", int64(n)-s.Missing, n))
		case s.WrongLength && s.Known:
			n -= int(min(s.Missing, int64(n)))
		case s.WrongLength:
			n = r.received
		}
	}
	d.next, d.sure = at+1, sure
	if sure {
		d.remember(at, p[:n])
	}
	return n, nil
}

// mayWrite refuses what must not be written.
func (d *SCSI) mayWrite(op string) error {
	if d.fence != nil {
		return d.fence
	}
	if d.protected {
		return d.fail(op, cairn.KindPermission, "move the tab of the cartridge, or use another", errors.New("the medium is write protected"))
	}
	if d.opt.ReadOnly || d.opt.Look {
		return d.fail(op, cairn.KindPermission, "", errors.New("the drive was opened for reading"))
	}
	return nil
}

// beforeWrite asks a drive in append-only mode for leave to overwrite, too.
func (d *SCSI) beforeWrite(ctx context.Context, op string) error {
	if err := d.mayWrite(op); err != nil {
		return err
	}
	if !d.appendOnly || !d.moved {
		return nil
	}
	at, err := d.Position(ctx)
	if err != nil {
		return err
	}
	_, err = d.do(ctx, op, scsi.Command{CDB: scsi.AllowOverwrite(byte(at.Partition), at.Block)})
	return err
}

// Write writes one record.
func (d *SCSI) Write(ctx context.Context, p []byte) (Warning, error) {
	const op = "write tape record"
	if len(p) == 0 || len(p) > d.maxBlock {
		return 0, d.fail(op, cairn.KindInvalid, "", fmt.Errorf("a record of %d bytes, the drive takes 1 to %d", len(p), d.maxBlock))
	}
	if err := d.beforeWrite(ctx, op); err != nil {
		return 0, err
	}
	d.moved, d.wrote = false, true
	r, err := d.write(ctx, op, scsi.Command{CDB: scsi.Write(len(p)), Out: p}, 1)
	if err != nil {
		return EarlyWarning, err
	}
	if d.sure {
		d.remember(d.next-1, p)
	}
	return warningOf(r), nil
}

// writeOnce carries a command that writes n blocks at a known block. Near the end,
// drives answer as if it had not been carried out, or not in full, when it was: with
// an early warning as a unit attention, with a wrong count. Their position tells.
func (d *SCSI) writeOnce(ctx context.Context, op string, c scsi.Command, at uint64, n int) (reply, error) {
	r, err := d.do(ctx, op, c)
	attention := codeOf(err) == senseEarlyAttention
	short := err == nil && r.checked && r.sense.EndOfMedium && r.sense.Key <= scsi.KeyRecovered && r.sense.Known && r.sense.Missing > 0
	if !attention && !short {
		return r, err
	}
	warned := reply{checked: true, sense: scsi.Sense{EndOfMedium: true}}
	now, err := d.Position(ctx)
	switch {
	case err != nil:
		return r, err
	case now.Block == at+uint64(n):
		return warned, nil
	case attention && now.Block == at:
		if r, err = d.do(ctx, op, c); err == nil && !r.checked {
			return warned, nil
		}
		return r, err
	}
	return r, d.fail(op, cairn.KindSpace, "", fmt.Errorf("the end of the medium is near, and block %d was not written", now.Block))
}

// write carries a command that writes n blocks where the drive stands.
func (d *SCSI) write(ctx context.Context, op string, c scsi.Command, n int) (reply, error) {
	at, sure := d.next, d.sure
	d.sure = false
	var r reply
	var err error
	if sure && n > 0 {
		r, err = d.writeOnce(ctx, op, c, at, n)
	} else {
		r, err = d.do(ctx, op, c)
	}
	if err == nil && r.checked && r.sense.Key == scsi.KeyVolumeOverflow {
		err = d.fail(op, cairn.KindSpace, "", fmt.Errorf("end of medium (sense %s)", r.sense))
	}
	if err != nil {
		return r, err
	}
	d.next, d.sure = at+uint64(n), sure
	return r, nil
}

func warningOf(r reply) Warning {
	switch {
	case !r.checked || r.sense.Key > scsi.KeyRecovered:
		return NoWarning
	case r.sense.ASC == 0 && r.sense.ASCQ == 0x07:
		return LowSpace
	case r.sense.EndOfMedium:
		return EarlyWarning
	}
	return NoWarning
}

// WriteFilemarks writes filemarks, or with n of 0 flushes.
func (d *SCSI) WriteFilemarks(ctx context.Context, n int, immediate bool) error {
	const op = "write filemark to tape"
	if n > 0 || d.wrote {
		if err := d.beforeWrite(ctx, op); err != nil {
			return err
		}
	}
	if n > 0 {
		d.moved, d.wrote = false, true
	}
	if _, err := d.write(ctx, op, scsi.Command{CDB: scsi.WriteFilemarks(n, immediate && n > 0)}, n); err != nil {
		return err
	}
	if !immediate {
		d.wrote = false
	}
	return nil
}

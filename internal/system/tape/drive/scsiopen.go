package drive

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"cairn"
	"cairn/internal/mech/scsi"
)

const (
	opOpen        = "open tape drive"
	pageMedium    = 0x11 // medium partition
	pageCompress  = 0x0f // data compression
	pageConfigure = 0x10 // device configuration; subpage 1 is its extension
)

// OpenSCSI makes a drive of what a transport leads to: it waits until the medium is
// ready, asks what drive and medium can do, and, for writing, reserves the drive
// and locks the medium. The transport is closed on failure, too. KindInvalid when it
// is no tape drive, KindNotFound without a medium, KindBusy when another machine has
// reserved it.
func OpenSCSI(ctx context.Context, t scsi.Transport, name string, o SCSIOptions) (*SCSI, error) {
	d := &SCSI{transport: t, name: name, opt: o, log: o.Logger, limits: map[byte]time.Duration{}, partitions: 1}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	if err := d.open(ctx); err != nil {
		if d.held != notReserved || d.locked {
			return nil, errors.Join(err, d.Close())
		}
		return nil, errors.Join(err, t.Close())
	}
	return d, nil
}

func (d *SCSI) open(ctx context.Context) error {
	if err := d.identify(ctx); err != nil {
		return err
	}
	if err := d.ready(ctx); err != nil {
		return err
	}
	if !d.opt.ReadOnly && !d.opt.Look {
		if err := d.take(ctx); err != nil {
			return err
		}
	}
	if err := d.learnLimits(ctx); err != nil {
		return err
	}
	if err := d.learnMedium(ctx); err != nil {
		return err
	}
	d.seen.serial = d.mediumSerial(ctx)
	return nil
}

func (d *SCSI) identify(ctx context.Context) error {
	b, err := d.ask(ctx, opOpen, scsi.Inquiry(0, 96), 96)
	if err != nil {
		return err
	}
	id, ok := scsi.ParseInquiry(b)
	if !ok || id.Type != scsi.TypeTape {
		return d.fail(opOpen, cairn.KindInvalid, "cairn tape list shows the drives", errors.New("it is not a tape drive"))
	}
	d.identity = id
	switch b, err := d.ask(ctx, opOpen, scsi.Inquiry(0x80, 252), 252); {
	case err == nil:
		d.serial = scsi.ParseSerial(b)
	case codeOf(err) < 0:
		return err
	}
	return nil
}

// ready waits until the medium can be used. What the drive has to say about the
// time before is of no interest here.
func (d *SCSI) ready(ctx context.Context) error {
	until := time.Now().Add(scsi.Limit(scsi.OpLoadUnload))
	for attentions, loaded := 0, false; ; {
		r, err := d.exchange(ctx, opOpen, scsi.Command{CDB: scsi.TestUnitReady()})
		if err != nil || !r.checked {
			return err
		}
		switch code := r.sense.Code(); {
		case r.sense.Key == scsi.KeyAttention && attentions < maxRepeats:
			attentions++
		case code == senseBecomingReady && !d.opt.Look && time.Now().Before(until):
			if err := pause(ctx, busyPause); err != nil {
				return d.fail(opOpen, cairn.KindCanceled, "", err)
			}
		case code == senseNeedsLoading && !d.opt.Look && !loaded:
			loaded = true
			if _, err := d.exchange(ctx, "load medium", scsi.Command{CDB: scsi.Load()}); err != nil {
				return err
			}
		default:
			return d.senseFailure(opOpen, scsi.TestUnitReady(), r.sense)
		}
	}
}

// learnLimits raises the limits of commands that this drive says take longer than
// drives we know.
func (d *SCSI) learnLimits(ctx context.Context) error {
	b, err := d.ask(ctx, opOpen, scsi.ReportOpcodes(16<<10), 16<<10)
	if err != nil {
		return unlessRefused(err)
	}
	for op, needs := range scsi.ParseTimeouts(b) {
		d.limits[op] = max(scsi.Limit(op), needs+time.Minute)
	}
	return nil
}

// unlessRefused forgives what a drive does not know or take.
func unlessRefused(err error) error {
	if code := codeOf(err); code >= 0 && code>>16 == scsi.KeyIllegal {
		return nil
	}
	return err
}

// learnMedium asks what records and partitions there are, and sets the drive to
// records of any length.
func (d *SCSI) learnMedium(ctx context.Context) error {
	limits, err := d.ask(ctx, opOpen, scsi.ReadBlockLimits(), 6)
	if err != nil {
		return err
	}
	d.maxBlock = d.transport.MaxTransfer()
	if n := scsi.ParseBlockLimits(limits); n > 0 {
		d.maxBlock = min(d.maxBlock, n)
	}
	mode, err := d.mode(ctx, pageCompress, 0)
	if err != nil {
		return err
	}
	d.protected, d.density = mode.Protected, mode.Density
	if !d.opt.Look {
		if err := d.setMode(ctx, mode); err != nil {
			return err
		}
	}
	if err := d.countPartitions(ctx); err != nil {
		return err
	}
	return d.learnAppending(ctx)
}

// mode asks for a mode page; for one that the drive does not have it is without.
func (d *SCSI) mode(ctx context.Context, page, subpage byte) (scsi.Mode, error) {
	b, err := d.ask(ctx, opOpen, scsi.ModeSense(page, subpage, 252), 252)
	if err != nil && unlessRefused(err) == nil {
		b, err = d.ask(ctx, opOpen, scsi.ModeSense(0, 0, 252), 252)
		if err == nil {
			m, _ := scsi.ParseMode(b)
			m.Page = nil
			return m, nil
		}
	}
	if err != nil {
		return scsi.Mode{}, err
	}
	m, ok := scsi.ParseMode(b)
	if !ok {
		return m, d.fail(opOpen, cairn.KindIO, "", fmt.Errorf("MODE SENSE(10): %d bytes make no sense", len(b)))
	}
	return m, nil
}

func (d *SCSI) selectMode(ctx context.Context, page []byte) error {
	list := scsi.VariableBlocks(d.density, page)
	_, err := d.do(ctx, opOpen, scsi.Command{CDB: scsi.ModeSelect(uint16(len(list))), Out: list})
	return err
}

// setMode asks for records of any length, and for compression where the drive can.
func (d *SCSI) setMode(ctx context.Context, mode scsi.Mode) error {
	page := slices.Clone(mode.Page)
	if len(page) >= 4 && page[0]&0x3f == pageCompress && page[2]&0x40 != 0 {
		page[0] &= 0x3f
		page[2] |= 0x80 // compress what is written; what is read is always decompressed
		if err := d.selectMode(ctx, page); unlessRefused(err) != nil || err == nil {
			return err
		}
	}
	return d.selectMode(ctx, nil)
}

func (d *SCSI) countPartitions(ctx context.Context) error {
	m, err := d.mode(ctx, pageMedium, 0)
	if err != nil {
		return err
	}
	d.partitions = 1
	if len(m.Page) >= 4 && m.Page[0]&0x3f == pageMedium {
		d.partitions = 1 + int(m.Page[3])
	}
	return nil
}

// learnAppending finds out whether somebody left the drive in its append-only mode.
func (d *SCSI) learnAppending(ctx context.Context) error {
	m, err := d.mode(ctx, pageConfigure, 1)
	if err != nil {
		return err
	}
	d.appendOnly = len(m.Page) >= 6 && m.Page[0]&0x7f == pageConfigure|0x40 && m.Page[1] == 1 && m.Page[5]>>4 == 1
	return nil
}

// reservation is how the drive is kept from other machines.
type reservation uint8

const (
	notReserved reservation = iota
	reservedByKey
	reservedOld // RESERVE(6): the drive knows no keys
)

// take reserves the drive, where it can be, and locks the medium in it.
func (d *SCSI) take(ctx context.Context) error {
	if err := d.reserve(ctx); err != nil {
		return err
	}
	if _, err := d.do(ctx, "lock medium", scsi.Command{CDB: scsi.PreventRemoval(true)}); err != nil {
		return unlessRefused(err)
	}
	d.locked = true
	return nil
}

func (d *SCSI) persistent(ctx context.Context, action byte, ours, about uint64) error {
	_, err := d.do(ctx, "reserve tape drive", scsi.Command{CDB: scsi.PersistentOut(action), Out: scsi.PersistentKeys(ours, about)})
	return err
}

func (d *SCSI) reserve(ctx context.Context) error {
	err := d.persistent(ctx, scsi.PersistentRegister, 0, d.opt.Key)
	if unlessRefused(err) == nil && err != nil {
		return d.reserveOld(ctx)
	}
	if err == nil {
		err = d.persistent(ctx, scsi.PersistentReserve, d.opt.Key, 0)
	}
	if errors.Is(err, errConflict) {
		err = d.takeOver(ctx)
	}
	if err == nil {
		d.held = reservedByKey
	}
	return err
}

func (d *SCSI) reserveOld(ctx context.Context) error {
	_, err := d.do(ctx, "reserve tape drive", scsi.Command{CDB: scsi.Reserve()})
	if err == nil {
		d.held = reservedOld
	}
	return unlessRefused(err)
}

// takeOver replaces a reservation that this machine left behind, on another path or
// before it went down; those of others stand.
func (d *SCSI) takeOver(ctx context.Context) error {
	b, err := d.ask(ctx, "reserve tape drive", scsi.PersistentIn(256), 256)
	if err != nil {
		return err
	}
	holder := scsi.ParseReservation(b)
	if holder.Held && holder.Key != d.opt.Key {
		return d.fail("reserve tape drive", cairn.KindBusy, "wait for it, or release the drive there",
			fmt.Errorf("%w, with the key %016x", errConflict, holder.Key))
	}
	if holder.Held {
		return d.persistent(ctx, scsi.PersistentPreemptAbort, d.opt.Key, d.opt.Key)
	}
	return d.persistent(ctx, scsi.PersistentReserve, d.opt.Key, 0)
}

// giveBack releases the drive.
func (d *SCSI) giveBack(ctx context.Context) error {
	held := d.held
	d.held = notReserved
	switch held {
	case reservedOld:
		_, err := d.exchange(ctx, "release tape drive", scsi.Command{CDB: scsi.Release()})
		return err
	case reservedByKey:
		_, err := d.exchange(ctx, "release tape drive", scsi.Command{CDB: scsi.PersistentOut(scsi.PersistentRelease), Out: scsi.PersistentKeys(d.opt.Key, 0)})
		if err == nil {
			_, err = d.exchange(ctx, "release tape drive", scsi.Command{CDB: scsi.PersistentOut(scsi.PersistentRegister), Out: scsi.PersistentKeys(d.opt.Key, 0)})
		}
		return err
	}
	return nil
}

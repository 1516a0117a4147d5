package drive

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"cairn"
	"cairn/internal/mech/scsi"
)

// The attributes that the drive itself keeps (SPC-4): bytes are counted in MiB.
const (
	attrRemaining    = 0x0000
	attrMaximum      = 0x0001
	attrMediumSerial = 0x0401
)

// Format makes one or two partitions; everything on the medium is lost. The first
// of two is as small as the drive allows.
func (d *SCSI) Format(ctx context.Context, partitions int) error {
	const op = "format tape"
	if err := d.Locate(ctx, Position{}); err != nil && !errors.Is(err, ErrEndOfData) {
		return err
	}
	d.moved = false // formatting needs no leave to overwrite
	if err := d.beforeWrite(ctx, op); err != nil {
		return err
	}
	// Media that cannot be scaled refuse; they have their capacity anyway.
	if _, err := d.do(ctx, op, scsi.Command{CDB: scsi.SetCapacity(0xffff)}); unlessRefused(err) != nil {
		return err
	}
	how := byte(0)
	if partitions > 1 {
		if err := d.plan(ctx, partitions-1); err != nil {
			return err
		}
		how = 1
	}
	if _, err := d.do(ctx, op, scsi.Command{CDB: scsi.FormatMedium(how)}); err != nil {
		return err
	}
	if err := d.ready(ctx); err != nil {
		return err
	}
	d.seen.labels, d.wrote, d.sure = nil, false, false
	if err := d.countPartitions(ctx); err != nil {
		return err
	}
	if d.partitions != partitions {
		return d.fail(op, cairn.KindUnsupported, "", fmt.Errorf("the medium has %d partitions now, %d were asked for", d.partitions, partitions))
	}
	return d.selectMode(ctx, nil)
}

// plan tells the drive what partitions FORMAT MEDIUM is to make: 1 GB for the
// index, which drives round up to their least, and the rest.
func (d *SCSI) plan(ctx context.Context, additional int) error {
	m, err := d.mode(ctx, pageMedium, 0)
	if err != nil {
		return err
	}
	if len(m.Page) < 12 || m.Page[0]&0x3f != pageMedium || int(m.Page[2]) < additional {
		return d.fail("format tape", cairn.KindUnsupported, "LTFS needs LTO-5 or newer, or a drive of another family with partitions",
			errors.New("this drive cannot make partitions on this medium"))
	}
	page := slices.Clone(m.Page[:12])
	const initiatorDefined, selectData, unitsByPower, onFormat = 0x20, 0x40, 0x18, 0x04
	page[0], page[1] = pageMedium, 10
	page[3], page[4] = byte(additional), initiatorDefined|unitsByPower|onFormat
	page[6] = page[6]&0xf0 | 9 // units of 10^9 bytes
	binary.BigEndian.PutUint16(page[8:], 1)
	binary.BigEndian.PutUint16(page[10:], 0xffff)
	err = d.selectMode(ctx, page)
	if codeOf(err) != senseUnknownParameter {
		return err
	}
	page[4] = selectData | onFormat // this drive chooses the sizes itself
	return d.selectMode(ctx, page)
}

// Erase overwrites everything on the medium, in one partition. It takes hours.
func (d *SCSI) Erase(ctx context.Context) error {
	if err := d.Format(ctx, 1); err != nil {
		return err
	}
	if err := d.Locate(ctx, Position{}); err != nil && !errors.Is(err, ErrEndOfData) {
		return err
	}
	_, err := d.do(ctx, "erase tape", scsi.Command{CDB: scsi.Erase(true)})
	return err
}

// Attribute reads a medium attribute.
func (d *SCSI) Attribute(ctx context.Context, part int, id uint16) ([]byte, error) {
	const op, room = "read tape attribute", 8 << 10
	b, err := d.ask(ctx, op, scsi.ReadAttribute(byte(part), id, room), room)
	missing := d.fail(op, cairn.KindNotFound, "", fmt.Errorf("partition %d has no attribute %04x", part, id))
	if code := codeOf(err); code == senseNoAttribute || code == senseUnknownOpcode {
		return nil, missing
	}
	if err != nil {
		return nil, err
	}
	if list := scsi.ParseReadAttribute(b); len(list) > 0 && list[0].ID == id {
		return list[0].Value, nil
	}
	return nil, missing
}

// SetAttribute writes a medium attribute; an empty value removes it.
func (d *SCSI) SetAttribute(ctx context.Context, part int, id uint16, format byte, value []byte) error {
	const op = "write tape attribute"
	if err := d.mayWrite(op); err != nil {
		return err
	}
	item := scsi.Attribute{ID: id, Format: format, Value: value}.Append(nil)
	list := append(binary.BigEndian.AppendUint32(nil, uint32(len(item))), item...)
	_, err := d.do(ctx, op, scsi.Command{CDB: scsi.WriteAttribute(byte(part), uint32(len(list))), Out: list})
	return err
}

// mediumSerial is empty where there is none.
func (d *SCSI) mediumSerial(ctx context.Context) string {
	v, err := d.Attribute(ctx, 0, attrMediumSerial)
	if err != nil {
		return ""
	}
	return strings.TrimRight(string(v), " \x00")
}

// The log pages and parameters of room (SSC-4, LTO drives).
const (
	pageVolume     = 0x17 // parameters of partitions, in units of 10^6 bytes
	nativeCapacity = 0x0202
	nativeLeft     = 0x0204
	pageTapeRoom   = 0x31 // parameters 1, 2: room left of partition 0, 1; 3, 4: in all; MiB
	pageAlerts     = 0x2e
	megabyte       = 1000 * 1000
	mebibyte       = 1 << 20
)

// Capacity tells the room of a partition, by the first way that the drive knows.
func (d *SCSI) Capacity(ctx context.Context, part int) (Capacity, error) {
	const op = "tell capacity of tape"
	if part < 0 || part >= d.partitions {
		return Capacity{}, d.fail(op, cairn.KindInvalid, "", fmt.Errorf("there is no partition %d", part))
	}
	for _, way := range []func(context.Context, int) (Capacity, bool, error){d.volumeRoom, d.tapeRoom, d.attributeRoom} {
		if c, told, err := way(ctx, part); told || err != nil {
			return c, err
		}
	}
	return Capacity{}, nil
}

// logPage is nil when the drive does not have it.
func (d *SCSI) logPage(ctx context.Context, page byte) (map[uint16][]byte, error) {
	b, err := d.ask(ctx, "read log of tape drive", scsi.LogSense(page, 8<<10), 8<<10)
	if err != nil {
		return nil, unlessRefused(err)
	}
	values, _ := scsi.ParseLog(page, b)
	return values, nil
}

func (d *SCSI) volumeRoom(ctx context.Context, part int) (Capacity, bool, error) {
	log, err := d.logPage(ctx, pageVolume)
	total, known := scsi.ParsePartitions(log[nativeCapacity])[part]
	left, knownLeft := scsi.ParsePartitions(log[nativeLeft])[part]
	return Capacity{Total: int64(total) * megabyte, Remaining: int64(left) * megabyte}, known && knownLeft, err
}

func (d *SCSI) tapeRoom(ctx context.Context, part int) (Capacity, bool, error) {
	log, err := d.logPage(ctx, pageTapeRoom)
	left, total := log[uint16(1+part)], log[uint16(3+part)]
	if len(left) != 4 || len(total) != 4 {
		return Capacity{}, false, err
	}
	return Capacity{Total: int64(binary.BigEndian.Uint32(total)) * mebibyte, Remaining: int64(binary.BigEndian.Uint32(left)) * mebibyte}, true, nil
}

func (d *SCSI) attributeRoom(ctx context.Context, part int) (Capacity, bool, error) {
	left, err := d.Attribute(ctx, part, attrRemaining)
	if err != nil || len(left) != 8 {
		return Capacity{}, false, unlessMissing(err)
	}
	total, err := d.Attribute(ctx, part, attrMaximum)
	if err != nil || len(total) != 8 {
		return Capacity{}, false, unlessMissing(err)
	}
	return Capacity{Total: int64(binary.BigEndian.Uint64(total)) * mebibyte, Remaining: int64(binary.BigEndian.Uint64(left)) * mebibyte}, true, nil
}

func unlessMissing(err error) error {
	if errors.Is(err, cairn.KindNotFound) {
		return nil
	}
	return err
}

// Alerts are the numbers of the TapeAlert flags that are raised, in order; a drive
// that has none raises none.
func (d *SCSI) Alerts(ctx context.Context) ([]int, error) {
	log, err := d.logPage(ctx, pageAlerts)
	var raised []int
	for number, v := range log {
		if len(v) == 1 && v[0]&1 != 0 {
			raised = append(raised, int(number))
		}
	}
	slices.Sort(raised)
	return raised, err
}

// MediumType is what the drive calls the density of the medium, empty when it does
// not say.
func (d *SCSI) MediumType(ctx context.Context) (string, error) {
	b, err := d.ask(ctx, "ask for the type of the medium", scsi.ReportDensity(true, 512), 512)
	if err != nil {
		return "", unlessRefused(err)
	}
	name, description := scsi.ParseDensity(b)
	return strings.TrimSpace(name + " " + description), nil
}

// Protected tells whether the medium refuses to be written.
func (d *SCSI) Protected() bool { return d.protected }

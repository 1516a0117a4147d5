package scsitape

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"

	"cairn"
	"cairn/internal/mech/scsi"
	"cairn/internal/system/tape/drive"
)

// medium carries out what is about the medium.
func (d *Drive) medium(c scsi.Command) (*Answer, int, bool) {
	ctx, b := context.Background(), c.CDB
	if slices.Contains([]byte{0x04, 0x0a, 0x0b, 0x10, 0x19, 0x8d}, b[0]) && d.Protected {
		return check(0x072700), 0, true
	}
	switch b[0] {
	case 0x01:
		return d.answer(d.Tape.Locate(ctx, drive.Position{}), 0), 0, true
	case 0x04:
		return d.format(ctx, b[2]), 0, true
	case 0x08:
		return d.read(ctx, c)
	case 0x0a:
		return d.write(ctx, c), 0, true
	case 0x0b:
		return good, 0, true
	case 0x10:
		return d.answer(d.Tape.WriteFilemarks(ctx, u24(b[2:]), b[1]&1 != 0), 0), 0, true
	case 0x11:
		n := u24(b[2:])
		if n >= 1<<23 {
			n -= 1 << 24
		}
		return d.space(ctx, b[1]&7, n), 0, true
	case 0x91:
		return d.space(ctx, b[1]&15, int(int64(binary.BigEndian.Uint64(b[4:])))), 0, true
	case 0x19:
		return d.answer(d.Tape.Format(ctx, d.Tape.Partitions()), 0), 0, true
	case 0x2b:
		return d.locate(ctx, b[1], b[8], uint64(binary.BigEndian.Uint32(b[3:]))), 0, true
	case 0x92:
		return d.locate(ctx, b[1], b[3], binary.BigEndian.Uint64(b[4:])), 0, true
	case 0x34:
		return d.position(ctx, c)
	case 0x82:
		d.Leave = b[2]&15 == 1
		return good, 0, true
	case 0x8c:
		return d.readAttribute(ctx, c)
	case 0x8d:
		return d.writeAttribute(ctx, b, c.Out), 0, true
	}
	return nil, 0, false
}

// answer is the sense for what the medium says.
func (d *Drive) answer(err error, asked int) *Answer {
	switch {
	case err == nil:
		return good
	case errors.Is(err, drive.ErrFilemark):
		return &Answer{Sense: 0x000001, Flags: 0x80, Info: int32(asked), HasInfo: true}
	case errors.Is(err, drive.ErrEndOfData):
		return &Answer{Sense: 0x080005, Info: int32(asked), HasInfo: true}
	case errors.Is(err, cairn.KindSpace):
		return &Answer{Sense: 0x0d0002, Flags: 0x40, Info: int32(asked), HasInfo: true}
	case errors.Is(err, cairn.KindNotFound):
		return &Answer{Sense: 0x000004, Flags: 0x40}
	case errors.Is(err, cairn.KindDamaged):
		return check(0x031100)
	case errors.Is(err, cairn.KindInvalid):
		return badField
	}
	return check(0x044400)
}

func (d *Drive) format(ctx context.Context, how byte) *Answer {
	at, err := d.Tape.Position(ctx)
	if err != nil || at != (drive.Position{}) {
		return check(0x053b00)
	}
	n := 1
	if how > 0 {
		n += d.planned
	}
	return d.answer(d.Tape.Format(ctx, n), 0)
}

func (d *Drive) read(ctx context.Context, c scsi.Command) (*Answer, int, bool) {
	asked := u24(c.CDB[2:])
	if d.record == nil {
		d.record = make([]byte, 8<<20)
	}
	n, err := d.Tape.Read(ctx, d.record)
	if err != nil {
		return d.answer(err, asked), 0, true
	}
	copied := copy(c.In[:min(asked, len(c.In))], d.record[:n])
	if n == asked {
		return good, copied, true
	}
	return &Answer{Flags: 0x20, Info: int32(asked - n), HasInfo: true}, copied, true
}

func (d *Drive) write(ctx context.Context, c scsi.Command) *Answer {
	if u24(c.CDB[2:]) != len(c.Out) || len(c.Out) == 0 {
		return badField
	}
	if d.Append && !d.Leave {
		if end, err := d.atEnd(ctx); err != nil || !end {
			return check(0x035000)
		}
	}
	d.Leave = false
	warning, err := d.Tape.Write(ctx, c.Out)
	switch {
	case err != nil:
		return d.answer(err, len(c.Out))
	case warning == drive.EarlyWarning:
		return &Answer{Sense: 0x000002, Flags: 0x40}
	}
	return good
}

func (d *Drive) atEnd(ctx context.Context) (bool, error) {
	at, err := d.Tape.Position(ctx)
	if err != nil {
		return false, err
	}
	end, err := d.Tape.SeekEnd(ctx, at.Partition)
	if err != nil {
		return false, nil
	}
	return end == at, d.Tape.Locate(ctx, at)
}

func (d *Drive) space(ctx context.Context, code byte, n int) *Answer {
	switch code {
	case 1:
		return d.answer(d.Tape.SpaceFilemarks(ctx, n), 0)
	case 3:
		at, err := d.Tape.Position(ctx)
		if err == nil {
			_, err = d.Tape.SeekEnd(ctx, at.Partition)
		}
		return d.answer(err, 0)
	}
	return badField
}

func (d *Drive) locate(ctx context.Context, flags, part byte, block uint64) *Answer {
	at, err := d.Tape.Position(ctx)
	if err != nil {
		return d.answer(err, 0)
	}
	if flags&2 != 0 {
		at.Partition = int(part)
	}
	if block >= 1<<32-1 && at.Partition < d.Tape.Partitions() {
		if _, err := d.Tape.SeekEnd(ctx, at.Partition); err != nil {
			return d.answer(err, 0)
		}
	}
	at.Block = block
	return d.answer(d.Tape.Locate(ctx, at), 0)
}

func (d *Drive) position(ctx context.Context, c scsi.Command) (*Answer, int, bool) {
	at, err := d.Tape.Position(ctx)
	if err != nil {
		return d.answer(err, 0), 0, true
	}
	switch form := c.CDB[1] & 0x1f; {
	case form == 6 && !d.Old:
		data := make([]byte, 32)
		binary.BigEndian.PutUint32(data[4:], uint32(at.Partition))
		binary.BigEndian.PutUint64(data[8:], at.Block)
		return give(c, data, 32)
	case form == 0:
		data := make([]byte, 20)
		data[1] = byte(at.Partition)
		binary.BigEndian.PutUint32(data[4:], uint32(at.Block))
		return give(c, data, 20)
	}
	return badField, 0, true
}

func (d *Drive) readAttribute(ctx context.Context, c scsi.Command) (*Answer, int, bool) {
	part, id := int(c.CDB[7]), uint16(u16(c.CDB[8:]))
	v := []byte(d.Serial)
	if id != 0x0401 {
		var err error
		if v, err = d.Tape.Attribute(ctx, part, id); err != nil {
			return badField, 0, true
		}
	}
	data := []byte{0, 0, byte((5 + len(v)) >> 8), byte(5 + len(v)), byte(id >> 8), byte(id), 0, byte(len(v) >> 8), byte(len(v))}
	return give(c, append(data, v...), int(binary.BigEndian.Uint32(c.CDB[10:])))
}

func (d *Drive) writeAttribute(ctx context.Context, b, list []byte) *Answer {
	if len(list) < 9 || int(binary.BigEndian.Uint32(list)) != len(list)-4 || u16(list[7:]) != len(list)-9 || b[1]&1 == 0 {
		return check(0x052600)
	}
	return d.answer(d.Tape.SetAttribute(ctx, int(b[7]), uint16(u16(list[4:])), list[6]&3, list[9:]), 0)
}

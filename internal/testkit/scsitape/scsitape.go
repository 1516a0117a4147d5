// Package scsitape is a SCSI tape drive for tests: it takes command blocks apart by
// itself, byte by byte, shares no code with package scsi's encoders, and carries
// them out on a medium in memory (package faketape). It answers as an LTO drive
// does: two partitions, medium attributes, log pages, unit attentions after power
// on, early warning, persistent reservations.
//
// It promises what the SCSI stream commands promise for the commands it knows and
// answers all others with ILLEGAL REQUEST, 20/00. What goes wrong is chosen by the
// test: Inject answers instead of the drive, Attend queues unit attentions, the
// exported fields set its state, and faketape's own faults become hardware errors.
package scsitape

import (
	"context"
	"encoding/binary"
	"slices"
	"sync"

	"cairn/internal/mech/scsi"
	"cairn/internal/testkit/faketape"
)

// Drive is the target: a device of package scsi.
type Drive struct {
	mu sync.Mutex // guards all below: a watched command may outlive its caller

	Tape      *faketape.Tape // nil: no medium
	Protected bool
	Unloaded  bool // the medium is in the drive, but needs LOAD
	Becoming  int  // so many TEST UNIT READY are answered with "becoming ready"
	Serial    string
	Old       bool            // without the 16 byte commands, READ POSITION long, attributes and keys
	Silent    bool            // its adapter loses sense data: the drive is to be asked
	Alerts    map[uint16]byte // TapeAlert flags
	Timeouts  map[byte]uint32 // seconds, for REPORT SUPPORTED OPERATION CODES
	Holder    uint64          // key of another machine's reservation
	Append    bool            // append-only mode
	Leave     bool            // ALLOW OVERWRITE was given
	Locked    bool            // the medium is in the drive
	Inject    func([]byte) *Answer
	Log       [][]byte // every command block

	attentions []uint32
	lastSense  []byte
	reserved   uint64 // key of ours
	oldHeld    bool
	planned    int
	compress   bool
	record     []byte // the one that is read
}

// Answer is what Inject gives instead of the drive: sense of 0xKKAAQQ, with the
// flags and the information of the fixed form.
type Answer struct {
	Status   byte
	Sense    uint32
	Flags    byte // 0x80 filemark, 0x40 end of medium, 0x20 wrong length
	Info     int32
	HasInfo  bool
	Deferred bool
	After    bool  // carry the command out first
	Fail     error // of the transport
}

// New is a drive with a blank medium, just switched on.
func New() *Drive {
	return &Drive{Tape: faketape.New(), Serial: "CAIRNTEST1", attentions: []uint32{0x062900}}
}

// Attend queues unit attentions, as 0x06AAQQ.
func (d *Drive) Attend(codes ...uint32) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.attentions = append(d.attentions, codes...)
}

// MaxTransfer is 1 MiB, as with generic SCSI nodes.
func (d *Drive) MaxTransfer() int { return 1 << 20 }

// Close does nothing.
func (d *Drive) Close() error { return nil }

// Seen counts the commands of an operation code.
func (d *Drive) Seen(op byte) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := 0
	for _, c := range d.Log {
		if c[0] == op {
			n++
		}
	}
	return n
}

func (a *Answer) result() scsi.Result {
	if a.Status != 0 {
		return scsi.Result{Status: scsi.Status(a.Status)}
	}
	sense := make([]byte, 18)
	sense[0], sense[7] = 0x70, 10
	if a.Deferred {
		sense[0] = 0x71
	}
	if a.HasInfo {
		sense[0] |= 0x80
		binary.BigEndian.PutUint32(sense[3:], uint32(a.Info))
	}
	sense[2] = byte(a.Sense>>16)&0x0f | a.Flags
	sense[12], sense[13] = byte(a.Sense>>8), byte(a.Sense)
	return scsi.Result{Status: scsi.CheckCondition, Sense: sense}
}

func check(code uint32) *Answer { return &Answer{Sense: code} }

var (
	badOpcode = check(0x052000)
	badField  = check(0x052400)
	good      *Answer
)

// Carry takes one command.
func (d *Drive) Carry(c scsi.Command) (scsi.Result, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.Log = append(d.Log, slices.Clone(c.CDB))
	if d.Inject != nil {
		if a := d.Inject(c.CDB); a != nil {
			if a.After {
				d.carry(c)
			}
			if a.Fail != nil {
				return scsi.Result{}, a.Fail
			}
			return a.result(), nil
		}
	}
	answer, n := d.carry(c)
	if answer == nil {
		return scsi.Result{Received: n}, nil
	}
	r := answer.result()
	r.Received = n
	if d.Silent {
		d.lastSense, r.Sense = r.Sense, nil
	}
	return r, nil
}

func (d *Drive) carry(c scsi.Command) (*Answer, int) {
	op := c.CDB[0]
	if op != 0x12 && op != 0x03 && len(d.attentions) > 0 {
		code := d.attentions[0]
		d.attentions = d.attentions[1:]
		return check(code), 0
	}
	if d.Holder != 0 && op != 0x12 && op != 0x03 && op != 0x00 && op != 0x5e && op != 0x5f {
		return &Answer{Status: 0x18}, 0
	}
	if d.Old && slices.Contains([]byte{0x91, 0x92, 0x8c, 0x8d, 0x5e, 0x5f, 0xa3, 0x44}, op) {
		return badOpcode, 0
	}
	if a := d.notReady(op); a != nil {
		return a, 0
	}
	if a, n, known := d.state(c); known {
		return a, n
	}
	if a, n, known := d.medium(c); known {
		return a, n
	}
	return badOpcode, 0
}

// notReady is the answer of a drive without a loaded medium to what needs one.
func (d *Drive) notReady(op byte) *Answer {
	if slices.Contains([]byte{0x03, 0x12, 0x1b, 0x5e, 0x5f, 0x16, 0x17, 0xa3, 0x4d, 0x5a, 0x05}, op) {
		return good
	}
	switch {
	case d.Tape == nil:
		return check(0x023a00)
	case d.Unloaded:
		return check(0x020402)
	case d.Becoming > 0:
		d.Becoming--
		return check(0x020401)
	}
	return good
}

// give copies an answer's data.
func give(c scsi.Command, data []byte, limit int) (*Answer, int, bool) {
	return good, copy(c.In, data[:min(len(data), limit)]), true
}

func u16(b []byte) int { return int(b[0])<<8 | int(b[1]) }
func u24(b []byte) int { return int(b[0])<<16 | int(b[1])<<8 | int(b[2]) }

// state answers what is about the drive.
func (d *Drive) state(c scsi.Command) (*Answer, int, bool) {
	b := c.CDB
	switch b[0] {
	case 0x00:
		return good, 0, true
	case 0x03:
		n := copy(c.In, d.lastSense)
		return good, n, true
	case 0x05:
		return give(c, []byte{0, 0x80, 0, 0, 0, 1}, 6)
	case 0x12:
		return give(c, d.inquiry(b), u16(b[3:]))
	case 0x1b:
		d.Unloaded = b[4]&1 == 0
		return good, 0, true
	case 0x1e:
		d.Locked = b[4]&3 == 1
		return good, 0, true
	case 0x16, 0x17:
		d.oldHeld = b[0] == 0x16
		return good, 0, true
	case 0x5e:
		return give(c, d.reservation(), u16(b[7:]))
	case 0x5f:
		return d.reserve(b[1]&0x1f, c.Out), 0, true
	case 0x4d:
		return d.logSense(c)
	case 0x5a:
		return d.modeSense(c)
	case 0x55:
		return d.modeSelect(c.Out), 0, true
	case 0x44:
		data := make([]byte, 4+52)
		data[1] = 54
		copy(data[4+24:], "U-518   Ultrium 5/16T       ")
		return give(c, data, u16(b[7:]))
	case 0xa3:
		return give(c, d.opcodes(), int(binary.BigEndian.Uint32(b[6:])))
	}
	return nil, 0, false
}

func (d *Drive) inquiry(b []byte) []byte {
	if b[1]&1 != 0 {
		return append([]byte{1, b[2], 0, byte(len(d.Serial))}, d.Serial...)
	}
	data := make([]byte, 36)
	data[0], data[1], data[2], data[3], data[4] = 1, 0x80, 6, 2, 31
	copy(data[8:], "CAIRN   TEST TAPE       0001")
	return data
}

func (d *Drive) reservation() []byte {
	key := max(d.Holder, d.reserved)
	if key == 0 {
		return make([]byte, 8)
	}
	data := make([]byte, 24)
	data[7] = 16
	binary.BigEndian.PutUint64(data[8:], key)
	data[21] = 3
	return data
}

func (d *Drive) reserve(action byte, keys []byte) *Answer {
	ours, about := binary.BigEndian.Uint64(keys), binary.BigEndian.Uint64(keys[8:])
	switch action {
	case 1:
		if d.Holder != 0 {
			return &Answer{Status: 0x18}
		}
		d.reserved = ours
	case 2:
		d.reserved = 0
	case 5:
		if about == d.Holder {
			d.Holder, d.reserved = 0, ours
		}
	}
	return good
}

func (d *Drive) opcodes() []byte {
	data := make([]byte, 4)
	for op, seconds := range d.Timeouts {
		one := make([]byte, 20)
		one[0], one[5], one[9] = op, 2, 10
		binary.BigEndian.PutUint32(one[16:], seconds)
		data = append(data, one...)
	}
	binary.BigEndian.PutUint32(data, uint32(len(data)-4))
	return data
}

func (d *Drive) logSense(c scsi.Command) (*Answer, int, bool) {
	page := c.CDB[2] & 0x3f
	data := []byte{page, 0, 0, 0}
	switch {
	case page == 0x2e:
		for flag := uint16(1); flag <= 64; flag++ {
			data = append(data, byte(flag>>8), byte(flag), 0, 1, d.Alerts[flag])
		}
	case page == 0x17 && !d.Old && d.Tape != nil:
		data = d.rooms(data)
	default:
		return badField, 0, true
	}
	binary.BigEndian.PutUint16(data[2:], uint16(len(data)-4))
	return give(c, data, u16(c.CDB[7:]))
}

// rooms are the partition records of the volume statistics: the capacity and what
// is left of it, in units of 10^6 bytes.
func (d *Drive) rooms(data []byte) []byte {
	for _, parameter := range []byte{2, 4} {
		data = append(data, 2, parameter, 3, byte(8*d.Tape.Partitions()))
		for part := range d.Tape.Partitions() {
			room, _ := d.Tape.Capacity(context.Background(), part)
			n := room.Total
			if parameter == 4 {
				n = room.Remaining
			}
			data = append(data, 7, 0, 0, byte(part))
			data = binary.BigEndian.AppendUint32(data, uint32(n/1000000))
		}
	}
	return data
}

func (d *Drive) modeSense(c scsi.Command) (*Answer, int, bool) {
	var page []byte
	switch u16(c.CDB[2:]) {
	case 0x0000:
	case 0x0f00:
		page = []byte{0x0f, 14, 0x40, 0x80, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0}
		if d.compress {
			page[2] |= 0x80
		}
	case 0x1100:
		page = []byte{0x11, 10, 1, 0, 0x3c, 3, 9, 0, 0, 1, 0xff, 0xff}
		if d.Tape != nil {
			page[3] = byte(d.Tape.Partitions() - 1)
		}
	case 0x1001:
		page = make([]byte, 32)
		page[0], page[1], page[3] = 0x50, 1, 28
		if d.Append {
			page[5] = 0x10
		}
	default:
		return badField, 0, true
	}
	data := []byte{0, 0, 0, 0x10, 0, 0, 0, 8, 0x58, 0, 0, 0, 0, 0, 0, 0}
	if d.Protected {
		data[3] |= 0x80
	}
	data = append(data, page...)
	binary.BigEndian.PutUint16(data, uint16(len(data)-2))
	return give(c, data, u16(c.CDB[7:]))
}

func (d *Drive) modeSelect(list []byte) *Answer {
	if len(list) < 16 || list[7] != 8 || u24(list[13:]) != 0 {
		return check(0x052600)
	}
	page := list[16:]
	switch {
	case len(page) == 0:
	case page[0] == 0x0f:
		d.compress = page[2]&0x80 != 0
	case page[0] == 0x11:
		if page[3] > 1 || page[4]&0xe0 != 0x20 || u16(page[8:]) != 1 || u16(page[10:]) != 0xffff {
			return check(0x052600)
		}
		d.planned = int(page[3])
	default:
		return check(0x052600)
	}
	return good
}

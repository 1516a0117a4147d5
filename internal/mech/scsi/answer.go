package scsi

import (
	"encoding/binary"
	"strings"
	"time"
)

// Identity is who a device says it is.
type Identity struct {
	Type                      byte // 1 is a tape drive
	Vendor, Product, Revision string
}

// TypeTape is the device type of tape drives.
const TypeTape = 1

// ParseInquiry reads the standard data of INQUIRY; false when it is too short.
func ParseInquiry(b []byte) (Identity, bool) {
	if len(b) < 36 {
		return Identity{}, false
	}
	return Identity{Type: b[0] & 0x1f, Vendor: text(b[8:16]), Product: text(b[16:32]), Revision: text(b[32:36])}, true
}

func text(b []byte) string { return strings.TrimRight(strings.TrimSpace(string(b)), "\x00") }

// ParseSerial reads the unit serial number, page 0x80 of INQUIRY.
func ParseSerial(b []byte) string {
	if len(b) < 4 {
		return ""
	}
	return text(b[4:min(len(b), 4+int(binary.BigEndian.Uint16(b[2:])))])
}

// ParseBlockLimits is the longest record of a drive in bytes, from READ BLOCK
// LIMITS; 0 when the answer is too short.
func ParseBlockLimits(b []byte) int {
	if len(b) < 6 {
		return 0
	}
	return int(b[1])<<16 | int(b[2])<<8 | int(b[3])
}

// Place is where a medium stands.
type Place struct {
	Partition    int
	Block        uint64
	Known        bool // the drive knows where it stands
	Beginning    bool // of the partition
	EarlyWarning bool // behind the early warning
	Programmable bool // behind the programmable early warning
}

// ParsePosition reads READ POSITION in the form that was asked for; false when it
// is too short.
func ParsePosition(form byte, b []byte) (Place, bool) {
	if form == PositionLong {
		if len(b) < 24 {
			return Place{}, false
		}
		return Place{Partition: int(binary.BigEndian.Uint32(b[4:])), Block: binary.BigEndian.Uint64(b[8:]), Known: b[0]&0x0c == 0,
			Beginning: b[0]&0x80 != 0, EarlyWarning: b[0]&0x40 != 0, Programmable: b[0]&0x01 != 0}, true
	}
	if len(b) < 20 {
		return Place{}, false
	}
	return Place{Partition: int(b[1]), Block: uint64(binary.BigEndian.Uint32(b[4:])), Known: b[0]&0x04 == 0,
		Beginning: b[0]&0x80 != 0, EarlyWarning: b[0]&0x40 != 0, Programmable: b[0]&0x01 != 0}, true
}

// Mode is an answer to MODE SENSE(10).
type Mode struct {
	Protected bool // the medium is write protected
	Buffered  bool // the drive reports writes when they are in its buffer
	Density   byte
	Page      []byte // with its header; nil when none was asked for
}

// ParseMode reads MODE SENSE(10); false when it is too short.
func ParseMode(b []byte) (Mode, bool) {
	if len(b) < 8 {
		return Mode{}, false
	}
	m := Mode{Protected: b[3]&0x80 != 0, Buffered: b[3]&0x70 != 0}
	n := int(binary.BigEndian.Uint16(b[6:]))
	end := min(len(b), 2+int(binary.BigEndian.Uint16(b)))
	if 8+n > end {
		return m, n == 0
	}
	if n >= 8 {
		m.Density = b[8]
	}
	m.Page = b[8+n : end]
	return m, true
}

// VariableBlocks is a parameter list for MODE SELECT(10) that asks for records of
// any length and for writes that are reported from the buffer, with a page behind
// it unless that is nil.
func VariableBlocks(density byte, page []byte) []byte {
	list := []byte{0, 0, 0, 0x10, 0, 0, 0, 8, density, 0, 0, 0, 0, 0, 0, 0}
	return append(list, page...)
}

// Attribute is an item of READ ATTRIBUTE.
type Attribute struct {
	ID     uint16
	Format byte // 0 binary, 1 ASCII, 2 text
	Value  []byte
}

// Append writes the item as the medium keeps it: id (2 bytes), format (1), length
// (2), value.
func (a Attribute) Append(to []byte) []byte {
	to = binary.BigEndian.AppendUint16(to, a.ID)
	to = append(to, a.Format)
	to = binary.BigEndian.AppendUint16(to, uint16(len(a.Value)))
	return append(to, a.Value...)
}

// ParseAttributes reads items one behind the other; false when the last one is
// cut off.
func ParseAttributes(b []byte) ([]Attribute, bool) {
	var list []Attribute
	for len(b) >= 5 {
		n := int(binary.BigEndian.Uint16(b[3:]))
		if len(b) < 5+n {
			return list, false
		}
		list = append(list, Attribute{ID: binary.BigEndian.Uint16(b), Format: b[2] & 3, Value: b[5 : 5+n]})
		b = b[5+n:]
	}
	return list, len(b) == 0
}

// ParseReadAttribute reads the answer to READ ATTRIBUTE: the length of what there
// is, then items, of which the last may be cut off.
func ParseReadAttribute(b []byte) []Attribute {
	if len(b) < 4 {
		return nil
	}
	list, _ := ParseAttributes(b[4:min(len(b), 4+int(min(binary.BigEndian.Uint32(b), 1<<24)))])
	return list
}

// ParseLog reads a log page: parameter code → value. False when it is not the
// page that was asked for.
func ParseLog(page byte, b []byte) (map[uint16][]byte, bool) {
	if len(b) < 4 || b[0]&0x3f != page {
		return nil, false
	}
	rest := b[4:min(len(b), 4+int(binary.BigEndian.Uint16(b[2:])))]
	values := map[uint16][]byte{}
	for len(rest) >= 4 && len(rest) >= 4+int(rest[3]) {
		n := 4 + int(rest[3])
		values[binary.BigEndian.Uint16(rest)] = rest[4:n]
		rest = rest[n:]
	}
	return values, true
}

// ParsePartitions reads a log value that is a list of records, one for each
// partition: partition number → value, in the units of the parameter.
func ParsePartitions(b []byte) map[int]uint32 {
	values := map[int]uint32{}
	for len(b) >= 8 && b[0] >= 7 && len(b) > int(b[0]) {
		values[int(binary.BigEndian.Uint16(b[2:]))] = binary.BigEndian.Uint32(b[4:])
		b = b[1+int(b[0]):]
	}
	return values
}

// Reservation is who holds the device.
type Reservation struct {
	Key  uint64
	Held bool
}

// ParseReservation reads PERSISTENT RESERVE IN.
func ParseReservation(b []byte) Reservation {
	if len(b) < 24 || binary.BigEndian.Uint32(b[4:]) < 16 {
		return Reservation{}
	}
	return Reservation{Key: binary.BigEndian.Uint64(b[8:]), Held: true}
}

// ParseDensity is the name and description of the first density in the answer to
// REPORT DENSITY SUPPORT.
func ParseDensity(b []byte) (name, description string) {
	if len(b) < 4+52 {
		return "", ""
	}
	return text(b[4+24 : 4+32]), text(b[4+32 : 4+52])
}

// ParseTimeouts reads which commands a device knows, with the time each may take
// by its own word; 0 when it does not say.
func ParseTimeouts(b []byte) map[byte]time.Duration {
	if len(b) < 4 {
		return nil
	}
	rest := b[4:min(len(b), 4+int(min(binary.BigEndian.Uint32(b), 1<<20)))]
	known := map[byte]time.Duration{}
	for len(rest) >= 8 {
		n, limit := 8, time.Duration(0)
		if rest[5]&2 != 0 && len(rest) >= 20 {
			n = 20
			limit = time.Duration(max(binary.BigEndian.Uint32(rest[12:]), binary.BigEndian.Uint32(rest[16:]))) * time.Second
		}
		known[rest[0]] = max(known[rest[0]], limit)
		rest = rest[n:]
	}
	return known
}

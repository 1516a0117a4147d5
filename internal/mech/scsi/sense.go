package scsi

import (
	"encoding/binary"
	"fmt"
)

// Status is the status byte of a command.
type Status byte

// The statuses (SAM-5).
const (
	Good           Status = 0x00
	CheckCondition Status = 0x02
	Busy           Status = 0x08
	Conflict       Status = 0x18 // reserved by another initiator
	TaskSetFull    Status = 0x28
)

// String names a status for messages.
func (s Status) String() string {
	switch s {
	case Good:
		return "good"
	case CheckCondition:
		return "check condition"
	case Busy:
		return "busy"
	case Conflict:
		return "reservation conflict"
	case TaskSetFull:
		return "task set full"
	}
	return fmt.Sprintf("status %02X", byte(s))
}

// The sense keys (SPC-4).
const (
	KeyNoSense        = 0x0
	KeyRecovered      = 0x1
	KeyNotReady       = 0x2
	KeyMedium         = 0x3
	KeyHardware       = 0x4
	KeyIllegal        = 0x5
	KeyAttention      = 0x6
	KeyDataProtect    = 0x7
	KeyBlankCheck     = 0x8
	KeyAborted        = 0xb
	KeyVolumeOverflow = 0xd
)

// Sense is what a device says about a command or its own state.
type Sense struct {
	Key, ASC, ASCQ byte
	Deferred       bool // about an earlier command; the present one was not carried out
	Filemark       bool
	EndOfMedium    bool // early warning while writing, the beginning while spacing backward
	WrongLength    bool // the record was not as long as asked for
	// Missing is by how many bytes or marks less was moved than asked for; negative
	// when the record was longer. Known says whether it is there.
	Missing int64
	Known   bool
}

// Code is the key with its additional codes as one number, 0xKKAAQQ.
func (s Sense) Code() int { return int(s.Key)<<16 | int(s.ASC)<<8 | int(s.ASCQ) }

// String writes the codes as the standards' tables do: "03/0C/00".
func (s Sense) String() string {
	text := fmt.Sprintf("%02X/%02X/%02X", s.Key, s.ASC, s.ASCQ)
	if s.Deferred {
		text += " deferred"
	}
	return text
}

// ParseSense reads sense data in fixed or descriptor form; false when it is
// neither, or too short for its key.
func ParseSense(b []byte) (Sense, bool) {
	if len(b) < 1 {
		return Sense{}, false
	}
	switch form := b[0] & 0x7f; form {
	case 0x70, 0x71:
		return parseFixed(b, form == 0x71)
	case 0x72, 0x73:
		return parseDescriptors(b, form == 0x73)
	}
	return Sense{}, false
}

func (s *Sense) flags(b byte) {
	s.Filemark, s.EndOfMedium, s.WrongLength = b&0x80 != 0, b&0x40 != 0, b&0x20 != 0
}

func parseFixed(b []byte, deferred bool) (Sense, bool) {
	if len(b) < 8 {
		return Sense{}, false
	}
	s := Sense{Key: b[2] & 0x0f, Deferred: deferred}
	s.flags(b[2])
	if b[0]&0x80 != 0 {
		s.Missing, s.Known = int64(int32(binary.BigEndian.Uint32(b[3:]))), true
	}
	if len(b) >= 14 {
		s.ASC, s.ASCQ = b[12], b[13]
	}
	return s, true
}

func parseDescriptors(b []byte, deferred bool) (Sense, bool) {
	if len(b) < 8 {
		return Sense{}, false
	}
	s := Sense{Key: b[1] & 0x0f, ASC: b[2], ASCQ: b[3], Deferred: deferred}
	rest := b[8:min(len(b), 8+int(b[7]))]
	for len(rest) >= 2 && len(rest) >= 2+int(rest[1]) {
		one := rest[:2+int(rest[1])]
		switch {
		case one[0] == 0x00 && len(one) >= 12 && one[2]&0x80 != 0:
			s.Missing, s.Known = int64(binary.BigEndian.Uint64(one[4:])), true
		case one[0] == 0x04 && len(one) >= 4:
			s.flags(one[3])
		}
		rest = rest[len(one):]
	}
	return s, true
}

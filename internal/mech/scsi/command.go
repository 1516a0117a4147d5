package scsi

import (
	"encoding/binary"
	"fmt"
	"time"
)

// The operation codes of the commands that are built here (SPC-4, SSC-4).
const (
	OpTestUnitReady     = 0x00
	OpRequestSense      = 0x03
	OpFormatMedium      = 0x04
	OpReadBlockLimits   = 0x05
	OpRead6             = 0x08
	OpWrite6            = 0x0a
	OpSetCapacity       = 0x0b
	OpWriteFilemarks6   = 0x10
	OpSpace6            = 0x11
	OpInquiry           = 0x12
	OpReserve6          = 0x16
	OpRelease6          = 0x17
	OpErase6            = 0x19
	OpLoadUnload        = 0x1b
	OpPreventRemoval    = 0x1e
	OpLocate10          = 0x2b
	OpReadPosition      = 0x34
	OpReportDensity     = 0x44
	OpLogSense          = 0x4d
	OpModeSelect10      = 0x55
	OpModeSense10       = 0x5a
	OpPersistentIn      = 0x5e
	OpPersistentOut     = 0x5f
	OpAllowOverwrite    = 0x82
	OpReadAttribute     = 0x8c
	OpWriteAttribute    = 0x8d
	OpSpace16           = 0x91
	OpLocate16          = 0x92
	OpMaintenanceIn     = 0xa3
	reportOpcodesAction = 0x0c
)

// command is what is known of an operation code: its name in messages and how
// long a device may take. The limits are the longer ones of LTO-5 and LTO-9 drives.
type command struct {
	name  string
	limit time.Duration
}

// DefaultLimit is how long a command may take that does not move the medium.
const DefaultLimit = time.Minute

var commands = map[byte]command{
	OpTestUnitReady: {"TEST UNIT READY", 0}, OpRequestSense: {"REQUEST SENSE", 0},
	OpFormatMedium: {"FORMAT MEDIUM", 3000 * time.Second}, OpReadBlockLimits: {"READ BLOCK LIMITS", 0},
	OpRead6: {"READ(6)", 2340 * time.Second}, OpWrite6: {"WRITE(6)", 1500 * time.Second}, OpSetCapacity: {"SET CAPACITY", 2940 * time.Second},
	OpWriteFilemarks6: {"WRITE FILEMARKS(6)", 1620 * time.Second}, OpSpace6: {"SPACE(6)", 2940 * time.Second}, OpInquiry: {"INQUIRY", 0},
	OpReserve6: {"RESERVE(6)", 0}, OpRelease6: {"RELEASE(6)", 0}, OpErase6: {"ERASE(6)", 74341 * time.Second},
	OpLoadUnload: {"LOAD UNLOAD", 960 * time.Second}, OpPreventRemoval: {"PREVENT ALLOW MEDIUM REMOVAL", 0},
	OpLocate10: {"LOCATE(10)", 2940 * time.Second}, OpReadPosition: {"READ POSITION", 0}, OpReportDensity: {"REPORT DENSITY SUPPORT", 0},
	OpLogSense: {"LOG SENSE", 0}, OpModeSelect10: {"MODE SELECT(10)", 0}, OpModeSense10: {"MODE SENSE(10)", 0},
	OpPersistentIn: {"PERSISTENT RESERVE IN", 0}, OpPersistentOut: {"PERSISTENT RESERVE OUT", 0}, OpAllowOverwrite: {"ALLOW OVERWRITE", 0},
	OpReadAttribute: {"READ ATTRIBUTE", 0}, OpWriteAttribute: {"WRITE ATTRIBUTE", 0}, OpSpace16: {"SPACE(16)", 2940 * time.Second},
	OpLocate16: {"LOCATE(16)", 2940 * time.Second}, OpMaintenanceIn: {"REPORT SUPPORTED OPERATION CODES", 0},
}

// Name is the command's name in the standards, the operation code in hex for
// others.
func Name(cdb []byte) string {
	if len(cdb) == 0 {
		return "no command"
	}
	if c, known := commands[cdb[0]]; known {
		return c.name
	}
	return fmt.Sprintf("command %02X", cdb[0])
}

// Limit is how long a command may take: longer than drives say they need.
func Limit(op byte) time.Duration { return max(DefaultLimit, commands[op].limit) }

func put24(b []byte, n int) { b[0], b[1], b[2] = byte(n>>16), byte(n>>8), byte(n) }

func bit(on bool, mask byte) byte {
	if on {
		return mask
	}
	return 0
}

// TestUnitReady asks whether a medium is loaded and ready.
func TestUnitReady() []byte { return make([]byte, 6) }

// RequestSense asks for n bytes of sense data.
func RequestSense(n byte) []byte { return []byte{OpRequestSense, 0, 0, 0, n, 0} }

// FormatMedium makes partitions: how is 0 for one, 1 for those of the medium
// partition mode page, 2 for one on which nothing else is left.
func FormatMedium(how byte) []byte { return []byte{OpFormatMedium, 0, how, 0, 0, 0} }

// ReadBlockLimits asks for the 6 bytes that ParseBlockLimits reads.
func ReadBlockLimits() []byte { return []byte{OpReadBlockLimits, 0, 0, 0, 0, 0} }

// Read reads one record of variable length into n bytes (less than 16 MiB). SILI is
// not set, so that the sense tells how much shorter a record is.
func Read(n int) []byte {
	c := []byte{OpRead6, 0, 0, 0, 0, 0}
	put24(c[2:], n)
	return c
}

// Write writes one record of n bytes (less than 16 MiB).
func Write(n int) []byte {
	c := []byte{OpWrite6, 0, 0, 0, 0, 0}
	put24(c[2:], n)
	return c
}

// SetCapacity gives the whole medium, or a 65535th part times proportion, back
// to use; it destroys what is on it.
func SetCapacity(proportion uint16) []byte {
	return []byte{OpSetCapacity, 0, 0, byte(proportion >> 8), byte(proportion), 0}
}

// WriteFilemarks writes n filemarks; without immediate it returns when all that
// was written is on the medium, with n of 0, too.
func WriteFilemarks(n int, immediate bool) []byte {
	c := []byte{OpWriteFilemarks6, bit(immediate, 1), 0, 0, 0, 0}
	put24(c[2:], n)
	return c
}

// SpaceFilemarks6 moves over filemarks, backward when n is negative, in the short
// form (24 bits).
func SpaceFilemarks6(n int) []byte {
	c := []byte{OpSpace6, 1, 0, 0, 0, 0}
	put24(c[2:], n)
	return c
}

// SpaceFilemarks16 moves over filemarks, backward when n is negative.
func SpaceFilemarks16(n int) []byte {
	c := make([]byte, 16)
	c[0], c[1] = OpSpace16, 1
	binary.BigEndian.PutUint64(c[4:], uint64(int64(n)))
	return c
}

// Inquiry asks for n bytes of what the device is; a page other than 0 is one of
// its vital product data.
func Inquiry(page byte, n uint16) []byte {
	return []byte{OpInquiry, bit(page != 0, 1), page, byte(n >> 8), byte(n), 0}
}

// Reserve keeps other initiators away from the device, Release ends that; for
// devices without persistent reservations.
func Reserve() []byte { return []byte{OpReserve6, 0, 0, 0, 0, 0} }

// Release ends a Reserve.
func Release() []byte { return []byte{OpRelease6, 0, 0, 0, 0, 0} }

// Erase erases from the position on; long the rest of the partition, else only
// what marks the end.
func Erase(long bool) []byte { return []byte{OpErase6, bit(long, 1), 0, 0, 0, 0} }

// Load loads the medium.
func Load() []byte { return []byte{OpLoadUnload, 0, 0, 0, 1, 0} }

// PreventRemoval locks the medium in the drive, or unlocks it.
func PreventRemoval(prevent bool) []byte {
	return []byte{OpPreventRemoval, 0, 0, 0, bit(prevent, 1), 0}
}

// Locate10 moves to a block of a partition in the short form (32 bits).
func Locate10(partition byte, block uint32) []byte {
	c := []byte{OpLocate10, 2, 0, 0, 0, 0, 0, 0, partition, 0}
	binary.BigEndian.PutUint32(c[3:], block)
	return c
}

// Locate16 moves to a block of a partition.
func Locate16(partition byte, block uint64) []byte {
	c := make([]byte, 16)
	c[0], c[1], c[3] = OpLocate16, 2, partition
	binary.BigEndian.PutUint64(c[4:], block)
	return c
}

// The forms of READ POSITION: of 20 and of 32 bytes.
const (
	PositionShort = 0
	PositionLong  = 6
)

// ReadPosition asks where the medium stands; form is one of the constants above.
func ReadPosition(form byte) []byte {
	return []byte{OpReadPosition, form, 0, 0, 0, 0, 0, 0, 0, 0}
}

// ReportDensity asks which densities the drive knows, or that of the medium.
func ReportDensity(ofMedium bool, n uint16) []byte {
	return []byte{OpReportDensity, bit(ofMedium, 1), 0, 0, 0, 0, 0, byte(n >> 8), byte(n), 0}
}

// LogSense asks for the cumulative values of a log page.
func LogSense(page byte, n uint16) []byte {
	return []byte{OpLogSense, 0, 0x40 | page, 0, 0, 0, 0, byte(n >> 8), byte(n), 0}
}

// ModeSense asks for a mode page and subpage, behind a header and a block
// descriptor.
func ModeSense(page, subpage byte, n uint16) []byte {
	return []byte{OpModeSense10, 0, page, subpage, 0, 0, 0, byte(n >> 8), byte(n), 0}
}

// ModeSelect sets mode pages from n bytes.
func ModeSelect(n uint16) []byte {
	return []byte{OpModeSelect10, 0x10, 0, 0, 0, 0, 0, byte(n >> 8), byte(n), 0}
}

// The service actions of persistent reservations.
const (
	PersistentReadReservation = 1
	PersistentReserve         = 1
	PersistentRelease         = 2
	PersistentPreemptAbort    = 5
	PersistentRegister        = 6 // whatever key was registered before
)

// exclusiveAccess is the type of reservation under which nobody else reads or
// writes.
const exclusiveAccess = 3

// PersistentIn asks for the reservation that is held.
func PersistentIn(n uint16) []byte {
	return []byte{OpPersistentIn, PersistentReadReservation, 0, 0, 0, 0, 0, byte(n >> 8), byte(n), 0}
}

// PersistentOut changes registration and reservation with the 24 bytes of
// PersistentKeys.
func PersistentOut(action byte) []byte {
	return []byte{OpPersistentOut, action, exclusiveAccess, 0, 0, 0, 0, 0, 24, 0}
}

// PersistentKeys is the parameter list of PersistentOut: our key, and the one
// that the action is about.
func PersistentKeys(ours, about uint64) []byte {
	p := make([]byte, 24)
	binary.BigEndian.PutUint64(p, ours)
	binary.BigEndian.PutUint64(p[8:], about)
	return p
}

// AllowOverwrite lets a drive in append-only mode overwrite once at a position.
func AllowOverwrite(partition byte, block uint64) []byte {
	c := make([]byte, 16)
	c[0], c[2], c[3] = OpAllowOverwrite, 1, partition
	binary.BigEndian.PutUint64(c[4:], block)
	return c
}

// ReadAttribute asks for a medium attribute and those behind it, n bytes at most.
func ReadAttribute(partition byte, id uint16, n uint32) []byte {
	c := make([]byte, 16)
	c[0], c[7] = OpReadAttribute, partition
	binary.BigEndian.PutUint16(c[8:], id)
	binary.BigEndian.PutUint32(c[10:], n)
	return c
}

// WriteAttribute writes n bytes of medium attributes through to the medium.
func WriteAttribute(partition byte, n uint32) []byte {
	c := make([]byte, 16)
	c[0], c[1], c[7] = OpWriteAttribute, 1, partition
	binary.BigEndian.PutUint32(c[10:], n)
	return c
}

// ReportOpcodes asks which commands the device knows and how long they take.
func ReportOpcodes(n uint32) []byte {
	c := make([]byte, 12)
	c[0], c[1], c[2] = OpMaintenanceIn, reportOpcodesAction, 0x80
	binary.BigEndian.PutUint32(c[6:], n)
	return c
}

package drive

import (
	"fmt"

	"cairn"
	"cairn/internal/mech/scsi"
)

// meaning is what sense data of a tape drive says to us.
type meaning struct {
	kind cairn.Kind
	text string
	hint string
}

// The codes that are acted on by themselves, as 0xKKAAQQ.
const (
	senseBecomingReady    = 0x020401
	senseNeedsLoading     = 0x020402
	senseEarlyAttention   = 0x060002
	senseUnknownOpcode    = 0x052000
	senseUnknownField     = 0x052400
	senseUnknownParameter = 0x052600
	senseWriteExcessive   = 0x030302
	senseWriteError       = 0x030c00
	senseNoAttribute      = senseUnknownField // what READ ATTRIBUTE says of one that is not there
)

const powerHint = "look at the drive's panel and at its alerts with cairn tape list"

// meanings are sorted from the exact code to the class: any ASCQ is the code with
// 0xff at its end, any ASC with 0xffff.
var meanings = map[int]meaning{
	senseBecomingReady: {cairn.KindUnavailable, "the drive is becoming ready", "wait a minute"},
	senseNeedsLoading:  {cairn.KindUnavailable, "the medium is in the drive, but not loaded", ""},
	0x023aff:           {cairn.KindNotFound, "there is no medium in the drive", "insert one"},
	0x02ffff:           {cairn.KindUnavailable, "the drive is not ready", powerHint},

	senseWriteExcessive: {cairn.KindIO, "the medium cannot be written here", "the tape can be read; write to another"},
	senseWriteError:     {cairn.KindIO, "the medium cannot be written here", "the tape can be read; write to another"},
	0x0311ff:            {cairn.KindIO, "the medium cannot be read here", "clean the drive, or read the tape in another one"},
	0x0330ff:            {cairn.KindUnsupported, "this drive cannot use this medium", "check the generations of drive and tape"},
	0x0350ff:            {cairn.KindIO, "records cannot be appended here", "cairn tape check says how the tape ends"},
	0x03ffff:            {cairn.KindIO, "the medium has an error", "clean the drive, or try the tape in another one"},

	0x041001: {cairn.KindIO, "a record arrived damaged at the drive", "check cables and adapter"},
	0x04ffff: {cairn.KindIO, "the drive has a fault", powerHint},

	senseUnknownOpcode:    {cairn.KindUnsupported, "the drive does not know the command", ""},
	senseUnknownField:     {cairn.KindInvalid, "the drive does not take a field of the command", ""},
	senseUnknownParameter: {cairn.KindInvalid, "the drive does not take a parameter of the command", ""},
	0x055302:              {cairn.KindBusy, "the medium is locked in the drive", "another program holds it there"},
	0x05ffff:              {cairn.KindInvalid, "the drive refuses the command", ""},

	senseEarlyAttention: {cairn.KindSpace, "the end of the medium is near", ""},
	0x0628ff:            {cairn.KindConflict, "the medium may have been changed", ""},
	0x0629ff:            {cairn.KindConflict, "the drive was reset; what it had in its buffer is lost", ""},
	0x062a03:            {cairn.KindConflict, "another machine took the drive", ""},
	0x062a04:            {cairn.KindConflict, "our reservation of the drive was released", ""},
	0x062a05:            {cairn.KindConflict, "another machine took the drive", ""},
	0x065a01:            {cairn.KindConflict, "somebody asked the drive to eject the medium", ""},
	0x06ffff:            {cairn.KindConflict, "the state of the drive has changed", ""},

	0x0727ff: {cairn.KindPermission, "the medium is write protected", "move the tab of the cartridge, or use another"},
	0x07300c: {cairn.KindPermission, "the medium can be written once only", ""},
	0x0750ff: {cairn.KindPermission, "the medium can be written once only", ""},
	0x0774ff: {cairn.KindAuth, "the medium is encrypted and the drive has no key", "set the key with the tool that wrote it"},
	0x07ffff: {cairn.KindPermission, "the medium is protected", ""},

	0x0bffff: {cairn.KindIO, "the command was aborted", "check cables and adapter"},
	0x0dffff: {cairn.KindSpace, "end of medium", ""},
}

// meaningOf looks a code up, from the exact one to its class.
func meaningOf(s scsi.Sense) meaning {
	code := s.Code()
	for _, wild := range []int{0, 0xff, 0xffff} {
		if m, known := meanings[code|wild]; known {
			return m
		}
	}
	return meaning{kind: cairn.KindIO, text: "the drive has an error"}
}

// senseError is sense data as the cause of an error.
type senseError struct {
	command string
	sense   scsi.Sense
	text    string
}

// Is tells an error of the medium that no repetition mends.
func (e *senseError) Is(target error) bool {
	code := e.sense.Code()
	return target == ErrUnwritable && (code == senseWriteExcessive || code == senseWriteError)
}

func (e *senseError) Error() string {
	text := fmt.Sprintf("%s: %s (sense %s)", e.command, e.text, e.sense)
	if e.sense.Deferred {
		text += "; it is about something written before"
	}
	return text
}

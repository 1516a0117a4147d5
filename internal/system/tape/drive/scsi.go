package drive

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"cairn"
	"cairn/internal/mech/scsi"
)

// SCSIOptions choose how a SCSI drive is used.
type SCSIOptions struct {
	ReadOnly bool
	// Look leaves the drive as it is: nothing is loaded, reserved or locked.
	Look bool
	// Key tells this machine's reservations of a drive from those of others.
	Key    uint64
	Logger *slog.Logger // may be nil
}

// SCSI is a tape drive that speaks the SCSI stream commands.
type SCSI struct {
	transport  scsi.Transport
	name       string
	opt        SCSIOptions
	log        *slog.Logger
	identity   scsi.Identity
	serial     string
	limits     map[byte]time.Duration // per operation code, longer than the drive's own
	maxBlock   int
	partitions int
	density    byte
	protected  bool // the medium is
	appendOnly bool // the drive asks for leave before it overwrites
	moved      bool // since Locate nothing was written: an overwriting needs leave
	wrote      bool // something is to be flushed at Close
	oldForms   bool // LOCATE(16) and SPACE(16) are not known
	shortTell  bool // READ POSITION in its long form is not known
	held       reservation
	locked     bool // the medium, in the drive
	fence      error
	seen       seenMedium
	part       int    // the partition that was located last
	next       uint64 // the block at which the drive stands, if sure
	sure       bool
}

// reply is how a command ended that the drive has answered.
type reply struct {
	received int
	sense    scsi.Sense
	checked  bool // there is sense: of no error, a recovered one, or the end of data or medium
}

// errConflict is a command refused because another machine has reserved the drive.
var errConflict = errors.New("another machine has reserved the drive")

// patience with a drive that says it is busy.
const (
	busyTries  = 60
	busyPause  = time.Second
	maxRepeats = 16 // of a command that unit attentions or deferred reports kept from being carried out
)

func (d *SCSI) fail(op string, kind cairn.Kind, hint string, err error) error {
	return &cairn.Error{Op: op, Subject: d.name, Kind: kind, Err: err, Hint: hint}
}

// senseFailure is the error that sense data means.
func (d *SCSI) senseFailure(op string, cdb []byte, s scsi.Sense) error {
	m := meaningOf(s)
	return d.fail(op, m.kind, m.hint, &senseError{command: scsi.Name(cdb), sense: s, text: m.text})
}

// codeOf is the sense code in an error's chain, -1 when there is none.
func codeOf(err error) int {
	var e *senseError
	if errors.As(err, &e) && !e.sense.Deferred {
		return e.sense.Code()
	}
	return -1
}

// pause waits, less when ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// exchange carries a command until it was answered by more than "busy" or a report
// beside the point. What the sense says is not judged.
func (d *SCSI) exchange(ctx context.Context, op string, c scsi.Command) (reply, error) {
	c.Limit = d.limits[c.CDB[0]]
	busy := 0
	for repeats := 0; ; {
		result, err := d.transport.Do(ctx, c)
		if err != nil {
			return reply{}, &cairn.Error{Op: op, Kind: cairn.KindOf(err), Err: err}
		}
		switch result.Status {
		case scsi.Good:
			return reply{received: result.Received}, nil
		case scsi.Busy, scsi.TaskSetFull:
			if busy++; busy > busyTries {
				return reply{}, d.fail(op, cairn.KindUnavailable, "", fmt.Errorf("%s: the drive is busy", scsi.Name(c.CDB)))
			}
			if err := pause(ctx, busyPause); err != nil {
				return reply{}, d.fail(op, cairn.KindCanceled, "", err)
			}
			continue
		case scsi.Conflict:
			return reply{}, d.fail(op, cairn.KindBusy, "wait for it, or release the drive there", fmt.Errorf("%s: %w", scsi.Name(c.CDB), errConflict))
		case scsi.CheckCondition:
		default:
			return reply{}, d.fail(op, cairn.KindIO, "", fmt.Errorf("%s: %s", scsi.Name(c.CDB), result.Status))
		}
		sense, err := d.senseOf(ctx, op, c, result)
		if err != nil {
			return reply{}, err
		}
		if beside(sense) && repeats < maxRepeats {
			d.log.Debug("the drive reports beside the point", "command", scsi.Name(c.CDB), "sense", sense.String())
			repeats++
			continue
		}
		return reply{received: result.Received, sense: sense, checked: true}, nil
	}
}

// beside tells reports that kept a command from being carried out and say nothing
// about it or the medium: deferred ones that are no errors, changed parameters of
// modes and logs, new microcode.
func beside(s scsi.Sense) bool {
	if s.Deferred {
		return s.Key <= scsi.KeyRecovered
	}
	return s.Key == scsi.KeyAttention && (s.ASC == 0x3f || s.ASC == 0x2a && (s.ASCQ == 1 || s.ASCQ == 2))
}

// senseOf is the sense that came with a result; when none did the drive is asked.
func (d *SCSI) senseOf(ctx context.Context, op string, c scsi.Command, r scsi.Result) (scsi.Sense, error) {
	if s, ok := scsi.ParseSense(r.Sense); ok {
		return s, nil
	}
	buf := make([]byte, 96)
	if _, err := d.transport.Do(ctx, scsi.Command{CDB: scsi.RequestSense(byte(len(buf))), In: buf}); err != nil {
		return scsi.Sense{}, &cairn.Error{Op: op, Kind: cairn.KindOf(err), Err: err}
	}
	if s, ok := scsi.ParseSense(buf); ok {
		return s, nil
	}
	return scsi.Sense{}, d.fail(op, cairn.KindIO, "", fmt.Errorf("%s: it failed and the drive does not say why", scsi.Name(c.CDB)))
}

// do carries a command and judges its sense: errors come back as errors; no error,
// a recovered one, the end of data and of the medium as replies.
func (d *SCSI) do(ctx context.Context, op string, c scsi.Command) (reply, error) {
	if d.fence != nil {
		return reply{}, d.fence
	}
	r, err := d.exchange(ctx, op, c)
	if err != nil || !r.checked {
		return r, err
	}
	if r.sense.Deferred {
		return r, d.senseFailure(op, c.CDB, r.sense)
	}
	switch r.sense.Key {
	case scsi.KeyRecovered:
		d.log.Debug("the drive has recovered from an error", "command", scsi.Name(c.CDB), "sense", r.sense.String())
		return r, nil
	case scsi.KeyNoSense, scsi.KeyBlankCheck, scsi.KeyVolumeOverflow:
		return r, nil
	case scsi.KeyAttention:
		return r, d.attention(op, c.CDB, r.sense)
	}
	return r, d.senseFailure(op, c.CDB, r.sense)
}

// ask is do for commands with an answer; the answer is what came.
func (d *SCSI) ask(ctx context.Context, op string, cdb []byte, room int) ([]byte, error) {
	buf := make([]byte, room)
	r, err := d.do(ctx, op, scsi.Command{CDB: cdb, In: buf})
	if err != nil {
		return nil, err
	}
	return buf[:min(room, max(r.received, 0))], nil
}

// Identity tells who the drive is, and its serial number.
func (d *SCSI) Identity() (id scsi.Identity, serial string) { return d.identity, d.serial }

// Partitions is how many the medium has.
func (d *SCSI) Partitions() int { return d.partitions }

// MaxBlock is the longest record that drive and adapter carry.
func (d *SCSI) MaxBlock() int { return d.maxBlock }

// closePatience bounds what closing asks of the drive; its buffer is empty within
// seconds.
const closePatience = 3 * time.Minute

// Close flushes, unlocks the medium, releases the drive and closes the transport,
// within minutes also when the drive does not answer.
func (d *SCSI) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closePatience)
	defer cancel()
	var errs []error
	if d.wrote && d.fence == nil {
		errs = append(errs, d.WriteFilemarks(ctx, 0, false))
	}
	if d.locked {
		_, err := d.exchange(ctx, "unlock medium", scsi.Command{CDB: scsi.PreventRemoval(false)})
		errs = append(errs, err)
	}
	errs = append(errs, d.giveBack(ctx), d.transport.Close())
	return errors.Join(errs...)
}

var _ Drive = (*SCSI)(nil)

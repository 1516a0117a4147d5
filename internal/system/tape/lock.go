package tape

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"cairn"
	"cairn/internal/system/tape/drive"
	"cairn/ltfs"
)

// The values of the medium's lock attribute (AttrLock). The write errors name the
// partition that could not be written: any, data, index, both.
const (
	mediumUnlocked    = 0
	mediumLocked      = 1
	mediumPermLocked  = 3
	mediumNoLock      = 128 // of one vendor: as unlocked
	mediumErrorAny    = 2
	mediumErrorData   = 4
	mediumErrorIndex  = 5
	mediumErrorBothOf = 6
)

var mediumLocks = map[byte]string{mediumUnlocked: "unlocked", mediumNoLock: "unlocked", mediumLocked: "locked", mediumPermLocked: "permlocked",
	mediumErrorAny: "write error", mediumErrorData: "write error in the data partition", mediumErrorIndex: "write error in the index partition",
	mediumErrorBothOf: "write errors in both partitions"}

// readOnlyWhy says why the volume cannot be mounted for writing: its medium is
// protected, or it is locked; empty when it can.
func (t *Tape) readOnlyWhy(ctx context.Context) (string, error) {
	if t.drive.Protected() {
		return "its medium is write protected", nil
	}
	lock, err := t.LockText(ctx)
	switch {
	case err != nil || lock == "":
		return "", err
	case strings.HasPrefix(lock, "write error"):
		return "its medium had a " + lock, nil
	}
	return "it is " + lock, nil
}

// hadWriteError reports whether the lock says that the medium is worn.
func hadWriteError(lock byte) bool {
	return lock == mediumErrorAny || lock >= mediumErrorData && lock <= mediumErrorBothOf
}

// MediumLock reads the lock that a medium's attributes tell of: 0, 3, …; a medium
// without the attribute is not locked.
func MediumLock(ctx context.Context, d drive.Drive) (value byte, text string, err error) {
	v, err := d.Attribute(ctx, 0, ltfs.AttrLock)
	switch {
	case errors.Is(err, cairn.KindNotFound) || err == nil && len(v) == 0:
		return mediumUnlocked, mediumLocks[mediumUnlocked], nil
	case err != nil:
		return 0, "", err
	}
	text, known := mediumLocks[v[0]]
	if !known {
		text = fmt.Sprintf("unknown lock %d", v[0])
	}
	return v[0], text, nil
}

// CheckWritable refuses a volume that is locked, by its index or by the medium's
// attribute, with KindPermission.
func (t *Tape) CheckWritable(ctx context.Context) error {
	lock, err := t.LockText(ctx)
	if err != nil || lock == "" {
		return err
	}
	hint := "cairn tape lock --unlock " + t.subject + " lifts the lock"
	switch {
	case lock == mediumLocks[mediumPermLocked]:
		hint = "it can be read for ever, and never written again"
	case strings.HasPrefix(lock, "write error"):
		return t.fail("write tape", cairn.KindPermission, "copy it to another tape; "+hint+", for a try", "its medium had a %s", lock)
	}
	return t.fail("write tape", cairn.KindPermission, hint, "it is %s", lock)
}

// LockText is the stronger one of the locks of index and medium in words, empty when
// there is none: locked, permlocked, or a write error that the medium had.
func (t *Tape) LockText(ctx context.Context) (string, error) {
	value, text, err := MediumLock(ctx, t.drive)
	switch {
	case t.index.Lock == ltfs.PermLocked:
		return t.index.Lock.String(), nil
	case err != nil:
		return "", err
	case value != mediumUnlocked && value != mediumNoLock:
		return text, nil
	case t.index.Lock != ltfs.Unlocked:
		return t.index.Lock.String(), nil
	}
	return "", nil
}

// SetLock locks or unlocks the volume: an index that says so in both partitions,
// then the medium's attribute. A permanent lock is never lifted (KindPermission);
// a volume that is out of order is not locked (KindDamaged). What is so already is
// not written again; unlocking a worn medium takes its mark away, and nothing else.
func (t *Tape) SetLock(ctx context.Context, lock ltfs.Lock, creator string, now time.Time) error {
	const op = "lock tape"
	value, text, err := MediumLock(ctx, t.drive)
	switch {
	case err != nil:
		return err
	case hadWriteError(value) && lock == ltfs.Unlocked && t.index.Lock == ltfs.Unlocked:
		return t.drive.SetAttribute(ctx, 0, ltfs.AttrLock, 0, []byte{mediumUnlocked}) // the tape itself says nothing of it, and may need a repair first
	case len(t.notes) > 0:
		return t.fail(op, cairn.KindDamaged, "cairn tape check --repair first", "it is out of order")
	case (t.index.Lock == ltfs.PermLocked || value == mediumPermLocked) && lock != ltfs.PermLocked:
		return t.fail(op, cairn.KindPermission, "it can be read for ever, and never written again", "it is locked for ever")
	case t.index.Lock == lock && text == mediumLocks[lockValues[lock]]:
		return nil
	}
	before := t.index.Lock
	t.index.Lock, t.dirty = lock, true
	if err := t.Commit(ctx, creator, "", now); err != nil {
		t.index.Lock = before
		return err
	}
	err = t.drive.SetAttribute(ctx, 0, ltfs.AttrLock, 0, []byte{lockValues[lock]})
	if errors.Is(err, cairn.KindUnsupported) {
		return nil // a drive without attributes: the index says it
	}
	return err
}

var lockValues = map[ltfs.Lock]byte{ltfs.Unlocked: mediumUnlocked, ltfs.Locked: mediumLocked, ltfs.PermLocked: mediumPermLocked}

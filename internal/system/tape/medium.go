package tape

import (
	"bytes"
	"context"
	"syscall"

	"cairn"
	"cairn/internal/policy/syncpolicy"
	"cairn/ltfs"
)

// Room is how many bytes the data partition holds and how many more it takes, with
// room for the last index kept: as the drive said last, less what was written since.
func (f *FS) Room() (total, left int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.total, f.free()
}

// free is the room for data. The caller holds mu.
func (f *FS) free() int64 { return max(0, f.left-f.buffered-f.reserve()) }

// IndexRoom asks the drive how many bytes the index partition holds and how many
// more it takes.
func (f *FS) IndexRoom(ctx context.Context) (total, left int64, err error) {
	room, err := f.t.mover.capacity(ctx, f.t.number[f.t.label.IndexPart])
	return room.Total, room.Remaining, err
}

// MediumAttribute reads an attribute of the medium's own memory.
func (f *FS) MediumAttribute(ctx context.Context, id uint16) ([]byte, error) {
	return f.t.mover.attribute(ctx, 0, id)
}

// mediumTexts are the lengths and SCSI formats (1 ASCII, 2 text) of the medium
// attributes that may be written, as other LTFS software has them.
var mediumTexts = map[uint16]struct {
	length int
	format byte
	fill   byte
}{ltfs.AttrBarcode: {32, 1, ' '}, ltfs.AttrMediaPool: {160, 2, 0}}

// SetMediumAttribute writes a text to the medium's own memory.
func (f *FS) SetMediumAttribute(ctx context.Context, id uint16, text string) error {
	f.mu.Lock()
	err := f.writable("set attribute of tape")
	f.mu.Unlock()
	if err != nil {
		return err
	}
	how, ok := mediumTexts[id]
	if !ok || len(text) > how.length {
		return refuse("set attribute of tape", f.t.subject, cairn.KindInvalid, syscall.EINVAL)
	}
	value := append([]byte(text), bytes.Repeat([]byte{how.fill}, how.length-len(text))...)
	return f.t.mover.setAttribute(ctx, 0, id, how.format, value)
}

// SetLock sets the volume's advisory lock and writes an index that says so to both
// partitions. Nothing may be open for writing; with the lock set nothing can be
// changed but the lock.
func (f *FS) SetLock(ctx context.Context, lock ltfs.Lock) error {
	const op = "lock tape"
	f.mu.Lock()
	before := f.header.Lock
	var err error
	switch {
	case f.opt.ReadOnly || before == ltfs.PermLocked:
		err = refuse(op, f.t.subject, cairn.KindPermission, syscall.EROFS)
	case f.broken != nil:
		err = f.broken
	case len(f.partial) > 0:
		err = refuse(op, f.t.subject, cairn.KindBusy, syscall.EBUSY)
	case lock != before:
		f.header.Lock = lock
		f.changed(f.root)
	}
	f.mu.Unlock()
	if err != nil || lock == before {
		return err
	}
	if err := f.Sync(ctx, syncpolicy.Manual, true); err != nil {
		return err
	}
	return f.t.mover.setAttribute(ctx, 0, ltfs.AttrLock, 0, []byte{byte(lock)})
}

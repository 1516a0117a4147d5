package tape

import (
	"context"
	"errors"
	"fmt"

	"cairn"
	"cairn/internal/policy/syncpolicy"
	"cairn/internal/system/tape/drive"
	"cairn/ltfs"
)

// A medium that says that it cannot be written any more in a partition is not
// written there again: the newest generation goes to the other partition, and the
// medium's own memory says which one failed (the values of AttrLock), as other LTFS
// software does and heeds. From then on the tape is for reading.

// condemn ends the writing of a worn medium; ix is the newest tree, as far as it is
// on tape. It returns what the callers of whatever was being written are to be told.
func (t *Tape) condemn(ctx context.Context, ix *ltfs.Index, cause error) error {
	data, index := t.number[t.label.DataPart], t.number[t.label.IndexPart]
	var saving error
	if t.mover.wearOf(data) && !t.mover.wearOf(index) {
		ix.Previous = ltfs.Location{}
		if last := t.ends[t.label.DataPart].last; last != nil {
			ix.Previous = last.Self
		}
		if saving = t.writeIndex(ctx, ix, t.label.IndexPart, t.indexAt(t.label.IndexPart)); saving == nil {
			saving = t.vouch(ctx)
		}
	}
	lock, where := byte(mediumErrorIndex), "its index partition"
	switch {
	case t.mover.wearOf(data) && t.mover.wearOf(index):
		lock, where = mediumErrorBothOf, "either partition"
	case t.mover.wearOf(data):
		lock, where = mediumErrorData, "its data partition"
	}
	marking := t.mover.setAttribute(ctx, 0, ltfs.AttrLock, 0, []byte{lock})
	if errors.Is(marking, cairn.KindUnsupported) {
		marking = nil
	}
	if more := errors.Join(saving, marking); more != nil {
		cause = fmt.Errorf("%w; and then: %w", cause, more)
	}
	return t.fail("write to tape", cairn.KindDamaged, "it is for reading from now on: copy it to another tape (cairn tape extract)", "the medium cannot be written any more in %s: %w", where, cause)
}

// worn reports whether the medium said so.
func worn(err error) bool { return errors.Is(err, drive.ErrUnwritable) }

// condemn ends the writing of the tape: what is on it gets its last index, what is
// in memory stays there for readers.
func (f *FS) condemn(cause error, served []*ask) {
	f.mu.Lock()
	ix := f.takeIndex(syncpolicy.Worn)
	f.mu.Unlock()
	f.fillTree()
	err := f.t.condemn(f.ctx, ix, cause)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.broken = err
	f.log.Error("the tape cannot be written any more", "tape", f.t.subject, "error", err, "files", f.risk.Files, "bytes", f.risk.Bytes)
	f.failed(err, served)
}

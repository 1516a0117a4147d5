package volume

import (
	"errors"
	"fmt"
	"io/fs"
)

// remove unlinks files that nothing refers to any more. That one stays behind is
// no error: the next opening removes it.
func (v *Volume) remove(names ...string) {
	for _, n := range names {
		if err := v.fs.Remove(n); err != nil && !errors.Is(err, fs.ErrNotExist) {
			v.o.Log.Warn("cannot remove a file that is not needed any more", "volume", v.o.Name, "file", n, "error", err)
		}
	}
}

// syncDir makes the names of new files durable.
func (v *Volume) syncDir() error {
	if v.o.Faults.has(FaultSkipFolderSync) {
		return nil
	}
	return v.fs.SyncDir(".")
}

func numbered(prefix string, id uint64) string { return fmt.Sprintf("%s%016x", prefix, id) }

package drive

import (
	"errors"
	"os"
	"syscall"
)

// What may be written around the page cache: whole pages, and enough of them to
// be worth a wait. A tape's records are written once and synced at once; the copy
// in the cache costs more than all else that is done for them.
const (
	directUnit  = 4096
	directLeast = 64 << 10
)

// writeFile makes a file that is not there yet, with data in it, synced.
func (f *Folder) writeFile(name string, data []byte) error {
	if aroundCache != 0 && !f.cached && len(data) >= directLeast && len(data)%directUnit == 0 {
		err := writeSynced(name, data, aroundCache)
		if !errors.Is(err, syscall.EINVAL) {
			return err
		}
		// The file system, or the place of data in memory, does not allow it.
		f.cached = true
		if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return writeSynced(name, data, 0)
}

func writeSynced(name string, data []byte, flag int) error {
	if len(data) > 0 {
		flag |= os.O_SYNC
	}
	file, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY|flag, 0o644)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	return errors.Join(err, file.Close())
}

package drive

import (
	"errors"
	"os"
	"syscall"

	"cairn"
	"cairn/internal/mech/kernel"
)

// acquire takes the lock of a writer, where the system has such locks.
func (f *Folder) acquire() error {
	if f.opt.ReadOnly {
		return nil
	}
	d, err := os.Open(f.dir)
	if err != nil {
		return ioError("load tape folder", f.dir, err)
	}
	switch err := kernel.Lock(d); {
	case errors.Is(err, syscall.EWOULDBLOCK):
		_ = d.Close()
		return &cairn.Error{Op: "load tape folder", Subject: f.dir, Kind: cairn.KindBusy, Err: errors.New("it is mounted, or another program writes it"), Hint: "unmount it first"}
	case err != nil && !errors.Is(err, errors.ErrUnsupported):
		_ = d.Close()
		return ioError("lock tape folder", f.dir, err)
	}
	f.lock = d
	return nil
}

func (f *Folder) release() error {
	if f.lock == nil {
		return nil
	}
	lock := f.lock
	f.lock = nil
	return lock.Close()
}

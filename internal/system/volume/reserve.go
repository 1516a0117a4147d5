package volume

import (
	"errors"
	"log/slog"
	"syscall"

	"cairn"
	"cairn/internal/mech/blockio"
)

// reserveName is the file that keeps room for opening and closing a store on a
// full disk. Without it a volume whose disk filled up could not be opened after an
// unclean stop, and nothing in it could be destroyed to make room.
const reserveName = "reserve"

// reserveBytes is enough for what opening and closing write before they remove
// what it replaces: the catalog, an index, and a change set.
func reserveBytes(size int64) int64 { return 1<<20 + 2*(size/blockSize/8) }

// keepReserve makes the reserve when it is not there. On a disk without room for
// it that is tried again by the next opening.
func keepReserve(fsys blockio.FS, size int64, log *slog.Logger) {
	want := reserveBytes(size)
	if st, err := fsys.Stat(reserveName); err == nil && st.Size() >= want {
		return
	}
	if err := makeReserve(fsys, want); err != nil && !errors.Is(err, syscall.EOPNOTSUPP) {
		log.Debug("no room is kept for opening on a full disk", "error", err)
	}
}

func makeReserve(fsys blockio.FS, want int64) error {
	f, err := fsys.Create(reserveName)
	if errors.Is(err, syscall.EEXIST) { // too small since the volume grew
		if err = fsys.Remove(reserveName); err == nil {
			f, err = fsys.Create(reserveName)
		}
	}
	if err != nil {
		return err
	}
	if err = f.Allocate(0, want); err == nil {
		err = f.Truncate(want) // says how much it is
	}
	if err = errors.Join(err, f.Close()); err != nil {
		err = errors.Join(err, fsys.Remove(reserveName))
	}
	return err
}

// withReserve does what needs a little room, and on a full disk does it again with
// the reserve given up.
func withReserve(fsys blockio.FS, do func() error) error {
	err := do()
	if blockio.Kind(err) == cairn.KindSpace && fsys.Remove(reserveName) == nil {
		err = do()
	}
	return err
}

package volume

import (
	"errors"
	"log/slog"
	"strings"
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

// keepReserve makes the reserve when it is not there; full says that there was no
// room for it. That is tried again by the next opening.
func keepReserve(fsys blockio.FS, size int64, log *slog.Logger) (full bool) {
	want := reserveBytes(size)
	if st, err := fsys.Stat(reserveName); err == nil && st.Size() >= want {
		return false
	}
	err := makeReserve(fsys, want)
	if err != nil && !errors.Is(err, syscall.EOPNOTSUPP) {
		log.Debug("no room is kept for opening on a full disk", "error", err)
	}
	return blockio.Kind(err) == cairn.KindSpace
}

// restoreReserve makes the reserve again after it was needed. For want of room
// snapshots are given up as for a write, since the next opening stands on it; but
// not when that frees nothing, or somebody else takes what it frees.
func (v *Volume) restoreReserve() {
	for keepReserve(v.fs, v.state().Head.Size, v.o.Log) && !v.o.Faults.has(FaultReserveSpent) {
		before, _, err := v.fs.Space()
		if err != nil || !v.makeRoom(false, v.given.Load()) {
			return
		}
		if free, _, err := v.fs.Space(); err != nil || free <= before {
			return
		}
	}
}

// noRoomToOpen says what helps when an opening needs room and there is none left
// that could be given up.
func noRoomToOpen(err error) error {
	var e *cairn.Error
	if blockio.Kind(err) != cairn.KindSpace || !errors.As(err, &e) {
		return err
	}
	told := *e
	told.Hint = "make some room on the disk of its store, then open it again"
	return &told
}

// dropIndexes removes the indexes of segments, which can be made again: the last
// room there is. It reports whether there were any.
func dropIndexes(fsys blockio.FS) (dropped bool) {
	names, err := fsys.ReadDir(".")
	if err != nil {
		return false
	}
	for _, n := range names {
		if strings.HasPrefix(n, indexPrefix) && ours(n) && fsys.Remove(n) == nil {
			dropped = true
		}
	}
	return dropped
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

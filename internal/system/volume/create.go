package volume

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"syscall"
	"time"

	"cairn"
	"cairn/internal/mech/blockio"
	"cairn/internal/system/volume/catalog"
)

// CreateOptions describe a new store.
type CreateOptions struct {
	Size       int64                                   // of a new sparse head; ignored when Origin is set
	Origin     string                                  // absolute path of a file or device to adopt in place
	OpenOrigin func(path string) (blockio.File, error) // nil is blockio.OpenOS
	Owner      string                                  // the file or command that makes it
	Sealed     bool                                    // a replica: takes no writes but a receive's
}

// Create makes a store in the empty folder fsys.
func Create(ctx context.Context, fsys blockio.FS, o CreateOptions) error {
	if err := ctx.Err(); err != nil {
		return failed("create volume", "", err)
	}
	size, err := prepareHead(fsys, o)
	if err != nil {
		return failed("create volume", o.Origin, err)
	}
	state := catalog.State{
		Store: catalog.Store{ID: uint64(newGUID()), Format: storeFormat, Created: time.Now().UTC(), Origin: o.Origin, Owner: o.Owner},
		Head:  catalog.Head{Size: size, Sealed: o.Sealed, NextID: 2, Interval: 1, Clean: true},
	}
	l, err := catalog.Create(fsys, state)
	if err != nil {
		return failed("create volume", o.Origin, err)
	}
	keepReserve(fsys, size, slog.New(slog.DiscardHandler))
	return failed("create volume", o.Origin, l.Close())
}

// prepareHead makes the sparse head, or looks at the origin to adopt, and gives
// its size.
func prepareHead(fsys blockio.FS, o CreateOptions) (int64, error) {
	if o.Origin != "" {
		open := o.OpenOrigin
		if open == nil {
			open = blockio.OpenOS
		}
		f, err := openOrigin(open, o.Origin)
		if err != nil {
			return 0, err
		}
		size, err := f.Size()
		if err == nil && size == 0 {
			err = &cairn.Error{Op: "adopt", Subject: o.Origin, Kind: cairn.KindInvalid, Hint: "the file is empty; give it its size first"}
		}
		return size, errors.Join(err, f.Close())
	}
	if o.Size <= 0 || o.Size%512 != 0 {
		return 0, &cairn.Error{Op: "use size", Subject: fmt.Sprint(o.Size), Kind: cairn.KindInvalid, Hint: "a volume's size is a positive multiple of 512 bytes"}
	}
	f, err := fsys.Create(headName)
	if err != nil {
		return 0, err
	}
	if err = f.Truncate(o.Size); err == nil {
		err = f.Sync()
	}
	return o.Size, errors.Join(err, f.Close())
}

// openOrigin opens what is adopted. Somebody else who has it could write to it
// behind our back, so that is refused.
func openOrigin(open func(path string) (blockio.File, error), path string) (blockio.File, error) {
	f, err := open(path)
	if errors.Is(err, syscall.EBUSY) {
		return nil, &cairn.Error{Op: "open origin", Subject: path, Kind: cairn.KindBusy, Err: errors.New("another volume has it open, or it is mounted or otherwise in use"),
			Hint: "use that volume, or end what uses it"}
	}
	return f, err
}

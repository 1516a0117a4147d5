package zfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"sync"
	"time"

	"cairn"
)

// OpenVersion opens the device node of a zvol's snapshot.
func (s *side) OpenVersion(ctx context.Context, name string, id cairn.VersionID) (cairn.BlockReader, error) {
	const op = "open"
	p := s.place
	d, err := p.whole(ctx, op, name, id)
	if err != nil {
		return nil, err
	}
	fail := func(kind cairn.Kind, err error, hint string) (cairn.BlockReader, error) {
		return nil, &cairn.Error{Op: op, Subject: name + id.Name, Kind: kind, Err: err, Hint: hint}
	}
	switch {
	case d.kindOf() != cairn.KindZvol:
		return fail(cairn.KindUnsupported, errors.New("a filesystem has no blocks"), "its files are below .zfs/snapshot of its mountpoint")
	case !id.IsSnapshot():
		return fail(cairn.KindUnsupported, errors.New("a bookmark has no data"), "")
	}
	file, err := node(ctx, filepath.Join(p.o.Devices, filepath.FromSlash(name)+id.Name))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fail(cairn.KindUnsupported, err, "`zfs set snapdev=visible "+name+"` shows the devices of its snapshots")
	case errors.Is(err, fs.ErrPermission):
		return fail(cairn.KindPermission, err, "the user has to be in the group of the device")
	case ctx.Err() != nil && err != nil:
		return nil, p.failed(op, name+id.Name, err)
	case err != nil:
		return fail(cairn.KindIO, err, "")
	}
	return &reader{name: name + id.Name, file: file, size: d.find(id.Name).numbers[volsize], release: p.use(name, id)}, nil
}

// nodeWait is how long the device node of a new snapshot may take: the kernel makes
// it after zfs has ended.
const nodeWait = 5 * time.Second

// node opens a device node, and waits a moment for one that is not there yet.
func node(ctx context.Context, path string) (*os.File, error) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(nodeWait); ; {
		f, err := os.Open(path)
		if !errors.Is(err, fs.ErrNotExist) || time.Now().After(end) {
			return f, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// reader is an open snapshot of a zvol.
type reader struct {
	name    string
	file    *os.File
	size    int64
	release func()
	once    sync.Once
}

// Size is the zvol's size at the snapshot.
func (r *reader) Size() int64 { return r.size }

func (r *reader) inside(off, length int64) error {
	if off < 0 || length < 0 || off > r.size || length > r.size-off {
		return &cairn.Error{Op: "read", Subject: r.name, Kind: cairn.KindInvalid, Err: fmt.Errorf("%d bytes at %d of %d", length, off, r.size)}
	}
	return nil
}

// ReadAt reads from the device.
func (r *reader) ReadAt(ctx context.Context, b []byte, off int64) error {
	if err := r.inside(off, int64(len(b))); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return &cairn.Error{Op: "read", Subject: r.name, Kind: cairn.KindCanceled, Err: err}
	}
	if _, err := io.ReadFull(io.NewSectionReader(r.file, off, int64(len(b))), b); err != nil {
		return &cairn.Error{Op: "read", Subject: r.name, Kind: cairn.KindIO, Err: err}
	}
	return nil
}

// Extents says that all is data: a zvol's device does not tell its holes.
func (r *reader) Extents(ctx context.Context, off, length int64) iter.Seq2[cairn.Extent, error] {
	return func(yield func(cairn.Extent, error) bool) {
		err := r.inside(off, length)
		if err == nil && ctx.Err() != nil {
			err = &cairn.Error{Op: "read", Subject: r.name, Kind: cairn.KindCanceled, Err: ctx.Err()}
		}
		switch {
		case err != nil:
			yield(cairn.Extent{}, err)
		case length > 0:
			yield(cairn.Extent{Offset: off, Length: length, Kind: cairn.ExtentData}, nil)
		}
	}
}

// Close releases the snapshot; a second time it does nothing.
func (r *reader) Close() (err error) {
	r.once.Do(func() {
		r.release()
		err = r.file.Close()
	})
	return err
}

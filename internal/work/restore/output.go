package restore

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"cairn"
)

// partialSuffix marks a file that is not complete yet.
const partialSuffix = ".cairn-partial"

// output is the file or device that is written.
type output struct {
	path     string
	size     int64
	device   bool
	replaces bool // a file of that name exists
	file     *os.File
}

func failed(path string, err error) error {
	kind := cairn.KindIO
	switch {
	case errors.Is(err, syscall.ENOSPC):
		kind = cairn.KindSpace
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		kind = cairn.KindPermission
	case errors.Is(err, fs.ErrNotExist):
		kind = cairn.KindNotFound
	case errors.Is(err, syscall.EBUSY):
		kind = cairn.KindBusy
	}
	return &cairn.Error{Op: "restore to", Subject: path, Kind: kind, Err: err}
}

func canceled(ctx context.Context, path string) error {
	return &cairn.Error{Op: "restore to", Subject: path, Kind: cairn.KindCanceled, Err: context.Cause(ctx)}
}

// openOutput checks the path. A file is made beside it under another name, a
// device is opened for nobody else.
func openOutput(path string, size int64, force bool) (*output, error) {
	refuse := func(kind cairn.Kind, cause, hint string) (*output, error) {
		return nil, &cairn.Error{Op: "restore to", Subject: path, Kind: kind, Err: errors.New(cause), Hint: hint}
	}
	out := &output{path: path, size: size}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return out, out.openFile()
	case err != nil:
		return nil, failed(path, err)
	case info.IsDir():
		return refuse(cairn.KindInvalid, "it is a folder", "name a file in it")
	case info.Mode().IsRegular():
		if !force {
			return refuse(cairn.KindExists, "the file exists", "name another, or force its replacement")
		}
		out.replaces = true
		return out, out.openFile()
	case info.Mode()&fs.ModeDevice == 0 || info.Mode()&fs.ModeCharDevice != 0:
		return refuse(cairn.KindInvalid, "it is neither a file nor a block device", "name one of these")
	case !force:
		return refuse(cairn.KindExists, "all content of the device would be lost", "force it, if that is meant")
	}
	return out, out.openDevice()
}

func (o *output) openFile() error {
	f, err := os.OpenFile(o.path+partialSuffix, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return failed(o.path, err)
	}
	if err := f.Truncate(o.size); err != nil {
		return errors.Join(failed(o.path, err), f.Close(), os.Remove(f.Name()))
	}
	o.file = f
	return nil
}

func (o *output) openDevice() error {
	f, err := os.OpenFile(o.path, os.O_RDWR|os.O_EXCL, 0)
	if errors.Is(err, syscall.EBUSY) {
		return &cairn.Error{Op: "restore to", Subject: o.path, Kind: cairn.KindBusy, Err: err, Hint: "it is mounted or in use: unmount it, stop what uses it"}
	}
	if err != nil {
		return failed(o.path, err)
	}
	room, err := f.Seek(0, io.SeekEnd)
	if err == nil && room < o.size {
		err = &cairn.Error{Op: "restore to", Subject: o.path, Kind: cairn.KindSpace, Err: fmt.Errorf("it has %d bytes, the version has %d", room, o.size), Hint: "use a larger device"}
		return errors.Join(err, f.Close())
	}
	if err != nil {
		return errors.Join(failed(o.path, err), f.Close())
	}
	o.device, o.file = true, f
	return nil
}

// sentence says what is done to the path.
func (o *output) sentence(version string) string {
	switch {
	case o.device:
		return fmt.Sprintf("overwrite the device %s with the %d bytes of %s", o.path, o.size, version)
	case o.replaces:
		return fmt.Sprintf("replace the file %s by the %d bytes of %s", o.path, o.size, version)
	}
	return fmt.Sprintf("write the %d bytes of %s to the new file %s", o.size, version, o.path)
}

func (o *output) sync() error {
	if err := o.file.Sync(); err != nil {
		return failed(o.path, err)
	}
	return nil
}

// digest reads back what was written.
func (o *output) digest(ctx context.Context, size int64, done func(int64)) ([]byte, error) {
	h, buf := sha256.New(), make([]byte, pieceBytes)
	for off := int64(0); off < size; {
		if ctx.Err() != nil {
			return nil, canceled(ctx, o.path)
		}
		p := buf[:min(pieceBytes, size-off)]
		if _, err := o.file.ReadAt(p, off); err != nil {
			return nil, failed(o.path, err)
		}
		h.Write(p)
		off += int64(len(p))
		done(off)
	}
	return h.Sum(nil), nil
}

// finish gives a file its name, durably.
func (o *output) finish() error {
	if err := o.file.Close(); err != nil {
		return failed(o.path, err)
	}
	if o.device {
		return nil
	}
	if err := os.Rename(o.file.Name(), o.path); err != nil {
		return failed(o.path, err)
	}
	dir, err := os.Open(filepath.Dir(o.path))
	if err != nil {
		return failed(o.path, err)
	}
	if err := errors.Join(dir.Sync(), dir.Close()); err != nil {
		return failed(o.path, err)
	}
	return nil
}

// abandon leaves no part of a file behind.
func (o *output) abandon() error {
	err := o.file.Close()
	if !o.device {
		err = errors.Join(err, os.Remove(o.file.Name()))
	}
	if err != nil {
		return failed(o.path, err)
	}
	return nil
}

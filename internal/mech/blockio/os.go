package blockio

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"cairn/internal/mech/kernel"
)

// OS is the FS of the folder root, which must exist.
func OS(root string) (FS, error) {
	st, err := os.Stat(root)
	if err != nil {
		return nil, err
	}
	if !st.IsDir() {
		return nil, &fs.PathError{Op: "open", Path: root, Err: syscall.ENOTDIR}
	}
	return osFS(root), nil
}

// OpenOS opens one existing file or block device for reading and writing, for us
// alone: syscall.EBUSY when the device is mounted or in use, or when somebody else
// opened the file with OpenOS.
func OpenOS(path string) (File, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if st.Mode()&fs.ModeDevice == 0 {
		return wrapFile(openLocked(path))
	}
	if st.Mode()&fs.ModeCharDevice != 0 {
		return nil, &fs.PathError{Op: "open", Path: path, Err: syscall.ENOTBLK}
	}
	return wrapFile(kernel.OpenDevice(path))
}

func openLocked(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	if err = kernel.Lock(f); errors.Is(err, syscall.EWOULDBLOCK) {
		err = syscall.EBUSY
	}
	if err != nil {
		return nil, errors.Join(pathError("lock", path, err), f.Close())
	}
	return f, nil
}

// Identify describes a file that OS or OpenOS opened; ok is false for others.
func Identify(f File) (id kernel.Identity, ok bool, err error) {
	of, ok := f.(osFile)
	if !ok {
		return kernel.Identity{}, false, nil
	}
	id, err = kernel.Identify(of.f)
	return id, true, err
}

// Sector is the unit of writes to f: the logical sector of a block device, 512
// for files.
func Sector(f File) (int, error) {
	of, ok := f.(osFile)
	if !ok {
		return 512, nil
	}
	st, err := of.f.Stat()
	if err != nil || st.Mode()&fs.ModeDevice == 0 {
		return 512, err
	}
	return kernel.DeviceSector(of.f)
}

type osFS string

func (o osFS) path(op, name string) (string, error) {
	if !filepath.IsLocal(name) {
		return "", &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	return filepath.Join(string(o), filepath.FromSlash(name)), nil
}

func (o osFS) Create(name string) (File, error) {
	p, err := o.path("create", name)
	if err != nil {
		return nil, err
	}
	return wrapFile(os.OpenFile(p, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600))
}

func (o osFS) Open(name string, write bool) (File, error) {
	p, err := o.path("open", name)
	if err != nil {
		return nil, err
	}
	flag := os.O_RDONLY
	if write {
		flag = os.O_RDWR
	}
	return wrapFile(os.OpenFile(p, flag, 0))
}

func wrapFile(f *os.File, err error) (File, error) {
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

func (o osFS) Rename(oldName, newName string) error {
	from, err := o.path("rename", oldName)
	if err != nil {
		return err
	}
	to, err := o.path("rename", newName)
	if err != nil {
		return err
	}
	return os.Rename(from, to)
}

func (o osFS) Remove(name string) error {
	p, err := o.path("remove", name)
	if err != nil {
		return err
	}
	return os.Remove(p)
}

func (o osFS) Mkdir(name string) error {
	p, err := o.path("mkdir", name)
	if err != nil {
		return err
	}
	return os.Mkdir(p, 0o700)
}

func (o osFS) ReadDir(name string) ([]string, error) {
	p, err := o.path("readdir", name)
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(p)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	slices.Sort(names)
	return names, nil
}

func (o osFS) Stat(name string) (fs.FileInfo, error) {
	p, err := o.path("stat", name)
	if err != nil {
		return nil, err
	}
	return os.Stat(p)
}

func (o osFS) SyncDir(name string) error {
	p, err := o.path("syncdir", name)
	if err != nil {
		return err
	}
	d, err := os.Open(p)
	if err != nil {
		return err
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	return err
}

func (o osFS) Space() (free, total int64, err error) {
	free, total, err = kernel.Space(string(o))
	return free, total, pathError("statfs", string(o), err)
}

type osFile struct{ f *os.File }

func (o osFile) ReadAt(p []byte, off int64) (int, error)  { return o.f.ReadAt(p, off) }
func (o osFile) WriteAt(p []byte, off int64) (int, error) { return o.f.WriteAt(p, off) }
func (o osFile) Sync() error                              { return pathError("fdatasync", o.f.Name(), kernel.Datasync(o.f)) }
func (o osFile) Truncate(size int64) error                { return o.f.Truncate(size) }
func (o osFile) Close() error                             { return o.f.Close() }

func (o osFile) Size() (int64, error) {
	st, err := o.f.Stat()
	if err != nil {
		return 0, err
	}
	if st.Mode()&fs.ModeDevice != 0 {
		size, err := kernel.DeviceSize(o.f)
		return size, pathError("ioctl", o.f.Name(), err)
	}
	return st.Size(), nil
}

func (o osFile) Allocate(off, length int64) error {
	return pathError("fallocate", o.f.Name(), kernel.Allocate(o.f, off, length))
}

func (o osFile) Punch(off, length int64) error {
	return pathError("punch", o.f.Name(), kernel.Punch(o.f, off, length))
}

func (o osFile) Zero(off, length int64) error {
	return pathError("zero", o.f.Name(), kernel.Zero(o.f, off, length))
}

func (o osFile) Data(off int64) (start, end int64, err error) {
	size, err := o.Size()
	if err != nil {
		return 0, 0, err
	}
	if off >= size {
		return size, size, nil
	}
	start, end, err = kernel.Data(o.f, off, size)
	return start, end, pathError("seek", o.f.Name(), err)
}

func pathError(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}

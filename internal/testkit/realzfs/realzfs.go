// Package realzfs is the machine's own OpenZFS for tests that otherwise run on
// internal/testkit/fakezfs: pools in files of a folder, and what is in datasets.
//
// It promises that its pools are gone when Close has returned, and touches no other
// pool. It needs root, the kernel's module and udev; a place without them has no use
// for it, so nothing here skips. What can go wrong comes back as an error with the
// words of zfs.
package realzfs

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// ZFS is some pools below a folder.
type ZFS struct {
	dir   string
	names []string
}

// poolBytes is the size of each pool.
const poolBytes = 192 << 20

// In makes pools of these names with their files and mount points below a folder,
// which it makes.
func In(dir string, names ...string) (*ZFS, error) {
	z := &ZFS{dir: dir}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	for _, name := range names {
		disk := filepath.Join(dir, name+".disk")
		err := errors.Join(os.WriteFile(disk, nil, 0o600), os.Truncate(disk, poolBytes))
		if err == nil {
			_, err = output("zpool", "create", "-O", "mountpoint="+filepath.Join(dir, name), "-O", "snapdev=visible", name, disk)
		}
		if err != nil {
			return nil, errors.Join(err, z.Close())
		}
		z.names = append(z.names, name)
	}
	return z, nil
}

// Close destroys the pools.
func (z *ZFS) Close() error {
	var all []error
	for _, name := range z.names {
		_, settling := output("udevadm", "settle") // it may be looking at a zvol
		_, err := output("zpool", "destroy", "-f", name)
		all = append(all, settling, err)
	}
	return errors.Join(all...)
}

// Try runs zfs and returns what it printed.
func (z *ZFS) Try(args ...string) (string, error) { return output("zfs", args...) }

func output(name string, args ...string) (string, error) {
	text, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, text)
	}
	return strings.TrimSpace(string(text)), nil
}

// at runs do on the device of a zvol or its snapshot, or on the one file of a
// filesystem or its snapshot, which is mounted for it when it is not.
func (z *ZFS) at(name string, do func(file string) error) error {
	dataset, _, isSnapshot := strings.Cut(name, "@")
	kind, err := output("zfs", "list", "-H", "-o", "type,mounted,mountpoint", dataset)
	if err != nil {
		return err
	}
	f := strings.Fields(kind)
	if f[0] == "volume" {
		if _, err := output("udevadm", "settle"); err != nil {
			return err
		}
		return do("/dev/zvol/" + name)
	}
	if f[1] == "yes" && !isSnapshot {
		return do(filepath.Join(f[2], "content"))
	}
	dir, err := os.MkdirTemp(z.dir, "mount")
	if err != nil {
		return err
	}
	if _, err := output("mount", "-t", "zfs", "-o", "zfsutil,ro", name, dir); err != nil {
		return err
	}
	err = do(filepath.Join(dir, "content"))
	_, unmounting := output("umount", dir)
	return errors.Join(err, unmounting)
}

// TryWrite changes the content of a zvol, or of the one file of a filesystem.
func (z *ZFS) TryWrite(dataset string, off int64, b []byte) error {
	return z.at(dataset, func(file string) error {
		f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return err
		}
		_, err = f.WriteAt(b, off)
		return errors.Join(err, f.Sync(), f.Close())
	})
}

// TryRead is the content of a zvol, or of the one file of a filesystem, or of a
// snapshot of either.
func (z *ZFS) TryRead(name string) (content []byte, err error) {
	err = z.at(name, func(file string) error {
		content, err = os.ReadFile(file)
		return err
	})
	return content, err
}

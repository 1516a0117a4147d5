package script_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"cairn/internal/testkit/fakezfs"
)

// A script's ZFS is a fake of it, first on the PATH, or with CAIRN_ZFS=real the
// machine's own, as in test/vm. scriptZFS is what the commands need of either.
type scriptZFS interface {
	TryWrite(dataset string, off int64, p []byte) error
	TryRead(name string) ([]byte, error)
}

type zfsKey struct{}

type zfsHolder struct{ zfs scriptZFS }

func realZFS() bool { return os.Getenv("CAIRN_ZFS") == "real" }

// zpool NAME... makes pools.
func zpool(ts *testscript.TestScript, _ bool, args []string) {
	holder := ts.Value(zfsKey{}).(*zfsHolder)
	if realZFS() {
		holder.zfs = realPools(ts, args)
		return
	}
	dir := ts.MkAbs("fakezfs")
	ts.Check(os.Mkdir(dir, 0o700))
	fake, err := fakezfs.In(dir, args...)
	ts.Check(err)
	holder.zfs = fake
	ts.Setenv("PATH", dir+string(filepath.ListSeparator)+ts.Getenv("PATH"))
}

// zfswrite DATASET OFFSET SIZE SEED changes the content of a dataset: of a
// filesystem that is one file.
func zfswrite(ts *testscript.TestScript, neg bool, args []string) {
	err := ts.Value(zfsKey{}).(*zfsHolder).zfs.TryWrite(args[0], int64(number(ts, args[1])), noise(number(ts, args[2]), number(ts, args[3])))
	if (err != nil) != neg {
		ts.Fatalf("write to %s: %v", args[0], err)
	}
}

// zfsread NAME FILE writes what a dataset or snapshot holds into a file.
func zfsread(ts *testscript.TestScript, _ bool, args []string) {
	content, err := ts.Value(zfsKey{}).(*zfsHolder).zfs.TryRead(args[0])
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), content, 0o600))
}

// pools are the machine's own, below a folder.
type pools struct{ dir string }

func realPools(ts *testscript.TestScript, names []string) pools {
	p := pools{ts.MkAbs("pools")}
	ts.Check(os.Mkdir(p.dir, 0o700))
	for _, name := range names {
		disk := filepath.Join(p.dir, name+".disk")
		ts.Check(errors.Join(os.WriteFile(disk, nil, 0o600), os.Truncate(disk, 192<<20)))
		_, err := output("zpool", "create", "-O", "mountpoint="+filepath.Join(p.dir, name), name, disk)
		ts.Check(err)
		ts.Defer(func() {
			if _, err := output("zpool", "destroy", "-f", name); err != nil {
				ts.Logf("%v", err)
			}
		})
	}
	return p
}

func output(name string, args ...string) (string, error) {
	text, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, text)
	}
	return strings.TrimSpace(string(text)), nil
}

// at runs do on the device of a zvol, or on the one file of a filesystem, which is
// mounted for it when it is not.
func (p pools) at(name string, do func(file string) error) error {
	kind, err := output("zfs", "list", "-H", "-o", "type,mounted,mountpoint", name)
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
	if f[1] == "yes" {
		return do(filepath.Join(f[2], "content"))
	}
	dir, err := os.MkdirTemp(p.dir, "mount")
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

func (p pools) TryWrite(dataset string, off int64, b []byte) error {
	return p.at(dataset, func(file string) error {
		f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return err
		}
		_, err = f.WriteAt(b, off)
		return errors.Join(err, f.Sync(), f.Close())
	})
}

func (p pools) TryRead(name string) (content []byte, err error) {
	err = p.at(name, func(file string) error {
		content, err = os.ReadFile(file)
		return err
	})
	return content, err
}

package script_test

import (
	"os"
	"path/filepath"

	"github.com/rogpeppe/go-internal/testscript"

	"cairn/internal/testkit/fakezfs"
	"cairn/internal/testkit/realzfs"
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

// realPools are the machine's own, below a folder of the script.
func realPools(ts *testscript.TestScript, names []string) scriptZFS {
	z, err := realzfs.In(ts.MkAbs("pools"), names...)
	ts.Check(err)
	ts.Defer(func() {
		if err := z.Close(); err != nil {
			ts.Logf("%v", err)
		}
	})
	return z
}

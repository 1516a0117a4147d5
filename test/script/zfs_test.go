package script_test

import (
	"os"
	"path/filepath"

	"github.com/rogpeppe/go-internal/testscript"

	"cairn/internal/testkit/fakezfs"
)

// A script's ZFS is a fake of it, first on the PATH; internal/system/zfs checks the
// fake against OpenZFS.
type zfsKey struct{}

type scriptZFS struct{ fake *fakezfs.Fake }

// zpool NAME... makes a ZFS with these pools.
func zpool(ts *testscript.TestScript, _ bool, args []string) {
	dir := ts.MkAbs("fakezfs")
	ts.Check(os.Mkdir(dir, 0o700))
	fake, err := fakezfs.In(dir, args...)
	ts.Check(err)
	ts.Value(zfsKey{}).(*scriptZFS).fake = fake
	ts.Setenv("PATH", dir+string(filepath.ListSeparator)+ts.Getenv("PATH"))
}

// zfswrite DATASET OFFSET SIZE SEED changes the content of a dataset.
func zfswrite(ts *testscript.TestScript, neg bool, args []string) {
	fake := ts.Value(zfsKey{}).(*scriptZFS).fake
	err := fake.TryWrite(args[0], int64(number(ts, args[1])), noise(number(ts, args[2]), number(ts, args[3])))
	if (err != nil) != neg {
		ts.Fatalf("write to %s: %v", args[0], err)
	}
}

// zfsread NAME FILE writes what a dataset or snapshot holds into a file.
func zfsread(ts *testscript.TestScript, _ bool, args []string) {
	content, err := ts.Value(zfsKey{}).(*scriptZFS).fake.TryRead(args[0])
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), content, 0o600))
}

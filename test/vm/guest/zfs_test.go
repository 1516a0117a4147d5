package guest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"cairn"
	"cairn/internal/system/zfs"
	"cairn/internal/testkit/endpointtest"
	"cairn/internal/testkit/zfscases"
	"cairn/internal/work/check"
)

// zfsPool makes a pool in a file, which goes with the test.
func zfsPool(t *testing.T, mib int) string {
	t.Helper()
	pools++
	name := fmt.Sprintf("p%d", pools)
	run(t, fmt.Sprintf("modprobe zfs && truncate -s %dM %[2]s/%[3]s && zpool create -O mountpoint=/mnt/%[3]s -O snapdev=visible %[3]s %[2]s/%[3]s", mib, t.TempDir(), name))
	undo(t, "udevadm settle; zpool destroy -f "+name)
	return name
}

var pools int

func zfsTry(args ...string) (string, error) {
	var out, errs strings.Builder
	cmd := exec.Command("zfs", args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("zfs %s: %w: %s", strings.Join(args, " "), err, errs.String())
	}
	return out.String(), nil
}

// zvolNode waits for the device of a zvol or its snapshot.
func zvolNode(name string, flags int) (*os.File, error) {
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		f, err := os.OpenFile("/dev/zvol/"+name, flags, 0)
		if err == nil || time.Now().After(end) {
			return f, err
		}
	}
}

func zvolWrite(dataset string, off int64, p []byte) error {
	f, err := zvolNode(dataset, os.O_WRONLY)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(p, off)
	return errors.Join(err, f.Sync(), f.Close())
}

// zvolRead is the content of a snapshot: that of its device or, where snapshots have
// none, that of a clone.
func zvolRead(snapshot string) ([]byte, error) {
	dataset, _, _ := strings.Cut(snapshot, "@")
	shows, err := zfsTry("get", "-H", "-o", "value", "snapdev", dataset)
	if err != nil {
		return nil, err
	}
	if strings.TrimSpace(shows) == "visible" {
		return deviceRead(snapshot)
	}
	pool, _, _ := strings.Cut(dataset, "/")
	clone := pool + "/clone-to-read"
	if _, err := zfsTry("clone", snapshot, clone); err != nil {
		return nil, err
	}
	p, err := deviceRead(clone)
	_, destroying := shell("udevadm settle; zfs destroy " + clone)
	return p, errors.Join(err, destroying)
}

func deviceRead(name string) ([]byte, error) {
	f, err := zvolNode(name, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	p, err := io.ReadAll(f)
	return p, errors.Join(err, f.Close())
}

// The cases that the fake passes, on OpenZFS.
func TestZFSCases(t *testing.T) {
	inside(t)
	zfscases.Run(t, &zfscases.World{ZFS: "zfs", Devices: "/dev/zvol", Try: zfsTry, Write: zvolWrite, Read: zvolRead,
		Many: func(dataset string, n int) error { // without as many devices
			out, err := exec.Command("bash", "-ec", fmt.Sprintf("zfs set snapdev=hidden '%[2]s'; for i in $(seq 1 %[1]d); do zfs snapshot '%[2]s'@m$i; done", n, dataset)).CombinedOutput()
			if err != nil {
				err = fmt.Errorf("%w: %s", err, out)
			}
			return err
		},
		Pool: func(t *testing.T) string {
			name := zfsPool(t, 256)
			run(t, "zfs set snapdev=hidden "+name)
			return name
		}})
}

// A place of zvols keeps the contracts.
func TestZFSConformance(t *testing.T) {
	inside(t)
	pool := zfsPool(t, 1024)
	p, err := zfs.Open(t.Context(), zfs.Options{Devices: "/dev/zvol"})
	if err != nil {
		t.Fatal(err)
	}
	endpointtest.Run(t, check.Fixture{
		Endpoint: p.Endpoint(zfs.Job{Receive: zfs.ReceiveOptions{Placeholder: zfs.Inherit}}), Prefix: pool + "/check",
		Create: func(_ context.Context, dataset string, size int64) error {
			_, err := zfsTry("create", "-p", "-V", fmt.Sprint(size), "-b", "4096", dataset)
			return err
		},
		Write: func(_ context.Context, dataset string, off int64, b []byte) error { return zvolWrite(dataset, off, b) },
		Remove: func(_ context.Context, dataset string) error {
			if _, err := zfsTry("destroy", "-r", dataset); err != nil && strings.Contains(err.Error(), "does not exist") {
				return cairn.KindNotFound
			} else if err != nil {
				return err
			}
			return nil
		},
	}, endpointtest.Options{})
}

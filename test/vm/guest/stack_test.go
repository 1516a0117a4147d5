package guest_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"cairn"
)

// loop makes a block device of a sparse file.
func loop(t *testing.T, mib int) (device string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "disk")
	device = strings.TrimSpace(run(t, fmt.Sprintf("modprobe loop && truncate -s %dM %s && losetup -f --show %s", mib, file, file)))
	undo(t, "losetup -d "+device)
	return device
}

// OpenZFS of the chosen version makes a pool, a zvol with its link, and carries a
// snapshot and an increment from a bookmark to another pool.
func TestOpenZFS(t *testing.T) {
	inside(t)
	run(t, "modprobe zfs")
	version := run(t, "zfs version")
	upstream, _, _ := strings.Cut(os.Getenv("CAIRN_VM_ZFS"), "-")
	if strings.Count(version, "-"+upstream+"-") < 2 {
		t.Errorf("tools and module are to be %s, and say %q", upstream, version)
	}
	dir := t.TempDir()
	for _, pool := range []string{"here", "there"} {
		run(t, fmt.Sprintf("truncate -s 256M %[1]s/%[2]s && zpool create -m none %[2]s %[1]s/%[2]s", dir, pool))
		undo(t, "zpool destroy "+pool)
	}
	run(t, "zfs create -o mountpoint=/mnt/zfs here/data && head -c 5M /dev/urandom >/mnt/zfs/one && zfs snapshot here/data@a && zfs bookmark here/data@a here/data#a")
	run(t, "zfs send here/data@a | zfs recv there/data")
	run(t, "head -c 5M /dev/urandom >/mnt/zfs/two && zfs snapshot here/data@b && zfs destroy here/data@a && zfs send -i here/data#a here/data@b | zfs recv -F there/data")
	guids := strings.Fields(run(t, "zfs get -Hp -o value guid here/data@b there/data@b"))
	if len(guids) != 2 || guids[0] != guids[1] {
		t.Errorf("the received snapshot has another GUID: %v", guids)
	}
	run(t, "zfs set mountpoint=/mnt/zfs2 there/data && cmp /mnt/zfs/one /mnt/zfs2/one && cmp /mnt/zfs/two /mnt/zfs2/two")
	run(t, "zfs create -V 16M here/vol && udevadm settle && mkfs.ext4 -q /dev/zvol/here/vol")
}

// Device-mapper has the targets that tests of faults and power cuts are made of,
// and they do what they are for: one fails writes, one logs them.
func TestDeviceMapper(t *testing.T) {
	inside(t)
	run(t, "modprobe -a dm-snapshot dm-era dm-thin-pool dm-flakey dm-log-writes dm-delay")
	targets := run(t, "dmsetup targets")
	for _, want := range []string{"snapshot", "era", "thin-pool", "flakey", "log-writes", "delay"} {
		if !strings.Contains(targets, want+" ") {
			t.Errorf("no target %s among\n%s", want, targets)
		}
	}
	disk, log := loop(t, 16), loop(t, 32)
	run(t, fmt.Sprintf("dmsetup create failing --table '0 32768 flakey %s 0 0 3600 1 error_writes' && udevadm settle", disk))
	undo(t, "udevadm settle && dmsetup remove failing")
	if err := writeDirect("/dev/mapper/failing"); !errors.Is(err, syscall.EIO) {
		t.Errorf("a write to a failing device gives %v", err)
	}
	run(t, fmt.Sprintf("dmsetup create logged --table '0 32768 log-writes %s %s' && udevadm settle", disk, log))
	undo(t, "udevadm settle && dmsetup remove logged")
	if err := writeDirect("/dev/mapper/logged"); err != nil {
		t.Error(err)
	}
	run(t, "dmsetup message logged 0 mark end")
	if f := strings.Fields(run(t, "dmsetup status logged")); len(f) < 4 || f[3] == "0" {
		t.Errorf("the log of writes says %v", f)
	}
}

// writeDirect writes one block past the page cache. Without O_CREATE a device that
// is not there is an error, not a new file.
func writeDirect(device string) error {
	f, err := os.OpenFile(device, os.O_WRONLY|syscall.O_DIRECT|syscall.O_SYNC, 0)
	if err != nil {
		return err
	}
	page, err := syscall.Mmap(-1, 0, cairn.BlockSize, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		return errors.Join(err, f.Close())
	}
	_, err = f.WriteAt(page, 0)
	return errors.Join(err, f.Close(), syscall.Munmap(page))
}

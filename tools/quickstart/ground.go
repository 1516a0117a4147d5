package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"cairn/internal/mech/kernel"
)

const (
	needRoom    = 3 << 30 // bytes: the disk, two copies restored, the replica
	maxPath     = 64      // bytes of the folder's path: sockets below it must be reachable
	lockName    = "lock"
	markName    = "made-by-quickstart"
	sbinFolders = "/usr/local/sbin:/usr/sbin:/sbin"
)

// findTool looks on the PATH and in the folders that an ordinary user's PATH lacks.
func findTool(name string) string {
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	for dir := range strings.SplitSeq(sbinFolders, ":") {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path
		}
	}
	return ""
}

// findTools returns the paths of the tools that the story cannot do without.
func findTools() (map[string]string, error) {
	tools := map[string]string{}
	for _, name := range []string{"mkfs.ext4", "e2fsck", "debugfs"} {
		if tools[name] = findTool(name); tools[name] == "" {
			return nil, fmt.Errorf("%s is not installed: it makes or checks the ext4 file system of this demonstration; install e2fsprogs (apt install e2fsprogs)", name)
		}
	}
	return tools, nil
}

func findCairn(path string) (string, error) {
	found, err := exec.LookPath(path)
	if err != nil {
		return "", fmt.Errorf("there is no cairn binary at %s: run 'make quickstart', which builds it", path)
	}
	return filepath.Abs(found)
}

// prepare checks the ground and leaves an empty folder, held against a second run
// until unlock.
func prepare(dir string) (unlock func(), err error) {
	if len(dir) > maxPath {
		return nil, fmt.Errorf("the path %s has %d bytes; sockets below it would have names that are too long: move the checkout to a path shorter by %d bytes", dir, len(dir), len(dir)-maxPath)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the folder for this run: %w", err)
	}
	if err := ours(dir); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot write to %s: %w", dir, err)
	}
	if err := kernel.Lock(lock); err != nil {
		return nil, errors.Join(fmt.Errorf("another quickstart is running in %s: wait for its end", dir), lock.Close())
	}
	unlock = func() { _ = lock.Close() }
	if err := sweep(dir); err != nil {
		unlock()
		return nil, err
	}
	if err := checkRoom(dir); err != nil {
		unlock()
		return nil, err
	}
	return unlock, nil
}

// ours refuses a folder with something in it that no earlier run has marked.
func ours(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == markName {
			return nil
		}
	}
	if len(entries) > 1 || len(entries) == 1 && entries[0].Name() != lockName {
		return fmt.Errorf("%s holds files that no quickstart made: name an empty folder with -dir", dir)
	}
	return nil
}

// sweep removes what an earlier run left.
func sweep(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == lockName {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("cannot remove what an earlier run left (made by another user?): %w", err)
		}
	}
	return os.WriteFile(filepath.Join(dir, markName), nil, 0o600)
}

func checkRoom(dir string) error {
	name, err := kernel.FileSystem(dir)
	if err != nil {
		return err
	}
	switch name {
	case "tmpfs", "ramfs", "nfs", "overlay", "cifs", "smb", "9p":
		return fmt.Errorf("%s lies on %s, which does not keep what is written through a power cut as Cairn needs it: use a folder on a local disk (ext4, xfs, btrfs), in a container a mounted volume", dir, name)
	}
	free, _, err := kernel.Space(dir)
	if err != nil {
		return err
	}
	if free < needRoom {
		return fmt.Errorf("%s free at %s, %s needed: make room, or clone to another disk", bytesText(free), dir, bytesText(needRoom))
	}
	return nil
}

// bytesText renders a number of bytes for people.
func bytesText(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
}

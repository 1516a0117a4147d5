package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// memoryDisk is an ext4 of its own on a loop device over a file in memory: a second
// disk that shares nothing with the first but the processor. A store on tmpfs
// itself is refused, and one on a file of the first disk would share that.
type memoryDisk struct {
	backing string
	folder  string
}

// memoryDisk makes one that holds what a round preserves; only root may.
func (b *bench) memoryDisk(ctx context.Context) (_ *memoryDisk, err error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("only root may mount")
	}
	f, err := os.CreateTemp("/dev/shm", "cairn-bench-")
	if err != nil {
		return nil, err
	}
	d := &memoryDisk{f.Name(), b.path("memory")}
	if err := errors.Join(f.Truncate(max(b.size, 512)*mib), f.Close(), os.MkdirAll(d.folder, 0o700)); err != nil {
		return nil, errors.Join(err, os.Remove(d.backing))
	}
	for _, argv := range [][]string{{"mkfs.ext4", "-q", "-F", d.backing}, {"mount", "-o", "loop", d.backing, d.folder}} {
		if out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput(); err != nil {
			return nil, errors.Join(fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, out), os.Remove(d.backing))
		}
	}
	return d, nil
}

// release unmounts the disk and gives its memory back, also after the bench was
// interrupted.
func (d *memoryDisk) release() {
	if out, err := exec.Command("umount", d.folder).CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "umount %s: %v: %s", d.folder, err, out)
	}
	_ = os.Remove(d.backing) // what is left is memory until the next boot
}

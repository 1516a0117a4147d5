package cli

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"cairn"
	"cairn/internal/system/tape"
)

// What the mount tells about itself.
const (
	attrSync  = "user.ltfs.sync"
	attrPID   = "user.ltfs.vendor.cairn.pid"
	attrDrive = "user.ltfs.vendor.cairn.drive"
	attrIndex = "user.ltfs.indexGeneration"
)

func mountAttr(dir, name string) (string, error) {
	buf := make([]byte, 4096)
	n, err := syscall.Getxattr(dir, name, buf)
	if err != nil {
		return "", &cairn.Error{Op: "ask the mount on", Subject: dir, Kind: cairn.KindInvalid, Err: err, Hint: "name the folder on which a tape is mounted"}
	}
	return string(buf[:n]), nil
}

func syncMount(dir string) error {
	if err := syscall.Setxattr(dir, attrSync, []byte("1"), 0); err != nil {
		if errors.Is(err, syscall.EROFS) {
			return nil // nothing can have changed
		}
		kind := cairn.KindIO
		if errors.Is(err, syscall.ENOSPC) {
			kind = cairn.KindSpace
		}
		return &cairn.Error{Op: "sync tape on", Subject: dir, Kind: kind, Err: err, Hint: "cairn tape info " + dir + " says why"}
	}
	return nil
}

func (p *program) tapeSyncCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "sync DIR",
		Short:   "Put everything on a mounted tape, with an index that names it",
		Long:    "Returns when data and index are on tape. Files open for writing are marked as partial in that generation.",
		Example: "  cairn tape sync /mnt/tape",
		Args:    cobra.ExactArgs(1),
		RunE: run(func(_ context.Context, _ *cobra.Command, args []string) error {
			if _, err := mountAttr(args[0], attrPID); err != nil {
				return err
			}
			if err := syncMount(args[0]); err != nil {
				return err
			}
			generation, err := mountAttr(args[0], attrIndex)
			if err != nil {
				return err
			}
			return p.printf("everything is on tape, in generation %s\n", generation)
		}),
	}
}

func (p *program) tapeUnmountCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "unmount DIR",
		Short: "Unmount a tape, wait for its last index and look at it",
		Long: "Syncs first: when that fails the tape stays mounted. Then unmounts, waits for the mounting process to end, and\n" +
			"looks at the tape itself: success means that both partitions end in an index with everything in it.",
		Example: "  cairn tape unmount /mnt/tape",
		Args:    cobra.ExactArgs(1),
		RunE: run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			return p.unmountTape(ctx, args[0])
		}),
	}
}

func (p *program) unmountTape(ctx context.Context, dir string) error {
	pidText, err := mountAttr(dir, attrPID)
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(pidText)
	if err != nil {
		return invalid("unmount tape", dir, "", err)
	}
	name, err := mountAttr(dir, attrDrive)
	if err != nil {
		return err
	}
	// Without room or budget for one more index there is still the last one.
	if err := syncMount(dir); err != nil && cairn.KindOf(err) != cairn.KindSpace {
		return err
	}
	if err := detachFrom(ctx, dir); err != nil {
		return err
	}
	if err := ended(ctx, pid); err != nil {
		return err
	}
	return withTape(ctx, name, false, func(t *tape.Tape) error {
		if notes := t.Notes(); len(notes) > 0 {
			return &cairn.Error{Op: "vouch for tape", Subject: name, Kind: cairn.KindDamaged, Err: errors.New(strings.Join(notes, "; ")),
				Hint: "the process that had mounted it says what happened; cairn tape check --repair brings it into order"}
		}
		return p.printf("unmounted %s: everything is on tape, in generation %d\n", name, t.Index().Generation)
	})
}

func detachFrom(ctx context.Context, dir string) error {
	err := syscall.Unmount(dir, 0)
	if errors.Is(err, syscall.EPERM) {
		if text, herr := exec.CommandContext(ctx, "fusermount3", "-u", dir).CombinedOutput(); herr != nil {
			err = fmt.Errorf("%w: %s", herr, strings.TrimSpace(string(text)))
		} else {
			err = nil
		}
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.EBUSY):
		return &cairn.Error{Op: "unmount", Subject: dir, Kind: cairn.KindBusy, Err: err, Hint: "end the programs that use it; what they wrote so far is on tape"}
	}
	return &cairn.Error{Op: "unmount", Subject: dir, Kind: cairn.KindIO, Err: err}
}

// ended waits for a process to end.
func ended(ctx context.Context, pid int) error {
	for {
		if err := syscall.Kill(pid, 0); errors.Is(err, syscall.ESRCH) {
			return nil
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return &cairn.Error{Op: "wait for the last index", Kind: cairn.KindCanceled, Err: ctx.Err(), Hint: "process " + strconv.Itoa(pid) + " is still writing it"}
		}
	}
}

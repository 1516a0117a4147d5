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
	"cairn/internal/front/ltfsmount"
	"cairn/internal/system/tape"
)

// attrSync is the attribute of a mount's root that syncs.
const attrSync = "user.ltfs.sync"

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
			if _, err := ltfsmount.Ask(args[0]); err != nil {
				return err
			}
			if err := syncMount(args[0]); err != nil {
				return err
			}
			r, err := ltfsmount.Ask(args[0])
			if err != nil {
				return err
			}
			return p.printf("everything is on tape, in generation %d\n", r.Generation)
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
	before, err := ltfsmount.Ask(dir)
	if cairn.KindOf(err) == cairn.KindUnavailable {
		if err := detachFrom(ctx, dir); err != nil {
			return err
		}
		return &cairn.Error{Op: "vouch for tape on", Subject: dir, Kind: cairn.KindUnavailable, Err: errors.New("unmounted, but the process that had mounted it had ended before"),
			Hint: "what was not synced is lost; cairn tape check with the name of the drive says what is on tape"}
	}
	if err != nil {
		return err
	}
	// Without room or budget for one more index there is still the last one; a tape
	// that takes nothing any more has had its last one.
	synced := syncMount(dir)
	r, err := ltfsmount.Ask(dir)
	if err != nil {
		return err
	}
	stopped := r.State == cairn.StateDamaged.String()
	if synced != nil && cairn.KindOf(synced) != cairn.KindSpace && !stopped {
		return synced
	}
	if err := detachFrom(ctx, dir); err != nil {
		return err
	}
	if err := ended(ctx, before.PID); err != nil {
		return err
	}
	if stopped {
		return &cairn.Error{Op: "vouch for tape", Subject: r.Drive, Kind: cairn.KindDamaged, Err: fmt.Errorf("unmounted, but %s and %s are not on it: %s", count(r.AtRisk.Files, "changed file"), size(r.AtRisk.Bytes), r.Why),
			Hint: "what is on it can be read: cairn tape mount --read-only, cairn tape extract"}
	}
	return withTape(ctx, r.Drive, false, func(t *tape.Tape) error {
		if notes := t.Notes(); len(notes) > 0 {
			return &cairn.Error{Op: "vouch for tape", Subject: r.Drive, Kind: cairn.KindDamaged, Err: errors.New(strings.Join(notes, "; ")),
				Hint: "the process that had mounted it says what happened; cairn tape check --repair brings it into order"}
		}
		return p.printf("unmounted %s: everything is on tape, in generation %d\n", r.Drive, t.Index().Generation)
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

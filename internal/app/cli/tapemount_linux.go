package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"cairn"
	"cairn/internal/app/daemon"
	"cairn/internal/front/ltfsmount"
	"cairn/internal/policy/syncpolicy"
	"cairn/internal/system/tape"
	"cairn/internal/system/tape/drive"
)

// tapeMountCommands are those that need FUSE.
func (p *program) tapeMountCommands() []*cobra.Command {
	return []*cobra.Command{p.tapeMountCommand(), p.tapeUnmountCommand(), p.tapeSyncCommand()}
}

// mountOptions are the flags of `tape mount`.
type mountOptions struct {
	sync       []string
	budget     string
	generation uint64
	readOnly   bool
	repair     bool
}

func (p *program) tapeMountCommand() *cobra.Command {
	var o mountOptions
	cmd := &cobra.Command{
		Use:   "mount DRIVE DIR",
		Short: "Mount a tape as a file system, until it is unmounted",
		Long: "Runs until DIR is unmounted (cairn tape unmount, umount) or it gets SIGTERM or an interrupt; its end tells whether\n" +
			"everything is on tape. fsync returns when data and index are. docs/guide/tape-mount.md has the rest.\n" + driveHelp,
		Example: "  cairn tape mount ./TAPE1 /mnt/tape --sync time@5m,close",
		Args:    cobra.ExactArgs(2),
		RunE: run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			return p.mountTape(ctx, args[0], args[1], o)
		}),
	}
	cmd.Flags().StringSliceVar(&o.sync, "sync", []string{"time@5m"}, "when an index is written without asking: unmount, close, time@N; they combine")
	cmd.Flags().StringVar(&o.budget, "index-budget", "", "`SIZE` of tape that indexes may take (default 2 %, at least 1 GB, at most a tenth)")
	cmd.Flags().BoolVar(&o.readOnly, "read-only", false, "write nothing")
	cmd.Flags().BoolVar(&o.repair, "repair", false, "bring a tape that is out of order into order first, as tape check --repair does")
	generationFlag(cmd, &o.generation)
	return cmd
}

func (p *program) mountTape(ctx context.Context, name, dir string, o mountOptions) error {
	f, err := p.openMount(ctx, name, o)
	if err != nil {
		return err
	}
	m, err := p.show(f, name, dir)
	if err != nil {
		return errors.Join(err, f.Close(context.WithoutCancel(ctx)))
	}
	state := "writable"
	if f.Status().ReadOnly {
		state = "read-only"
	}
	if err := p.printf("mounted %s on %s, %s, generation %d\n", name, dir, state, f.Status().Generation); err != nil {
		return errors.Join(err, m.Unmount(), f.Close(context.WithoutCancel(ctx)))
	}
	p.untilUnmounted(ctx, m, dir)
	if err := f.Close(context.WithoutCancel(ctx)); err != nil {
		risk := f.Status().Risk
		p.note("NOT everything is on tape: %s and %s are lost", count(risk.Files, "changed file"), size(risk.Bytes))
		return err
	}
	return p.printf("unmounted %s: everything is on tape, in generation %d\n", name, f.Status().Generation)
}

// openMount opens the tape as a file system.
func (p *program) openMount(ctx context.Context, name string, o mountOptions) (*tape.FS, error) {
	policy, err := syncpolicy.Parse(o.sync...)
	if err != nil {
		return nil, invalid("mount tape", name, "", err)
	}
	fo := tape.FSOptions{Policy: policy, ReadOnly: o.readOnly || o.generation > 0, Creator: creator, Logger: slog.New(slog.NewTextHandler(p.errOut, nil))}
	if o.budget != "" {
		if fo.IndexBudget, err = parseSize(o.budget); err != nil {
			return nil, err
		}
	}
	d, err := drive.Open(ctx, name, drive.Options{ReadOnly: fo.ReadOnly, Logger: fo.Logger})
	if err != nil {
		return nil, err
	}
	t, err := tape.Open(ctx, d, name)
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	if o.repair && !fo.ReadOnly {
		if err := p.repairBefore(ctx, t); err != nil {
			return nil, errors.Join(err, t.Close())
		}
	}
	if o.generation > 0 {
		if fo.Index, err = t.At(ctx, o.generation); err != nil {
			return nil, errors.Join(err, t.Close())
		}
	}
	f, err := tape.NewFS(ctx, t, fo)
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return f, nil
}

func (p *program) repairBefore(ctx context.Context, t *tape.Tape) error {
	fixed, err := t.Recover(ctx, false, creator("Recovery"), time.Now())
	for _, line := range append(fixed.Actions, fixed.Files...) {
		p.note("repaired: %s", line)
	}
	return err
}

func (p *program) show(f *tape.FS, name, dir string) (*ltfsmount.Mount, error) {
	full, err := filepath.Abs(name)
	if err != nil {
		return nil, invalid("mount tape", name, "", err)
	}
	return ltfsmount.Start(f, dir, ltfsmount.Options{Drive: full, Version: daemon.Version, UID: uint32(os.Getuid()), GID: uint32(os.Getgid()),
		ReadOnly: f.Status().ReadOnly, AllowOther: os.Geteuid() == 0, SyncCalls: true, Logger: slog.New(slog.NewTextHandler(p.errOut, nil))})
}

// untilUnmounted waits for somebody to unmount the folder; when the command is
// told to end it does so itself, and cuts off who still uses it after a while.
func (p *program) untilUnmounted(ctx context.Context, m *ltfsmount.Mount, dir string) {
	gone := make(chan struct{})
	go func() {
		m.Wait()
		close(gone)
	}()
	select {
	case <-gone:
		return
	case <-ctx.Done():
	}
	if err := m.Unmount(); err == nil {
		return
	}
	const detach = 2 // MNT_DETACH
	p.note("%s is in use: it is taken away from its users", dir)
	_ = syscall.Unmount(dir, detach) // who cannot do that can only wait
	select {
	case <-gone:
	case <-time.After(5 * time.Second):
	}
}

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
		return &cairn.Error{Op: "sync tape on", Subject: dir, Kind: kind, Err: err, Hint: "the attribute user.ltfs.vendor.cairn.syncState of the folder says why"}
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

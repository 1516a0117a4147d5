package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

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

func (p *program) tapeMountCommand() *cobra.Command {
	var text string
	cmd := &cobra.Command{
		Use:   "mount DRIVE DIR",
		Short: "Mount a tape as a file system",
		Long: "Runs until DIR is unmounted (cairn tape unmount, umount) or it gets SIGTERM or an interrupt; its end tells whether\n" +
			"everything is on tape. With --background it returns when DIR is mounted. fsync returns when data and index are on\n" +
			"tape. DRIVE may be a name under tapes: of the configuration. -o takes the flags' names and those of other LTFS\n" +
			"software (sync_type=, rules=, rollback_mount=, ...). docs/guide/tape-mount.md has the rest, with lines for fstab.\n" + driveHelp,
		Example: "  cairn tape mount ./TAPE1 /mnt/tape --sync time@5m,close",
		Args:    cobra.RangeArgs(1, 2),
		RunE: run(func(ctx context.Context, cmd *cobra.Command, args []string) error {
			o, err := p.mountOptions(cmd, args, text)
			if err == nil && o.drive == "" {
				err = invalid("mount tape", args[len(args)-1], "", errors.New("no drive is named"))
			}
			if err != nil {
				return err
			}
			return p.mountAnywhere(ctx, args[len(args)-1], o)
		}),
	}
	f := cmd.Flags()
	f.StringVarP(&text, "options", "o", "", "`OPTIONS` between commas, as in fstab")
	f.String("sync", "time@5m", "when an index is written without asking: unmount, close, time@N; they combine")
	f.String("fsync", "index", "what fsync waits for: data and a full index, incremental (a small index), data alone")
	f.String("index-budget", "", "`SIZE` of tape that indexes may take (default 2 %, at least 1 GB, at most a tenth)")
	f.String("rules", "", "which files belong to the index partition, as `size=1M/name=*.txt` (default: as the volume says)")
	f.Bool("read-only", false, "write nothing")
	f.Bool("repair", false, "bring a tape that is out of order into order first, as tape check --repair does")
	f.Bool("sync-calls", true, "let sync(2) of any program wait for the tape, where the kernel can (root, Linux 6.18)")
	f.Bool("background", false, "return when it is mounted, and go on in the background")
	f.String("log", "", "`FILE` for messages of a mount in the background (default: in the state folder)")
	f.String("metrics", "", "`FILE` (*.prom) to keep metrics in, for a collector of text files")
	f.Uint64P("generation", "g", 0, "an older `GENERATION` instead of the newest, read-only")
	return cmd
}

// mountOptions gathers what the configuration, -o and the flags say, in this
// order.
func (p *program) mountOptions(cmd *cobra.Command, args []string, text string) (mountOptions, error) {
	o := mountOptions{policy: syncpolicy.Default(), fsync: "index"}
	if len(args) == 2 {
		o.drive = args[0]
	}
	cfg, err := p.config()
	if err != nil {
		return o, err
	}
	name := o.drive
	if full, err := filepath.Abs(name); err == nil && cfg.Tape(name).Drive == "" {
		name = full // a drive by its path
	}
	if err := o.configure(cfg.Tape(name)); err != nil {
		return o, err
	}
	if err := o.parse(text); err != nil {
		return o, err
	}
	cmd.Flags().Visit(func(f *pflag.Flag) {
		if f.Name != "options" && f.Name != "config" && err == nil {
			err = o.set(strings.ReplaceAll(f.Name, "-", "_"), f.Value.String())
		}
	})
	return o, err
}

// mountAnywhere mounts here, or in the background by a process of its own.
func (p *program) mountAnywhere(ctx context.Context, dir string, o mountOptions) error {
	if o.background && !isBackground() {
		if err := uncovered(dir); err != nil {
			return err
		}
		return p.mountInBackground(ctx, o)
	}
	parent := waitingParent()
	if full, err := filepath.Abs(o.drive); err == nil && parent != nil {
		o.drive = full // it will leave the working folder
		if o.metrics != "" {
			o.metrics, _ = filepath.Abs(o.metrics)
		}
	}
	err := uncovered(dir)
	if err == nil {
		err = p.mountTape(ctx, dir, o, parent)
	}
	parent.failed(err)
	return err
}

// uncovered refuses a folder on which a tape is mounted: a second one would hide it.
func uncovered(dir string) error {
	there, err := ltfsmount.Ask(dir)
	switch {
	case err == nil:
		return &cairn.Error{Op: "mount on", Subject: dir, Kind: cairn.KindBusy, Err: fmt.Errorf("%s is mounted on it", there.Drive), Hint: "cairn tape unmount " + dir}
	case cairn.KindOf(err) == cairn.KindUnavailable:
		return err
	}
	return nil // what else is wrong with it mounting tells
}

// mountTape mounts, serves until it is unmounted, and ends the last generation.
func (p *program) mountTape(ctx context.Context, dir string, o mountOptions, parent *parent) error {
	// Calls pass through several goroutines, one after the other. On one processor they
	// take turns; on more each would wake a thread for the next, which doubles what a
	// small write costs (decision 2403).
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(1)
	}
	f, err := p.openMount(ctx, o)
	if err != nil {
		return err
	}
	m, err := p.show(f, dir, o)
	if err != nil {
		return errors.Join(err, f.Close(context.WithoutCancel(ctx)))
	}
	state := "writable"
	if f.Status().ReadOnly {
		state = "read-only"
	}
	if why := f.ReadOnlyWhy(); why != "" {
		state += " since " + why
	}
	said := fmt.Sprintf("mounted %s on %s, %s, generation %d", o.drive, dir, state, f.Status().Generation)
	if err := p.printf("%s\n", said); err != nil {
		return errors.Join(err, m.Unmount(), f.Close(context.WithoutCancel(ctx)))
	}
	forget := p.keepMetrics(ctx, m, o.metrics)
	parent.mounted(said)
	p.untilUnmounted(ctx, m, dir)
	forget()
	if err := f.Close(context.WithoutCancel(ctx)); err != nil {
		risk := f.Status().Risk
		p.note("NOT everything is on tape: %s and %s are lost", count(risk.Files, "changed file"), size(risk.Bytes))
		return err
	}
	return p.printf("unmounted %s: everything is on tape, in generation %d\n", o.drive, f.Status().Generation)
}

// openMount opens the tape as a file system.
func (p *program) openMount(ctx context.Context, o mountOptions) (*tape.FS, error) {
	fsync, err := tape.ParseFsync(o.fsync)
	if err != nil {
		return nil, invalid("mount tape", o.drive, "", err)
	}
	fo := tape.FSOptions{Policy: o.policy, Fsync: fsync, Rules: o.rules, ReadOnly: o.readOnly || o.generation > 0, IndexBudget: o.budget, Buffer: o.buffer, Creator: creator, Logger: p.logger()}
	d, err := drive.Open(ctx, o.drive, drive.Options{ReadOnly: fo.ReadOnly, Logger: fo.Logger})
	if err != nil {
		return nil, err
	}
	t, err := tape.Open(ctx, d, o.drive)
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	f, err := p.openVolume(ctx, t, o, fo)
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return f, nil
}

// openVolume makes a file system of an open tape, if it is one that belongs into
// the drive.
func (p *program) openVolume(ctx context.Context, t *tape.Tape, o mountOptions, fo tape.FSOptions) (_ *tape.FS, err error) {
	if name := t.Index().Root.Name; !belongs(o.labels, t.Barcode(), name) {
		return nil, &cairn.Error{Op: "mount tape", Subject: o.drive, Kind: cairn.KindConflict,
			Err: fmt.Errorf("the tape in it has barcode %q and name %q; the configuration says that labels are %q", t.Barcode(), name, o.labels), Hint: "load the right tape"}
	}
	if o.repair && !fo.ReadOnly {
		if err := p.repairBefore(ctx, t); err != nil {
			return nil, err
		}
	}
	if o.generation > 0 {
		if fo.Index, err = t.At(ctx, o.generation); err != nil {
			return nil, err
		}
	}
	return tape.NewFS(ctx, t, fo)
}

// belongs reports whether a pattern fits the barcode or the name of a tape.
func belongs(pattern string, words ...string) bool {
	fits := pattern == ""
	for _, w := range words {
		ok, err := path.Match(pattern, w)
		fits = fits || ok && err == nil
	}
	return fits
}

func (p *program) logger() *slog.Logger { return slog.New(slog.NewTextHandler(p.errOut, nil)) }

func (p *program) repairBefore(ctx context.Context, t *tape.Tape) error {
	if err := t.CheckWritable(ctx); err != nil {
		return err
	}
	fixed, err := t.Recover(ctx, false, creator("Recovery"), time.Now())
	for _, line := range append(fixed.Actions, fixed.Files...) {
		p.note("repaired: %s", line)
	}
	return err
}

func (p *program) show(f *tape.FS, dir string, o mountOptions) (*ltfsmount.Mount, error) {
	full, err := filepath.Abs(o.drive)
	if err != nil {
		return nil, invalid("mount tape", o.drive, "", err)
	}
	show := ltfsmount.Options{Drive: full, Version: daemon.Version, UID: uint32(os.Getuid()), GID: uint32(os.Getgid()), FileMode: o.fileMode, DirMode: o.dirMode,
		ReadOnly: f.Status().ReadOnly, AllowOther: os.Geteuid() == 0, SyncCalls: !o.noSync, Logger: p.logger()}
	if o.uid != nil {
		show.UID = *o.uid
	}
	if o.gid != nil {
		show.GID = *o.gid
	}
	if o.allowOther != nil {
		show.AllowOther = *o.allowOther
	}
	return ltfsmount.Start(f, dir, show)
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

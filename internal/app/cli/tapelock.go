package cli

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"cairn"
	"cairn/internal/system/tape"
	"cairn/internal/system/tape/drive"
	"cairn/ltfs"
)

func (p *program) tapeLockCommand() *cobra.Command {
	var unlock, permanent bool
	var ask consent
	cmd := &cobra.Command{
		Use:   "lock DRIVE",
		Short: "Lock a tape against writing, or unlock it",
		Long: "A locked tape is mounted and opened for reading only, by Cairn and by other LTFS software. --unlock lifts the lock.\n" +
			"--permanent can never be lifted and asks. The lock is written as a new generation. " + driveHelp,
		Example: "  cairn tape lock ./TAPE1",
		Args:    cobra.ExactArgs(1),
		RunE: run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			if unlock && permanent {
				return invalid("lock tape", args[0], "choose one", errors.New("--unlock and --permanent contradict each other"))
			}
			lock, reason := ltfs.Locked, "Lock"
			switch {
			case unlock:
				lock, reason = ltfs.Unlocked, "Unlock"
			case permanent:
				lock = ltfs.PermLocked
				if ok, err := p.agree(ctx, ask, "lock tape", args[0], "make it impossible for ever to write to the tape "+args[0]); err != nil || !ok {
					return err
				}
			case ask.dryRun:
				return p.printf("would lock the tape %s\n", args[0])
			}
			if ask.dryRun {
				return p.printf("would unlock the tape %s\n", args[0])
			}
			return p.lockTape(ctx, args[0], lock, reason)
		}),
	}
	cmd.Flags().BoolVar(&unlock, "unlock", false, "lift the lock")
	cmd.Flags().BoolVar(&permanent, "permanent", false, "for ever")
	ask.flags(cmd)
	return cmd
}

func (p *program) lockTape(ctx context.Context, name string, lock ltfs.Lock, reason string) error {
	return withOpenTape(ctx, name, true, func(t *tape.Tape) error {
		if err := t.SetLock(ctx, lock, creator(reason), time.Now()); err != nil {
			return err
		}
		return p.printf("%s is %s, in generation %d\n", name, lock, t.Index().Generation)
	})
}

// eraser is a drive that can overwrite a whole medium.
type eraser interface{ Erase(context.Context) error }

func (p *program) tapeWipeCommand() *cobra.Command {
	var erase bool
	var ask consent
	cmd := &cobra.Command{
		Use:   "wipe DRIVE",
		Short: "Make a tape blank; everything on it is lost",
		Long: "Leaves a medium of one partition with nothing on it. --erase also overwrites what stood there, which takes hours on\n" +
			"a real drive. A tape that is mounted or locked is refused. " + driveHelp,
		Example: "  cairn tape wipe ./TAPE1 --dry-run",
		Args:    cobra.ExactArgs(1),
		RunE: run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			return p.wipeTape(ctx, args[0], erase, ask)
		}),
	}
	cmd.Flags().BoolVar(&erase, "erase", false, "overwrite the whole medium")
	ask.flags(cmd)
	return cmd
}

// wipeTape opens the drive for writing also for a dry run, so that it refuses what
// the wiping would refuse.
func (p *program) wipeTape(ctx context.Context, name string, erase bool, ask consent) error {
	d, err := drive.Open(ctx, name, drive.Options{})
	if err != nil {
		return err
	}
	err = p.wipe(ctx, d, name, erase, ask)
	return errors.Join(err, d.Close())
}

func (p *program) wipe(ctx context.Context, d drive.Drive, name string, erase bool, ask consent) error {
	what, err := lostBy(ctx, d, "wipe tape", name)
	if err != nil {
		return err
	}
	if ok, err := p.agree(ctx, ask, "wipe tape", name, "destroy "+what); err != nil || !ok {
		return err
	}
	if e, can := d.(eraser); erase && can {
		err = e.Erase(ctx)
	} else {
		err = d.Format(ctx, 1)
	}
	if err != nil {
		return err
	}
	return p.printf("wiped %s: it is blank\n", name)
}

// lostBy says what destroying everything on a tape destroys; locked ones are
// refused.
func lostBy(ctx context.Context, d drive.Drive, op, name string) (string, error) {
	const unreadable = "everything on the tape "
	value, text, err := tape.MediumLock(ctx, d)
	if err != nil {
		return "", err
	}
	if value == 1 || value == 3 {
		return "", lockedAgainst(op, name, text)
	}
	t, err := tape.Open(ctx, d, name)
	switch {
	case ctx.Err() != nil:
		return "", err
	case err != nil:
		return unreadable + name, nil // blank, foreign or damaged: nothing can be told
	case t.Index().Lock != ltfs.Unlocked:
		return "", lockedAgainst(op, name, t.Index().Lock.String())
	}
	files := 0
	for _, n := range t.Index().All() {
		if n.File != nil {
			files++
		}
	}
	return "the volume " + quoted(t.Index().Root.Name, t.Barcode()) + " on " + name + " with " + count(files, "file"), nil
}

func lockedAgainst(op, name, lock string) error {
	hint := "cairn tape lock --unlock " + name + " lifts the lock"
	if lock == ltfs.PermLocked.String() {
		hint = "it is locked for ever"
	}
	return &cairn.Error{Op: op, Subject: name, Kind: cairn.KindPermission, Err: errors.New("it is " + lock), Hint: hint}
}

// quoted is the name of a volume in a sentence.
func quoted(name, barcode string) string {
	switch {
	case name == "" && barcode == "":
		return "without a name"
	case name == "":
		return barcode
	case barcode == "":
		return "'" + name + "'"
	}
	return "'" + name + "' (" + barcode + ")"
}

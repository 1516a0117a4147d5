package cli

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"cairn/internal/app/daemon"
	"cairn/internal/system/tape"
	"cairn/internal/system/tape/drive"
	"cairn/ltfs"
)

// tapeCommand groups what works on an LTFS tape.
func (p *program) tapeCommand() *cobra.Command {
	members := append([]*cobra.Command{p.tapeListCommand()}, p.tapeMountCommands()...)
	for _, cmd := range []*cobra.Command{p.tapeFormatCommand(), p.tapeInfoCommand(), p.tapeLsCommand(), p.tapePutCommand(), p.tapeExtractCommand(),
		p.tapeHistoryCommand(), p.tapeRollbackCommand(), p.tapeCheckCommand(), p.tapeIndexCommand(), p.tapeLockCommand(), p.tapeWipeCommand()} {
		members = append(members, p.byName(cmd))
	}
	return family(groupTape, "tape", "Format, mount, read, write and check LTFS tapes", "  cairn tape info ./TAPE1", members...)
}

const driveHelp = "DRIVE is a tape drive's generic SCSI node (/dev/sg1), a folder of records, the form in which LTFS tools keep\na tape without a drive, or a name under tapes: of the configuration."

// creator is what an index says of who wrote it and why.
func creator(reason string) string {
	return "Cairn " + daemon.Version + " - Linux - cairn - " + reason
}

// withTape opens the tape on a drive, calls use, and closes it. A locked one is not
// opened for writing.
func withTape(ctx context.Context, name string, write bool, use func(*tape.Tape) error) error {
	return withOpenTape(ctx, name, write, unlocked(ctx, write, use))
}

// unlocked refuses a locked tape that is to be written.
func unlocked(ctx context.Context, write bool, use func(*tape.Tape) error) func(*tape.Tape) error {
	return func(t *tape.Tape) error {
		if write {
			if err := t.CheckWritable(ctx); err != nil {
				return err
			}
		}
		return use(t)
	}
}

// withOpenTape is withTape for locked tapes, too.
func withOpenTape(ctx context.Context, name string, write bool, use func(*tape.Tape) error) error {
	return openWith(ctx, name, write, use, tape.Open)
}

// openWith is withOpenTape with another way to open.
func openWith(ctx context.Context, name string, write bool, use func(*tape.Tape) error, open func(context.Context, drive.Drive, string) (*tape.Tape, error)) error {
	d, err := drive.Open(ctx, name, drive.Options{ReadOnly: !write})
	if err != nil {
		return err
	}
	t, err := open(ctx, d, name)
	if err != nil {
		return errors.Join(err, d.Close())
	}
	err = use(t)
	if closing := t.Close(); err == nil {
		return closing
	}
	return err
}

func (p *program) tapeFormatCommand() *cobra.Command {
	var name, barcode, blocks, rules string
	var fixed bool
	var ask consent
	cmd := &cobra.Command{
		Use:     "format DRIVE",
		Short:   "Make an empty LTFS volume; what the tape held is lost",
		Long:    "Makes an empty LTFS volume (format 2.4). " + driveHelp + " A folder that does not exist is made.",
		Example: "  cairn tape format ./TAPE1 --name 'Records 2026' --barcode REC026",
		Args:    cobra.ExactArgs(1),
		RunE: run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o := tape.FormatOptions{Name: name, Barcode: barcode, Creator: creator("Format"), Now: time.Now(), Application: daemon.Version, LockPolicy: fixed}
			if blocks != "" {
				n, err := parseSize(blocks)
				if err != nil {
					return err
				}
				o.BlockSize = uint64(n)
			}
			if rules != "" {
				var err error
				if o.Policy, err = placementRules(rules); err != nil {
					return err
				}
			}
			return p.formatTape(ctx, args[0], o, ask)
		}),
	}
	cmd.Flags().StringVar(&name, "name", "", "`NAME` of the volume")
	cmd.Flags().StringVar(&barcode, "barcode", "", "six capital letters and digits")
	cmd.Flags().StringVar(&blocks, "block-size", "", "`SIZE` of a record (default 512KiB)")
	cmd.Flags().StringVar(&rules, "rules", "", "which files belong to the index partition, as `size=1M/name=*.txt`")
	cmd.Flags().BoolVar(&fixed, "no-override", false, "allow no other rules than these, to any mount or put")
	ask.flags(cmd)
	return cmd
}

func (p *program) formatTape(ctx context.Context, name string, o tape.FormatOptions, ask consent) error {
	if entries, err := os.ReadDir(name); errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0 {
		if ask.dryRun {
			return p.printf("would make a tape in the new folder %s\n", name)
		}
		d, err := drive.CreateFolder(name, drive.FolderOptions{})
		if err != nil {
			return err
		}
		return p.finishFormat(ctx, d, name, o)
	}
	d, err := drive.Open(ctx, name, drive.Options{ReadOnly: ask.dryRun})
	if err != nil {
		return err
	}
	what, err := lostBy(ctx, d, "format tape", name)
	if err != nil {
		return errors.Join(err, d.Close())
	}
	if ok, err := p.agree(ctx, ask, "format tape", name, "destroy "+what); err != nil || !ok {
		return errors.Join(err, d.Close())
	}
	return p.finishFormat(ctx, d, name, o)
}

func (p *program) finishFormat(ctx context.Context, d drive.Drive, name string, o tape.FormatOptions) error {
	t, err := tape.Format(ctx, d, name, o)
	if err != nil {
		return errors.Join(err, d.Close())
	}
	if err := t.Close(); err != nil {
		return err
	}
	return p.printf("formatted %s: volume %s, generation 1\n", name, t.Label().VolumeUUID)
}

// tapeInfo is what `tape info` tells.
type tapeInfo struct {
	Drive      string    `json:"drive"`
	Name       string    `json:"name"`
	Barcode    string    `json:"barcode,omitempty"`
	UUID       string    `json:"uuid"`
	Format     string    `json:"format"`
	BlockSize  uint64    `json:"block_size"`
	Generation uint64    `json:"generation"`
	Written    time.Time `json:"written"`
	Creator    string    `json:"creator"`
	Lock       string    `json:"lock"`
	Files      int       `json:"files"`
	Bytes      uint64    `json:"bytes"`
	Total      int64     `json:"total_bytes"`
	Remaining  int64     `json:"remaining_bytes"`
	Problems   []string  `json:"problems"`
}

func describeTape(ctx context.Context, name string, t *tape.Tape) (tapeInfo, error) {
	ix, label := t.Index(), t.Label()
	room, err := t.Capacity(ctx)
	if err != nil {
		return tapeInfo{}, err
	}
	lock, err := t.LockText(ctx)
	if err != nil {
		return tapeInfo{}, err
	}
	info := tapeInfo{Drive: name, Name: ix.Root.Name, Barcode: t.Barcode(), UUID: label.VolumeUUID, Format: label.Version, BlockSize: label.BlockSize,
		Generation: ix.Generation, Written: ix.UpdateTime.Time(), Creator: ix.Creator, Lock: cmp.Or(lock, ix.Lock.String()), Total: room.Total, Remaining: room.Remaining,
		Problems: append([]string{}, t.Notes()...)}
	for _, n := range ix.All() {
		if n.File != nil {
			info.Files++
			info.Bytes += n.File.Length
		}
	}
	return info, nil
}

func (p *program) tapeInfoCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "info DRIVE",
		Short:   "Tell what a tape is, what it holds and what is out of order",
		Long:    "Reads labels and the newest index; writes nothing. Of a folder on which a tape is mounted it tells what a power\ncut now would lose, and how syncing goes. " + driveHelp,
		Example: "  cairn tape info ./TAPE1",
		Args:    cobra.ExactArgs(1),
		RunE: run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			if mounted, err := p.mountedInfo(args[0], asJSON); mounted {
				return err
			}
			return withTape(ctx, args[0], false, func(t *tape.Tape) error {
				info, err := describeTape(ctx, args[0], t)
				if err != nil {
					return err
				}
				if asJSON {
					return p.printJSON(info)
				}
				return p.printTapeInfo(info)
			})
		}),
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func (p *program) printTapeInfo(i tapeInfo) error {
	rows := [][]string{
		{"volume", strconv.Quote(i.Name), i.Barcode}, {"uuid", i.UUID}, {"format", "LTFS " + i.Format + ", records of " + size(int64(i.BlockSize))},
		{"generation", strconv.FormatUint(i.Generation, 10), localTime(i.Written), i.Creator}, {"lock", i.Lock},
		{"holds", count(i.Files, "file"), size(int64(i.Bytes))}, {"room", size(i.Remaining) + " of " + size(i.Total)},
	}
	for _, problem := range i.Problems {
		rows = append(rows, []string{"problem", problem})
	}
	return p.table(rows)
}

// generationOf finds the index that --generation names; 0 is the newest.
func generationOf(ctx context.Context, t *tape.Tape, generation uint64) (*ltfs.Index, error) {
	if generation == 0 {
		return t.Index(), nil
	}
	return t.At(ctx, generation)
}

// treeOf is generationOf, or with salvage the tree that a repair would write.
func treeOf(ctx context.Context, t *tape.Tape, generation uint64, salvage bool) (*ltfs.Index, error) {
	if salvage {
		return t.Salvaged(ctx, time.Now())
	}
	return generationOf(ctx, t, generation)
}

func salvageFlag(cmd *cobra.Command, salvage *bool) {
	cmd.Flags().BoolVar(salvage, "salvage", false, "also what stands behind the last index of a torn tape; nothing is written")
	cmd.MarkFlagsMutuallyExclusive("salvage", "generation")
}

func generationFlag(cmd *cobra.Command, g *uint64) {
	cmd.Flags().Uint64VarP(g, "generation", "g", 0, "an older `GENERATION` instead of the newest")
}

package cli

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"cairn"
	"cairn/internal/mech/watchdog"
	"cairn/internal/system/tape"
	"cairn/ltfs"
)

func (p *program) tapePutCommand() *cobra.Command {
	var to, rules string
	cmd := &cobra.Command{
		Use:   "put DRIVE FILE…",
		Short: "Copy files and folders to a tape and commit them in one generation",
		Long: "Everything is packed densely: small files share records, holes stay holes. What is there under the same name is\n" +
			"replaced in the new generation; older generations keep it. Owners and modes are not part of LTFS; the read-only flag\n" +
			"and the user's extended attributes are. Files that the volume's placement rules name (tape format --rules) go to the\n" +
			"index partition, where they are found without winding; --rules are others for this time.",
		Example: "  cairn tape put ./TAPE1 --to /2026 ./invoices ./letters\n  cairn tape put ./TAPE1 --rules size=64K/name=*.md5 ./2026",
		Args:    cobra.MinimumNArgs(2),
		RunE: run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o := tape.PutOptions{Creator: creator("Put")}
			if rules != "" {
				var err error
				if o.Policy, err = placementRules(rules); err != nil {
					return err
				}
			}
			return withTape(ctx, args[0], true, func(t *tape.Tape) error { return p.putOnTape(ctx, t, args[1:], to, o) })
		}),
	}
	cmd.Flags().StringVar(&to, "to", "/", "`FOLDER` on the tape")
	cmd.Flags().StringVar(&rules, "rules", "", "which files go to the index partition, as `size=1M/name=*.txt`; size=0: none")
	return cmd
}

func placementRules(rules string) (*ltfs.Policy, error) {
	policy, err := ltfs.ParsePolicy(rules)
	if err != nil {
		return nil, invalid("use placement rules", strconv.Quote(rules), "", err)
	}
	return policy, nil
}

// watchTape shows how many bytes were moved, of how many.
func (p *program) watchTape(ctx context.Context, title string) (context.Context, *bar) {
	progress := &watchdog.Progress{}
	b := p.startBar(title)
	b.poll(func() (int64, int64, string) {
		r := progress.Report()
		return r.Counters["bytes"], r.Counters["expected"], r.Phase
	})
	return watchdog.With(ctx, progress), b
}

// putOnTape commits also what a full tape or a failing source left half way: each
// file is on tape whole or not at all.
func (p *program) putOnTape(ctx context.Context, t *tape.Tape, sources []string, to string, o tape.PutOptions) error {
	watched, b := p.watchTape(ctx, "put")
	done, failed := t.PutAll(watched, sources, to, o)
	b.end()
	for _, s := range done.Skipped {
		p.note("left out %s", s)
	}
	if err := t.Commit(context.WithoutCancel(ctx), o.Creator, "", time.Now()); err != nil {
		return errors.Join(failed, err)
	}
	if failed != nil && done.Files+done.Dirs+done.Links == 0 {
		return failed
	}
	where := ""
	if done.Indexed > 0 {
		where = fmt.Sprintf(", %s of them in the index partition", count(done.Indexed, "file"))
	}
	if err := p.printf("%s, %s on tape in generation %d%s\n", count(done.Files, "file"), size(done.Bytes), t.Index().Generation, where); err != nil {
		return err
	}
	return failed
}

func (p *program) tapeExtractCommand() *cobra.Command {
	var to, captured string
	var generation uint64
	var overwrite, salvage bool
	cmd := &cobra.Command{
		Use:   "extract DRIVE [PATH…]",
		Short: "Copy files from a tape into a folder, in the order they stand on it",
		Long: "The tape is read in one pass, whatever order the files have. A file of which something cannot be read is left out and\n" +
			"named, and the others are extracted. --index uses a captured index where the tape's own cannot be read.",
		Example: "  cairn tape extract ./TAPE1 /2026/invoices --to ./restored",
		Args:    cobra.MinimumNArgs(1),
		RunE: run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			return withCaptured(ctx, args[0], captured, false, func(t *tape.Tape) error {
				ix, err := treeOf(ctx, t, generation, salvage)
				if err != nil {
					return err
				}
				return p.extract(ctx, t, to, args[0], tape.ExtractOptions{Index: ix, Paths: args[1:], Overwrite: overwrite})
			})
		}),
	}
	cmd.Flags().StringVar(&to, "to", ".", "`FOLDER` to write to")
	cmd.Flags().BoolVar(&overwrite, "overwrite", false, "replace files that exist")
	generationFlag(cmd, &generation)
	salvageFlag(cmd, &salvage)
	capturedFlag(cmd, &captured)
	return cmd
}

func (p *program) extract(ctx context.Context, t *tape.Tape, to, name string, o tape.ExtractOptions) error {
	watched, b := p.watchTape(ctx, "extract")
	lost := 0
	o.Skipped = func(path, reason string) {
		lost++
		b.pause()
		p.note("lost %s: %s", path, reason)
	}
	done, err := t.Extract(watched, to, o)
	b.end()
	if err != nil {
		return err
	}
	if done.Dropped > 0 {
		p.note("%s left out: %s has none", count(done.Dropped, "extended attribute"), to)
	}
	if err := p.printf("%s, %s extracted to %s\n", count(done.Files, "file"), size(done.Bytes), to); err != nil || lost == 0 {
		return err
	}
	return &cairn.Error{Op: "extract everything from tape", Subject: name, Kind: cairn.KindDamaged, Err: errors.New(count(lost, "file") + " cannot be read whole"),
		Hint: "cairn tape history lists older generations, which may hold them elsewhere"}
}

package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"cairn"
	"cairn/internal/system/tape"
)

// tapeGeneration is a line of `tape history`.
type tapeGeneration struct {
	Generation uint64    `json:"generation"`
	Written    time.Time `json:"written"`
	Location   string    `json:"location"`
	Files      int       `json:"files"`
	Partial    []string  `json:"partial"`
	Comment    string    `json:"comment"`
	Creator    string    `json:"creator"`
}

func describeGeneration(g tape.Generation) tapeGeneration {
	ix := g.Index
	line := tapeGeneration{Generation: ix.Generation, Written: ix.UpdateTime.Time(), Location: fmt.Sprintf("%c:%d", ix.Self.Partition, ix.Self.Block),
		Comment: ix.Comment, Creator: ix.Creator, Partial: []string{}}
	for name, n := range ix.All() {
		if n.File == nil {
			continue
		}
		line.Files++
		if n.File.OpenForWrite {
			line.Partial = append(line.Partial, name)
		}
	}
	return line
}

func (p *program) tapeHistoryCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "history DRIVE",
		Short: "List the generations on a tape, newest first",
		Long: "Every full index on the tape, also behind a torn one. The newest stands in both partitions and is listed twice.\n" +
			"PARTIAL counts files that were open for writing when the index was written.",
		Example: "  cairn tape history ./TAPE1",
		Args:    cobra.ExactArgs(1),
		RunE: run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			return withTape(ctx, args[0], false, func(t *tape.Tape) error {
				list := []tapeGeneration{}
				for g, err := range t.Walk(ctx, func(u tape.Unreadable) { p.note("an index cannot be read: %s", u) }) {
					if err != nil {
						return err
					}
					list = append(list, describeGeneration(g))
				}
				if asJSON {
					return p.printJSON(list)
				}
				rows := [][]string{{"GENERATION", "WRITTEN", "AT", "FILES", "PARTIAL", "COMMENT"}}
				for _, g := range list {
					rows = append(rows, []string{strconv.FormatUint(g.Generation, 10), localTime(g.Written), g.Location, strconv.Itoa(g.Files),
						strconv.Itoa(len(g.Partial)), g.Comment})
				}
				return p.table(rows)
			})
		}),
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func (p *program) tapeRollbackCommand() *cobra.Command {
	var ask consent
	var complete bool
	cmd := &cobra.Command{
		Use:   "rollback DRIVE [GENERATION]",
		Short: "Make an older generation the current one, in a new generation",
		Long: "Nothing on the tape is lost: the generations in between stay in the history, and can be rolled forward to.\n" +
			"--complete chooses the newest generation without a partial file (tape history counts them).",
		Example: "  cairn tape rollback ./TAPE1 7 --dry-run\n  cairn tape rollback ./TAPE1 --complete",
		Args:    cobra.RangeArgs(1, 2),
		RunE: run(func(ctx context.Context, cmd *cobra.Command, args []string) error {
			if complete == (len(args) == 2) {
				return badUsage(cmd, "name a generation, or say --complete")
			}
			var generation uint64
			if !complete {
				var err error
				if generation, err = strconv.ParseUint(args[1], 10, 64); err != nil {
					return badUsage(cmd, "%q is no generation", args[1])
				}
			}
			return withTape(ctx, args[0], true, func(t *tape.Tape) error {
				if complete {
					var err error
					if generation, err = newestComplete(ctx, t); err != nil {
						return err
					}
					if generation == t.Index().Generation {
						return p.printf("generation %d is current, and has no partial file\n", generation)
					}
				}
				if _, err := t.At(ctx, generation); err != nil {
					return err
				}
				what := fmt.Sprintf("make generation %d of %s the current one; now it is %d", generation, args[0], t.Index().Generation)
				if ok, err := p.agree(ctx, ask, "roll back tape", args[0], what); err != nil || !ok {
					return err
				}
				if err := t.Rollback(ctx, generation, creator("Rollback"), time.Now()); err != nil {
					return err
				}
				return p.printf("generation %d is current again, as generation %d\n", generation, t.Index().Generation)
			})
		}),
	}
	ask.flags(cmd)
	cmd.Flags().BoolVar(&complete, "complete", false, "the newest generation without a partial file")
	return cmd
}

// newestComplete finds the newest generation without a file that was open for
// writing.
func newestComplete(ctx context.Context, t *tape.Tape) (uint64, error) {
	for g, err := range t.History(ctx) {
		if err != nil {
			return 0, err
		}
		if len(describeGeneration(g).Partial) == 0 {
			return g.Index.Generation, nil
		}
	}
	return 0, &cairn.Error{Op: "find complete generation", Kind: cairn.KindNotFound, Err: errors.New("every generation has partial files")}
}

func (p *program) tapeCheckCommand() *cobra.Command {
	var repair, data, asJSON bool
	var captured string
	cmd := &cobra.Command{
		Use:   "check DRIVE",
		Short: "Check a tape, and with --repair bring it back into order",
		Long: "Without --repair nothing is written, and what a repair would do is listed. A repair overwrites nothing in the data\n" +
			"partition: it brings back what stands behind the last index, under the names that a torn or incremental index still\n" +
			"holds, and writes a new generation. --index uses a captured index where the tape's own cannot be read.",
		Example: "  cairn tape check ./TAPE1 --data",
		Args:    cobra.ExactArgs(1),
		RunE: run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			return withCaptured(ctx, args[0], captured, repair, func(t *tape.Tape) error {
				problems, err := t.Check(ctx, data)
				if err != nil {
					return err
				}
				fixed, err := t.Recover(ctx, !repair, creator("Recovery"), time.Now())
				if err != nil {
					return err
				}
				fixed.Problems = mergeProblems(problems, fixed.Problems)
				return p.printRepair(args[0], fixed, repair, asJSON)
			})
		}),
	}
	cmd.Flags().BoolVar(&repair, "repair", false, "write what is needed")
	capturedFlag(cmd, &captured)
	cmd.Flags().BoolVar(&data, "data", false, "read every record that files name, too")
	jsonFlag(cmd, &asJSON)
	return cmd
}

// mergeProblems adds what the look behind the last index found beside the check.
func mergeProblems(all, more []string) []string {
	for _, s := range more {
		if !slices.Contains(all, s) {
			all = append(all, s)
		}
	}
	return all
}

func (p *program) printRepair(name string, r tape.Repair, repaired, asJSON bool) error {
	if asJSON {
		if err := p.printJSON(r); err != nil {
			return err
		}
	} else if err := p.printRepairText(name, r, repaired); err != nil {
		return err
	}
	if len(r.Problems) == 0 || repaired && len(r.Actions) > 0 {
		return nil
	}
	return &cairn.Error{Op: "vouch for tape", Subject: name, Kind: cairn.KindDamaged, Err: errors.New(count(len(r.Problems), "problem")),
		Hint: "the list says what; cairn tape check --repair brings the ends back into order"}
}

func (p *program) printRepairText(name string, r tape.Repair, repaired bool) error {
	if len(r.Problems) == 0 {
		return p.printf("%s: in order\n", name)
	}
	verb := "would be done: "
	if repaired {
		verb = "done: "
	}
	for _, s := range r.Problems {
		if err := p.printf("problem: %s\n", s); err != nil {
			return err
		}
	}
	for _, s := range r.Actions {
		if err := p.printf("%s%s\n", verb, s); err != nil {
			return err
		}
	}
	return p.printBroughtBack(r, repaired)
}

// maxBroughtBack bounds the list of files a person reads; --json has them all.
const maxBroughtBack = 50

func (p *program) printBroughtBack(r tape.Repair, repaired bool) error {
	word := "would be brought back: "
	if repaired {
		word = "brought back: "
	}
	list := r.Named
	for _, name := range r.Files {
		list = append(list, "/_ltfs_lostandfound/"+name)
	}
	for _, name := range list[:min(len(list), maxBroughtBack)] {
		if err := p.printf("%s%s\n", word, name); err != nil {
			return err
		}
	}
	if more := len(list) - maxBroughtBack; more > 0 {
		return p.printf("%s%s more\n", word, count(more, "file"))
	}
	return nil
}

package cli

import (
	"context"
	"fmt"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cairn"
	"cairn/internal/system/tape"
	"cairn/internal/system/tape/drive"
	"cairn/ltfs"
)

// tapeEntry is a line of `tape ls`.
type tapeEntry struct {
	Path     string    `json:"path"`
	Kind     string    `json:"kind"` // file, dir, link
	Bytes    uint64    `json:"bytes"`
	Modified time.Time `json:"modified"`
	Target   string    `json:"target,omitempty"`
	Partial  bool      `json:"partial"` // was open for writing when the index was written
}

func entryOf(name string, n ltfs.Node) tapeEntry {
	switch {
	case n.Dir != nil:
		return tapeEntry{Path: name, Kind: "dir", Modified: n.Dir.Times.Modify.Time()}
	case n.File.IsSymlink:
		return tapeEntry{Path: name, Kind: "link", Modified: n.File.Times.Modify.Time(), Target: n.File.Symlink}
	}
	return tapeEntry{Path: name, Kind: "file", Bytes: n.File.Length, Modified: n.File.Times.Modify.Time(), Partial: n.File.OpenForWrite}
}

func (p *program) tapeLsCommand() *cobra.Command {
	var asJSON, salvage bool
	var generation uint64
	var from string
	cmd := &cobra.Command{
		Use:   "ls DRIVE [PATH]",
		Short: "List what a tape holds, now or in an older generation, also without the tape",
		Long: "--from lists a captured index instead (cairn tape index --to): a file, or the folder it was captured to.\n" +
			"Then there is no DRIVE. " + driveHelp,
		Example: "  cairn tape ls ./TAPE1 /records --generation 7\n  cairn tape ls --from ./captures /records",
		Args:    cobra.RangeArgs(0, 2),
		RunE: run(func(ctx context.Context, cmd *cobra.Command, args []string) error {
			if from != "" {
				args = append([]string{from}, args...)
			}
			if len(args) == 0 || len(args) > 2 {
				return badUsage(cmd, "name one DRIVE, or one capture with --from, and at most one PATH")
			}
			below := "/"
			if len(args) == 2 {
				below = filepath.Clean("/" + args[1])
			}
			if from != "" {
				ix, err := tape.ReadCapture(from, generation)
				if err != nil {
					return err
				}
				return p.listTape(ix, below, asJSON)
			}
			return withTape(ctx, args[0], false, func(t *tape.Tape) error {
				ix, err := treeOf(ctx, t, generation, salvage)
				if err != nil {
					return err
				}
				return p.listTape(ix, below, asJSON)
			})
		}),
	}
	cmd.Flags().StringVar(&from, "from", "", "a captured index, `FILE` or folder, instead of a tape")
	generationFlag(cmd, &generation)
	salvageFlag(cmd, &salvage)
	cmd.MarkFlagsMutuallyExclusive("salvage", "from")
	jsonFlag(cmd, &asJSON)
	return cmd
}

func (p *program) listTape(ix *ltfs.Index, below string, asJSON bool) error {
	list := []tapeEntry{}
	for name, n := range ix.All() {
		if name != "/" && (below == "/" || name == below || strings.HasPrefix(name, below+"/")) {
			list = append(list, entryOf(name, n))
		}
	}
	sort.Slice(list, func(i, j int) bool { return list[i].Path < list[j].Path })
	if asJSON {
		return p.printJSON(list)
	}
	if len(list) == 0 && below != "/" {
		return &cairn.Error{Op: "list on tape", Subject: below, Kind: cairn.KindNotFound, Err: fmt.Errorf("it is not in generation %d", ix.Generation)}
	}
	rows := make([][]string, 0, len(list))
	for _, e := range list {
		name := e.Path
		switch e.Kind {
		case "dir":
			name += "/"
		case "link":
			name += " -> " + e.Target
		}
		if e.Partial {
			name += "  (partial: open for writing then)"
		}
		rows = append(rows, []string{size(int64(e.Bytes)), localTime(e.Modified), name})
	}
	return p.table(rows)
}

// tapeIndexCommand prints or captures indexes.
func (p *program) tapeIndexCommand() *cobra.Command {
	var generation uint64
	var to string
	var all bool
	cmd := &cobra.Command{
		Use:   "index DRIVE",
		Short: "Print an index as XML, or capture it to a folder",
		Long: "--to writes BARCODE-GENERATION.schema (a tape without barcode: its UUID), and the newest as BARCODE.schema, too: the\n" +
			"names that other LTFS tools use. A captured index is listed without the tape (cairn tape ls --from), and opens a tape\n" +
			"whose own indexes are damaged (cairn tape extract --index, cairn tape check --index).",
		Example: "  cairn tape index ./TAPE1 > TAPE1.xml\n  cairn tape index ./TAPE1 --to ./captures --all",
		Args:    cobra.ExactArgs(1),
		RunE: run(func(ctx context.Context, cmd *cobra.Command, args []string) error {
			if all && (to == "" || generation != 0) {
				return badUsage(cmd, "--all goes with --to, and without --generation")
			}
			return withTape(ctx, args[0], false, func(t *tape.Tape) error {
				if all {
					return p.captureAll(ctx, t, to)
				}
				ix, err := generationOf(ctx, t, generation)
				if err != nil {
					return err
				}
				if to != "" {
					return p.capture(t, to, ix)
				}
				_, err = ix.WriteTo(p.out)
				return p.wrote(err)
			})
		}),
	}
	cmd.Flags().StringVar(&to, "to", "", "capture to the `FOLDER`")
	cmd.Flags().BoolVar(&all, "all", false, "every generation on the tape")
	generationFlag(cmd, &generation)
	return cmd
}

func (p *program) capture(t *tape.Tape, to string, ix *ltfs.Index) error {
	file, err := t.Capture(to, ix)
	if err != nil {
		return err
	}
	return p.printf("generation %d captured to %s\n", ix.Generation, file)
}

func (p *program) captureAll(ctx context.Context, t *tape.Tape, to string) error {
	seen := map[uint64]bool{}
	for g, err := range t.History(ctx) {
		if err != nil {
			return err
		}
		if seen[g.Index.Generation] {
			continue
		}
		seen[g.Index.Generation] = true
		if err := p.capture(t, to, g.Index); err != nil {
			return err
		}
	}
	return nil
}

// capturedFlag adds the flag that names a captured index.
func capturedFlag(cmd *cobra.Command, captured *string) {
	cmd.Flags().StringVar(captured, "index", "", "a captured index, `FILE` or folder, where the tape's own are damaged")
}

// withCaptured is withTape, with a captured index in hand when one is named.
func withCaptured(ctx context.Context, name, captured string, write bool, use func(*tape.Tape) error) error {
	if captured == "" {
		return withTape(ctx, name, write, use)
	}
	ix, err := tape.ReadCapture(captured, 0)
	if err != nil {
		return err
	}
	return openWith(ctx, name, write, unlocked(ctx, write, use), func(ctx context.Context, d drive.Drive, subject string) (*tape.Tape, error) {
		return tape.OpenCaptured(ctx, d, subject, ix)
	})
}

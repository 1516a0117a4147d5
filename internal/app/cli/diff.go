package cli

import (
	"context"

	"github.com/spf13/cobra"

	"cairn"
)

// changes is what diff prints as JSON.
type changes struct {
	Dataset string   `json:"dataset"`
	From    string   `json:"from"`
	To      string   `json:"to"`
	Bytes   int64    `json:"bytes"` // in all extents together
	Extents []change `json:"extents"`
}

type change struct {
	Offset int64 `json:"offset"`
	Length int64 `json:"length"`
}

func (p *program) diffCommand() *cobra.Command {
	var place string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "diff A B",
		Short: "Show what was written between two versions",
		Long: "A is a version; B is a later version of the same dataset, or the dataset itself: its present\n" +
			"content. The extents hold every block that differs, and blocks rewritten with what they held.",
		Example: "  cairn diff db@monday db@tuesday\n  cairn diff db#golden db --json",
		GroupID: groupSee,
		Args:    cobra.ExactArgs(2),
		RunE: run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			from, err := versionAddress(args[0])
			if err != nil {
				return err
			}
			to, err := cairn.ParseAddress(args[1])
			if err != nil {
				return err
			}
			if to.Dataset != from.Dataset {
				return invalid("compare", args[0]+" with "+args[1], "both have to be versions of one dataset", nil)
			}
			ep, err := p.place(ctx, place)
			if err != nil {
				return err
			}
			out, err := changedExtents(ctx, ep, from, to)
			if err != nil {
				return err
			}
			if asJSON {
				return p.printJSON(out)
			}
			return p.printChanges(out)
		}),
		ValidArgsFunction: p.completeDatasets,
	}
	cmd.Flags().StringVar(&place, "at", "", "the `PLACE` where the versions are (default: here)")
	jsonFlag(cmd, &asJSON)
	return cmd
}

func changedExtents(ctx context.Context, ep *cairn.Endpoint, from, to cairn.Address) (*changes, error) {
	if ep.Changes == nil {
		return nil, ep.Lacks("changes", from.Dataset)
	}
	l, err := findDataset(ctx, ep, from.Dataset)
	if err != nil {
		return nil, err
	}
	a, err := findVersion(ep, l, from.Version)
	if err != nil {
		return nil, err
	}
	var b cairn.VersionID // zero: the head
	if to.Version != "" {
		v, err := findVersion(ep, l, to.Version)
		if err != nil {
			return nil, err
		}
		b = v.VersionID
	}
	out := &changes{Dataset: from.Dataset, From: from.Version, To: to.Version, Extents: []change{}}
	for e, err := range ep.Changes.Changed(ctx, from.Dataset, a.VersionID, b) {
		if err != nil {
			return nil, err
		}
		out.Bytes += e.Length
		out.Extents = append(out.Extents, change{Offset: e.Offset, Length: e.Length})
	}
	return out, nil
}

func (p *program) printChanges(c *changes) error {
	for _, e := range c.Extents {
		if err := p.printf("%d\t%d\n", e.Offset, e.Length); err != nil {
			return err
		}
	}
	to := c.To
	if to == "" {
		to = "now"
	}
	return p.printf("%s: %s in %s written between %s and %s\n", c.Dataset, size(c.Bytes), count(len(c.Extents), "extent"), c.From, to)
}

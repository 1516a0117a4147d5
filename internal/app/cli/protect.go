package cli

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cairn"
	"cairn/client"
	"cairn/internal/work/capture"
)

func (p *program) captureCommand() *cobra.Command {
	var name string
	var bookmark, group bool
	cmd := &cobra.Command{
		Use:   "capture DATASET...",
		Short: "Take a snapshot of each dataset",
		Long: "The snapshot's name defaults to cairn_ and the time in UTC. With --bookmark its data is given up\n" +
			"at once: it costs no room and still knows what changes from then on.",
		Example: "  cairn capture db\n  cairn capture db logs --name before-upgrade",
		GroupID: groupProtect,
		Args:    cobra.MinimumNArgs(1),
		RunE: run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			h, err := p.here(ctx)
			if err != nil {
				return err
			}
			if name == "" {
				name = "cairn_" + strings.ReplaceAll(time.Now().UTC().Format("20060102_150405.000"), ".", "_")
			}
			for i, a := range args {
				if args[i], err = datasetAddress(a); err != nil {
					return err
				}
			}
			report, err := capture.Run(ctx, capture.Options{Endpoint: h.Endpoint, Filter: cairn.All, Names: args, Name: name, Atomic: group, Bookmark: bookmark})
			for _, d := range report.Datasets {
				if d.Version != "" {
					if err := p.printf("%s%s\n", d.Dataset, d.Version); err != nil {
						return err
					}
				}
			}
			return err
		}),
		ValidArgsFunction: p.completeDatasets,
	}
	cmd.Flags().StringVar(&name, "name", "", "`NAME` of the snapshot, without '@'")
	cmd.Flags().BoolVar(&bookmark, "bookmark", false, "keep only a bookmark")
	cmd.Flags().BoolVar(&group, "group", false, "capture all at one instant, or none; several volumes are refused in this version")
	return cmd
}

func (p *program) replicateCommand() *cobra.Command {
	var detach bool
	cmd := &cobra.Command{
		Use:     "replicate JOB [DATASET]",
		Short:   "Run only the replication of a job",
		Long:    "Without DATASET everything that the job selects is replicated. The daemon does the work; the\ncommand shows its progress and ends with it.",
		Example: "  cairn replicate nightly\n  cairn replicate nightly db",
		GroupID: groupProtect,
		Args:    cobra.RangeArgs(1, 2),
		RunE: run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			w := client.Wake{Verbs: []string{"replicate"}}
			if len(args) == 2 {
				dataset, err := datasetAddress(args[1])
				if err != nil {
					return err
				}
				w.Datasets = []string{dataset}
			}
			return p.wakeAndFollow(ctx, args[0], w, detach)
		}),
		ValidArgsFunction: p.completeJobs,
	}
	cmd.Flags().BoolVar(&detach, "detach", false, "do not wait for the run to end")
	return cmd
}

func (p *program) pruneCommand() *cobra.Command {
	return family(groupProtect, "prune", "Show or do what a job's retention rules ask for", "  cairn prune preview nightly",
		p.prunePreviewCommand(), p.pruneRunCommand())
}

func (p *program) prunePreviewCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "preview JOB",
		Short:   "Show what a prune would keep and destroy at each side, and why",
		Example: "  cairn prune preview nightly",
		Args:    cobra.ExactArgs(1),
		RunE: run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			c, err := p.daemon()
			if err != nil {
				return err
			}
			sides, err := c.PrunePreview(ctx, args[0])
			if err != nil {
				return err
			}
			if asJSON {
				return p.printJSON(sides)
			}
			return p.printPrune(sides, true)
		}),
		ValidArgsFunction: p.completeJobs,
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func (p *program) pruneRunCommand() *cobra.Command {
	var c consent
	cmd := &cobra.Command{
		Use:     "run JOB",
		Short:   "Destroy what the preview shows",
		Example: "  cairn prune run nightly --dry-run\n  cairn prune run nightly --yes",
		Args:    cobra.ExactArgs(1),
		RunE: run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			daemon, err := p.daemon()
			if err != nil {
				return err
			}
			sides, err := daemon.PrunePreview(ctx, args[0])
			if err != nil {
				return err
			}
			if err := p.printPrune(sides, false); err != nil {
				return err
			}
			n := countDoomed(sides)
			if n == 0 {
				return p.printf("nothing to destroy\n")
			}
			if ok, err := p.agree(ctx, c, "prune", args[0], "destroy "+count(n, "version")); !ok || err != nil {
				return err
			}
			return p.wakeAndFollow(ctx, args[0], client.Wake{Verbs: []string{"prune"}}, false)
		}),
		ValidArgsFunction: p.completeJobs,
	}
	c.flags(cmd)
	return cmd
}

func countDoomed(sides []client.PruneSide) (n int) {
	for _, s := range sides {
		for _, d := range s.Datasets {
			for _, v := range d.Versions {
				if v.Destroy {
					n++
				}
			}
		}
	}
	return n
}

// printPrune prints each version's fate, with what is kept only when asked.
func (p *program) printPrune(sides []client.PruneSide, kept bool) error {
	for _, s := range sides {
		for _, d := range s.Datasets {
			if d.Error != "" {
				p.note("%s at %s: %s", d.Dataset, s.Side, oneLine(d.Error))
			}
			for _, v := range d.Versions {
				word := "keep   "
				if v.Destroy {
					word = "destroy"
				} else if !kept {
					continue
				}
				if err := p.printf("%s  %s  %s%s  %s\n", word, s.Side, d.Dataset, v.Name, v.Why); err != nil {
					return err
				}
			}
		}
	}
	if kept {
		return p.printf("%s to destroy\n", count(countDoomed(sides), "version"))
	}
	return nil
}

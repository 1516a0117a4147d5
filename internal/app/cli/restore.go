package cli

import (
	"context"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"cairn"
	"cairn/internal/mech/blockio"
	"cairn/internal/work/replicate"
	"cairn/internal/work/restore"
)

func (p *program) restoreCommand() *cobra.Command {
	var place, to string
	var force bool
	var c consent
	cmd := &cobra.Command{
		Use:   "restore DATASET@SNAP",
		Short: "Bring a version back from any place",
		Long: "The default target is a volume of the dataset's name here. When that exists it is brought to the\n" +
			"version after a question. A file or device that exists is overwritten only with --force.",
		Example: "  cairn restore db@monday --at vault\n  cairn restore db@monday --at vault --to volume:db-monday\n  cairn restore db@monday --to file:/tmp/db.img",
		GroupID: groupProtect,
		Args:    cobra.ExactArgs(1),
		RunE: run(func(ctx context.Context, cmd *cobra.Command, args []string) error {
			a, err := versionAddress(args[0])
			if err != nil {
				return err
			}
			kind, target, err := restoreTarget(cmd, to, a.Dataset)
			if err != nil {
				return err
			}
			source, err := p.place(ctx, place)
			if err != nil {
				return err
			}
			report, err := p.restore(ctx, source, a, kind, target, force, c)
			if report != nil && (err == nil || c.dryRun) {
				if printing := p.printRestored(a, kind, target, report, c.dryRun); err == nil {
					err = printing
				}
			}
			if err == nil && kind == "volume" && !c.dryRun {
				return p.handOver(ctx)
			}
			return err
		}),
		ValidArgsFunction: p.completeDatasets,
	}
	cmd.Flags().StringVar(&place, "at", "", "the `PLACE` that has the version (default: here)")
	cmd.Flags().StringVar(&to, "to", "", "`TARGET`: volume:NAME, file:PATH or device:PATH (default: a volume of the same name)")
	cmd.Flags().BoolVar(&force, "force", false, "overwrite a file or device that exists")
	c.flags(cmd)
	return cmd
}

// restoreTarget splits --to; a bare "volume" means the dataset's own name.
func restoreTarget(cmd *cobra.Command, to, dataset string) (kind, target string, err error) {
	kind, target, _ = strings.Cut(to, ":")
	switch {
	case to == "" || to == "volume":
		return "volume", dataset, nil
	case kind == "volume" && target != "":
		return kind, target, cairn.CheckDatasetName(target)
	case (kind == "file" || kind == "device") && target != "":
		return kind, absolute(target), nil
	}
	return "", "", badUsage(cmd, "--to %q is none of volume:NAME, file:PATH and device:PATH", to)
}

func (p *program) restore(ctx context.Context, source *cairn.Endpoint, a cairn.Address, kind, target string, force bool, c consent) (*restore.Report, error) {
	bar := p.startBar("restore " + a.String())
	defer bar.end()
	if kind == "device" {
		if err := isThere(target); err != nil {
			return nil, err
		}
	}
	if kind != "volume" {
		live := &restore.FileLive{}
		bar.poll(func() (int64, int64, string) {
			size, written, verified := live.Progress()
			if verified > 0 {
				return verified, size, "reading it back"
			}
			return written, size, ""
		})
		return restore.ToFile(ctx, restore.FileOptions{
			Source: source, Dataset: a.Dataset, Version: a.Version, Path: target, Force: force, DryRun: c.dryRun, Live: live})
	}
	live := &replicate.Live{}
	bar.poll(func() (int64, int64, string) { return transferred(live.Snapshot()) })
	return restore.ToVolume(ctx, restore.VolumeOptions{
		Source: source, Dataset: a.Dataset, Version: a.Version, Target: p.opened.Endpoint, As: target, DryRun: c.dryRun, Live: live,
		Confirm: func(ctx context.Context, question string) error {
			bar.pause()
			what := strings.TrimSuffix(strings.TrimPrefix(question, "This will "), ".")
			_, err := p.agree(ctx, consent{yes: c.yes}, "restore", target, what)
			return err
		},
	})
}

// isThere refuses a device that does not exist: a mistyped name would become a
// plain file among the devices, in memory.
func isThere(device string) error {
	if _, err := os.Stat(device); err != nil {
		return &cairn.Error{Op: "restore to", Subject: device, Kind: blockio.Kind(err), Err: err, Hint: "name a device that exists, or write a file with --to file:PATH"}
	}
	return nil
}

// transferred sums the steps of a replication.
func transferred(r replicate.Report) (moved, expected int64, what string) {
	for _, d := range r.Datasets {
		for _, a := range d.Attempts {
			for _, s := range a.Steps {
				moved += s.BytesMoved
				expected += max(s.BytesExpected, s.BytesMoved)
				if s.State == replicate.Running {
					what = s.Phase + " " + d.Dataset + s.To
				}
			}
		}
	}
	return moved, expected, what
}

func (p *program) printRestored(a cairn.Address, kind, target string, r *restore.Report, dryRun bool) error {
	for _, line := range r.Plan {
		if dryRun {
			line = "would " + line
		}
		if err := p.printf("%s\n", line); err != nil {
			return err
		}
	}
	if dryRun {
		return nil
	}
	what := a.String() + " → " + kind + " " + target + ": " + size(r.BytesMoved) + " moved of " + size(r.Size)
	if r.SHA256 != "" {
		what += ", sha256 " + r.SHA256
	}
	if r.MovedTo != "" {
		what += "; the former content is " + r.MovedTo
	}
	for _, n := range r.Notes {
		p.note("%s", n)
	}
	return p.printf("%s\n", what)
}

// absolute resolves a path against the working folder, which is not the daemon's.
func absolute(path string) string {
	if path == "" {
		return ""
	}
	if a, err := filepath.Abs(path); err == nil {
		return a
	}
	return path
}

package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"cairn"
	"cairn/client"
	"cairn/internal/work/restore"
)

func (p *program) volumeCommand() *cobra.Command {
	return family(groupVolumes, "volume", "Make, adopt, inspect and change volumes", "  cairn volume create scratch 10GiB",
		p.volumeCreateCommand(), p.volumeAdoptCommand(), p.volumeReleaseCommand(),
		p.volumeListCommand(), p.volumeShowCommand(),
		p.volumeRollbackCommand(), p.volumeResizeCommand(), p.volumeDestroyCommand(),
		p.volumeSendCommand(), p.volumeReceiveCommand(), p.volumeVerifyCommand(), p.volumeMarkDirtyCommand(), p.volumeHashesCommand(),
		p.volumeImportCommand(), p.volumeExportCommand())
}

// registry is what makes and unmakes volumes: the daemon when one runs, since it
// hosts them, else this process.
type registry interface {
	Volume(ctx context.Context, name string) (client.Volume, error)
	CreateVolume(ctx context.Context, v client.NewVolume) error
	ReleaseVolume(ctx context.Context, name string) error
	DestroyVolume(ctx context.Context, name string) error
	MarkDirty(ctx context.Context, name string) error
	SetHashes(ctx context.Context, name string, on bool) error
}

func (p *program) registry(ctx context.Context) (registry, error) {
	c, err := p.running(ctx)
	if err != nil {
		return nil, err
	}
	if c != nil {
		// What this process hosts since it looked, the daemon could not have.
		return c, p.letGo()
	}
	return p.here(ctx)
}

func (p *program) volumeCreateCommand() *cobra.Command {
	var store string
	var hashes bool
	cmd := &cobra.Command{
		Use:     "create NAME SIZE",
		Short:   "Make a volume in a sparse file",
		Long:    "The volume reads as zeroes and takes room only for what is written.",
		Example: "  cairn volume create scratch 10GiB",
		Args:    cobra.ExactArgs(2),
		RunE: run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			bytes, err := parseSize(args[1])
			if err != nil {
				return err
			}
			return p.makeVolume(ctx, client.NewVolume{Name: args[0], Size: bytes, Store: absolute(store), Hashes: hashes})
		}),
	}
	storeFlag(cmd, &store)
	hashesFlag(cmd, &hashes)
	return cmd
}

func (p *program) volumeAdoptCommand() *cobra.Command {
	var store string
	var hashes bool
	cmd := &cobra.Command{
		Use:   "adopt NAME PATH",
		Short: "Protect an existing file or block device in place",
		Long: "The file or device becomes the volume's head and stays as it is: without Cairn it remains usable.\n" +
			"From now on it must be written to only through Cairn; what others write is noticed where that is possible.",
		Example: "  cairn volume adopt db /srv/db.img --store /srv/cairn/db",
		Args:    cobra.ExactArgs(2),
		RunE: run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			return p.makeVolume(ctx, client.NewVolume{Name: args[0], Origin: absolute(args[1]), Store: absolute(store), Hashes: hashes})
		}),
	}
	storeFlag(cmd, &store)
	hashesFlag(cmd, &hashes)
	return cmd
}

func storeFlag(cmd *cobra.Command, store *string) {
	cmd.Flags().StringVar(store, "store", "", "`FOLDER` for what snapshots need (default: below the state folder)")
}

func hashesFlag(cmd *cobra.Command, hashes *bool) {
	cmd.Flags().BoolVar(hashes, "hashes", false, "keep a hash of every block: silent changes are found without a replica")
}

func (p *program) makeVolume(ctx context.Context, v client.NewVolume) error {
	var err error
	if v.Name, err = datasetAddress(v.Name); err != nil {
		return err
	}
	r, err := p.registry(ctx)
	if err != nil {
		return err
	}
	if err := r.CreateVolume(ctx, v); err != nil {
		return err
	}
	return p.printf("%s\n", v.Name)
}

func (p *program) volumeReleaseCommand() *cobra.Command {
	var c consent
	cmd := &cobra.Command{
		Use:     "release NAME",
		Short:   "End the protection of an adopted file or device",
		Long:    "The file or device keeps its content. Its versions, which only Cairn could read, are gone.",
		Example: "  cairn volume release db --yes",
		Args:    cobra.ExactArgs(1),
		RunE: run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			l, err := p.localDataset(ctx, args[0])
			if err != nil {
				return err
			}
			what := fmt.Sprintf("stop protecting %s and destroy its %s", args[0], count(len(l.Versions), "version"))
			if ok, err := p.agree(ctx, c, "release volume", args[0], what); !ok || err != nil {
				return err
			}
			r, err := p.registry(ctx)
			if err != nil {
				return err
			}
			return r.ReleaseVolume(ctx, args[0])
		}),
		ValidArgsFunction: p.completeDatasets,
	}
	c.flags(cmd)
	return cmd
}

// localDataset lists one dataset of this machine.
func (p *program) localDataset(ctx context.Context, name string) (*cairn.Listing, error) {
	if _, err := datasetAddress(name); err != nil {
		return nil, err
	}
	h, err := p.here(ctx)
	if err != nil {
		return nil, err
	}
	return findDataset(ctx, h.Endpoint, name)
}

func (p *program) volumeResizeCommand() *cobra.Command {
	var c consent
	cmd := &cobra.Command{
		Use:   "resize NAME SIZE",
		Short: "Change a volume's size",
		Long: "Versions keep the size they had: what a shrink cuts off stays readable in the snapshots that\n" +
			"hold it, and what was written since the newest of them is lost. A shrink therefore asks.",
		Example: "  cairn volume resize scratch 20GiB",
		Args:    cobra.ExactArgs(2),
		RunE: run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			bytes, err := parseSize(args[1])
			if err != nil {
				return err
			}
			return p.resize(ctx, c, args[0], bytes)
		}),
		ValidArgsFunction: p.completeDatasets,
	}
	c.flags(cmd)
	return cmd
}

func (p *program) resize(ctx context.Context, c consent, name string, bytes int64) error {
	l, err := p.localDataset(ctx, name)
	if err != nil {
		return err
	}
	h := p.opened.Endpoint
	if h.Resizes == nil {
		return h.Lacks("resize", name)
	}
	if lost := l.Dataset.Size - bytes; lost > 0 {
		what := "cut off the last " + size(lost) + " of " + name
		if ok, err := p.agree(ctx, c, "shrink", name, what); !ok || err != nil {
			return err
		}
	} else if c.dryRun {
		return p.printf("would grow %s by %s\n", name, size(-lost))
	}
	return h.Resizes.Resize(ctx, name, bytes)
}

func (p *program) volumeRollbackCommand() *cobra.Command {
	var c consent
	var destroyNewer bool
	cmd := &cobra.Command{
		Use:     "rollback NAME@SNAP",
		Short:   "Make a volume's content that of a snapshot again",
		Long:    "Newer versions are in the way unless --destroy-newer is given; they then go in the same step.",
		Example: "  cairn volume rollback db@monday --destroy-newer --dry-run",
		Args:    cobra.ExactArgs(1),
		RunE: run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			a, err := versionAddress(args[0])
			if err != nil {
				return err
			}
			l, err := p.localDataset(ctx, a.Dataset)
			if err != nil {
				return err
			}
			v, err := findVersion(p.opened.Endpoint, l, a.Version)
			if err != nil {
				return err
			}
			what := fmt.Sprintf("replace the content of %s by that of %s", a.Dataset, a)
			if newer := newerThan(l, v); newer > 0 && destroyNewer {
				what += " and destroy " + count(newer, "newer version")
			}
			if ok, err := p.agree(ctx, c, "roll back", a.String(), what); !ok || err != nil {
				return err
			}
			if p.opened.Endpoint.Rollbacks == nil {
				return p.opened.Endpoint.Lacks("rollback", a.Dataset)
			}
			if destroyNewer {
				if err := restore.ReleaseNewer(ctx, p.opened.Endpoint, l, v.Order); err != nil {
					return err
				}
			}
			return p.opened.Endpoint.Rollbacks.Rollback(ctx, a.Dataset, v.VersionID, destroyNewer)
		}),
		ValidArgsFunction: p.completeDatasets,
	}
	cmd.Flags().BoolVar(&destroyNewer, "destroy-newer", false, "destroy the versions after the snapshot")
	c.flags(cmd)
	return cmd
}

func newerThan(l *cairn.Listing, v cairn.Version) (n int) {
	for _, other := range l.Versions {
		if other.Order > v.Order {
			n++
		}
	}
	return n
}

func (p *program) volumeMarkDirtyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "mark-dirty NAME",
		Short: "Let everything in a volume count as changed",
		Long: "The way out of 'unverified', when somebody else may have written to the file or device: the next\n" +
			"replication compares or sends everything once, and nothing is missed.",
		Example: "  cairn volume mark-dirty db",
		Args:    cobra.ExactArgs(1),
		RunE: run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			r, err := p.registry(ctx)
			if err != nil {
				return err
			}
			return r.MarkDirty(ctx, args[0])
		}),
		ValidArgsFunction: p.completeDatasets,
	}
}

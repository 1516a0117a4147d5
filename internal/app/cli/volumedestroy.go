package cli

import (
	"context"
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"cairn"
)

func (p *program) volumeDestroyCommand() *cobra.Command {
	var c consent
	cmd := &cobra.Command{
		Use:   "destroy NAME | NAME@VERSION...",
		Short: "Destroy versions of a volume, or the volume itself",
		Long: "With NAME alone the volume and all its versions go; an adopted file or device has to be released\n" +
			"instead. A version that something relies on stays, and the command says who relies on it.",
		Example: "  cairn volume destroy db@monday db#old --dry-run\n  cairn volume destroy scratch --yes",
		Args:    cobra.MinimumNArgs(1),
		RunE: run(func(ctx context.Context, cmd *cobra.Command, args []string) error {
			var addresses []cairn.Address
			for _, arg := range args {
				a, err := cairn.ParseAddress(arg)
				if err != nil {
					return err
				}
				if a.Version == "" && len(args) > 1 {
					return badUsage(cmd, "a whole volume is destroyed alone")
				}
				addresses = append(addresses, a)
			}
			if addresses[0].Version == "" {
				return p.destroyVolume(ctx, c, addresses[0].Dataset)
			}
			return p.destroyVersions(ctx, c, addresses)
		}),
		ValidArgsFunction: p.completeDatasets,
	}
	c.flags(cmd)
	return cmd
}

func (p *program) destroyVolume(ctx context.Context, c consent, name string) error {
	l, err := p.localDataset(ctx, name)
	if err != nil {
		return err
	}
	what := "destroy volume " + name + ", its content (" + size(l.Dataset.Size) + ") and its " + count(len(l.Versions), "version")
	if ok, err := p.agree(ctx, c, "destroy volume", name, what); !ok || err != nil {
		return err
	}
	r, err := p.registry(ctx)
	if err != nil {
		return err
	}
	return r.DestroyVolume(ctx, name)
}

func (p *program) destroyVersions(ctx context.Context, c consent, addresses []cairn.Address) error {
	names := make([]string, len(addresses))
	for i, a := range addresses {
		names[i] = a.String()
	}
	subject := strings.Join(names, " ")
	if ok, err := p.agree(ctx, c, "destroy", subject, "destroy "+subject); !ok || err != nil {
		return err
	}
	var failures []error
	for _, a := range addresses {
		err := p.destroyVersion(ctx, a)
		if err == nil {
			err = p.printf("%s\n", a)
		}
		failures = append(failures, err)
	}
	return firstOf(failures)
}

func (p *program) destroyVersion(ctx context.Context, a cairn.Address) error {
	l, err := p.localDataset(ctx, a.Dataset)
	if err != nil {
		return err
	}
	ep := p.opened.Endpoint
	v, err := findVersion(ep, l, a.Version)
	if err != nil {
		return err
	}
	if ep.Destroys == nil {
		return ep.Lacks("destroy", a.String())
	}
	results, err := ep.Destroys.Destroy(ctx, a.Dataset, []cairn.VersionID{v.VersionID})
	if err != nil {
		return err
	}
	return errors.Join(results...)
}

// firstOf is the first failure; it tells of the others by their number.
func firstOf(errs []error) error {
	var first error
	more := 0
	for _, err := range errs {
		switch {
		case err == nil:
		case first == nil:
			first = err
		default:
			more++
		}
	}
	if more == 0 {
		return first
	}
	return &cairn.Error{Op: "finish", Kind: cairn.KindOf(first), Err: errors.New(first.Error() + "; and " + count(more, "more failure"))}
}

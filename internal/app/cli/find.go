package cli

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"cairn"
	"cairn/internal/app/daemon"
)

// place opens the endpoint of a place by name; it is closed with the program.
func (p *program) place(ctx context.Context, name string) (*cairn.Endpoint, error) {
	h, err := p.here(ctx)
	if err != nil {
		return nil, err
	}
	if name == "" || name == daemon.HereName {
		return h.Endpoint, nil
	}
	return h.Peer(ctx, name)
}

// findDataset lists one dataset with its versions.
func findDataset(ctx context.Context, ep *cairn.Endpoint, name string) (*cairn.Listing, error) {
	q := cairn.Query{Filter: cairn.All, Names: []string{name}, Want: cairn.Want{Versions: true, Leases: true, Sizes: true, Partial: true}}
	for l, err := range ep.Lister.List(ctx, q) {
		if err != nil {
			return nil, err
		}
		if l.Dataset.Name == name {
			return l, nil
		}
	}
	return nil, &cairn.Error{Op: "find dataset", Subject: name, Place: ep.Info.Place, Kind: cairn.KindNotFound, Hint: "'cairn list' shows what there is"}
}

// findVersion picks a version of a listing by its name with '@' or '#'.
func findVersion(ep *cairn.Endpoint, l *cairn.Listing, name string) (cairn.Version, error) {
	for _, v := range l.Versions {
		if v.Name == name {
			return v, nil
		}
	}
	return cairn.Version{}, &cairn.Error{Op: "find version", Subject: l.Dataset.Name + name, Place: ep.Info.Place, Kind: cairn.KindNotFound,
		Err: errors.New("the dataset has no version of that name"), Hint: "'cairn list " + l.Dataset.Name + "' shows them"}
}

// completeDatasets offers the names of the datasets here to the shell.
func (p *program) completeDatasets(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	var names []string
	if h, err := p.here(cmd.Context()); err == nil {
		for l, err := range h.Endpoint.Lister.List(cmd.Context(), cairn.Query{Filter: cairn.All}) {
			if err != nil {
				break
			}
			names = append(names, l.Dataset.Name)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// completeJobs offers the names of the configured jobs to the shell.
func (p *program) completeJobs(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	var names []string
	if cfg, err := p.config(); err == nil && len(args) == 0 {
		for _, j := range cfg.Jobs {
			names = append(names, j.Name)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

package cli

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cairn"
	"cairn/client"
	"cairn/internal/app/daemon"
)

func (p *program) listCommand() *cobra.Command {
	var place string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list [DATASET]",
		Short: "List the versions of a dataset, or of all, at every place",
		Long: "Without --at every place is asked: this machine and the peers of the configured jobs. A peer\n" +
			"that does not answer is listed as it was last seen, with the time.",
		Example: "  cairn list db\n  cairn list db --at vault --json",
		GroupID: groupSee,
		Args:    cobra.MaximumNArgs(1),
		RunE: run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			dataset := ""
			if len(args) == 1 {
				a, err := datasetAddress(args[0])
				if err != nil {
					return err
				}
				dataset = a
			}
			places, err := p.listings(ctx, dataset, place)
			if err != nil {
				return err
			}
			if asJSON {
				return p.printJSON(places)
			}
			return p.printPlaces(places)
		}),
		ValidArgsFunction: p.completeDatasets,
	}
	cmd.Flags().StringVar(&place, "at", "", "only at this `PLACE`; 'here' is this machine")
	jsonFlag(cmd, &asJSON)
	return cmd
}

// datasetAddress reads an address that names no version.
func datasetAddress(s string) (string, error) {
	a, err := cairn.ParseAddress(s)
	if err != nil {
		return "", err
	}
	if a.Version != "" {
		return "", invalid("use address", s, "name the dataset without a version", nil)
	}
	return a.Dataset, nil
}

// versionAddress reads an address that names a version.
func versionAddress(s string) (cairn.Address, error) {
	a, err := cairn.ParseAddress(s)
	if err == nil && a.Version == "" {
		return a, invalid("use address", s, "name a version, as in "+s+"@SNAPSHOT; 'cairn list "+s+"' shows them", nil)
	}
	return a, err
}

// listings asks the daemon, which knows places best; without one it asks them.
func (p *program) listings(ctx context.Context, dataset, place string) ([]client.Place, error) {
	c, err := p.running(ctx)
	if err != nil {
		return nil, err
	}
	if c != nil {
		return c.Listings(ctx, dataset, place)
	}
	h, err := p.here(ctx)
	if err != nil {
		return nil, err
	}
	return daemon.Listings(ctx, h, dataset, place)
}

func (p *program) printPlaces(places []client.Place) error {
	now := time.Now()
	rows := [][]string{{"PLACE", "VERSION", "CREATED", "AGE", "SIZE", "OWN", "STATE"}}
	for _, pl := range places {
		for _, d := range pl.Datasets {
			rows = append(rows, listingRows(now, pl, d)...)
		}
		if pl.Error != "" {
			p.note("%s", oneLine(staleText(now, pl)))
		}
	}
	return p.table(rows)
}

func staleText(now time.Time, pl client.Place) string {
	if pl.Seen.IsZero() {
		return pl.Name + ": never seen; " + pl.Error
	}
	return pl.Name + ": as seen " + age(now, pl.Seen) + " ago; " + pl.Error
}

func listingRows(now time.Time, pl client.Place, d client.Listing) [][]string {
	state := d.State
	if d.Why != "" {
		state += ": " + d.Why
	}
	if d.Sealed {
		state += ", sealed"
	}
	rows := [][]string{{pl.Name, d.Dataset, "", "", size(d.Size), "", state}}
	for _, v := range d.Versions {
		state := v.State
		if len(v.Leases) > 0 {
			state += ", leased: " + strings.Join(v.Leases, ", ")
		}
		own := ""
		if strings.HasPrefix(v.Name, "@") {
			own = size(v.Unique)
		}
		rows = append(rows, []string{pl.Name, d.Dataset + v.Name, localTime(v.Created), age(now, v.Created), size(v.Size), own, state})
	}
	if r := d.Partial; r != nil {
		rows = append(rows, []string{pl.Name, d.Dataset + r.To, "", "", "", size(r.Received), "receive was cut, will go on"})
	}
	return rows
}

package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"cairn"
	"cairn/client"
	"cairn/internal/app/daemon"
	"cairn/internal/mech/watchdog"
)

func (p *program) volumeListCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List the volumes of this machine",
		Example: "  cairn volume list",
		Args:    cobra.NoArgs,
		RunE: run(func(ctx context.Context, _ *cobra.Command, _ []string) error {
			h, err := p.here(ctx)
			if err != nil {
				return err
			}
			listings, err := daemon.DescribeAll(ctx, h.Endpoint, cairn.Query{Filter: cairn.All, Want: cairn.Want{Versions: true, Partial: true}})
			if err != nil {
				return err
			}
			if asJSON {
				return p.printJSON(listings)
			}
			rows := [][]string{{"VOLUME", "SIZE", "VERSIONS", "NEWEST", "STATE"}}
			for _, l := range listings {
				newest := time.Time{}
				if n := len(l.Versions); n > 0 {
					newest = l.Versions[n-1].Created
				}
				rows = append(rows, []string{l.Dataset, size(l.Size), fmt.Sprint(len(l.Versions)), age(time.Now(), newest), stateText(l.State, l.Why, l.Sealed)})
			}
			return p.table(rows)
		}),
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func stateText(state, why string, sealed bool) string {
	if why != "" {
		state += ": " + why
	}
	if sealed {
		state += ", sealed"
	}
	return state
}

func (p *program) volumeShowCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "show NAME",
		Short:   "Show one volume: where it lies, who owns it, its versions",
		Example: "  cairn volume show db",
		Args:    cobra.ExactArgs(1),
		RunE: run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			l, err := p.localDataset(ctx, args[0])
			if err != nil {
				return err
			}
			r, err := p.registry(ctx)
			if err != nil {
				return err
			}
			answer := struct {
				client.Volume
				Listing client.Listing `json:"listing"`
			}{Listing: daemon.Describe(l)}
			if answer.Volume, err = r.Volume(ctx, args[0]); err != nil {
				return err
			}
			if asJSON {
				return p.printJSON(answer)
			}
			if err := p.printf("volume %s  %s  %s\n", l.Dataset.Name, size(l.Dataset.Size), stateText(l.Dataset.State.String(), l.Dataset.Why, l.Dataset.Sealed)); err != nil {
				return err
			}
			if err := p.printRegistered(answer.Volume); err != nil {
				return err
			}
			return p.printVersions(l)
		}),
		ValidArgsFunction: p.completeDatasets,
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func (p *program) printRegistered(v client.Volume) error {
	for _, part := range [][2]string{{"store", v.Store}, {"origin", v.Origin}, {"owner", v.Owner}, {"hosted by", v.Host}, {"continuity", v.Continuity}} {
		if part[1] == "" {
			continue
		}
		if err := p.printf("  %s %s\n", part[0], part[1]); err != nil {
			return err
		}
	}
	if v.Hashes != "" {
		if err := p.printf("  block hash table %s, %s\n", v.Hashes, size(v.HashBytes)); err != nil {
			return err
		}
	}
	for _, g := range v.GivenUp {
		if err := p.printf("  given up for room at %s: the data of %s\n", g.At.Local().Format(time.DateTime), g.Bookmark); err != nil {
			return err
		}
	}
	return nil
}

func (p *program) printVersions(l *cairn.Listing) error {
	d := daemon.Describe(l)
	rows := [][]string{{"VERSION", "GUID", "CREATED", "SIZE", "OWN", "STATE"}}
	for i, r := range listingRows(time.Now(), client.Place{Name: daemon.HereName}, d)[1:] {
		guid := ""
		if i < len(d.Versions) {
			guid = d.Versions[i].GUID
		}
		rows = append(rows, []string{r[1], guid, r[2], r[4], r[5], r[6]})
	}
	return p.table(rows)
}

func (p *program) volumeVerifyCommand() *cobra.Command {
	var asJSON bool
	var g against
	cmd := &cobra.Command{
		Use:   "verify NAME[@SNAP]",
		Short: "Read what is stored and compare it with its checksums, or with another place",
		Long: "Without a version everything of the volume is read. The command says what it covered: for a plain\n" +
			"head there is no checksum to compare with, unless the volume keeps hashes ('cairn volume hashes'): then\n" +
			"what somebody else wrote, or what rotted, is named, counts as changed, and is lost in the snapshots\n" +
			"that had something else; blocks without a hash get one. With --against a snapshot is compared with the same one\n" +
			"at a place, or with another: each side reads its own disks and only hashes cross the wire. This\n" +
			"alone proves that a replica holds what the source has. Damage and differences make the command fail.\n" +
			"--heal puts back the blocks that one side has lost and the other can still read; a good block is\n" +
			"never changed.",
		Example: "  cairn volume verify db\n  cairn volume verify db@monday --against vault\n  cairn volume verify db@monday --against vault --heal --dry-run",
		Args:    cobra.ExactArgs(1),
		RunE: run(func(ctx context.Context, cmd *cobra.Command, args []string) error {
			switch {
			case g.dry && !g.heal:
				return badUsage(cmd, "--dry-run says what --heal would do")
			case g.other != "":
				return p.proveEqual(ctx, args[0], g, asJSON)
			case g.place != "":
				return badUsage(cmd, "--at says where the snapshot of --against is")
			case g.heal:
				return badUsage(cmd, "--heal needs --against: the place that has what is lost here")
			}
			return p.proveSound(ctx, args[0], asJSON)
		}),
		ValidArgsFunction: p.completeDatasets,
	}
	cmd.Flags().StringVar(&g.other, "against", "", "compare with the same snapshot at this `PLACE`, or with another SNAPSHOT, as in db@monday")
	cmd.Flags().StringVar(&g.place, "at", "", "the `PLACE` of the snapshot to compare with (default: here)")
	cmd.Flags().BoolVar(&g.heal, "heal", false, "put back what one side has lost, from the other")
	cmd.Flags().BoolVar(&g.dry, "dry-run", false, "with --heal: only say what would be done")
	jsonFlag(cmd, &asJSON)
	return cmd
}

// proveSound compares a volume with its checksums.
func (p *program) proveSound(ctx context.Context, address string, asJSON bool) error {
	a, err := cairn.ParseAddress(address)
	if err != nil {
		return err
	}
	c, err := p.verify(ctx, a)
	if err != nil {
		return err
	}
	if asJSON {
		err = p.printJSON(c)
	} else {
		err = p.printCoverage(a, c)
	}
	if err == nil && len(c.Damaged) > 0 {
		return &cairn.Error{Op: "verify", Subject: a.String(), Kind: cairn.KindDamaged,
			Err: fmt.Errorf("%s damaged", count(len(c.Damaged), "extent")), Hint: "'cairn list " + a.Dataset + "' shows where it is; heal it from there with --against PLACE --heal"}
	}
	return err
}

func (p *program) verify(ctx context.Context, a cairn.Address) (cairn.Coverage, error) {
	l, err := p.localDataset(ctx, a.Dataset)
	if err != nil {
		return cairn.Coverage{}, err
	}
	ep := p.opened.Endpoint
	var id cairn.VersionID
	if a.Version != "" {
		v, err := findVersion(ep, l, a.Version)
		if err != nil {
			return cairn.Coverage{}, err
		}
		id = v.VersionID
	}
	if ep.Verifies == nil {
		return cairn.Coverage{}, ep.Lacks("verify", a.String())
	}
	progress := &watchdog.Progress{}
	bar := p.startBar("verify " + a.String())
	defer bar.end()
	bar.watch(progress, -1)
	return ep.Verifies.Verify(watchdog.With(ctx, progress), a.Dataset, id)
}

func (p *program) printCoverage(a cairn.Address, c cairn.Coverage) error {
	for _, e := range c.Damaged {
		if err := p.printf("damaged: %d bytes at %d\n", e.Length, e.Offset); err != nil {
			return err
		}
	}
	for _, n := range c.Notes {
		if err := p.printf("%s\n", n); err != nil {
			return err
		}
	}
	return p.printf("%s: %s compared with checksums, %s have none, %s damaged\n", a, size(c.Checked), size(c.Unchecked), count(len(c.Damaged), "extent"))
}

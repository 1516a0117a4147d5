package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"cairn"
	"cairn/client"
	"cairn/internal/app/daemon"
	"cairn/internal/work/check"
)

func (p *program) checkCommand() *cobra.Command {
	return family(groupSetUp, "check", "Check that a place keeps its promises", "  cairn check endpoint", p.checkEndpointCommand())
}

func (p *program) checkEndpointCommand() *cobra.Command {
	var asJSON bool
	var only []string
	cmd := &cobra.Command{
		Use:   "endpoint [PLACE]",
		Short: "Run the conformance suite against this machine or a peer",
		Long: "Every promise that a place makes is tried on scratch datasets named cairn-check/…. At a peer they\n" +
			"stay behind when it does not let us destroy them. Rules that a place does not offer are named.",
		Example: "  cairn check endpoint\n  cairn check endpoint vault --rule list-order",
		Args:    cobra.MaximumNArgs(1),
		RunE: run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			f, err := p.fixture(ctx, args)
			if err != nil {
				return err
			}
			o := check.Options{Only: only}
			if !asJSON {
				o.Done = func(r check.Result) { _ = p.printf("%-11s  %-24s  %s\n", r.Verdict, r.Rule, resultText(r)) } // a failing output shows below
			}
			results, err := check.Run(ctx, f, o)
			if err != nil {
				return err
			}
			if asJSON {
				if err := p.printJSON(results); err != nil {
					return err
				}
			}
			return p.judge(f.Endpoint.Info.Place, results, asJSON)
		}),
	}
	cmd.Flags().StringArrayVar(&only, "rule", nil, "only this `RULE`; may be repeated")
	jsonFlag(cmd, &asJSON)
	return cmd
}

func resultText(r check.Result) string {
	if r.Why != "" {
		return oneLine(r.Why)
	}
	return r.Says
}

// fixture is the place under test; volumes can be made and written only here.
func (p *program) fixture(ctx context.Context, args []string) (check.Fixture, error) {
	name := daemon.HereName
	if len(args) == 1 {
		name = args[0]
	}
	ep, err := p.place(ctx, name)
	if err != nil || name != daemon.HereName {
		return check.Fixture{Endpoint: ep}, err
	}
	h := p.opened
	return check.Fixture{
		Endpoint: ep,
		Create: func(ctx context.Context, dataset string, size int64) error {
			return h.CreateVolume(ctx, client.NewVolume{Name: dataset, Size: size})
		},
		Write: func(ctx context.Context, dataset string, off int64, b []byte) error {
			return writeHead(ctx, h, dataset, off, b)
		},
		Remove: h.DestroyVolume,
	}, nil
}

func writeHead(ctx context.Context, h *daemon.Here, dataset string, off int64, b []byte) error {
	device, err := h.Device(ctx, dataset)
	if err != nil {
		return err
	}
	err = device.WriteAt(ctx, b, off, cairn.FUA)
	return errors.Join(err, device.Close())
}

func (p *program) judge(place string, results []check.Result, quiet bool) error {
	counts := map[check.Verdict]int{}
	for _, r := range results {
		counts[r.Verdict]++
	}
	if !quiet {
		if err := p.printf("%d passed, %d failed, %d not offered\n", counts[check.Passed], counts[check.Failed], counts[check.NotOffered]); err != nil {
			return err
		}
	}
	if n := counts[check.Failed]; n > 0 {
		return &cairn.Error{Op: "check endpoint", Place: place, Kind: cairn.KindOther, Err: fmt.Errorf("%s failed", count(n, "rule")), Hint: "the rules are listed above"}
	}
	return nil
}

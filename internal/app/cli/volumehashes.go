package cli

import (
	"context"

	"github.com/spf13/cobra"
)

func (p *program) volumeHashesCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "hashes NAME on|off",
		Short: "Keep a hash of every block of a volume, or stop it",
		Long: "With hashes 'cairn volume verify' finds what rotted in a volume, or was written past Cairn, without a\n" +
			"replica. They are made of what is sent, received or verified; 'cairn volume verify NAME' makes those\n" +
			"that are missing. They take 2 GiB per TiB of data; 'off' gives that back. Nothing else changes.",
		Example:           "  cairn volume hashes db on",
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: p.completeDatasets,
		RunE: run(func(ctx context.Context, cmd *cobra.Command, args []string) error {
			if args[1] != "on" && args[1] != "off" {
				return badUsage(cmd, "say on or off")
			}
			r, err := p.registry(ctx)
			if err != nil {
				return err
			}
			return r.SetHashes(ctx, args[0], args[1] == "on")
		}),
	}
}

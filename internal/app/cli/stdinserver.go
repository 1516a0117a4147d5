package cli

import (
	"context"

	"github.com/spf13/cobra"

	"cairn/internal/system/transport"
)

func (p *program) stdinserverCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "stdinserver IDENTITY",
		Short: "Carry an ssh client's connection to the daemon",
		Long: "This is what a client's key is tied to in authorized_keys; the client is known by IDENTITY:\n\n" +
			"  command=\"cairn stdinserver laptop\",restrict ssh-ed25519 AAAA…\n\n" +
			"A job of the running daemon needs serve: {type: stdinserver, client_identities: [laptop]}.",
		Example: "  cairn stdinserver laptop",
		GroupID: groupSetUp,
		Args:    cobra.ExactArgs(1),
		RunE: run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			cfg, err := p.config()
			if err != nil {
				return err
			}
			return transport.ServeStdin(ctx, cfg.Global.Serve.StdinServer.SockDir, args[0], p.in, p.out)
		}),
	}
}

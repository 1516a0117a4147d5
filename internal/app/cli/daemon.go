package cli

import (
	"context"
	"os"

	"github.com/spf13/cobra"

	"cairn/internal/app/daemon"
	"cairn/internal/mech/logging"
)

func (p *program) daemonCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "daemon",
		Short: "Run the configured jobs until a signal ends it",
		Long: "SIGTERM or SIGINT ends every job in bounded time; a second signal ends the process at once. Nothing\n" +
			"is lost either way: transfers go on where they were.",
		Example: "  cairn daemon --config /etc/cairn/cairn.yml",
		GroupID: groupSetUp,
		Args:    cobra.NoArgs,
		RunE: run(func(ctx context.Context, _ *cobra.Command, _ []string) error {
			cfg, err := p.loadConfig(false)
			if err != nil {
				return p.listProblems(err)
			}
			outlets, err := logging.Open(cfg.LogOutlets(), logging.Options{Stdout: p.out, Color: logging.AllowColor(isTerminal(p.out), os.Getenv)})
			if err != nil {
				return err
			}
			err = daemon.Run(ctx, daemon.Options{Config: cfg, Logger: outlets.Logger()})
			if closed := outlets.Close(); err == nil {
				err = closed
			}
			return err
		}),
	}
}

package cli

import (
	"context"

	"github.com/spf13/cobra"

	"cairn/internal/app/config"
)

func (p *program) configCommand() *cobra.Command {
	return family(groupSetUp, "config", "Check and show the configuration", "  cairn config check",
		p.configCheckCommand(), p.configShowCommand(), p.configSchemaCommand())
}

func (p *program) configCheckCommand() *cobra.Command {
	var skipFiles bool
	cmd := &cobra.Command{
		Use:     "check [FILE]",
		Short:   "Read the configuration as the daemon would",
		Long:    "Every mistake is reported with file, line and column. Nothing is changed.",
		Example: "  cairn config check /etc/cairn/cairn.yml",
		Args:    cobra.MaximumNArgs(1),
		RunE: run(func(_ context.Context, _ *cobra.Command, args []string) error {
			if len(args) == 1 {
				p.configPath = args[0]
			}
			cfg, err := p.loadConfig(skipFiles)
			if err != nil {
				return p.listProblems(err)
			}
			return p.printf("%s: correct, %s, %s declared\n", cfg.File, count(len(cfg.Jobs), "job"), count(len(cfg.Volumes), "volume"))
		}),
	}
	cmd.Flags().BoolVar(&skipFiles, "skip-cert-check", false, "do not look for the certificate files")
	return cmd
}

func (p *program) configShowCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "show",
		Short:   "Show the configuration with every default, without secrets",
		Example: "  cairn config show --json",
		Args:    cobra.NoArgs,
		RunE: run(func(context.Context, *cobra.Command, []string) error {
			cfg, err := p.loadConfig(true)
			if err != nil {
				return p.listProblems(err)
			}
			if asJSON {
				return p.printf("%s\n", cfg.ShowJSON())
			}
			return p.printf("%s", cfg.ShowYAML())
		}),
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func (p *program) configSchemaCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "schema",
		Short:   "Print the JSON schema of the configuration, for editors",
		Example: "  cairn config schema > cairn.schema.json",
		Args:    cobra.NoArgs,
		RunE: run(func(context.Context, *cobra.Command, []string) error {
			return p.printf("%s\n", config.Schema())
		}),
	}
}

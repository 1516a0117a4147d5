package cli

import (
	"context"
	"runtime"

	"github.com/spf13/cobra"

	"cairn"
	"cairn/client"
	"cairn/internal/app/daemon"
)

func (p *program) versionCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Print the versions of this command and of the running daemon",
		Example: "  cairn version",
		GroupID: groupSetUp,
		Args:    cobra.NoArgs,
		RunE: run(func(ctx context.Context, _ *cobra.Command, _ []string) error {
			answer := struct {
				Version string          `json:"version"`
				Go      string          `json:"go"`
				Daemon  *client.Version `json:"daemon,omitempty"`
			}{Version: daemon.Version, Go: runtime.Version()}
			if c, err := p.daemon(); err == nil {
				running, err := c.Version(ctx)
				if err != nil && cairn.KindOf(err) != cairn.KindUnavailable {
					return err
				}
				answer.Daemon = running
			}
			if asJSON {
				return p.printJSON(answer)
			}
			if err := p.printf("cairn %s (%s)\n", answer.Version, answer.Go); err != nil {
				return err
			}
			if d := answer.Daemon; d != nil {
				return p.printf("daemon %s, process %d, since %s\n", d.Version, d.PID, localTime(d.Started))
			}
			return p.printf("no daemon runs here\n")
		}),
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func (p *program) completionCommand() *cobra.Command {
	return &cobra.Command{
		Use:       "completion SHELL",
		Short:     "Print a completion script for bash, zsh, fish or powershell",
		Example:   "  cairn completion bash > cairn.bash",
		GroupID:   groupSetUp,
		ValidArgs: []string{"bash", "zsh", "fish", "powershell"},
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		RunE: run(func(_ context.Context, cmd *cobra.Command, args []string) error {
			root := cmd.Root()
			switch args[0] {
			case "bash":
				return p.wrote(root.GenBashCompletionV2(p.out, true))
			case "zsh":
				return p.wrote(root.GenZshCompletion(p.out))
			case "fish":
				return p.wrote(root.GenFishCompletion(p.out, true))
			}
			return p.wrote(root.GenPowerShellCompletionWithDesc(p.out))
		}),
	}
}

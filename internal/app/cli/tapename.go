package cli

import (
	"os"

	"github.com/spf13/cobra"
)

// byName lets a command's DRIVE, its first argument, be a name under tapes: of the
// configuration.
func (p *program) byName(cmd *cobra.Command) *cobra.Command {
	work := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			name, err := p.driveOf(args[0])
			if err != nil {
				return err
			}
			args[0] = name
		}
		return work(cmd, args)
	}
	return cmd
}

// driveOf is the drive that a name stands for. What exists under the name is meant,
// whatever the configuration says, and even if it is wrong.
func (p *program) driveOf(name string) (string, error) {
	if _, err := os.Stat(name); err == nil {
		return name, nil
	}
	cfg, err := p.config()
	if err != nil {
		return "", err
	}
	if declared := cfg.Tape(name).Drive; declared != "" {
		return declared, nil
	}
	return name, nil
}

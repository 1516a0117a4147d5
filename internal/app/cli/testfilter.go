package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"cairn"
	"cairn/internal/app/config"
)

func (p *program) testCommand() *cobra.Command {
	return family(groupSetUp, "test", "Try parts of the configuration", "  cairn test volumes --job nightly",
		p.testFilterCommand("volumes", func(j *config.Job) cairn.Filter { return j.Volumes }),
		p.testFilterCommand("filesystems", func(j *config.Job) cairn.Filter { return j.Filesystems }),
		p.testPlaceholderCommand(), p.testTokenCommand())
}

// testFilterCommand says of each name whether a job's filter selects it.
func (p *program) testFilterCommand(what string, pick func(*config.Job) cairn.Filter) *cobra.Command {
	var job string
	var asJSON bool
	cmd := &cobra.Command{
		Use:     what + " [NAME...]",
		Short:   "Show which " + what + " a job's filter selects",
		Long:    "Without names every dataset of this machine is tried.",
		Example: fmt.Sprintf("  cairn test %s --job nightly\n  cairn test %s --job nightly tank/home", what, what),
		RunE: run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			j, err := p.jobConfig(job)
			if err != nil {
				return err
			}
			names, err := p.namesToTry(ctx, args)
			if err != nil {
				return err
			}
			return p.printSelected(names, pick(j), asJSON)
		}),
		ValidArgsFunction: p.completeDatasets,
	}
	cmd.Flags().StringVar(&job, "job", "", "the `JOB` whose filter is tried")
	_ = cmd.MarkFlagRequired("job") // fails only for a flag that does not exist
	jsonFlag(cmd, &asJSON)
	return cmd
}

func (p *program) jobConfig(name string) (*config.Job, error) {
	cfg, err := p.config()
	if err != nil {
		return nil, err
	}
	if j := cfg.Job(name); j != nil {
		return j, nil
	}
	return nil, &cairn.Error{Op: "find job", Subject: name, Kind: cairn.KindNotFound, Err: errors.New("the configuration has no job of that name"), Hint: "'cairn config show' lists them"}
}

func (p *program) namesToTry(ctx context.Context, args []string) ([]string, error) {
	if len(args) > 0 {
		for _, a := range args {
			if err := cairn.CheckDatasetName(a); err != nil {
				return nil, err
			}
		}
		return args, nil
	}
	h, err := p.here(ctx)
	if err != nil {
		return nil, err
	}
	var names []string
	for l, err := range h.Endpoint.Lister.List(ctx, cairn.Query{Filter: cairn.All}) {
		if err != nil {
			return nil, err
		}
		names = append(names, l.Dataset.Name)
	}
	return names, nil
}

func (p *program) printSelected(names []string, f cairn.Filter, asJSON bool) error {
	selected := map[string]bool{}
	for _, n := range names {
		selected[n] = f.Match(n)
	}
	return p.printAnswers(names, selected, asJSON)
}

// printAnswers prints yes or no for each name.
func (p *program) printAnswers(names []string, answers map[string]bool, asJSON bool) error {
	if asJSON {
		return p.printJSON(answers)
	}
	for _, n := range names {
		word := "no "
		if answers[n] {
			word = "yes"
		}
		if err := p.printf("%s  %s\n", word, n); err != nil {
			return err
		}
	}
	return nil
}

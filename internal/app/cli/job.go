package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"cairn"
	"cairn/client"
)

func (p *program) jobCommand() *cobra.Command {
	return family(groupSee, "job", "Look at jobs and steer them", "  cairn job list",
		p.jobListCommand(), p.jobRunCommand(), p.jobHistoryCommand(),
		p.jobActCommand("cancel", "End a job's present run", (*client.Client).Cancel),
		p.jobActCommand("reset", "End a job's present run and begin its schedule anew", (*client.Client).Reset))
}

func (p *program) jobListCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List jobs, what they do now and when they run next",
		Example: "  cairn job list",
		Args:    cobra.NoArgs,
		RunE: run(func(ctx context.Context, _ *cobra.Command, _ []string) error {
			c, err := p.daemon()
			if err != nil {
				return err
			}
			jobs, err := c.Jobs(ctx)
			if err != nil {
				return err
			}
			if asJSON {
				return p.printJSON(jobs)
			}
			rows := [][]string{{"JOB", "STATE"}}
			for _, j := range jobs {
				rows = append(rows, []string{j.Name, jobLine(time.Now(), j)})
			}
			return p.table(rows)
		}),
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func (p *program) jobRunCommand() *cobra.Command {
	var detach bool
	cmd := &cobra.Command{
		Use:     "run JOB",
		Short:   "Run a job now",
		Long:    "The run does everything the job does on schedule. The command shows its progress and ends with\nit; interrupting the command does not end the run.",
		Example: "  cairn job run nightly",
		Args:    cobra.ExactArgs(1),
		RunE: run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			return p.wakeAndFollow(ctx, args[0], client.Wake{}, detach)
		}),
		ValidArgsFunction: p.completeJobs,
	}
	cmd.Flags().BoolVar(&detach, "detach", false, "do not wait for the run to end")
	return cmd
}

func (p *program) jobActCommand(verb, short string, act func(*client.Client, context.Context, string) error) *cobra.Command {
	return &cobra.Command{
		Use:     verb + " JOB",
		Short:   short,
		Example: "  cairn job " + verb + " nightly",
		Args:    cobra.ExactArgs(1),
		RunE: run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			c, err := p.daemon()
			if err != nil {
				return err
			}
			return act(c, ctx, args[0])
		}),
		ValidArgsFunction: p.completeJobs,
	}
}

func (p *program) jobHistoryCommand() *cobra.Command {
	var asJSON bool
	var limit int
	cmd := &cobra.Command{
		Use:     "history JOB",
		Short:   "Show a job's runs with their steps, newest first",
		Example: "  cairn job history nightly --limit 3",
		Args:    cobra.ExactArgs(1),
		RunE: run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			c, err := p.daemon()
			if err != nil {
				return err
			}
			runs, err := c.History(ctx, args[0], limit)
			if err != nil {
				return err
			}
			if asJSON {
				return p.printJSON(runs)
			}
			return p.printRuns(runs)
		}),
		ValidArgsFunction: p.completeJobs,
	}
	cmd.Flags().IntVar(&limit, "limit", 10, "runs at most")
	jsonFlag(cmd, &asJSON)
	return cmd
}

func (p *program) printRuns(runs []client.Run) error {
	for _, r := range runs {
		took := "running"
		if !r.Ended.IsZero() {
			took = "took " + r.Ended.Sub(r.Started).Round(time.Millisecond).String()
		}
		line := fmt.Sprintf("run %d  %s  %s, %s, %s", r.ID, localTime(r.Started), r.Cause, r.State, took)
		if r.Error != "" {
			line += ": " + oneLine(r.Error)
		}
		if err := p.printf("%s\n", line); err != nil {
			return err
		}
		for _, s := range r.Steps {
			if err := p.printf("    %s\n", stepLine(s)); err != nil {
				return err
			}
		}
	}
	return nil
}

func stepLine(s client.Step) string {
	what := s.Dataset + s.To
	if s.From != "" {
		what = s.Dataset + " " + s.From + " → " + s.To
	}
	parts := append([]string{s.Verb}, nonEmpty(at(s.Place), what, s.State)...)
	if s.Moved > 0 || s.Verb == "replicate" {
		parts = append(parts, size(s.Moved))
	}
	if s.Resumed {
		parts = append(parts, "resumed")
	}
	if !s.Ended.IsZero() && !s.Started.IsZero() {
		parts = append(parts, s.Ended.Sub(s.Started).Round(time.Millisecond).String())
	}
	if s.Error != "" {
		parts = append(parts, oneLine(s.Error))
	}
	return strings.Join(parts, "  ")
}

// wakeAndFollow runs a job and shows its progress until the run ends; the run's
// failure is the command's.
func (p *program) wakeAndFollow(ctx context.Context, job string, w client.Wake, detach bool) error {
	c, err := p.daemon()
	if err != nil {
		return err
	}
	if detach {
		return p.wake(ctx, c, job, w)
	}
	r, err := c.Wake(ctx, job, w)
	if err != nil {
		return err
	}
	r, err = p.follow(ctx, c, job, r)
	if err != nil {
		return err
	}
	if err := p.printRuns([]client.Run{*r}); err != nil {
		return err
	}
	if r.State != "done" {
		return runFailure(r)
	}
	return nil
}

// beginsWithin is how long a detached command waits for its run to begin.
const beginsWithin = 2 * time.Second

// wake asks for a run. When another one is under way that request stays, and the
// command need not.
func (p *program) wake(ctx context.Context, c *client.Client, job string, w client.Wake) error {
	limited, cancel := context.WithTimeout(ctx, beginsWithin)
	defer cancel()
	r, err := c.Wake(limited, job, w)
	switch {
	case err == nil:
		return p.printf("%s: run %d began\n", job, r.ID)
	case limited.Err() != nil && ctx.Err() == nil:
		return p.printf("%s: a run is under way, another follows it\n", job)
	}
	return err
}

func runFailure(r *client.Run) error {
	kind := cairn.KindOther
	for _, k := range cairn.Kinds() {
		if k.String() == r.Kind {
			kind = k
		}
	}
	cause := r.Error
	if cause == "" {
		cause = "it was " + r.State
	}
	hint := r.Hint
	if strings.Contains(cause, hint) {
		hint = "" // said already
	}
	return &cairn.Error{Op: "finish run of job", Subject: r.Job, Kind: kind, Err: errors.New(cause), Hint: hint}
}

// follow waits for the run to end and shows its progress meanwhile.
func (p *program) follow(ctx context.Context, c *client.Client, job string, r *client.Run) (*client.Run, error) {
	var present atomic.Pointer[client.Run]
	present.Store(r)
	bar := p.startBar("run " + job)
	defer bar.end()
	bar.poll(func() (int64, int64, string) {
		if now, err := c.Run(ctx, job, r.ID, false); err == nil {
			present.Store(now)
		}
		return runProgress(present.Load())
	})
	for r.Ended.IsZero() {
		next, err := c.Run(ctx, job, r.ID, true)
		if err != nil {
			return nil, err
		}
		r = next
	}
	return r, nil
}

func runProgress(r *client.Run) (moved, expected int64, what string) {
	for _, s := range r.Steps {
		moved += s.Moved
		expected += max(s.Expected, s.Moved)
		if s.State == "running" {
			what = s.Verb + " " + s.Dataset + s.To
		}
	}
	return moved, expected, what
}

func (p *program) signalCommand() *cobra.Command {
	act := func(verb, short string, do body) *cobra.Command {
		return &cobra.Command{Use: verb + " JOB", Short: short, Example: "  cairn signal " + verb + " nightly",
			Args: cobra.ExactArgs(1), RunE: run(do), ValidArgsFunction: p.completeJobs}
	}
	cmd := family(groupSetUp, "signal", "Wake or reset a job, in zrepl's words", "  cairn signal wakeup nightly",
		act("wakeup", "Replicate and prune now, without a capture", func(ctx context.Context, _ *cobra.Command, args []string) error {
			verbs, err := p.wakeupVerbs(ctx, args[0])
			if err != nil {
				return err
			}
			return p.wakeAndFollow(ctx, args[0], client.Wake{Verbs: verbs, Cause: "wakeup"}, true)
		}),
		act("reset", "End the present run and begin the schedule anew", func(ctx context.Context, _ *cobra.Command, args []string) error {
			c, err := p.daemon()
			if err != nil {
				return err
			}
			return c.Reset(ctx, args[0])
		}))
	cmd.Hidden = true
	return cmd
}

// wakeupVerbs are what zrepl's wakeup makes a job do: a job without a peer prunes.
func (p *program) wakeupVerbs(ctx context.Context, job string) ([]string, error) {
	c, err := p.daemon()
	if err != nil {
		return nil, err
	}
	jobs, err := c.Jobs(ctx)
	for _, j := range jobs {
		if j.Name == job && j.Place == "" {
			return []string{"prune"}, err
		}
	}
	return []string{"replicate", "prune"}, err
}

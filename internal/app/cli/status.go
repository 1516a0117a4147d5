package cli

import (
	"context"
	"fmt"
	"sort"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cairn/client"
)

func (p *program) statusCommand() *cobra.Command {
	var q client.StatusQuery
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "status",
		Short:   "Show what is protected where, and what is wrong",
		Long:    "Problems come first: what, since when, what happens next. Then a row per dataset and a column\nper place, with the age of the newest version and, in brackets, how many there are.",
		Example: "  cairn status\n  cairn status --job nightly --json",
		GroupID: groupSee,
		Args:    cobra.NoArgs,
		RunE: run(func(ctx context.Context, _ *cobra.Command, _ []string) error {
			c, err := p.daemon()
			if err != nil {
				return err
			}
			s, err := c.Status(ctx, q)
			if err != nil {
				return err
			}
			if asJSON {
				return p.printJSON(s)
			}
			if err := p.printStatus(s); err != nil {
				return err
			}
			return p.printTapes(s.Tapes, s.Now)
		}),
	}
	cmd.Flags().StringVar(&q.Job, "job", "", "only what this `JOB` touches")
	cmd.Flags().IntVar(&q.Limit, "limit", client.DefaultRows, "rows of datasets at most")
	jsonFlag(cmd, &asJSON)
	return cmd
}

func jsonFlag(cmd *cobra.Command, asJSON *bool) {
	cmd.Flags().BoolVar(asJSON, "json", false, "print JSON")
}

func (p *program) printStatus(s *client.Status) error {
	if err := p.printProblems(s); err != nil {
		return err
	}
	head := append([]string{"DATASET", "KIND"}, upper(s.Places)...)
	rows := [][]string{append(head, "NEXT")}
	for _, d := range s.Datasets {
		row := []string{d.Name, d.Kind}
		for _, place := range s.Places {
			row = append(row, cell(s.Now, d.Places, place))
		}
		rows = append(rows, append(row, nextText(s.Now, d)))
	}
	if err := p.table(rows); err != nil {
		return err
	}
	if hidden := s.Total - len(s.Datasets); hidden > 0 {
		if err := p.printf("and %d more (--limit)\n", hidden); err != nil {
			return err
		}
	}
	return p.printJobLines(s.Now, s.Jobs)
}

func (p *program) printProblems(s *client.Status) error {
	if len(s.Problems) == 0 {
		return p.printf("no problem\n")
	}
	if err := p.printf("%s\n", count(len(s.Problems), "problem")); err != nil {
		return err
	}
	for _, pr := range s.Problems {
		line := strings.Join(nonEmpty(pr.Job, pr.Dataset, at(pr.Place)), " ")
		line = fmt.Sprintf("! %s %s %s: %s", line, strings.ToUpper(pr.State), age(s.Now, pr.Since), pr.What)
		if pr.Next != "" {
			line += "; " + pr.Next
		}
		if err := p.printf("%s\n", oneLine(line)); err != nil {
			return err
		}
	}
	return nil
}

func at(place string) string {
	if place == "" {
		return ""
	}
	return "at " + place
}

// cell renders "3 min (22)", with the state in front when it is not ok.
func cell(now time.Time, places map[string]client.Protected, place string) string {
	v, known := places[place]
	switch {
	case !known:
		return "-"
	case v.Count == 0:
		return join(v.State, "none")
	}
	return join(v.State, fmt.Sprintf("%s (%d)", age(now, v.Newest), v.Count))
}

func join(state, text string) string {
	if state == "" || state == "ok" {
		return text
	}
	return state + ", " + text
}

func nextText(now time.Time, d client.Dataset) string {
	text := d.Next
	if !d.NextAt.IsZero() {
		text += " in " + span(d.NextAt.Sub(now))
	}
	if d.State != "" && d.State != "ok" {
		text = strings.Join(nonEmpty(text, d.State+": "+d.Why), "   ")
	}
	return text
}

func (p *program) printJobLines(now time.Time, jobs []client.Job) error {
	for _, j := range jobs {
		if err := p.printf("JOB %s  %s\n", j.Name, jobLine(now, j)); err != nil {
			return err
		}
	}
	return nil
}

// jobLine says in one line what a job does, did last and will do next.
func jobLine(now time.Time, j client.Job) string {
	parts := []string{j.Type, j.State}
	if r := j.Running; r != nil {
		parts = append(parts, "since "+age(now, r.Started)+progressText(r.Steps))
	}
	if j.Listen != "" {
		parts = append(parts, "on "+j.Listen)
	}
	if len(j.Clients) > 0 {
		sort.Strings(j.Clients)
		parts = append(parts, "connected: "+strings.Join(j.Clients, ", "))
	}
	if r := j.Last; r != nil {
		text := fmt.Sprintf("last run %s %s ago", r.State, age(now, r.Ended))
		text = strings.Replace(text, "now ago", "just now", 1)
		parts = append(parts, strings.Join(nonEmpty(text, r.Error), ": "))
	}
	if !j.Next.IsZero() {
		parts = append(parts, "next in "+span(j.Next.Sub(now)))
	}
	return oneLine(strings.Join(parts, ", "))
}

// progressText sums the steps of a run: " 3 of 7 steps, 1.2 GiB".
func progressText(steps []client.Step) string {
	if len(steps) == 0 {
		return ""
	}
	done, moved := 0, int64(0)
	for _, s := range steps {
		moved += s.Moved
		if s.State == "done" {
			done++
		}
	}
	return fmt.Sprintf(", %d of %s, %s", done, count(len(steps), "step"), size(moved))
}

func count(n int, word string) string {
	if n == 1 {
		return "1 " + word
	}
	return fmt.Sprintf("%d %ss", n, word)
}

func nonEmpty(words ...string) []string {
	var kept []string
	for _, w := range words {
		if w != "" {
			kept = append(kept, w)
		}
	}
	return kept
}

func upper(words []string) []string {
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = w
		if w == "here" {
			out[i] = "HERE"
		}
	}
	return out
}

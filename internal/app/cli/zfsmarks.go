package cli

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"cairn"
	"cairn/internal/system/zfs"
)

// marks are the holds or the cursors that jobs leave on ZFS.
type marks struct {
	name     string // of the command
	purposes []cairn.Purpose
}

func (p *program) zfsCommand() *cobra.Command {
	return family(groupVolumes, "zfs", "Look after what jobs leave on ZFS, and into its streams", "  cairn zfs holds list",
		p.marksCommand(marks{"holds", []cairn.Purpose{cairn.PurposeStep, cairn.PurposeReceived, cairn.PurposePin, cairn.PurposeForeign}},
			"Holds that keep snapshots from being destroyed"),
		p.marksCommand(marks{"cursors", []cairn.Purpose{cairn.PurposeCursor, cairn.PurposeTentative}},
			"Bookmarks that say what a receiver has"), p.zfsStreamCommand())
}

func (p *program) marksCommand(m marks, short string) *cobra.Command {
	return family("", m.name, short, "  cairn zfs "+m.name+" list --stale", p.marksListCommand(m), p.marksAdoptCommand(m), p.marksReleaseCommand(m))
}

// marksQuery says which marks a command is about.
type marksQuery struct {
	job   string
	stale bool
}

func (q *marksQuery) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&q.job, "job", "", "only those of this `JOB`, configured or not; of a foreign hold its tag")
	cmd.Flags().BoolVar(&q.stale, "stale", false, "only those whose job is not in the configuration")
}

// mark is one row, and one line of the file that undoes a release.
type mark struct {
	Dataset string    `json:"dataset"`
	Version string    `json:"version"`
	GUID    string    `json:"guid"`
	Job     string    `json:"job"`
	Purpose string    `json:"purpose"`
	Created time.Time `json:"created"`
	Stale   bool      `json:"stale,omitempty"`

	of zfs.Mark
}

// zfs opens this machine's ZFS.
func (p *program) zfs(ctx context.Context) (*zfs.Place, error) {
	h, err := p.here(ctx)
	if err != nil {
		return nil, err
	}
	return h.ZFS(ctx)
}

// findMarks lists what the query means, on the datasets that the patterns select.
func (p *program) findMarks(ctx context.Context, m marks, q marksQuery, patterns []string) ([]mark, error) {
	filter := cairn.All
	if len(patterns) > 0 {
		rules := map[string]bool{}
		for _, pattern := range patterns {
			rules[pattern] = true
		}
		var err error
		if filter, err = cairn.ParseFilter(rules); err != nil {
			return nil, err
		}
	}
	place, err := p.zfs(ctx)
	if err != nil {
		return nil, err
	}
	found, err := place.Marks(ctx, filter)
	if err != nil {
		return nil, err
	}
	cfg, err := p.config()
	if err != nil {
		return nil, err
	}
	rows := []mark{}
	for _, one := range found {
		row := mark{Dataset: one.Dataset, Version: one.Version.Name, GUID: one.Version.GUID.String(), Job: one.Owner, Purpose: one.Purpose.String(),
			Created: one.Created, Stale: one.Purpose != cairn.PurposeForeign && cfg.Owner(one.Owner) == nil, of: one}
		if slices.Contains(m.purposes, one.Purpose) && (q.job == "" || q.job == one.Owner) && (!q.stale || row.Stale) {
			rows = append(rows, row)
		}
	}
	return rows, nil
}

func (p *program) marksListCommand(m marks) *cobra.Command {
	var q marksQuery
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list [PATTERN...]",
		Short: "List the " + m.name + " of all jobs, with age and owner",
		Long: "A PATTERN is a dataset's name, or one followed by '<' for it and all below. STALE are those whose job\n" +
			"is not in the configuration: an old name, or one of another program's configuration.",
		Example: "  cairn zfs " + m.name + " list 'tank<' --stale",
		RunE: run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			rows, err := p.findMarks(ctx, m, q, args)
			if err != nil {
				return err
			}
			if asJSON {
				return p.printJSON(rows)
			}
			return p.printMarks(rows)
		}),
	}
	q.flags(cmd)
	jsonFlag(cmd, &asJSON)
	return cmd
}

func (p *program) printMarks(rows []mark) error {
	now, cells := time.Now(), [][]string{{"VERSION", "JOB", "PURPOSE", "AGE", ""}}
	for _, r := range rows {
		word := ""
		if r.Stale {
			word = "STALE"
		}
		cells = append(cells, []string{r.Dataset + r.Version, r.Job, r.Purpose, age(now, r.Created), word})
	}
	return p.table(cells)
}

func (p *program) marksAdoptCommand(m marks) *cobra.Command {
	var q marksQuery
	var to string
	var c consent
	cmd := &cobra.Command{
		Use:   "adopt [PATTERN...]",
		Short: "Give the " + m.name + " of an old job's name to a job",
		Long:  "A job that was renamed goes on with what it left under its old name. The new mark is made before the old one goes.",
		Example: "  cairn zfs " + m.name + " adopt --job nightly_old --to nightly --dry-run\n" +
			"  cairn zfs " + m.name + " adopt --job nightly_old --to nightly",
		RunE: run(func(ctx context.Context, cmd *cobra.Command, args []string) error {
			if q.job == "" {
				return badUsage(cmd, "--job says whose %s are adopted", m.name)
			}
			if _, err := p.jobConfig(to); err != nil {
				return err
			}
			return p.changeMarks(ctx, m, q, args, c, "adopt", "give "+m.name+" to job "+to, func(place *zfs.Place, all []zfs.Mark) error {
				return place.Adopt(ctx, all, to)
			})
		}),
	}
	q.flags(cmd)
	cmd.Flags().StringVar(&to, "to", "", "the configured `JOB` that gets them")
	_ = cmd.MarkFlagRequired("to") // fails only for a flag that does not exist
	c.flags(cmd)
	return cmd
}

func (p *program) marksReleaseCommand(m marks) *cobra.Command {
	var q marksQuery
	var c consent
	var undo string
	cmd := &cobra.Command{
		Use:   "release [PATTERN...]",
		Short: "Release " + m.name + " that no job needs",
		Long: "What is released is printed as JSON: kept in a file, --undo FILE sets it again. A cursor comes back as\n" +
			"long as a version of its GUID is there.",
		Example: "  cairn zfs " + m.name + " release --stale --dry-run\n  cairn zfs " + m.name + " release --stale > released.json\n" +
			"  cairn zfs " + m.name + " release --undo released.json",
		RunE: run(func(ctx context.Context, cmd *cobra.Command, args []string) error {
			if undo != "" {
				return p.restoreMarks(ctx, undo)
			}
			if q.job == "" && !q.stale {
				return badUsage(cmd, "--job JOB or --stale says which %s are released", m.name)
			}
			return p.changeMarks(ctx, m, q, args, c, "release", "release "+m.name, func(place *zfs.Place, all []zfs.Mark) error {
				return place.Release(ctx, all)
			})
		}),
	}
	q.flags(cmd)
	c.flags(cmd)
	cmd.Flags().StringVar(&undo, "undo", "", "set again what an earlier release printed to `FILE`")
	return cmd
}

// changeMarks shows what is meant, asks, and does it. What was changed is printed
// as JSON before it is, so that it can be undone whatever happens.
func (p *program) changeMarks(ctx context.Context, m marks, q marksQuery, patterns []string, c consent, op, what string, change func(*zfs.Place, []zfs.Mark) error) error {
	rows, err := p.findMarks(ctx, m, q, patterns)
	if err != nil {
		return err
	}
	if len(rows) == 0 {
		p.note("There is nothing to %s.", op)
		return nil
	}
	if c.dryRun {
		if err := p.printMarks(rows); err != nil {
			return err
		}
	}
	if agreed, err := p.agree(ctx, c, op, m.name, what+": "+count(len(rows), "mark")); err != nil || !agreed {
		return err
	}
	if err := p.printJSON(rows); err != nil {
		return err
	}
	place, err := p.zfs(ctx)
	if err != nil {
		return err
	}
	all := make([]zfs.Mark, len(rows))
	for i, r := range rows {
		all[i] = r.of
	}
	return change(place, all)
}

// restoreMarks undoes a release.
func (p *program) restoreMarks(ctx context.Context, file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return &cairn.Error{Op: "read released marks", Subject: file, Kind: cairn.KindNotFound, Err: err}
	}
	var rows []mark
	if err := json.Unmarshal(text, &rows); err != nil {
		return &cairn.Error{Op: "read released marks", Subject: file, Kind: cairn.KindInvalid, Err: err, Hint: "it is what 'cairn zfs holds release' or 'cairn zfs cursors release' printed"}
	}
	all := make([]zfs.Mark, len(rows))
	for i, r := range rows {
		guid, err := cairn.ParseGUID(r.GUID)
		purpose, known := purposeNamed(r.Purpose)
		if !known {
			err = errors.Join(err, errors.New("unknown purpose "+r.Purpose))
		}
		if err != nil {
			return &cairn.Error{Op: "read released marks", Subject: file, Kind: cairn.KindInvalid, Err: err}
		}
		all[i] = zfs.Mark{Dataset: r.Dataset, Version: cairn.VersionID{Name: r.Version, GUID: guid}, Owner: r.Job, Purpose: purpose, Created: r.Created}
	}
	place, err := p.zfs(ctx)
	if err != nil {
		return err
	}
	if err := place.Restore(ctx, all); err != nil {
		return err
	}
	p.note("%s set again.", count(len(all), "mark"))
	return nil
}

func purposeNamed(word string) (cairn.Purpose, bool) {
	for purpose := cairn.PurposePlan; purpose <= cairn.PurposeForeign; purpose++ {
		if purpose.String() == word {
			return purpose, true
		}
	}
	return 0, false
}

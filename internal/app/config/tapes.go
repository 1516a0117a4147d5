package config

import (
	"fmt"

	"cairn/internal/policy/syncpolicy"
	"cairn/ltfs"
)

// EveryTape is the name under which a configuration says what holds for every
// mounted tape that does not say otherwise.
const EveryTape = "*"

// Tape is a tape drive that the configuration declares, and how a tape in it is
// mounted. Texts are empty, and the budget 0, where nothing was said.
type Tape struct {
	Name string `yaml:",key" doc:"name of the drive in commands; \"*\" says what holds for every tape that does not say otherwise"`
	At   Pos    `yaml:"-"`

	Drive       string   `yaml:"drive" as:"path" doc:"device of the drive (/dev/sg1), or the folder that stands for one"`
	Labels      string   `yaml:"labels" doc:"pattern (* and ?) of the barcodes, or volume names, of the tapes that belong into it; others are not mounted"`
	Sync        []string `yaml:"sync" doc:"when an index is written without asking: unmount, close, time@N; they combine (default time@5m)"`
	Fsync       string   `yaml:"fsync" values:"index incremental data" doc:"what fsync waits for: data and a full index (default), data and an incremental index, data alone"`
	IndexBudget int64    `yaml:"index_budget" as:"size" doc:"how much of a tape indexes may take (default 2 %, at least 1 GB, at most a tenth)"`
	SyncCalls   string   `yaml:"sync_calls" values:"on off" doc:"whether sync(2) of any program waits for the tape, where the kernel can (default on)"`
	Rules       string   `yaml:"rules" doc:"which files belong to the index partition, as size=1M/name=*.txt (default: as the volume says)"`
}

// Tape returns what holds for a tape: the declaration of that name or that drive,
// completed by that of EveryTape. Its Drive is empty when none was declared.
func (c *Config) Tape(nameOrDrive string) Tape {
	var found Tape
	for _, t := range c.Tapes {
		if t.Name != EveryTape && (t.Name == nameOrDrive || t.Drive == nameOrDrive) {
			found = *t
		}
	}
	for _, t := range c.Tapes {
		if t.Name == EveryTape {
			found.complete(t)
		}
	}
	return found
}

func (t *Tape) complete(every *Tape) {
	if len(t.Sync) == 0 {
		t.Sync = every.Sync
	}
	if t.IndexBudget == 0 {
		t.IndexBudget = every.IndexBudget
	}
	for _, word := range []struct {
		own *string
		all string
	}{{&t.Labels, every.Labels}, {&t.Fsync, every.Fsync}, {&t.SyncCalls, every.SyncCalls}, {&t.Rules, every.Rules}} {
		if *word.own == "" {
			*word.own = word.all
		}
	}
}

// checkTapes looks at the declared drives.
func (r *reading) checkTapes(c *Config) {
	names, drives := map[string]*Tape{}, map[string]*Tape{}
	for _, t := range c.Tapes {
		if other := names[t.Name]; other != nil {
			r.fail(&t.Name, fmt.Sprintf("a second tape %q", t.Name), "the first is at "+other.At.String())
		}
		names[t.Name] = t
		switch other := drives[t.Drive]; {
		case t.Name == EveryTape && t.Drive != "":
			r.fail(&t.Drive, "a drive for every tape", `"*" says what holds for all of them; give the drive a name of its own`)
		case t.Name != EveryTape && t.Drive == "":
			r.fail(&t.Name, fmt.Sprintf("tape %q has no drive", t.Name), "as in drive: /dev/sg1")
		case t.Drive != "" && other != nil:
			r.fail(&t.Drive, fmt.Sprintf("a second tape in drive %s", t.Drive), fmt.Sprintf("%q has it", other.Name))
		}
		drives[t.Drive] = t
		if _, err := syncpolicy.Parse(t.Sync...); err != nil {
			r.fail(&t.Sync, err.Error(), "")
		}
		if t.Rules != "" {
			if _, err := ltfs.ParsePolicy(t.Rules); err != nil {
				r.fail(&t.Rules, err.Error(), "as in size=1M/name=*.txt")
			}
		}
	}
}

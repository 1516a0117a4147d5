package daemon

import (
	"context"
	"slices"
	"strings"
	"time"

	"cairn"
	"cairn/client"
	"cairn/internal/app/config"
)

// tapes are the declared drives and the mounted tapes of this machine; what is
// mounted was mounted by cairn tape mount, and answers for itself.
func (d *Daemon) tapes(ctx context.Context) []client.Tape {
	mounted, err := d.mounts.List(ctx)
	if err != nil && d.trouble.note("tapes", err) {
		d.log.Warn("mounted tapes cannot be listed", "err", err)
	}
	if err == nil {
		d.trouble.clear("tapes")
	}
	var list []client.Tape
	for _, declared := range d.cfg.Tapes {
		if declared.Name == config.EveryTape {
			continue
		}
		t := client.Tape{Declared: declared.Name, Drive: declared.Drive}
		for i, m := range mounted {
			if m.Drive == declared.Drive {
				mounted[i].Declared = declared.Name
				t.Folder = m.Folder
			}
		}
		if t.Folder == "" {
			list = append(list, t)
		}
	}
	return append(mounted, list...)
}

// tapeNext says for each state that is not well what comes next, or what to do.
var tapeNext = map[cairn.State]string{
	cairn.StateLate:     "it is tried again",
	cairn.StateDegraded: "unmounting it writes the last index",
	cairn.StateStuck:    "look at the drive; what is not on tape is kept in memory and written when it answers",
	cairn.StateDamaged:  "unmount it, and check it: cairn tape check",
	cairn.StateUnknown:  "",
}

// tapeState is the state of a word; any other than those of tapeNext is well.
func tapeState(word string) cairn.State {
	for state := range tapeNext {
		if state.String() == word {
			return state
		}
	}
	return cairn.StateOK
}

// concerned reports whether the state of a mounted tape is the configuration's
// business: it declares the drive, or every tape. One that does not answer tells of
// no drive, and counts where any is declared.
func (d *Daemon) concerned(t client.Tape) bool {
	every := slices.ContainsFunc(d.cfg.Tapes, func(c *config.Tape) bool { return c.Name == config.EveryTape })
	return t.Declared != "" || every || t.Drive == "" && len(d.cfg.Tapes) > 0
}

// tapeProblems are the mounted tapes that are not well.
func (d *Daemon) tapeProblems(tapes []client.Tape, now time.Time) []client.Problem {
	var list []client.Problem
	for _, t := range tapes {
		if t.Folder == "" || t.ReadOnly || !d.concerned(t) {
			continue
		}
		state := tapeState(t.State)
		since := d.onsets.of("tape on "+t.Folder, state, now)
		if state == cairn.StateOK {
			continue
		}
		name := strings.Join(strings.Fields("tape "+t.Barcode+" on "+t.Folder), " ")
		list = append(list, client.Problem{State: t.State, Since: since, What: name + ": " + t.Why, Next: tapeNext[state]})
	}
	return list
}

package cli

import (
	"fmt"
	"time"

	"cairn"
	"cairn/internal/front/ltfsmount"
	"cairn/internal/policy/syncpolicy"
)

// mountedInfo answers `tape info` for a folder on which a tape is mounted.
func (p *program) mountedInfo(dir string, asJSON bool) (mounted bool, err error) {
	r, err := ltfsmount.Ask(dir)
	switch {
	case cairn.KindOf(err) == cairn.KindUnavailable:
		return true, err
	case err != nil:
		return false, nil // no tape is mounted there
	}
	if asJSON {
		return true, p.printJSON(r)
	}
	budget := "no budget"
	if r.IndexBudget > 0 {
		budget = "budget " + size(r.IndexBudget)
	}
	last := "none since mounting"
	if !r.LastIndex.IsZero() {
		last = localTime(r.LastIndex)
	}
	failure := "none since mounting"
	if r.LastError != "" {
		failure = localTime(r.LastFailure) + ": " + r.LastError
	}
	return true, p.table([][]string{{"volume", fmt.Sprintf("%q", r.Name), r.Barcode}, {"drive", r.Drive, fmt.Sprintf("process %d", r.PID)},
		{"state", tapeLine(r, time.Now())}, {"sync", r.Policy, "fsync: " + r.Fsync, fmt.Sprintf("sync(2): %v, waits at most %v for the budget", r.SyncCalls, syncpolicy.Patience)},
		{"generation", fmt.Sprint(r.Generation), "last index: " + last}, {"indexes", size(r.IndexBytes), budget}, {"last failed sync", failure}, {"room", size(r.Free) + " of " + size(r.Total)}})
}

package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"cairn/internal/front/ltfsmount"
	"cairn/internal/policy/syncpolicy"
)

const attrStatus = "user.ltfs.vendor.cairn.status"

// mountReport is what a mounted tape tells of itself; ok is false when dir is not
// one that answers.
func mountReport(dir string) (r ltfsmount.Report, ok bool) {
	text, err := mountAttr(dir, attrStatus)
	return r, err == nil && json.Unmarshal([]byte(text), &r) == nil
}

// printTapes writes a line for each mounted tape of this machine.
func (p *program) printTapes(ctx context.Context) error {
	for _, m := range tapeMounts(ctx) {
		if r, ok := mountReport(m.dir); ok {
			if err := p.printf("TAPE %s on %s: %s\n", nameOf(r), m.dir, tapeLine(r, time.Now())); err != nil {
				return err
			}
		}
	}
	return nil
}

func nameOf(r ltfsmount.Report) string {
	switch {
	case r.Barcode != "":
		return r.Barcode
	case r.Name != "":
		return r.Name
	}
	return r.Drive
}

// tapeLine is a mounted tape's state in one line.
func tapeLine(r ltfsmount.Report, now time.Time) string {
	line := "mounted"
	if r.ReadOnly {
		return line + " read-only, generation " + fmt.Sprint(r.Generation)
	}
	line += fmt.Sprintf(", %s free, indexes %.1f %%; a power cut now loses ", size(r.Free), 100*float64(r.IndexBytes)/float64(max(r.Total, 1)))
	risk := r.AtRisk
	if risk.Files == 0 && risk.Bytes == 0 && risk.Changes == 0 {
		line += "nothing"
	} else {
		line += fmt.Sprintf("%s, %s and %s (%s)", count(risk.Files, "file"), size(risk.Bytes), count(risk.Changes, "other change"), now.Sub(risk.Since).Round(time.Second))
	}
	line += fmt.Sprintf("; %s open for writing", count(r.OpenForWrite, "file"))
	if r.State != "ok" {
		line += "; " + r.State + ": " + r.Why
	}
	return line
}

// mountedInfo answers `tape info` for a folder on which a tape is mounted.
func (p *program) mountedInfo(dir string, asJSON bool) (mounted bool, err error) {
	r, ok := mountReport(dir)
	if !ok {
		return false, nil
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
	return true, p.table([][]string{{"volume", fmt.Sprintf("%q", r.Name), r.Barcode}, {"drive", r.Drive, fmt.Sprintf("process %d", r.PID)},
		{"state", tapeLine(r, time.Now())}, {"sync", r.Policy, "fsync: " + r.Fsync, fmt.Sprintf("sync(2): %v, waits at most %v for the budget", r.SyncCalls, syncpolicy.Patience)},
		{"generation", fmt.Sprint(r.Generation), "last index: " + last}, {"indexes", size(r.IndexBytes), budget}, {"room", size(r.Free) + " of " + size(r.Total)}})
}

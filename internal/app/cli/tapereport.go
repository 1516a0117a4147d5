package cli

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"cairn/client"
)

// printTapes writes a line for each declared drive and each mounted tape.
func (p *program) printTapes(tapes []client.Tape, now time.Time) error {
	for _, t := range tapes {
		line := fmt.Sprintf("TAPE %s in %s: nothing is mounted", t.Declared, t.Drive)
		if t.Folder != "" {
			line = fmt.Sprintf("TAPE %s: %s", strings.Join(nonEmpty(nameOf(t), "on", t.Folder), " "), tapeLine(t, now))
		}
		if err := p.printf("%s\n", line); err != nil {
			return err
		}
	}
	return nil
}

// nameOf is what a person calls a tape: its barcode, its name, else its drive.
func nameOf(t client.Tape) string { return cmp.Or(t.Barcode, t.Name, t.Drive) }

// slowCall is how long a call of a drive takes before it is worth a word: winding a
// tape takes up to some minutes.
const slowCall = 5 * time.Minute

// tapeLine is a mounted tape's state in one line.
func tapeLine(r client.Tape, now time.Time) string {
	if r.Drive == "" {
		return r.State + ": " + r.Why
	}
	line := "mounted"
	if r.ReadOnly {
		return line + " read-only, generation " + fmt.Sprint(r.Generation)
	}
	line += fmt.Sprintf(", %s free, indexes %.1f %%; a power cut now loses ", size(r.Free), 100*float64(r.IndexBytes)/float64(max(r.Total, 1)))
	risk := r.AtRisk
	if risk.None() {
		line += "nothing"
	} else {
		line += fmt.Sprintf("%s, %s and %s (%s)", count(risk.Files, "file"), size(risk.Bytes), count(risk.Changes, "other change"), now.Sub(risk.Since).Round(time.Second))
	}
	line += fmt.Sprintf("; %s open for writing", count(r.OpenForWrite, "file"))
	if r.State != "ok" {
		line += "; " + r.State + ": " + r.Why
	}
	if took := now.Sub(r.Waiting); !r.Waiting.IsZero() && took > slowCall {
		line += fmt.Sprintf("; the drive has been busy with one call for %s", took.Round(time.Second))
	}
	return line
}

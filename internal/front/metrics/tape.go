package metrics

import (
	"io"
	"time"

	"cairn/client"
)

// tapeStates are the words of a mounted tape's state.
var tapeStates = []string{"ok", "late", "degraded", "stuck", "damaged", "unknown"}

// WriteTapes renders mounted tapes; those of the list that are not mounted are left
// out.
func WriteTapes(w io.Writer, tapes []client.Tape, now time.Time) {
	page{w}.tapes(tapes, now)
}

func (p page) tapes(tapes []client.Tape, now time.Time) {
	labels := func(t client.Tape) []string {
		return []string{"folder", t.Folder, "drive", t.Drive, "volume", t.Name, "barcode", t.Barcode}
	}
	p.family("cairn_tape_state", "gauge", "1 for the state that syncing of a mounted tape is in.")
	for _, t := range tapes {
		for _, state := range tapeStates {
			if t.Folder != "" {
				p.row("cairn_tape_state", flag(t.State == state), append(labels(t), "state", state)...)
			}
		}
	}
	age := func(since time.Time) float64 {
		if since.IsZero() {
			return 0
		}
		return now.Sub(since).Seconds()
	}
	for _, m := range []struct {
		name, help string
		value      func(client.Tape) float64
	}{
		{"generation", "The newest index on tape.", func(t client.Tape) float64 { return float64(t.Generation) }},
		{"sync_failures", "Failed syncs since the last good one.", func(t client.Tape) float64 { return float64(t.Failures) }},
		{"last_sync_failure_seconds", "When a sync failed last, in seconds since 1970; 0: never.", func(t client.Tape) float64 { return seconds(t.LastFailure) }},
		{"last_index_seconds", "When an index was written last, in seconds since 1970; 0: not since mounting.", func(t client.Tape) float64 { return seconds(t.LastIndex) }},
		{"index_bytes", "Tape that indexes have taken.", func(t client.Tape) float64 { return float64(t.IndexBytes) }},
		{"index_budget_bytes", "Tape that indexes may take; 0 is no limit.", func(t client.Tape) float64 { return float64(t.IndexBudget) }},
		{"free_bytes", "Room for data.", func(t client.Tape) float64 { return float64(t.Free) }},
		{"open_for_write", "Files open for writing or not all on tape.", func(t client.Tape) float64 { return float64(t.OpenForWrite) }},
		{"risk_files", "Changed files that a power cut now would lose.", func(t client.Tape) float64 { return float64(t.AtRisk.Files) }},
		{"risk_bytes", "Written bytes that a power cut now would lose.", func(t client.Tape) float64 { return float64(t.AtRisk.Bytes) }},
		{"risk_seconds", "Age of the oldest change that a power cut now would lose.", func(t client.Tape) float64 { return age(t.AtRisk.Since) }},
		{"drive_call_seconds", "How long the call of the drive under way takes.", func(t client.Tape) float64 { return age(t.Waiting) }},
	} {
		p.family("cairn_tape_"+m.name, "gauge", m.help)
		for _, t := range tapes {
			if t.Folder != "" && t.Drive != "" { // one that does not answer tells no numbers
				p.row("cairn_tape_"+m.name, m.value(t), labels(t)...)
			}
		}
	}
}

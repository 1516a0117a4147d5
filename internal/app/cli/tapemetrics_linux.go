package cli

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"cairn"
	"cairn/internal/front/ltfsmount"
)

// metricsEvery is how old the metrics of a mounted tape may be.
const metricsEvery = 15 * time.Second

// metricStates are the words of Report.State.
var metricStates = []string{"ok", "late", "degraded", "stuck", "damaged"}

// keepMetrics writes a mounted tape's state to a file, for a collector of text
// files as Prometheus's node exporter has one, until the mount ends; then the file
// goes.
func (p *program) keepMetrics(ctx context.Context, m *ltfsmount.Mount, file string) (stop func()) {
	if file == "" {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(metricsEvery)
		defer tick.Stop()
		for {
			if err := writeMetrics(ctx, m, file); err != nil && ctx.Err() == nil {
				p.logger().Warn("the metrics could not be written", "error", err)
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() {
		cancel()
		<-ended
		_ = os.Remove(file)
	}
}

func writeMetrics(ctx context.Context, m *ltfsmount.Mount, file string) error {
	r, err := m.Report(ctx)
	if err != nil {
		return err
	}
	part := file + ".part" // collectors read *.prom
	if err := os.WriteFile(part, []byte(metricsText(r, time.Now())), 0o644); err != nil {
		return &cairn.Error{Op: "write metrics", Subject: part, Kind: cairn.KindIO, Err: err}
	}
	if err := os.Rename(part, file); err != nil {
		return &cairn.Error{Op: "write metrics", Subject: file, Kind: cairn.KindIO, Err: err}
	}
	return nil
}

// metricsText is a report in the text format of Prometheus.
func metricsText(r ltfsmount.Report, now time.Time) string {
	var b strings.Builder
	labels := fmt.Sprintf("drive=%q,volume=%q,barcode=%q", r.Drive, r.Name, r.Barcode)
	gauge := func(name, help string, value float64) {
		fmt.Fprintf(&b, "# HELP cairn_tape_%[1]s %[2]s\n# TYPE cairn_tape_%[1]s gauge\ncairn_tape_%[1]s{%[3]s} %[4]g\n", name, help, labels, value)
	}
	fmt.Fprintf(&b, "# HELP cairn_tape_state 1 for the state that syncing is in.\n# TYPE cairn_tape_state gauge\n")
	for _, s := range metricStates {
		is := 0
		if s == r.State {
			is = 1
		}
		fmt.Fprintf(&b, "cairn_tape_state{%s,state=%q} %d\n", labels, s, is)
	}
	gauge("generation", "The newest index on tape.", float64(r.Generation))
	gauge("sync_failures", "Failed syncs since the last good one.", float64(r.Failures))
	gauge("index_bytes", "Tape that indexes have taken.", float64(r.IndexBytes))
	gauge("index_budget_bytes", "Tape that indexes may take; 0 is no limit.", float64(r.IndexBudget))
	gauge("free_bytes", "Room for data.", float64(r.Free))
	gauge("open_for_write", "Files open for writing or not all on tape.", float64(r.OpenForWrite))
	gauge("risk_files", "Changed files that a power cut now would lose.", float64(r.AtRisk.Files))
	gauge("risk_bytes", "Written bytes that a power cut now would lose.", float64(r.AtRisk.Bytes))
	age := 0.0
	if !r.AtRisk.Since.IsZero() {
		age = now.Sub(r.AtRisk.Since).Seconds()
	}
	gauge("risk_seconds", "Age of the oldest change that a power cut now would lose.", age)
	return b.String()
}

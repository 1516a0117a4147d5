package cli

import (
	"bytes"
	"context"
	"os"
	"time"

	"cairn"
	"cairn/client"
	"cairn/internal/front/ltfsmount"
	"cairn/internal/front/metrics"
)

// metricsEvery is how old the metrics of a mounted tape may be.
const metricsEvery = 15 * time.Second

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
			if err := writeMetrics(m, file); err != nil {
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

func writeMetrics(m *ltfsmount.Mount, file string) error {
	var text bytes.Buffer
	metrics.WriteTapes(&text, []client.Tape{m.Report()}, time.Now())
	part := file + ".part" // collectors read *.prom
	if err := os.WriteFile(part, text.Bytes(), 0o644); err != nil {
		return &cairn.Error{Op: "write metrics", Subject: part, Kind: cairn.KindIO, Err: err}
	}
	if err := os.Rename(part, file); err != nil {
		return &cairn.Error{Op: "write metrics", Subject: file, Kind: cairn.KindIO, Err: err}
	}
	return nil
}

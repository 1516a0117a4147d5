package volume_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"cairn/internal/system/volume"
)

// pauses collects how long each capture held writes.
type pauses struct {
	slog.Handler
	mu   sync.Mutex
	took []time.Duration
}

func (p *pauses) Enabled(context.Context, slog.Level) bool { return true }

func (p *pauses) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "pause" {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.took = append(p.took, a.Value.Duration())
		}
		return true
	})
	return nil
}

// With CAIRN_SCALE=full: the pause of captures under random writes on a real disk.
func TestCapturePauseIsShort(t *testing.T) {
	if os.Getenv("CAIRN_SCALE") != "full" {
		t.Skip("a measurement; set CAIRN_SCALE=full")
	}
	const size, writers = 256 << 20, 8
	fsys, v := fresh(t, size)
	closeVolume(t, v)
	p := &pauses{Handler: slog.DiscardHandler}
	v = open(t, fsys, volume.Options{Log: slog.New(p)})
	defer closeVolume(t, v)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for w := range uint64(writers) {
		wg.Go(func() {
			d, rnd := v.Device(), rand.New(rand.NewPCG(1, w))
			defer func() { _ = d.Close() }()
			for {
				select {
				case <-stop:
					return
				default:
					if err := d.WriteAt(ctx, noise(w, 4096), rnd.Int64N(size/4096)*4096, 0); err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	for i := range 100 {
		time.Sleep(20 * time.Millisecond)
		snap(t, v, fmt.Sprintf("@%d", i))
	}
	close(stop)
	wg.Wait()
	slices.Sort(p.took)
	p99 := p.took[len(p.took)*99/100]
	t.Logf("median %v, p99 %v", p.took[len(p.took)/2], p99)
	if p99 > 50*time.Millisecond {
		t.Errorf("p99 %v", p99)
	}
}

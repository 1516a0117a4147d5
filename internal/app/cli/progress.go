package cli

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"cairn/internal/mech/watchdog"
)

// bar shows how far long work has come: a line that is rewritten on a terminal,
// elsewhere a line now and then.
type bar struct {
	out     io.Writer
	person  bool          // somebody watches on a terminal
	every   time.Duration // between two looks
	title   string
	started time.Time
	width   int
	shown   int // characters of the line on the screen
	stop    chan struct{}
	ended   sync.Once
	stopped sync.WaitGroup
}

// startBar begins a bar on the standard error output.
func (p *program) startBar(title string) *bar {
	b := &bar{out: p.errOut, every: plainEvery, title: title, started: time.Now(), stop: make(chan struct{})}
	f, ok := p.errOut.(descriptor)
	if !ok || !isTerminal(p.errOut) || os.Getenv("TERM") == "dumb" {
		return b
	}
	b.person, b.every, b.width = true, time.Second/4, 80
	if w, _, err := term.GetSize(int(f.Fd())); err == nil {
		b.width = w
	}
	return b
}

// plainEvery is the time between two lines where no terminal is.
const plainEvery = 15 * time.Second

// watch shows the "bytes" of a Progress until end is called.
func (b *bar) watch(pr *watchdog.Progress, expected int64) {
	b.poll(func() (int64, int64, string) {
		r := pr.Report()
		return r.Counters["bytes"], expected, r.Phase
	})
}

// poll shows what look returns, again and again, until end or pause is called.
func (b *bar) poll(look func() (moved, expected int64, what string)) {
	b.stopped.Go(func() {
		tick := time.NewTicker(b.every)
		defer tick.Stop()
		for {
			select {
			case <-b.stop:
				return
			case <-tick.C:
				b.show(look())
			}
		}
	})
}

func (b *bar) show(moved, expected int64, what string) {
	line := barLine(b.title, moved, expected, what, time.Since(b.started), b.width-1)
	if !b.person {
		_, _ = fmt.Fprintln(b.out, line) // cosmetic
		return
	}
	pad := max(0, b.shown-len([]rune(line)))
	_, _ = fmt.Fprintf(b.out, "\r%s%s", line, strings.Repeat(" ", pad)) // cosmetic
	b.shown = len([]rune(line))
}

// pause ends the showing, so that a question can be asked.
func (b *bar) pause() {
	b.ended.Do(func() { close(b.stop) })
	b.stopped.Wait()
	if b.shown > 0 {
		_, _ = fmt.Fprintf(b.out, "\r%s\r", strings.Repeat(" ", b.shown)) // cosmetic
	}
	b.shown = 0
}

// end takes the bar off the screen.
func (b *bar) end() { b.pause() }

const barCells = 20

// barLine renders "title [=====>    ] 1.2 GiB of 4 GiB, 310 MiB/s, 9 s left, what",
// cut to the width.
func barLine(title string, moved, expected int64, what string, taken time.Duration, width int) string {
	parts := []string{size(moved)}
	gauge := ""
	if expected > 0 {
		parts[0] += " of " + size(expected)
		filled := int(min(moved, expected) * barCells / expected)
		gauge = " [" + strings.Repeat("=", filled) + strings.Repeat(" ", barCells-filled) + "]"
	}
	if rate := float64(moved) / taken.Seconds(); taken > time.Second && rate >= 1 {
		parts = append(parts, size(int64(rate))+"/s")
		if left := float64(expected-moved) / rate; expected > moved {
			parts = append(parts, span(time.Duration(left*float64(time.Second)))+" left")
		}
	}
	line := []rune(title + gauge + " " + strings.Join(append(parts, nonEmpty(what)...), ", "))
	if len(line) > width && width > 0 {
		line = line[:width]
	}
	return string(line)
}

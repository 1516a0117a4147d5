package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"cairn"
)

// printJSON writes one indented JSON value.
func (p *program) printJSON(v any) error {
	e := json.NewEncoder(p.out)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return p.wrote(e.Encode(v))
}

// printf writes to the standard output.
func (p *program) printf(format string, args ...any) error {
	_, err := fmt.Fprintf(p.out, format, args...)
	return p.wrote(err)
}

// note writes a remark that is no result to the standard error output.
func (p *program) note(format string, args ...any) {
	_, _ = fmt.Fprintf(p.errOut, format+"\n", args...) // a remark that nobody can read is not worth failing for
}

func (p *program) wrote(err error) error {
	if err == nil {
		return nil
	}
	return &cairn.Error{Op: "write output", Kind: cairn.KindIO, Err: err}
}

// table writes rows of cells in aligned columns; the first row is the heading.
func (p *program) table(rows [][]string) error {
	w := tabwriter.NewWriter(p.out, 0, 8, 2, ' ', 0)
	for _, row := range rows {
		line := strings.TrimRight(strings.Join(row, "\t"), "\t")
		if _, err := io.WriteString(w, line+"\n"); err != nil {
			return p.wrote(err)
		}
	}
	return p.wrote(w.Flush())
}

// age is how long ago something was: "now", "40 s", "3 min", "5 h", "20 d".
func age(now, then time.Time) string {
	if then.IsZero() {
		return "never"
	}
	return span(now.Sub(then))
}

func span(d time.Duration) string {
	switch {
	case d < time.Second:
		return "now"
	case d < 2*time.Minute:
		return fmt.Sprintf("%d s", d/time.Second)
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", d/time.Hour)
	}
	return fmt.Sprintf("%d d", d/(24*time.Hour))
}

var byteUnits = []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}

// size renders bytes with at most three significant digits: "4 KiB", "1.5 GiB".
func size(n int64) string {
	if n < 0 {
		return "-"
	}
	v, unit := float64(n), 0
	for v >= 1000 && unit < len(byteUnits)-1 {
		v /= 1024
		unit++
	}
	text := strconv.FormatFloat(v, 'f', 1, 64)
	if v >= 100 || unit == 0 {
		text = strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strings.TrimSuffix(text, ".0") + " " + byteUnits[unit]
}

// parseSize reads "512", "4KiB", "10 GiB", "1.5TiB"; units are powers of 1024, and
// K, M, G, T mean KiB, MiB, GiB, TiB.
func parseSize(s string) (int64, error) {
	bad := func() (int64, error) {
		return 0, invalid("use size", strconv.Quote(s), "write a number with a unit, as in 10GiB", nil)
	}
	text := strings.ReplaceAll(strings.TrimSpace(s), " ", "")
	digits := strings.TrimRight(text, "BbiKkMmGgTtPp")
	unit := strings.ToUpper(strings.TrimSuffix(strings.TrimSuffix(text[len(digits):], "B"), "i"))
	factor := int64(1)
	if unit != "" {
		i := strings.Index("KMGTP", unit)
		if i < 0 || len(unit) != 1 {
			return bad()
		}
		factor = 1 << (10 * (i + 1))
	}
	v, err := strconv.ParseFloat(digits, 64)
	if err != nil || v < 0 || v*float64(factor) > 1<<62 {
		return bad()
	}
	return int64(v * float64(factor)), nil
}

// localTime is a time for people, in their zone.
func localTime(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format("2006-01-02 15:04:05")
}

// Package duration reads lengths of time as zrepl's configuration writes them: one
// integer and one unit ("90s", "10m", "24h", "14d", "2w"). It promises that what
// it accepts is positive and fits a time.Duration; compound forms ("1h30m"), signs,
// fractions and a missing unit are refused with a sentence that says so.
package duration

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

var units = map[string]time.Duration{"s": time.Second, "m": time.Minute, "h": time.Hour, "d": 24 * time.Hour, "w": 7 * 24 * time.Hour}

// Parse reads a positive length of time. A day has 24 hours, a week seven days.
func Parse(text string) (time.Duration, error) {
	text = strings.TrimSpace(text)
	digits := len(text) - len(strings.TrimLeft(text, "0123456789"))
	unit, known := units[strings.TrimSpace(text[digits:])]
	if digits == 0 || !known {
		return 0, fmt.Errorf("%q is not a duration: write one whole number and one of s, m, h, d, w, such as 10m", text)
	}
	n, err := strconv.ParseInt(text[:digits], 10, 64)
	switch {
	case err != nil || n > math.MaxInt64/int64(unit):
		return 0, fmt.Errorf("%q is longer than 292 years", text)
	case n == 0:
		return 0, fmt.Errorf("%q is no time at all: a duration is at least 1s", text)
	}
	return time.Duration(n) * unit, nil
}

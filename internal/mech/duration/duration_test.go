package duration_test

import (
	"strings"
	"testing"
	"time"

	"cairn/internal/mech/duration"
)

func TestParse(t *testing.T) {
	const day = 24 * time.Hour
	for text, want := range map[string]time.Duration{
		"1s": time.Second, "10m": 10 * time.Minute, "24h": day, "14d": 14 * day, "2w": 14 * day, " 3 h ": 3 * time.Hour, "007m": 7 * time.Minute,
	} {
		if got, err := duration.Parse(text); err != nil || got != want {
			t.Errorf("%q: %v, %v; want %v", text, got, err, want)
		}
	}
	for text, says := range map[string]string{
		"": "not a duration", "10": "not a duration", "1h30m": "not a duration", "-1h": "not a duration", "1.5h": "not a duration", "h": "not a duration",
		"1y": "not a duration", "0s": "no time at all", "99999999999999w": "292 years", "99999999999999999999s": "292 years",
	} {
		if got, err := duration.Parse(text); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, %v; want an error that says %q", text, got, err, says)
		}
	}
}

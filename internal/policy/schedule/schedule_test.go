package schedule_test

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
	_ "time/tzdata" // the zones must be the same everywhere the test runs

	"cairn"
	"cairn/internal/policy/schedule"
)

func zone(t *testing.T, name string) *time.Location {
	t.Helper()
	z, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

func TestCronNext(t *testing.T) {
	const form = "2006-01-02 15:04:05"
	for _, c := range []struct{ expr, zone, after, want string }{
		{"*/10 * * * *", "UTC", "2026-01-01 00:00:00", "2026-01-01 00:10:00"},
		{"*/10 * * * *", "UTC", "2026-01-01 00:09:59", "2026-01-01 00:10:00"},
		{"*/20 * * * * *", "UTC", "2026-01-01 00:00:05", "2026-01-01 00:00:20"},
		{"0 3 * * *", "UTC", "2026-01-31 03:00:00", "2026-02-01 03:00:00"},
		{"0 3 1 * *", "UTC", "2026-01-31 03:00:00", "2026-02-01 03:00:00"},
		{"15,45 8-18/5 * * MON-FRI", "UTC", "2026-11-20 18:45:00", "2026-11-23 08:15:00"},
		{"0 0 13 * FRI", "UTC", "2026-11-14 00:00:00", "2026-11-20 00:00:00"}, // both restricted: either
		{"0 0 */2 * FRI", "UTC", "2026-11-20 00:00:00", "2026-11-21 00:00:00"},
		{"0 0 * * 7", "UTC", "2026-11-20 00:00:00", "2026-11-22 00:00:00"},
		{"0 0 29 2 *", "UTC", "2026-11-20 00:00:00", "2028-02-29 00:00:00"},
		{"59 23 31 DEC ?", "UTC", "2026-12-31 23:59:00", "2027-12-31 23:59:00"},
		{"5/20 * * * *", "UTC", "2026-01-01 00:46:00", "2026-01-01 01:05:00"},
		// the clock leaves out 02:00 to 03:00
		{"30 2 * * *", "Europe/Berlin", "2026-03-28 12:00:00", "2026-03-29 03:00:00"},
		{"30 2 * * *", "Europe/Berlin", "2026-03-29 03:00:00", "2026-03-30 02:30:00"},
		{"30 1-2 * * *", "Europe/Berlin", "2026-03-29 01:30:00", "2026-03-29 03:00:00"},
		{"30 4 * * *", "Europe/Berlin", "2026-03-29 01:00:00", "2026-03-29 04:30:00"},
		{"30 2 28 * *", "Europe/Berlin", "2026-03-28 12:00:00", "2026-04-28 02:30:00"},
		// midnight itself is left out
		{"0 0 * * *", "America/Asuncion", "2023-09-30 12:00:00", "2023-10-01 01:00:00"},
		{"0 5 1 * *", "America/Asuncion", "2023-09-30 12:00:00", "2023-10-01 05:00:00"},
		// half an hour beside the full one
		{"0 * * * *", "Asia/Kolkata", "2026-01-01 00:01:00", "2026-01-01 01:00:00"},
	} {
		cron, err := schedule.ParseCron(c.expr)
		if err != nil {
			t.Errorf("%s: %v", c.expr, err)
			continue
		}
		after, err := time.ParseInLocation(form, c.after, zone(t, c.zone))
		if err != nil {
			t.Fatal(err)
		}
		if got := cron.Next(after).Format(form); got != c.want {
			t.Errorf("%s after %s in %s: %s, want %s", c.expr, c.after, c.zone, got, c.want)
		}
	}
}

// The hour that the clock repeats is captured in both passes.
func TestCronRepeatedHour(t *testing.T) {
	cron, err := schedule.ParseCron("*/30 * * * *")
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 10, 25, 1, 30, 0, 0, zone(t, "Europe/Berlin"))
	for range 10 {
		next := cron.Next(at)
		if next.Sub(at) != 30*time.Minute {
			t.Fatalf("after %v comes %v", at, next)
		}
		at = next
	}
}

// Next is compared with trying every minute.
func TestCronNextAgainstBruteForce(t *testing.T) {
	type column struct {
		text string
		in   func(n int) bool
	}
	all := func(int) bool { return true }
	columns := [5][]column{
		{{"*", all}, {"*/13", func(n int) bool { return n%13 == 0 }}, {"7,50-52", func(n int) bool { return n == 7 || n >= 50 && n <= 52 }}},
		{{"*", all}, {"22-23", func(n int) bool { return n >= 22 }}, {"3/10", func(n int) bool { return n%10 == 3 }}},
		{{"*", all}, {"1", func(n int) bool { return n == 1 }}, {"28-31", func(n int) bool { return n >= 28 }}},
		{{"*", all}, {"FEB,3", func(n int) bool { return n == 2 || n == 3 }}, {"*/2", func(n int) bool { return n%2 == 1 }}},
		{{"*", all}, {"7", func(n int) bool { return n == 0 }}, {"TUE-THU", func(n int) bool { return n >= 2 && n <= 4 }}},
	}
	rnd := rand.New(rand.NewPCG(7, 7))
	for range 80 {
		var pick [5]column
		var expr []string
		for i, choices := range columns {
			pick[i] = choices[rnd.IntN(len(choices))]
			expr = append(expr, pick[i].text)
		}
		due := func(at time.Time) bool {
			day, weekday := pick[2].in(at.Day()), pick[4].in(int(at.Weekday()))
			either := pick[2].text != "*" && pick[4].text != "*"
			return pick[0].in(at.Minute()) && pick[1].in(at.Hour()) && pick[3].in(int(at.Month())) && (day && weekday || either && (day || weekday))
		}
		c, err := schedule.ParseCron(strings.Join(expr, " "))
		if err != nil {
			t.Fatal(err)
		}
		after := time.Date(2026, time.Month(1+rnd.IntN(12)), 1+rnd.IntN(28), rnd.IntN(24), rnd.IntN(60), 0, 0, time.UTC)
		want := after.Add(time.Minute)
		for !due(want) {
			want = want.Add(time.Minute)
		}
		if got := c.Next(after); !got.Equal(want) {
			t.Fatalf("%s after %v: %v, want %v", c, after, got, want)
		}
	}
}

func TestParseCronRefuses(t *testing.T) {
	for expr, says := range map[string]string{
		"":                  "0 fields",
		"* * * *":           "4 fields",
		"* * * * * * *":     "7 fields",
		"@daily":            "descriptors",
		"60 * * * *":        "minute \"60\": it lies between 0 and 59",
		"* 24 * * *":        "hour",
		"* * 0 * *":         "day of month",
		"* * * 13 *":        "month",
		"* * * * 8":         "day of week",
		"* * * * NONDAY":    "day of week",
		"*/0 * * * *":       "step",
		"*/x * * * *":       "step",
		"30-10 * * * *":     "ends before it begins",
		"1,,2 * * * *":      "minute",
		"-1 * * * *":        "minute",
		"0 0 30 2 *":        "no day of any year",
		"0 0 31 2,4,6,9 *":  "no day of any year",
		"5 0 0 * * SUNMON1": "day of",
	} {
		_, err := schedule.ParseCron(expr)
		if !errors.Is(err, cairn.KindConfig) || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v; want KindConfig that says %q", expr, err, says)
		}
	}
	if !(schedule.Cron{}).Next(time.Now()).IsZero() {
		t.Error("the zero Cron fires")
	}
}

func TestNaming(t *testing.T) {
	at := time.Date(2026, 7, 4, 9, 8, 7, 65e6, time.UTC)
	for _, c := range []struct{ format, location, want string }{
		{"", "", "p_20260704_090807_000"},
		{"dense", "UTC", "p_20260704_090807_000"},
		{"human", "", "p_2026-07-04_09:08:07"},
		{"iso-8601", "", "p_2026-07-04T09:08:07.065Z"},
		{"iso-8601", "Europe/Berlin", "p_2026-07-04T11:08:07.065_02:00"},
		{"unix-seconds", "", "p_1783156087"},
		{"06-002-1504", "Asia/Kolkata", "p_26-185-1438"},
	} {
		n, err := schedule.ParseNaming("p_", c.format, c.location)
		if err != nil {
			t.Errorf("%+v: %v", c, err)
			continue
		}
		got := n.Name(at)
		if got != c.want || cairn.CheckVersionName("@"+got) != nil || !n.Matches(got) || n.Matches("q_1") {
			t.Errorf("%+v: %q", c, got)
		}
	}
	for _, c := range []struct{ prefix, format, location, says string }{
		{"p_", "dense", "Europe/Berlin", "always UTC"},
		{"p_", "unix-seconds", "Europe/Berlin", "always UTC"},
		{"p_", "2006+01", "", "'+'"},
		{"p_", "densest", "", "none of dense"},
		{"p_", "dense", "Mars/Olympus", "timestamp_location"},
		{"p/", "", "", "letters, digits"},
		{"a@b", "", "", "letters, digits"},
		{strings.Repeat("p", 200), "", "", "at most"},
	} {
		if _, err := schedule.ParseNaming(c.prefix, c.format, c.location); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func TestDue(t *testing.T) {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name   string
		newest time.Time
		want   time.Duration // from now
	}{
		{"never captured", time.Time{}, 0},
		{"a while to go", now.Add(-4 * time.Minute), 6 * time.Minute},
		{"overdue", now.Add(-time.Hour), 0},
		{"captured this moment", now, 10 * time.Minute},
		{"captured in the future: the clock was set back", now.Add(30 * 24 * time.Hour), 10 * time.Minute},
	} {
		if got := schedule.Due(c.newest, now, 10*time.Minute).Sub(now); got != c.want {
			t.Errorf("%s: due in %v, want %v", c.name, got, c.want)
		}
	}
	if _, err := schedule.ParseInterval("1h30m"); !errors.Is(err, cairn.KindConfig) {
		t.Errorf("ParseInterval: %v", err)
	}
}

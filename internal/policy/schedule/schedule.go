// Package schedule decides when a capture is due and what it is called. All of it
// is pure: the present is a parameter, nobody waits here.
//
// It follows zrepl: cron expressions with five fields and an optional leading
// second, intervals of one number and one unit, and names made of a prefix and a
// timestamp in a named or a Go layout. It promises that names are legal at every
// place (cairn.CheckVersionName), whatever the layout, and that wrong
// configuration is refused when it is read, as KindConfig.
//
// What can go wrong: a location needs the system's time zone files. A clock that
// was set back repeats names; who captures finds the name taken and says so.
package schedule

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"

	"cairn"
	"cairn/internal/mech/duration"
)

// ParseInterval reads a period such as "10m".
func ParseInterval(text string) (time.Duration, error) {
	d, err := duration.Parse(text)
	if err != nil {
		return 0, &cairn.Error{Op: "use", Subject: "interval", Kind: cairn.KindConfig, Err: err}
	}
	return d, nil
}

// Due is when a dataset whose newest matching snapshot is newest (zero: it has
// none) is captured next: one interval later, now when that is over, and never
// more than one interval from now, whatever a clock said earlier.
func Due(newest, now time.Time, interval time.Duration) time.Time {
	next := newest.Add(interval)
	switch {
	case newest.IsZero() || next.Before(now):
		return now
	case next.After(now.Add(interval)):
		return now.Add(interval)
	}
	return next
}

// Naming makes version names from the time of capture.
type Naming struct {
	prefix   string
	layout   string // Go layout; empty: seconds since 1970
	location *time.Location
}

var layouts = map[string]string{
	"dense":        "20060102_150405_000",
	"human":        "2006-01-02_15:04:05",
	"iso-8601":     "2006-01-02T15:04:05.000Z07:00",
	"unix-seconds": "",
}

// ParseNaming reads zrepl's prefix, timestamp_format (empty: dense) and
// timestamp_location (empty: UTC). dense, human and unix-seconds say nothing of a
// zone and want UTC.
func ParseNaming(prefix, format, location string) (Naming, error) {
	bad := func(subject string, err error) (Naming, error) {
		return Naming{}, &cairn.Error{Op: "use", Subject: subject, Kind: cairn.KindConfig, Err: err}
	}
	format, location = cmp.Or(format, "dense"), cmp.Or(location, "UTC")
	zone, err := time.LoadLocation(location)
	if err != nil {
		return bad("timestamp_location "+strconv.Quote(location), err)
	}
	layout, named := layouts[format]
	if !named {
		layout = format
	}
	n := Naming{prefix: prefix, layout: layout, location: zone}
	switch {
	case named && format != "iso-8601" && location != "UTC":
		return bad("timestamp_location "+strconv.Quote(location), fmt.Errorf("the format %s does not name its zone and is always UTC: use iso-8601, or a layout of your own", format))
	case !named && strings.Contains(format, "+"):
		return bad("timestamp_format "+strconv.Quote(format), fmt.Errorf("'+' is not allowed in a name"))
	case n.constant():
		return bad("timestamp_format "+strconv.Quote(format), fmt.Errorf("it is none of dense, human, iso-8601, unix-seconds, and as a Go layout it makes one name for all times"))
	}
	if err := cairn.CheckVersionName("@" + n.Name(sample)); err != nil {
		return bad(fmt.Sprintf("names such as %q", n.Name(sample)), err)
	}
	return n, nil
}

var sample = time.Date(2021, 11, 23, 20, 55, 46, 123e6, time.UTC)

// constant reports whether the layout does not tell a year from the next.
func (n Naming) constant() bool {
	return n.Name(sample) == n.Name(time.Date(1999, 8, 7, 6, 5, 4, 0, time.UTC))
}

// Name is the version name, without its '@', of a capture at t. A '+' that a zone
// puts there becomes '_'. The last three digits of dense are always zero, as
// zrepl's are.
func (n Naming) Name(t time.Time) string {
	t = t.In(n.location)
	if n.layout == "" {
		return n.prefix + strconv.FormatInt(t.Unix(), 10)
	}
	return n.prefix + strings.ReplaceAll(t.Format(n.layout), "+", "_")
}

// Matches reports whether a version name, without its '@', could be one of these:
// it has the prefix.
func (n Naming) Matches(name string) bool { return strings.HasPrefix(name, n.prefix) }

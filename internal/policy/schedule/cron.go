package schedule

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"cairn"
)

// Cron is a compiled cron expression. The zero Cron never fires.
type Cron struct {
	second, minute, hour, day, month, weekday uint64 // bit n: the field may be n
	anyDay                                    bool   // day or weekday is '*': both must match; else either may
	text                                      string
}

// field is one column of an expression.
type field struct {
	name     string
	min, max int
	words    []string // for min, min+1, …
}

var fields = [...]field{
	{name: "second", min: 0, max: 59},
	{name: "minute", min: 0, max: 59},
	{name: "hour", min: 0, max: 23},
	{name: "day of month", min: 1, max: 31},
	{name: "month", min: 1, max: 12, words: strings.Fields("JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC")},
	{name: "day of week", min: 0, max: 7, words: strings.Fields("SUN MON TUE WED THU FRI SAT")},
}

// ParseCron reads "minute hour day month weekday", optionally with a leading
// second. A field is '*' (or '?'), a number, a name (JAN, MON), a range, any of
// these with a step ("*/10", "8-18/2", "5/10"), or a list of such. Sunday is 0 or
// 7. When both day fields are restricted, either may match, as crontab(5) has it.
// Errors are KindConfig.
func ParseCron(text string) (Cron, error) {
	bad := func(err error) (Cron, error) {
		return Cron{}, &cairn.Error{Op: "read cron expression", Subject: strconv.Quote(text), Kind: cairn.KindConfig, Err: err}
	}
	columns := strings.Fields(text)
	if strings.HasPrefix(text, "@") {
		return bad(fmt.Errorf("descriptors are not understood: write the five fields, such as 0 3 * * *"))
	}
	if len(columns) == 5 {
		columns = append([]string{"0"}, columns...)
	}
	if len(columns) != 6 {
		return bad(fmt.Errorf("it has %d fields: write minute hour day month weekday, optionally with a second in front", len(columns)))
	}
	c := Cron{text: text}
	for i, set := range []*uint64{&c.second, &c.minute, &c.hour, &c.day, &c.month, &c.weekday} {
		var err error
		if *set, err = fields[i].parse(columns[i]); err != nil {
			return bad(err)
		}
	}
	if c.weekday&(1<<7) != 0 {
		c.weekday |= 1
	}
	c.anyDay = isStar(columns[3]) || isStar(columns[5])
	if c.Next(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)).IsZero() {
		return bad(fmt.Errorf("no day of any year matches it"))
	}
	return c, nil
}

func isStar(column string) bool { return column == "*" || column == "?" }

// String is the expression as it was written.
func (c Cron) String() string { return c.text }

func (f field) parse(column string) (set uint64, err error) {
	for part := range strings.SplitSeq(column, ",") {
		one, err := f.part(part)
		if err != nil {
			return 0, fmt.Errorf("%s %q: %w", f.name, part, err)
		}
		set |= one
	}
	return set, nil
}

func (f field) part(part string) (set uint64, err error) {
	span, stepText, stepped := strings.Cut(part, "/")
	step := 1
	if stepped {
		if step, err = strconv.Atoi(stepText); err != nil || step < 1 {
			return 0, fmt.Errorf("the step after '/' is a number of at least 1")
		}
	}
	first, last, err := f.span(span, stepped)
	if err != nil {
		return 0, err
	}
	for n := first; n <= last; n += step {
		set |= 1 << n
	}
	return set, nil
}

// span reads '*', N, N-M; a single N with a step runs to the end of the field.
func (f field) span(text string, stepped bool) (first, last int, err error) {
	if isStar(text) {
		return f.min, f.max, nil
	}
	from, to, ranged := strings.Cut(text, "-")
	if first, err = f.number(from); err != nil {
		return 0, 0, err
	}
	switch {
	case ranged:
		last, err = f.number(to)
	case stepped:
		last = f.max
	default:
		last = first
	}
	if err == nil && first > last {
		err = fmt.Errorf("the range ends before it begins")
	}
	return first, last, err
}

func (f field) number(text string) (int, error) {
	for i, w := range f.words {
		if strings.EqualFold(w, text) {
			return f.min + i, nil
		}
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < f.min || n > f.max {
		return 0, fmt.Errorf("it lies between %d and %d", f.min, f.max)
	}
	return n, nil
}

// horizon is how far Next looks: 29 February on a Monday recurs within 40 years.
const horizon = 41

// Next is the first moment after `after`, in its location, that the expression
// names; the zero time when there is none. An hour that the clock repeats fires in
// both passes. What falls into an hour that the clock leaves out fires at the end
// of the gap, once: a daily capture is late on that day, not missing.
func (c Cron) Next(after time.Time) time.Time {
	t := after.Truncate(time.Second).Add(time.Second)
	if c.inGap(after, t) {
		return t
	}
	for last := t.Year() + horizon; t.Year() <= last; {
		next := c.candidate(t)
		if next.Equal(t) || c.inGap(t, next) {
			return next
		}
		t = next
	}
	return time.Time{}
}

// candidate is t when it matches, else a later moment before which nothing does.
func (c Cron) candidate(t time.Time) time.Time {
	switch {
	case !has(c.month, int(t.Month())):
		return midnight(t.Year(), t.Month()+1, 1, t.Location())
	case !c.dayMatches(t):
		return midnight(t.Year(), t.Month(), t.Day()+1, t.Location())
	case !has(c.hour, t.Hour()):
		return t.Add(time.Hour - time.Duration(t.Minute())*time.Minute - time.Duration(t.Second())*time.Second)
	case !has(c.minute, t.Minute()):
		return t.Add(time.Minute - time.Duration(t.Second())*time.Second)
	case !has(c.second, t.Second()):
		return t.Add(time.Second)
	}
	return t
}

// midnight is the first moment of a day, which the clock may leave out.
func midnight(year int, month time.Month, day int, zone *time.Location) time.Time {
	t := time.Date(year, month, day, 0, 0, 0, 0, zone)
	if t.Hour() == 23 { // time.Date answered with the hour before the gap
		t = t.Add(time.Hour)
	}
	return t
}

func has(set uint64, n int) bool { return set&(1<<n) != 0 }

func (c Cron) dayMatches(t time.Time) bool {
	day, weekday := has(c.day, t.Day()), has(c.weekday, int(t.Weekday()))
	if c.anyDay {
		return day && weekday
	}
	return day || weekday
}

// inGap reports whether the clock jumps over a matching hour right before next,
// the moment that follows t.
func (c Cron) inGap(t, next time.Time) bool {
	first := 0
	if t.Day() == next.Day() {
		first = t.Hour() + 1
	}
	if next.Hour() <= first || next.Sub(t) > time.Hour && t.Day() == next.Day() {
		return false
	}
	hours := c.hour >> first & (1<<(next.Hour()-first) - 1)
	return hours != 0 && has(c.month, int(next.Month())) && c.dayMatches(next)
}

package retention

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"

	"cairn"
	"cairn/internal/mech/duration"
)

const keepAll = math.MaxInt64

// The causes of grid beside causeUnmatched.
const (
	causeInBucket uint8 = iota + 100
	causeSurplus
	causeBeyond
)

// interval is count adjacent buckets of one length, each of which keeps the oldest
// keep snapshots.
type interval struct {
	count  int64
	length time.Duration
	keep   int64
}

func (v interval) span() time.Duration { return time.Duration(v.count) * v.length }

type grid struct {
	pattern   int
	text      string
	intervals []interval
}

func (p *Policy) compileGrid(r cairn.KeepRule) (rule, error) {
	pattern, err := p.pattern(r.Regex)
	if err != nil {
		return nil, err
	}
	intervals, err := parseGrid(r.Grid)
	return grid{pattern: pattern, text: r.Regex, intervals: intervals}, err
}

var intervalForm = regexp.MustCompile(`^\s*(-?\d+)\s*x\s*([^(]*?)\s*(?:\(\s*keep\s*=\s*([^)\s]*)\s*\))?\s*$`)

// parseGrid reads "1x1h(keep=all) | 24x1h | 14x1d".
func parseGrid(text string) ([]interval, error) {
	if strings.TrimSpace(text) == "" {
		return nil, errors.New("grid is empty: write something like 1x1h(keep=all) | 24x1h | 14x1d")
	}
	var intervals []interval
	var reach time.Duration
	onlyAll := true
	for part := range strings.SplitSeq(text, "|") {
		v, err := parseInterval(part)
		if err != nil {
			return nil, err
		}
		if n := len(intervals); n > 0 && !onlyAll && v.length < intervals[n-1].length {
			return nil, fmt.Errorf("grid interval %q has shorter buckets than the one before it: lengths must not decrease going back in time", strings.TrimSpace(part))
		}
		if v.span() > math.MaxInt64-reach {
			return nil, errors.New("grid reaches back more than 292 years")
		}
		reach += v.span()
		onlyAll = onlyAll && v.keep == keepAll
		intervals = append(intervals, v)
	}
	return intervals, nil
}

func parseInterval(part string) (interval, error) {
	m := intervalForm.FindStringSubmatch(part)
	if m == nil {
		return interval{}, fmt.Errorf("grid interval %q cannot be read: write COUNTxDURATION or COUNTxDURATION(keep=N or all)", strings.TrimSpace(part))
	}
	count, err := strconv.ParseInt(m[1], 10, 64)
	if err != nil || count < 1 {
		return interval{}, fmt.Errorf("grid interval %q has %s buckets: it needs at least 1", strings.TrimSpace(part), m[1])
	}
	length, err := duration.Parse(m[2])
	if err != nil {
		return interval{}, fmt.Errorf("grid interval %q: %w", strings.TrimSpace(part), err)
	}
	if count > math.MaxInt64/int64(length) {
		return interval{}, fmt.Errorf("grid interval %q reaches back more than 292 years", strings.TrimSpace(part))
	}
	keep, err := parseKeep(m[3], strings.Contains(part, "("))
	if err != nil {
		return interval{}, fmt.Errorf("grid interval %q: %w", strings.TrimSpace(part), err)
	}
	return interval{count: count, length: length, keep: keep}, nil
}

func parseKeep(text string, given bool) (int64, error) {
	if !given {
		return 1, nil
	}
	if text == "all" {
		return keepAll, nil
	}
	keep, err := strconv.ParseInt(text, 10, 64)
	if err != nil || keep < 1 {
		return 0, fmt.Errorf("keep=%s: keep at least 1, or write keep=all; to keep nothing that old, end the grid earlier", text)
	}
	return keep, nil
}

func (g grid) judge(s *set, out []cause) {
	matching := make([]int32, 0, len(s.young))
	for _, i := range s.young {
		if s.matches[g.pattern][i] {
			matching = append(matching, i)
		} else {
			out[i] = cause{code: causeUnmatched}
		}
	}
	if len(matching) == 0 {
		return
	}
	now := s.versions[matching[0]].Created
	at := walk{intervals: g.intervals}
	for _, i := range matching {
		out[i] = at.bucket(now.Sub(s.versions[i].Created))
	}
	for from, to := 0, 0; from < len(matching); from = to {
		bucket := out[matching[from]]
		for to = from; to < len(matching) && out[matching[to]] == bucket; to++ {
		}
		if bucket.keep {
			g.settle(matching[from:to], out, bucket)
		}
	}
}

// settle lists the surplus of one bucket, given youngest first: the oldest stay.
func (g grid) settle(members []int32, out []cause, bucket cause) {
	surplus := int64(len(members)) - g.intervals[bucket.part].keep
	bucket.keep, bucket.code = false, causeSurplus
	for _, i := range members[:max(surplus, 0)] {
		out[i] = bucket
	}
}

// walk finds buckets for ages that do not decrease, in constant time each.
type walk struct {
	intervals []interval
	part      int           // the interval at hand
	start     time.Duration // age at which it begins
}

// bucket tells where a snapshot of this age lies. A bucket includes its younger
// edge, not its older one.
func (w *walk) bucket(age time.Duration) cause {
	for w.part < len(w.intervals) && age >= w.start+w.intervals[w.part].span() {
		w.start += w.intervals[w.part].span()
		w.part++
	}
	if w.part == len(w.intervals) {
		return cause{code: causeBeyond}
	}
	nth := int64((age - w.start) / w.intervals[w.part].length)
	return cause{keep: true, code: causeInBucket, part: int32(w.part), nth: nth}
}

func (g grid) words(c cause) string {
	switch c.code {
	case causeUnmatched:
		return unmatched(g.text)
	case causeBeyond:
		return "is older than the last bucket"
	}
	v := g.intervals[c.part]
	where := fmt.Sprintf("bucket %d of %d of %s", c.nth+1, v.count, v.length)
	switch {
	case c.code == causeSurplus:
		return fmt.Sprintf("is not among the oldest %d in %s", v.keep, where)
	case v.keep == keepAll:
		return "lies in " + where + ", which keeps all"
	}
	return fmt.Sprintf("is among the oldest %d in %s", v.keep, where)
}

func (g grid) String() string { return "grid" }

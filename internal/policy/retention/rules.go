package retention

import (
	"errors"
	"fmt"
	"regexp"
	"time"

	"cairn"
)

func (p *Policy) compile(r cairn.KeepRule) (rule, error) {
	switch r.Type {
	case "grid":
		return p.compileGrid(r)
	case "last_n":
		return p.compileLastN(r)
	case "regex":
		pattern, err := p.pattern(r.Regex)
		return byName{pattern: pattern, text: r.Regex, negate: r.Negate}, err
	case "not_replicated":
		return compileNotReplicated(r)
	case "":
		return nil, errors.New("the rule has no type: write type: grid, last_n, regex or not_replicated")
	}
	return nil, fmt.Errorf("there is no rule type %q: write grid, last_n, regex or not_replicated", r.Type)
}

// pattern compiles an expression once and returns its index.
func (p *Policy) pattern(text string) (int, error) {
	if text == "" {
		return 0, errors.New("regex is empty: it would match everything; write regex: \".*\" if that is meant")
	}
	for i, re := range p.patterns {
		if re.String() == text {
			return i, nil
		}
	}
	re, err := regexp.Compile(text)
	if err != nil {
		return 0, fmt.Errorf("regex %q cannot be read: %w", text, err)
	}
	p.patterns = append(p.patterns, re)
	return len(p.patterns) - 1, nil
}

// The causes all rules share; grid has more.
const (
	causeUnmatched uint8 = iota
	causeMatched
	causeYoungest
	causeNotYoungest
	causeReplicated
	causeNothingReplicated
	causeAtCursor
	causeNotReplicated
	causeTooOld
)

// lastN keeps the youngest count of those that match.
type lastN struct {
	count   int
	pattern int // -1: every name matches
	text    string
}

func (p *Policy) compileLastN(r cairn.KeepRule) (rule, error) {
	if r.Count <= 0 {
		return nil, fmt.Errorf("count is %d: it is at least 1", r.Count)
	}
	k := lastN{count: r.Count, pattern: -1, text: r.Regex}
	if r.Regex == "" {
		return k, nil
	}
	var err error
	k.pattern, err = p.pattern(r.Regex)
	return k, err
}

func (k lastN) judge(s *set, out []cause) {
	seen := 0
	for _, i := range s.young {
		switch {
		case k.pattern >= 0 && !s.matches[k.pattern][i]:
			out[i] = cause{code: causeUnmatched}
		case seen < k.count:
			seen++
			out[i] = cause{keep: true, code: causeYoungest}
		default:
			out[i] = cause{code: causeNotYoungest}
		}
	}
}

func (k lastN) words(c cause) string {
	switch c.code {
	case causeUnmatched:
		return unmatched(k.text)
	case causeYoungest:
		return fmt.Sprintf("is among the youngest %d", k.count)
	}
	return fmt.Sprintf("is not among the youngest %d", k.count)
}

func (k lastN) String() string { return "last_n" }

func unmatched(text string) string { return fmt.Sprintf("does not match %q", text) }

// byName is the rule type regex.
type byName struct {
	pattern int
	text    string
	negate  bool
}

func (k byName) judge(s *set, out []cause) {
	for i, m := range s.matches[k.pattern] {
		code := causeUnmatched
		if m {
			code = causeMatched
		}
		out[i] = cause{keep: m != k.negate, code: code}
	}
}

func (k byName) words(c cause) string {
	if c.code == causeMatched {
		return fmt.Sprintf("matches %q", k.text)
	}
	return unmatched(k.text)
}

func (k byName) String() string {
	if k.negate {
		return "regex (negated)"
	}
	return "regex"
}

// notReplicated keeps what the other side does not have.
type notReplicated struct {
	keepAtCursor bool
	maxAge       time.Duration // 0: for ever
}

func compileNotReplicated(r cairn.KeepRule) (rule, error) {
	const longest = int64(1<<63-1) / int64(time.Second)
	if r.MaxAgeSeconds < 0 || r.MaxAgeSeconds > longest {
		return nil, fmt.Errorf("max_age of %d seconds: it lies between 1s and 292 years", r.MaxAgeSeconds)
	}
	return notReplicated{
		keepAtCursor: r.KeepSnapshotAtCursor == nil || *r.KeepSnapshotAtCursor,
		maxAge:       time.Duration(r.MaxAgeSeconds) * time.Second,
	}, nil
}

func (k notReplicated) judge(s *set, out []cause) {
	for i := range s.versions {
		out[i] = k.one(&s.versions[i], s.Input)
	}
}

func (k notReplicated) one(v *cairn.Version, in Input) cause {
	code := causeNotReplicated
	switch {
	case in.Replicated == nil:
		code = causeNothingReplicated
	case v.Order < *in.Replicated, v.Order == *in.Replicated && !k.keepAtCursor:
		return cause{code: causeReplicated}
	case v.Order == *in.Replicated:
		return cause{keep: true, code: causeAtCursor}
	}
	if k.maxAge > 0 && in.Now.Sub(v.Created) > k.maxAge {
		return cause{code: causeTooOld}
	}
	return cause{keep: true, code: code}
}

func (k notReplicated) words(c cause) string {
	switch c.code {
	case causeReplicated:
		return "is replicated"
	case causeAtCursor:
		return "is the version that was replicated last"
	case causeNothingReplicated:
		return "nothing of this dataset is replicated yet"
	case causeTooOld:
		return fmt.Sprintf("is not replicated, but older than max_age %s", k.maxAge)
	}
	return "is not replicated yet"
}

func (k notReplicated) String() string { return "not_replicated" }

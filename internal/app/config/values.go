package config

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/big"
	"net"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"

	"cairn"
	"cairn/internal/policy/retention"
	"cairn/internal/policy/schedule"
)

// valueError is a value that makes no sense.
type valueError struct{ text, hint string }

func (e *valueError) Error() string { return e.text }

func badValue(hint, format string, args ...any) error {
	return &valueError{fmt.Sprintf(format, args...), hint}
}

// scalar sets v from the text of a single value.
func (d *decoder) scalar(text string, v reflect.Value, k *key) error {
	switch v.Interface().(type) {
	case time.Duration:
		parse := parseTimeout
		switch k.as {
		case "span":
			parse = parseSpan
		case "orzero":
			parse = parseTimeoutOrZero
		}
		t, err := parse(text)
		v.SetInt(int64(t))
		return err
	case slog.Level:
		level, err := parseLevel(text)
		v.SetInt(int64(level))
		return err
	case bool:
		b, err := parseBool(text)
		v.SetBool(b)
		return err
	case int64:
		parse := parseSize
		if k.as == "rate" {
			parse = parseRate
		}
		n, err := parse(text)
		v.SetInt(n)
		return err
	case int:
		n, err := strconv.Atoi(text)
		if err != nil {
			return badValue("", "%q is not a whole number", text)
		}
		if k.as == "positive" && n < 1 {
			return badValue("1 or more", "%d is too small", n)
		}
		v.SetInt(int64(n))
		return nil
	}
	if err := checkWord(text, k.values); err != nil {
		return err
	}
	text, err := d.meaning(text, k)
	v.SetString(text)
	return err
}

// checkWord wants the word to be among the allowed ones, when those are listed.
func checkWord(word string, values []string) error {
	if len(values) > 0 && !slices.Contains(values, word) {
		return badValue(oneOf(word, values), "unknown value %q", word)
	}
	return nil
}

// meaning checks a text by what the key says it is, and completes paths.
func (d *decoder) meaning(text string, k *key) (string, error) {
	if text == "" && k.as != "" {
		return "", badValue("", "an empty value")
	}
	switch k.as {
	case "path":
		return d.absolute(text), nil
	case "address":
		return text, checkAddress(text)
	case "identity":
		return text, checkIdentity(text)
	case "cron":
		_, err := schedule.ParseCron(text)
		return text, causeOf(err)
	}
	return text, nil
}

// causeOf turns another package's error into one whose position the caller knows.
func causeOf(err error) error {
	if err == nil {
		return nil
	}
	text, hint := textOf(err)
	return &valueError{text, hint}
}

// textOf takes an error's hint, and a kind that says no more, out of its text.
func textOf(err error) (text, hint string) {
	hint = cairn.HintOf(err)
	text = strings.TrimSuffix(err.Error(), " ("+hint+")")
	return strings.TrimSuffix(text, ": "+cairn.KindOf(err).String()), hint
}

func checkAddress(text string) error {
	const hint = "HOST:PORT, as in vault.example:8888 or [::1]:8888"
	_, port, err := net.SplitHostPort(text)
	if err != nil {
		return badValue(hint, "%q is not an address", text)
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > math.MaxUint16 {
		return badValue(hint, "%q is not a port", port)
	}
	return nil
}

// checkIdentity wants a name that can be one component of a dataset name.
func checkIdentity(text string) error {
	if strings.Contains(text, "/") {
		return badValue("it becomes one component of dataset names", "identity %q holds a slash", text)
	}
	return causeOf(cairn.CheckDatasetName(text))
}

// parseBool takes YAML 1.1's words too, as zrepl does.
func parseBool(text string) (bool, error) {
	switch strings.ToLower(text) {
	case "true", "yes", "on", "y":
		return true, nil
	case "false", "no", "off", "n":
		return false, nil
	}
	return false, badValue("true or false", "%q is neither true nor false", text)
}

// parseLevel takes zrepl's words.
func parseLevel(text string) (slog.Level, error) {
	switch strings.ToLower(text) {
	case "debug":
		return slog.LevelDebug, nil
	case "info":
		return slog.LevelInfo, nil
	case "warn", "warning":
		return slog.LevelWarn, nil
	case "error":
		return slog.LevelError, nil
	}
	return 0, badValue(oneOf(text, []string{"debug", "info", "warn", "error"}), "unknown level %q", text)
}

// parseSpan reads zrepl's durations: one whole number and s, m, h, d or w.
func parseSpan(text string) (time.Duration, error) {
	d, err := schedule.ParseInterval(strings.TrimSpace(text))
	if err != nil || d <= 0 {
		return 0, badValue("a whole number above zero and one of s, m, h, d, w, as in 15m", "%q is not a duration", text)
	}
	return d, nil
}

// parseTimeout reads Go's durations, which zrepl uses for timeouts.
func parseTimeout(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return 0, badValue("as in 30s or 1m30s", "%q is not a timeout above zero", text)
	}
	return d, nil
}

// parseTimeoutOrZero takes 0 too, as zrepl does for connections.
func parseTimeoutOrZero(text string) (time.Duration, error) {
	if d, err := time.ParseDuration(text); err == nil && d == 0 {
		return 0, nil
	}
	return parseTimeout(text)
}

// units of sizes, in bits: zrepl counts in B (bytes) and b or bit.
var units = map[string]int64{"B": 8, "b": 1, "bit": 1, "": 8}

var prefixes = map[string]int64{"": 1, "K": 1e3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}

// parseSize reads "10GiB", "1.5 MiB", "4096" as bytes above zero.
func parseSize(text string) (int64, error) {
	n, err := parseBytes(text)
	if err == nil && n <= 0 {
		return 0, badValue("", "%q is not a size above zero", text)
	}
	return n, err
}

// parseRate reads a size, with -1 (B) as no limit.
func parseRate(text string) (int64, error) {
	n, err := parseBytes(text)
	if err == nil && n != -1 && n <= 0 {
		return 0, badValue("-1 B is no limit", "%q is not a rate above zero", text)
	}
	return n, err
}

func parseBytes(text string) (int64, error) {
	wrong := badValue("as in 10GiB, 512 MiB or 1.5 Gbit", "%q is not a size", text)
	text = strings.TrimSpace(text)
	end := strings.LastIndexAny(text, "0123456789.") + 1
	number, unit := text[:end], strings.TrimSpace(text[end:])
	if end == 0 || len(number) > 30 || strings.ContainsAny(number, "eExX/_ ") {
		return 0, wrong
	}
	value, ok := new(big.Rat).SetString(number)
	if !ok {
		return 0, wrong
	}
	bits, ok := unitBits(unit)
	if !ok {
		return 0, wrong
	}
	value.Mul(value, big.NewRat(bits, 8))
	whole := new(big.Int).Quo(value.Num(), value.Denom())
	if !whole.IsInt64() {
		return 0, badValue("", "%q is too large", text)
	}
	return whole.Int64(), nil
}

// unitBits reads "GiB" as bits per unit: a prefix and a unit.
func unitBits(text string) (int64, bool) {
	for _, unit := range []string{"bit", "B", "b", ""} {
		prefix, found := strings.CutSuffix(text, unit)
		if scale, known := prefixes[prefix]; found && known {
			return units[unit] * scale, true
		}
	}
	return 0, false
}

// A leaf is a type with a grammar of its own.
type leaf struct {
	decode  func(*decoder, ast.Node, reflect.Value)
	show    func(reflect.Value) any
	schema  map[string]any
	grammar reflect.Type // struct with its keys, where it is a mapping with fixed keys
}

// leaves is filled by init, since its functions use it.
var leaves map[reflect.Type]leaf

func init() {
	rule := reflect.TypeFor[keepRule]()
	leaves = map[reflect.Type]leaf{
		reflect.TypeFor[cairn.Filter]():   {(*decoder).filter, showFilter, filterSchema, nil},
		reflect.TypeFor[Interval]():       {(*decoder).interval, showInterval, map[string]any{"type": "string"}, nil},
		reflect.TypeFor[cairn.KeepRule](): {(*decoder).keepRule, showKeepRule, schemaOf(rule, ""), rule},
	}
}

// filter decodes zrepl's map of patterns.
func (d *decoder) filter(n ast.Node, v reflect.Value) {
	es, ok := d.entries(n)
	if !ok {
		return
	}
	rules := map[string]bool{}
	for _, e := range es {
		var keep bool
		d.node(e.value, reflect.ValueOf(&keep).Elem(), key{}, "")
		if _, err := cairn.ParseFilter(map[string]bool{e.key: keep}); err != nil {
			d.bad(e.keyAt, causeOf(err))
			continue
		}
		rules[e.key] = keep
	}
	f, err := cairn.ParseFilter(rules)
	if err != nil {
		d.bad(d.pos(n), causeOf(err))
	}
	v.Set(reflect.ValueOf(f))
}

// interval decodes a span or the word manual.
func (d *decoder) interval(n ast.Node, v reflect.Value) {
	text, ok := d.text(n)
	if !ok {
		return
	}
	if text == "manual" {
		v.Set(reflect.ValueOf(Interval{Manual: true}))
		return
	}
	every, err := parseSpan(text)
	if err != nil {
		d.bad(d.pos(n), badValue("a duration as in 10m, or manual", "%q is not an interval", text))
		return
	}
	v.Set(reflect.ValueOf(Interval{Every: every}))
}

// keepRule is the grammar of cairn.KeepRule.
type keepRule struct {
	Type                 string        `yaml:"type" required:"*" values:"not_replicated last_n grid regex" doc:"what the rule keeps"`
	KeepSnapshotAtCursor bool          `yaml:"keep_snapshot_at_cursor" for:"not_replicated" default:"true" doc:"keep the newest replicated snapshot too"`
	MaxAge               time.Duration `yaml:"max_age" for:"not_replicated" as:"span" doc:"stop protecting a snapshot that is older"`
	Count                int           `yaml:"count" for:"last_n" required:"*" as:"positive" doc:"how many of the newest snapshots are kept"`
	Grid                 string        `yaml:"grid" for:"grid" required:"*" doc:"intervals going back from the newest snapshot, as in 1x1h(keep=all) | 24x1h | 14x1d"`
	Regex                string        `yaml:"regex" for:"last_n grid regex" required:"grid regex" doc:"snapshots the rule is about (without '@', not anchored)"`
	Negate               bool          `yaml:"negate" for:"regex" doc:"keep what does not match"`
}

func (d *decoder) keepRule(n ast.Node, v reflect.Value) {
	var r keepRule
	before := len(*d.problems)
	d.structure(n, reflect.ValueOf(&r).Elem(), "")
	rule := cairn.KeepRule{Type: r.Type, Count: r.Count, Regex: r.Regex, Negate: r.Negate, Grid: r.Grid,
		MaxAgeSeconds: int64(r.MaxAge / time.Second)}
	if r.Type == "not_replicated" {
		rule.KeepSnapshotAtCursor = &r.KeepSnapshotAtCursor
	}
	v.Set(reflect.ValueOf(rule))
	if len(*d.problems) > before {
		return
	}
	if _, err := retention.Compile([]cairn.KeepRule{rule}); err != nil {
		if cause := errors.Unwrap(err); cause != nil {
			err = cause // without the number of the rule, of which there is one here
		}
		d.bad(d.keepRulePos(n, &r), causeOf(err))
	}
}

// keepRulePos points at the part of a rule that is most likely the wrong one.
func (d *decoder) keepRulePos(n ast.Node, r *keepRule) Pos {
	for _, field := range []any{&r.Grid, &r.Regex} {
		if at, ok := d.at[field]; ok {
			return at
		}
	}
	return d.pos(n)
}

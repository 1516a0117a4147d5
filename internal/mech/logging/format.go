package logging

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// entry is one entry with its attributes flattened.
type entry struct {
	time    time.Time
	level   slog.Level
	message string
	attrs   []slog.Attr
}

// style is how an outlet writes entries.
type style struct {
	format func(b []byte, e *entry, s style) []byte
	time   bool
	color  bool
}

// line renders an entry with its line feed.
func (s style) line(e *entry) []byte {
	return append(s.format(make([]byte, 0, 256), e, s), '\n')
}

var formats = map[string]func([]byte, *entry, style) []byte{"human": human, "logfmt": logfmt, "json": jsonLine}

// secretKeys are never written, whatever they hold.
var secretKeys = []string{"password", "passphrase", "secret", "token", "dsn", "private_key"}

// flatten appends an attribute, a group as one per member. Empty ones and empty
// hints are left out.
func flatten(attrs []slog.Attr, prefix string, a slog.Attr) []slog.Attr {
	a.Value = a.Value.Resolve()
	if a.Value.Kind() == slog.KindGroup {
		if a.Key != "" {
			prefix += a.Key + "."
		}
		for _, inner := range a.Value.Group() {
			attrs = flatten(attrs, prefix, inner)
		}
		return attrs
	}
	if a.Key == "" || a.Value.Any() == nil || a.Key == "hint" && a.Value.String() == "" {
		return attrs
	}
	if slices.Contains(secretKeys, strings.ToLower(a.Key)) {
		a.Value = slog.StringValue("(removed)")
	}
	a.Key = prefix + a.Key
	return append(attrs, a)
}

// levelWord is the level as configured: four words are enough.
func levelWord(l slog.Level) string {
	switch {
	case l < slog.LevelInfo:
		return "debug"
	case l < slog.LevelWarn:
		return "info"
	case l < slog.LevelError:
		return "warn"
	}
	return "error"
}

// colors by level word: grey, none, yellow, red.
var colors = map[string]string{"debug": "\x1b[90m", "warn": "\x1b[33m", "error": "\x1b[31m"}

// human writes "TIME LEVEL JOB: MESSAGE key=value …".
func human(b []byte, e *entry, s style) []byte {
	if s.time {
		b = e.time.AppendFormat(b, "2006-01-02 15:04:05 ")
	}
	word := levelWord(e.level)
	paint := colors[word]
	if s.color && paint != "" {
		b = append(b, paint...)
	}
	b = append(b, strings.ToUpper(word)...)
	if s.color && paint != "" {
		b = append(b, "\x1b[0m"...)
	}
	b = append(b, ' ')
	for _, a := range e.attrs {
		if a.Key == "job" {
			b = append(appendPlain(b, text(a.Value)), ": "...)
		}
	}
	b = appendPlain(b, e.message)
	for _, a := range e.attrs {
		if a.Key != "job" {
			b = appendPair(append(b, ' '), a.Key, text(a.Value))
		}
	}
	return b
}

func logfmt(b []byte, e *entry, s style) []byte {
	if s.time {
		b = append(appendPair(b, "time", e.time.Format(time.RFC3339Nano)), ' ')
	}
	b = append(appendPair(b, "level", levelWord(e.level)), ' ')
	b = appendPair(b, "msg", e.message)
	for _, a := range e.attrs {
		b = appendPair(append(b, ' '), a.Key, text(a.Value))
	}
	return b
}

func jsonLine(b []byte, e *entry, s style) []byte {
	b = append(b, '{')
	if s.time {
		b = appendJSON(b, "time", e.time.Format(time.RFC3339Nano))
		b = append(b, ',')
	}
	b = append(appendJSON(b, "level", levelWord(e.level)), ',')
	b = appendJSON(b, "msg", e.message)
	for _, a := range e.attrs {
		b = append(b, ',')
		switch a.Value.Kind() {
		case slog.KindInt64, slog.KindUint64, slog.KindFloat64, slog.KindBool:
			b = appendJSON(b, a.Key, a.Value.Any())
		default:
			b = appendJSON(b, a.Key, text(a.Value))
		}
	}
	return append(b, '}')
}

// appendJSON writes "key":value. What JSON cannot hold (NaN) becomes text.
func appendJSON(b []byte, key string, value any) []byte {
	k, _ := json.Marshal(key) // a string always can
	v, err := json.Marshal(value)
	if err != nil {
		v, _ = json.Marshal(fmt.Sprint(value))
	}
	return append(append(append(b, k...), ':'), v...)
}

// text is an attribute's value as text.
func text(v slog.Value) string {
	switch v.Kind() {
	case slog.KindTime:
		return v.Time().Format(time.RFC3339)
	case slog.KindAny:
		return fmt.Sprint(v.Any())
	}
	return v.String()
}

// appendPair writes key=value, quoted where a reader could not tell its end.
func appendPair(b []byte, key, value string) []byte {
	b = append(append(b, key...), '=')
	if value == "" || strings.ContainsFunc(value, needsQuotes) || !utf8.ValidString(value) {
		return strconv.AppendQuote(b, value)
	}
	return append(b, value...)
}

func needsQuotes(r rune) bool {
	return r <= ' ' || r == '"' || r == '=' || r == '\\' || !unicode.IsPrint(r)
}

// appendPlain writes text as it is, but on one line and without control characters,
// which could forge entries or move the cursor.
func appendPlain(b []byte, s string) []byte {
	for _, r := range s {
		if unicode.IsPrint(r) {
			b = utf8.AppendRune(b, r)
			continue
		}
		q := strconv.QuoteRune(r)
		b = append(b, q[1:len(q)-1]...)
	}
	return b
}

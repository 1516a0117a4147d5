// Package logging writes log entries to several outlets at once: standard output,
// the system's log and a collector over TCP, each with its own level and format
// (human, logfmt, JSON). It is what stands behind the one *slog.Logger that every
// package is handed.
//
// An entry is one line whatever its text holds, and attributes whose key says that
// they are secret are never written. The keys that Cairn uses, always with the same
// meaning: job, run, dataset, step, place, err, kind, hint.
//
// Logging never waits for a network: outlets other than standard output have a
// queue of bounded length; when it is full, entries are dropped and their number is
// told once there is room again. What goes wrong with an outlet is written to the
// first one.
package logging

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	"cairn"
)

// Outlet is one place that entries go to. Fields that its type does not use are
// left zero.
type Outlet struct {
	Type   string     // stdout, syslog, tcp
	Level  slog.Level // least level that is written
	Format string     // human, logfmt, json
	Time   bool       // stdout: write the time too; the others always do
	Color  bool       // stdout, human: use colours where Options allows them

	Facility      string // syslog
	Address, Net  string // tcp
	CA, Cert, Key string // tcp: files for mutual TLS; empty: none
	RetryInterval time.Duration
}

// Default is where entries go when nothing is configured.
func Default() []Outlet {
	return []Outlet{{Type: "stdout", Level: slog.LevelWarn, Format: "human", Time: true, Color: true}}
}

// Options are the process's side of logging.
type Options struct {
	Stdout io.Writer
	Color  bool   // AllowColor of this process
	Syslog string // unix socket of the system's log; "" is /dev/log
}

// AllowColor reports whether colours may be used: only on a terminal, and not when
// NO_COLOR is set to anything.
func AllowColor(terminal bool, getenv func(string) string) bool {
	return terminal && getenv("NO_COLOR") == ""
}

// Log is an open set of outlets.
type Log struct {
	outlets []*outlet
}

type outlet struct {
	level  slog.Level
	style  style
	write  func(level slog.Level, line []byte) error
	remote *remote // nil for stdout
}

// Open opens the outlets. The network is not touched before the first entry.
func Open(outlets []Outlet, o Options) (*Log, error) {
	if len(outlets) == 0 {
		outlets = Default()
	}
	l := &Log{}
	for _, spec := range outlets {
		out, err := l.open(spec, o)
		if err != nil {
			return nil, errors.Join(&cairn.Error{Op: "open log outlet", Subject: spec.Type, Kind: cairn.KindConfig, Err: err}, l.Close())
		}
		l.outlets = append(l.outlets, out)
	}
	return l, nil
}

func (l *Log) open(spec Outlet, o Options) (*outlet, error) {
	format, ok := formats[spec.Format]
	if !ok {
		return nil, fmt.Errorf("unknown format %q", spec.Format)
	}
	out := &outlet{level: spec.Level, style: style{format: format, time: true}}
	switch spec.Type {
	case "stdout":
		out.style.time = spec.Time
		out.style.color = spec.Color && o.Color && spec.Format == "human"
		out.write = lockedWriter(o.Stdout)
		return out, nil
	case "syslog":
		facility := slices.Index(facilities, spec.Facility)
		if facility < 0 || spec.Facility == "" {
			return nil, fmt.Errorf("unknown facility %q", spec.Facility)
		}
		out.style.time = false // the system's log has its own
		out.remote = newRemote(dialSyslog(o.Syslog), spec.RetryInterval, l.complain(len(l.outlets)))
		out.write = func(level slog.Level, line []byte) error {
			out.remote.send(syslogLine(facility, level, time.Now(), line))
			return nil
		}
	case "tcp":
		dial, err := dialTCP(spec)
		if err != nil {
			return nil, err
		}
		out.remote = newRemote(dial, spec.RetryInterval, l.complain(len(l.outlets)))
		out.write = func(_ slog.Level, line []byte) error {
			out.remote.send(line)
			return nil
		}
	default:
		return nil, fmt.Errorf("unknown type %q", spec.Type)
	}
	return out, nil
}

// lockedWriter keeps lines whole when several goroutines log.
func lockedWriter(w io.Writer) func(slog.Level, []byte) error {
	var mu sync.Mutex // guards w
	return func(_ slog.Level, line []byte) error {
		mu.Lock()
		defer mu.Unlock()
		_, err := w.Write(line)
		return err
	}
}

// complain returns how the outlet of that number reports its own troubles: to the
// first outlet, unless that is itself.
func (l *Log) complain(number int) func(text string, err error) {
	return func(text string, err error) {
		if number == 0 {
			return
		}
		e := entry{time: time.Now(), level: slog.LevelWarn, message: text, attrs: []slog.Attr{slog.Any("err", err)}}
		if err == nil {
			e.attrs = nil
		}
		first := l.outlets[0]
		_ = first.write(e.level, first.style.line(&e)) // there is nobody left to tell
	}
}

// Logger returns the logger that writes to the outlets.
func (l *Log) Logger() *slog.Logger { return slog.New(handler{log: l}) }

// Close gives the outlets a short time to write what they hold, and ends them.
func (l *Log) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	for _, out := range slices.Backward(l.outlets) { // the first last: it takes the others' errors
		if out.remote != nil {
			out.remote.close(ctx)
		}
	}
	return nil
}

// handler is the slog.Handler over all outlets.
type handler struct {
	log   *Log
	attrs []slog.Attr // flattened, keys with their groups
	group string      // prefix of keys, with its dot
}

func (h handler) Enabled(_ context.Context, level slog.Level) bool {
	for _, out := range h.log.outlets {
		if level >= out.level {
			return true
		}
	}
	return false
}

func (h handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	h.attrs = slices.Clip(h.attrs)
	for _, a := range attrs {
		h.attrs = flatten(h.attrs, h.group, a)
	}
	return h
}

func (h handler) WithGroup(name string) slog.Handler {
	if name != "" {
		h.group += name + "."
	}
	return h
}

func (h handler) Handle(_ context.Context, r slog.Record) error {
	e := entry{time: r.Time, level: r.Level, message: r.Message, attrs: slices.Clip(h.attrs)}
	r.Attrs(func(a slog.Attr) bool {
		e.attrs = flatten(e.attrs, h.group, a)
		return true
	})
	var errs []error
	for _, out := range h.log.outlets {
		if e.level >= out.level {
			errs = append(errs, out.write(e.level, out.style.line(&e)))
		}
	}
	return errors.Join(errs...)
}

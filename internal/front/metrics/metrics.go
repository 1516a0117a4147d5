// Package metrics shows the daemon's status as metrics that Prometheus collects: the
// text exposition format 0.0.4 at /metrics, made anew for each look.
//
// It promises one row per job and per dataset and place, never per version, and that
// a daemon that cannot list its datasets fails the look (503) instead of leaving rows
// out: alerts on absence would otherwise stay silent. Names and meanings stand in
// docs/guide/metrics.md; a few are zrepl's too, for its dashboards.
//
// What can go wrong: a look lists the datasets of this machine, so that a pool that
// hangs makes looks time out. Who can reach the listener learns names of datasets.
package metrics

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"cairn"
	"cairn/client"
)

// Daemon is what is looked at.
type Daemon interface {
	Status(ctx context.Context, q client.StatusQuery) (*client.Status, error)
	Version() client.Version
}

// Limits of one look.
const (
	maxRows   = 1 << 20
	lookLimit = time.Minute
)

// Serve answers looks until the context ends. It closes the listener.
func Serve(ctx context.Context, l net.Listener, d Daemon, log *slog.Logger) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) { look(w, r, d, log) })
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 10 * time.Second,
		WriteTimeout: 2 * lookLimit, MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		BaseContext: func(net.Listener) context.Context { return ctx }}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() }) // looks under way are cut
	defer stop()
	err := server.Serve(l)
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return &cairn.Error{Op: "serve metrics on", Subject: l.Addr().String(), Kind: cairn.KindIO, Err: err}
}

func look(w http.ResponseWriter, r *http.Request, d Daemon, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(r.Context(), lookLimit)
	defer cancel()
	s, err := d.Status(ctx, client.StatusQuery{Limit: maxRows})
	if err != nil {
		log.Warn("metrics cannot be shown", "err", err)
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	var text bytes.Buffer
	Write(&text, d.Version(), s)
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_, _ = text.WriteTo(w) // the collector is gone
}

// states are the words of a run's end, in the order of their numbers.
var states = []string{"done", "failed", "stuck", "canceled", "interrupted"}

// Write renders a status.
func Write(w io.Writer, v client.Version, s *client.Status) {
	p := page{w}
	p.family("cairn_info", "gauge", "The version that runs.")
	p.row("cairn_info", 1, "version", v.Version, "go", v.Go)
	p.family("cairn_start_time_seconds", "gauge", "When the daemon began, in seconds since 1970.")
	p.row("cairn_start_time_seconds", seconds(v.Started))
	p.problems(s.Problems)
	p.jobs(s.Jobs)
	p.datasets(s.Datasets)
	if len(s.Tapes) > 0 {
		p.tapes(s.Tapes, s.Now)
	}
	p.zrepl(s.Jobs)
}

// page writes families of metrics.
type page struct{ w io.Writer }

func (p page) family(name, kind, help string) {
	fmt.Fprintf(p.w, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
}

var escape = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

func (p page) row(name string, value float64, labels ...string) {
	fmt.Fprint(p.w, name)
	for i := 0; i < len(labels); i += 2 {
		open := ","
		if i == 0 {
			open = "{"
		}
		fmt.Fprintf(p.w, `%s%s="%s"`, open, labels[i], escape.Replace(strings.ToValidUTF8(labels[i+1], "?")))
	}
	if len(labels) > 0 {
		fmt.Fprint(p.w, "}")
	}
	fmt.Fprintf(p.w, " %v\n", value)
}

func seconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}

func flag(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func (p page) problems(problems []client.Problem) {
	p.family("cairn_problems", "gauge", "Problems that status lists, by state word.")
	count := map[string]int{}
	for _, state := range []cairn.State{cairn.StateLate, cairn.StateStuck, cairn.StateBlocked, cairn.StateDegraded, cairn.StateDamaged, cairn.StateUnknown, cairn.StateUnverified} {
		count[state.String()] = 0
	}
	for _, one := range problems {
		count[one.State]++
	}
	words := make([]string, 0, len(count))
	for state := range count {
		words = append(words, state)
	}
	slices.Sort(words)
	for _, state := range words {
		p.row("cairn_problems", float64(count[state]), "state", state)
	}
}

func (p page) jobs(jobs []client.Job) {
	each := func(name, help string, value func(client.Job) (float64, bool)) {
		p.family(name, "gauge", help)
		for _, j := range jobs {
			if v, has := value(j); has {
				p.row(name, v, "job", j.Name, "type", j.Type)
			}
		}
	}
	each("cairn_job_running", "1 while a run is under way.", func(j client.Job) (float64, bool) { return flag(j.Running != nil), true })
	each("cairn_job_run_started_seconds", "When the run under way began, in seconds since 1970.", func(j client.Job) (float64, bool) {
		if j.Running == nil {
			return 0, false
		}
		return seconds(j.Running.Started), true
	})
	each("cairn_job_next_seconds", "When the next run begins by schedule, in seconds since 1970.", func(j client.Job) (float64, bool) { return seconds(j.Next), !j.Next.IsZero() })
	each("cairn_job_clients", "Clients that are connected to a passive job.", func(j client.Job) (float64, bool) { return float64(len(j.Clients)), j.Listen != "" })
	each("cairn_job_last_ended_seconds", "When the last run ended, in seconds since 1970.", func(j client.Job) (float64, bool) {
		if j.Last == nil {
			return 0, false
		}
		return seconds(j.Last.Ended), true
	})
	p.family("cairn_job_last_state", "gauge", "1 for the state in which the last run ended.")
	for _, j := range jobs {
		for _, state := range states {
			if j.Last != nil {
				p.row("cairn_job_last_state", flag(j.Last.State == state), "job", j.Name, "state", state)
			}
		}
	}
	p.family("cairn_job_last_moved_bytes", "gauge", "Bytes that the last run moved.")
	for _, j := range jobs {
		if j.Last != nil {
			p.row("cairn_job_last_moved_bytes", float64(moved(j.Last)), "job", j.Name)
		}
	}
}

func moved(r *client.Run) int64 {
	var sum int64
	for _, s := range r.Steps {
		sum += s.Moved
	}
	return sum
}

func (p page) datasets(datasets []client.Dataset) {
	each := func(name, help string, value func(client.Protected) (float64, bool)) {
		p.family(name, "gauge", help)
		for _, d := range datasets {
			places := make([]string, 0, len(d.Places))
			for place := range d.Places {
				places = append(places, place)
			}
			slices.Sort(places)
			for _, place := range places {
				if v, has := value(d.Places[place]); has {
					p.row(name, v, "dataset", d.Name, "place", place)
				}
			}
		}
	}
	each("cairn_dataset_newest_seconds", "When the newest version at the place was captured, in seconds since 1970.",
		func(at client.Protected) (float64, bool) { return seconds(at.Newest), !at.Newest.IsZero() })
	each("cairn_dataset_versions", "Versions at the place.", func(at client.Protected) (float64, bool) { return float64(at.Count), !at.Seen.IsZero() })
	each("cairn_dataset_late", "1 when the place waits for a version for longer than it should.",
		func(at client.Protected) (float64, bool) { return flag(at.State == cairn.StateLate.String()), true })
	p.family("cairn_dataset_state", "gauge", "1 for the dataset's state word.")
	for _, d := range datasets {
		p.row("cairn_dataset_state", 1, "dataset", d.Name, "kind", d.Kind, "state", d.State)
	}
}

// zrepl writes what zrepl calls the same, for its dashboards.
func (p page) zrepl(jobs []client.Job) {
	p.family("zrepl_replication_last_successful", "gauge", "When the last run that went well ended, in seconds since 1970.")
	for _, j := range jobs {
		if j.Last != nil && j.Last.State == "done" {
			p.row("zrepl_replication_last_successful", seconds(j.Last.Ended), "zrepl_job", j.Name)
		}
	}
	p.family("zrepl_replication_filesystem_errors", "gauge", "Datasets whose step failed in the last run.")
	for _, j := range jobs {
		if j.Last != nil {
			p.row("zrepl_replication_filesystem_errors", float64(failed(j.Last)), "zrepl_job", j.Name)
		}
	}
}

func failed(r *client.Run) int {
	datasets := map[string]bool{}
	for _, s := range r.Steps {
		if s.Error != "" {
			datasets[s.Dataset] = true
		}
	}
	return len(datasets)
}

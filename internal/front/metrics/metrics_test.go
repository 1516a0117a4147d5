package metrics_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"cairn/client"
	"cairn/internal/front/metrics"
)

type fake struct{ err error }

func (f fake) Version() client.Version {
	return client.Version{Version: "1", Go: "go1", Started: time.Unix(1000, 5e8)}
}

func (f fake) Status(context.Context, client.StatusQuery) (*client.Status, error) {
	at := time.Unix(2000, 0)
	return &client.Status{
		Now: at,
		Tapes: []client.Tape{{Declared: "offsite", Drive: "/dev/sg1"}, {Folder: "/mnt/hung", State: "unknown"},
			{Folder: "/mnt/t", Drive: "/dev/sg2", Name: `a"b"`, Barcode: "OFF003", State: "late", Failures: 3, LastFailure: at, Waiting: at.Add(-time.Hour), IndexBudget: 9,
				AtRisk: client.TapeRisk{Bytes: 7, Since: at.Add(-time.Minute)}}},
		Problems: []client.Problem{{State: "late"}, {State: "late"}, {State: "stuck"}},
		Jobs: []client.Job{
			{Name: "nightly", Type: "push", Next: at, Running: &client.Run{Started: at},
				Last: &client.Run{State: "failed", Ended: at, Steps: []client.Step{{Dataset: "a", Moved: 5, Error: "x"}, {Dataset: "a", Error: "x"}, {Dataset: "b", Moved: 6}}}},
			{Name: "in\"box\n", Type: "sink", Listen: ":1", Clients: []string{"a", "b"}},
			{Name: "well", Type: "snap", Last: &client.Run{State: "done", Ended: at}},
		},
		Datasets: []client.Dataset{{Name: "tank/a", Kind: "filesystem", State: "ok",
			Places: map[string]client.Protected{"here": {Newest: at, Count: 3, Seen: at}, "vault": {State: "late"}}}},
	}, f.err
}

func TestPage(t *testing.T) {
	s, _ := fake{}.Status(t.Context(), client.StatusQuery{})
	var text strings.Builder
	metrics.Write(&text, fake{}.Version(), s)
	for _, line := range []string{
		`cairn_info{version="1",go="go1"} 1`,
		`cairn_start_time_seconds 1000.5`,
		`cairn_problems{state="late"} 2`, `cairn_problems{state="damaged"} 0`,
		`cairn_job_running{job="nightly",type="push"} 1`,
		`cairn_job_clients{job="in\"box\n",type="sink"} 2`,
		`cairn_job_last_state{job="nightly",state="failed"} 1`, `cairn_job_last_state{job="nightly",state="done"} 0`,
		`cairn_job_last_moved_bytes{job="nightly"} 11`,
		`cairn_dataset_newest_seconds{dataset="tank/a",place="here"} 2000`,
		`cairn_dataset_versions{dataset="tank/a",place="here"} 3`,
		`cairn_dataset_late{dataset="tank/a",place="vault"} 1`,
		`zrepl_replication_last_successful{zrepl_job="well"} 2000`,
		`cairn_tape_state{folder="/mnt/t",drive="/dev/sg2",volume="a\"b\"",barcode="OFF003",state="late"} 1`,
		`cairn_tape_state{folder="/mnt/t",drive="/dev/sg2",volume="a\"b\"",barcode="OFF003",state="ok"} 0`,
		`cairn_tape_state{folder="/mnt/hung",drive="",volume="",barcode="",state="unknown"} 1`,
		`cairn_tape_sync_failures{folder="/mnt/t",drive="/dev/sg2",volume="a\"b\"",barcode="OFF003"} 3`,
		`cairn_tape_last_sync_failure_seconds{folder="/mnt/t",drive="/dev/sg2",volume="a\"b\"",barcode="OFF003"} 2000`,
		`cairn_tape_index_budget_bytes{folder="/mnt/t",drive="/dev/sg2",volume="a\"b\"",barcode="OFF003"} 9`,
		`cairn_tape_risk_bytes{folder="/mnt/t",drive="/dev/sg2",volume="a\"b\"",barcode="OFF003"} 7`,
		`cairn_tape_risk_seconds{folder="/mnt/t",drive="/dev/sg2",volume="a\"b\"",barcode="OFF003"} 60`,
		`cairn_tape_drive_call_seconds{folder="/mnt/t",drive="/dev/sg2",volume="a\"b\"",barcode="OFF003"} 3600`,
		`zrepl_replication_filesystem_errors{zrepl_job="nightly"} 1`,
	} {
		if !strings.Contains(text.String(), line+"\n") {
			t.Errorf("no line %s", line)
		}
	}
	for _, never := range []string{`/dev/sg1`, `risk_bytes{folder="/mnt/hung"`} {
		if strings.Contains(text.String(), never) {
			t.Errorf("%s has a row", never)
		}
	}
	seen := map[string]bool{}
	for line := range strings.Lines(text.String()) {
		name, _, _ := strings.Cut(line, " ")
		if !strings.HasPrefix(line, "#") && seen[name] {
			t.Errorf("twice: %s", line)
		}
		seen[name] = !strings.HasPrefix(line, "#")
	}
	if t.Failed() {
		t.Log(text.String())
	}
}

func TestServe(t *testing.T) {
	for _, c := range []struct {
		daemon fake
		path   string
		code   int
		text   string
	}{
		{fake{}, "/metrics", 200, "cairn_info"},
		{fake{}, "/debug/pprof", 404, "not found"},
		{fake{err: errors.New("the pool hangs")}, "/metrics", 503, "the pool hangs"},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- metrics.Serve(ctx, l, c.daemon, slog.New(slog.DiscardHandler)) }()
		r, err := http.Get("http://" + l.Addr().String() + c.path)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r.Body)
		if r.StatusCode != c.code || !strings.Contains(string(text), c.text) || err != nil {
			t.Errorf("%s: %d %s %v", c.path, r.StatusCode, text, err)
		}
		r.Body.Close()
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

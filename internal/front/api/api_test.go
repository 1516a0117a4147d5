package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cairn"
	"cairn/client"
	"cairn/internal/front/api"
)

// fake is a daemon that remembers what it was asked.
type fake struct {
	api.Daemon // nil: what no test expects panics
	asked      []string
	err        error
}

func (f *fake) did(words ...string) error {
	f.asked = append(f.asked, strings.Join(words, " "))
	return f.err
}

func (f *fake) Version() client.Version { return client.Version{Version: "1", PID: 7} }
func (f *fake) Jobs() []client.Job      { return []client.Job{{Name: "nightly", Type: "push"}} }
func (f *fake) Cancel(job string) error { return f.did("cancel", job) }
func (f *fake) Reset(job string) error  { return f.did("reset", job) }
func (f *fake) Wake(_ context.Context, job string, w client.Wake) (*client.Run, error) {
	return &client.Run{ID: 3, Job: job, Cause: w.Cause}, f.did("wake", job, strings.Join(w.Verbs, "+"), strings.Join(w.Datasets, "+"))
}
func (f *fake) History(job string, limit int) ([]client.Run, error) {
	return []client.Run{{ID: uint64(limit)}}, f.did("history", job)
}
func (f *fake) Run(_ context.Context, job string, id uint64, wait bool) (*client.Run, error) {
	return &client.Run{ID: id, Job: job}, f.err
}
func (f *fake) Status(_ context.Context, q client.StatusQuery) (*client.Status, error) {
	return &client.Status{Total: q.Limit, Places: []string{q.Job}}, f.err
}
func (f *fake) Listings(_ context.Context, dataset, place string) ([]client.Place, error) {
	return []client.Place{{Name: place, Datasets: []client.Listing{{Dataset: dataset}}}}, f.err
}
func (f *fake) PrunePreview(_ context.Context, job string) ([]client.PruneSide, error) {
	return []client.PruneSide{{Side: job}}, f.err
}
func (f *fake) Volume(_ context.Context, name string) (client.Volume, error) {
	return client.Volume{Store: name}, f.err
}
func (f *fake) CreateVolume(_ context.Context, v client.NewVolume) error {
	return f.did("create", v.Name)
}
func (f *fake) ReleaseVolume(_ context.Context, name string) error { return f.did("release", name) }
func (f *fake) DestroyVolume(_ context.Context, name string) error { return f.did("destroy", name) }
func (f *fake) SetHashes(_ context.Context, name string, on bool) error {
	return f.did(fmt.Sprintf("hashes %v", on), name)
}
func (f *fake) MarkDirty(_ context.Context, name string) error { return f.did("mark-dirty", name) }
func (f *fake) Rescan(context.Context) error                   { return f.did("rescan") }
func (f *fake) ServeVolumes(ctx context.Context, s client.Serve, ready func(client.Serving)) error {
	if f.err != nil && s.Address == "early" {
		return f.err
	}
	ready(client.Serving{Address: s.Address, Exports: s.Volumes})
	if f.err != nil {
		return f.err
	}
	<-ctx.Done()
	return f.did("stopped serving")
}

// start serves a daemon on a socket until the test ends.
func start(t *testing.T, f *fake) *client.Client {
	t.Helper()
	dir, err := os.MkdirTemp("", "api")
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "run", "control")
	l, err := api.Listen(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- api.Serve(ctx, l, api.Options{Daemon: f}) }()
	c := client.New(socket)
	t.Cleanup(func() {
		c.Close()
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
		_ = os.RemoveAll(dir)
	})
	return c
}

func TestEveryCallReachesTheDaemon(t *testing.T) {
	f := &fake{}
	c, ctx := start(t, f), t.Context()
	if v, err := c.Version(ctx); err != nil || v.PID != 7 {
		t.Errorf("version %+v, %v", v, err)
	}
	if jobs, err := c.Jobs(ctx); err != nil || len(jobs) != 1 || jobs[0].Name != "nightly" {
		t.Errorf("jobs %+v, %v", jobs, err)
	}
	if r, err := c.Wake(ctx, "a b", client.Wake{Verbs: []string{"prune"}, Datasets: []string{"x"}, Cause: "wakeup"}); err != nil || r.ID != 3 || r.Job != "a b" || r.Cause != "wakeup" {
		t.Errorf("wake %+v, %v", r, err)
	}
	if r, err := c.Run(ctx, "j", 9, true); err != nil || r.ID != 9 {
		t.Errorf("run %+v, %v", r, err)
	}
	if s, err := c.Status(ctx, client.StatusQuery{Job: "j"}); err != nil || s.Total != client.DefaultRows || s.Places[0] != "j" {
		t.Errorf("status %+v, %v", s, err)
	}
	if p, err := c.Listings(ctx, "d/e", "vault"); err != nil || p[0].Name != "vault" || p[0].Datasets[0].Dataset != "d/e" {
		t.Errorf("listings %+v, %v", p, err)
	}
	if s, err := c.PrunePreview(ctx, "j"); err != nil || s[0].Side != "j" {
		t.Errorf("preview %+v, %v", s, err)
	}
	if runs, err := c.History(ctx, "j", 1<<20); err != nil || runs[0].ID != 1000 {
		t.Errorf("history %+v, %v: its length is not bounded", runs, err)
	}
	if v, err := c.Volume(ctx, "a/b"); err != nil || v.Store != "a/b" {
		t.Errorf("volume %+v, %v", v, err)
	}
	for _, err := range []error{c.Cancel(ctx, "j"), c.Reset(ctx, "j"), c.Rescan(ctx), c.CreateVolume(ctx, client.NewVolume{Name: "v"}),
		c.ReleaseVolume(ctx, "r/s"), c.DestroyVolume(ctx, "d"), c.MarkDirty(ctx, "m"), c.SetHashes(ctx, "n", true)} {
		if err != nil {
			t.Error(err)
		}
	}
	want := "wake a b prune x|history j|cancel j|reset j|rescan|create v|release r/s|destroy d|mark-dirty m|hashes true n"
	if got := strings.Join(f.asked, "|"); got != want {
		t.Errorf("the daemon was asked %q, want %q", got, want)
	}
}

func TestErrorsKeepKindAndHintAcrossTheSocket(t *testing.T) {
	f := &fake{}
	c := start(t, f)
	for _, k := range cairn.Kinds() {
		f.err = &cairn.Error{Op: "reset", Subject: "nightly", Place: "vault", Kind: k, Err: errors.New("cause"), Hint: "do this"}
		err := c.Reset(t.Context(), "nightly")
		if err == nil || cairn.KindOf(err) != k || cairn.HintOf(err) != "do this" || err.Error() != f.err.Error() {
			t.Errorf("kind %v arrives as %v: %v", k, cairn.KindOf(err), err)
		}
	}
	f.err = errors.Join(errors.New("one"), &cairn.Error{Op: "two", Kind: cairn.KindSpace})
	if err := c.Reset(t.Context(), "x"); err.Error() != f.err.Error() || !errors.Is(err, cairn.KindSpace) {
		t.Errorf("joined error arrives as %v", err)
	}
}

func TestWithoutADaemonEveryCallIsUnavailable(t *testing.T) {
	c := client.New(filepath.Join(t.TempDir(), "nobody"))
	_, err := c.Version(t.Context())
	if !errors.Is(err, cairn.KindUnavailable) || cairn.HintOf(err) == "" {
		t.Errorf("%v", err)
	}
}

func TestServeLastsAsLongAsTheClient(t *testing.T) {
	f := &fake{}
	c := start(t, f)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	err := c.Serve(ctx, client.Serve{Volumes: []string{"db"}, Address: "here"}, func(at client.Serving) {
		if at.Address != "here" || len(at.Exports) != 1 {
			t.Errorf("serving %+v", at)
		}
		cancel()
	})
	if err != nil {
		t.Errorf("ended by the client: %v", err)
	}
}

func TestServeReportsFailuresBeforeAndAfterItListens(t *testing.T) {
	f := &fake{err: &cairn.Error{Op: "export", Subject: "db", Kind: cairn.KindNotFound}}
	c := start(t, f)
	for _, address := range []string{"early", "late"} {
		ready := 0
		err := c.Serve(t.Context(), client.Serve{Address: address}, func(client.Serving) { ready++ })
		if !errors.Is(err, cairn.KindNotFound) || ready > 0 != (address == "late") {
			t.Errorf("%s: ready %d times, %v", address, ready, err)
		}
	}
}

func TestHostileRequestsAreRefused(t *testing.T) {
	f := &fake{}
	h := api.Handler(api.Options{Daemon: f})
	for _, r := range []struct {
		method, path, body string
		code               int
	}{
		{"GET", "/v1/status?limit=-1", "", 400},
		{"GET", "/v1/status?limit=x", "", 400},
		{"GET", "/v1/jobs/j/runs/x", "", 400},
		{"POST", "/v1/jobs/j/wake", `{"verb": ["prune"]}`, 400}, // a misspelt field must not mean "everything"
		{"POST", "/v1/jobs/j/wake", `{"verbs": ["` + strings.Repeat("x", 1<<20) + `"]}`, 400},
		{"POST", "/v1/volumes/destroy?name=../x", "", 400},
		{"POST", "/v1/volumes/destroy", "", 400},
		{"GET", "/v1/volumes/destroy?name=x", "", 501},
		{"GET", "/debug/pprof", "", 501},
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(r.method, r.path, strings.NewReader(r.body)))
		var body struct{ Error *struct{ Kind int } }
		if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil || body.Error == nil || w.Code != r.code {
			t.Errorf("%s %s: %d %s", r.method, r.path, w.Code, w.Body)
		}
	}
	if len(f.asked) > 0 {
		t.Errorf("the daemon was asked %q", f.asked)
	}
}

func TestEveryKindHasAnHTTPStatus(t *testing.T) {
	f := &fake{}
	h := api.Handler(api.Options{Daemon: f})
	for _, k := range cairn.Kinds() {
		f.err = &cairn.Error{Op: "x", Kind: k}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("POST", "/v1/jobs/j/reset", http.NoBody))
		if w.Code < 400 {
			t.Errorf("%v answers %d", k, w.Code)
		}
	}
}

func TestListenKeepsOthersOut(t *testing.T) {
	dir := t.TempDir()
	open := filepath.Join(dir, "open")
	if err := os.Mkdir(open, 0o755); err != nil {
		t.Fatal(err)
	}
	for path, kind := range map[string]cairn.Kind{
		filepath.Join(open, "control"):                       cairn.KindPermission,
		filepath.Join(dir, strings.Repeat("x", 120), "sock"): cairn.KindInvalid,
	} {
		if _, err := api.Listen(t.Context(), path); !errors.Is(err, kind) || cairn.HintOf(err) == "" {
			t.Errorf("%s: %v, want %v", path, err, kind)
		}
	}
}

func TestListenReplacesADeadSocketAndSparesALiveOne(t *testing.T) {
	dir, err := os.MkdirTemp("", "api")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	path := filepath.Join(dir, "run", "control")
	first, err := api.Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket mode %v, %v", info.Mode(), err)
	}
	if _, err := api.Listen(t.Context(), path); !errors.Is(err, cairn.KindBusy) {
		t.Errorf("second daemon: %v", err)
	}
	first.(interface{ SetUnlinkOnClose(bool) }).SetUnlinkOnClose(false) // as a kill leaves it
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := api.Listen(t.Context(), path)
	if err != nil {
		t.Fatalf("after a kill: %v", err)
	}
	_ = again.Close()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := api.Listen(t.Context(), path); !errors.Is(err, cairn.KindExists) {
		t.Errorf("over a plain file: %v", err)
	}
}

package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cairn"
	"cairn/client"
	"cairn/internal/app/config"
	"cairn/internal/system/transport/certs"
	"cairn/internal/testkit/memory"
)

// inMemory is a place without disks.
type inMemory struct {
	*memory.Place
	closed bool
	hang   chan struct{} // Close waits for it; nil does not wait
}

func (m *inMemory) Device(context.Context, string) (cairn.BlockDevice, error) {
	return nil, &cairn.Error{Op: "open device", Kind: cairn.KindUnsupported}
}
func (m *inMemory) Create(_ context.Context, v client.NewVolume, _ string) error {
	return m.Place.Create(v.Name, v.Size)
}
func (m *inMemory) Release(context.Context, string) error         { return nil }
func (m *inMemory) Destroy(context.Context, string) error         { return nil }
func (m *inMemory) MarkDirty(context.Context, string) error       { return nil }
func (m *inMemory) SetHashes(context.Context, string, bool) error { return nil }
func (m *inMemory) Rescan(context.Context) error                  { return nil }
func (m *inMemory) Show(context.Context, string) (client.Volume, error) {
	return client.Volume{}, nil
}
func (m *inMemory) Close() error {
	m.closed = true
	if m.hang != nil {
		<-m.hang
	}
	return nil
}

// machine is a daemon under test with its folder.
type machine struct {
	t     *testing.T
	dir   string
	place *inMemory
	c     *client.Client
	stop  func() error
	grace time.Duration
}

// newMachine prepares a folder short enough for sockets.
func newMachine(t *testing.T) *machine {
	t.Helper()
	dir, err := os.MkdirTemp("", "cd")
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{t: t, dir: dir, place: &inMemory{Place: memory.New("m")}}
	t.Cleanup(func() {
		if m.stop != nil {
			if err := m.stop(); err != nil {
				t.Errorf("the daemon ends with %v", err)
			}
		}
		_ = os.RemoveAll(dir)
	})
	return m
}

// makeSmall makes a small volume behind the daemon's back.
func (m *inMemory) makeSmall(name string) error { return m.Place.Create(name, 8192) }

// pause waits a little for something that another goroutine does.
func pause(t *testing.T) {
	t.Helper()
	select {
	case <-t.Context().Done():
	case <-time.After(10 * time.Millisecond):
	}
}

func configOf(t *testing.T, m *machine) *config.Config {
	t.Helper()
	cfg, err := config.Load(filepath.Join(m.dir, "cairn.yml"), config.Options{Paths: config.DefaultPaths()})
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// start runs the daemon with the configuration until the test ends or stop is called.
func (m *machine) start(yaml string) {
	m.t.Helper()
	file := filepath.Join(m.dir, "cairn.yml")
	yaml = fmt.Sprintf("global:\n  state: %s/state\n  control: {sockpath: %s/run/control}\n", m.dir, m.dir) + yaml
	if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
		m.t.Fatal(err)
	}
	cfg, err := config.Load(file, config.Options{Paths: config.DefaultPaths()})
	if err != nil {
		m.t.Fatalf("%v\n%s", err, yaml)
	}
	log := slog.New(slog.DiscardHandler)
	if testing.Verbose() {
		log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- bounded(ctx, Options{Config: cfg, Logger: log, Grace: m.grace}, func(ctx context.Context) (*Here, error) {
			m.place.closed = false
			return newHere(ctx, cfg, m.place, log), nil
		})
	}()
	m.c = client.New(cfg.Global.Control.SockPath)
	m.stop = func() error {
		m.stop = nil
		m.c.Close()
		cancel()
		select {
		case err := <-ended:
			return err
		case <-time.After(15 * time.Second):
			return errors.New("did not end within 15 s")
		}
	}
	for range 200 {
		if _, err := m.c.Version(m.t.Context()); err == nil {
			return
		}
		select {
		case err := <-ended:
			m.t.Fatalf("the daemon ended at once: %v", err)
		case <-time.After(10 * time.Millisecond):
		}
	}
	m.t.Fatal("the daemon does not answer")
}

// finish runs a job and returns its ended run.
func (m *machine) finish(job string, w client.Wake) client.Run {
	m.t.Helper()
	r, err := m.c.Wake(m.t.Context(), job, w)
	if err != nil {
		m.t.Fatal(err)
	}
	r, err = m.c.Run(m.t.Context(), job, r.ID, true)
	if err != nil || r.Ended.IsZero() {
		m.t.Fatalf("%+v, %v", r, err)
	}
	return *r
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

func names(t *testing.T, ep *cairn.Endpoint) string {
	t.Helper()
	var all []string
	for l, err := range ep.Lister.List(t.Context(), cairn.Query{Filter: cairn.All, Want: cairn.Want{Versions: true}}) {
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range l.Versions {
			all = append(all, l.Dataset.Name+v.Name)
		}
	}
	return strings.Join(all, " ")
}

// pair makes two machines whose certificates know each other, and the
// configuration texts of a push and its sink.
func pair(t *testing.T) (db1, vault *machine, push, sink string) {
	t.Helper()
	db1, vault = newMachine(t), newMachine(t)
	ca := filepath.Join(vault.dir, "ca")
	if _, err := certs.Init(ca); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"db1", "vault"} {
		if _, err := certs.Issue(ca, name, []string{"127.0.0.1"}); err != nil {
			t.Fatal(err)
		}
	}
	address := freePort(t)
	push = fmt.Sprintf(`
volumes:
  db: {size: 1MiB}
jobs:
- name: nightly
  type: push
  connect: {type: tls, address: "%s", ca: %[2]s/ca.pem, cert: %[2]s/db1.pem, key: %[2]s/db1.key, server_cn: vault}
  volumes: {db: true}
  snapshotting: {type: cron, prefix: cairn_, cron: "0 3 1 1 *", timestamp_format: "150405.000000000"}
  pruning:
    keep_sender: [{type: not_replicated}, {type: last_n, count: 1}]
    keep_receiver: [{type: last_n, count: 2}]
`, address, ca)
	sink = fmt.Sprintf(`
jobs:
- name: inbox
  type: sink
  serve: {type: tls, listen: "%s", ca: %[2]s/ca.pem, cert: %[2]s/vault.pem, key: %[2]s/vault.key, client_cns: [db1]}
  root_volumes: backups
`, address, ca)
	return db1, vault, push, sink
}

func TestPushReplicatesPrunesAndIsRemembered(t *testing.T) {
	db1, vault, push, sink := pair(t)
	vault.start(sink)
	db1.start(push)
	if err := db1.place.Write("db", 0, []byte(strings.Repeat("x", 1<<20))); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		if r := db1.finish("nightly", client.Wake{}); r.State != "done" || len(r.Steps) < 2 {
			t.Fatalf("run %d: %+v", i, r)
		}
	}
	there := names(t, vault.place.Endpoint())
	if got := strings.Count(there, "backups/db1/db@cairn_"); got != 2 {
		t.Errorf("the sink holds %s; keep_receiver keeps 2", there)
	}
	if here := names(t, db1.place.Endpoint()); strings.Count(here, "db@cairn_") != 1 {
		t.Errorf("the sender holds %s; keep_sender keeps 1", here)
	}

	s, err := db1.c.Status(t.Context(), client.StatusQuery{})
	if err != nil || len(s.Problems) > 0 || len(s.Datasets) != 1 || s.Datasets[0].Places["vault"].Count != 2 || s.Datasets[0].Places["here"].Count == 0 {
		t.Errorf("status %+v, %v", s, err)
	}
	runs, err := db1.c.History(t.Context(), "nightly", 10)
	if err != nil || len(runs) != 3 || runs[0].ID <= runs[1].ID || runs[0].Cause != "manual" {
		t.Errorf("history %+v, %v", runs, err)
	}

	if err := vault.stop(); err != nil {
		t.Fatal(err)
	}
	places, err := db1.c.Listings(t.Context(), "db", "vault")
	if err != nil || len(places) != 1 || places[0].Error == "" || len(places[0].Datasets) != 1 || len(places[0].Datasets[0].Versions) != 2 {
		t.Errorf("while the peer is away: %+v, %v", places, err)
	}
	if r := db1.finish("nightly", client.Wake{Verbs: []string{"replicate"}}); r.State != "failed" || r.Kind != "unavailable" || r.Hint == "" {
		t.Errorf("replication to a peer that is away: %+v", r)
	}
	s, err = db1.c.Status(t.Context(), client.StatusQuery{Job: "nightly"})
	if err != nil || len(s.Problems) != 1 || s.Problems[0].Job != "nightly" || s.Problems[0].Next == "" {
		t.Errorf("status after a failure: %+v, %v", s, err)
	}

	if err := db1.stop(); err != nil {
		t.Fatal(err)
	}
	if !db1.place.closed {
		t.Error("the place was left open")
	}
	db1.start(push)
	again, err := db1.c.History(t.Context(), "nightly", 10)
	if err != nil || len(again) != 4 {
		t.Errorf("history after a restart: %d runs, %v", len(again), err)
	}
	if s, err = db1.c.Status(t.Context(), client.StatusQuery{}); err != nil || s.Datasets[0].Places["vault"].Count != 2 {
		t.Errorf("what the peer held is forgotten by a restart: %+v, %v", s.Datasets, err)
	}
}

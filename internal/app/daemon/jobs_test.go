package daemon

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cairn"
	"cairn/client"
	"cairn/internal/app/config"
)

func TestPullSeesOnlyWhatTheSourceSelects(t *testing.T) {
	db1, vault, push, _ := pair(t)
	address := push[strings.Index(push, `address: "`)+len(`address: "`):]
	address = address[:strings.Index(address, `"`)]
	ca := filepath.Join(vault.dir, "ca")
	db1.start(fmt.Sprintf(`
volumes: {db: {size: 64KiB}, secret: {size: 64KiB}}
jobs:
- name: offer
  type: source
  serve: {type: tls, listen: "%s", ca: %[2]s/ca.pem, cert: %[2]s/db1.pem, key: %[2]s/db1.key, client_cns: [vault]}
  volumes: {db: true}
  snapshotting: {type: cron, prefix: cairn_, cron: "0 3 1 1 *", timestamp_format: "150405.000000000"}
`, address, ca))
	vault.start(fmt.Sprintf(`
jobs:
- name: fetch
  type: pull
  connect: {type: tls, address: "%s", ca: %[2]s/ca.pem, cert: %[2]s/vault.pem, key: %[2]s/vault.key, server_cn: db1}
  root_volumes: pulled
  interval: manual
  pruning: {keep_sender: [{type: last_n, count: 1}], keep_receiver: []}
`, address, ca))
	for range 3 {
		if r := db1.finish("offer", client.Wake{}); r.State != "done" {
			t.Fatalf("capture at the source: %+v", r)
		}
		if r := vault.finish("fetch", client.Wake{}); r.State != "done" {
			t.Fatalf("pull: %+v", r)
		}
	}
	if got := names(t, vault.place.Endpoint()); strings.Count(got, "pulled/db@") != 3 || strings.Contains(got, "secret") {
		t.Errorf("the puller holds %s", got)
	}
	if got := names(t, db1.place.Endpoint()); strings.Count(got, "db@") != 1 {
		t.Errorf("the source holds %s; keep_sender keeps 1", got)
	}
	if _, err := vault.c.Listings(t.Context(), "secret", "db1"); !errors.Is(err, cairn.KindNotFound) {
		t.Errorf("a dataset that is not selected: %v", err)
	}
	s, err := vault.c.Status(t.Context(), client.StatusQuery{})
	if err != nil || s.Datasets[0].Name != "pulled/db" || s.Datasets[0].Places["db1"].Count == 0 {
		t.Errorf("status %+v, %v", s, err)
	}
}

func TestLocalTransportAndAppendOnly(t *testing.T) {
	m := newMachine(t)
	text := `
volumes: {db: {size: 64KiB}}
jobs:
- name: inbox
  type: sink
  append_only: true
  serve: {type: local, listener_name: box}
  root_volumes: backups
- name: copy
  type: push
  connect: {type: local, listener_name: box, client_identity: me}
  volumes: {db: true}
  snapshotting: {type: cron, prefix: cairn_, cron: "0 3 1 1 *", timestamp_format: "150405.000000000"}
  pruning: {keep_sender: [], keep_receiver: []}
`
	m.start(text)
	if r := m.finish("copy", client.Wake{}); r.State != "done" {
		t.Fatalf("%+v", r)
	}
	if places, err := m.c.Listings(t.Context(), "db", "box"); err != nil || len(places) != 1 || places[0].Error != "" || len(places[0].Datasets) != 1 {
		t.Errorf("through the local transport: %+v, %v", places, err)
	}
	if got := names(t, m.place.Endpoint()); !strings.Contains(got, "backups/me/db@cairn_") {
		t.Errorf("the place holds %s", got)
	}
}

func TestRulesForAPlaceThatLetsNobodyDestroyAreRefused(t *testing.T) {
	db1, vault, push, sink := pair(t)
	vault.start(sink + "  append_only: true\n")
	db1.start(push)
	r := db1.finish("nightly", client.Wake{})
	if r.State != "failed" || r.Kind != "configuration" || !strings.Contains(r.Hint, "keep_receiver") {
		t.Errorf("%+v", r)
	}
}

const snapOnly = `
volumes: {db: {size: 64KiB}}
jobs:
- name: hourly
  type: snap
  volumes: {db: true}
  snapshotting: {type: cron, prefix: cairn_, cron: "0 3 1 1 *", timestamp_format: "150405.000000000"}
  pruning: {keep: [{type: last_n, count: 2}]}
`

func TestPreviewIsWhatThePruneThenDoes(t *testing.T) {
	m := newMachine(t)
	m.start(snapOnly)
	for range 4 {
		if r := m.finish("hourly", client.Wake{Verbs: []string{"capture"}}); r.State != "done" {
			t.Fatalf("%+v", r)
		}
	}
	sides, err := m.c.PrunePreview(t.Context(), "hourly")
	if err != nil || len(sides) != 1 || len(sides[0].Datasets) != 1 || len(sides[0].Datasets[0].Versions) != 4 {
		t.Fatalf("%+v, %v", sides, err)
	}
	var kept []string
	for _, v := range sides[0].Datasets[0].Versions {
		if v.Why == "" {
			t.Errorf("%s: no reason", v.Name)
		}
		if !v.Destroy {
			kept = append(kept, "db"+v.Name)
		}
	}
	if r := m.finish("hourly", client.Wake{Verbs: []string{"prune"}}); r.State != "done" || len(r.Steps) != 2 {
		t.Errorf("%+v", r)
	}
	if got := names(t, m.place.Endpoint()); got != strings.Join(kept, " ") || len(kept) != 2 {
		t.Errorf("the prune left %s, the preview %s", got, kept)
	}
}

func TestUnknownNamesAreNotFound(t *testing.T) {
	m := newMachine(t)
	m.start(snapOnly)
	ctx := t.Context()
	_, wake := m.c.Wake(ctx, "nope", client.Wake{})
	_, status := m.c.Status(ctx, client.StatusQuery{Job: "nope"})
	_, runs := m.c.History(ctx, "nope", 1)
	_, preview := m.c.PrunePreview(ctx, "nope")
	_, dataset := m.c.Listings(ctx, "nope", "")
	_, place := m.c.Listings(ctx, "db", "nope")
	_, run := m.c.Run(ctx, "hourly", 99, false)
	for i, err := range []error{wake, status, runs, preview, dataset, place, run, m.c.Cancel(ctx, "nope"), m.c.Reset(ctx, "nope")} {
		if !errors.Is(err, cairn.KindNotFound) {
			t.Errorf("call %d: %v", i, err)
		}
	}
	if _, err := m.c.Wake(ctx, "hourly", client.Wake{Verbs: []string{"replicate"}}); !errors.Is(err, cairn.KindInvalid) {
		t.Errorf("a verb the job has not: %v", err)
	}
}

func TestDeclaredVolumesBelongToTheFile(t *testing.T) {
	m := newMachine(t)
	m.start(snapOnly)
	for _, err := range []error{m.c.DestroyVolume(t.Context(), "db"), m.c.ReleaseVolume(t.Context(), "db"), m.c.CreateVolume(t.Context(), client.NewVolume{Name: "db", Size: 4096})} {
		if !errors.Is(err, cairn.KindConflict) || !strings.Contains(err.Error(), "cairn.yml:") {
			t.Errorf("%v", err)
		}
	}
}

func TestStatusIsBounded(t *testing.T) {
	m := newMachine(t)
	m.start(snapOnly)
	for i := range 20 {
		if err := m.place.makeSmall(fmt.Sprintf("v%02d", i)); err != nil {
			t.Fatal(err)
		}
	}
	s, err := m.c.Status(t.Context(), client.StatusQuery{Limit: 5})
	if err != nil || len(s.Datasets) != 5 || s.Total != 21 {
		t.Errorf("%d rows of %d, %v", len(s.Datasets), s.Total, err)
	}
	if s, err = m.c.Status(t.Context(), client.StatusQuery{Job: "hourly"}); err != nil || s.Total != 1 || s.Datasets[0].Name != "db" {
		t.Errorf("of one job: %+v, %v", s, err)
	}
}

func TestSecondDaemonIsRefused(t *testing.T) {
	m := newMachine(t)
	m.start(snapOnly)
	same, sameState, sameSocket := *configOf(t, m), *configOf(t, m), *configOf(t, m)
	sameState.Global.Control.SockPath = filepath.Join(m.dir, "other", "control")
	sameSocket.Global.State = filepath.Join(m.dir, "other")
	for i, cfg := range []*config.Config{&same, &sameState, &sameSocket} {
		if err := bounded(t.Context(), Options{Config: cfg}, nil); !errors.Is(err, cairn.KindBusy) || cairn.HintOf(err) == "" {
			t.Errorf("daemon %d: %v", i, err)
		}
	}
}

func TestListenerThatCannotBindIsShownAndOthersGoOn(t *testing.T) {
	_, vault, _, sink := pair(t)
	sink = strings.Replace(sink, "127.0.0.1:", "192.0.2.1:", 1) // an address that no machine has
	vault.start(sink)
	var problems []client.Problem
	for range 100 {
		s, err := vault.c.Status(t.Context(), client.StatusQuery{})
		if err != nil {
			t.Fatal(err)
		}
		if problems = s.Problems; len(problems) > 0 {
			break
		}
		pause(t)
	}
	if len(problems) != 1 || problems[0].Since.IsZero() || !strings.Contains(problems[0].What, "192.0.2.1") {
		t.Errorf("%+v", problems)
	}
}

func TestBandwidthLimitHoldsForAJobsStreams(t *testing.T) {
	db1, vault, push, sink := pair(t)
	vault.start(sink)
	db1.start(strings.Replace(push, "  volumes: {db: true}", "  send: {bandwidth_limit: {max: 2 MiB}}\n  volumes: {db: true}", 1))
	if err := db1.place.Write("db", 0, noise(1<<20)); err != nil {
		t.Fatal(err)
	}
	r := db1.finish("nightly", client.Wake{})
	for _, s := range r.Steps {
		if s.Verb != "replicate" {
			continue
		}
		// 1 MiB at 2 MiB/s, of which 128 KiB pass at once.
		if took := s.Ended.Sub(s.Started); s.Moved < 1<<20 || took < 350*time.Millisecond {
			t.Errorf("%d bytes in %v", s.Moved, took)
		}
		return
	}
	t.Errorf("nothing was replicated: %+v", r)
}

func TestPruningRunsAlthoughReplicationFails(t *testing.T) {
	db1, vault, push, sink := pair(t)
	vault.start(sink)
	db1.start(strings.Replace(push, "keep_sender: [{type: not_replicated}, {type: last_n, count: 1}]", "keep_sender: [{type: last_n, count: 1}]", 1))
	if r := db1.finish("nightly", client.Wake{}); r.State != "done" {
		t.Fatalf("%+v", r)
	}
	if err := vault.stop(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if r := db1.finish("nightly", client.Wake{}); r.State != "failed" || r.Kind != "unavailable" {
			t.Fatalf("while the peer is away: %+v", r)
		}
	}
	// The newest, and the last one that both sides have.
	if here := names(t, db1.place.Endpoint()); strings.Count(here, "@") > 2 {
		t.Errorf("without pruning the machine fills up: %s", here)
	}
}

func TestEndIsBoundedWhateverHangs(t *testing.T) {
	m := newMachine(t)
	m.grace, m.place.hang = 300*time.Millisecond, make(chan struct{})
	m.start(snapOnly)
	began := time.Now()
	err := m.stop()
	close(m.place.hang)
	if took := time.Since(began); !errors.Is(err, cairn.KindStuck) || took > 5*time.Second {
		t.Errorf("%v after %v", err, took)
	}
}

func TestLateMeansThatAVersionWaitsTooLong(t *testing.T) {
	now := time.Now()
	version := func(name string, guid cairn.GUID, ago time.Duration) cairn.Version {
		return cairn.Version{VersionID: cairn.VersionID{Name: name, GUID: guid}, Created: now.Add(-ago)}
	}
	j := &config.Job{Name: "nightly", Type: "push", Volumes: cairn.All,
		Connect: &config.Connect{Type: "tls", ServerCN: "vault"}, Snapshotting: config.Snapshotting{Type: "periodic", Interval: 5 * time.Minute}}
	u := &unit{cfg: j, activity: &activity{job: j}}
	old, middle, young := version("@a", 1, 40*time.Minute), version("@b", 2, 20*time.Minute), version("@c", 3, time.Minute)
	for _, c := range []struct {
		here, there []cairn.Version
		late        time.Duration
	}{
		{[]cairn.Version{old, middle, young}, []cairn.Version{old, middle, young}, 0},
		{[]cairn.Version{old, young}, []cairn.Version{old}, 0}, // waits for a minute only
		{[]cairn.Version{old, middle, young}, []cairn.Version{old}, 20 * time.Minute},
		{[]cairn.Version{old, middle}, nil, 40 * time.Minute},
		{nil, nil, 0},
	} {
		s := newSight("vault")
		s.add(&cairn.Listing{Dataset: cairn.Dataset{Name: "db"}, Versions: c.there})
		v := &view{now: now, sights: map[string]*sight{"nightly": s}}
		l := &cairn.Listing{Dataset: cairn.Dataset{Name: "db"}, Versions: c.here}
		cell, late := v.cell(u, l, glimpseOf(l))
		if late.Round(time.Second) != c.late || (cell.State == "late") != (c.late > 0) || cell.Count != len(c.there) {
			t.Errorf("%d here, %d there: late %v, %+v", len(c.here), len(c.there), late, cell)
		}
	}
}

func TestAStateIsKnownSinceItWasFirstSeen(t *testing.T) {
	var o onsets
	begin := time.Now()
	for i, c := range []struct {
		state cairn.State
		since int // minute
	}{{cairn.StateUnverified, 0}, {cairn.StateUnverified, 0}, {cairn.StateDamaged, 2}, {cairn.StateOK, 3}, {cairn.StateDamaged, 4}, {cairn.StateDamaged, 4}} {
		now := begin.Add(time.Duration(i) * time.Minute)
		if got := o.of("db", c.state, now).Sub(begin); got != time.Duration(c.since)*time.Minute {
			t.Errorf("look %d: since %v", i, got)
		}
	}
}

func TestServiceManagerIsTold(t *testing.T) {
	m := newMachine(t)
	socket := filepath.Join(m.dir, "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	t.Setenv("NOTIFY_SOCKET", socket)
	m.start(snapOnly)
	told := func() string {
		_ = l.SetReadDeadline(time.Now().Add(5 * time.Second)) // never fails on an open socket
		b := make([]byte, 100)
		n, err := l.Read(b)
		if err != nil {
			t.Error(err)
		}
		return string(b[:n])
	}
	if got := told(); got != "READY=1" {
		t.Errorf("told %q", got)
	}
	if err := m.stop(); err != nil {
		t.Error(err)
	}
	if got := told(); got != "STOPPING=1" {
		t.Errorf("told %q", got)
	}
}

// noise does not compress.
func noise(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b) // never fails
	return b
}

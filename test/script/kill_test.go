package script_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"cairn"
	"cairn/client"
	"cairn/internal/front/nbd/nbdclient"
)

// The size of each change, and how much of it a transfer that was cut may send
// again: what lies between two durable resume offsets, and headers.
const (
	changeBytes  = 8 << 20
	resumeWindow = 4<<20 + 256<<10
)

// host is a machine with a daemon that can be killed.
type host struct {
	t      *testing.T
	dir    string
	config string
	c      *client.Client
	cmd    *exec.Cmd
	log    bytes.Buffer // of the daemon's output, all its lives
}

func newHost(t *testing.T) *host {
	t.Helper()
	dir, err := shortFolder()
	if err != nil {
		t.Fatal(err)
	}
	h := &host{t: t, dir: dir, config: filepath.Join(dir, "cairn.yml"), c: client.New(filepath.Join(dir, "run/control"))}
	t.Cleanup(func() {
		h.c.Close()
		if h.cmd != nil {
			h.end(syscall.SIGTERM)
		}
		if t.Failed() {
			t.Logf("daemon in %s said:\n%s", dir, h.log.String())
		}
		_ = os.RemoveAll(dir)
	})
	return h
}

func (h *host) configure(text string) {
	h.t.Helper()
	head := fmt.Sprintf("global:\n  state: %s/state\n  control: {sockpath: %s/run/control}\n  nbd: [{type: unix, path: %s/run/nbd}]\n  logging: [{type: stdout, level: info, format: logfmt}]\n", h.dir, h.dir, h.dir)
	if err := os.WriteFile(h.config, []byte(head+text), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) start() {
	h.t.Helper()
	h.cmd = exec.Command("cairn", "daemon", "--config", h.config)
	h.cmd.Stdout, h.cmd.Stderr = &h.log, &h.log
	if err := h.cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.wait("the daemon answers", func() bool {
		_, err := h.c.Version(h.t.Context())
		return err == nil
	})
}

// end sends a signal and waits for the process to be gone.
func (h *host) end(signal syscall.Signal) {
	h.t.Helper()
	if err := h.cmd.Process.Signal(signal); err != nil {
		h.t.Fatal(err)
	}
	err := h.cmd.Wait()
	h.cmd = nil
	var exit *exec.ExitError
	if signal == syscall.SIGTERM && errors.As(err, &exit) {
		h.t.Errorf("after SIGTERM the daemon ends with code %d", exit.ExitCode())
	}
}

func (h *host) wait(what string, done func() bool) {
	h.t.Helper()
	for deadline := time.Now().Add(90 * time.Second); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			h.t.Fatalf("it does not come about that %s", what)
		}
	}
}

// dataset is what a host holds of a dataset here; zero when it is not there.
func (h *host) dataset(name string) client.Listing {
	h.t.Helper()
	places, err := h.c.Listings(h.t.Context(), name, "here")
	if errors.Is(err, cairn.KindNotFound) {
		return client.Listing{}
	}
	if err != nil {
		h.t.Fatal(err)
	}
	return places[0].Datasets[0]
}

func newest(l client.Listing) string {
	for i := len(l.Versions) - 1; i >= 0; i-- {
		if v := l.Versions[i]; strings.HasPrefix(v.Name, "@") {
			return v.Name
		}
	}
	return ""
}

// export reads a snapshot of a host's dataset through its daemon.
func (h *host) export(address string) []byte {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), time.Minute)
	defer cancel()
	c, err := nbdclient.Dial(ctx, nbdclient.Options{Network: "unix", Address: filepath.Join(h.dir, "run/nbd"), Export: address})
	if err != nil {
		h.t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	content := make([]byte, c.Size())
	for off := int64(0); off < c.Size(); off += 1 << 20 {
		if err := c.ReadAt(ctx, content[off:min(off+1<<20, c.Size())], off); err != nil {
			h.t.Fatal(err)
		}
	}
	return content
}

func (h *host) write(off int64, p []byte) {
	h.t.Helper()
	err := withExport(filepath.Join(h.dir, "run/nbd"), "db", func(ctx context.Context, c *nbdclient.Client) error {
		for at := 0; at < len(p); at += 1 << 20 {
			if err := c.WriteAt(ctx, p[at:min(at+1<<20, len(p))], off+int64(at), false); err != nil {
				return err
			}
		}
		return c.Flush(ctx)
	})
	if err != nil {
		h.t.Fatal(err)
	}
}

// killPair is a pushing host and its sink.
func killPair(t *testing.T) (db1, vault *host) {
	t.Helper()
	db1, vault = newHost(t), newHost(t)
	ca := filepath.Join(vault.dir, "ca")
	for _, args := range [][]string{{"cert", "init"}, {"cert", "issue", "db1"}, {"cert", "issue", "vault", "--host", "127.0.0.1"}} {
		if out, err := exec.Command("cairn", append(args, "--dir", ca)...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	db1.configure(fmt.Sprintf(`
volumes:
  db: {size: 32MiB}
jobs:
- name: nightly
  type: push
  connect: {type: tls, address: "%s", ca: %[2]s/ca.pem, cert: %[2]s/db1.pem, key: %[2]s/db1.key, server_cn: vault}
  volumes: {db: true}
  send: {bandwidth_limit: {max: 16 MiB}}
  snapshotting: {type: cron, prefix: cairn_, cron: "0 3 1 1 *", timestamp_format: "150405.000000000"}
  pruning:
    keep_sender: [{type: not_replicated}, {type: last_n, count: 3}]
    keep_receiver: [{type: last_n, count: 5}]
`, address, ca))
	vault.configure(fmt.Sprintf(`
jobs:
- name: inbox
  type: sink
  serve: {type: tls, listen: "%s", ca: %[2]s/ca.pem, cert: %[2]s/vault.pem, key: %[2]s/vault.key, client_cns: [db1]}
  root_volumes: backups
`, address, ca))
	vault.start()
	db1.start()
	return db1, vault
}

// TestKilledDaemonsConverge kills either daemon at random points of a run. Each
// time the pair has to converge by itself once the daemon is back, without sending
// again what the receiver has, and the history has to tell what happened.
// CAIRN_SCALE=full asks for 50 points, CAIRN_SEED for a certain order of them.
func TestKilledDaemonsConverge(t *testing.T) {
	points, seed := 4, uint64(time.Now().UnixNano())
	if os.Getenv("CAIRN_SCALE") == "full" {
		points = 50
	}
	if s := os.Getenv("CAIRN_SEED"); s != "" {
		if _, err := fmt.Sscan(s, &seed); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("CAIRN_SEED=%d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	db1, vault := killPair(t)
	k := &killing{t: t, db1: db1, vault: vault}
	k.converged(k.wake())
	for i := range points {
		victim := [2]*host{db1, vault}[random.IntN(2)]
		if i < 2 {
			victim = [2]*host{db1, vault}[i] // both, however few the points are
		}
		k.point(i, victim, random.Int64N(32<<20-changeBytes)&^4095, time.Duration(random.IntN(900))*time.Millisecond)
	}
	snapshot := newest(db1.dataset("db"))
	if !bytes.Equal(db1.export("db"+snapshot), vault.export("backups/db1/db"+snapshot)) {
		t.Errorf("%s differs between the two", snapshot)
	}
	t.Logf("%d kills, %d in the middle of a transfer, %d runs interrupted", points, k.cut, k.interrupted)
}

type killing struct {
	t           *testing.T
	db1, vault  *host
	cut         int // kills that left a part of a stream at the receiver
	interrupted int // runs that the history calls so
}

func (k *killing) wake() uint64 {
	k.t.Helper()
	r, err := k.db1.c.Wake(k.t.Context(), "nightly", client.Wake{})
	if err != nil {
		k.t.Fatal(err)
	}
	return r.ID
}

// point changes the volume, begins a run, kills the victim after a while, starts
// it again and waits for the pair to converge.
func (k *killing) point(i int, victim *host, off int64, after time.Duration) {
	k.t.Helper()
	k.db1.write(off, noise(changeBytes, i+100))
	run := k.wake()
	time.Sleep(after)
	who := "db1"
	if victim == k.vault {
		who = "vault"
	}
	victim.end(syscall.SIGKILL)
	kept := int64(0)
	if victim == k.db1 {
		kept = k.keptPart()
	} else {
		k.signal(k.db1, syscall.SIGSTOP) // else it could go on before anybody has looked
		victim.start()
		kept = k.keptPart()
		k.signal(k.db1, syscall.SIGCONT)
	}
	// What is kept is a position in the volume; the change lies at off.
	kept = min(max(kept-off, 0), changeBytes)
	if kept > 0 {
		k.cut++
	}
	if victim == k.db1 {
		victim.start()
	}
	k.converged(run)
	k.checkHistory(fmt.Sprintf("point %d, %s killed after %v", i, who, after), victim, run, kept)
}

func (k *killing) signal(h *host, s syscall.Signal) {
	k.t.Helper()
	if err := h.cmd.Process.Signal(s); err != nil {
		k.t.Fatal(err)
	}
}

// keptPart is what the sink keeps of a stream that was cut, once it has noticed.
func (k *killing) keptPart() int64 {
	k.t.Helper()
	if k.db1.cmd == nil {
		k.vault.wait("the sink notices that its client is gone", func() bool {
			jobs, err := k.vault.c.Jobs(k.t.Context())
			return err == nil && len(jobs) == 1 && len(jobs[0].Clients) == 0
		})
	}
	if p := k.vault.dataset("backups/db1/db").Partial; p != nil {
		return p.Received
	}
	return 0
}

// converged waits until no run is under way and the sink has the newest snapshot.
func (k *killing) converged(run uint64) {
	k.t.Helper()
	k.db1.wait("the pair converges", func() bool {
		jobs, err := k.db1.c.Jobs(k.t.Context())
		if err != nil || jobs[0].Running != nil || jobs[0].Last == nil || jobs[0].Last.ID < run || jobs[0].Last.State != "done" {
			return false
		}
		here := newest(k.db1.dataset("db"))
		return here != "" && here == newest(k.vault.dataset("backups/db1/db"))
	})
}

// checkHistory looks at the killed run and those after it.
func (k *killing) checkHistory(what string, victim *host, run uint64, kept int64) {
	k.t.Helper()
	runs, err := k.db1.c.History(k.t.Context(), "nightly", 10)
	if err != nil {
		k.t.Fatal(err)
	}
	moved := int64(0)
	for _, r := range runs {
		if r.ID < run {
			break
		}
		if r.Ended.IsZero() || r.State != "done" && r.Error == "" {
			k.t.Errorf("%s: history does not tell how run %d ended: %+v", what, r.ID, r)
		}
		if r.State == "interrupted" {
			k.interrupted++
			if victim != k.db1 {
				k.t.Errorf("%s: run %d is called interrupted", what, r.ID)
			}
		}
		for _, s := range r.Steps {
			if s.Verb == "replicate" && s.State == "done" {
				moved += s.Moved
			}
		}
	}
	if most := changeBytes - kept + resumeWindow; kept > 0 && moved > most {
		k.t.Errorf("%s: the sink had %d bytes of the stream and was sent %d more; at most %d were missing", what, kept, moved, most)
	}
}

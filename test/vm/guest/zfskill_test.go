package guest_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"cairn/client"
)

// host is a daemon that can be killed, with a zfs of its own to be caught in.
type host struct {
	t     *testing.T
	dir   string
	snare *snare
	c     *client.Client
	cmd   *exec.Cmd
	log   bytes.Buffer // of the daemon, all its lives
}

// cairnProgram is the program under test, out of the shared folder, whose pages are
// slow.
func cairnProgram(t *testing.T) string {
	t.Helper()
	const path = "/run/cairn-program"
	if _, err := os.Stat(path); err != nil {
		run(t, "cp /host/cairn "+path+".new && mv "+path+".new "+path)
	}
	return path
}

func newHost(t *testing.T, name, jobs string) *host {
	t.Helper()
	h := &host{t: t, dir: t.TempDir(), snare: newSnare(t)}
	h.c = client.New(filepath.Join(h.dir, "control"))
	text := fmt.Sprintf("global:\n  state: %s/state\n  control: {sockpath: %s/control}\n  logging: [{type: stdout, level: info, format: logfmt}]\njobs:\n%s", h.dir, h.dir, jobs)
	if err := errors.Join(os.WriteFile(filepath.Join(h.dir, "cairn.yml"), []byte(text), 0o600), os.Chmod(h.dir, 0o700)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		h.c.Close()
		if h.cmd != nil {
			h.end(syscall.SIGTERM)
		}
		if t.Failed() {
			t.Logf("%s said:\n%s", name, h.log.String())
		}
	})
	return h
}

func (h *host) start() {
	h.t.Helper()
	h.cmd = exec.Command(cairnProgram(h.t), "daemon", "--config", filepath.Join(h.dir, "cairn.yml"))
	h.cmd.Env = append(os.Environ(), "PATH="+h.snare.dir+":"+os.Getenv("PATH"))
	h.cmd.Stdout, h.cmd.Stderr = &h.log, &h.log
	if err := h.cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.wait("the daemon answers", func() bool {
		_, err := h.c.Version(h.t.Context())
		return err == nil
	})
}

func (h *host) wait(what string, is func() bool) {
	h.t.Helper()
	for end := time.Now().Add(3 * time.Minute); !is(); time.Sleep(250 * time.Millisecond) {
		if time.Now().After(end) {
			h.t.Fatalf("it does not come about that %s", what)
		}
	}
}

// end sends a signal, 0 for none, and waits for the process to be gone.
func (h *host) end(signal syscall.Signal) {
	h.t.Helper()
	if err := h.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		h.t.Fatal(err)
	}
	_ = h.cmd.Wait() // it was killed, or is no more of interest
	h.cmd = nil
}

// killing is a pushing host, its sink, and the zvol between them.
type killing struct {
	t           *testing.T
	here, there *host
	from, to    string // the zvol at either
	rnd         *rand.Rand
	n           int // snapshots
}

const killBytes = 8 << 20

func newKilling(t *testing.T) *killing {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err == nil {
		err = l.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	one, two := zfsPool(t, 256), zfsPool(t, 256)
	k := &killing{t: t, from: one + "/a", to: two + "/me/" + one + "/a", rnd: rand.New(rand.NewPCG(20, 20))}
	run(t, fmt.Sprintf("zfs create -s -V %d -b 16k %s", killBytes, k.from))
	k.here = newHost(t, "the pushing daemon", fmt.Sprintf(`- name: nightly
  type: push
  connect: {type: tcp, address: "%s"}
  filesystems: {"%s": true}
  snapshotting: {type: manual}
  pruning: {keep_sender: [{type: regex, regex: ".*"}], keep_receiver: [{type: regex, regex: ".*"}]}
`, l.Addr(), k.from))
	k.there = newHost(t, "the sink", fmt.Sprintf(`- name: inbox
  type: sink
  serve: {type: tcp, listen: "%s", clients: {"127.0.0.1": me}}
  root_fs: %s
  recv: {placeholder: {encryption: inherit}}
`, l.Addr(), two))
	k.there.start()
	k.here.start()
	return k
}

// change writes 3 MiB of noise and takes a snapshot of it.
func (k *killing) change() {
	k.t.Helper()
	noise := make([]byte, 3<<20)
	for i := range noise {
		noise[i] = byte(k.rnd.Uint32())
	}
	if err := zvolWrite(k.from, k.rnd.Int64N(killBytes-int64(len(noise)))&^0xffff, noise); err != nil {
		k.t.Fatal(err)
	}
	k.n++
	run(k.t, fmt.Sprintf("zfs snapshot %s@%d", k.from, k.n))
}

// wake begins a run; the daemon may die of it before it answers.
func (k *killing) wake() {
	_, _ = k.here.c.Wake(k.t.Context(), "nightly", client.Wake{Verbs: []string{"replicate"}}) // what comes of it is looked at
}

// converged lets runs go on until the sink has the newest snapshot and a run is done.
func (k *killing) converged(what string) client.Run {
	k.t.Helper()
	var last client.Run
	k.here.wait("after "+what+" the pair converges", func() bool {
		jobs, err := k.here.c.Jobs(k.t.Context())
		if err != nil || jobs[0].Running != nil {
			return false
		}
		if last = *jobs[0].Last; last.State == "done" {
			whole, err := k.here.c.Run(k.t.Context(), "nightly", last.ID, false)
			if err == nil {
				last = *whole
			}
			return err == nil
		}
		k.wake()
		return false
	})
	return last
}

// killPoints are moments in the life of one step, by the side that dies.
var killPoints = map[string][][2]string{
	"here": {{"list", before}, {"list", after}, {"hold", before}, {"hold", after}, {"send", before}, {"send", "100000"}, {"send", "2000000"}, {"send", after},
		{"bookmark", before}, {"bookmark", after}, {"destroy", before}, {"destroy", after}, {"release", before}, {"release", after}},
	"there": {{"list", before}, {"list", after}, {"receive", before}, {"receive", "100000"}, {"receive", "2000000"}, {"receive", after}, {"hold", before}, {"hold", after},
		{"release", before}, {"release", after}},
}

// Either daemon dies of SIGKILL at every moment of a step, before and after each of
// its processes did its work and in the middle of the stream: the next run makes it
// good, and after one more step nothing is left over.
func TestZFSKilledAtEveryPoint(t *testing.T) {
	inside(t)
	k := newKilling(t)
	for range 2 { // so that every kind of mark exists, and an old one to go
		k.change()
		k.wake()
		k.converged("the beginning")
	}
	wantSettled(t, "the beginning", k.from, k.to, "nightly", "inbox")
	n, resumed := 0, 0
	for _, side := range []string{"here", "there"} {
		victim := map[string]*host{"here": k.here, "there": k.there}[side]
		for _, p := range killPoints[side] {
			n++
			what := fmt.Sprintf("death of the process %s at zfs %s %s", side, p[0], p[1])
			k.change()
			command := "kill -9 $PPID"
			if p[1] == before {
				command += "; exit 1"
			}
			victim.snare.set(p[0], p[1], command)
			k.wake()
			k.here.wait("the trap springs: "+what, victim.snare.sprung)
			victim.end(0)
			victim.start()
			run := k.converged(what)
			for _, s := range run.Steps {
				if s.Resumed {
					resumed++
				}
			}
			t.Logf("%d: %s: run %d, %+v", n, what, run.ID, run.Steps)
			wantCursor(t, what, k.from, k.to, "nightly")
		}
	}
	k.change()
	k.wake()
	k.converged("a step of its own")
	wantSettled(t, "a step of its own", k.from, k.to, "nightly", "inbox")
	t.Logf("%d points, %d times a step went on from what was kept", n, resumed)
	if n < 20 || resumed < 2 {
		t.Errorf("%d points, %d resumed", n, resumed)
	}
}

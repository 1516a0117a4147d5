package guest_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"

	"cairn/client"
)

// What a replication costs beside `zfs send | zfs receive`, in CPU seconds of the
// programs and of the whole machine, kernel threads of ZFS included. A run has costs
// that do not grow with the data (listings, holds: a dozen processes), so that two
// sizes tell what each further MiB costs.
const (
	speedSmall = 8 // MiB of noise in a version
	speedLarge = 104
	speedLeast = 0.9 // what the pipe costs, as a part of what ours costs, at least
)

// cost is CPU time in hundredths of a second.
type cost struct{ programs, machine int64 }

func (c cost) minus(o cost) cost { return cost{c.programs - o.programs, c.machine - o.machine} }

// ticks adds numbered columns of a line of /proc, which count from 0.
func ticks(t *testing.T, file string, columns ...int) (n int64) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	line, _, _ := strings.Cut(string(b), "\n")
	if i := strings.LastIndexByte(line, ')'); i > 0 {
		line = line[i+2:] // a process's name may hold spaces
	}
	f := strings.Fields(line)
	for _, i := range columns {
		var one int64
		if _, err := fmt.Sscan(f[i], &one); err != nil {
			t.Fatal(err)
		}
		n += one
	}
	return n
}

// costNow is what these daemons and their children cost so far.
func costNow(t *testing.T, pids ...int) (c cost) {
	t.Helper()
	for _, pid := range pids {
		c.programs += ticks(t, fmt.Sprintf("/proc/%d/stat", pid), 11, 12, 13, 14)
	}
	c.machine = ticks(t, "/proc/stat", 1, 2, 3, 6, 7) // all but idle and waiting
	return c
}

// speed is one dataset, and the daemons that replicate it inside a machine and over
// TLS.
type speed struct {
	t           *testing.T
	local       *host // pushes to a sink of its own
	push, vault *host
}

func newSpeed(t *testing.T) *speed {
	t.Helper()
	run(t, "modprobe zfs; zpool create -f -m none speed /dev/vdb; zfs create -o mountpoint=/mnt/speed speed/src; for d in pipe local tls; do zfs create speed/$d; done")
	undo(t, "zpool destroy -f speed; wipefs -qa /dev/vdb")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err == nil {
		err = l.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	ca := t.TempDir()
	program := cairnProgram(t)
	run(t, fmt.Sprintf("%[1]s cert init --dir %[2]s; %[1]s cert issue me --dir %[2]s; %[1]s cert issue vault --dir %[2]s --host 127.0.0.1", program, ca))
	const push = `  type: push
  filesystems: {"speed/src": true}
  snapshotting: {type: manual}
  pruning: {keep_sender: [{type: regex, regex: ".*"}], keep_receiver: [{type: regex, regex: ".*"}]}
`
	const sink = "  type: sink\n  recv: {placeholder: {encryption: inherit}}\n"
	s := &speed{t: t}
	s.local = newHost(t, "the daemon", "- name: local\n"+push+"  connect: {type: local, listener_name: sink, client_identity: me}\n"+
		"- name: sink\n"+sink+"  serve: {type: local, listener_name: sink}\n  root_fs: speed/local\n")
	s.push = newHost(t, "the pushing daemon", "- name: tls\n"+push+fmt.Sprintf("  connect: {type: tls, address: \"%s\", ca: %[2]s/ca.pem, cert: %[2]s/me.pem, key: %[2]s/me.key, server_cn: vault}\n", l.Addr(), ca))
	s.vault = newHost(t, "the sink", "- name: sink\n"+sink+fmt.Sprintf("  serve: {type: tls, listen: \"%s\", ca: %[2]s/ca.pem, cert: %[2]s/vault.pem, key: %[2]s/vault.key, client_cns: [me]}\n  root_fs: speed/tls\n", l.Addr(), ca))
	for _, h := range []*host{s.local, s.vault, s.push} {
		h.start()
	}
	return s
}

// round makes a version and carries it in each way.
func (s *speed) round(n, mib int) map[string]cost {
	s.t.Helper()
	run(s.t, fmt.Sprintf("head -c %dM /dev/urandom >/mnt/speed/noise; zfs snapshot speed/src@%d; zpool sync speed", mib, n))
	costs := map[string]cost{}
	began := costNow(s.t)
	base := ""
	if n > 0 {
		base = fmt.Sprintf("-i @%d ", n-1)
	}
	pipe := exec.Command("bash", "-ec", fmt.Sprintf("set -o pipefail; zfs send %sspeed/src@%d | zfs receive -s speed/pipe/src; zpool sync speed", base, n))
	if out, err := pipe.CombinedOutput(); err != nil {
		s.t.Fatalf("%v: %s", err, out)
	}
	c := costNow(s.t).minus(began)
	c.programs = (pipe.ProcessState.UserTime() + pipe.ProcessState.SystemTime()).Milliseconds() / 10 // its children are in it
	costs["pipe"] = c
	for _, way := range []struct {
		job   string
		wakes *client.Client
		pids  []int
	}{{"local", s.local.c, []int{s.local.cmd.Process.Pid}}, {"tls", s.push.c, []int{s.push.cmd.Process.Pid, s.vault.cmd.Process.Pid}}} {
		began := costNow(s.t, way.pids...)
		r, err := way.wakes.Wake(s.t.Context(), way.job, client.Wake{Verbs: []string{"replicate"}})
		for err == nil && r.State == "running" {
			r, err = way.wakes.Run(s.t.Context(), way.job, r.ID, true)
		}
		if err != nil || r.State != "done" {
			s.t.Fatalf("%s: %+v, %v", way.job, r, err)
		}
		run(s.t, "zpool sync speed")
		costs[way.job] = costNow(s.t, way.pids...).minus(began)
	}
	return costs
}

// The daemon replicates a small and a large version, beside the pipe. The limit holds
// with CAIRN_SCALE=full, for machines that do not interpret: our sums and copies are
// instructions of ours, which an emulator makes dear, those of zfs are the kernel's.
func TestZFSThroughput(t *testing.T) {
	inside(t)
	s := newSpeed(t)
	s.round(0, speedSmall) // what is done once
	small := s.round(1, speedSmall)
	large := s.round(2, speedLarge)
	ratio := map[string]float64{}
	for _, way := range []string{"pipe", "local", "tls"} {
		more, pipe := large[way].minus(small[way]), large["pipe"].minus(small["pipe"])
		ratio[way] = float64(pipe.machine) / float64(more.machine)
		t.Logf("%-5s %d MiB: programs %.2f CPU s, machine %.2f CPU s; each of the further %d MiB: programs %.1f ms, machine %.1f ms (%.2f of the pipe's rate)", way, speedLarge,
			float64(large[way].programs)/100, float64(large[way].machine)/100, speedLarge-speedSmall,
			float64(more.programs)*10/(speedLarge-speedSmall), float64(more.machine)*10/(speedLarge-speedSmall), ratio[way])
	}
	if ratio["local"] < speedLeast && os.Getenv("CAIRN_SCALE") == "full" {
		t.Errorf("local replication has %.2f of the pipe's rate by CPU seconds, at least %.2f is wanted", ratio["local"], speedLeast)
	}
}

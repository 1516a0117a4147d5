package guest_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// The power cut of a ZFS step is a test of several boots on the same two disks. In
// each, TestZFSPowerStep makes good what the last cut left, compares both pools, and
// begins another step, whose trap says CUT and waits for the power to go.

// TestZFSPowerStep is told the moment of the next cut as "VERB MOMENT", nothing for
// the last boot, and in CAIRN_CUT_LAST that of the cut before, nothing for the first
// boot.
func TestZFSPowerStep(t *testing.T) {
	inside(t)
	run(t, "modprobe zfs")
	f := &fault{t: t, here: "here", there: "there", snare: newSnare(t)}
	const name = "here/a"
	last, next := os.Getenv("CAIRN_CUT_LAST"), os.Getenv("CAIRN_CUT")
	if last == "" {
		run(t, "zpool create -O snapdev=visible -m none here /dev/vdb && zpool create -O snapdev=visible -m none there /dev/vdc && zfs create -s -V 16M -b 64k "+name)
		f.powerChange(name, 1)
		f.good(name)
	} else {
		run(t, "zpool import -f -d /dev here && zpool import -f -d /dev there")
		f.powerCheck(name, last)
	}
	if next == "" || t.Failed() {
		return
	}
	verb, moment, _ := strings.Cut(next, " ")
	action := "echo CUT >/dev/hvc0; sleep 600"
	if flushed, is := strings.CutSuffix(moment, " synced"); is {
		moment, action = flushed, "zpool sync; "+action
	}
	f.powerChange(name, 9)
	f.snare.set(verb, moment, action)
	r, err := f.run(name)
	t.Errorf("the power did not go: %+v, %v", r, err)
}

// powerChange writes some MiB of noise and takes the next snapshot, durably.
func (f *fault) powerChange(name string, mib int) {
	f.t.Helper()
	run(f.t, fmt.Sprintf("n=$(zfs list -H -o name -t snapshot %[2]s 2>/dev/null | wc -l); dd if=/dev/urandom of=%[1]s bs=1M count=%[3]d conv=fsync,notrunc status=none; zfs snapshot %[2]s@$n; zpool sync", node(f.t, name), name, mib))
}

// powerCheck runs what the cut interrupted again, and wants both pools equal and
// nothing left over. A receive whose first part had reached the disk goes on there.
func (f *fault) powerCheck(name, cut string) {
	f.t.Helper()
	partial := strings.TrimSpace(run(f.t, "zfs get -H -o value receive_resume_token there/"+name)) != "-"
	r := f.good(name)
	resumed, moved := false, int64(0)
	for _, a := range r.Datasets[0].Attempts {
		for _, s := range a.Steps {
			resumed = resumed || s.Resumed
			moved += s.BytesMoved
		}
	}
	if resumed != partial || strings.HasSuffix(cut, "synced") && !resumed { // what was not synced may have reached the disk all the same
		f.t.Errorf("after a cut at %s: something was kept: %v; went on from it: %v", cut, partial, resumed)
	}
	f.t.Logf("after a cut at %s: %s, %d bytes moved, went on: %v", cut, states(r), moved, resumed)
	wantCursor(f.t, "a cut at "+cut, name, f.there+"/"+name, "j")
	f.powerChange(name, 1)
	f.good(name)
	wantSettled(f.t, "a step after a cut at "+cut, name, f.there+"/"+name, "j", "j")
}

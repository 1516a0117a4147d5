package volume_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"cairn"
	"cairn/internal/mech/blockio"
	"cairn/internal/system/volume"
	"cairn/internal/testkit/fakedisk"
)

// rules are those of the engine that no cut of power shows: each with the fault that
// breaks it and the story that notices. test/crash has the others.
var rules = []struct {
	rule  string
	fault volume.Fault
	story func(*testing.T, volume.Fault) error
}{
	{"segments are freed after their last reader", volume.FaultFreeEarly, readWhileGivenUp},
	{"a failed flush is told by the next opening", volume.FaultForgetFlush, flushFails},
	{"a sink gives nothing up for room", volume.FaultSinkGivesUp, sinkWithoutRoom},
	{"what is pinned is not given up for room", volume.FaultGiveUpPinned, pinnedWithoutRoom},
	{"the base of a receive that was cut stays", volume.FaultBaseUnpinned, destroyBase},
	{"an origin that others wrote to is unverified", volume.FaultBelieveOrigin, foreignWrite},
}

// Each rule holds, and its fault is noticed.
func TestPlantedFaults(t *testing.T) {
	for _, c := range rules {
		t.Run(strings.ReplaceAll(c.rule, " ", "-"), func(t *testing.T) {
			if err := c.story(t, 0); err != nil {
				t.Errorf("nothing is broken: %v", err)
			}
			err := c.story(t, c.fault)
			if err == nil {
				t.Fatal("broken, and nothing noticed it")
			}
			t.Logf("noticed: %v", err)
		})
	}
}

// readWhileGivenUp reads a snapshot, and while the disk reads for that the room of
// the snapshot is needed by a write.
func readWhileGivenUp(t *testing.T, faults volume.Fault) error {
	t.Helper()
	const size = 4 << 20
	disk, v := onDisk(t, size, false, volume.Options{KeepAtLeast: 1, SegmentBytes: 1 << 20, Faults: faults})
	write(t, v, 0, fill(1, size))
	a := snap(t, v, "@a")
	write(t, v, 0, fill(2, size))
	snap(t, v, "@b")
	r, err := v.OpenVersion(ctx, a.VersionID)
	if err != nil {
		t.Fatal(err)
	}
	fillUp(t, disk)
	committed, written := make(chan struct{}), make(chan error, 1)
	disk.OnCall(func(c fakedisk.Call) error {
		if c.Op != fakedisk.OpRead || !strings.HasPrefix(c.Name, "seg-") {
			return nil
		}
		disk.OnCall(func(c fakedisk.Call) error {
			if c.Op == fakedisk.OpRemove && strings.HasPrefix(c.Name, "reserve") || c.Op == fakedisk.OpSync && c.Name == "catalog" {
				disk.OnCall(nil)
				close(committed)
			}
			return nil
		})
		go func() { written <- v.Device().WriteAt(ctx, fill(3, 64<<10), 0, cairn.FUA) }()
		if <-committed; faults != 0 {
			written <- <-written // the segments are gone by now
		}
		return nil
	})
	p := make([]byte, 64<<10)
	if err := r.ReadAt(ctx, p, 0); err != nil {
		return err
	}
	if !bytes.Equal(p, fill(1, len(p))) {
		return errors.New("the snapshot reads as something else")
	}
	if err := <-written; err != nil {
		t.Errorf("the write that needed room: %v", err)
	}
	return nil
}

// flushFails lets a flush of the head fail, and opens the volume anew.
func flushFails(t *testing.T, faults volume.Fault) error {
	t.Helper()
	disk, v := onDisk(t, 1<<20, false, volume.Options{Faults: faults})
	write(t, v, 0, fill(1, 4096))
	disk.OnCall(func(c fakedisk.Call) error {
		if c.Op == fakedisk.OpSync && c.Name == "head" {
			return syscall.EIO
		}
		return nil
	})
	if err := v.Device().Flush(ctx); err == nil {
		t.Error("a flush that failed claims success")
	}
	disk.OnCall(nil)
	l := open(t, disk, volume.Options{}).Listing("db", cairn.Want{}) // without Close: the process was killed
	if l.Dataset.State != cairn.StateUnverified || !strings.Contains(l.Dataset.Why, "failed flush") {
		return fmt.Errorf("the volume is %v: %s", l.Dataset.State, l.Dataset.Why)
	}
	return nil
}

// sinkWithoutRoom receives onto two snapshots of which one has to be kept, and is
// opened after a kill when the reserve is gone.
func sinkWithoutRoom(t *testing.T, faults volume.Fault) error {
	t.Helper()
	const size = 4 << 20
	_, from := onDisk(t, size, false, volume.Options{})
	disk, to := onDisk(t, size, true, volume.Options{KeepAtLeast: 1, Faults: faults})
	last := cairn.VersionID{}
	for i, name := range []string{"@a", "@b", "@c"} {
		write(t, from, 0, fill(byte(i+1), size))
		next := snap(t, from, name).VersionID
		if name == "@c" {
			fillUp(t, disk)
			_, err := to.Receive(ctx, send(t, from, last, next, nil), cairn.ReceiveOptions{})
			if err == nil {
				return errors.New("there was room for a third version")
			}
			break
		}
		receive(t, to, send(t, from, last, next, nil))
		last = next
	}
	spoilRoom(t, disk)
	_, total, _ := disk.Space()
	disk.SetCapacity(total + 256<<10)
	to = open(t, disk, volume.Options{KeepAtLeast: 1, Faults: faults})
	for _, c := range to.Listing("db", cairn.Want{Versions: true}).Versions {
		if !c.IsSnapshot() {
			return fmt.Errorf("%s was given up", c.Name)
		}
	}
	return nil
}

// pinnedWithoutRoom writes to a full disk when the oldest snapshot is pinned.
func pinnedWithoutRoom(t *testing.T, faults volume.Fault) error {
	t.Helper()
	const size = 4 << 20
	disk, v := onDisk(t, size, false, volume.Options{KeepAtLeast: 1, Faults: faults})
	write(t, v, 0, fill(1, size))
	a := snap(t, v, "@a")
	if err := v.SetLease(ctx, cairn.LeaseSet{Owner: "somebody", Purpose: cairn.PurposePin, Versions: []cairn.VersionID{a.VersionID}}); err != nil {
		t.Fatal(err)
	}
	write(t, v, 0, fill(2, size))
	snap(t, v, "@b")
	fillUp(t, disk)
	_ = v.Device().WriteAt(ctx, fill(3, size), 0, cairn.FUA) // for want of room
	if _, err := v.OpenVersion(ctx, a.VersionID); err != nil {
		return err
	}
	return nil
}

// destroyBase asks for the base of a receive that was cut.
func destroyBase(t *testing.T, faults volume.Fault) error {
	t.Helper()
	const size = 1 << 20
	_, from := onDisk(t, size, false, volume.Options{})
	_, to := onDisk(t, size, true, volume.Options{Faults: faults})
	write(t, from, 0, noise(1, size))
	a := snap(t, from, "@a")
	receive(t, to, send(t, from, cairn.VersionID{}, a.VersionID, nil))
	write(t, from, 0, noise(2, size))
	s := send(t, from, a.VersionID, snap(t, from, "@b").VersionID, nil)
	s.Body = &cutAt{s.Body, size / 2}
	if _, err := to.Receive(ctx, s, cairn.ReceiveOptions{}); err == nil {
		t.Fatal("a cut stream was received")
	}
	errs, err := to.Destroy(ctx, []cairn.VersionID{a.VersionID})
	if err != nil {
		t.Fatal(err)
	}
	if errs[0] == nil {
		return errors.New("it is gone")
	}
	return nil
}

// foreignWrite changes an adopted file while its volume is closed.
func foreignWrite(t *testing.T, faults volume.Fault) error {
	t.Helper()
	origin := filepath.Join(t.TempDir(), "origin")
	if err := os.WriteFile(origin, fill(1, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	disk := fakedisk.New()
	if err := volume.Create(ctx, disk, volume.CreateOptions{Origin: origin}); err != nil {
		t.Fatal(err)
	}
	v := open(t, disk, volume.Options{})
	snap(t, v, "@a")
	closeVolume(t, v)
	f, err := blockio.OpenOS(origin)
	if err == nil {
		_, err = f.WriteAt(fill(9, 4096), 0)
	}
	if err == nil {
		err = errors.Join(f.Truncate(1<<20+4096), f.Truncate(1<<20), f.Sync(), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	v = open(t, disk, volume.Options{Faults: faults})
	defer closeVolume(t, v)
	if _, err := v.Snapshot(ctx, "@b"); !errors.Is(err, cairn.KindUnverified) {
		return errors.Join(errors.New("a capture after a foreign write is not refused"), err)
	}
	return nil
}

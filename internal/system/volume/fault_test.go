package volume_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"cairn"
	"cairn/internal/system/volume"
	"cairn/internal/testkit/fakedisk"
)

const faultSize = 256 << 10

// trial runs a fixed story on a disk on which one call fails, and remembers what
// was promised.
type trial struct {
	disk     *fakedisk.Disk
	v        *volume.Volume
	head     []byte
	unsure   map[int64]bool    // blocks that a failed write may have changed
	promised map[string][]byte // content of the versions whose capture returned without error
	possible map[string][]byte // of those whose capture failed: they may be there after a reopen
	gone     map[string]bool   // whose destruction was asked for
}

func (x *trial) write(off int64, b byte, n int) {
	d := x.v.Device()
	defer func() { _ = d.Close() }()
	p := fill(b, n)
	var err error
	if b == 0 {
		err = d.WriteZeroes(ctx, off, int64(n), cairn.MayUnmap)
	} else {
		err = d.WriteAt(ctx, p, off, 0)
	}
	if err != nil {
		for blk := off / 4096; blk*4096 < off+int64(n); blk++ {
			x.unsure[blk] = true
		}
		return
	}
	copy(x.head[off:], p)
	for blk := (off + 4095) / 4096; (blk+1)*4096 <= off+int64(n); blk++ {
		delete(x.unsure, blk)
	}
}

func (x *trial) capture(name string) {
	if len(x.unsure) > 0 {
		return // the model cannot say what it would hold
	}
	if _, err := x.v.Snapshot(ctx, name); err != nil {
		x.possible[name] = bytes.Clone(x.head)
		return
	}
	x.promised[name] = bytes.Clone(x.head)
}

func (x *trial) forget(name string) { x.gone[name] = true }

func (x *trial) id(name string) cairn.VersionID {
	for _, v := range x.v.Listing("db", cairn.Want{Versions: true}).Versions {
		if v.Name == name {
			return v.VersionID
		}
	}
	return cairn.VersionID{Name: name, GUID: 1}
}

func (x *trial) story() {
	x.write(0, 1, 64<<10)
	x.capture("@a")
	x.write(8<<10, 2, 32<<10)
	x.write(200<<10, 3, 512)
	x.capture("@b")
	x.write(0, 0, 16<<10)
	x.write(100<<10, 4, 4096)
	x.capture("@c")
	x.write(12<<10, 5, 8192)
	x.forget("@b")
	_, _ = x.v.Destroy(ctx, []cairn.VersionID{x.id("@b")})
	x.write(60<<10, 6, 8192)
	x.forget("@c")
	_, _ = x.v.Bookmark(ctx, x.id("@c"), "#c", true)
	x.write(120<<10, 7, 4096)
	x.capture("@d")
	x.write(120<<10, 8, 4096)
	_ = x.v.SetLease(ctx, cairn.LeaseSet{Owner: "j", Purpose: cairn.PurposeStep, Versions: []cairn.VersionID{x.id("@d")}})
}

func newTrial(t *testing.T) *trial {
	t.Helper()
	x := &trial{disk: fakedisk.New(), head: make([]byte, faultSize), unsure: map[int64]bool{}, promised: map[string][]byte{},
		possible: map[string][]byte{}, gone: map[string]bool{}}
	if err := volume.Create(ctx, x.disk, volume.CreateOptions{Size: faultSize}); err != nil {
		t.Fatal(err)
	}
	x.v = x.open(t)
	return x
}

func (x *trial) open(t *testing.T) *volume.Volume {
	t.Helper()
	v, err := volume.Open(ctx, x.disk, volume.Options{Name: "db", SegmentBytes: 64 << 10, ActiveBytes: 1})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// verify opens the volume anew and compares it with what was promised.
func (x *trial) verify(t *testing.T) error {
	t.Helper()
	v := x.open(t)
	defer closeVolume(t, v)
	head := readAll(t, v, cairn.VersionID{})
	for blk := range int64(len(head) / 4096) {
		if !x.unsure[blk] && !bytes.Equal(head[blk*4096:(blk+1)*4096], x.head[blk*4096:(blk+1)*4096]) {
			return fmt.Errorf("block %d of the head", blk)
		}
	}
	found := map[string]bool{}
	for _, ver := range v.Listing("db", cairn.Want{Versions: true}).Versions {
		found[ver.Name] = true
		want, ok := x.promised[ver.Name]
		if !ok {
			want = x.possible[ver.Name]
		}
		if ver.IsSnapshot() && !bytes.Equal(readAll(t, v, ver.VersionID), want) {
			return fmt.Errorf("snapshot %s differs", ver.Name)
		}
		since := changed(t, v, ver.VersionID, cairn.VersionID{})
		for blk := range differ(x.content(ver.Name), head) {
			if !since[blk] {
				return fmt.Errorf("changed since %s misses block %d", ver.Name, blk)
			}
		}
	}
	for name := range x.promised {
		if !found[name] && !x.gone[name] && !found["#"+name[1:]] { // for room, a snapshot may become a bookmark
			return fmt.Errorf("snapshot %s is gone", name)
		}
	}
	return nil
}

func (x *trial) content(name string) []byte {
	snap := "@" + name[1:]
	if p, ok := x.promised[snap]; ok {
		return p
	}
	return x.possible[snap]
}

// Every call of the story fails, alone or with those after it; what was
// promised holds after the volume was opened anew, as if the process had died.
func TestEveryFailingCallKeepsThePromises(t *testing.T) {
	x := newTrial(t)
	n := 0
	x.disk.OnCall(func(c fakedisk.Call) error { n = c.N; return nil })
	x.story()
	x.disk.OnCall(nil)
	if err := x.verify(t); err != nil || len(x.promised) != 4 {
		t.Fatalf("without a failure: %v, %d captures", err, len(x.promised))
	}
	if n < 100 {
		t.Fatalf("the story makes only %d calls", n)
	}
	for _, c := range []struct {
		cause error
		last  int // calls after the first failing one that fail too
	}{{syscall.EIO, 0}, {syscall.ENOSPC, 0}, {syscall.EIO, 3}, {syscall.EIO, n}} {
		for at := range n + 1 {
			x := newTrial(t)
			x.disk.OnCall(func(call fakedisk.Call) error {
				lost := c.last > 0 && call.Op == fakedisk.OpRead // would lose old blocks, rightly
				if call.N >= at && call.N <= at+c.last && !lost {
					return c.cause
				}
				return nil
			})
			x.story()
			x.disk.OnCall(nil)
			if err := x.verify(t); err != nil {
				t.Fatalf("calls %d to %d fail with %v: %v", at, at+c.last, c.cause, err)
			}
		}
	}
}

// A snapshot reader that has just decided to read the head must not hand out what
// was written there meanwhile.
func TestReaderLooksAgainAfterReadingTheHead(t *testing.T) {
	for _, fault := range []volume.Fault{0, volume.FaultNoSecondLook} {
		disk := fakedisk.New()
		if err := volume.Create(ctx, disk, volume.CreateOptions{Size: 1 << 20}); err != nil {
			t.Fatal(err)
		}
		v := open(t, disk, volume.Options{Faults: fault})
		write(t, v, 0, fill(1, 4096))
		a := snap(t, v, "@a")
		busy := false
		disk.OnCall(func(c fakedisk.Call) error {
			if c.Op == fakedisk.OpRead && c.Name == "head" && !busy {
				busy = true
				write(t, v, 0, fill(2, 4096))
			}
			return nil
		})
		got := readAll(t, v, a.VersionID)[0]
		disk.OnCall(nil)
		if right := got == 1; right != (fault == 0) {
			t.Errorf("fault %d: read %d", fault, got)
		}
		closeVolume(t, v)
	}
}

// An old block that cannot be read is lost to the snapshot only.
func TestUnreadableOldBlockIsLostToTheSnapshot(t *testing.T) {
	disk := fakedisk.New()
	if err := volume.Create(ctx, disk, volume.CreateOptions{Size: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	v := open(t, disk, volume.Options{})
	defer func() { closeVolume(t, v) }()
	write(t, v, 0, fill(1, 16384))
	a := snap(t, v, "@a")
	disk.OnCall(func(c fakedisk.Call) error {
		if c.Op == fakedisk.OpRead && c.Name == "head" && c.Off <= 4096 && c.Off+c.Len > 4096 {
			return syscall.EIO
		}
		return nil
	})
	write(t, v, 0, fill(2, 16384))
	disk.OnCall(nil)
	r, err := v.OpenVersion(ctx, a.VersionID)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	p := make([]byte, 4096)
	for blk := range int64(4) {
		err := r.ReadAt(ctx, p, blk*4096)
		if errors.Is(err, cairn.KindDamaged) != (blk == 1) || blk != 1 && (err != nil || p[0] != 1) {
			t.Errorf("block %d: %v, %d", blk, err, p[0])
		}
	}
	if readAll(t, v, cairn.VersionID{})[4096] != 2 {
		t.Error("the write did not proceed")
	}
}

func TestFailedFlushIsSticky(t *testing.T) {
	disk := fakedisk.New()
	if err := volume.Create(ctx, disk, volume.CreateOptions{Size: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	v := open(t, disk, volume.Options{})
	d := v.Device()
	if err := d.WriteAt(ctx, fill(1, 4096), 0, 0); err != nil {
		t.Fatal(err)
	}
	disk.OnCall(func(c fakedisk.Call) error {
		if c.Op == fakedisk.OpSync && c.Name == "head" {
			return syscall.EIO
		}
		return nil
	})
	if err := d.Flush(ctx); !errors.Is(err, cairn.KindIO) {
		t.Fatalf("flush: %v", err)
	}
	disk.OnCall(nil)
	if err := d.Flush(ctx); !errors.Is(err, cairn.KindIO) {
		t.Errorf("flush after a failed one: %v", err)
	}
	if _, err := v.Snapshot(ctx, "@a"); !errors.Is(err, cairn.KindIO) {
		t.Errorf("capture after a failed flush: %v", err)
	}
	if err := v.Close(); err == nil {
		t.Error("close says that all is well")
	}
	v = open(t, disk, volume.Options{})
	if err := v.Device().Flush(ctx); err != nil {
		t.Errorf("flush of the volume opened anew: %v", err)
	}
	if l := v.Listing("db", cairn.Want{}).Dataset; l.State != cairn.StateUnverified || !strings.Contains(l.Why, "failed flush") {
		t.Errorf("opened anew the volume is %v: %s", l.State, l.Why)
	}
	closeVolume(t, v)
	v = open(t, disk, volume.Options{})
	if l := v.Listing("db", cairn.Want{}).Dataset; l.State != cairn.StateUnverified {
		t.Errorf("after a clean stop the volume is %v", l.State)
	}
	if err := v.MarkDirty(ctx); err != nil {
		t.Fatal(err)
	}
	if l := v.Listing("db", cairn.Want{}).Dataset; l.State != cairn.StateOK {
		t.Errorf("marked dirty the volume is %v: %s", l.State, l.Why)
	}
}

// A full disk: the oldest snapshots give way, two stay, no write fails before.
func TestNoWriteFailsWhileASnapshotMayBeGivenUp(t *testing.T) {
	disk := fakedisk.New()
	if err := volume.Create(ctx, disk, volume.CreateOptions{Size: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	v := open(t, disk, volume.Options{SegmentBytes: 64 << 10})
	defer func() { closeVolume(t, v) }()
	disk.SetCapacity(5 << 20)
	first := cairn.Version{}
	var reader *volume.Reader
	for round := range 8 {
		write(t, v, 0, fill(byte(round+1), 1<<20))
		s := snap(t, v, fmt.Sprintf("@%d", round))
		if round == 0 {
			first = s
			var err error
			if reader, err = v.OpenVersion(ctx, s.VersionID); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := reader.ReadAt(ctx, make([]byte, 4096), 0); !errors.Is(err, cairn.KindDegraded) {
		t.Errorf("reading a snapshot that was given up: %v", err)
	}
	if err := reader.Close(); err != nil {
		t.Fatal(err)
	}
	var snaps, marks int
	for _, ver := range v.Listing("db", cairn.Want{Versions: true}).Versions {
		if ver.IsSnapshot() {
			snaps++
		} else {
			marks++
		}
	}
	if snaps < 2 || marks == 0 || snaps+marks != 8 {
		t.Errorf("%d snapshots, %d bookmarks", snaps, marks)
	}
	if got := changed(t, v, cairn.VersionID{Name: "#0", GUID: first.GUID}, cairn.VersionID{}); len(got) != 256 {
		t.Errorf("changed since the first: %d blocks", len(got))
	}
	disk.SetCapacity(1)
	d := v.Device()
	if err := d.WriteAt(ctx, fill(99, 1<<20), 0, 0); !errors.Is(err, cairn.KindSpace) {
		t.Errorf("a write without room: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	disk.SetCapacity(1 << 30)
	kept := 0
	for _, ver := range v.Listing("db", cairn.Want{Versions: true}).Versions {
		if ver.IsSnapshot() {
			kept++
			readAll(t, v, ver.VersionID)
		}
	}
	if kept != 2 {
		t.Errorf("%d snapshots are left, want 2", kept)
	}
}

// With only a bookmark every megabyte would cost a barrier; a sequential writer is
// marked ahead of, and a crash adds no more than that to the change set.
func TestSequentialWritesAreMarkedAhead(t *testing.T) {
	disk := fakedisk.New()
	if err := volume.Create(ctx, disk, volume.CreateOptions{Size: 256 << 20}); err != nil {
		t.Fatal(err)
	}
	v := open(t, disk, volume.Options{})
	a := snap(t, v, "@a")
	b, err := v.Bookmark(ctx, a.VersionID, "#a", true)
	if err != nil {
		t.Fatal(err)
	}
	syncs := 0
	disk.OnCall(func(c fakedisk.Call) error {
		if c.Op == fakedisk.OpSync && strings.HasPrefix(c.Name, "marks-") {
			syncs++
		}
		return nil
	})
	for off := int64(0); off < 64<<20; off += 256 << 10 {
		write(t, v, off, fill(1, 256<<10))
	}
	disk.OnCall(nil)
	if syncs > 8 {
		t.Errorf("%d barriers for 64 MiB", syncs)
	}
	v = open(t, disk, volume.Options{}) // as after a kill
	if n := len(changed(t, v, b.VersionID, cairn.VersionID{})); n < 64<<8 || n > (64+17)<<8 {
		t.Errorf("%d blocks count as changed", n)
	}
	closeVolume(t, v)
}

// A volume that is told to block writes lets them wait for room.
func TestWritesWaitForRoomWhenToldTo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := fakedisk.New()
		if err := volume.Create(ctx, disk, volume.CreateOptions{Size: 1 << 20}); err != nil {
			t.Fatal(err)
		}
		v := open(t, disk, volume.Options{OnFull: volume.BlockWrites})
		write(t, v, 0, fill(1, 1<<20))
		a := snap(t, v, "@a")
		disk.SetCapacity(1)
		go func() {
			time.Sleep(time.Minute)
			disk.SetCapacity(1 << 30)
		}()
		began := time.Now()
		write(t, v, 0, fill(2, 4096))
		if took := time.Since(began); took < time.Minute || took > 2*time.Minute {
			t.Errorf("the write took %v", took)
		}
		if readAll(t, v, a.VersionID)[0] != 1 {
			t.Error("the snapshot changed")
		}
		closeVolume(t, v)
	})
}

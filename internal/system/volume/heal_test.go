package volume_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"cairn"
	"cairn/internal/system/volume"
	"cairn/internal/testkit/fakedisk"
)

// patches are all blocks of a content.
func patches(content []byte) (out []cairn.Patch) {
	for off := 0; off < len(content); off += 4096 {
		out = append(out, cairn.Patch{Offset: int64(off), Data: content[off:min(off+4096, len(content))]})
	}
	return out
}

// healAll offers every snapshot all that it held, and counts the outcomes.
func (x *rich) healAll(v *volume.Volume) (map[cairn.Mending]int, error) {
	got := map[cairn.Mending]int{}
	for _, c := range v.Listing("db", cairn.Want{Versions: true}).Versions {
		content, ours := x.held[c.Name]
		if !ours {
			continue
		}
		list, err := v.Heal(ctx, c.VersionID, patches(content), cairn.HealOptions{Whole: true})
		if err != nil {
			return got, fmt.Errorf("%s: %w", c.Name, err)
		}
		for _, m := range list {
			got[m]++
		}
	}
	return got, nil
}

// sound fails unless every snapshot reads as it did and nothing is damaged.
func (x *rich) sound(v *volume.Volume) error {
	l := v.Listing("db", cairn.Want{Versions: true})
	if l.Dataset.State != cairn.StateOK {
		return fmt.Errorf("the volume is %v: %s", l.Dataset.State, l.Dataset.Why)
	}
	for _, c := range l.Versions {
		if _, ours := x.held[c.Name]; !ours {
			continue
		}
		if bad, err := x.readSnapshot(v, c.VersionID); err != nil || bad > 0 {
			return fmt.Errorf("%s: %d blocks unreadable, %w", c.Name, bad, err)
		}
	}
	return nil
}

// spoiled is a store of which a preserved block, a header with its index, and an
// index are bad.
func spoiled(t *testing.T, x *rich) *fakedisk.Disk {
	t.Helper()
	disk := x.copy()
	var done int
	for _, way := range x.ways(t) {
		if way.how != "noise" || !strings.HasPrefix(way.file, "seg-") {
			continue
		}
		switch {
		case way.block == 0 && done%2 == 0:
			x.rot(t, disk, way)
			x.rot(t, disk, rotting{"idx-" + way.file[4:], 0, "noise"})
		case way.block == 2:
			x.rot(t, disk, way)
		}
		done++
	}
	return disk
}

// What rotted is healed by what the snapshots held, for good; a good block is
// never replaced.
func TestHealPutsBackWhatRotted(t *testing.T) {
	x := buildRich(t, 4, true)
	disk := spoiled(t, x)
	v := open(t, disk, x.o)
	bad := 0
	for _, c := range v.Listing("db", cairn.Want{Versions: true}).Versions {
		if _, ours := x.held[c.Name]; !ours {
			continue
		}
		n, err := x.readSnapshot(v, c.VersionID)
		if err != nil {
			t.Fatal(err)
		}
		bad += n
		wrong := bytes.Clone(x.held[c.Name])
		for i := range wrong {
			wrong[i] ^= 0x55
		}
		list, err := v.Heal(ctx, c.VersionID, patches(wrong), cairn.HealOptions{DryRun: true})
		if err != nil {
			t.Fatal(err)
		}
		if slices.Contains(list, cairn.MendedBySum) {
			t.Errorf("%s: a checksum of it vouches for wrong content", c.Name)
		}
	}
	if bad < 10 {
		t.Fatalf("only %d blocks are bad", bad)
	}
	got, err := x.healAll(v)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d blocks could not be read; outcomes %v", bad, got)
	if got[cairn.MendedBySum] == 0 || got[cairn.MendedByGUID] == 0 || got[cairn.MendRefused] > 0 {
		t.Errorf("outcomes %v", got)
	}
	if err := x.sound(v); err != nil {
		t.Error(err)
	}
	closeVolume(t, v)
	v = open(t, disk, x.o)
	if err := x.sound(v); err != nil {
		t.Errorf("after opening again: %v", err)
	}
	if _, err := x.judge(disk); err != nil {
		t.Errorf("after opening once more: %v", err)
	}
}

// Content that a checksum speaks against is refused; without that rule a snapshot
// would read as something else.
func TestHealRefusesWrongContent(t *testing.T) {
	for _, faults := range []volume.Fault{0, volume.FaultHealUnchecked} {
		x := buildRich(t, 5, true)
		disk := x.copy()
		hit := false
		for _, way := range x.ways(t) {
			if way.how == "noise" && strings.HasPrefix(way.file, "seg-") && way.block == 2 {
				hit = x.rot(t, disk, way) || hit
			}
		}
		x.o.Faults = faults
		v := open(t, disk, x.o)
		wrong, refused := false, 0
		for _, c := range v.Listing("db", cairn.Want{Versions: true}).Versions {
			content := bytes.Clone(x.held[c.Name])
			for i := range content {
				content[i] ^= 1
			}
			if len(content) == 0 {
				continue
			}
			list, err := v.Heal(ctx, c.VersionID, patches(content), cairn.HealOptions{})
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range list {
				if m == cairn.MendRefused {
					refused++
				}
			}
			_, err = x.readSnapshot(v, c.VersionID)
			wrong = wrong || err != nil
		}
		if !hit || wrong != (faults != 0) || (refused > 0) != (faults == 0) {
			t.Errorf("faults %v: spoiled %v, wrong content read %v, %d refused", faults, hit, wrong, refused)
		}
	}
}

// A block of the head that the disk cannot read is written anew, durably, unless
// it was written since the snapshot; one that can be read is left alone.
func TestHealWritesUnreadableBlocksOfTheHead(t *testing.T) {
	for _, faults := range []volume.Fault{0, volume.FaultSkipHeadFlush} {
		disk := fakedisk.New()
		if err := volume.Create(ctx, disk, volume.CreateOptions{Size: 1 << 20}); err != nil {
			t.Fatal(err)
		}
		v := open(t, disk, volume.Options{Faults: faults})
		write(t, v, 0, fill(7, 4096))
		write(t, v, 4096, fill(6, 4096)) // what will have rotted
		write(t, v, 8192, fill(7, 4096))
		s := snap(t, v, "@a")
		write(t, v, 8192, fill(8, 4096))
		unread := unreadable(disk, 4096, 8192)
		list, err := v.Heal(ctx, s.VersionID, []cairn.Patch{{Offset: 0, Data: fill(9, 4096)}, {Offset: 4096, Data: fill(7, 4096)}, {Offset: 8192, Data: fill(7, 4096)}}, cairn.HealOptions{})
		if err != nil || !slices.Equal(list, []cairn.Mending{cairn.MendDoubtful, cairn.MendedByGUID, cairn.MendNotBad}) {
			t.Fatalf("%v %v", list, err)
		}
		if !unread[8192] || unread[4096] {
			t.Errorf("blocks that stay unreadable: %v", unread)
		}
		disk.OnCall(nil)
		r := disk.Replay()
		r.Seek(disk.Len())
		got := readAll(t, open(t, r.Crash(fakedisk.Nothing), volume.Options{}), s.VersionID)
		if right := bytes.Equal(got[:12288], fill(7, 12288)); right != (faults == 0) {
			t.Errorf("faults %#x: after a cut the snapshot reads right: %v", faults, right)
		}
		for _, p := range []cairn.Patch{{Offset: 1, Data: fill(1, 4096)}, {Offset: 0, Data: fill(1, 512)}, {Offset: 1 << 20, Data: fill(1, 4096)}} {
			if _, err := v.Heal(ctx, s.VersionID, []cairn.Patch{p}, cairn.HealOptions{}); !errors.Is(err, cairn.KindInvalid) {
				t.Errorf("a patch at %d: %v", p.Offset, err)
			}
		}
	}
}

// unreadable makes blocks of the head unreadable until they are written; what it
// returns are those that still are.
func unreadable(disk *fakedisk.Disk, offs ...int64) map[int64]bool {
	bad := map[int64]bool{}
	for _, off := range offs {
		bad[off] = true
	}
	disk.OnCall(func(c fakedisk.Call) error {
		for off := range bad {
			if c.Name != "head" || c.Off >= off+4096 || off >= c.Off+c.Len {
				continue
			}
			switch c.Op {
			case fakedisk.OpWrite:
				delete(bad, off)
			case fakedisk.OpRead:
				return syscall.EIO
			}
		}
		return nil
	})
	return bad
}

// An origin that others wrote to is compared with a replica of its newest version:
// the snapshots get back what they had, what others wrote stays in the head, and
// just that becomes the change set.
func TestForeignWritesAreReconciled(t *testing.T) {
	dir := t.TempDir()
	was := fill(1, 1<<20)
	origin := originFile(t, was)
	p := openPlace(t, volume.PlaceOptions{Dir: dir})
	if err := p.Adopt(ctx, "db", origin, "", ""); err != nil {
		t.Fatal(err)
	}
	take := func(name string) cairn.Version {
		v, err := p.Open(ctx, "db")
		if err != nil {
			t.Fatal(err)
		}
		return snap(t, v, name)
	}
	a := take("@a")
	v, _ := p.Open(ctx, "db")
	write(t, v, 40960, fill(2, 4096))
	b := take("@b")
	copied := bytes.Clone(was)
	copy(copied[40960:], fill(2, 4096))
	p = reopen(t, p, dir)
	f, err := os.OpenFile(origin, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	foreign := map[int64]bool{0: true, 8192: true, 40960: true}
	for off := range foreign {
		if _, err := f.WriteAt(fill(9, 4096), off); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if v, err = p.Open(ctx, "db"); err != nil {
		t.Fatal(err)
	}
	list, err := v.Heal(ctx, b.VersionID, patches(copied), cairn.HealOptions{Whole: true})
	if err != nil {
		t.Fatal(err)
	}
	for i, m := range list {
		if (m == cairn.MendedByGUID) != foreign[int64(i)*4096] {
			t.Errorf("block %d: outcome %d", i, m)
		}
	}
	p = reopen(t, p, dir)
	if v, err = p.Open(ctx, "db"); err != nil {
		t.Fatal(err)
	}
	if l := v.Listing("db", cairn.Want{}).Dataset; l.State != cairn.StateOK {
		t.Errorf("the volume is %v: %s", l.State, l.Why)
	}
	if !bytes.Equal(readAll(t, v, a.VersionID), was) || !bytes.Equal(readAll(t, v, b.VersionID), copied) {
		t.Error("the snapshots read as something else")
	}
	changed := map[int64]bool{}
	for e, err := range v.Changed(ctx, b.VersionID, cairn.VersionID{}) {
		if err != nil {
			t.Fatal(err)
		}
		for off := e.Offset; off < e.End(); off += 4096 {
			changed[off] = true
		}
	}
	if !maps.Equal(changed, foreign) {
		t.Errorf("changed since @b: %v, others wrote %v", changed, foreign)
	}
	head := make([]byte, 12288)
	if err := v.Device().ReadAt(ctx, head, 0); err != nil || head[0] != 9 || head[4096] != 1 || head[8192] != 9 {
		t.Errorf("what others wrote is gone: %v", err)
	}
	take("@c")
}

// A healing that returned is durable; with a barrier of it left out it is not.
func TestBarriersOfHealingAreNeeded(t *testing.T) {
	for _, faults := range []volume.Fault{0, volume.FaultSkipSegmentSync, volume.FaultSkipFolderSync} {
		x := buildRich(t, 4, true)
		disk := spoiled(t, x)
		x.o.Faults = faults
		v := open(t, disk, x.o)
		if _, err := x.healAll(v); err != nil {
			t.Fatal(err)
		}
		r := disk.Replay()
		r.Seek(disk.Len())
		x.o.Faults = 0
		err := x.sound(open(t, r.Crash(fakedisk.Nothing), x.o))
		if (err == nil) != (faults == 0) {
			t.Errorf("faults %#x: after a cut: %v", faults, err)
		}
	}
}

// The power fails at every step of a healing: what is left reads right or not at
// all, and can be healed again.
func TestPowerCutsWhileHealing(t *testing.T) {
	x := buildRich(t, 4, true)
	disk := spoiled(t, x)
	v := open(t, disk, x.o)
	start := disk.Len()
	if got, err := x.healAll(v); err != nil || got[cairn.MendedBySum] == 0 {
		t.Fatalf("%v %v", got, err)
	}
	r := disk.Replay()
	r.Seek(start)
	cuts := 0
	for ; ; cuts++ {
		outcomes := []fakedisk.Subset{fakedisk.Nothing, fakedisk.Everything, fakedisk.Subset(2 + r.Pos()%5)}
		if os.Getenv("CAIRN_SCALE") != "full" {
			if outcomes = outcomes[cuts%3 : cuts%3+1]; cuts%4 != 0 {
				outcomes = nil
			}
		}
		for _, what := range outcomes {
			after := r.Crash(what)
			v, err := volume.Open(ctx, after, x.o)
			if err != nil {
				t.Fatalf("cut %d, outcome %d: %v", r.Pos(), what, err)
			}
			for _, c := range v.Listing("db", cairn.Want{Versions: true}).Versions {
				if _, ours := x.held[c.Name]; ours {
					if _, err := x.readSnapshot(v, c.VersionID); err != nil {
						t.Fatalf("cut %d, outcome %d: %v", r.Pos(), what, err)
					}
				}
			}
			if _, err := x.healAll(v); err != nil {
				t.Fatalf("cut %d, outcome %d: %v", r.Pos(), what, err)
			}
			if err := x.sound(v); err != nil {
				t.Fatalf("cut %d, outcome %d: healed again: %v", r.Pos(), what, err)
			}
		}
		if !r.Next() {
			break
		}
	}
	t.Logf("%d cuts", cuts)
	if cuts < 20 {
		t.Error("too few")
	}
}

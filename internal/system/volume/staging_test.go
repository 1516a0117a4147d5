package volume_test

import (
	"bytes"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"cairn"
	"cairn/internal/system/volume"
	"cairn/internal/testkit/fakedisk"
)

// staged is a volume of 1 MiB with a snapshot of ones, and 16 first writes to it that are
// acknowledged and not flushed.
func staged(t *testing.T, disk *fakedisk.Disk) (*volume.Volume, cairn.Version) {
	t.Helper()
	if err := volume.Create(ctx, disk, volume.CreateOptions{Size: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	v := open(t, disk, volume.Options{Boot: "this one"})
	write(t, v, 0, fill(1, 1<<20))
	s := snap(t, v, "@s")
	scatter(t, v, 2)
	return v, s
}

func scatter(t *testing.T, v *volume.Volume, b byte) {
	t.Helper()
	for i := range int64(16) {
		write(t, v, i*5*4096, fill(b, 4096))
	}
}

// scattered is what the head holds then.
func scattered(b byte) []byte {
	p := fill(1, 1<<20)
	for i := range 16 {
		copy(p[i*5*4096:], fill(b, 4096))
	}
	return p
}

func readHead(t *testing.T, v *volume.Volume) []byte {
	t.Helper()
	d := v.Device()
	defer func() { _ = d.Close() }()
	p := make([]byte, d.Size())
	if err := d.ReadAt(ctx, p, 0); err != nil {
		t.Fatal(err)
	}
	return p
}

// First writes to blocks of a snapshot cost no sync until the flush, and then one
// of the segment and one of the head, however many they are.
func TestFirstWritesShareTheFlushsBarrier(t *testing.T) {
	disk := fakedisk.New()
	v, s := staged(t, disk)
	defer closeVolume(t, v)
	d := v.Device()
	if err := d.Flush(ctx); err != nil { // the first segment is begun with its own syncs
		t.Fatal(err)
	}
	syncs := map[string]int{}
	disk.OnCall(func(c fakedisk.Call) error {
		if c.Op == fakedisk.OpSync || c.Op == fakedisk.OpSyncDir {
			name, _, _ := strings.Cut(c.Name, "-")
			syncs[name]++
		}
		return nil
	})
	for i := range int64(16) {
		write(t, v, i*7*4096+4096, fill(3, 4096))
	}
	if len(syncs) > 0 {
		t.Errorf("before the flush: %v", syncs)
	}
	want := readHead(t, v)
	if err := d.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	disk.OnCall(nil)
	if syncs["seg"] != 1 || syncs["head"] != 1 || len(syncs) != 2 {
		t.Errorf("with the flush: %v", syncs)
	}
	if got := readHead(t, v); !bytes.Equal(got, want) {
		t.Error("the head reads otherwise than before the flush")
	}
	if !bytes.Equal(readAll(t, v, s.VersionID), fill(1, 1<<20)) {
		t.Error("the snapshot changed")
	}
}

func TestStagedWritesAreSeenBeforeTheyAreCarriedOut(t *testing.T) {
	v, s := staged(t, fakedisk.New())
	defer closeVolume(t, v)
	if !bytes.Equal(readHead(t, v), scattered(2)) {
		t.Error("the head does not show them")
	}
	if n := len(changed(t, v, s.VersionID, cairn.VersionID{})); n != 16 {
		t.Errorf("%d blocks count as changed", n)
	}
	if !bytes.Equal(readAll(t, v, s.VersionID), fill(1, 1<<20)) {
		t.Error("the snapshot shows them")
	}
	next := snap(t, v, "@next")
	scatter(t, v, 9)
	if !bytes.Equal(readAll(t, v, next.VersionID), scattered(2)) {
		t.Error("a capture left them out")
	}
}

// A process that died is followed by one that carries out what it had
// acknowledged, in the same boot only; and in any by one that has the snapshot.
func TestStagedWritesOutliveTheProcess(t *testing.T) {
	disk := fakedisk.New()
	_, s := staged(t, disk)
	for _, c := range []struct {
		boot string
		want byte
	}{{"this one", 2}, {"the next", 1}} {
		replay := disk.Replay()
		replay.Seek(disk.Len())
		after := replay.Crash(fakedisk.Everything)
		v := open(t, after, volume.Options{Boot: c.boot})
		if !bytes.Equal(readHead(t, v), scattered(c.want)) {
			t.Errorf("in %q: the head does not hold %d", c.boot, c.want)
		}
		if !bytes.Equal(readAll(t, v, s.VersionID), fill(1, 1<<20)) {
			t.Errorf("in %q: the snapshot changed", c.boot)
		}
		closeVolume(t, v)
		if names, _ := after.ReadDir("."); strings.Contains(strings.Join(names, " "), "stage") {
			t.Error("the stage is left behind")
		}
	}
}

// Flushes that come while one is under way share the next sync; none returns
// before a sync that began after it came.
func TestFlushesAtOneTimeShareASync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := fakedisk.New()
		v, _ := staged(t, disk)
		defer closeVolume(t, v)
		d := v.Device()
		hold := make(chan struct{})
		syncs, returned := atomic.Int64{}, atomic.Int64{}
		disk.OnCall(func(c fakedisk.Call) error {
			if c.Op == fakedisk.OpSync && c.Name == "head" && syncs.Add(1) == 1 {
				<-hold
			}
			return nil
		})
		var wg sync.WaitGroup
		flush := func() {
			if err := d.Flush(ctx); err != nil {
				t.Error(err)
			}
			returned.Add(1)
		}
		wg.Go(flush)
		synctest.Wait()
		for range 8 {
			wg.Go(flush)
		}
		synctest.Wait()
		if n := returned.Load(); n != 0 {
			t.Errorf("%d flushes returned during a sync that was under way when they came", n)
		}
		close(hold)
		wg.Wait()
		if n := syncs.Load(); n != 2 {
			t.Errorf("%d syncs for 1 + 8 flushes", n)
		}
	})
}

// Where a bookmark alone is kept, first writes share the flush's barrier for their
// marks; and a round that is scattered over more than the active set marks what it
// writes and no more, so that a crash adds nothing beyond the bound.
func TestFirstMarksShareTheFlushsBarrier(t *testing.T) {
	const size, active = 64 << 20, 4 << 20
	disk := fakedisk.New()
	if err := volume.Create(ctx, disk, volume.CreateOptions{Size: size}); err != nil {
		t.Fatal(err)
	}
	v := open(t, disk, volume.Options{Boot: "this one", ActiveBytes: active})
	defer closeVolume(t, v)
	s := snap(t, v, "@s")
	b, err := v.Bookmark(ctx, s.VersionID, "#b", true)
	if err != nil {
		t.Fatal(err)
	}
	write(t, v, 0, fill(1, 4096)) // the log of marks is begun with its own syncs
	d := v.Device()
	if err := d.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	syncs := map[string]int{}
	disk.OnCall(func(c fakedisk.Call) error {
		if c.Op == fakedisk.OpSync {
			name, _, _ := strings.Cut(c.Name, "-")
			syncs[name]++
		}
		return nil
	})
	for _, writes := range []int64{3, 15} {
		clear(syncs)
		for i := range writes {
			write(t, v, (i+1)<<20, fill(2, 4096))
		}
		if len(syncs) > 0 {
			t.Errorf("before the flush of %d: %v", writes, syncs)
		}
		if err := d.Flush(ctx); err != nil {
			t.Fatal(err)
		}
		if syncs["marks"] != 1 || syncs["head"] != 1 {
			t.Errorf("with the flush of %d: %v", writes, syncs)
		}
	}
	disk.OnCall(nil)
	replay := disk.Replay()
	replay.Seek(disk.Len())
	after := open(t, replay.Crash(fakedisk.Everything), volume.Options{Boot: "the next", ActiveBytes: active})
	defer closeVolume(t, after)
	if n := len(changed(t, after, b.VersionID, cairn.VersionID{})); n < 16 || n > 16+active/4096 {
		t.Errorf("after a crash %d blocks count as changed, 16 were written", n)
	}
}

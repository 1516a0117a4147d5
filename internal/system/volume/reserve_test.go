package volume_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cairn"
	"cairn/internal/system/volume"
	"cairn/internal/testkit/fakedisk"
)

// fullStore is a volume with three snapshots and unsaved changes whose disk has
// no room left.
func fullStore(t *testing.T) (*fakedisk.Disk, *volume.Volume) {
	t.Helper()
	disk := fakedisk.New()
	if err := volume.Create(ctx, disk, volume.CreateOptions{Size: 8 << 20}); err != nil {
		t.Fatal(err)
	}
	v := open(t, disk, volume.Options{})
	write(t, v, 0, fill(1, 8<<20))
	for _, name := range []string{"@a", "@b", "@c"} {
		snap(t, v, name)
		write(t, v, 1<<20, fill(name[1], 1<<20))
	}
	disk.SetCapacity(1)
	d := v.Device()
	if err := d.WriteAt(ctx, fill(9, 1<<20), 2<<20, 0); err != nil && !errors.Is(err, cairn.KindSpace) {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	fillUp(t, disk)
	return disk, v
}

// fillUp sets the disk's capacity to what is in use.
func fillUp(t *testing.T, disk *fakedisk.Disk) {
	t.Helper()
	disk.SetCapacity(1 << 40)
	free, total, err := disk.Space()
	if err != nil {
		t.Fatal(err)
	}
	disk.SetCapacity(total - free)
}

// A volume on a full disk opens after a kill and closes cleanly, so that versions
// can be destroyed to make room.
func TestFullStoreOpensAndCloses(t *testing.T) {
	for name, stop := range map[string]func(*testing.T, *volume.Volume){
		"killed": func(*testing.T, *volume.Volume) {},
		"closed": closeVolume,
	} {
		t.Run(name, func(t *testing.T) {
			disk, v := fullStore(t)
			stop(t, v)
			for range 3 {
				fillUp(t, disk)
				v = open(t, disk, volume.Options{})
				closeVolume(t, v)
			}
			fillUp(t, disk)
			v = open(t, disk, volume.Options{})
			oldest := v.Listing("db", cairn.Want{Versions: true}).Versions[0]
			if errs, err := v.Destroy(ctx, []cairn.VersionID{oldest.VersionID}); err != nil || errs[0] != nil {
				t.Fatalf("destroy on a full disk: %v %v", errs, err)
			}
			closeVolume(t, v)
			disk.SetCapacity(1 << 40)
			v = open(t, disk, volume.Options{})
			write(t, v, 0, fill(7, 4096))
			closeVolume(t, v)
			if st, err := disk.Stat("reserve"); err != nil || st.Size() < 1<<20 {
				t.Errorf("with room again the reserve is not back: %v %v", st, err)
			}
		})
	}
}

// Writers that find the disk full at the same time share what one of them gave up.
func TestRoomIsMadeForAllWhoWait(t *testing.T) {
	disk := fakedisk.New()
	const size = 4 << 20
	if err := volume.Create(ctx, disk, volume.CreateOptions{Size: size}); err != nil {
		t.Fatal(err)
	}
	v := open(t, disk, volume.Options{SegmentBytes: 1 << 20, Boot: "this"})
	if err := writeBy(v, 1, size); err != nil {
		t.Fatal(err)
	}
	free, total, _ := disk.Space()
	disk.SetCapacity(total - free + 4*size)
	for b := byte(2); b < 14; b++ {
		snap(t, v, fmt.Sprintf("@s%d", b))
		if err := writeBy(v, b, size); err != nil {
			t.Fatalf("round %d: %v", b, err)
		}
	}
	snapshots := 0
	for _, c := range v.Listing("db", cairn.Want{Versions: true}).Versions {
		if c.IsSnapshot() {
			snapshots++
		}
	}
	if snapshots < volume.DefaultKeepAtLeast || snapshots > 3 {
		t.Errorf("%d snapshots are left", snapshots)
	}
	closeVolume(t, v)
}

// writeBy lets four writers write the whole volume at once, and flushes.
func writeBy(v *volume.Volume, b byte, size int64) error {
	d := v.Device()
	const writers, piece = 4, 64 << 10
	errs := make([]error, writers)
	var all sync.WaitGroup
	for w := range int64(writers) {
		all.Go(func() {
			for off := w * size / writers; off < (w+1)*size/writers && errs[w] == nil; off += piece {
				errs[w] = d.WriteAt(ctx, fill(b, piece), off, 0)
			}
		})
	}
	all.Wait()
	return errors.Join(append(errs, d.Flush(ctx), d.Close())...)
}

// A volume on a full disk that is killed again and again opens each time: the
// reserve that an opening needed is made again, at the price of a snapshot; which
// ones went, and when, is told for as long as their bookmarks are there.
func TestKilledOnAFullDiskAgainAndAgain(t *testing.T) {
	for _, faults := range []volume.Fault{0, volume.FaultReserveSpent} {
		disk := fakedisk.New()
		if err := volume.Create(ctx, disk, volume.CreateOptions{Size: 32 << 20}); err != nil {
			t.Fatal(err)
		}
		now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
		o := volume.Options{Name: "db", SegmentBytes: 1 << 20, Now: func() time.Time { return now }, Faults: faults}
		v := open(t, disk, o)
		write(t, v, 0, fill(1, 24<<20))
		for _, name := range []string{"@a", "@b", "@c", "@d", "@e", "@f"} {
			snap(t, v, name)
			write(t, v, 0, fill(name[1], 2<<20))
		}
		fillUp(t, disk)
		given := 0
		var err error
		for range 5 { // each is a kill
			if v, err = volume.Open(ctx, disk, o); err != nil {
				break
			}
			write(t, v, 4096, fill(7, 4096))
			killed := disk.Replay()
			killed.Seek(disk.Len())
			free, _, _ := disk.Space()
			disk = killed.Crash(fakedisk.Everything)
			fillUp(t, disk)
			_, used, _ := disk.Space()
			disk.SetCapacity(used + free)
		}
		if v, err = volume.Open(ctx, disk, o); err != nil {
			if faults == 0 {
				t.Fatal(err)
			}
			continue // noticed
		}
		st, err := disk.Stat("reserve")
		if kept := err == nil && st.Size() >= 1<<20; kept != (faults == 0) {
			t.Errorf("faults %#x: the reserve is there: %v", faults, kept)
		}
		snapshots := 0
		l := v.Listing("db", cairn.Want{Versions: true})
		for _, r := range l.Versions {
			if r.IsSnapshot() {
				snapshots++
			} else {
				given++
			}
		}
		if snapshots < volume.DefaultKeepAtLeast || faults == 0 && given == 0 {
			t.Errorf("%d snapshots are left, %d were given up", snapshots, given)
		}
		if told := l.Dataset.State == cairn.StateDegraded && strings.Contains(l.Dataset.Why, "2026-11-20T12:00:00Z"); told != (given > 0) {
			t.Errorf("%d given up: the volume is %v: %s", given, l.Dataset.State, l.Dataset.Why)
		}
		now = now.Add(25 * time.Hour)
		if l := v.Listing("db", cairn.Want{}); l.Dataset.State != cairn.StateOK {
			t.Errorf("a day later the volume is %v: %s", l.Dataset.State, l.Dataset.Why)
		}
	}
}

// Without a reserve, without indexes and without a byte of room a volume opens after
// a kill, again and again, and reads right; a snapshot destroyed makes it work again.
func TestOpeningNeedsNoRoom(t *testing.T) {
	disk, _ := fullStore(t)
	for n := range 4 { // each is a kill
		spoilRoom(t, disk)
		v := open(t, disk, volume.Options{})
		versions := v.Listing("db", cairn.Want{Versions: true}).Versions
		if len(versions) != 3 {
			t.Fatalf("opening %d: %d versions", n, len(versions))
		}
		want := fill(1, 8<<20)
		for _, c := range versions {
			if c.IsSnapshot() && !bytes.Equal(readAll(t, v, c.VersionID), want) {
				t.Fatalf("opening %d: %s reads as something else", n, c.Name)
			}
			copy(want[1<<20:], fill(c.Name[1], 1<<20))
		}
		head := readAll(t, v, cairn.VersionID{})
		since := changed(t, v, versions[0].VersionID, cairn.VersionID{})
		for blk := range differ(fill(1, 8<<20), head) {
			if !since[blk] {
				t.Fatalf("opening %d: changed since %s misses block %d", n, versions[0].Name, blk)
			}
		}
		r := disk.Replay()
		r.Seek(disk.Len())
		disk = r.Crash(fakedisk.Nothing)
	}
	spoilRoom(t, disk)
	v := open(t, disk, volume.Options{})
	versions := v.Listing("db", cairn.Want{Versions: true}).Versions
	oldest := versions[slices.IndexFunc(versions, cairn.Version.IsSnapshot)]
	if errs, err := v.Destroy(ctx, []cairn.VersionID{oldest.VersionID}); err != nil || errs[0] != nil {
		t.Fatalf("destroy: %v %v", errs, err)
	}
	write(t, v, 3<<20, fill(8, 64<<10))
	closeVolume(t, v)
	v = open(t, disk, volume.Options{})
	if got := readAll(t, v, cairn.VersionID{}); !bytes.Equal(got[3<<20:3<<20+64<<10], fill(8, 64<<10)) {
		t.Error("what was written with room again is not there")
	}
	closeVolume(t, v)
}

// A batch that a power cut tore is never taken for rot later, because an opening had
// no room to note that it does not count.
func TestTornBatchesAndOpeningsWithoutRoom(t *testing.T) {
	const size = 256 << 10
	disk, v := onDisk(t, size, false, volume.Options{})
	write(t, v, 0, fill(1, size))
	s := snap(t, v, "@s")
	begin, d := disk.Len(), v.Device()
	for b := range int64(6) {
		if err := d.WriteAt(ctx, fill(2, 3*4096), b*5*4096, cairn.FUA); err != nil {
			t.Fatal(err)
		}
	}
	opened, refused := 0, 0
	r := disk.Replay()
	for r.Seek(begin); r.Next(); {
		for what := range fakedisk.Subset(8) {
			cut := r.Crash(what)
			spoilRoom(t, cut)
			v, err := volume.Open(ctx, cut, volume.Options{})
			if err != nil {
				if refused++; !errors.Is(err, cairn.KindSpace) || cairn.HintOf(err) == "" {
					t.Fatalf("cut %d, outcome %d: %v", r.Pos(), what, err)
				}
				continue
			}
			opened++
			cut.SetCapacity(1 << 40)
			if err := v.Device().WriteAt(ctx, fill(3, size), 0, cairn.FUA); err != nil {
				t.Fatal(err)
			}
			again := cut.Replay()
			again.Seek(cut.Len())
			v, err = volume.Open(ctx, again.Crash(fakedisk.Nothing), volume.Options{})
			if err != nil {
				t.Fatal(err)
			}
			if l := v.Listing("db", cairn.Want{}); l.Dataset.State != cairn.StateOK {
				t.Fatalf("cut %d, outcome %d: the volume is %v: %s", r.Pos(), what, l.Dataset.State, l.Dataset.Why)
			}
			if !bytes.Equal(readAll(t, v, s.VersionID), fill(1, size)) {
				t.Fatalf("cut %d, outcome %d: the snapshot reads as something else", r.Pos(), what)
			}
		}
	}
	if opened == 0 || refused == 0 {
		t.Errorf("%d opened, %d refused", opened, refused)
	}
}

// What was only marked when the process was killed is marked still after openings
// that had no room to write it down.
func TestMarksOutliveOpeningsWithoutRoom(t *testing.T) {
	disk := fakedisk.New()
	if err := volume.Create(ctx, disk, volume.CreateOptions{Size: 8 << 20}); err != nil {
		t.Fatal(err)
	}
	v := open(t, disk, volume.Options{})
	a := snap(t, v, "@a")
	mark, err := v.Bookmark(ctx, a.VersionID, "#a", true)
	if err != nil {
		t.Fatal(err)
	}
	write(t, v, 1<<20, fill(3, 4096))
	for n := range 4 { // each is a kill
		spoilRoom(t, disk)
		v = open(t, disk, volume.Options{})
		if !changed(t, v, mark.VersionID, cairn.VersionID{})[256] {
			t.Fatalf("opening %d: a marked block does not count as changed", n)
		}
	}
	disk.SetCapacity(1 << 40)
	b := snap(t, v, "@b")
	if !changed(t, v, mark.VersionID, b.VersionID)[256] {
		t.Error("with room again it does not count as changed")
	}
	closeVolume(t, v)
	names, err := disk.ReadDir(".")
	if left := slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, "marks-") }); err != nil || left {
		t.Errorf("marks that a checkpoint replaced are left: %v, %v", names, err)
	}
}

// Writes that a killed process had acknowledged, and for which there is no room, stay
// staged: the volume opens, shows them, and carries them out when there is room.
func TestStagedWritesOutliveOpeningsWithoutRoom(t *testing.T) {
	disk := fakedisk.New()
	v, s := staged(t, disk)
	for n := range 3 { // each is a kill
		spoilRoom(t, disk)
		v = open(t, disk, volume.Options{Boot: "this one"})
		if !bytes.Equal(readHead(t, v), scattered(2)) {
			t.Fatalf("opening %d: an acknowledged write is missing", n)
		}
		if !bytes.Equal(readAll(t, v, s.VersionID), fill(1, 1<<20)) {
			t.Fatalf("opening %d: the snapshot reads as something else", n)
		}
		if err := v.Device().Flush(ctx); !errors.Is(err, cairn.KindSpace) {
			t.Fatalf("opening %d: a flush without room says %v", n, err)
		}
	}
	if errs, err := v.Destroy(ctx, []cairn.VersionID{s.VersionID}); err != nil || errs[0] != nil {
		t.Fatalf("destroy: %v %v", errs, err)
	}
	if err := v.Device().Flush(ctx); err != nil {
		t.Fatalf("without the snapshot: %v", err)
	}
	r := disk.Replay()
	r.Seek(disk.Len())
	v = open(t, r.Crash(fakedisk.Nothing), volume.Options{Boot: "the next"})
	if !bytes.Equal(readHead(t, v), scattered(2)) {
		t.Error("a flushed write is missing after a power cut")
	}
}

// spoilRoom takes the last room there is: the reserve and the indexes go, and what
// they took is taken.
func spoilRoom(t *testing.T, disk *fakedisk.Disk) {
	t.Helper()
	names, err := disk.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		if n == "reserve" || strings.HasPrefix(n, "idx-") {
			if err := disk.Remove(n); err != nil {
				t.Fatal(err)
			}
		}
	}
	fillUp(t, disk)
}

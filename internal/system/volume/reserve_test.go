package volume_test

import (
	"errors"
	"strings"
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

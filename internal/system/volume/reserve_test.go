package volume_test

import (
	"errors"
	"testing"

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

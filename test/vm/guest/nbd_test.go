package guest_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"cairn"
	"cairn/internal/front/nbd"
	"cairn/internal/system/volume"
)

const nbdVolume = 128 << 20

// served are a volume's head under "head" and its snapshots under their names.
type served struct{ v *volume.Volume }

func (s served) List(context.Context) ([]string, error) { return []string{"head"}, nil }

func (s served) Open(ctx context.Context, name string) (*nbd.Export, error) {
	if name == "head" {
		d := s.v.Device()
		return &nbd.Export{Name: name, Device: d, Close: d.Close}, nil
	}
	for _, version := range s.v.Listing("db", cairn.Want{Versions: true}).Versions {
		if version.Name == "@"+name {
			r, err := s.v.OpenVersion(ctx, version.VersionID)
			if err != nil {
				return nil, err
			}
			return &nbd.Export{Name: name, Reader: r, Close: r.Close}, nil
		}
	}
	return nil, &cairn.Error{Op: "open export", Subject: name, Kind: cairn.KindNotFound}
}

func serve(t *testing.T, v *volume.Volume) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "s")
	l, err := nbd.ListenUnix(socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := nbd.Serve(ctx, l, nbd.Options{Exports: served{v}}); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	return socket
}

// connect gives an export a block device of the kernel's until disconnect or the
// end of the test.
func connect(t *testing.T, socket, export, device string) (disconnect func()) {
	t.Helper()
	run(t, fmt.Sprintf("nbd-client -unix %s %s -name %s -b 4096", socket, device, export))
	gone := false
	disconnect = func() {
		if !gone {
			gone = true
			run(t, "nbd-client -d "+device)
		}
	}
	t.Cleanup(disconnect)
	return disconnect
}

// populate writes files of random content and returns their sums.
func populate(t *testing.T, dir string, random *rand.ChaCha8, generation int) map[string][32]byte {
	t.Helper()
	sums := map[string][32]byte{}
	for i := range 24 {
		data := make([]byte, 1000+i*9000)
		_, _ = random.Read(data)
		name := fmt.Sprintf("f%d-%d", generation, i)
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
		sums[name] = sha256.Sum256(data)
	}
	return sums
}

func compare(t *testing.T, dir string, want map[string][32]byte) {
	t.Helper()
	for name, sum := range want {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Error(err)
		} else if sha256.Sum256(data) != sum {
			t.Errorf("%s reads differently in the snapshot", name)
		}
	}
}

// A file system on a device of the kernel's NBD client is written, unmounted and
// disconnected: whatever the kernel wrote when, and the last writes come with the
// unmount, the change sets know every block; the snapshots mount and hold the
// files of their time.
func TestKernelNBD(t *testing.T) {
	inside(t)
	p := place(t, disk(t), 0)
	if err := p.Create(t.Context(), "db", nbdVolume, "test"); err != nil {
		t.Fatal(err)
	}
	v, err := p.Open(t.Context(), "db")
	if err != nil {
		t.Fatal(err)
	}
	snap := func(name string) cairn.VersionID {
		version, err := v.Snapshot(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		return version.VersionID
	}
	run(t, "modprobe nbd && mkdir -p /mnt/fs")
	socket := serve(t, v)
	random := rand.NewChaCha8([32]byte{1})

	ids := []cairn.VersionID{snap("@empty")}
	disconnect := connect(t, socket, "head", "/dev/nbd0")
	run(t, "mkfs.ext4 -q /dev/nbd0 && mount /dev/nbd0 /mnt/fs")
	first := populate(t, "/mnt/fs", random, 1)
	run(t, "sync -f /mnt/fs")
	ids = append(ids, snap("@mounted"))
	second := populate(t, "/mnt/fs", random, 2)
	run(t, "rm /mnt/fs/f1-3 && umount /mnt/fs")
	disconnect()
	ids = append(ids, snap("@unmounted"), cairn.VersionID{})

	judge(t, v, ids)
	delete(first, "f1-3")
	for name, sum := range first {
		second[name] = sum
	}
	again := connect(t, socket, "unmounted", "/dev/nbd1")
	run(t, "e2fsck -fn /dev/nbd1 && mount -o ro /dev/nbd1 /mnt/fs")
	compare(t, "/mnt/fs", second)
	run(t, "umount /mnt/fs")
	again()
}

// judge compares the change set between any two of the versions with what differs.
func judge(t *testing.T, v *volume.Volume, ids []cairn.VersionID) {
	t.Helper()
	for i, to := range ids[1:] {
		now := contentOf(t, v, to)
		for _, from := range ids[:i+1] {
			set, total := changed(t, v, from, to)
			if missed := uncovered(contentOf(t, v, from), now, set); len(missed) > 0 {
				t.Errorf("%s to %s: %d written blocks are not in the change set, the first is %d", from, to, len(missed), missed[0])
			}
			t.Logf("%s to %s: %d KiB changed in %d extents", from, to, total>>10, len(set))
			if total > nbdVolume/2 {
				t.Errorf("%s to %s: %d bytes of %d count as changed", from, to, total, nbdVolume)
			}
		}
	}
}

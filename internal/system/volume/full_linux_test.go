package volume_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cairn"
	"cairn/internal/mech/blockio"
	"cairn/internal/system/volume"
)

// The file systems that are filled, and the smallest of each that is worth it.
var smallDisks = map[string]int64{"ext4": 96 << 20, "xfs": 320 << 20}

// smallDisk mounts a file system of its own, where this place lets us.
func smallDisk(t *testing.T, kind string) string {
	t.Helper()
	image, dir := filepath.Join(t.TempDir(), "image"), t.TempDir()
	f, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(smallDisks[kind]), f.Close()); err != nil {
		t.Fatal(err)
	}
	for _, c := range [][]string{{"mkfs." + kind, "-q", image}, {"mount", "-o", "loop", image, dir}} {
		path, err := exec.LookPath(c[0])
		if err != nil {
			path = filepath.Join("/usr/sbin", c[0])
		}
		if out, err := exec.Command(path, c[1:]...).CombinedOutput(); err != nil {
			t.Skipf("this place does not offer an %s of our own: %s: %v: %s", kind, c[0], err, out)
		}
	}
	t.Cleanup(func() { _ = exec.Command("umount", "-l", dir).Run() }) // who was killed has files open still
	return dir
}

// leaveRoom makes a file that is not ours take all room but for that many bytes.
func leaveRoom(t *testing.T, dir string, room int64) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, "foreign"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 64<<10)
	for n := len(p); n >= 512; {
		if _, err := f.Write(p[:n]); err != nil {
			n /= 2
		}
	}
	st, err := f.Stat()
	if err == nil {
		err = errors.Join(f.Sync(), f.Truncate(max(0, st.Size()-room)), f.Sync(), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// storeOn makes a volume in a folder of the file system.
func storeOn(t *testing.T, dir string, o volume.CreateOptions) blockio.FS {
	t.Helper()
	if err := os.Mkdir(filepath.Join(dir, "store"), 0o700); err != nil {
		t.Fatal(err)
	}
	fsys, err := blockio.OS(filepath.Join(dir, "store"))
	if err == nil {
		err = volume.Create(ctx, fsys, o)
	}
	if err != nil {
		t.Fatal(err)
	}
	return fsys
}

// filledSnapshots gives the snapshots by name, each of which has to be full of the byte
// that it was captured with.
func filledSnapshots(t *testing.T, v *volume.Volume, held map[string]byte) (list []cairn.Version) {
	t.Helper()
	for _, c := range v.Listing("db", cairn.Want{Versions: true}).Versions {
		if !c.IsSnapshot() {
			continue
		}
		list = append(list, c)
		if got := readAll(t, v, c.VersionID); !bytes.Equal(got, fill(held[c.Name], len(got))) {
			t.Errorf("%s reads as something else", c.Name)
		}
	}
	return list
}

// On a real file system that fills up writers go on without an error as long as a
// snapshot may be given up. As many as have to be kept are kept, and read right,
// through a kill on the full disk too; who looks is told.
func TestWritersOnAFullFileSystem(t *testing.T) {
	for kind := range smallDisks {
		t.Run(kind, func(t *testing.T) {
			dir := smallDisk(t, kind)
			const size = 8 << 20
			fsys := storeOn(t, dir, volume.CreateOptions{Size: size})
			var log bytes.Buffer
			o := volume.Options{Name: "db", SegmentBytes: 1 << 20, Boot: "this", Log: slog.New(slog.NewTextHandler(&log, nil))}
			v := open(t, fsys, o)
			if err := writeBy(v, 1, size); err != nil {
				t.Fatal(err)
			}
			leaveRoom(t, dir, 4*size) // three snapshots whose every block was overwritten, and some
			held := map[string]byte{}
			for b := byte(1); b < 12; b++ {
				name := fmt.Sprintf("@s%d", b)
				snap(t, v, name)
				held[name] = b
				if err := writeBy(v, b+1, size); err != nil {
					t.Fatalf("after %s: %v", name, err)
				}
			}
			left := filledSnapshots(t, v, held)
			if len(left) < volume.DefaultKeepAtLeast || len(left) > 4 {
				t.Errorf("%d snapshots are left", len(left))
			}
			l := v.Listing("db", cairn.Want{})
			if l.Dataset.State != cairn.StateDegraded || !strings.Contains(l.Dataset.Why, "out of room") || !strings.Contains(log.String(), "given up") {
				t.Errorf("the volume is %v: %s", l.Dataset.State, l.Dataset.Why)
			}
			fullToTheLast(t, dir, fsys, v, o, held, size)
		})
	}
}

// fullToTheLast goes on when nothing else may be given up: writes fail for want of
// room, nothing else does, and with room again everything goes on.
func fullToTheLast(t *testing.T, dir string, fsys blockio.FS, v *volume.Volume, o volume.Options, held map[string]byte, size int64) {
	t.Helper()
	var err error
	for b := byte(12); b < 20 && err == nil; b++ {
		leaveRoom(t, dir, 0)
		name := fmt.Sprintf("@s%d", b)
		held[name] = b
		if _, err = v.Snapshot(ctx, name); err == nil {
			err = writeBy(v, b+1, size)
		}
	}
	if !errors.Is(err, cairn.KindSpace) {
		t.Fatalf("on a full disk writes end with %v", err)
	}
	if n := len(filledSnapshots(t, v, held)); n != volume.DefaultKeepAtLeast {
		t.Errorf("a write failed while %d snapshots were there", n)
	}
	for range 3 { // each time the process is killed, and whatever room there was is taken
		leaveRoom(t, dir, 0)
		v = open(t, fsys, o)
		if n := len(filledSnapshots(t, v, held)); n != volume.DefaultKeepAtLeast {
			t.Errorf("after a kill %d snapshots are there", n)
		}
	}
	if err := os.Remove(filepath.Join(dir, "foreign")); err != nil {
		t.Fatal(err)
	}
	if err := writeBy(v, 50, size); err != nil {
		t.Errorf("with room again: %v", err)
	}
	filledSnapshots(t, v, held)
	closeVolume(t, v)
}

// A sink on a real file system that is full gives nothing up: the receive fails, for
// want of room, and goes on from its point when there is room.
func TestReceiveOnAFullFileSystem(t *testing.T) {
	for kind := range smallDisks {
		t.Run(kind, func(t *testing.T) {
			dir := smallDisk(t, kind)
			const size = 24 << 20
			fsys := storeOn(t, dir, volume.CreateOptions{Size: size, Sealed: true})
			to := open(t, fsys, volume.Options{Name: "db"})
			_, from := onDisk(t, size, false, volume.Options{})
			defer closeVolume(t, from)
			held := map[string]byte{"@a": 1, "@b": 2, "@c": 3}
			last := cairn.VersionID{}
			var steps []cairn.Step
			for _, name := range []string{"@a", "@b", "@c"} {
				write(t, from, 0, fill(held[name], size))
				next := snap(t, from, name).VersionID
				steps = append(steps, cairn.Step{From: last, To: next})
				last = next
			}
			for _, s := range steps[:2] {
				receive(t, to, send(t, from, s.From, s.To, nil))
			}
			leaveRoom(t, dir, 13<<20)
			cut := send(t, from, steps[2].From, steps[2].To, nil)
			if _, err := to.Receive(ctx, cut, cairn.ReceiveOptions{Owner: "job"}); !errors.Is(err, cairn.KindSpace) {
				t.Fatalf("receive on a full disk: %v", err)
			}
			if n := len(filledSnapshots(t, to, held)); n != 2 {
				t.Errorf("%d snapshots are there", n)
			}
			to = open(t, fsys, volume.Options{Name: "db"}) // without Close: the process died
			partial := to.Listing("db", cairn.Want{Partial: true}).Partial
			if partial == nil || partial.Received < 4<<20 {
				t.Fatalf("partial %+v", partial)
			}
			if err := os.Remove(filepath.Join(dir, "foreign")); err != nil {
				t.Fatal(err)
			}
			rest := send(t, from, steps[2].From, steps[2].To, partial.Token)
			passed := &counting{ReadCloser: rest.Body}
			rest.Body = passed
			receive(t, to, rest)
			if n := len(filledSnapshots(t, to, held)); n != 3 || passed.bytes > size-partial.Received+1<<20 {
				t.Errorf("%d snapshots; %d bytes passed, %d were there", n, passed.bytes, partial.Received)
			}
			closeVolume(t, to)
		})
	}
}

// counting counts what is read.
type counting struct {
	io.ReadCloser
	bytes int64
}

func (c *counting) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.bytes += int64(n)
	return n, err
}

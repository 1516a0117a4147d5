package guest_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"cairn"
	"cairn/internal/format/zfsstream"
	"cairn/internal/mech/retry"
	"cairn/internal/policy/plan"
	"cairn/internal/system/volume"
	"cairn/internal/system/wrap"
	"cairn/internal/system/zfs"
	"cairn/internal/work/replicate"
)

// openPools makes pools on files in memory, and gives their place.
func openPools(t *testing.T, names ...string) *zfs.Place {
	t.Helper()
	dir := t.TempDir()
	run(t, "modprobe zfs")
	for _, name := range names {
		file := dir + "/pool-" + name
		run(t, fmt.Sprintf("truncate -s 256M %s && zpool create -f -O mountpoint=none -O sync=disabled %s %s", file, name, file))
		undo(t, "zpool destroy -f "+name)
	}
	p, err := zfs.Open(t.Context(), zfs.Options{Devices: "/dev/zvol"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// node waits for the device of a zvol.
func node(t *testing.T, dataset string) string {
	t.Helper()
	path := "/dev/zvol/" + dataset
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if _, err := os.Stat(path); err == nil {
			return path
		}
		if time.Now().After(end) {
			t.Fatalf("%s does not appear", path)
		}
	}
}

// scribble writes noise, text and zeroes all over a device.
func scribble(t *testing.T, path string, size int64, rnd *rand.Rand, writes int) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	for i := range writes {
		p := make([]byte, 1<<rnd.IntN(17))
		switch i % 3 {
		case 0:
			for j := range p {
				p[j] = byte(rnd.Uint32())
			}
		case 1:
			copy(p, bytes.Repeat(fmt.Appendf(nil, "line %d\n", i), len(p)/7+1))
		}
		if _, err := f.WriteAt(p, rnd.Int64N(size-int64(len(p)))); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

func sumOf(t *testing.T, path string) [sha256.Size]byte {
	t.Helper()
	run(t, "blockdev --flushbufs "+path)
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }() // only read
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// moved replicates one dataset and returns the bytes of all its streams, and how
// often a step went on where it was cut.
func moved(t *testing.T, from, to *cairn.Endpoint, dataset string) (total, resumed int64) {
	t.Helper()
	r, err := replicate.Run(t.Context(), replicate.Options{Sender: from, Receiver: to, Filter: cairn.All, Names: []string{dataset}, Owner: "streams",
		Initial: plan.All, Retry: retry.Policy{Attempts: 5, First: 10 * time.Millisecond}})
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range r.Datasets[0].Attempts {
		for _, s := range a.Steps {
			total += s.BytesMoved
			if s.Resumed {
				resumed++
			}
		}
	}
	return total, resumed
}

// estimate is what zfs itself says a stream would have.
func estimate(t *testing.T, args string) int64 {
	t.Helper()
	for line := range strings.Lines(run(t, "zfs send -nP "+args)) {
		if size, is := strings.CutPrefix(strings.TrimSpace(line), "size\t"); is {
			n, err := strconv.ParseInt(size, 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("zfs send -nP %s names no size", args)
	return 0
}

func near(t *testing.T, what string, got, want int64) {
	t.Helper()
	t.Logf("%s: %d bytes, zfs estimates %d (%+.1f %%)", what, got, want, 100*float64(got-want)/float64(want))
	if d := got - want; d*10 > want || -d*10 > want {
		t.Errorf("%s: %d bytes, more than a tenth from the %d of zfs", what, got, want)
	}
}

// noMore is near for what may be less: a volume sends what it has in units of 4 KiB,
// a zvol in its own.
func noMore(t *testing.T, what string, got, want int64) {
	t.Helper()
	t.Logf("%s: %d bytes, zfs estimates %d (%+.1f %%)", what, got, want, 100*float64(got-want)/float64(want))
	if (got-want)*10 > want {
		t.Errorf("%s: %d bytes, more than a tenth above the %d of zfs", what, got, want)
	}
}

// translated is a place's endpoint as the daemon composes it.
func translated(ep *cairn.Endpoint) *cairn.Endpoint {
	return wrap.Leased(wrap.Translate(ep), &wrap.Table{})
}

func volumesIn(t *testing.T, dir string) (*volume.Place, *cairn.Endpoint) {
	p := place(t, dir, 0)
	return p, translated(p.Endpoint())
}

const zvolBytes = 6 << 20

// Three generations of a zvol go into a volume and from there into a zvol of another
// pool: equal by SHA-256 and GUID at each place, and little more is moved than zfs
// itself would send. Blocks smaller and larger than ours too.
func TestStreamsThroughVolume(t *testing.T) {
	inside(t)
	dir := disk(t)
	z := openPools(t, "src", "dst")
	_, volumes := volumesIn(t, dir)
	for _, blockSize := range []string{"16k", "64k", "4k"} {
		t.Run(blockSize, func(t *testing.T) { generations(t, z, volumes, "src/z"+blockSize, blockSize) })
	}
}

func generations(t *testing.T, z *zfs.Place, volumes *cairn.Endpoint, dataset, blockSize string) {
	run(t, fmt.Sprintf("zfs create -s -V %d -b %s -o compression=lz4 %s", zvolBytes, blockSize, dataset))
	rnd := rand.New(rand.NewPCG(1, uint64(len(blockSize))))
	back, err := wrap.Rebase(translated(z.Endpoint(zfs.Job{Receive: zfs.ReceiveOptions{Placeholder: zfs.Inherit, Root: "dst"}})), "dst")
	if err != nil {
		t.Fatal(err)
	}
	before := ""
	for gen := range 3 {
		dev := node(t, dataset)
		scribble(t, dev, zvolBytes, rnd, 60-20*gen)
		if gen == 2 {
			run(t, "blkdiscard -o 2097152 -l 1048576 "+dev)
		}
		snap := fmt.Sprintf("%s@g%d", dataset, gen)
		run(t, "sync && zpool sync src && zfs snapshot "+snap)
		want := estimate(t, before+snap)
		before = fmt.Sprintf("-i @g%d ", gen)

		from := translated(z.Endpoint(zfs.Job{}))
		n, _ := moved(t, from, volumes, dataset)
		near(t, snap+" into a volume", n, want)
		n, _ = moved(t, volumes, back, dataset)
		if blockSize == "16k" {
			near(t, snap+" out of the volume", n, want)
		} else {
			noMore(t, snap+" out of the volume", n, want)
		}
		sum := sumOf(t, dev)
		guid := strings.TrimSpace(run(t, "zfs get -Hp -o value guid "+snap))
		for _, l := range listing(t, volumes, dataset) {
			if l.Name == fmt.Sprintf("@g%d", gen) {
				if fmt.Sprint(uint64(l.GUID)) != guid {
					t.Errorf("%s has GUID %d in the volume, %s at home", snap, uint64(l.GUID), guid)
				}
				if got := sha256.Sum256(versionContent(t, volumes, dataset, l.VersionID)); got != sum {
					t.Errorf("%s differs in the volume", snap)
				}
			}
		}
		if got := sumOf(t, node(t, "dst/"+dataset)); got != sum {
			t.Errorf("%s differs on the other pool", snap)
		}
		if got := strings.TrimSpace(run(t, "zfs get -Hp -o value guid dst/"+snap)); got != guid {
			t.Errorf("%s has GUID %s on the other pool, %s at home", snap, got, guid)
		}
	}
}

func listing(t *testing.T, ep *cairn.Endpoint, dataset string) []cairn.Version {
	t.Helper()
	for l, err := range ep.Lister.List(t.Context(), cairn.Query{Filter: cairn.All, Names: []string{dataset}, Want: cairn.Want{Versions: true}}) {
		if err != nil {
			t.Fatal(err)
		}
		return l.Versions
	}
	t.Fatalf("%s is not there", dataset)
	return nil
}

func versionContent(t *testing.T, ep *cairn.Endpoint, dataset string, id cairn.VersionID) []byte {
	t.Helper()
	r, err := ep.Blocks.OpenVersion(t.Context(), dataset, id)
	if err != nil {
		t.Fatal(err)
	}
	return content(t, r)
}

// cutting is a sender whose first stream breaks after some bytes.
type cutting struct {
	cairn.Sender
	after int64
	cuts  int
}

func (c *cutting) Send(ctx context.Context, step cairn.Step, accept []cairn.Format) (*cairn.Stream, error) {
	s, err := c.Sender.Send(ctx, step, accept)
	if err == nil && c.cuts > 0 {
		c.cuts--
		s.Body = &cutBody{s.Body, c.after}
	}
	return s, err
}

type cutBody struct {
	io.ReadCloser
	left int64
}

func (c *cutBody) Read(p []byte) (int, error) {
	if c.left <= 0 {
		return 0, &cairn.Error{Op: "read stream", Kind: cairn.KindUnavailable, Err: errors.New("the line was cut")}
	}
	n, err := c.ReadCloser.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	return n, err
}

// A stream that is cut on its way into a volume, and one that is cut on its way back
// into a zvol, go on where they were cut: full and incremental.
func TestStreamsCutGoOn(t *testing.T) {
	inside(t)
	dir := disk(t)
	z := openPools(t, "src", "dst")
	_, volumes := volumesIn(t, dir)
	const dataset = "src/z"
	run(t, fmt.Sprintf("zfs create -s -V %d -b 16k %s", 2*zvolBytes, dataset))
	rnd := rand.New(rand.NewPCG(7, 7))
	back, err := wrap.Rebase(translated(z.Endpoint(zfs.Job{Receive: zfs.ReceiveOptions{Placeholder: zfs.Inherit, Root: "dst"}})), "dst")
	if err != nil {
		t.Fatal(err)
	}
	for gen := range 2 {
		dev := node(t, dataset)
		noise := make([]byte, 10<<20)
		for i := range noise {
			noise[i] = byte(rnd.Uint32())
		}
		f, err := os.OpenFile(dev, os.O_WRONLY, 0)
		if err == nil {
			_, err = f.WriteAt(noise, 1<<20)
			err = errors.Join(err, f.Sync(), f.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
		run(t, fmt.Sprintf("zfs snapshot %s@g%d", dataset, gen))
		from := *translated(z.Endpoint(zfs.Job{Send: zfs.SendOptions{Compressed: true}}))
		from.Sender = &cutting{from.Sender, 8 << 20, 1}
		n, resumed := moved(t, &from, volumes, dataset)
		if resumed != 1 || n > 16<<20 {
			t.Errorf("generation %d into the volume: %d bytes, went on %d times", gen, n, resumed)
		}
		out := *volumes
		out.Sender = &cutting{out.Sender, 8 << 20, 1}
		n, resumed = moved(t, &out, back, dataset)
		if resumed != 1 || n > 18<<20 {
			t.Errorf("generation %d out of the volume: %d bytes, went on %d times", gen, n, resumed)
		}
		sum := sumOf(t, dev)
		if got := sha256.Sum256(versionContent(t, volumes, dataset, listing(t, volumes, dataset)[gen].VersionID)); got != sum {
			t.Errorf("generation %d differs in the volume", gen)
		}
		if got := sumOf(t, node(t, "dst/"+dataset)); got != sum {
			t.Errorf("generation %d differs on the other pool", gen)
		}
	}
}

// Every kind of stream that zfs makes here is read as zstream reads it, or refused
// with the reason.
func TestStreamsOfEveryKind(t *testing.T) {
	inside(t)
	openPools(t, "src")
	run(t, `zfs create -o mountpoint=/srcfs -o xattr=sa src/fs; echo small >/srcfs/small; head -c 300000 /dev/urandom >/srcfs/large; ln -s x /srcfs/link
		zfs snapshot src/fs@a; rm /srcfs/large; zfs bookmark src/fs@a src/fs#a; zfs snapshot src/fs@b
		zfs create -s -V 1M -b 8k src/v
		echo password1 | zfs create -o encryption=on -o keyformat=passphrase -o mountpoint=/srcenc src/enc; echo secret >/srcenc/file; zfs snapshot src/enc@a; zfs hold keep src/fs@a`)
	undo(t, "zfs release keep src/fs@a")
	run(t, "seq 1 50000 | head -c 262144 | dd of="+node(t, "src/v")+" conv=fsync status=none; zfs snapshot src/v@a")
	for _, args := range []string{"src/fs@a", "-c src/fs@a", "-L src/fs@a", "-e src/fs@a", "-ecL src/fs@a", "-p src/fs@a", "-R src/fs@b", "-Rh src/fs@b", "-i @a src/fs@b", "-i '#a' src/fs@b", "-I @a src/fs@b",
		"-w src/enc@a", "src/v@a", "-ce src/v@a", "-p src/v@a"} {
		file := "/tmp/stream"
		run(t, "zfs send "+args+" >"+file)
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		c := zfsstream.Check(bytes.NewReader(b), zfsstream.CheckOptions{})
		if _, err := io.Copy(io.Discard, c); err != nil {
			t.Errorf("%s: %v", args, err)
		}
		var all int64
		s := c.Summary()
		for _, n := range s.Records {
			all += n
		}
		summary := run(t, "zstream dump <"+file)
		for _, want := range []string{fmt.Sprintf("Total records = %d\n", all), fmt.Sprintf("Total payload size = %d ", s.Payload), fmt.Sprintf("Total stream length = %d ", s.Bytes)} {
			if !strings.Contains(summary, want) {
				t.Errorf("%s: zstream does not say %q:\n%s", args, want, end(summary))
			}
		}
		_, err = zfsstream.NewVolumeReader(bytes.NewReader(b))
		if isZvol := strings.Contains(args, "src/v"); isZvol != (err == nil) || !isZvol && cairn.KindOf(err) != cairn.KindUnsupported {
			t.Errorf("%s as a volume: %v", args, err)
		}
	}
}

func end(s string) string { return s[max(0, len(s)-800):] }

package volume_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"

	"cairn"
	"cairn/internal/system/volume"
	"cairn/internal/testkit/fakedisk"
)

func onDisk(t *testing.T, size int64, sealed bool, o volume.Options) (*fakedisk.Disk, *volume.Volume) {
	t.Helper()
	disk := fakedisk.New()
	if err := volume.Create(ctx, disk, volume.CreateOptions{Size: size, Sealed: sealed}); err != nil {
		t.Fatal(err)
	}
	return disk, open(t, disk, o)
}

func send(t *testing.T, v *volume.Volume, from, to cairn.VersionID, token []byte) *cairn.Stream {
	t.Helper()
	s, err := v.Send(ctx, cairn.Step{Dataset: "db", From: from, To: to, Resume: token}, []cairn.Format{cairn.FormatBlocks})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func noise(seed uint64, n int) []byte {
	p := make([]byte, n)
	c := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	_, _ = c.Read(p)
	return p
}

func receive(t *testing.T, to *volume.Volume, s *cairn.Stream) int64 {
	t.Helper()
	got, err := to.Receive(ctx, s, cairn.ReceiveOptions{Owner: "job"})
	if err != nil {
		t.Fatal(err)
	}
	return got.Bytes
}

// A chain of captures arrives bit for bit, each increment costs what changed, and
// the sender reads nothing else.
func TestIncrementsCostWhatChanged(t *testing.T) {
	src, from := onDisk(t, 32<<20, false, volume.Options{})
	_, to := onDisk(t, 32<<20, true, volume.Options{})
	defer closeVolume(t, from)
	defer closeVolume(t, to)
	write(t, from, 0, noise(1, 16<<20))
	last := snap(t, from, "@0")
	receive(t, to, send(t, from, cairn.VersionID{}, last.VersionID, nil))
	rnd := rand.New(rand.NewPCG(1, 2))
	for i, name := range []string{"@1", "@2", "@3"} {
		for range 50 {
			write(t, from, rnd.Int64N(32<<20/4096)*4096, noise(uint64(i), 4096))
		}
		next := snap(t, from, name)
		if i == 1 { // the base may be a bookmark at the sender
			if _, err := from.Bookmark(ctx, last.VersionID, "#1", true); err != nil {
				t.Fatal(err)
			}
			last.Name = "#1"
		}
		var read int64
		src.OnCall(func(c fakedisk.Call) error {
			if c.Op == fakedisk.OpRead && c.Name == "head" {
				read += c.Len
			}
			return nil
		})
		n := receive(t, to, send(t, from, last.VersionID, next.VersionID, nil))
		src.OnCall(nil)
		if n > 50*4096+16384 || read > 50*4096 {
			t.Errorf("%s: %d bytes sent, %d read for 50 blocks", name, n, read)
		}
		if !bytes.Equal(readAll(t, to, next.VersionID), readAll(t, from, next.VersionID)) {
			t.Errorf("%s differs", name)
		}
		last = next
	}
	for _, v := range to.Listing("db", cairn.Want{Versions: true}).Versions {
		if v.Name == "@0" && !bytes.Equal(readAll(t, to, v.VersionID)[:16<<20], noise(1, 16<<20)) {
			t.Error("the first version changed at the receiver")
		}
	}
}

// cutAt is a body that fails after some bytes.
type cutAt struct {
	io.ReadCloser
	left int64
}

func (c *cutAt) Read(p []byte) (int, error) {
	if c.left <= 0 {
		return 0, io.ErrUnexpectedEOF
	}
	n, err := c.ReadCloser.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	return n, err
}

// A receive that is cut and whose process dies goes on from its point; the base
// reads the same all the while, and after an abort so does the head.
func TestCutReceiveResumesOrIsAborted(t *testing.T) {
	_, from := onDisk(t, 32<<20, false, volume.Options{})
	disk, to := onDisk(t, 32<<20, true, volume.Options{})
	defer closeVolume(t, from)
	write(t, from, 0, noise(1, 24<<20))
	a := snap(t, from, "@a")
	receive(t, to, send(t, from, cairn.VersionID{}, a.VersionID, nil))
	base := readAll(t, from, a.VersionID)
	write(t, from, 4<<20, noise(2, 20<<20))
	b := snap(t, from, "@b")
	s := send(t, from, a.VersionID, b.VersionID, nil)
	s.Body = &cutAt{s.Body, 11 << 20}
	if _, err := to.Receive(ctx, s, cairn.ReceiveOptions{Owner: "job"}); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatalf("cut receive: %v", err)
	}
	to = open(t, disk, volume.Options{}) // without Close: the process died
	if !bytes.Equal(readAll(t, to, a.VersionID), base) {
		t.Error("the base changed")
	}
	if errs, _ := to.Destroy(ctx, []cairn.VersionID{a.VersionID}); !errors.Is(errs[0], cairn.KindBusy) {
		t.Errorf("destroy of the base: %v", errs[0])
	}
	partial := to.Listing("db", cairn.Want{Partial: true}).Partial
	if partial == nil || partial.Received < 4<<20 || partial.To != b.VersionID {
		t.Fatalf("partial %+v", partial)
	}
	c := snap(t, from, "@c")
	if _, err := to.Receive(ctx, send(t, from, a.VersionID, c.VersionID, nil), cairn.ReceiveOptions{}); !errors.Is(err, cairn.KindConflict) {
		t.Errorf("another stream meanwhile: %v", err)
	}
	if n := receive(t, to, send(t, from, a.VersionID, b.VersionID, partial.Token)); n > 14<<20 {
		t.Errorf("the rest took %d bytes", n)
	}
	if !bytes.Equal(readAll(t, to, b.VersionID), readAll(t, from, b.VersionID)) || !bytes.Equal(readAll(t, to, a.VersionID), base) {
		t.Error("a version differs")
	}
	write(t, from, 0, noise(3, 12<<20))
	d := snap(t, from, "@d")
	s = send(t, from, b.VersionID, d.VersionID, nil)
	s.Body = &cutAt{s.Body, 6 << 20}
	if _, err := to.Receive(ctx, s, cairn.ReceiveOptions{}); err == nil {
		t.Fatal("a cut stream was received")
	}
	if err := to.Abort(ctx); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(readAll(t, to, cairn.VersionID{}), readAll(t, from, b.VersionID)) {
		t.Error("the abort did not return the head to its newest version")
	}
	receive(t, to, send(t, from, b.VersionID, d.VersionID, nil))
	closeVolume(t, to)
}

func TestReceiveIntoFullDiskKeepsThePartialAndGoesOn(t *testing.T) {
	_, from := onDisk(t, 16<<20, false, volume.Options{})
	disk, to := onDisk(t, 16<<20, true, volume.Options{})
	defer closeVolume(t, from)
	defer closeVolume(t, to)
	write(t, from, 0, noise(1, 8<<20))
	a := snap(t, from, "@a")
	receive(t, to, send(t, from, cairn.VersionID{}, a.VersionID, nil))
	write(t, from, 0, noise(2, 16<<20))
	b := snap(t, from, "@b")
	disk.SetCapacity(19 << 20)
	if _, err := to.Receive(ctx, send(t, from, a.VersionID, b.VersionID, nil), cairn.ReceiveOptions{}); !errors.Is(err, cairn.KindSpace) || cairn.HintOf(err) == "" {
		t.Fatalf("full disk: %v", err)
	}
	l := to.Listing("db", cairn.Want{Versions: true, Partial: true})
	if len(l.Versions) != 1 || !l.Versions[0].IsSnapshot() || l.Partial == nil {
		t.Fatalf("a replica gave something up: %+v", l)
	}
	if !bytes.Equal(readAll(t, to, a.VersionID), append(noise(1, 8<<20), make([]byte, 8<<20)...)) {
		t.Error("the base changed")
	}
	disk.SetCapacity(1 << 30)
	receive(t, to, send(t, from, a.VersionID, b.VersionID, l.Partial.Token))
	if !bytes.Equal(readAll(t, to, b.VersionID), noise(2, 16<<20)) {
		t.Error("the version differs")
	}
}

// What does not fit is refused with both GUIDs, and nothing changes.
func TestReceiveRefusesWhatDoesNotFit(t *testing.T) {
	_, from := onDisk(t, 1<<20, false, volume.Options{})
	_, to := onDisk(t, 1<<20, true, volume.Options{})
	_, plain := onDisk(t, 1<<20, false, volume.Options{})
	defer closeVolume(t, from)
	defer closeVolume(t, to)
	defer closeVolume(t, plain)
	write(t, from, 0, fill(1, 4096))
	a := snap(t, from, "@a")
	b := snap(t, from, "@b")
	try := func(v *volume.Volume, base, target cairn.VersionID) error {
		_, err := v.Receive(ctx, send(t, from, base, target, nil), cairn.ReceiveOptions{})
		return err
	}
	if err := try(plain, cairn.VersionID{}, a.VersionID); !errors.Is(err, cairn.KindConflict) {
		t.Errorf("unsealed head: %v", err)
	}
	err := try(to, a.VersionID, b.VersionID)
	if !errors.Is(err, cairn.KindConflict) || !bytes.Contains([]byte(err.Error()), []byte(a.GUID.String())) {
		t.Errorf("base that is not there: %v", err)
	}
	receive(t, to, send(t, from, cairn.VersionID{}, a.VersionID, nil))
	if err := try(to, cairn.VersionID{}, a.VersionID); !errors.Is(err, cairn.KindExists) {
		t.Errorf("again: %v", err)
	}
	if err := try(to, cairn.VersionID{}, b.VersionID); !errors.Is(err, cairn.KindConflict) {
		t.Errorf("a full stream onto a version: %v", err)
	}
	if err := to.Device().WriteAt(ctx, fill(9, 4096), 0, 0); !errors.Is(err, cairn.KindConflict) {
		t.Errorf("write to a sealed head: %v", err)
	}
	if err := to.SetSealed(ctx, false); err != nil {
		t.Fatal(err)
	}
	write(t, to, 0, fill(9, 4096))
	if err := to.SetSealed(ctx, true); err != nil {
		t.Fatal(err)
	}
	if err := try(to, a.VersionID, b.VersionID); !errors.Is(err, cairn.KindConflict) {
		t.Errorf("head written to since: %v", err)
	}
}

func TestReceiveFollowsTheSize(t *testing.T) {
	_, from := onDisk(t, 2<<20, false, volume.Options{})
	_, to := onDisk(t, 2<<20, true, volume.Options{})
	defer closeVolume(t, from)
	defer closeVolume(t, to)
	write(t, from, 0, noise(1, 2<<20))
	last := snap(t, from, "@0")
	receive(t, to, send(t, from, cairn.VersionID{}, last.VersionID, nil))
	for i, size := range []int64{1<<20 + 512, 3 << 20, 1 << 19} {
		if err := from.Resize(ctx, size); err != nil {
			t.Fatal(err)
		}
		write(t, from, 4096, noise(uint64(i), 8192))
		next := snap(t, from, "@"+string(rune('1'+i)))
		receive(t, to, send(t, from, last.VersionID, next.VersionID, nil))
		last = next
	}
	for _, v := range from.Listing("db", cairn.Want{Versions: true}).Versions {
		if !bytes.Equal(readAll(t, to, v.VersionID), readAll(t, from, v.VersionID)) {
			t.Errorf("%s differs", v.Name)
		}
	}
}

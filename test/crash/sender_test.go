package crash_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"

	"cairn"
	"cairn/internal/system/volume"
	"cairn/internal/testkit/fakedisk"
)

const (
	sentBytes   = 12 << 20 // of the version that is sent
	windowBytes = 4 << 20  // of data between two points of the engine's streams
)

// sending is a source whose newest version has crossed to a replica in part.
type sending struct {
	source, target *fakedisk.Disk
	to             cairn.Version
	made           int   // entry of the source's log behind the capture
	received       int64 // what the replica has
}

// openBoth opens what the disks hold.
func openBoth(source, target *fakedisk.Disk) (a, b *volume.Volume, err error) {
	ctx := context.Background()
	if a, err = volume.Open(ctx, source, volume.Options{Name: "a"}); err != nil {
		return nil, nil, err
	}
	b, err = volume.Open(ctx, target, volume.Options{Name: "b"})
	return a, b, err
}

// cross sends the version to the replica, from its pending point on, and cuts the
// stream after n bytes when n is not negative. It gives the data that was sent.
func cross(a, b *volume.Volume, to cairn.VersionID, n int64) (moved int64, err error) {
	ctx := context.Background()
	step := cairn.Step{Dataset: "v", To: to}
	if p := b.Listing("v", cairn.Want{Partial: true}).Partial; p != nil {
		step.Resume = p.Token
	}
	s, err := a.Send(ctx, step, []cairn.Format{cairn.FormatBlocks})
	if err != nil {
		return 0, err
	}
	c := &counting{r: s.Body, left: n}
	s.Body = struct {
		io.Reader
		io.Closer
	}{c, s.Body}
	_, err = b.Receive(ctx, s, cairn.ReceiveOptions{Owner: "harness"})
	return c.n, err
}

// counting counts what is read, and ends early when left is not negative.
type counting struct {
	r       io.Reader
	n, left int64
}

func (c *counting) Read(p []byte) (int, error) {
	if c.left >= 0 {
		if c.n >= c.left {
			return 0, io.ErrUnexpectedEOF
		}
		p = p[:min(int64(len(p)), c.left-c.n)]
	}
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// begin makes the source, captures, lets a part of the stream cross, and goes on
// writing at the source while it does.
func begin() (*sending, error) {
	ctx := context.Background()
	x := &sending{source: fakedisk.New(), target: fakedisk.New()}
	err := errors.Join(volume.Create(ctx, x.source, volume.CreateOptions{Size: sentBytes}),
		volume.Create(ctx, x.target, volume.CreateOptions{Size: sentBytes, Sealed: true}))
	if err != nil {
		return nil, err
	}
	a, b, err := openBoth(x.source, x.target)
	if err != nil {
		return nil, err
	}
	fill := func(seed byte, step int64) error {
		noise := noiseOf(seed)
		for off := int64(0); off < sentBytes; off += step {
			p := noise[off : off+1<<20]
			if err := a.Device().WriteAt(ctx, p, off, 0); err != nil {
				return err
			}
		}
		return a.Device().Flush(ctx)
	}
	if err := fill(1, 1<<20); err != nil {
		return nil, err
	}
	if x.to, err = a.Snapshot(ctx, "@a"); err != nil {
		return nil, err
	}
	x.made = x.source.Len()
	if _, err := cross(a, b, x.to.VersionID, 9<<20); !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, fmt.Errorf("a cut stream: %w", err)
	}
	if err := fill(2, 5<<20); err != nil {
		return nil, err
	}
	x.received = b.Listing("v", cairn.Want{Partial: true}).Partial.Received
	return x, nil
}

// A sender that loses power at any entry of its log after the capture sends the
// rest of the version, and not the whole.
func TestSenderLosesPower(t *testing.T) {
	x, err := begin()
	if err != nil {
		t.Fatal(err)
	}
	if x.received < windowBytes {
		t.Fatalf("of 9 MiB that crossed, %d bytes count", x.received)
	}
	target := x.target.Replay()
	target.Seek(x.target.Len())
	disks := 0
	for r := x.source.Replay(); r.Next(); {
		if r.Pos() < x.made || !full() && r.Pos()%3 > 0 {
			continue
		}
		for _, what := range []fakedisk.Subset{fakedisk.Nothing, fakedisk.Everything} {
			disks++
			if err := x.goOn(r.Crash(what), target.Crash(fakedisk.Everything)); err != nil {
				t.Fatalf("cut %d, outcome %d: %v\n%s", r.Pos(), what, err, tail(x.source.Log(), r.Pos()))
			}
		}
	}
	t.Logf("%d crashed disks, %d of %d bytes had crossed", disks, x.received, int64(sentBytes))
}

// goOn sends the rest and compares.
func (x *sending) goOn(source, target *fakedisk.Disk) error {
	a, b, err := openBoth(source, target)
	if err != nil {
		return err
	}
	moved, err := cross(a, b, x.to.VersionID, -1)
	if err != nil {
		return err
	}
	if limit := sentBytes - x.received + 1<<20; moved > limit {
		return fmt.Errorf("%d bytes were sent, %d were missing", moved, sentBytes-x.received)
	}
	r, err := b.OpenVersion(context.Background(), x.to.VersionID)
	if err != nil {
		return err
	}
	p := make([]byte, sentBytes)
	if err := errors.Join(r.ReadAt(context.Background(), p, 0), r.Close()); err != nil {
		return err
	}
	if !bytes.Equal(p, noiseOf(1)) {
		return errors.New("the replica holds something else")
	}
	return nil
}

// noiseOf is content that does not become smaller in a stream.
func noiseOf(seed byte) []byte {
	p := make([]byte, sentBytes)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(p) // never fails
	return p
}

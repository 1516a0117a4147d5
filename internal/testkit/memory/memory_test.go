package memory_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"cairn"
	"cairn/internal/testkit/memory"
)

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func random(n int) []byte {
	p := make([]byte, n)
	r := rand.New(rand.NewPCG(1, uint64(n)))
	for i := range p {
		p[i] = byte(r.Uint32())
	}
	return p
}

func capture(t *testing.T, ep *cairn.Endpoint, ds, name string) cairn.Version {
	t.Helper()
	got := must[[]cairn.Captured](t)(ep.Snapshots.Snapshot(t.Context(), name, []string{ds}, false))
	if got[0].Err != nil {
		t.Fatal(got[0].Err)
	}
	return got[0].Version
}

func list(t *testing.T, ep *cairn.Endpoint, ds string) *cairn.Listing {
	t.Helper()
	for l, err := range ep.Lister.List(t.Context(), cairn.Query{Filter: cairn.All, Names: []string{ds}, Want: cairn.Want{Versions: true, Leases: true, Partial: true}}) {
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	return nil
}

func copyStep(ctx context.Context, from, to *cairn.Endpoint, step cairn.Step) error {
	s, err := from.Sender.Send(ctx, step, []cairn.Format{cairn.FormatBlocks})
	if err != nil {
		return err
	}
	_, err = to.Receiver.Receive(ctx, s, cairn.ReceiveOptions{Owner: "test"})
	return err
}

// Full and incremental copies arrive bit for bit, also when each is cut in the
// middle and resumed.
func TestReplicateWithCuts(t *testing.T) {
	src, dst := memory.New("here"), memory.New("vault")
	from, to := src.Endpoint(), dst.Endpoint()
	const size = 1<<20 + 512
	if err := src.Create("db", size); err != nil {
		t.Fatal(err)
	}
	cut := errors.New("cut")
	var base cairn.VersionID
	for i, name := range []string{"@a", "@b", "@c"} {
		if err := src.Write("db", int64(i)*10_000, random(300_000+i)); err != nil {
			t.Fatal(err)
		}
		v := capture(t, from, "db", name)
		src.Hook(memory.On("send", memory.Body, func(_ context.Context, c memory.Call) error {
			if c.Bytes > 200_000 {
				return cut
			}
			return nil
		}))
		step := cairn.Step{Dataset: "db", From: base, To: v.VersionID}
		if err := copyStep(t.Context(), from, to, step); !errors.Is(err, cut) {
			t.Fatalf("cut stream: %v", err)
		}
		src.Unhook()
		l := list(t, to, "db")
		if len(l.Versions) != i || l.Partial == nil || l.Partial.Received < 100_000 {
			t.Fatalf("after the cut: %d versions, partial %+v", len(l.Versions), l.Partial)
		}
		step.Resume = l.Partial.Token
		if err := copyStep(t.Context(), from, to, step); err != nil {
			t.Fatal(err)
		}
		want := must[[]byte](t)(src.Content("db", name))
		if got := must[[]byte](t)(dst.Content("db", name)); !bytes.Equal(got, want) {
			t.Fatalf("%s differs", name)
		}
		base = v.VersionID
	}
	if l := list(t, to, "db"); l.Partial != nil || !l.Dataset.Sealed {
		t.Errorf("after all: partial %v, sealed %v", l.Partial, l.Dataset.Sealed)
	}
}

func TestFailedFirstReceiveLeavesNoDataset(t *testing.T) {
	dst := memory.New("vault")
	h := cairn.StreamHeader{Format: cairn.FormatBlocks, Dataset: "db", Kind: cairn.KindVolume, Volume: 4096,
		To: cairn.Version{VersionID: cairn.VersionID{Name: "@a", GUID: 1}}}
	_, err := dst.Endpoint().Receiver.Receive(t.Context(), &cairn.Stream{Header: h, Body: io.NopCloser(bytes.NewReader(random(99)))}, cairn.ReceiveOptions{})
	if !errors.Is(err, cairn.KindCorrupt) || list(t, dst.Endpoint(), "db") != nil {
		t.Errorf("%v, listed %v", err, list(t, dst.Endpoint(), "db"))
	}
}

func TestHooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := memory.New("here")
		if err := p.Create("db", 4096); err != nil {
			t.Fatal(err)
		}
		ep := p.Endpoint()
		p.Hook(memory.On("snapshot", memory.Begin, memory.Fail(1, cairn.KindUnavailable)),
			memory.On("seal", memory.Begin, memory.Hang),
			memory.On("resize", memory.Done, memory.Fail(0, cairn.KindUnavailable)),
			memory.On("rename", memory.Begin, memory.Delay(time.Minute)))
		if _, err := ep.Snapshots.Snapshot(t.Context(), "@a", []string{"db"}, false); !errors.Is(err, cairn.KindUnavailable) {
			t.Errorf("first: %v", err)
		}
		capture(t, ep, "db", "@a")
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		begin := time.Now()
		if err := ep.Seals.Seal(ctx, "db", true); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != time.Hour {
			t.Errorf("hang: %v after %s", err, time.Since(begin))
		}
		if err := ep.Resizes.Resize(t.Context(), "db", 8192); !errors.Is(err, cairn.KindUnavailable) {
			t.Errorf("hidden success: %v", err)
		}
		begin = time.Now()
		if err := ep.Renames.Rename(t.Context(), "db", "new"); err != nil || time.Since(begin) != time.Minute {
			t.Errorf("delay: %v after %s", err, time.Since(begin))
		}
		if l := list(t, ep, "new"); l == nil || l.Dataset.Size != 8192 {
			t.Errorf("the hidden success did not happen: %+v", l)
		}
	})
}

func TestDamageIsSeen(t *testing.T) {
	p := memory.New("here")
	ep := p.Endpoint()
	if err := p.Create("db", 64<<10); err != nil {
		t.Fatal(err)
	}
	if err := p.Write("db", 8192, random(8192)); err != nil {
		t.Fatal(err)
	}
	v := capture(t, ep, "db", "@a")
	if err := p.Damage("db", "@a", 8192); err != nil {
		t.Fatal(err)
	}
	c := must[cairn.Coverage](t)(ep.Verifies.Verify(t.Context(), "db", v.VersionID))
	if len(c.Damaged) != 1 || c.Damaged[0].Offset != 8192 {
		t.Errorf("coverage %+v", c)
	}
	r := must[cairn.BlockReader](t)(ep.Blocks.OpenVersion(t.Context(), "db", v.VersionID))
	defer r.Close()
	if err := r.ReadAt(t.Context(), make([]byte, 4096), 8192); !errors.Is(err, cairn.KindDamaged) {
		t.Error(err)
	}
	if err := r.ReadAt(t.Context(), make([]byte, 4096), 12288); err != nil {
		t.Error(err)
	}
}

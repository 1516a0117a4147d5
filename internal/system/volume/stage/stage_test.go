package stage_test

import (
	"bytes"
	"errors"
	"fmt"
	"syscall"
	"testing"

	"cairn"
	"cairn/internal/mech/extent"
	"cairn/internal/system/volume/stage"
	"cairn/internal/testkit/fakedisk"
)

var here = stage.Identity{Store: 7, Boot: "this one"}

func content(b byte, blocks int) []byte { return bytes.Repeat([]byte{b}, blocks*cairn.BlockSize) }

func put(t *testing.T, a *stage.Area, first uint64, p []byte) {
	t.Helper()
	if err := a.Put(first, p); err != nil {
		t.Fatal(err)
	}
}

// list writes blocks as number and first byte.
func list(blocks []stage.Block) string {
	s := ""
	for _, b := range blocks {
		s += fmt.Sprintf("%d=%d ", b.No, b.Data[0])
	}
	return s
}

func recovered(t *testing.T, disk *fakedisk.Disk, id stage.Identity) string {
	t.Helper()
	got, err := stage.New(disk, "stage", id).Recover()
	if err != nil {
		t.Fatal(err)
	}
	return list(got)
}

func TestWritesOutliveTheProcess(t *testing.T) {
	disk := fakedisk.New()
	if got := recovered(t, disk, here); got != "" {
		t.Errorf("without a file: %s", got)
	}
	a := stage.New(disk, "stage", here)
	put(t, a, 5, content(1, 1))
	put(t, a, 9, content(2, 2))
	put(t, a, 5, content(3, 1))
	r, again := a.Begin()
	if r == nil || again || list(r.Blocks()) != "5=3 9=2 10=2 " {
		t.Fatalf("round %s, again %v", list(r.Blocks()), again)
	}
	put(t, a, 9, content(4, 1)) // goes to the other region
	if got := list(a.Look(9, 2)); got != "9=2 10=2 9=4 " {
		t.Errorf("look: %s", got)
	}
	if !a.Holds(0, 100) || !a.Holds(10, 1) || a.Holds(6, 3) {
		t.Error("what is held is told wrong")
	}
	set := &extent.Bitmap{}
	if a.Add(set); set.Count() != 3 || !set.Has(9) {
		t.Errorf("%d blocks", set.Count())
	}
	if got := recovered(t, disk, here); got != "5=1 9=2 10=2 5=3 9=4 " {
		t.Errorf("after a death: %s", got)
	}
	if _, again = a.Begin(); !again {
		t.Error("a round that was not ended is not given again")
	}
	a.End()
	if got := recovered(t, disk, here); got != "9=4 " {
		t.Errorf("after the end of the first round: %s", got)
	}
	if r, again = a.Begin(); again || list(r.Blocks()) != "9=4 " {
		t.Error("second round", list(r.Blocks()))
	}
	a.End()
	if r, _ = a.Begin(); r != nil || a.Holds(0, 100) {
		t.Error("something is left")
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if names, _ := disk.ReadDir("."); len(names) != 0 {
		t.Errorf("left behind: %v", names)
	}
}

// What a process left in both regions is staged anew by its successor, survives that
// one's death too, and takes more writes.
func TestWritesAreAdopted(t *testing.T) {
	disk := fakedisk.New()
	a := stage.New(disk, "stage", here)
	put(t, a, 5, content(1, 1))
	a.Begin()
	put(t, a, 5, content(2, 1))
	put(t, a, 9, content(3, 2))
	for range 2 {
		a = stage.New(disk, "stage", here) // the one before died
		if err := a.Adopt(); err != nil {
			t.Fatal(err)
		}
		if got := list(a.Look(5, 1)) + list(a.Look(9, 2)); got != "5=1 5=2 9=3 10=3 " || !a.Holds(10, 1) || a.Holds(6, 3) {
			t.Fatalf("adopted: %s", got)
		}
	}
	put(t, a, 9, content(4, 1))
	if got := recovered(t, disk, here); got != "5=1 5=2 9=3 10=3 9=4 " {
		t.Errorf("with one more: %s", got)
	}
	for _, want := range []string{"5=1 ", "5=2 9=4 10=3 "} {
		r, _ := a.Begin()
		if got := list(r.Blocks()); got != want {
			t.Errorf("carried out %s, want %s", got, want)
		}
		a.End()
	}
	if r, _ := a.Begin(); r != nil || a.Holds(0, 100) || recovered(t, disk, here) != "" {
		t.Error("something is left")
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if err := stage.New(disk, "stage", here).Adopt(); err != nil {
		t.Errorf("nothing to adopt: %v", err)
	}
}

func TestRecordsOfOthersDoNotCount(t *testing.T) {
	disk := fakedisk.New()
	a := stage.New(disk, "stage", here)
	put(t, a, 5, content(1, 1))
	for _, other := range []stage.Identity{{Store: 8, Boot: here.Boot}, {Store: here.Store, Boot: "the next"}} {
		if got := recovered(t, disk, other); got != "" {
			t.Errorf("%+v: %s", other, got)
		}
	}
}

// Each byte of a record spoiled ends the list before it.
func TestSpoiledRecordEndsTheList(t *testing.T) {
	disk := fakedisk.New()
	a := stage.New(disk, "stage", here)
	put(t, a, 1, content(1, 1))
	put(t, a, 2, content(2, 2))
	f, err := disk.Open("stage", true)
	if err != nil {
		t.Fatal(err)
	}
	const second = 4096 + 64
	for at := int64(second); at < second+64+2*4096; at++ {
		if at-second >= 64 && at%512 != 0 {
			continue
		}
		old, bad := make([]byte, 1), make([]byte, 1)
		if _, err := f.ReadAt(old, at); err != nil {
			t.Fatal(err)
		}
		bad[0] = old[0] ^ 0x10
		write(t, f, bad, at)
		if got := recovered(t, disk, here); got != "1=1 " {
			t.Errorf("byte %d: %s", at, got)
		}
		write(t, f, old, at)
	}
}

func write(t *testing.T, f interface {
	WriteAt(p []byte, off int64) (int, error)
}, p []byte, at int64) {
	t.Helper()
	if _, err := f.WriteAt(p, at); err != nil {
		t.Fatal(err)
	}
}

func TestFullRoundAsksToBeCarriedOut(t *testing.T) {
	a := stage.New(fakedisk.New(), "stage", here)
	for n := range uint64(stage.RoundBlocks) {
		put(t, a, n, content(1, 1))
	}
	if err := a.Put(0, content(2, 1)); !errors.Is(err, stage.ErrFull) {
		t.Fatalf("block too many: %v", err)
	}
	if r, _ := a.Begin(); len(r.Blocks()) != stage.RoundBlocks {
		t.Error("the round is not whole")
	}
	put(t, a, 0, content(2, 1))
	a.End()
	a.Begin()
	a.End()
	a.Hasten()
	put(t, a, 0, content(3, stage.RoundBlocks/2)) // more than a short round holds, and alone
	if err := a.Put(1, content(4, 1)); !errors.Is(err, stage.ErrFull) {
		t.Errorf("a short round takes more: %v", err)
	}
}

// A record that could not be written, or made invalid, may be there: nothing more
// is taken, everything counts as held, until the file is gone.
func TestBrokenAreaEndsWithItsFile(t *testing.T) {
	for _, atEnd := range []bool{false, true} {
		disk := fakedisk.New()
		a := stage.New(disk, "stage", here)
		put(t, a, 1, content(1, 1))
		fail := func(c fakedisk.Call) error {
			if c.Op == fakedisk.OpWrite || c.Op == fakedisk.OpRemove {
				return syscall.EIO
			}
			return nil
		}
		disk.OnCall(fail)
		if !atEnd {
			if err := a.Put(2, content(2, 1)); !errors.Is(err, syscall.EIO) {
				t.Fatal(err)
			}
		}
		if r, _ := a.Begin(); list(r.Blocks()) != "1=1 " {
			t.Error("the good write is gone")
		}
		a.End()
		if err := a.Put(3, content(2, 1)); !errors.Is(err, stage.ErrBroken) {
			t.Errorf("broken, and takes a write: %v", err)
		}
		if !a.Holds(100, 1) {
			t.Error("a block is said to be free while its record may be there")
		}
		if err := a.Discard(); !errors.Is(err, syscall.EIO) {
			t.Errorf("discard: %v", err)
		}
		disk.OnCall(nil)
		if err := a.Discard(); err != nil || a.Holds(100, 1) {
			t.Errorf("discarded: %v", err)
		}
		if got := recovered(t, disk, here); got != "" {
			t.Errorf("left: %s", got)
		}
	}
}

package tape_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cairn"
	"cairn/internal/policy/syncpolicy"
	"cairn/internal/system/tape"
	"cairn/internal/testkit/faketape"
)

// While an index is written, nobody waits longer for the drive than a few of its
// calls take, and writers do not wait for it at all. The clock is driven: a record
// takes ten milliseconds, moving the tape one.
func TestNobodyWaitsForAnIndex(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const record, most = 10 * time.Millisecond, 50 * time.Millisecond
		d := blank(t)
		f := mount(t, d, tape.FSOptions{})
		for i := range 4000 {
			write(t, f.Root(), fmt.Sprint(i), []byte("x"))
		}
		write(t, f.Root(), "old", make([]byte, 200*4096))
		if err := f.Sync(t.Context(), syncpolicy.Manual, false); err != nil {
			t.Fatal(err)
		}
		var quick atomic.Bool
		d.Fail = func(call string) error {
			switch {
			case quick.Load():
			case call == "locate":
				time.Sleep(record / 10)
			default:
				time.Sleep(record)
			}
			return nil
		}
		old, h := child(t, f.Root(), "old"), begin(t, f.Root(), "new", nil)
		start := time.Now()
		done := make(chan error, 1)
		go func() { done <- f.Sync(t.Context(), syncpolicy.Manual, false) }()
		time.Sleep(5 * record)
		var reads, writes int
		var longestRead, longestWrite time.Duration
		for running := true; running; {
			at := time.Now()
			if _, err := old.Read(t.Context(), make([]byte, 4096), uint64(reads*37%200*4096)); err != nil {
				t.Fatal(err)
			}
			longestRead, reads = max(longestRead, time.Since(at)), reads+1
			at = time.Now()
			if err := h.Write(t.Context(), make([]byte, 1000), uint64(writes*1000)); err != nil {
				t.Fatal(err)
			}
			longestWrite, writes = max(longestWrite, time.Since(at)), writes+1
			select {
			case err := <-done:
				if err != nil {
					t.Fatal(err)
				}
				running = false
			default:
			}
		}
		t.Logf("an index of %v: %d reads, the longest %v; %d writes, the longest %v", time.Since(start), reads, longestRead, writes, longestWrite)
		if longestRead > most || longestWrite > 0 || reads < 50 {
			t.Errorf("limit %v", most)
		}
		quick.Store(true)
		finish(t, h)
		unmount(t, f)
	})
}

// A sync in the middle of a copy: that generation names the file, and rolled back
// to it the file is exactly the bytes that were on tape then, all others are whole.
func TestRolledBackIntoACopy(t *testing.T) {
	d := blank(t)
	f := mount(t, d, tape.FSOptions{})
	whole, large := noise(rand.New(rand.NewPCG(5, 5)), 9000), noise(rand.New(rand.NewPCG(6, 6)), 60000)
	write(t, f.Root(), "A", whole)
	b := begin(t, f.Root(), "B", large[:31000])
	if err := f.Sync(t.Context(), syncpolicy.Manual, false); err != nil {
		t.Fatal(err)
	}
	middle := f.Status().Generation
	if err := b.Write(t.Context(), large[31000:], 31000); err != nil {
		t.Fatal(err)
	}
	finish(t, b)
	unmount(t, f)
	tp, err := tape.Open(t.Context(), d, "tape")
	if err != nil {
		t.Fatal(err)
	}
	ix, err := tp.At(t.Context(), middle)
	if err != nil {
		t.Fatal(err)
	}
	if x, ok := ix.Extension(); !ok || x.OpenCount != 1 || x.Open[0] != "/B" {
		t.Errorf("generation %d says %+v, %v", middle, x, ok)
	}
	if err := tp.Rollback(t.Context(), middle, "c", now); err != nil {
		t.Fatal(err)
	}
	f = mount(t, d, tape.FSOptions{})
	if got := content(t, child(t, f.Root(), "B")); !bytes.Equal(got, large[:31000]) {
		t.Errorf("B has %d bytes", len(got))
	}
	if got := content(t, child(t, f.Root(), "A")); !bytes.Equal(got, whole) {
		t.Errorf("A has %d bytes", len(got))
	}
	unmount(t, f)
}

// After trouble of a kind nothing is written that could make it worse, callers and
// status say what it is, and what was committed is there.
func TestTroubleUnderAMount(t *testing.T) {
	for _, c := range []struct {
		name    string
		begin   func(d, other *faketape.Tape)
		kind    cairn.Kind
		unmount bool // unmounting succeeds in the end
	}{
		{"write-protected", func(d, _ *faketape.Tape) { d.Fail = refuseWrites(cairn.KindPermission) }, cairn.KindPermission, false},
		{"full in the index", func(d, _ *faketape.Tape) { d.Fail = refuseWrites(cairn.KindSpace) }, cairn.KindSpace, false},
		{"another medium", func(d, other *faketape.Tape) { d.Swap(other); d.Fail = attention() }, cairn.KindConflict, false},
		{"one error", func(d, _ *faketape.Tape) { d.Fail = attention() }, cairn.KindIO, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d, other := blank(t), blank(t)
				for range 200 { // longer than the tape in use
					if _, err := other.Write(t.Context(), []byte("data of others")); err != nil {
						t.Fatal(err)
					}
				}
				f := mount(t, d, tape.FSOptions{})
				write(t, f.Root(), "kept", []byte("kept"))
				if err := f.Sync(t.Context(), syncpolicy.Manual, true); err != nil {
					t.Fatal(err)
				}
				first := d.Cut(d.Changes(), false)
				c.begin(d, other)
				before := d.Changes()
				h := begin(t, f.Root(), "new", []byte("new"))
				if err := h.Node().Fsync(t.Context()); !errors.Is(err, c.kind) {
					t.Errorf("fsync: %v, want %v", err, c.kind)
				}
				if s := f.Status(); cairn.KindOf(s.Err) != c.kind && cairn.KindOf(s.Broken) != c.kind {
					t.Errorf("status: %v, %v", s.Err, s.Broken)
				}
				if got := content(t, child(t, f.Root(), "new")); string(got) != "new" && c.kind != cairn.KindSpace {
					t.Errorf("new reads %q", got)
				}
				h.Close()
				if err := f.Close(t.Context()); (err == nil) != c.unmount {
					t.Errorf("unmounting: %v", err)
				}
				if c.kind == cairn.KindConflict && d.Changes() != before {
					t.Errorf("%d writes on the other medium", d.Changes()-before)
				}
				again := mount(t, first, tape.FSOptions{ReadOnly: true})
				if got := content(t, child(t, again.Root(), "kept")); string(got) != "kept" {
					t.Errorf("kept reads %q", got)
				}
			})
		})
	}
}

func refuseWrites(kind cairn.Kind) func(string) error {
	return func(call string) error {
		if call == "write" || call == "filemark" {
			return &cairn.Error{Op: call, Kind: kind}
		}
		return nil
	}
}

// attention fails the next write, as a drive does that wants to be noticed.
func attention() func(string) error {
	said := false
	return func(call string) error {
		if said || call != "write" {
			return nil
		}
		said = true
		return &cairn.Error{Op: call, Kind: cairn.KindIO, Err: errors.New("unit attention")}
	}
}

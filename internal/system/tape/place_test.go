package tape_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"cairn"
	"cairn/internal/policy/syncpolicy"
	"cairn/internal/system/tape"
	"cairn/internal/testkit/faketape"
	"cairn/ltfs"
)

// partitionsOf tells where each file's data stands in the newest index.
func partitionsOf(t *testing.T, d *faketape.Tape) map[string]string {
	t.Helper()
	tp, err := tape.Open(t.Context(), d, "tape")
	if err != nil {
		t.Fatal(err)
	}
	if notes := tp.Notes(); len(notes) > 0 {
		t.Errorf("out of order: %v", notes)
	}
	if problems, err := tp.Check(t.Context(), true); err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
	at := map[string]string{}
	for name, n := range tp.Index().All() {
		if n.File == nil {
			continue
		}
		at[name] = ""
		for _, e := range n.File.Extents {
			at[name] += string(e.Partition)
		}
	}
	return at
}

// Small files that the rules name stand in the index partition after unmounting,
// also those of the session before, and are what was written; a sync before that
// leaves them in the data partition.
func TestPlacement(t *testing.T) {
	d := blank(t)
	rules := &ltfs.Policy{MaxSize: 5000, Names: []string{"*.txt"}}
	rng := rand.New(rand.NewPCG(4, 4))
	want := map[string][]byte{}
	for session := range 3 {
		f := mount(t, d, tape.FSOptions{Rules: rules})
		for i, size := range []int{10, 4999, 5001, 0} {
			for _, suffix := range []string{"txt", "bin"} {
				name := fmt.Sprintf("%d-%d.%s", session, i, suffix)
				want[name] = noise(rng, size)
				write(t, f.Root(), name, want[name])
			}
		}
		if session == 1 { // everything is synced: unmounting still places it
			if err := f.Sync(t.Context(), syncpolicy.Manual, false); err != nil {
				t.Fatal(err)
			}
			if a := child(t, f.Root(), "1-0.txt").Attr(); a.First.Partition != 'b' {
				t.Errorf("a sync placed a file: %+v", a)
			}
		}
		unmount(t, f)
		at := partitionsOf(t, d)
		for i, where := range []string{"a", "a", "b", ""} {
			if got := at[fmt.Sprintf("/%d-%d.txt", session, i)]; got != where {
				t.Errorf("session %d: text %d stands in %q, want %q", session, i, got, where)
			}
			if got := at[fmt.Sprintf("/%d-%d.bin", session, i)]; got == "a" {
				t.Errorf("session %d: a file that no rule names stands in the index partition", session)
			}
		}
		if at["/0-0.txt"] != "a" {
			t.Errorf("session %d: a file of the first session stands in %q", session, at["/0-0.txt"])
		}
	}
	f := mount(t, d, tape.FSOptions{})
	for name, data := range want {
		if got := content(t, child(t, f.Root(), name)); !bytes.Equal(got, data) {
			t.Errorf("%s differs", name)
		}
	}
	unmount(t, f)
}

// A volume whose rules are its own refuses those of a mount.
func TestRulesOfAMount(t *testing.T) {
	d := faketape.New()
	_, err := tape.Format(t.Context(), d, "tape", tape.FormatOptions{BlockSize: 4096, Creator: "c", Now: now, LockPolicy: true, Policy: &ltfs.Policy{MaxSize: 100}})
	if err != nil {
		t.Fatal(err)
	}
	tp, err := tape.Open(t.Context(), d, "tape")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tape.NewFS(t.Context(), tp, tape.FSOptions{Rules: &ltfs.Policy{MaxSize: 5}}); !errors.Is(err, cairn.KindPermission) {
		t.Errorf("rules of a mount: %v", err)
	}
	f := mount(t, d, tape.FSOptions{})
	write(t, f.Root(), "small", []byte("x"))
	unmount(t, f)
	if at := partitionsOf(t, d); at["/small"] != "a" {
		t.Errorf("by the volume's own rules it stands in %q", at["/small"])
	}
}

// A full index partition leaves files where they are.
func TestPlacementWithoutRoom(t *testing.T) {
	d := blank(t, 40<<10, 0)
	f := mount(t, d, tape.FSOptions{Rules: &ltfs.Policy{MaxSize: 5000}})
	for i := range 20 {
		write(t, f.Root(), fmt.Sprint(i), bytes.Repeat([]byte{byte(i)}, 4000))
	}
	unmount(t, f)
	count := map[string]int{}
	for _, at := range partitionsOf(t, d) {
		count[at]++
	}
	if count["b"] == 0 || count["a"]+count["b"]+count["bb"] != 20 {
		t.Errorf("%v", count)
	}
}

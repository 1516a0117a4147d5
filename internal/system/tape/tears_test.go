package tape_test

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"cairn"
	"cairn/internal/system/tape"
	"cairn/internal/system/tape/drive"
	"cairn/internal/testkit/faketape"
	"cairn/ltfs"
)

var tears = flag.Int("tears", 200, "torn tapes to look at")

// committed is what a Commit that returned promised: from this change of the
// medium on, the generation is there with these files.
type committed struct {
	change     int
	generation uint64
	files      map[string][]byte
}

// recording does random work on a fresh tape and says what was promised when. On
// odd seeds small files go to the index partition.
func recording(t *testing.T, seed uint64) (*faketape.Tape, []committed) {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 3))
	d := faketape.New()
	o := tape.FormatOptions{BlockSize: 4096, Creator: "c", Now: now}
	if seed%2 == 1 {
		o.Policy = &ltfs.Policy{MaxSize: 6000}
	}
	tp, err := tape.Format(t.Context(), d, "tape", o)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	history := []committed{{d.Changes(), 1, map[string][]byte{}}}
	scratch := t.TempDir()
	for range 3 + rng.IntN(4) {
		for range 1 + rng.IntN(4) {
			name := fmt.Sprintf("f%d", rng.IntN(6))
			data := make([]byte, rng.IntN(15000))
			for i := range data {
				data[i] = byte(rng.Uint32())
			}
			file := filepath.Join(scratch, name)
			if err := os.WriteFile(file, data, 0o644); err != nil {
				t.Fatal(err)
			}
			if _, err := tp.Put(t.Context(), file, "/"); err != nil {
				t.Fatal(err)
			}
			files["/"+name] = data
		}
		if err := tp.Commit(t.Context(), "c", "", now); err != nil {
			t.Fatal(err)
		}
		promised := map[string][]byte{}
		for k, v := range files {
			promised[k] = v
		}
		history = append(history, committed{d.Changes(), tp.Index().Generation, promised})
	}
	return d, history
}

// At every record boundary, and inside records, with and without end marks: the
// tape opens, every generation whose commit had returned is listed with its files,
// a dry run of the recovery writes nothing, and after the recovery the tape is in
// order, may be written to, and still has every generation.
func TestTornTapes(t *testing.T) {
	looked := 0
	later := filepath.Join(t.TempDir(), "later")
	if err := os.WriteFile(later, []byte("later"), 0o644); err != nil {
		t.Fatal(err)
	}
	for seed := uint64(0); looked < *tears; seed++ {
		d, history := recording(t, seed)
		for n := history[0].change; n <= d.Changes() && looked < *tears; n++ {
			for _, variant := range []struct {
				torn bool
				lost []int
			}{{false, nil}, {true, nil}, {false, []int{1}}, {true, []int{0, 1}}} {
				looked++
				what := fmt.Sprintf("seed %d, %d of %d changes, torn %v, lost ends %v", seed, n, d.Changes(), variant.torn, variant.lost)
				cut := d.Cut(n, variant.torn, variant.lost...)
				if !endsInIndex(cut, 0) && !endsInIndex(cut, 1) {
					t.Errorf("%s: neither partition ends in an index", what)
				}
				examineTear(t, cut, promisedAt(history, n), later, what)
				if t.Failed() {
					t.Fatalf("stopped after %d torn tapes", looked)
				}
			}
		}
	}
	t.Logf("%d torn tapes", looked)
}

// endsInIndex reports whether the last things in a partition are an index and its
// filemark.
func endsInIndex(d *faketape.Tape, part int) bool {
	for _, all := range places(d) {
		for _, s := range all {
			mark, there := d.Record(drive.Position{Partition: part, Block: s.last + 1})
			_, more := d.Record(drive.Position{Partition: part, Block: s.last + 2})
			if s.part == part && there && mark == nil && !more {
				return true
			}
		}
	}
	return false
}

func promisedAt(history []committed, change int) (kept []committed) {
	for _, c := range history {
		if c.change <= change {
			kept = append(kept, c)
		}
	}
	return kept
}

func examineTear(t *testing.T, d *faketape.Tape, promised []committed, later, what string) {
	t.Helper()
	tp, err := tape.Open(t.Context(), d, "tape")
	if err != nil {
		t.Errorf("%s: %v", what, err)
		return
	}
	checkPromised(t, tp, promised, what)
	before := d.Changes()
	if _, err := tp.Recover(t.Context(), true, "c", now); err != nil {
		t.Errorf("%s: dry run: %v", what, err)
	}
	if d.Changes() != before {
		t.Errorf("%s: the dry run wrote", what)
	}
	if _, err := tp.Recover(t.Context(), false, "c", now); err != nil {
		t.Errorf("%s: recovery: %v", what, err)
		return
	}
	again, err := tape.Open(t.Context(), d, "tape")
	if err != nil {
		t.Errorf("%s: after recovery: %v", what, err)
		return
	}
	if problems, err := again.Check(t.Context(), true); err != nil || len(problems) > 0 {
		t.Errorf("%s: after recovery: %v, %v", what, problems, err)
	}
	checkPromised(t, again, promised, what+", after recovery")
	if _, err := again.Put(t.Context(), later, "/"); err != nil {
		t.Errorf("%s: put after recovery: %v", what, err)
	}
	if err := again.Commit(t.Context(), "c", "", now); err != nil {
		t.Errorf("%s: commit after recovery: %v", what, err)
	}
}

// allListed finds every promised generation in the history and returns the newest
// one's index, nil when something is missing.
func allListed(t *testing.T, tp *tape.Tape, promised []committed, what string) (newest *ltfs.Index) {
	t.Helper()
	found := map[uint64]*ltfs.Index{}
	for g, err := range tp.History(t.Context()) {
		if err != nil {
			t.Errorf("%s: history: %v", what, err)
			return nil
		}
		found[g.Index.Generation] = g.Index
	}
	for _, c := range promised {
		if newest = found[c.generation]; newest == nil {
			t.Errorf("%s: generation %d is gone", what, c.generation)
			return nil
		}
	}
	return newest
}

// checkPromised finds every generation in the history and reads the newest one's
// files.
func checkPromised(t *testing.T, tp *tape.Tape, promised []committed, what string) {
	t.Helper()
	newest := promised[len(promised)-1]
	ix := allListed(t, tp, promised, what)
	if ix == nil {
		return
	}
	held := 0
	for name, n := range ix.All() {
		if n.File == nil {
			continue
		}
		held++
		if got, err := tp.ReadFile(t.Context(), n.File); err != nil || !bytes.Equal(got, newest.files[name]) {
			t.Errorf("%s: %s of generation %d differs (%v)", what, name, newest.generation, err)
		}
	}
	if held != len(newest.files) {
		t.Errorf("%s: generation %d has %d files, want %d", what, newest.generation, held, len(newest.files))
	}
}

// Every call of the drive fails once: the error comes through, and what was
// committed before is there for the next opening.
func TestDriveErrorsAtEveryCall(t *testing.T) {
	base, history := recording(t, 5)
	file := filepath.Join(t.TempDir(), "more")
	if err := os.WriteFile(file, make([]byte, 9000), 0o644); err != nil {
		t.Fatal(err)
	}
	boom := &cairn.Error{Op: "drive", Kind: cairn.KindIO}
	for fail := 0; ; fail++ {
		d := base.Cut(base.Changes(), false)
		calls := 0
		d.Fail = func(string) error {
			calls++
			if calls == fail+1 {
				return boom
			}
			return nil
		}
		err := work(t, d, file)
		if calls <= fail {
			if err != nil {
				t.Fatalf("without a fault: %v", err)
			}
			break
		}
		d.Fail = nil
		again, oerr := tape.Open(t.Context(), d, "tape")
		if oerr != nil {
			t.Fatalf("call %d failed (%v); afterwards: %v", fail, err, oerr)
		}
		if len(again.Notes()) > 0 {
			if _, err := again.Recover(t.Context(), false, "c", now); err != nil {
				t.Fatalf("call %d: recovery: %v", fail, err)
			}
		}
		checkPromised(t, again, history, fmt.Sprintf("call %d failed", fail))
	}
}

func work(t *testing.T, d drive.Drive, file string) error {
	tp, err := tape.Open(t.Context(), d, "tape")
	if err != nil {
		return err
	}
	if _, err := tp.Put(t.Context(), file, "/"); err != nil {
		return err
	}
	return tp.Commit(t.Context(), "c", "", now)
}

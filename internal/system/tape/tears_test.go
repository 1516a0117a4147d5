package tape_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"cairn"
	"cairn/internal/system/tape"
	"cairn/internal/system/tape/drive"
	"cairn/internal/testkit/faketape"
	"cairn/ltfs"
)

var tears = flag.Int("tears", 300, "torn tapes to look at")

// committed is what a Commit that returned promised: from this change of the
// medium on, the generation is there with these files.
type committed struct {
	change     int
	generation uint64
	files      map[string][]byte
}

// recording does random work on a fresh tape and says what was promised when.
func recording(t *testing.T, seed uint64) (*faketape.Tape, []committed) {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 3))
	d := faketape.New()
	tp, err := tape.Format(t.Context(), d, "tape", tape.FormatOptions{BlockSize: 4096, Creator: "c", Now: now})
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
	for seed := uint64(0); looked < *tears; seed++ {
		d, history := recording(t, seed)
		for n := history[0].change; n <= d.Changes() && looked < *tears; n++ {
			for _, variant := range []struct {
				torn bool
				lost []int
			}{{false, nil}, {true, nil}, {false, []int{1}}, {true, []int{0, 1}}} {
				looked++
				what := fmt.Sprintf("seed %d, %d of %d changes, torn %v, lost ends %v", seed, n, d.Changes(), variant.torn, variant.lost)
				examineTear(t, d.Cut(n, variant.torn, variant.lost...), promisedAt(history, n), what)
				if t.Failed() {
					t.Fatalf("stopped after %d torn tapes", looked)
				}
			}
		}
	}
	t.Logf("%d torn tapes", looked)
}

func promisedAt(history []committed, change int) (kept []committed) {
	for _, c := range history {
		if c.change <= change {
			kept = append(kept, c)
		}
	}
	return kept
}

func examineTear(t *testing.T, d *faketape.Tape, promised []committed, what string) {
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
	file := filepath.Join(t.TempDir(), "later")
	if err := os.WriteFile(file, []byte("later"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := again.Put(t.Context(), file, "/"); err != nil {
		t.Errorf("%s: put after recovery: %v", what, err)
	}
	if err := again.Commit(t.Context(), "c", "", now); err != nil {
		t.Errorf("%s: commit after recovery: %v", what, err)
	}
}

// checkPromised finds every generation in the history and reads the newest one's
// files.
func checkPromised(t *testing.T, tp *tape.Tape, promised []committed, what string) {
	t.Helper()
	found := map[uint64]*ltfs.Index{}
	for g, err := range tp.History(t.Context()) {
		if err != nil {
			t.Errorf("%s: history: %v", what, err)
			return
		}
		found[g.Index.Generation] = g.Index
	}
	for _, c := range promised {
		if found[c.generation] == nil {
			t.Errorf("%s: generation %d is gone", what, c.generation)
			return
		}
	}
	newest := promised[len(promised)-1]
	dir := t.TempDir()
	if _, err := tp.Extract(t.Context(), dir, tape.ExtractOptions{Index: found[newest.generation]}); err != nil {
		t.Errorf("%s: extract generation %d: %v", what, newest.generation, err)
		return
	}
	for name, want := range newest.files {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %s of generation %d differs (%v)", what, name, newest.generation, err)
		}
	}
}

// Foreign damage: any one record of a tape is overwritten. The tape opens from the
// other partition or says why not; what can be read is right, and no damaged byte
// is taken for an index.
func TestForeignDamage(t *testing.T) {
	d, history := recording(t, 77)
	whole := d.Changes()
	for part := range 2 {
		for block := uint64(0); ; block++ {
			spoiled := d.Cut(whole, false)
			if spoiled.Locate(t.Context(), drive.Position{Partition: part, Block: block + 1}) != nil {
				break
			}
			spoiled.Spoil(drive.Position{Partition: part, Block: block}, []byte("<?xml not what it was"))
			tp, err := tape.Open(t.Context(), spoiled, "tape")
			if err != nil {
				if k := cairn.KindOf(err); k != cairn.KindCorrupt && k != cairn.KindDamaged && k != cairn.KindConflict {
					t.Errorf("partition %d block %d: %v", part, block, err)
				}
				continue
			}
			last := history[len(history)-1].generation
			if g := tp.Index().Generation; g != last {
				t.Errorf("partition %d block %d: generation %d was opened, %d is in the other partition", part, block, g, last)
			}
			if _, err := tp.Check(t.Context(), true); err != nil && !errors.Is(err, cairn.KindDamaged) {
				t.Errorf("partition %d block %d: check: %v", part, block, err)
			}
		}
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

// Whatever order the index has, the tape is read in one pass.
func TestExtractReadsInTapeOrder(t *testing.T) {
	d := faketape.New()
	tp, err := tape.Format(t.Context(), d, "tape", tape.FormatOptions{BlockSize: 4096, Creator: "c", Now: now})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for i := range 300 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%03d", i)), make([]byte, 3000+i), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := tp.Put(t.Context(), dir, "/"); err != nil {
		t.Fatal(err)
	}
	if err := tp.Commit(t.Context(), "c", "", now); err != nil {
		t.Fatal(err)
	}
	rand.New(rand.NewPCG(1, 1)).Shuffle(300, func(i, j int) {
		f := tp.Index().Root.Dirs[0].Files
		f[i], f[j] = f[j], f[i]
	})
	end, err := d.SeekEnd(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	d.Seeks = 0
	if _, err := tp.Extract(t.Context(), filepath.Join(t.TempDir(), "out"), tape.ExtractOptions{}); err != nil {
		t.Fatal(err)
	}
	if d.Seeks > end.Block*11/10 {
		t.Errorf("the drive passed over %d blocks on a tape of %d", d.Seeks, end.Block)
	}
}

// A later incremental index behind the last full one gives the data there its
// names back.
func TestRecoveryReplaysIncrementalIndexes(t *testing.T) {
	d, _ := recording(t, 9)
	tp, err := tape.Open(t.Context(), d, "tape")
	if err != nil {
		t.Fatal(err)
	}
	end, err := d.SeekEnd(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Write(t.Context(), []byte("named data")); err != nil {
		t.Fatal(err)
	}
	if err := d.WriteFilemarks(t.Context(), 1, false); err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	if _, err := tp.Index().WriteTo(&text); err != nil {
		t.Fatal(err)
	}
	next, err := ltfs.ReadIndex(&text)
	if err != nil {
		t.Fatal(err)
	}
	next.Generation++
	next.HighestUID++
	next.Self = ltfs.Location{Partition: 'b', Block: end.Block + 2}
	next.Root.Files = append(next.Root.Files, &ltfs.File{Name: "named", UID: next.HighestUID, Length: 10,
		Extents: []ltfs.Extent{{Partition: 'b', StartBlock: end.Block, ByteCount: 10}}})
	text.Reset()
	if _, err := ltfs.Difference(tp.Index(), next).WriteTo(&text); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Write(t.Context(), text.Bytes()); err != nil {
		t.Fatal(err)
	}
	if err := d.WriteFilemarks(t.Context(), 1, false); err != nil {
		t.Fatal(err)
	}
	late, err := tape.Open(t.Context(), d, "tape")
	if err != nil {
		t.Fatal(err)
	}
	r, err := late.Recover(t.Context(), false, "c", now)
	if err != nil {
		t.Fatal(err)
	}
	if got := files(late.Index()); !slices.Contains(got, "/named") || len(r.Files) != 0 {
		t.Errorf("the tree holds %v, lost %v; actions %v", got, r.Files, r.Actions)
	}
}

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
	"strings"
	"testing"

	"cairn"
	"cairn/internal/system/tape"
	"cairn/internal/system/tape/drive"
	"cairn/internal/testkit/faketape"
	"cairn/ltfs"
)

var damages = flag.Int("damages", 200, "places of a tape to damage")

// hurts are the ways a place of the medium can be damaged.
var hurts = map[string]func(d *faketape.Tape, at drive.Position, was []byte){
	"foreign record": func(d *faketape.Tape, at drive.Position, _ []byte) { d.Spoil(at, []byte("<?xml not what it was")) },
	"unreadable":     func(d *faketape.Tape, at drive.Position, _ []byte) { d.Rot = map[drive.Position]bool{at: true} },
	"mark or record": func(d *faketape.Tape, at drive.Position, was []byte) {
		if was == nil {
			d.Spoil(at, make([]byte, 4096))
			return
		}
		d.Spoil(at, nil)
	},
	"half": func(d *faketape.Tape, at drive.Position, was []byte) {
		if len(was) > 1 {
			d.Spoil(at, was[:len(was)/2])
		}
	},
	"other volume's index": func(d *faketape.Tape, at drive.Position, _ []byte) {
		var text bytes.Buffer
		ix := &ltfs.Index{Creator: "other", VolumeUUID: "00000000-1111-2222-3333-444444444444", Generation: 9, Root: &ltfs.Directory{UID: 1},
			Self: ltfs.Location{Partition: "ab"[at.Partition], Block: at.Block}}
		if _, err := ix.WriteTo(&text); err != nil {
			panic(err)
		}
		d.Spoil(at, text.Bytes())
	},
}

// standing is where a generation's indexes stand on a whole tape, first and last
// block.
type standing struct {
	part        int
	first, last uint64
}

// places finds them without the package under test: an index's text begins behind a
// filemark and tells its generation.
func places(d *faketape.Tape) map[uint64][]standing {
	found := map[uint64][]standing{}
	for part := range 2 {
		behindMark := false
		for block := uint64(0); ; block++ {
			record, ok := d.Record(drive.Position{Partition: part, Block: block})
			if !ok {
				break
			}
			if behindMark && bytes.Contains(record[:min(len(record), 200)], []byte("<ltfsindex ")) {
				var generation uint64
				_, after, _ := bytes.Cut(record, []byte("<generationnumber>"))
				fmt.Sscanf(string(after[:min(20, len(after))]), "%d<", &generation)
				last := block
				for next, ok := record, true; ok && next != nil; next, ok = d.Record(drive.Position{Partition: part, Block: last + 1}) {
					if block != last || len(next) == 4096 {
						last++
					}
					if len(next) < 4096 {
						break
					}
				}
				found[generation] = append(found[generation], standing{part, block, last})
			}
			behindMark = record == nil
		}
	}
	return found
}

// TestForeignDamage hurts one place of a tape after the other, whole and torn
// tapes, in every way. Each committed generation of which an index is left is
// listed; of the newest one every file that does not stand at that place is read
// right, and what does is named; nothing is written by a dry run; a recovery loses
// no generation and leaves a tape that says no more than that the place is bad.
func TestForeignDamage(t *testing.T) {
	looked := 0
	for seed := uint64(0); looked < *damages; seed++ {
		d, history := recording(t, 1000+seed)
		rng := rand.New(rand.NewPCG(seed, 8))
		for part := range 2 {
			for block := uint64(0); looked < *damages; block++ {
				n := d.Changes()
				if block%3 == 2 { // a torn tape is hurt, too
					n = history[0].change + rng.IntN(n-history[0].change)
				}
				at := drive.Position{Partition: part, Block: block}
				if _, ok := d.Record(at); !ok {
					break
				}
				for name, hurt := range hurts {
					looked++
					cut := d.Cut(n, false)
					was, ok := cut.Record(at)
					if !ok {
						continue
					}
					where := places(cut)
					hurt(cut, at, was)
					what := fmt.Sprintf("seed %d, %d of %d changes, %s at partition %d block %d", seed, n, d.Changes(), name, part, block)
					examineHurt(t, cut, promisedAt(history, n), where, at, what)
					if t.Failed() {
						t.Fatalf("stopped after %d damaged tapes", looked)
					}
				}
			}
		}
	}
	t.Logf("%d damaged tapes", looked)
}

func examineHurt(t *testing.T, d *faketape.Tape, promised []committed, where map[uint64][]standing, at drive.Position, what string) {
	t.Helper()
	tp, err := tape.Open(t.Context(), d, "tape")
	if err != nil {
		t.Errorf("%s: %v", what, err)
		return
	}
	promised = slices.DeleteFunc(slices.Clone(promised), func(c committed) bool {
		return !slices.ContainsFunc(where[c.generation], func(s standing) bool { return s.part != at.Partition || at.Block < s.first || at.Block > s.last })
	})
	checkLeft(t, tp, promised, at, what)
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
	checkLeft(t, again, promised, at, what+", after recovery")
	if len(again.Notes()) > 0 && !strings.Contains(again.Notes()[0], "label") {
		t.Errorf("%s: after recovery: %v", what, again.Notes())
	}
}

// checkLeft finds the generations, and reads the newest: a file may be missing only
// when it is named as lost and stands at the damaged place.
func checkLeft(t *testing.T, tp *tape.Tape, promised []committed, at drive.Position, what string) {
	t.Helper()
	ix := allListed(t, tp, promised, what)
	if ix == nil {
		return
	}
	newest := promised[len(promised)-1]
	hit := standsAt(ix, at)
	for name, n := range ix.All() {
		if n.File == nil || hit[name] {
			continue // what a hit file holds is the damage's to say, unless it was noticed
		}
		if got, err := tp.ReadFile(t.Context(), n.File); err != nil || !bytes.Equal(got, newest.files[name]) {
			t.Errorf("%s: %s of generation %d differs (%v)", what, name, newest.generation, err)
		}
	}
	if have := len(files(ix)); have != len(newest.files) {
		t.Errorf("%s: generation %d has %d files, want %d", what, newest.generation, have, len(newest.files))
	}
	checkMounted(t, tp, promised[len(promised)/2], at, what)
}

// standsAt names the files that have data at a place.
func standsAt(ix *ltfs.Index, at drive.Position) map[string]bool {
	hit := map[string]bool{}
	for name, n := range ix.All() {
		if n.File == nil {
			continue
		}
		for _, e := range n.File.Extents {
			last := e.StartBlock + (uint64(e.ByteOffset)+e.ByteCount-1)/4096
			hit[name] = hit[name] || int(e.Partition-'a') == at.Partition && at.Block >= e.StartBlock && at.Block <= last
		}
	}
	return hit
}

// checkMounted reads a generation through the file system.
func checkMounted(t *testing.T, tp *tape.Tape, c committed, at drive.Position, what string) {
	t.Helper()
	ix, err := tp.At(t.Context(), c.generation)
	if err != nil {
		t.Errorf("%s: %v", what, err)
		return
	}
	f, err := tape.NewFS(t.Context(), tp, tape.FSOptions{Index: ix, ReadOnly: true})
	if err != nil {
		t.Errorf("%s: mount generation %d: %v", what, c.generation, err)
		return
	}
	hit := standsAt(ix, at)
	for name, want := range c.files {
		if hit[name] {
			continue
		}
		n, err := f.Root().Lookup(name[1:])
		if err != nil {
			t.Errorf("%s: %s of generation %d: %v", what, name, c.generation, err)
			continue
		}
		got := make([]byte, len(want)+1)
		read, err := n.Read(t.Context(), got, 0)
		if err != nil || !bytes.Equal(got[:read], want) {
			t.Errorf("%s: %s of generation %d, mounted: %d bytes, %v", what, name, c.generation, read, err)
		}
	}
	if err := f.Close(t.Context()); err != nil {
		t.Errorf("%s: %v", what, err)
	}
}

// A record that cannot be read costs the files that stand in it, and no others;
// they are named. Without anybody to tell, the extraction fails.
func TestExtractNamesWhatIsLost(t *testing.T) {
	d, history := recording(t, 3)
	tp, err := tape.Open(t.Context(), d, "tape")
	if err != nil {
		t.Fatal(err)
	}
	var victim string
	for name, n := range tp.Index().All() {
		if n.File != nil && len(n.File.Extents) > 0 {
			victim = name
			d.Rot = map[drive.Position]bool{{Partition: 1, Block: n.File.Extents[0].StartBlock}: true}
			break
		}
	}
	var lost []string
	dir := t.TempDir()
	done, err := tp.Extract(t.Context(), dir, tape.ExtractOptions{Skipped: func(path, why string) { lost = append(lost, path+": "+why) }})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(lost, func(s string) bool { return strings.HasPrefix(s, victim+": ") && strings.Contains(s, "medium error") }) {
		t.Errorf("named as lost: %v, want %s", lost, victim)
	}
	if all := len(history[len(history)-1].files); done.Files != all-len(lost) {
		t.Errorf("%d files, of %d with %d lost", done.Files, all, len(lost))
	}
	if _, err := os.Stat(filepath.Join(dir, victim)); err == nil {
		t.Error("a file that was not read whole was left")
	}
	if _, err := tp.Extract(t.Context(), t.TempDir(), tape.ExtractOptions{}); !errors.Is(err, cairn.KindIO) {
		t.Errorf("nobody to tell: %v", err)
	}
	problems, err := tp.Check(t.Context(), true)
	if err != nil || !slices.ContainsFunc(problems, func(p string) bool { return strings.HasPrefix(p, victim+": ") }) {
		t.Errorf("check says %v, %v", problems, err)
	}
}

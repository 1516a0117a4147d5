package tape_test

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"cairn/internal/system/tape"
	"cairn/internal/system/tape/drive"
	"cairn/internal/testkit/faketape"
	"cairn/ltfs"
)

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

// fill puts count files of size bytes, each of its own content, into a folder of
// the tape, and returns what they hold by path.
func fill(t *testing.T, tp *tape.Tape, folder string, count, size int) map[string][]byte {
	t.Helper()
	source := filepath.Join(t.TempDir(), folder)
	if err := os.Mkdir(source, 0o755); err != nil {
		t.Fatal(err)
	}
	content := map[string][]byte{}
	for i := range count {
		name := fmt.Sprintf("%03d", i)
		data := bytes.Repeat([]byte{byte(i), byte(i >> 8), folder[0]}, (size+2)/3)[:size]
		content["/"+folder+"/"+name] = data
		if err := os.WriteFile(filepath.Join(source, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := tp.Put(t.Context(), source, "/"); err != nil {
		t.Fatal(err)
	}
	return content
}

// fakeTape is a fresh volume with records of 4 KiB.
func fakeTape(t *testing.T) (*faketape.Tape, *tape.Tape) {
	t.Helper()
	d := faketape.New()
	tp, err := tape.Format(t.Context(), d, "tape", tape.FormatOptions{BlockSize: 4096, Creator: "c", Now: now})
	if err != nil {
		t.Fatal(err)
	}
	return d, tp
}

// recovered repairs a tape and reads all it holds.
func recovered(t *testing.T, d *faketape.Tape) (tape.Repair, map[string][]byte) {
	t.Helper()
	tp, err := tape.Open(t.Context(), d, "tape")
	if err != nil {
		t.Fatal(err)
	}
	dry, err := tp.Recover(t.Context(), true, "c", now)
	if err != nil {
		t.Fatal(err)
	}
	r, err := tp.Recover(t.Context(), false, "c", now)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(dry, r) {
		t.Errorf("the dry run foretold %+v, done was %+v", dry, r)
	}
	tp, err = tape.Open(t.Context(), d, "tape")
	if err != nil {
		t.Fatal(err)
	}
	if problems, err := tp.Check(t.Context(), true); err != nil || len(problems) > 0 {
		t.Errorf("after recovery: %v, %v", problems, err)
	}
	dir := t.TempDir()
	if _, err := tp.Extract(t.Context(), dir, tape.ExtractOptions{}); err != nil {
		t.Fatal(err)
	}
	held := map[string][]byte{}
	for _, name := range files(tp.Index()) {
		if held[name], err = os.ReadFile(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return r, held
}

// An index that was torn while it was written gives the data before it the names
// that stand before the tear; what it no longer names comes back without one, byte
// for byte, wherever the tear is.
func TestTornIndexNamesWhatItHolds(t *testing.T) {
	d, tp := fakeTape(t)
	old := fill(t, tp, "old", 5, 3000)
	if err := tp.Commit(t.Context(), "c", "", now); err != nil {
		t.Fatal(err)
	}
	fresh := fill(t, tp, "new", 40, 2500)
	before := d.Changes()
	if err := tp.Commit(t.Context(), "c", "", now); err != nil {
		t.Fatal(err)
	}
	most := 0
	for n := before + 1; n < before+8; n++ { // the first is the filemark; the index has seven records and more
		for _, torn := range []bool{false, true} {
			r, held := recovered(t, d.Cut(n, torn))
			var unnamed []byte
			names := 0
			for _, name := range slices.Sorted(maps.Keys(held)) {
				switch data := held[name]; {
				case strings.HasPrefix(name, "/_ltfs_lostandfound/"):
					unnamed = append(unnamed, data...)
				case fresh[name] != nil:
					names++
					if !bytes.Equal(data, fresh[name]) {
						t.Errorf("cut %d: %s was brought back with other bytes", n, name)
					}
				case !bytes.Equal(data, old[name]):
					t.Errorf("cut %d: %s appeared or changed", n, name)
				}
			}
			if names != len(r.Named) || len(held) != len(old)+names+len(r.Files) {
				t.Errorf("cut %d: %d new files have names, told are %d; %d files in all", n, names, len(r.Named), len(held))
			}
			if len(unnamed) != (40-names)*2500 {
				t.Errorf("cut %d, torn %v: %d bytes without a name beside %d files with one", n, torn, len(unnamed), names)
			}
			most = max(most, names)
		}
	}
	if most < 25 {
		t.Errorf("at most %d files got their names back", most)
	}
}

// Data behind the data partition's last readable index that the index partition
// names is not lost, and is not brought back a second time.
func TestWhatTheOtherPartitionNamesIsNotLost(t *testing.T) {
	d, tp := fakeTape(t)
	want := fill(t, tp, "a", 6, 5000)
	if err := tp.Commit(t.Context(), "c", "", now); err != nil {
		t.Fatal(err)
	}
	for _, all := range places(d)[2] {
		if all.part == 1 {
			d.Spoil(drive.Position{Partition: 1, Block: all.first}, []byte("rubbish"))
		}
	}
	r, held := recovered(t, d)
	for name, data := range want {
		if !bytes.Equal(held[name], data) {
			t.Errorf("%s differs", name)
		}
		delete(held, name)
	}
	for name := range held { // what is left of the damaged index
		if len(held[name]) > 4096 {
			t.Errorf("%s was brought back beside its file (%v)", name, r.Files)
		}
	}
	tp, err := tape.Open(t.Context(), d, "tape")
	if err != nil {
		t.Fatal(err)
	}
	if got := generations(t, tp); !slices.Contains(got, 2) {
		t.Errorf("generation 2 had a copy left: %v", got)
	}
}

// A file that holds the text of an index is data: nothing of it is taken for the
// tape's own.
func TestCapturedIndexAsFileIsData(t *testing.T) {
	d, tp := fakeTape(t)
	fill(t, tp, "a", 3, 100)
	if err := tp.Commit(t.Context(), "c", "", now); err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	next := *tp.Index()
	next.Generation, next.Self = 50, ltfs.Location{Partition: 'b', Block: 5}
	next.Root = &ltfs.Directory{UID: 1, Files: []*ltfs.File{{Name: "evil", UID: 60}}}
	if _, err := next.WriteTo(&text); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "captured.xml")
	if err := os.WriteFile(file, text.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := tp.Put(t.Context(), file, "/"); err != nil {
		t.Fatal(err)
	}
	r, held := recovered(t, d)
	if held["/evil"] != nil || len(r.Files) != 1 || !bytes.Equal(held["/_ltfs_lostandfound/"+r.Files[0]], text.Bytes()) {
		t.Errorf("held %v, without a name %v", slices.Collect(maps.Keys(held)), r.Files)
	}
}

// Two copies of a generation that say different things are told.
func TestCopiesThatDifferAreTold(t *testing.T) {
	d, tp := fakeTape(t)
	fill(t, tp, "a", 2, 100)
	if err := tp.Commit(t.Context(), "c", "", now); err != nil {
		t.Fatal(err)
	}
	at := drive.Position{Partition: 0, Block: 5}
	was, _ := d.Record(at)
	d.Spoil(at, bytes.Replace(was, []byte("<length>100<"), []byte("<length>101<"), 1))
	tp, err := tape.Open(t.Context(), d, "tape")
	if err != nil {
		t.Fatal(err)
	}
	problems, err := tp.Check(t.Context(), false)
	if err != nil || !slices.Contains(problems, "the two copies of generation 2 differ") {
		t.Errorf("%q, %v", problems, err)
	}
}

package tape_test

import (
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"cairn/internal/system/tape"
	"cairn/internal/system/tape/drive"
	"cairn/internal/testkit/faketape"
)

var smallFiles = flag.Int("smallfiles", 300, "small files on the tape of which up to 1,000 are read")

// Whatever order the index has, many small files are read in one pass: the drive
// moves over at most 1.1 times the tape.
func TestExtractReadsInTapeOrder(t *testing.T) {
	d := faketape.New()
	tp, err := tape.Format(t.Context(), d, "tape", tape.FormatOptions{BlockSize: 4096, Creator: "c", Now: now})
	if err != nil {
		t.Fatal(err)
	}
	fill(t, tp, "many", *smallFiles, 2900)
	if err := tp.Commit(t.Context(), "c", "", now); err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 1))
	list := tp.Index().Root.Dirs[0].Files
	rng.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	var paths []string
	for _, f := range list[:min(1000, len(list)/2)] {
		paths = append(paths, "/many/"+f.Name)
	}
	end, err := d.SeekEnd(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Locate(t.Context(), drive.Position{Partition: 1}); err != nil {
		t.Fatal(err)
	}
	d.Seeks = 0
	d.Fail = func(call string) error {
		if call == "read" { // a record that is read passes the head, too
			d.Seeks++
		}
		return nil
	}
	out := t.TempDir()
	done, err := tp.Extract(t.Context(), out, tape.ExtractOptions{Paths: paths})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d files of %d: the drive passed over %d blocks of a tape of %d, %.2f passes, limit 1.1", done.Files, len(list), d.Seeks, end.Block, float64(d.Seeks)/float64(end.Block))
	if done.Files != len(paths) || d.Seeks > end.Block*11/10 {
		t.Errorf("%d of %d files; the drive passed over %d blocks on a tape of %d", done.Files, len(paths), d.Seeks, end.Block)
	}
	if err := d.Locate(t.Context(), drive.Position{Partition: 1}); err != nil {
		t.Fatal(err)
	}
	d.Seeks = 0
	if problems, err := tp.Check(t.Context(), true); err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
	if d.Seeks > end.Block*4 { // there and back over the indexes, then once over the data
		t.Errorf("a check passed over %d blocks of a tape of %d", d.Seeks, end.Block)
	}
	for _, p := range paths[:10] {
		if info, err := os.Stat(filepath.Join(out, p)); err != nil || info.Size() != 2900 {
			t.Errorf("%s: %v, %v", p, info, err)
		}
	}
}

package tape_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cairn"
	"cairn/internal/system/tape"
	"cairn/internal/system/tape/drive"
	"cairn/internal/testkit/faketape"
	"cairn/ltfs"
)

// mixed makes a folder with files of both partitions.
func mixed(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "mixed")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, size := range map[string]int{"small.txt": 1000, "other.TXT": 4000, "big.txt": 70000, "small.bin": 10, "empty.txt": 0} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(strings.Repeat(name[:1], size)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func partitions(ix *ltfs.Index) map[string]string {
	found := map[string]string{}
	for name, n := range ix.All() {
		if n.File == nil {
			continue
		}
		found[filepath.Base(name)] = ""
		for _, e := range n.File.Extents {
			found[filepath.Base(name)] += string(e.Partition)
		}
	}
	return found
}

// Files that the rules name stand in the index partition, before its index, as in
// the format's example: 4:R 5:F 6:R(index) 7:F; the others in the data partition.
func TestPlacementRules(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "T")
	policy, err := ltfs.ParsePolicy("size=4K/name=*.txt")
	if err != nil {
		t.Fatal(err)
	}
	format(t, dir, tape.FormatOptions{Policy: policy})
	tp := open(t, dir)
	source := mixed(t)
	done, err := tp.PutAll(t.Context(), []string{source}, "/", tape.PutOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if done.Files != 5 || done.Indexed != 2 {
		t.Errorf("%+v", done)
	}
	if err := tp.Commit(t.Context(), "c", "", now); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"small.txt": "a", "other.TXT": "a", "big.txt": "b", "small.bin": "b", "empty.txt": ""}
	for name, where := range partitions(tp.Index()) {
		if where != want[name] {
			t.Errorf("%s stands in %q, want %q", name, where, want[name])
		}
	}
	got := layout(t, dir, 0)
	if !strings.HasPrefix(got, "R(80) F R(") || !strings.Contains(got, ") F R(5000) F R(") || !strings.HasSuffix(got, ") F E@8") {
		t.Errorf("index partition: %s", got)
	}
	again := open(t, dir)
	if problems, err := again.Check(t.Context(), true); err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
	if again.Index().Policy == nil || again.Index().Policy.MaxSize != 4096 {
		t.Error("the rules are not kept in the index")
	}
	out := t.TempDir()
	if _, err := again.Extract(t.Context(), out, tape.ExtractOptions{}); err != nil {
		t.Fatal(err)
	}
	equalTrees(t, source, filepath.Join(out, "mixed"))

	// A later put goes behind what is there: older generations still find it.
	if _, err := again.PutAll(t.Context(), []string{source}, "/", tape.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := again.Commit(t.Context(), "c", "", now); err != nil {
		t.Fatal(err)
	}
	for _, generation := range generations(t, again) {
		old, err := again.At(t.Context(), generation)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := again.Extract(t.Context(), t.TempDir(), tape.ExtractOptions{Index: old}); err != nil {
			t.Errorf("generation %d: %v", generation, err)
		}
	}
	if at := layout(t, dir, 0); !strings.Contains(at, "F R(5000) R(5000) F R(") {
		t.Errorf("index partition: %s", at)
	}
}

// Rules of one put replace the volume's, unless the volume forbids it.
func TestPlacementRulesOfOnePut(t *testing.T) {
	for _, locked := range []bool{false, true} {
		dir := filepath.Join(t.TempDir(), "T")
		format(t, dir, tape.FormatOptions{LockPolicy: locked})
		tp := open(t, dir)
		_, err := tp.PutAll(t.Context(), []string{mixed(t)}, "/", tape.PutOptions{Policy: &ltfs.Policy{MaxSize: 100}})
		if locked {
			if !errors.Is(err, cairn.KindPermission) {
				t.Errorf("a volume that allows no other rules: %v", err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if where := partitions(tp.Index()); where["small.bin"] != "a" || where["small.txt"] != "b" {
			t.Errorf("%v", where)
		}
	}
}

// What the index partition has no room for goes to the data partition, and the
// index fits.
func TestPlacementOverflows(t *testing.T) {
	d := faketape.New()
	tp, err := tape.Format(t.Context(), d, "tape", tape.FormatOptions{BlockSize: 4096, Creator: "c", Now: now, Policy: &ltfs.Policy{MaxSize: 10000}})
	if err != nil {
		t.Fatal(err)
	}
	d.Room[0] = 60000
	fill(t, tp, "a", 30, 9000)
	if err := tp.Commit(t.Context(), "c", "", now); err != nil {
		t.Fatal(err)
	}
	count := map[string]int{}
	for _, where := range partitions(tp.Index()) {
		count[where]++
	}
	if count["a"] < 2 || count["b"] < 20 || count["a"]+count["b"] != 30 {
		t.Errorf("%v", count)
	}
	if problems, err := tp.Check(t.Context(), true); err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
	if _, ok := d.Record(drive.Position{Partition: 0, Block: 7}); !ok {
		t.Error("the index partition holds no data")
	}
}

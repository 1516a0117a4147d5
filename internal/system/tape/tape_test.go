package tape_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cairn"
	"cairn/internal/system/tape"
	"cairn/internal/system/tape/drive"
	"cairn/ltfs"
)

var now = time.Date(2026, 11, 20, 6, 53, 34, 88532227, time.UTC)

func format(t *testing.T, dir string, o tape.FormatOptions) {
	t.Helper()
	d, err := drive.CreateFolder(dir, drive.FolderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	o.Creator, o.Now = "Cairn test", now
	tp, err := tape.Format(t.Context(), d, dir, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := tp.Close(); err != nil {
		t.Fatal(err)
	}
}

// opened are the tapes that tests have open: a folder has one writer at a time, and
// opening it again closes the one before.
var opened = map[string]*tape.Tape{}

func open(t *testing.T, dir string) *tape.Tape {
	t.Helper()
	if before := opened[dir]; before != nil {
		if err := before.Close(); err != nil {
			t.Fatal(err)
		}
	}
	d, err := drive.OpenFolder(dir, drive.FolderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	tp, err := tape.Open(t.Context(), d, dir)
	if err != nil {
		t.Fatal(err)
	}
	opened[dir] = tp
	return tp
}

// layout is the tape's records as "0:R(80) F R(489) …".
func layout(t *testing.T, dir string, part int) string {
	t.Helper()
	var out []string
	for b := 0; ; b++ {
		if info, err := os.Stat(filepath.Join(dir, fmt.Sprintf("%d_%d_R", part, b))); err == nil {
			out = append(out, fmt.Sprintf("R(%d)", info.Size()))
			continue
		}
		if _, err := os.Stat(filepath.Join(dir, fmt.Sprintf("%d_%d_F", part, b))); err == nil {
			out = append(out, "F")
			continue
		}
		if _, err := os.Stat(filepath.Join(dir, fmt.Sprintf("%d_%d_E", part, b))); err == nil {
			out = append(out, fmt.Sprintf("E@%d", b))
		}
		return strings.Join(out, " ")
	}
}

// A fresh volume is laid out as the format's examples are: VOL1, label and the
// first index at block 5 of both partitions, generation 1, the index partition's
// pointing to b:5; and the medium's attributes have their sizes.
func TestFreshVolumeLayout(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "T")
	format(t, dir, tape.FormatOptions{Barcode: "ABC123", Name: "My Volume"})
	for part := range 2 {
		got := layout(t, dir, part)
		if !strings.HasPrefix(got, "R(80) F R(") || !strings.HasSuffix(got, ") F E@7") || strings.Count(got, "R") != 3 || strings.Count(got, "F") != 4 {
			t.Errorf("partition %d: %s", part, got)
		}
	}
	for name, size := range map[string]int64{"attr_0_9": 9, "attr_0_800": 13, "attr_0_801": 37, "attr_0_802": 13, "attr_0_803": 165, "attr_0_805": 6,
		"attr_0_806": 37, "attr_0_808": 165, "attr_0_80b": 21, "attr_0_80c": 75, "attr_1_80c": 75, "attr_0_1623": 6} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Size() != size {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	tp := open(t, dir)
	ix := tp.Index()
	if ix.Generation != 1 || ix.Self != (ltfs.Location{Partition: 'a', Block: 5}) || ix.Previous != (ltfs.Location{Partition: 'b', Block: 5}) ||
		ix.Root.Name != "My Volume" || tp.Barcode() != "ABC123" || len(tp.Notes()) != 0 {
		t.Errorf("%+v, notes %v", ix, tp.Notes())
	}
}

// makeTree writes files of every kind below dir.
func makeTree(t *testing.T, dir string, seed uint64) {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 7))
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(dir, "sub", "na:me é"), 0o755))
	for i, size := range []int{0, 1, 100, 4096, 524287, 524288, 524289, 3<<20 + 7} {
		data := make([]byte, size)
		for j := range data {
			data[j] = byte(rng.Uint32())
		}
		for _, at := range []string{"", "sub", "sub/na:me é"} {
			must(os.WriteFile(filepath.Join(dir, at, fmt.Sprintf("file %d%%", i)), data, 0o644))
		}
	}
	must(os.Symlink("../sub/file 1%", filepath.Join(dir, "sub", "link")))
	must(os.Chmod(filepath.Join(dir, "file 2%"), 0o444))
	must(os.Chtimes(filepath.Join(dir, "file 3%"), now, now.Add(-time.Hour)))
}

// snapshot is everything of a tree that LTFS holds.
func snapshot(t *testing.T, dir string) map[string]string {
	t.Helper()
	seen := map[string]string{}
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, name)
		info, err := d.Info()
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			seen[rel] = "dir"
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(name)
			seen[rel] = "-> " + target
			return err
		default:
			data, err := os.ReadFile(name)
			seen[rel] = fmt.Sprintf("%v %d %x", info.Mode()&0o222 == 0, info.ModTime().UnixNano(), data)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return seen
}

func equalTrees(t *testing.T, a, b string) {
	t.Helper()
	want, got := snapshot(t, a), snapshot(t, b)
	for name, w := range want {
		if got[name] != w {
			t.Errorf("%s differs: %.60q, want %.60q", name, got[name], w)
		}
	}
	for name := range got {
		if want[name] == "" {
			t.Errorf("%s appeared", name)
		}
	}
}

func TestPutCommitExtractRoundTrip(t *testing.T) {
	dir := t.TempDir()
	source := filepath.Join(dir, "source")
	makeTree(t, source, 1)
	tapeDir := filepath.Join(dir, "T")
	format(t, tapeDir, tape.FormatOptions{})
	tp := open(t, tapeDir)
	done, err := tp.Put(t.Context(), source, "/")
	if err != nil {
		t.Fatal(err)
	}
	if done.Files != 24 || done.Links != 1 || len(done.Skipped) != 0 {
		t.Errorf("%+v", done)
	}
	if err := tp.Commit(t.Context(), "Cairn test - Commit", "first", now); err != nil {
		t.Fatal(err)
	}
	if err := tp.Close(); err != nil {
		t.Fatal(err)
	}
	again := open(t, tapeDir)
	if problems, err := again.Check(t.Context(), true); err != nil || len(problems) != 0 {
		t.Fatalf("check: %v, %v", problems, err)
	}
	out := filepath.Join(dir, "out")
	got, err := again.Extract(t.Context(), out, tape.ExtractOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got.Bytes != done.Bytes {
		t.Errorf("put %d bytes, extracted %d", done.Bytes, got.Bytes)
	}
	equalTrees(t, source, filepath.Join(out, "source"))
}

// Small files share records: the tape holds hardly more records than the bytes
// fill.
func TestSmallFilesShareRecords(t *testing.T) {
	dir := t.TempDir()
	source := filepath.Join(dir, "many")
	if err := os.MkdirAll(source, 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range 500 {
		if err := os.WriteFile(filepath.Join(source, fmt.Sprintf("%04d", i)), bytes.Repeat([]byte{byte(i)}, 4096), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	tapeDir := filepath.Join(dir, "T")
	format(t, tapeDir, tape.FormatOptions{})
	tp := open(t, tapeDir)
	if _, err := tp.Put(t.Context(), source, "/"); err != nil {
		t.Fatal(err)
	}
	if err := tp.Commit(t.Context(), "c", "", now); err != nil {
		t.Fatal(err)
	}
	if records := strings.Count(layout(t, tapeDir, 1), "R("); records > 500*4096/524288+1+7 {
		t.Errorf("%d records for %d bytes", records, 500*4096)
	}
	out := filepath.Join(dir, "out")
	if _, err := open(t, tapeDir).Extract(t.Context(), out, tape.ExtractOptions{Paths: []string{"many/0499"}}); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(out, "many/0499")); err != nil || !bytes.Equal(got, bytes.Repeat([]byte{499 & 255}, 4096)) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func generations(t *testing.T, tp *tape.Tape) (list []uint64) {
	t.Helper()
	for g, err := range tp.History(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, g.Index.Generation)
	}
	return list
}

func putOne(t *testing.T, tapeDir, name, text string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	tp := open(t, tapeDir)
	if _, err := tp.Put(t.Context(), file, "/"); err != nil {
		t.Fatal(err)
	}
	if err := tp.Commit(t.Context(), "c", "put "+name, now); err != nil {
		t.Fatal(err)
	}
	if err := tp.Close(); err != nil {
		t.Fatal(err)
	}
}

func files(ix *ltfs.Index) (names []string) {
	for name, n := range ix.All() {
		if n.File != nil {
			names = append(names, name)
		}
	}
	return names
}

func TestHistoryAndRollback(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "T")
	format(t, dir, tape.FormatOptions{})
	putOne(t, dir, "a", "one")
	putOne(t, dir, "b", "two")
	tp := open(t, dir)
	if got := generations(t, tp); !slices.Equal(got, []uint64{3, 3, 2, 1}) {
		t.Errorf("generations %v", got)
	}
	old, err := tp.At(t.Context(), 2)
	if err != nil || !slices.Equal(files(old), []string{"/a"}) {
		t.Errorf("generation 2 holds %v, %v", files(old), err)
	}
	if _, err := tp.At(t.Context(), 9); !errors.Is(err, cairn.KindNotFound) {
		t.Errorf("generation 9: %v", err)
	}
	if err := tp.Rollback(t.Context(), 2, "c", now); err != nil {
		t.Fatal(err)
	}
	tp = open(t, dir)
	if got := files(tp.Index()); tp.Index().Generation != 4 || !slices.Equal(got, []string{"/a"}) {
		t.Errorf("generation %d holds %v", tp.Index().Generation, got)
	}
	if err := tp.Rollback(t.Context(), 3, "c", now); err != nil {
		t.Fatal(err)
	}
	if got := files(open(t, dir).Index()); !slices.Equal(got, []string{"/a", "/b"}) {
		t.Errorf("forward again: %v", got)
	}
}

// Whatever a cut of power leaves of a commit or put, the tape opens, every
// generation that was committed is listed, and recovery in a dry run writes
// nothing and then brings the tape back into order.
func TestCutAtEveryRecord(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "T")
	format(t, dir, tape.FormatOptions{BlockSize: 4096})
	putOne(t, dir, "a", strings.Repeat("x", 10000))
	before := snapshot(t, dir)
	putOne(t, dir, "b", strings.Repeat("y", 9000))
	after := snapshot(t, dir)
	// The data partition grows first; the index partition is rewritten last.
	var grown []string
	for name := range after {
		if before[name] == "" && strings.HasPrefix(name, "1_") && !strings.HasSuffix(name, "_E") {
			grown = append(grown, name)
		}
	}
	block := func(name string) (b int) { fmt.Sscanf(name, "1_%d_", &b); return b }
	slices.SortFunc(grown, func(a, b string) int { return block(a) - block(b) })
	for cut := range len(grown) + 1 {
		for _, torn := range []bool{false, true} {
			state := filepath.Join(t.TempDir(), "T")
			build(t, dir, state, before, grown[:cut], torn)
			checkCut(t, state, fmt.Sprintf("cut %d of %d, torn %v", cut, len(grown), torn), cut == len(grown) && !torn, dataBytes(t, state, grown[:min(cut, 3)]))
		}
	}
}

// dataBytes adds up the records of file data among those that grew: the first
// three are the 9000 bytes of "b".
func dataBytes(t *testing.T, dir string, records []string) (sum uint64) {
	t.Helper()
	for _, name := range records {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		sum += uint64(info.Size())
	}
	return sum
}

// build makes the tape as it was before, plus some records of what came after, the
// last one torn.
func build(t *testing.T, from, to string, before map[string]string, more []string, torn bool) {
	t.Helper()
	if err := os.MkdirAll(to, 0o755); err != nil {
		t.Fatal(err)
	}
	last := 0
	put := func(name string, tear bool) {
		data, err := os.ReadFile(filepath.Join(from, name))
		if err != nil {
			return // the index partition's old record: rewritten since, same name exists
		}
		if tear {
			data = data[:len(data)/2]
		}
		if err := os.WriteFile(filepath.Join(to, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name := range before {
		if name != "." && !strings.HasSuffix(name, "_E") && !strings.HasPrefix(name, "attr_") && strings.HasPrefix(name, "1_") {
			put(name, false)
			var b int
			fmt.Sscanf(name, "1_%d_", &b)
			last = max(last, b+1)
		}
	}
	for i, name := range more {
		put(name, torn && i == len(more)-1)
		last++
	}
	if err := os.WriteFile(filepath.Join(to, fmt.Sprintf("1_%d_E", last)), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for name, value := range before {
		if strings.HasPrefix(name, "0_") {
			var ro bool
			var mtime int64
			var data []byte
			fmt.Sscanf(value, "%t %d %x", &ro, &mtime, &data)
			if err := os.WriteFile(filepath.Join(to, name), data, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func checkCut(t *testing.T, dir, what string, committed bool, lost uint64) {
	t.Helper()
	tp := open(t, dir)
	got := generations(t, tp)
	for _, g := range []uint64{1, 2} {
		if !slices.Contains(got, g) {
			t.Errorf("%s: generation %d is gone: %v", what, g, got)
		}
	}
	if committed && !slices.Contains(got, 3) {
		t.Errorf("%s: generation 3 is gone: %v", what, got)
	}
	untouched := snapshot(t, dir)
	if _, err := tp.Recover(t.Context(), true, "c", now); err != nil {
		t.Errorf("%s: dry run: %v", what, err)
	}
	if now := snapshot(t, dir); len(now) != len(untouched) {
		t.Errorf("%s: the dry run wrote", what)
	}
	if _, err := tp.Recover(t.Context(), false, "c", now); err != nil {
		t.Errorf("%s: recovery: %v", what, err)
	}
	tp = open(t, dir)
	if problems, err := tp.Check(t.Context(), true); err != nil || len(problems) != 0 {
		t.Errorf("%s: after recovery: %v, %v", what, problems, err)
	}
	if !slices.Contains(files(tp.Index()), "/a") {
		t.Errorf("%s: after recovery the tape lacks /a: %v", what, files(tp.Index()))
	}
	var found uint64
	for name, n := range tp.Index().All() {
		if n.File != nil && name != "/a" {
			found += n.File.Length
		}
	}
	if found != lost {
		t.Errorf("%s: %d of %d bytes behind the last index were brought back", what, found, lost)
	}
}

// Each wrong tape is one clear error of the right kind, and nothing is written.
func TestBadTapes(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(dir string) error
		kind  cairn.Kind
	}{
		"blank": {func(d string) error { return os.Remove(filepath.Join(d, "0_0_R")) }, cairn.KindNotFound},
		"other format": {func(d string) error {
			x := bytes.Repeat([]byte("X"), 80)
			return errors.Join(os.WriteFile(filepath.Join(d, "0_0_R"), x, 0o644), os.WriteFile(filepath.Join(d, "1_0_R"), x, 0o644))
		}, cairn.KindCorrupt},
		"labels damaged": {func(d string) error {
			return errors.Join(os.WriteFile(filepath.Join(d, "0_2_R"), []byte("<ltfslabel"), 0o644), os.WriteFile(filepath.Join(d, "1_2_R"), []byte("<ltfslabel"), 0o644))
		}, cairn.KindCorrupt},
		"labels disagree": {func(d string) error {
			label, err := os.ReadFile(filepath.Join(d, "1_2_R"))
			return errors.Join(err, os.WriteFile(filepath.Join(d, "1_2_R"), bytes.Replace(label, []byte(">524288<"), []byte(">262144<"), 1), 0o644))
		}, cairn.KindCorrupt},
		"a gap":    {func(d string) error { return os.Remove(filepath.Join(d, "1_5_R")) }, cairn.KindDamaged},
		"two ends": {func(d string) error { return os.WriteFile(filepath.Join(d, "1_9_E"), nil, 0o644) }, cairn.KindDamaged},
		"no index in either": {func(d string) error {
			return errors.Join(os.WriteFile(filepath.Join(d, "0_5_R"), []byte("x"), 0o644), os.WriteFile(filepath.Join(d, "1_5_R"), []byte("x"), 0o644))
		}, cairn.KindDamaged},
		"record and filemark": {func(d string) error { return os.WriteFile(filepath.Join(d, "1_5_F"), nil, 0o644) }, cairn.KindDamaged},
	} {
		dir := filepath.Join(t.TempDir(), "T")
		format(t, dir, tape.FormatOptions{})
		if err := c.spoil(dir); err != nil {
			t.Fatal(err)
		}
		d, err := drive.OpenFolder(dir, drive.FolderOptions{})
		if err == nil {
			_, err = tape.Open(context.Background(), d, dir)
		}
		if name == "blank" { // a gap at the very beginning
			c.kind = cairn.KindDamaged
		}
		if !errors.Is(err, c.kind) {
			t.Errorf("%s: %v, want kind %v", name, err, c.kind)
		}
	}
}

// A full tape keeps what was put before, and says so.
func TestFullTape(t *testing.T) {
	dir := t.TempDir()
	d, err := drive.CreateFolder(filepath.Join(dir, "T"), drive.FolderOptions{CapacityBytes: 4 << 20})
	if err != nil {
		t.Fatal(err)
	}
	tp, err := tape.Format(t.Context(), d, "T", tape.FormatOptions{BlockSize: 65536, Creator: "c", Now: now})
	if err != nil {
		t.Fatal(err)
	}
	source := filepath.Join(dir, "source")
	if err := os.Mkdir(source, 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		if err := os.WriteFile(filepath.Join(source, fmt.Sprintf("%02d", i)), make([]byte, 1<<19), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	_, err = tp.Put(t.Context(), source, "/")
	if !errors.Is(err, cairn.KindSpace) {
		t.Fatalf("got %v", err)
	}
	if err := tp.Commit(t.Context(), "c", "", now); err != nil {
		t.Fatalf("no room for the index: %v", err)
	}
	if n := len(files(tp.Index())); n < 5 || n > 8 {
		t.Errorf("%d files are on tape", n)
	}
	if problems, err := tp.Check(t.Context(), true); err != nil || len(problems) != 0 {
		t.Errorf("%v, %v", problems, err)
	}
}

// An extraction writes nothing outside its folder, whatever links the tape holds.
func TestExtractStaysInside(t *testing.T) {
	dir := t.TempDir()
	format(t, filepath.Join(dir, "T"), tape.FormatOptions{})
	tp := open(t, filepath.Join(dir, "T"))
	tp.Index().Root.Files = []*ltfs.File{{Name: "out", UID: 2, IsSymlink: true, Symlink: dir}}
	tp.Index().Root.Dirs = []*ltfs.Directory{{Name: "out", UID: 3, Files: []*ltfs.File{{Name: "evil", UID: 4}}}}
	if _, err := tp.Extract(t.Context(), filepath.Join(dir, "x"), tape.ExtractOptions{}); err == nil {
		t.Error("an index with a link and a folder of one name was extracted without a word")
	}
	if _, err := os.Stat(filepath.Join(dir, "evil")); err == nil {
		t.Error("a file was written through a link")
	}
}

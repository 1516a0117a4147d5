//go:build linux

package ltfscheck_test

import (
	"bytes"
	"errors"
	"fmt"
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
	"cairn/test/ltfscheck"
)

// The documents below are written by hand in the manner of the reference
// implementation (element order, line ends, extents with the file offset first or
// last), not by the code under test.

const volume = "c0ffee00-1234-4abc-8def-0123456789ab"

var vol1 = "VOL1ABC123L             LTFS" + strings.Repeat(" ", 51) + "4"

func foreignLabel(at string) string {
	return `<?xml version="1.0" encoding="UTF-8"?>
<ltfslabel version="2.4.0">
    <creator>IBM LTFS 2.4.8.4 (Prelim) - Linux - mkltfs</creator>
    <formattime>2026-11-20T06:53:32.264180362Z</formattime>
    <volumeuuid>` + volume + `</volumeuuid>
    <location>
        <partition>` + at + `</partition>
    </location>
    <partitions>
        <index>a</index>
        <data>b</data>
    </partitions>
    <blocksize>524288</blocksize>
    <compression>true</compression>
</ltfslabel>
`
}

const foreignTimes = `<creationtime>2026-11-20T06:53:32.264180362Z</creationtime>
<changetime>2026-11-20T06:53:32.264180362Z</changetime>
<modifytime>2026-11-20T06:53:32.264180362Z</modifytime>
<accesstime>2026-11-20T06:53:32.264180362Z</accesstime>
<backuptime>2026-11-20T06:53:32.264180362Z</backuptime>
`

// foreignIndex is a full index at "b:13", with a back pointer or none, holding the
// contents given.
func foreignIndex(generation int, at, back, contents string) string {
	location := func(tag, at string) string {
		if at == "" {
			return ""
		}
		part, block, _ := strings.Cut(at, ":")
		return "<" + tag + ">\n<partition>" + part + "</partition>\n<startblock>" + block + "</startblock>\n</" + tag + ">\n"
	}
	return `<?xml version="1.0" encoding="UTF-8"?>
<ltfsindex version="2.4.0">
<creator>IBM LTFS 2.4.8.4 (Prelim) - Linux - ltfs - Unmount</creator>
<volumeuuid>` + volume + `</volumeuuid>
<generationnumber>` + fmt.Sprint(generation) + `</generationnumber>
<updatetime>2026-11-20T06:53:34.088532227Z</updatetime>
` + location("location", at) + location("previousgenerationlocation", back) + `<allowpolicyupdate>true</allowpolicyupdate>
<dataplacementpolicy>
<indexpartitioncriteria>
<size>1048576</size>
<name>*.txt</name>
</indexpartitioncriteria>
</dataplacementpolicy>
<highestfileuid>9</highestfileuid>
<volumelockstate>unlocked</volumelockstate>
<directory>
<name>My Volume</name>
<readonly>false</readonly>
` + foreignTimes + `<fileuid>1</fileuid>
<contents>
` + contents + `</contents>
</directory>
<vendor:open xmlns:vendor="urn:x">kept</vendor:open>
</ltfsindex>
`
}

func foreignFile(name string, uid, length int, extents ...string) string {
	text := "<file>\n" + name + "\n<length>" + fmt.Sprint(length) + "</length>\n<readonly>false</readonly>\n" + foreignTimes + "<fileuid>" + fmt.Sprint(uid) + "</fileuid>\n"
	if len(extents) > 0 {
		text += "<extentinfo>\n" + strings.Join(extents, "") + "</extentinfo>\n"
	}
	return text + "</file>\n"
}

// foreignExtent has its children in another order than ours.
func foreignExtent(at string, byteOffset, count, fileOffset int) string {
	part, block, _ := strings.Cut(at, ":")
	return fmt.Sprintf("<extent>\n<partition>%s</partition>\n<startblock>%s</startblock>\n<byteoffset>%d</byteoffset>\n<bytecount>%d</bytecount>\n<fileoffset>%d</fileoffset>\n</extent>\n",
		part, block, byteOffset, count, fileOffset)
}

const mark = "\x00mark"

// lay writes a folder of records, R and F and E files only.
func lay(t *testing.T, parts ...[]string) string {
	t.Helper()
	dir := t.TempDir()
	for p, blocks := range parts {
		for n, text := range append(blocks, "") {
			name, data := "R", []byte(text)
			switch {
			case n == len(blocks):
				name = "E"
			case text == mark:
				name, data = "F", nil
			}
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%d_%d_%s", p, n, name)), data, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir
}

func labelled(part string, more ...string) []string {
	return append([]string{vol1, mark, foreignLabel(part), mark}, more...)
}

func openFolder(t *testing.T, dir string) (*tape.Tape, error) {
	t.Helper()
	d, err := drive.OpenFolder(dir, drive.FolderOptions{})
	if err != nil {
		return nil, err
	}
	tp, err := tape.Open(t.Context(), d, dir)
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	t.Cleanup(func() { _ = tp.Close() })
	return tp, nil
}

func mustOpen(t *testing.T, dir string) *tape.Tape {
	t.Helper()
	tp, err := openFolder(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	return tp
}

// shape is a partition as "0:R(80) 1:F … E@7".
func shape(t *testing.T, dir string, p int) string {
	t.Helper()
	var out []string
	for n := 0; ; n++ {
		if info, err := os.Stat(filepath.Join(dir, fmt.Sprintf("%d_%d_R", p, n))); err == nil {
			out = append(out, fmt.Sprintf("%d:R(%d)", n, info.Size()))
		} else if info, err := os.Stat(filepath.Join(dir, fmt.Sprintf("%d_%d_F", p, n))); err == nil && info.Size() == 0 {
			out = append(out, fmt.Sprintf("%d:F", n))
		} else if info, err := os.Stat(filepath.Join(dir, fmt.Sprintf("%d_%d_E", p, n))); err == nil && info.Size() == 0 {
			return strings.Join(append(out, fmt.Sprintf("E@%d", n)), " ")
		} else {
			return strings.Join(out, " ") + " no end"
		}
	}
}

func history(t *testing.T, tp *tape.Tape) (list []string) {
	t.Helper()
	for g, err := range tp.History(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, fmt.Sprintf("%d@%c:%d", g.Index.Generation, g.Index.Self.Partition, g.Index.Self.Block))
	}
	return list
}

func content(t *testing.T, tp *tape.Tape) map[string]string {
	t.Helper()
	out := t.TempDir()
	if _, err := tp.Extract(t.Context(), out, tape.ExtractOptions{}); err != nil {
		t.Fatal(err)
	}
	held := map[string]string{}
	for name, n := range tp.Index().All() {
		if n.File == nil || n.File.IsSymlink {
			continue
		}
		data, err := os.ReadFile(filepath.Join(out, name))
		if err != nil {
			t.Fatal(err)
		}
		held[name] = string(data)
	}
	return held
}

var goldenNow = time.Date(2026, 11, 20, 6, 53, 32, 264180362, time.UTC)

// TestGoldenOwn holds what we write against the format's examples, block by block
// and byte by byte.
func TestGoldenOwn(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "T")
	write(t, dir, nil, tape.FormatOptions{Barcode: "ABC123", Name: "My Volume", Creator: "IBM LTFS 2.4.8.4 (Prelim) - Linux - mkltfs", Now: goldenNow, VolumeUUID: volume, Application: "0.1"})
	read := func(name string) string {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	pad := func(s string, n int, fill string) string { return s + strings.Repeat(fill, n-len(s)) }
	compact := func(s string) string { return strings.Join(strings.Fields(s), "") }
	for what, pair := range map[string][2]string{
		"1.1 fresh index partition": {shape(t, dir, 0), fmt.Sprintf("0:R(80) 1:F 2:R(%d) 3:F 4:F 5:R(%d) 6:F E@7", len(read("0_2_R")), len(read("0_5_R")))},
		"1.1 fresh data partition":  {shape(t, dir, 1), fmt.Sprintf("0:R(80) 1:F 2:R(%d) 3:F 4:F 5:R(%d) 6:F E@7", len(read("1_2_R")), len(read("1_5_R")))},
		"1.2 VOL1":                  {read("0_0_R"), vol1},
		"1.2 VOL1, data partition":  {read("1_0_R"), vol1},
		"1.3 label":                 {compact(read("0_2_R")), compact(foreignLabel("a"))},
		"1.3 label, data partition": {compact(read("1_2_R")), compact(foreignLabel("b"))},
		"1.4 back pointer of the copy": {between(read("0_5_R"), "<previousgenerationlocation>", "</previousgenerationlocation>"),
			"\n<partition>b</partition>\n<startblock>5</startblock>\n"},
		"1.4 no back pointer in the first": {between(read("1_5_R"), "<previousgenerationlocation>", "<"), ""},
		"1.5 change reference":             {read("attr_0_9"), "\x00\x09\x00\x00\x04\x00\x00\x00\x01"},
		"1.5 vendor":                       {read("attr_0_800"), "\x08\x00\x01\x00\x08CAIRN   "},
		"1.5 application":                  {read("attr_0_801"), "\x08\x01\x01\x00\x20" + pad("Cairn LTFS", 32, " ")},
		"1.5 application version":          {read("attr_0_802"), "\x08\x02\x01\x00\x08" + pad("0.1", 8, " ")},
		"1.5 volume name":                  {read("attr_0_803"), "\x08\x03\x02\x00\xa0" + pad("My Volume", 160, "\x00")},
		"1.5 text localization":            {read("attr_0_805"), "\x08\x05\x00\x00\x01\x81"},
		"1.5 barcode":                      {read("attr_0_806"), "\x08\x06\x01\x00\x20" + pad("ABC123", 32, " ")},
		"1.5 media pool":                   {read("attr_0_808"), "\x08\x08\x02\x00\xa0" + strings.Repeat("\x00", 160)},
		"1.5 format version":               {read("attr_0_80b"), "\x08\x0b\x01\x00\x10" + pad("2.4.0", 16, " ")},
		"1.5 coherency, index partition":   {read("attr_0_80c"), coherency(1, 1, 5)},
		"1.5 coherency, data partition":    {read("attr_1_80c"), coherency(1, 1, 5)},
		"1.5 lock":                         {read("attr_0_1623"), "\x16\x23\x00\x00\x01\x00"},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s:\n%q, want\n%q", what, pair[0], pair[1])
		}
	}
}

// TestGoldenChangeReference is section 4's counting: made as 1, raised by one at
// the first write of each loading, and the same in both coherency attributes.
func TestGoldenChangeReference(t *testing.T) {
	dir, source := filepath.Join(t.TempDir(), "T"), filepath.Join(t.TempDir(), "f")
	write(t, dir, nil, tape.FormatOptions{Creator: "c", Now: goldenNow, VolumeUUID: volume})
	for _, c := range []struct {
		name                         string
		changes                      int // commits in one loading
		reference, generation, block byte
	}{{"formatted", 0, 1, 1, 5}, {"only read", 0, 1, 1, 5}, {"written to", 1, 2, 2, 9}, {"written to twice", 2, 3, 4, 17}, {"only read again", 0, 3, 4, 17}} {
		tp := mustOpen(t, dir)
		for i := range c.changes {
			if err := os.WriteFile(fmt.Sprint(source, c.reference, i), []byte("data"), 0o644); err != nil {
				t.Fatal(err)
			}
			if _, err := tp.Put(t.Context(), fmt.Sprint(source, c.reference, i), "/"); err != nil {
				t.Fatal(err)
			}
			if err := tp.Commit(t.Context(), "c", "", goldenNow); err != nil {
				t.Fatal(err)
			}
		}
		if err := tp.Close(); err != nil {
			t.Fatal(err)
		}
		if got, want := readAll(t, dir, "attr_0_9"), "\x00\x09\x00\x00\x04\x00\x00\x00"+string([]byte{c.reference}); got != want {
			t.Errorf("%s: %q, want %q", c.name, got, want)
		}
		for file, block := range map[string]byte{"attr_0_80c": 5, "attr_1_80c": c.block} {
			if got := readAll(t, dir, file); got != coherency(c.reference, c.generation, block) {
				t.Errorf("%s: %s: %q", c.name, file, got)
			}
		}
	}
}

// TestGoldenFolder is section 4's list of files of a fresh tape, with their sizes;
// nothing else is in the folder but what the drive keeps for itself.
func TestGoldenFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "T")
	write(t, dir, nil, tape.FormatOptions{Creator: "c", Now: goldenNow})
	sizes := map[string]int64{"attr_0_9": 9, "attr_0_800": 13, "attr_0_801": 37, "attr_0_802": 13, "attr_0_803": 165, "attr_0_805": 6, "attr_0_806": 37,
		"attr_0_808": 165, "attr_0_80b": 21, "attr_0_80c": 75, "attr_1_80c": 75, "attr_0_1623": 6}
	for p := range 2 {
		for name, size := range map[string]int64{"0_R": 80, "1_F": 0, "2_R": -1, "3_F": 0, "4_F": 0, "5_R": -1, "6_F": 0, "7_E": 0} {
			sizes[fmt.Sprintf("%d_%s", p, name)] = size
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		size, known := sizes[e.Name()]
		if !known && e.Name() != "filedebug_tc_conf.xml" || known && size >= 0 && info.Size() != size {
			t.Errorf("%s has %d bytes, want %d (%v)", e.Name(), info.Size(), size, known)
		}
		if known && info.Mode().Perm()&0o400 == 0 {
			t.Errorf("%s has mode %v", e.Name(), info.Mode())
		}
		delete(sizes, e.Name())
	}
	if len(sizes) > 0 {
		t.Errorf("missing: %v", sizes)
	}
}

// TestGoldenForeignFolder reads what the reference's folders show in section 4: a
// record of mode 0200, and attribute files that hold several items.
func TestGoldenForeignFolder(t *testing.T) {
	index, data := foreignVolume()
	dir := lay(t, index, data)
	if err := os.Chmod(filepath.Join(dir, "1_7_R"), 0o200); err != nil {
		t.Fatal(err)
	}
	item := coherency(2, 3, 6)
	name := "\x08\x03\x02\x00\xa0" + "My Volume" + strings.Repeat("\x00", 151)
	for file, text := range map[string]string{"attr_0_9": "\x00\x09\x00\x00\x04\x00\x00\x00\x02", "attr_0_80c": name + item, "attr_0_803": name + item, "attr_1_80c": coherency(2, 2, 13)} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	tp := mustOpen(t, dir)
	if got := history(t, tp); !slices.Equal(got, []string{"3@a:6", "2@b:13", "1@b:5"}) || len(tp.Notes()) > 0 {
		t.Errorf("%v, notes %v", got, tp.Notes())
	}
	sameContent(t, "modes and attributes", content(t, tp), foreignContent)
}

func between(text, from, to string) string {
	_, rest, _ := strings.Cut(text, from)
	inner, _, _ := strings.Cut(rest, to)
	return inner
}

// coherency is an attribute file of 75 bytes.
func coherency(reference, generation, block byte) string {
	number := func(v byte) string { return strings.Repeat("\x00", 7) + string([]byte{v}) }
	return "\x08\x0c\x00\x00\x46" + "\x08" + number(reference) + number(generation) + number(block) + "\x00\x2bLTFS\x00" + volume + "\x00\x01"
}

// TestGoldenGrowth is section 1.1's volume after one commit of five records, and
// with a file placed in the index partition.
func TestGoldenGrowth(t *testing.T) {
	dir, source := filepath.Join(t.TempDir(), "T"), filepath.Join(t.TempDir(), "data.bin")
	if err := os.WriteFile(source, bytes.Repeat([]byte("d"), 4*524288+1), 0o644); err != nil {
		t.Fatal(err)
	}
	small := filepath.Join(t.TempDir(), "small.txt")
	if err := os.WriteFile(small, []byte("small"), 0o644); err != nil {
		t.Fatal(err)
	}
	write(t, dir, []string{source}, tape.FormatOptions{Creator: "c", Now: goldenNow})
	if got := shape(t, dir, 1); !strings.Contains(got, "6:F 7:R(524288) 8:R(524288) 9:R(524288) 10:R(524288) 11:R(1) 12:F 13:R(") || !strings.HasSuffix(got, "14:F E@15") {
		t.Errorf("data partition: %s", got)
	}
	if got := shape(t, dir, 0); !strings.HasSuffix(got, "6:F E@7") {
		t.Errorf("index partition: %s", got)
	}
	placed := filepath.Join(t.TempDir(), "T")
	write(t, placed, []string{small}, tape.FormatOptions{Creator: "c", Now: goldenNow, Policy: &ltfs.Policy{MaxSize: 1 << 20, Names: []string{"*.txt"}}})
	if got := shape(t, placed, 0); !strings.Contains(got, "3:F 4:R(5) 5:F 6:R(") || !strings.HasSuffix(got, "7:F E@8") {
		t.Errorf("index partition with a file: %s", got)
	}
}

// foreignVolume is the reference's tape of section 1.1: a file of two records, one
// packed behind another, one with a hole, one placed in the index partition, an
// empty one, a link, and a name that has to be encoded.
func foreignVolume() (index, data []string) {
	contents := foreignFile("<name>two</name>", 2, 524288+3, foreignExtent("b:7", 0, 524288+3, 0)) +
		foreignFile("<name>packed</name>", 3, 4, foreignExtent("b:8", 3, 4, 0)) +
		foreignFile("<name>holes</name>", 4, 100, foreignExtent("b:9", 0, 2, 50)) +
		foreignFile(`<name percentencoded="true">na%3Ame%20%25%C3%A9</name>`, 5, 2, foreignExtent("b:10", 0, 2, 0)) +
		foreignFile("<name>small.txt</name>", 6, 5, foreignExtent("a:4", 0, 5, 0)) +
		foreignFile("<name>empty</name>", 7, 0) +
		strings.Replace(foreignFile("<name>link</name>", 8, 0), "</file>", "<symlink>two</symlink>\n</file>", 1)
	data = labelled("b", mark, foreignIndex(1, "b:5", "", ""), mark, strings.Repeat("2", 524288), "222pack", "hh", "nn", "x", mark, foreignIndex(2, "b:13", "b:5", contents), mark)
	index = labelled("a", "small", mark, foreignIndex(3, "a:6", "b:13", contents), mark)
	return index, data
}

var foreignContent = map[string]string{"/two": strings.Repeat("2", 524288+3), "/packed": "pack", "/holes": strings.Repeat("\x00", 50) + "hh" + strings.Repeat("\x00", 48),
	"/na:me %é": "nn", "/small.txt": "small", "/empty": ""}

func sameContent(t *testing.T, what string, got, want map[string]string) {
	t.Helper()
	for name, w := range want {
		if g, ok := got[name]; !ok || g != w {
			t.Errorf("%s: %s holds %d bytes (%v), want %d", what, name, len(g), ok, len(w))
		}
	}
}

// TestGoldenForeign reads the reference's tape without medium attributes (section
// 4: the minimum that is accepted), appends to it, and keeps what it does not know.
func TestGoldenForeign(t *testing.T) {
	index, data := foreignVolume()
	dir := lay(t, index, data)
	tp := mustOpen(t, dir)
	if got := history(t, tp); !slices.Equal(got, []string{"3@a:6", "2@b:13", "1@b:5"}) || tp.Barcode() != "ABC123" || tp.Index().Root.Name != "My Volume" {
		t.Errorf("%v, %s", got, tp.Barcode())
	}
	sameContent(t, "as it was", content(t, tp), foreignContent)
	if p := tp.Index().Policy; p == nil || p.MaxSize != 1<<20 || !slices.Equal(p.Names, []string{"*.txt"}) {
		t.Errorf("policy %+v", p)
	}
	if len(tp.Notes()) != 0 { // the index partition is a generation ahead, as that software leaves it
		t.Errorf("notes %v", tp.Notes())
	}
	more := filepath.Join(t.TempDir(), "more.bin")
	if err := os.WriteFile(more, []byte("more"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := tp.Put(t.Context(), more, "/"); err != nil {
		t.Fatal(err)
	}
	if err := tp.Commit(t.Context(), "c", "", goldenNow); err != nil {
		t.Fatal(err)
	}
	if got := history(t, tp); len(got) != 5 || got[0] != "4@a:6" || !strings.HasPrefix(got[1], "4@b:") || !strings.HasPrefix(got[2], "3@b:") {
		t.Errorf("after an append: %v", got)
	}
	if problems, err := tp.Check(t.Context(), true); err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
	v, err := ltfscheck.Read(dir)
	if err != nil || v.Entries["/packed"] == nil || string(v.Entries["/packed"].Data) != "pack" {
		t.Errorf("%v, %v", v, err)
	}
	if text := readAll(t, dir, "0_6_R"); !strings.Contains(text, `<vendor:open xmlns:vendor="urn:x">kept</vendor:open>`+"\n</ltfsindex>") {
		t.Error("an unknown element was not kept at the end of its parent")
	}
	sameContent(t, "after an append", content(t, tp), foreignContent)
}

func readAll(t *testing.T, dir, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// TestGoldenIncrementals is section 1.6's tape: full index 1 at b:5, incremental
// ones at b:11 and b:16, full index 4 at b:19 with a back pointer to b:5. Only the
// full ones are generations to return to, and the incremental ones disturb nobody.
func TestGoldenIncrementals(t *testing.T) {
	inc := func(generation int, at string, previous string) string {
		full := foreignIndex(generation, at, "b:5", "")
		full = strings.ReplaceAll(strings.Replace(full, `version="2.4.0"`, `version="2.5.0"`, 1), "ltfsindex", "ltfsincrementalindex")
		head, tail, _ := strings.Cut(full, "<allowpolicyupdate>")
		_, tail, _ = strings.Cut(tail, "</dataplacementpolicy>\n")
		return head + previous + tail
	}
	last := foreignIndex(4, "b:19", "b:5", foreignFile("<name>f</name>", 2, 1, foreignExtent("b:7", 0, 1, 0)))
	data := labelled("b", mark, foreignIndex(1, "b:5", "", ""), mark, "1", "2", "3", mark, inc(2, "b:11", ""), mark, "4", "5", mark,
		inc(3, "b:16", "<previousincrementallocation>\n<partition>b</partition>\n<startblock>11</startblock>\n</previousincrementallocation>\n"), mark, mark, last, mark)
	dir := lay(t, labelled("a", mark, strings.NewReplacer("<partition>b</partition>\n<startblock>19<", "<partition>a</partition>\n<startblock>5<",
		"<startblock>5<", "<startblock>19<").Replace(last), mark), data)
	tp := mustOpen(t, dir)
	if got := history(t, tp); !slices.Equal(got, []string{"4@a:5", "4@b:19", "1@b:5"}) {
		t.Errorf("%v; data partition %s", got, shape(t, dir, 1))
	}
	if len(tp.Notes()) > 0 {
		t.Errorf("notes %v", tp.Notes())
	}
}

// TestGoldenCrashes are the states of section 3.3 that the reference leaves or
// refuses: each opens, and recovery brings every byte back and keeps every
// generation.
func TestGoldenCrashes(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(index, data []string) ([]string, []string)
		noEnd bool
		found []string // sizes of what is brought back without a name
	}{
		"A: data behind the last index": {spoil: func(i, d []string) ([]string, []string) {
			return i, append(d, strings.Repeat("x", 524288), strings.Repeat("y", 175712), strings.Repeat("z", 100))
		}, found: []string{"700000-bytes", "100-bytes"}},
		"B: no end mark":                   {spoil: func(i, d []string) ([]string, []string) { return i, d }, noEnd: true},
		"C: partial index behind the last": {spoil: func(i, d []string) ([]string, []string) { return i, append(d, mark, d[13][:700]) }},
		"D: last index of the data partition torn": {spoil: func(i, d []string) ([]string, []string) {
			d[13] = d[13][:len(d[13])/2]
			return i, d
		}, found: []string{"1-bytes"}},
	} {
		index, data := c.spoil(foreignVolume())
		dir := lay(t, index, data)
		if c.noEnd {
			if err := os.Remove(filepath.Join(dir, fmt.Sprintf("1_%d_E", len(data)))); err != nil {
				t.Fatal(err)
			}
		}
		tp := mustOpen(t, dir)
		before := history(t, tp)
		sameContent(t, name+", before recovery", content(t, tp), foreignContent)
		if _, err := tp.Put(t.Context(), filepath.Join(dir, "0_0_R"), "/"); !errors.Is(err, cairn.KindDamaged) {
			t.Errorf("%s: a tape that is out of order was written: %v", name, err)
		}
		r, err := tp.Recover(t.Context(), false, "c", goldenNow)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, size := range c.found {
			if !slices.ContainsFunc(r.Files, func(f string) bool { return strings.HasSuffix(f, "_"+size) }) {
				t.Errorf("%s: nothing of %s was brought back: %v", name, size, r.Files)
			}
		}
		after := history(t, tp)
		for _, g := range before {
			number, _, _ := strings.Cut(g, "@")
			if !slices.ContainsFunc(after, func(s string) bool { return strings.HasPrefix(s, number+"@") }) {
				t.Errorf("%s: generation %s is gone: %v", name, g, after)
			}
		}
		if problems, err := tp.Check(t.Context(), true); err != nil || len(problems) > 0 {
			t.Errorf("%s: %v, %v", name, problems, err)
		}
		sameContent(t, name, content(t, tp), foreignContent)
	}
}

package drive_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cairn"
	"cairn/internal/system/tape/drive"
)

// layout is a folder's files with their contents.
type layout map[string]string

func (l layout) in(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range l {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func layoutOf(t *testing.T, dir string) layout {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	l := layout{}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		l[e.Name()] = string(b)
	}
	return l
}

func (l layout) String() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(l)) {
		fmt.Fprintf(&b, "%s=%q ", name, l[name])
	}
	return b.String()
}

// item is a medium attribute as a READ ATTRIBUTE item, written down by hand.
func item(id uint16, format byte, value string) string {
	b := binary.BigEndian.AppendUint16(nil, id)
	b = binary.BigEndian.AppendUint16(append(b, format), uint16(len(value)))
	return string(b) + value
}

// The files of a folder are, byte for byte and name for name, those of other LTFS
// tools: the layout of records, filemarks, ends and attributes.
func TestFolderLayout(t *testing.T) {
	f, dir := folder(t, drive.FolderOptions{})
	ctx := t.Context()
	write(t, f, "VOL1", "F", "<label/>", "F")
	if err := f.Locate(ctx, drive.Position{Partition: 1}); err != nil {
		t.Fatal(err)
	}
	write(t, f, "data", "F")
	for _, a := range []struct {
		part   int
		id     uint16
		format byte
		value  string
	}{{0, 0x800, 1, "CAIRN   "}, {0, 0x803, 2, "name"}, {0, 0x1623, 0, "\x00"}, {0, 0x80c, 0, "coherency"}, {1, 0x80c, 0, "coherency"}} {
		if err := f.SetAttribute(ctx, a.part, a.id, a.format, []byte(a.value)); err != nil {
			t.Fatal(err)
		}
	}
	want := layout{"0_0_R": "VOL1", "0_1_F": "", "0_2_R": "<label/>", "0_3_F": "", "0_4_E": "", "1_0_R": "data", "1_1_F": "", "1_2_E": "",
		"attr_0_9": item(9, 0, "\x00\x00\x00\x01"), "attr_0_800": item(0x800, 1, "CAIRN   "), "attr_0_803": item(0x803, 2, "name"),
		"attr_0_1623": item(0x1623, 0, "\x00"), "attr_0_80c": item(0x80c, 0, "coherency"), "attr_1_80c": item(0x80c, 0, "coherency")}
	if got := layoutOf(t, dir); got.String() != want.String() {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	// Writing at a block removes what stood behind it, and moves the end.
	if err := f.Locate(ctx, drive.Position{Block: 1}); err != nil {
		t.Fatal(err)
	}
	write(t, f, "overwritten")
	delete(want, "0_1_F")
	delete(want, "0_3_F")
	delete(want, "0_4_E")
	want["0_1_R"], want["0_2_E"] = "overwritten", ""
	delete(want, "0_2_R")
	if got := layoutOf(t, dir); got.String() != want.String() {
		t.Errorf("overwritten: got  %v\nwant %v", got, want)
	}
	for name := range want {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != 0o644 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
}

// Folders as other tools leave them are read, with their peculiarities.
func TestForeignFolders(t *testing.T) {
	for _, c := range []struct {
		name  string
		files layout
		kind  cairn.Kind // of the error, if any
		parts int
		read  []string // of the last partition
	}{
		{"records and ends only", layout{"0_0_R": "a", "0_1_E": "", "1_0_R": "b", "1_1_F": "", "1_2_E": ""}, 0, 2, []string{"b", "F"}},
		{"one partition", layout{"0_0_R": "a", "0_1_E": ""}, 0, 1, []string{"a"}},
		{"a partition without any file ends at its beginning", layout{"1_0_R": "b", "1_1_E": ""}, 0, 2, []string{"b"}},
		{"no end mark: up to the last dense block", layout{"0_0_E": "", "1_0_R": "b", "1_1_R": "c", "1_3_R": "d"}, 0, 2, []string{"b", "c"}},
		{"other files are not ours", layout{"0_0_R": "a", "0_1_E": "", "0_01_R": "x", "2_0_R": "x", "0_1_X": "x", "notes": "x", "00_1_R": "x"}, 0, 1, []string{"a"}},
		{"blocks behind the end", layout{"0_0_R": "a", "0_1_E": "", "0_1_R": "old", "0_2_F": ""}, 0, 1, []string{"a"}},
		{"a block is missing", layout{"0_0_R": "a", "0_2_R": "c", "0_3_E": ""}, cairn.KindDamaged, 0, nil},
		{"two ends", layout{"0_0_R": "a", "0_1_E": "", "0_2_E": ""}, cairn.KindDamaged, 0, nil},
		{"a record and a filemark at one block", layout{"0_0_R": "a", "0_0_F": "", "0_1_E": ""}, cairn.KindDamaged, 0, nil},
		{"nothing of a tape", layout{"notes": "x"}, cairn.KindNotFound, 0, nil},
		{"a configuration that is none", layout{"0_0_E": "", "filedebug_tc_conf.xml": "<html/>"}, cairn.KindCorrupt, 0, nil},
	} {
		d, err := drive.Open(t.Context(), c.files.in(t), drive.Options{})
		if c.kind != 0 {
			if !errors.Is(err, c.kind) {
				t.Errorf("%s: %v, want %v", c.name, err, c.kind)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if d.Partitions() != c.parts {
			t.Errorf("%s: %d partitions", c.name, d.Partitions())
		}
		if err := d.Locate(t.Context(), drive.Position{Partition: d.Partitions() - 1}); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if got := read(t, d); !equal(got, c.read) {
			t.Errorf("%s: read %v", c.name, got)
		}
		// Whatever it was, it can be written on at its beginning.
		write(t, d, "x", "y", "F")
		if err := d.Locate(t.Context(), drive.Position{Partition: d.Partitions() - 1}); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if err := d.Close(); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// Power cut between the moving of the end mark and the removal of what stood behind
// it leaves records there; writing on is not hindered by them.
func TestWritingOverStaleRecords(t *testing.T) {
	dir := layout{"0_0_R": "a", "0_1_E": "", "0_1_R": "old", "0_2_F": "", "0_3_R": "old"}.in(t)
	d, err := drive.OpenFolder(dir, drive.FolderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.SeekEnd(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	write(t, d, "b", "c", "d")
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	got := layoutOf(t, dir)
	delete(got, "attr_0_9")
	if want := (layout{"0_0_R": "a", "0_1_R": "b", "0_2_R": "c", "0_3_R": "d", "0_4_E": ""}); got.String() != want.String() {
		t.Errorf("got %v", got)
	}
}

// Records that another tool left without the right to read are read.
func TestRecordsWithoutTheRightToRead(t *testing.T) {
	dir := layout{"0_0_R": "a", "0_1_E": ""}.in(t)
	if err := os.Chmod(filepath.Join(dir, "0_0_R"), 0o200); err != nil {
		t.Fatal(err)
	}
	d, err := drive.OpenFolder(dir, drive.FolderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got := read(t, d); !equal(got, []string{"a"}) {
		t.Errorf("read %v", got)
	}
}

const foreignConfiguration = `<?xml version="1.0" encoding="UTF-8"?>
<filedebug_cartridge_config>
  <dummy_io>false</dummy_io><emulate_readonly>%s</emulate_readonly><capacity_mb>%d</capacity_mb><cart_type>L5</cart_type>
  <density_code>58</density_code><delay_mode>None</delay_mode><wraps>40</wraps><eot_to_bot_sec>14</eot_to_bot_sec>
  <change_direction_us>2000000</change_direction_us><change_track_us>10000</change_track_us><threading_sec>0</threading_sec>
</filedebug_cartridge_config>
`

// Capacity and write protection are those of the folder's configuration; room is
// counted in bytes of records, of which the index partition has a twentieth.
func TestFolderConfiguration(t *testing.T) {
	dir := layout{"0_0_R": "label", "0_1_E": "", "1_0_E": "", "filedebug_tc_conf.xml": fmt.Sprintf(foreignConfiguration, "false", 400)}.in(t)
	d, err := drive.OpenFolder(dir, drive.FolderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	const mib = 1 << 20
	want := []drive.Capacity{{Total: 20 * mib, Remaining: 19*mib - 5}, {Total: 380 * mib, Remaining: 361 * mib}}
	for part := range 2 {
		if c, err := d.Capacity(t.Context(), part); err != nil || c != want[part] {
			t.Errorf("partition %d: %+v, %v, want %+v", part, c, err, want[part])
		}
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	plain, err := drive.OpenFolder(layout{"0_0_E": ""}.in(t), drive.FolderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if c, err := plain.Capacity(t.Context(), 0); err != nil || c.Total != 3072*mib {
		t.Errorf("without a configuration: %+v, %v", c, err)
	}
	protected, err := drive.OpenFolder(layout{"0_0_E": "", "filedebug_tc_conf.xml": fmt.Sprintf(foreignConfiguration, "true", 400)}.in(t), drive.FolderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := protected.Write(t.Context(), []byte("x")); !errors.Is(err, cairn.KindPermission) {
		t.Errorf("a protected one was written: %v", err)
	}
	ours := filepath.Join(t.TempDir(), "T")
	made, err := drive.CreateFolder(ours, drive.FolderOptions{CapacityBytes: 500 * mib})
	if err != nil {
		t.Fatal(err)
	}
	if err := made.Close(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(ours, "filedebug_tc_conf.xml"))
	if err != nil || !bytes.Contains(text, []byte("<capacity_mb>500</capacity_mb>")) {
		t.Errorf("%s, %v", text, err)
	}
	again, err := drive.OpenFolder(ours, drive.FolderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if c, err := again.Capacity(t.Context(), 0); err != nil || c.Total != 500*mib {
		t.Errorf("opened again: %+v, %v", c, err)
	}
}

// Room is counted exactly on a folder of many small records, too.
func TestRoomOfManySmallRecords(t *testing.T) {
	files := layout{"0_0_E": "", "1_2100_E": ""}
	for i := range 2100 {
		files[fmt.Sprintf("1_%d_R", i)] = "ten bytes!"
	}
	d, err := drive.OpenFolder(files.in(t), drive.FolderOptions{CapacityBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	total := int64(1<<20 - 1<<20/20)
	if c, err := d.Capacity(t.Context(), 1); err != nil || c.Remaining != total-total/20-21000 {
		t.Errorf("%+v, %v", c, err)
	}
	if _, err := d.SeekEnd(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if w, err := d.Write(t.Context(), []byte("more")); err != nil || w != drive.NoWarning {
		t.Errorf("%v, %v", w, err)
	}
}

// A drive file names the folder of the medium that is in the drive.
func TestDriveFile(t *testing.T) {
	dir := t.TempDir()
	made, err := drive.CreateFolder(filepath.Join(dir, "TAPE01"), drive.FolderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := made.Close(); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "Drive_1068000077.ULT3580-TD5")
	for content, want := range map[string]cairn.Kind{
		"TAPE01": 0,
		"TAPE01" + strings.Repeat(" ", 30) + "more": 0,
		"empty":     cairn.KindNotFound,
		"MISSING":   cairn.KindNotFound,
		"":          cairn.KindInvalid,
		"../TAPE01": cairn.KindInvalid,
	} {
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		d, err := drive.Open(t.Context(), name, drive.Options{})
		if want != 0 {
			if !errors.Is(err, want) {
				t.Errorf("%q: %v, want %v", content, err, want)
			}
			continue
		}
		if err != nil {
			t.Errorf("%q: %v", content, err)
			continue
		}
		if err := d.Close(); err != nil {
			t.Errorf("%q: %v", content, err)
		}
	}
	if _, err := drive.Open(t.Context(), filepath.Join(dir, "none"), drive.Options{}); !errors.Is(err, cairn.KindNotFound) || !strings.Contains(err.Error(), "cairn tape list") {
		t.Errorf("no such drive: %v", err)
	}
}

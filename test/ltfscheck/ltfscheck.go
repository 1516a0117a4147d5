// Package ltfscheck reads a folder of tape records with the standard library alone
// and holds it against the rules of the LTFS format: a second opinion on what
// package ltfs and system/tape write, that shares no line with them. It is slow and
// plain on purpose.
//
// It promises that a volume it passes is laid out block by block as the format's
// tables say (docs/formats/ltfs.md, docs/formats/tape-folder.md), and hands out what
// the volume holds as it understood it. It does not read damaged tapes.
package ltfscheck

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Entry is what the volume holds under a path.
type Entry struct {
	Kind     string // file, dir, link
	Target   string // of a link
	ReadOnly bool
	Modified string // as in the index
	Length   uint64
	Data     []byte
	XAttrs   map[string]string
	Extents  int
}

// Volume is what a folder holds.
type Volume struct {
	Name        string
	Barcode     string
	UUID        string
	BlockSize   int
	Generations []int             // of the data partition's full indexes, oldest first
	Entries     map[string]*Entry // of the newest index, by path below the root
	Problems    []string
}

// block is a record, or with mark set a filemark.
type block struct {
	mark bool
	data []byte
}

type reader struct {
	dir   string
	v     *Volume
	parts [2][]block
	label [2]*node
	index byte // letters
	data  byte
}

// Read reads a folder and checks it. An error means that it could not be read at
// all; broken rules are in Problems.
func Read(dir string) (*Volume, error) {
	r := &reader{dir: dir, v: &Volume{Entries: map[string]*Entry{}}}
	for p := range 2 {
		if err := r.loadPartition(p); err != nil {
			return nil, err
		}
	}
	for p := range 2 {
		if err := r.checkLabel(p); err != nil {
			return nil, err
		}
	}
	r.compareLabels()
	return r.v, r.checkIndexes()
}

func (r *reader) bad(format string, args ...any) {
	r.v.Problems = append(r.v.Problems, fmt.Sprintf(format, args...))
}

// loadPartition reads P_0_…, P_1_… up to the end mark.
func (r *reader) loadPartition(p int) error {
	for n := 0; ; n++ {
		name := func(kind string) string { return filepath.Join(r.dir, fmt.Sprintf("%d_%d_%s", p, n, kind)) }
		kinds := 0
		for _, kind := range []string{"R", "F", "E"} {
			data, err := os.ReadFile(name(kind))
			if os.IsNotExist(err) {
				continue
			}
			if err != nil {
				return err
			}
			kinds++
			if kind != "R" && len(data) > 0 {
				r.bad("%s has %d bytes", name(kind), len(data))
			}
			if kind == "R" && len(data) == 0 {
				r.bad("%s is empty", name(kind))
			}
			r.parts[p] = append(r.parts[p], block{kind == "F", data})
			if kind == "E" {
				r.parts[p] = r.parts[p][:n]
				return r.nothingBehind(p, n)
			}
		}
		if kinds != 1 {
			return fmt.Errorf("partition %d has %d files for block %d", p, kinds, n)
		}
	}
}

func (r *reader) nothingBehind(p, end int) error {
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		part, rest, _ := strings.Cut(e.Name(), "_")
		number, kind, _ := strings.Cut(rest, "_")
		if n, err := strconv.Atoi(number); err == nil && part == strconv.Itoa(p) && (n > end || n == end && kind != "E") {
			r.bad("%s stands behind the end of data (%d)", e.Name(), end)
		}
	}
	return nil
}

// checkLabel checks blocks 0 to 3 of a partition.
func (r *reader) checkLabel(p int) error {
	b := r.parts[p]
	if len(b) < 4 || b[0].mark || !b[1].mark || b[2].mark || !b[3].mark {
		return fmt.Errorf("partition %d does not begin with VOL1, filemark, label, filemark", p)
	}
	vol1 := string(b[0].data)
	if len(vol1) != 80 {
		return fmt.Errorf("the VOL1 record of partition %d has %d bytes", p, len(vol1))
	}
	for from, want := range map[int]string{0: "VOL1", 10: "L" + strings.Repeat(" ", 13) + "LTFS" + strings.Repeat(" ", 51) + "4"} {
		if vol1[from:from+len(want)] != want {
			r.bad("VOL1 of partition %d holds %q at byte %d, want %q", p, vol1[from:from+len(want)], from, want)
		}
	}
	barcode := strings.TrimRight(vol1[4:10], " ")
	if p == 1 && barcode != r.v.Barcode {
		r.bad("the partitions carry the barcodes %q and %q", r.v.Barcode, barcode)
	}
	r.v.Barcode = barcode
	if len(b[2].data) > 4096 {
		r.bad("the label of partition %d has %d bytes", p, len(b[2].data))
	}
	root, err := parseXML(b[2].data)
	if err != nil {
		return fmt.Errorf("label of partition %d: %w", p, err)
	}
	r.label[p] = root
	r.order(root, "label", []string{"creator", "formattime", "volumeuuid", "location", "partitions", "blocksize", "compression"}, nil)
	if root.name != "ltfslabel" || root.attrs["version"] != "2.4.0" {
		r.bad("the label of partition %d is <%s version=%q>", p, root.name, root.attrs["version"])
	}
	r.timestamp("label", root.text("formattime"))
	r.v.UUID = root.text("volumeuuid")
	r.index, r.data = letter(root.text("partitions", "index")), letter(root.text("partitions", "data"))
	r.v.BlockSize, err = strconv.Atoi(root.text("blocksize"))
	if c := root.text("compression"); c != "true" && c != "false" {
		r.bad("compression is %q", c)
	}
	return err
}

func letter(s string) byte {
	if len(s) != 1 || s[0] < 'a' || s[0] > 'z' {
		return 0
	}
	return s[0]
}

func (r *reader) compareLabels() {
	a, b := r.label[0], r.label[1]
	for _, path := range [][]string{{"creator"}, {"formattime"}, {"volumeuuid"}, {"partitions", "index"}, {"partitions", "data"}, {"blocksize"}, {"compression"}} {
		if a.text(path...) != b.text(path...) {
			r.bad("the labels differ in %v", path)
		}
	}
	at := a.text("location", "partition") + b.text("location", "partition")
	if want := string([]byte{r.index, r.data}); at != want && at != string([]byte{r.data, r.index}) || r.index == r.data || r.index == 0 || r.data == 0 {
		r.bad("the labels stand in partitions %q of %q", at, want)
	}
}

// number is the partition with a letter.
func (r *reader) number(l byte) int {
	for p := range 2 {
		if letter(r.label[p].text("location", "partition")) == l {
			return p
		}
	}
	return -1
}

// attribute reads a medium attribute and checks its head.
func (r *reader) attribute(p int, id uint16, length int) []byte {
	name := fmt.Sprintf("attr_%d_%x", p, id)
	raw, err := os.ReadFile(filepath.Join(r.dir, name))
	if err != nil {
		r.bad("%v", err)
		return make([]byte, length)
	}
	if len(raw) != 5+length || binary.BigEndian.Uint16(raw) != id || int(binary.BigEndian.Uint16(raw[3:])) != length {
		r.bad("%s has %d bytes and the head %x, want a value of %d bytes", name, len(raw), raw[:min(5, len(raw))], length)
		return make([]byte, length)
	}
	return raw[5:]
}

// checkCoherency holds the coherency attribute of a partition against the index it
// ends in.
func (r *reader) checkCoherency(p, at int, generation uint64) {
	v := r.attribute(p, 0x80c, 70)
	reference := r.attribute(0, 0x9, 4)
	want := []byte{8, 0, 0, 0, 0}
	want = append(want, reference...)
	want = binary.BigEndian.AppendUint64(want, generation)
	want = binary.BigEndian.AppendUint64(want, uint64(at))
	want = append(want, 0, 43)
	want = append(want, "LTFS\x00"+r.v.UUID+"\x00\x01"...)
	if string(v) != string(want) {
		r.bad("the coherency attribute of partition %d is\n%q, want\n%q", p, v, want)
	}
}

package ltfs_test

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"time"

	"cairn/ltfs"
)

const exampleVolume = "5c1a1e5e-3b62-4f3c-9a43-5d6f2f0a9c11"

var exampleTime = ltfs.TimestampOf(time.Date(2026, 11, 20, 6, 53, 34, 0, time.UTC))

// What begins each of the two partitions: a VOL1 record of 80 bytes, and the label.
func Example_label() {
	vol1, err := ltfs.AppendVOL1(nil, "REC026")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%.28s… %d bytes\n", vol1, len(vol1))
	label := &ltfs.Label{Version: ltfs.Version, Creator: "example", FormatTime: exampleTime, VolumeUUID: exampleVolume,
		Location: 'a', IndexPart: 'a', DataPart: 'b', BlockSize: ltfs.DefaultBlock, Compression: true}
	var text bytes.Buffer
	if _, err := label.WriteTo(&text); err != nil {
		fmt.Println(err)
		return
	}
	back, err := ltfs.ReadLabel(&text)
	fmt.Println(back.BlockSize, string(back.IndexPart), string(back.DataPart), err)
	// Output:
	// VOL1REC026L             LTFS… 80 bytes
	// 524288 a b <nil>
}

// An index with one file, as XML.
func ExampleIndex_WriteTo() {
	at := ltfs.Times{Creation: exampleTime, Change: exampleTime, Modify: exampleTime, Access: exampleTime, Backup: exampleTime}
	ix := &ltfs.Index{Creator: "example", VolumeUUID: exampleVolume, Generation: 2, UpdateTime: exampleTime, HighestUID: 2,
		Self: ltfs.Location{Partition: 'b', Block: 9}, Previous: ltfs.Location{Partition: 'b', Block: 5},
		Root: &ltfs.Directory{Name: "Records", UID: 1, Times: at, Files: []*ltfs.File{{Name: "10:30.txt", UID: 2, Length: 11, Times: at,
			Extents: []ltfs.Extent{{Partition: 'b', StartBlock: 7, ByteCount: 11}}}}}}
	var text strings.Builder
	if _, err := ix.WriteTo(&text); err != nil {
		fmt.Println(err)
		return
	}
	for line := range strings.Lines(text.String()) {
		if strings.Contains(line, "name") || strings.Contains(line, "generation") {
			fmt.Print(line)
		}
	}
	// Output:
	// <generationnumber>2</generationnumber>
	// <previousgenerationlocation>
	// </previousgenerationlocation>
	// <name>Records</name>
	// <name percentencoded="true">10%3A30.txt</name>
}

// Reading an index, looking for what breaks the rules, and walking the tree.
func ExampleReadIndex() {
	f, err := os.Open("testdata/small.xml")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer f.Close()
	ix, err := ltfs.ReadIndex(f)
	if err != nil {
		fmt.Println(err)
		return
	}
	for path, n := range ix.All() {
		if n.File != nil {
			fmt.Println(path, n.File.Length, "bytes")
		}
	}
	for _, problem := range ix.Check(nil) {
		fmt.Println("problem:", problem)
	}
	// Output:
	// /letters/may.txt 4096 bytes
	// /10:30.txt 11 bytes
	// problem: /10:30.txt: has extents that overlap at offset 4
}

// What is left of an index that was cut off: whole files, and where it ends.
func ExampleReadTornIndex() {
	text, err := os.ReadFile("testdata/small.xml")
	if err != nil {
		fmt.Println(err)
		return
	}
	ix, lost, err := ltfs.ReadTornIndex(bytes.NewReader(text[:len(text)-500]))
	fmt.Println(lost, err)
	for path, n := range ix.All() {
		if n.File != nil {
			fmt.Println(path)
		}
	}
	// Output:
	// LTFS index, byte 1215: ends inside a tag <nil>
	// /letters/may.txt
}

// The rule by which small text files go to the index partition.
func ExamplePolicy_Match() {
	p, err := ltfs.ParsePolicy("size=1M/name=*.txt:*.md5")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(p.Match("NOTES.TXT", 4000), p.Match("film.mov", 4000), p.Match("big.txt", 2<<20))
	// Output: true false false
}

// What changed between two generations, and the way back from the older one.
func ExampleIncremental_Apply() {
	older := &ltfs.Index{VolumeUUID: exampleVolume, Generation: 1, HighestUID: 2, Root: &ltfs.Directory{UID: 1, Files: []*ltfs.File{{Name: "a", UID: 2}}}}
	newer := &ltfs.Index{VolumeUUID: exampleVolume, Generation: 2, HighestUID: 3, Root: &ltfs.Directory{UID: 1, Files: []*ltfs.File{{Name: "b", UID: 3}}}}
	changes := ltfs.Difference(older, newer)
	if err := changes.Apply(older); err != nil {
		fmt.Println(err)
		return
	}
	for path, n := range older.All() {
		if n.File != nil {
			fmt.Println(path, "in generation", older.Generation)
		}
	}
	// Output: /b in generation 2
}

// The attribute by which a mount trusts a tape without reading to its end.
func ExampleCoherency() {
	c := &ltfs.Coherency{ChangeReference: 2, Generation: 7, Block: 13, VolumeUUID: exampleVolume, Trusted: true}
	value := c.Append(nil)
	back, err := ltfs.ParseCoherency(value)
	fmt.Println(len(value), back.Generation, back.Block, err)
	// Output: 70 7 13 <nil>
}

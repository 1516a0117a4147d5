package ltfs_test

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"

	"cairn/ltfs"
)

// What is written is read back equal, whatever the tree, also when the reader
// gets one byte at a time; and a reader that shares no code with this package
// (encoding/xml) finds it well-formed.
func TestIndexRoundTrip(t *testing.T) {
	for seed := range uint64(60) {
		ix := randomTree(rand.New(rand.NewPCG(seed, 1)), 1+int(seed))
		text := write(t, ix)
		back, err := ltfs.ReadIndex(bytes.NewReader(text))
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if !reflect.DeepEqual(ix, back) {
			t.Fatalf("seed %d: what was read differs from what was written", seed)
		}
		if again := write(t, back); !bytes.Equal(again, text) {
			t.Fatalf("seed %d: writing again gives other bytes", seed)
		}
		if seed < 5 {
			if slow, err := ltfs.ReadIndex(iotest.OneByteReader(bytes.NewReader(text))); err != nil || !reflect.DeepEqual(ix, slow) {
				t.Fatalf("seed %d: byte by byte: %v", seed, err)
			}
		}
		d := xml.NewDecoder(bytes.NewReader(text))
		for err = nil; err == nil; _, err = d.Token() {
		}
		if !errors.Is(err, io.EOF) {
			t.Fatalf("seed %d: encoding/xml: %v", seed, err)
		}
	}
}

// Names are encoded exactly as other LTFS software does.
func TestNameEncoding(t *testing.T) {
	for name, want := range map[string]string{
		"na:me %é":  `<name percentencoded="true">na%3Ame%20%25%C3%A9</name>`,
		"100%":      `<name>100%</name>`,
		"ünïcode":   `<name>ünïcode</name>`,
		"a<b&c>":    `<name>a&lt;b&amp;c&gt;</name>`,
		"a<:":       `<name percentencoded="true">a&lt;%3A</name>`,
		"bell\x07":  `<name percentencoded="true">bell%07</name>`,
		"tab\there": "<name>tab\there</name>",
		"cr\rhere":  "<name>cr&#13;here</name>",
	} {
		ix := randomTree(rand.New(rand.NewPCG(1, 1)), 0)
		ix.Root.Files = []*ltfs.File{{Name: name, UID: 2}}
		text := write(t, ix)
		if !bytes.Contains(text, []byte(want)) {
			t.Errorf("%q: want %s in\n%s", name, want, text)
		}
		back, err := ltfs.ReadIndex(bytes.NewReader(text))
		if err != nil || back.Root.Files[0].Name != name {
			t.Errorf("%q: read back as %v, %v", name, back, err)
		}
	}
}

const minimalIndex = `<?xml version="1.0" encoding="UTF-8"?><ltfsindex version="VERSION"><creator>c</creator><volumeuuid>` + uuid +
	`</volumeuuid><generationnumber>1</generationnumber><updatetime>2026-11-20T06:53:34.088532227Z</updatetime>` +
	`<location><partition>b</partition><startblock>5</startblock></location><allowpolicyupdate>true</allowpolicyupdate>` +
	`<directory><name>v</name><contents>BODY</contents></directory>AFTER</ltfsindex>`

func minimal(version, body, after string) string {
	return strings.NewReplacer("VERSION", version, "BODY", body, "AFTER", after).Replace(minimalIndex)
}

// Versions 1.0 to 2.5, compact text, comments, CDATA, references, NUL padding and
// elements nobody knows are read.
func TestForeignIndexes(t *testing.T) {
	for name, text := range map[string]string{
		"1.0.0":            minimal("1.0.0", "", ""),
		"2.5.1":            minimal("2.5.1", "", ""),
		"comments":         minimal("2.4.0", "<!-- <file> --><file><!-- x --><name>a<!-- b --></name><length>0</length></file>", "<!-- end -->"),
		"CDATA":            minimal("2.4.0", "<file><name><![CDATA[a]]></name><length>0</length></file>", ""),
		"references":       minimal("2.4.0", "<file><name>&#97;</name><length>0</length></file><file><name>&#x62;</name><length>0</length></file>", ""),
		"padding":          minimal("2.4.0", "", "") + "\x00\x00\x00",
		"empty contents":   strings.Replace(minimal("2.4.0", "", ""), "<contents></contents>", "<contents/>", 1),
		"unknown anywhere": minimal("2.4.0", "<file><name>a</name><length>0</length><new v='>'><in/>text</new></file>", "<other/>"),
	} {
		ix, err := ltfs.ReadIndex(strings.NewReader(text))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, f := range ix.Root.Files {
			if f.Name != "a" && f.Name != "b" {
				t.Errorf("%s: name %q", name, f.Name)
			}
		}
		if name == "unknown anywhere" {
			again := string(write(t, ix))
			if !strings.Contains(again, "<new v='>'><in/>text</new>\n</file>") || !strings.Contains(again, "<other/>\n</ltfsindex>") {
				t.Errorf("unknown elements are not kept at the end of their parents:\n%s", again)
			}
		}
	}
}

// Each kind of damage and malice is one clear error.
func TestHostileIndexes(t *testing.T) {
	deep := strings.Repeat("<directory><name>d</name><contents>", 2000)
	for want, text := range map[string]string{
		"is not XML":             "hello",
		"document type":          `<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "b">]><ltfsindex/>`,
		"has encoding":           `<?xml version="1.0" encoding="UTF-16"?><ltfsindex/>`,
		"want <ltfsindex>":       "<ltfslabel version='2.4.0'/>",
		"newer than 2.x":         minimal("3.0.0", "", ""),
		"entity other than":      minimal("2.4.0", "<file><name>&lol;</name></file>", ""),
		"nested more than":       minimal("2.4.0", deep, ""),
		"contains '/'":           minimal("2.4.0", "<file><name>../../etc/passwd</name></file>", ""),
		"is not a name":          minimal("2.4.0", "<file><name>..</name></file>", ""),
		"NUL":                    minimal("2.4.0", `<file><name percentencoded="true">a%00b</name></file>`, ""),
		"not percent-encoded":    minimal("2.4.0", `<file><name percentencoded="true">a%4</name></file>`, ""),
		"not a number":           minimal("2.4.0", "<file><name>a</name><length>-1</length></file>", ""),
		"number of 64 bits":      minimal("2.4.0", "<file><name>a</name><length>18446744073709551616</length></file>", ""),
		"want true or false":     minimal("2.4.0", "<file><name>a</name><readonly>yes</readonly></file>", ""),
		"is not a time":          minimal("2.4.0", "<file><name>a</name><changetime>2026-13-01T00:00:00Z</changetime></file>", ""),
		"letter from a to z":     minimal("2.4.0", "<file><name>a</name><extentinfo><extent><partition>ab</partition></extent></extentinfo></file>", ""),
		"lacks its partition":    minimal("2.4.0", "<file><name>a</name><extentinfo><extent><startblock>4</startblock></extent></extentinfo></file>", ""),
		"not the element":        minimal("2.4.0", "<file><name>a</file></name>", ""),
		"element inside <name>":  minimal("2.4.0", "<file><name><b/></name></file>", ""),
		"text where only":        minimal("2.4.0", "<file>stray<name>a</name></file>", ""),
		"not base64":             minimal("2.4.0", "<file><name>a</name><extendedattributes><xattr><key>k</key><value type='base64'>*</value></xattr></extendedattributes></file>", ""),
		"two root directories":   minimal("2.4.0", "", "<directory><name>w</name></directory>"),
		"twice":                  minimal("2.4.0", "", "<creator>d</creator>"),
		"lacks <volumeuuid>":     strings.Replace(minimal("2.4.0", "", ""), "<volumeuuid>"+uuid+"</volumeuuid>", "", 1),
		"text after its last":    minimal("2.4.0", "", "") + "tail",
		"second document":        minimal("2.4.0", "", "") + "<x/>",
		"longer than":            minimal("2.4.0", "<file><name>"+strings.Repeat("x", 5<<20)+"</name></file>", ""),
		"character XML does not": minimal("2.4.0", "<file><name>a\x01</name></file>", ""),
	} {
		_, err := ltfs.ReadIndex(strings.NewReader(text))
		var fe *ltfs.FormatError
		if !errors.As(err, &fe) || !strings.Contains(err.Error(), want) {
			t.Errorf("want an error with %q, got %v", want, err)
		}
	}
}

// A cut index is never taken for a whole one.
func TestTruncatedIndex(t *testing.T) {
	text := bytes.TrimRight(write(t, randomTree(rand.New(rand.NewPCG(3, 1)), 4)), "\n")
	for n := range len(text) {
		if _, err := ltfs.ReadIndex(bytes.NewReader(text[:n])); err == nil {
			t.Fatalf("an index cut at byte %d of %d was accepted", n, len(text))
		}
	}
}

func TestReadErrorsComeThrough(t *testing.T) {
	boom := errors.New("drive says no")
	r := io.MultiReader(strings.NewReader("<ltfsindex version='2.4.0'>"), iotest.ErrReader(boom))
	if _, err := ltfs.ReadIndex(r); !errors.Is(err, boom) {
		t.Errorf("got %v", err)
	}
}

func TestCheckFindsEachProblem(t *testing.T) {
	label := sampleLabel('b')
	good := func() *ltfs.Index {
		return &ltfs.Index{VolumeUUID: uuid, Generation: 2, Self: ltfs.Location{Partition: 'b', Block: 20}, Previous: ltfs.Location{Partition: 'b', Block: 5}, HighestUID: 9,
			Root: &ltfs.Directory{UID: 1, Files: []*ltfs.File{{Name: "f", UID: 2, Length: 100, Extents: []ltfs.Extent{{Partition: 'b', StartBlock: 8, ByteCount: 100}}}}}}
	}
	if p := good().Check(label); len(p) != 0 {
		t.Fatalf("a good index has problems: %v", p)
	}
	for want, spoil := range map[string]func(*ltfs.Index){
		"generation 0":           func(ix *ltfs.Index) { ix.Generation = 0 },
		"inside the label":       func(ix *ltfs.Index) { ix.Self.Block = 3 },
		"at or behind this":      func(ix *ltfs.Index) { ix.Previous.Block = 19 },
		"outside the data":       func(ix *ltfs.Index) { ix.Previous.Partition = 'a' },
		"the label of":           func(ix *ltfs.Index) { ix.VolumeUUID = "00000000-0000-0000-0000-000000000000" },
		"file UID 1 of":          func(ix *ltfs.Index) { ix.Root.Files[0].UID = 1 },
		"above the highest":      func(ix *ltfs.Index) { ix.Root.Files[0].UID = 10 },
		"twice":                  func(ix *ltfs.Index) { ix.Root.Dirs = []*ltfs.Directory{{Name: "f", UID: 3}} },
		"symbolic link and has":  func(ix *ltfs.Index) { ix.Root.Files[0].IsSymlink = true },
		"beyond its length":      func(ix *ltfs.Index) { ix.Root.Files[0].Length = 99 },
		"without bytes":          func(ix *ltfs.Index) { ix.Root.Files[0].Extents[0].ByteCount = 0 },
		"which the volume has":   func(ix *ltfs.Index) { ix.Root.Files[0].Extents[0].Partition = 'c' },
		"beyond its first block": func(ix *ltfs.Index) { ix.Root.Files[0].Extents[0].ByteOffset = 1 << 20 },
		"data at block 2":        func(ix *ltfs.Index) { ix.Root.Files[0].Extents[0].StartBlock = 2 },
		"overlap": func(ix *ltfs.Index) {
			ix.Root.Files[0].Extents = append(ix.Root.Files[0].Extents, ltfs.Extent{FileOffset: 50, Partition: 'b', StartBlock: 9, ByteCount: 10})
		},
	} {
		ix := good()
		spoil(ix)
		problems := ix.Check(label)
		found := false
		for _, p := range problems {
			found = found || strings.Contains(p.String(), want)
		}
		if !found {
			t.Errorf("want a problem with %q, got %v", want, problems)
		}
	}
}

func FuzzReadIndex(f *testing.F) {
	f.Add([]byte(minimal("2.4.0", "<file><name>a</name><length>1</length></file>", "<x/>")))
	f.Add([]byte(minimal("1.0.0", "<directory><name percentencoded='true'>a%3A</name><contents/></directory>", "")))
	f.Fuzz(func(t *testing.T, text []byte) {
		ix, err := ltfs.ReadIndex(bytes.NewReader(text))
		if err != nil {
			return
		}
		ix.Check(nil)
		var b bytes.Buffer
		if _, err := ix.WriteTo(&b); err != nil {
			return // a creator or comment that XML can hold only as read
		}
		back, err := ltfs.ReadIndex(bytes.NewReader(b.Bytes()))
		if err != nil {
			t.Fatalf("what was written cannot be read: %v\n%s", err, b.Bytes())
		}
		back.Version = ix.Version
		if !reflect.DeepEqual(ix, back) {
			t.Fatalf("round trip changed the index:\n%s", b.Bytes())
		}
	})
}

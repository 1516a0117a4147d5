package ltfs_test

import (
	"bytes"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"cairn/ltfs"
)

func sampleLabel(at byte) *ltfs.Label {
	return &ltfs.Label{Version: "2.4.0", Creator: "Cairn test", FormatTime: when, VolumeUUID: uuid, Location: at,
		IndexPart: 'a', DataPart: 'b', BlockSize: ltfs.DefaultBlock, Compression: true}
}

// The record is 80 bytes, laid out as the specification's table says.
func TestVOL1Layout(t *testing.T) {
	got, err := ltfs.AppendVOL1(nil, "ABC123")
	if err != nil {
		t.Fatal(err)
	}
	want := "VOL1" + "ABC123" + "L" + strings.Repeat(" ", 13) + "LTFS" + strings.Repeat(" ", 51) + "4"
	if string(got) != want || len(got) != 80 {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if code, err := ltfs.ParseVOL1(got); err != nil || code != "ABC123" {
		t.Errorf("%q, %v", code, err)
	}
	blank, _ := ltfs.AppendVOL1(nil, "")
	if code, err := ltfs.ParseVOL1(blank); err != nil || code != "" {
		t.Errorf("blank: %q, %v", code, err)
	}
	for _, bad := range []string{"", want[:79], "HDR1" + want[4:], strings.Replace(want, "LTFS", "TARX", 1), strings.Replace(want, "ABC", "abc", 1)} {
		if _, err := ltfs.ParseVOL1([]byte(bad)); err == nil {
			t.Errorf("accepted %q", bad)
		}
	}
	if _, err := ltfs.AppendVOL1(nil, "abc"); err == nil {
		t.Error("a bad barcode was written")
	}
}

func TestLabelRoundTripAndAgreement(t *testing.T) {
	a, b := sampleLabel('a'), sampleLabel('b')
	for _, l := range []*ltfs.Label{a, b} {
		var text bytes.Buffer
		if _, err := l.WriteTo(&text); err != nil {
			t.Fatal(err)
		}
		back, err := ltfs.ReadLabel(&text)
		if err != nil || !reflect.DeepEqual(l, back) {
			t.Fatalf("%+v, %v", back, err)
		}
	}
	if err := a.Agree(b); err != nil {
		t.Error(err)
	}
	if a.Agree(a) == nil {
		t.Error("two labels of one partition agree")
	}
	b.BlockSize = 65536
	if a.Agree(b) == nil {
		t.Error("labels with other block sizes agree")
	}
}

func TestBadLabels(t *testing.T) {
	var text bytes.Buffer
	if _, err := sampleLabel('a').WriteTo(&text); err != nil {
		t.Fatal(err)
	}
	good := text.String()
	for want, bad := range map[string]string{
		"is not a UUID":        strings.Replace(good, uuid, "x", 1),
		"both":                 strings.Replace(good, "<data>b", "<data>a", 1),
		"neither the index":    strings.Replace(good, "<location>\n<partition>a", "<location>\n<partition>c", 1),
		"block size":           strings.Replace(good, "524288", "512", 1),
		"lacks <compression>":  strings.Replace(good, "<compression>true</compression>", "", 1),
		"newer than 2.x":       strings.Replace(good, `"2.4.0"`, `"3.0.0"`, 1),
		"lacks <index>":        strings.Replace(good, "<index>a</index>", "", 1),
		"longer than 4096":     strings.Replace(good, "Cairn test", strings.Repeat("x", 5000), 1),
		"ends":                 good[:len(good)/2],
		"want <ltfslabel>":     minimal("2.4.0", "", ""),
		"twice":                strings.Replace(good, "</ltfslabel>", "<blocksize>4096</blocksize></ltfslabel>", 1),
		"entity other than":    strings.Replace(good, "Cairn test", "&a;", 1),
		"want a letter":        strings.Replace(good, "<index>a</index>", "<index>A</index>", 1),
		"not a time":           strings.Replace(good, "<formattime>2026", "<formattime>26", 1),
		"want true or false":   strings.Replace(good, ">true<", ">maybe<", 1),
		"has <x> in <location": strings.Replace(good, "<location>", "<location><x/>", 1),
	} {
		if _, err := ltfs.ReadLabel(strings.NewReader(bad)); err == nil || !strings.Contains(err.Error(), want) {
			if want == "longer than 4096" && err != nil { // cut by the limit: any refusal will do
				continue
			}
			t.Errorf("want an error with %q, got %v", want, err)
		}
	}
}

// The value is 70 bytes, field by field as other software writes it.
func TestCoherencyLayout(t *testing.T) {
	c := &ltfs.Coherency{ChangeReference: 2, Generation: 3, Block: 6, VolumeUUID: uuid, Trusted: true}
	want := "\x08" + "\x00\x00\x00\x00\x00\x00\x00\x02" + "\x00\x00\x00\x00\x00\x00\x00\x03" + "\x00\x00\x00\x00\x00\x00\x00\x06" +
		"\x00\x2b" + "LTFS\x00" + uuid + "\x00" + "\x01"
	got := c.Append(nil)
	if string(got) != want || len(got) != ltfs.CoherencyBytes {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if back, err := ltfs.ParseCoherency(got); err != nil || *back != *c {
		t.Errorf("%+v, %v", back, err)
	}
	old := append([]byte(want[:25]+"\x00\x2a"+want[27:68]), 1) // 42: without the NUL behind the UUID
	if back, err := ltfs.ParseCoherency(old); err != nil || *back != *c {
		t.Errorf("length 42: %+v, %v", back, err)
	}
	for _, bad := range []string{"", want[:60], "\x04" + want[1:], strings.Replace(want, "LTFS", "TARX", 1), strings.Replace(want, "-", "x", 1)} {
		if _, err := ltfs.ParseCoherency([]byte(bad)); err == nil {
			t.Errorf("accepted %q", bad)
		}
	}
}

func TestTimestampAgreesWithTimePackage(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 20000 {
		at := time.Unix(rng.Int64N(315e9)-62e9, rng.Int64N(1e9)).UTC()
		if at.Year() < 0 || at.Year() > 9999 {
			continue
		}
		ts := ltfs.TimestampOf(at)
		if want := at.Format("2006-01-02T15:04:05.000000000Z"); ts.String() != want {
			t.Fatalf("got %s, want %s", ts, want)
		}
		if !ts.Time().Equal(at) {
			t.Fatalf("%s does not convert back", ts)
		}
	}
}

func TestPolicy(t *testing.T) {
	p, err := ltfs.ParsePolicy("size=1M/name=*.txt:*.J?g")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		size uint64
		want bool
	}{{"a.txt", 1 << 20, true}, {"a.txt", 1<<20 + 1, false}, {"A.TXT", 1, true}, {"b.jpg", 1, true}, {"b.jpeg", 1, false}, {"x", 1, false}} {
		if p.Match(c.name, c.size) != c.want {
			t.Errorf("%s, %d: want %v", c.name, c.size, c.want)
		}
	}
	all, _ := ltfs.ParsePolicy("size=10K")
	if !all.Match("anything", 10240) || all.Match("anything", 10241) {
		t.Error("size=10K without names")
	}
	brackets := &ltfs.Policy{MaxSize: 9, Names: []string{"[a]*"}}
	if !brackets.Match("[a]b", 1) || brackets.Match("ab", 1) {
		t.Error("brackets are special")
	}
	if (*ltfs.Policy)(nil).Match("x", 0) || (&ltfs.Policy{}).Match("x", 0) {
		t.Error("no policy matches")
	}
	for _, bad := range []string{"", "name=x", "size=", "size=x", "size=1T", "size=1M/name=", "size=1M/foo=1", "size=99999999999G"} {
		if _, err := ltfs.ParsePolicy(bad); err == nil {
			t.Errorf("accepted %q", bad)
		}
	}
}

func FuzzReadLabel(f *testing.F) {
	var text bytes.Buffer
	if _, err := sampleLabel('a').WriteTo(&text); err != nil {
		f.Fatal(err)
	}
	f.Add(text.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		if l, err := ltfs.ReadLabel(bytes.NewReader(b)); err == nil {
			if err := l.Validate(); err != nil {
				t.Fatal(err)
			}
		}
		_, _ = ltfs.ParseVOL1(b)
		_, _ = ltfs.ParseCoherency(b)
	})
}

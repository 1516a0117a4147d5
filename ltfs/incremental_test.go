package ltfs_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"reflect"
	"sort"
	"strings"
	"testing"

	"cairn/ltfs"
)

// mutate makes the next generation: files and directories appear, change, move
// and go.
func mutate(rng *rand.Rand, ix *ltfs.Index) *ltfs.Index {
	next := clone(ix)
	next.Generation++
	next.Previous, next.Self = ix.Previous, ltfs.Location{Partition: 'b', Block: ix.Self.Block + 10}
	g := &treeMaker{rng: rng, uid: next.HighestUID}
	var visit func(d *ltfs.Directory)
	visit = func(d *ltfs.Directory) {
		for _, sub := range d.Dirs {
			visit(sub)
		}
		switch rng.IntN(6) {
		case 0:
			g.uid++
			d.Files = append(d.Files, g.file(int(g.uid)))
		case 1:
			if len(d.Files) > 0 {
				f := *d.Files[0]
				f.Length += 7
				d.Files[0] = &f
			}
		case 2:
			if len(d.Files) > 0 {
				d.Files = d.Files[1:]
			}
		case 3:
			if len(d.Dirs) > 0 {
				moved := d.Dirs[0]
				d.Dirs = d.Dirs[1:]
				moved.Name = fmt.Sprintf("moved-%d", g.uid)
				g.uid++
				d.Dirs = append(d.Dirs, moved)
			}
		case 4:
			d.Times.Modify.Sec++
		}
	}
	visit(next.Root)
	next.HighestUID = g.uid
	return next
}

func clone(ix *ltfs.Index) *ltfs.Index {
	var b bytes.Buffer
	if _, err := ix.WriteTo(&b); err != nil {
		panic(err)
	}
	c, err := ltfs.ReadIndex(&b)
	if err != nil {
		panic(err)
	}
	return c
}

// sorted brings siblings into one order: replay appends what is new.
func sorted(ix *ltfs.Index) *ltfs.Index {
	var visit func(d *ltfs.Directory)
	visit = func(d *ltfs.Directory) {
		sort.Slice(d.Dirs, func(i, j int) bool { return d.Dirs[i].Name < d.Dirs[j].Name })
		sort.Slice(d.Files, func(i, j int) bool { return d.Files[i].Name < d.Files[j].Name })
		for _, sub := range d.Dirs {
			visit(sub)
		}
	}
	visit(ix.Root)
	return clone(ix)
}

// Replaying the written differences onto the first full index gives the last one.
func TestReplayOfIncrementalsEqualsTheFullIndex(t *testing.T) {
	for seed := range uint64(40) {
		rng := rand.New(rand.NewPCG(seed, 9))
		replayed := randomTree(rng, 20)
		current := clone(replayed)
		for range 5 {
			next := mutate(rng, current)
			var text bytes.Buffer
			if _, err := ltfs.Difference(current, next).WriteTo(&text); err != nil {
				t.Fatal(err)
			}
			inc, err := ltfs.ReadIncremental(&text)
			if err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			if err := inc.Apply(replayed); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			current = next
		}
		if !reflect.DeepEqual(sorted(replayed), sorted(current)) {
			t.Fatalf("seed %d: replay differs from the full index", seed)
		}
	}
}

func incremental(body string) string {
	return `<ltfsincrementalindex version="2.5.0"><creator>c</creator><volumeuuid>` + uuid + `</volumeuuid><generationnumber>2</generationnumber>` +
		`<updatetime>2026-11-20T06:53:34.1Z</updatetime><location><partition>b</partition><startblock>11</startblock></location>` +
		`<previousgenerationlocation><partition>b</partition><startblock>5</startblock></previousgenerationlocation>` +
		`<directory><name>v</name><fileuid>1</fileuid><contents>` + body + `</contents></directory></ltfsincrementalindex>`
}

// The two defects that known software writes are put right where identities show
// what was meant, and said: an existing directory's element that ends behind its
// name, and a rename that removes the new name instead of the old one.
func TestIncrementalsWithKnownDefectsAreRepaired(t *testing.T) {
	const times = "<creationtime>2026-11-20T06:53:34.1Z</creationtime><changetime>2026-11-20T06:53:34.1Z</changetime>"
	const moved = "<file><name>top2</name><length>7</length><fileuid>3</fileuid></file>"
	for name, c := range map[string]struct {
		text   string
		said   []string
		places string
	}{
		"early close": {incremental("<directory><name>dir1</name></directory><fileuid>2</fileuid><contents><file><name>in</name><length>0</length><fileuid>5</fileuid></file></contents>" +
			"<file><name>out</name><length>0</length><fileuid>6</fileuid></file>"), []string{`"/dir1" ends behind its name`}, "/dir1/in /dir1/sub/deep /top /out"},
		"early close, changed, twice": {incremental("<directory><name>dir1</name></directory><readonly>true</readonly>" + times + "<fileuid>2</fileuid><contents>" +
			"<directory><name>sub</name></directory><fileuid>4</fileuid><contents><file><name>deep</name><deleted/></file></contents></contents>"),
			[]string{`"/dir1" ends`, `"/dir1/sub" ends`}, "/top"},
		"early close of the root": {strings.Replace(incremental("<file><name>new</name><length>0</length><fileuid>5</fileuid></file>"), "<fileuid>1<", "</directory><fileuid>1<", 1),
			[]string{`"/" ends`}, "/dir1/sub/deep /top /new"},
		"rename": {incremental("<file><name>top2</name><deleted/></file><directory><name>dir1</name><fileuid>2</fileuid><contents>" + moved + "</contents></directory>"),
			[]string{`the removal of "top2" in /, where it is not, was taken for that of "top"`}, "/dir1/sub/deep /dir1/top2"},
		"rename of a directory": {incremental("<directory><name>sub2</name>" + times + "<fileuid>4</fileuid><contents/></directory>" +
			"<directory><name>dir1</name><fileuid>2</fileuid><contents><directory><name>sub2</name><deleted/></directory></contents></directory>"),
			[]string{`the removal of "sub2" in /dir1/, where it is not, was taken for that of "sub"`}, "/top"},
		"both": {incremental("<file><name>top2</name><deleted/></file><directory><name>dir1</name></directory><fileuid>2</fileuid><contents>" + moved + "</contents>"),
			[]string{`"/dir1" ends`, `the removal of "top2"`}, "/dir1/sub/deep /dir1/top2"},
	} {
		text := strings.Replace(c.text, "</directory></ltfsinc", "</ltfsinc", strings.Count(name, "of the root"))
		inc, err := ltfs.ReadIncremental(strings.NewReader(text))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		base := &ltfs.Index{VolumeUUID: uuid, Generation: 1, HighestUID: 6, Self: ltfs.Location{Partition: 'b', Block: 5},
			Root: &ltfs.Directory{Name: "v", UID: 1, Dirs: []*ltfs.Directory{{Name: "dir1", UID: 2,
				Dirs: []*ltfs.Directory{{Name: "sub", UID: 4, Files: []*ltfs.File{{Name: "deep", UID: 9}}}}}}, Files: []*ltfs.File{{Name: "top", UID: 3}}}}
		base.HighestUID = 9
		if err := inc.Apply(base); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var places []string
		for at, n := range base.All() {
			if n.File != nil {
				places = append(places, at)
			}
		}
		want := strings.Fields(c.places)
		sort.Strings(places)
		sort.Strings(want)
		if !reflect.DeepEqual(places, want) || len(inc.Repairs) != len(c.said) {
			t.Errorf("%s: %v, want %v; said %q", name, places, want, inc.Repairs)
			continue
		}
		for i, said := range c.said {
			if !strings.Contains(inc.Repairs[i], said) {
				t.Errorf("%s: said %q, want %q", name, inc.Repairs[i], said)
			}
		}
	}
}

// Changes that do not fit are refused with a reason; nothing is guessed.
func TestIncrementalsThatDoNotFitAreRefused(t *testing.T) {
	base := func() *ltfs.Index {
		return &ltfs.Index{VolumeUUID: uuid, Generation: 1, HighestUID: 3, Self: ltfs.Location{Partition: 'b', Block: 5},
			Root: &ltfs.Directory{Name: "v", UID: 1, Dirs: []*ltfs.Directory{{Name: "dir1", UID: 2}}, Files: []*ltfs.File{{Name: "top", UID: 3}}}}
	}
	for want, body := range map[string]string{
		"is removed and is not there": "<file><name>top2</name><deleted/></file>",
		"\"old\" in / is removed":     "<directory><name>old</name><deleted/></directory>",
		"\"dir1\" in /dir1/ is anoth": "<directory><name>dir1</name></directory><fileuid>7</fileuid><contents/>",
		"another directory":           "<directory><name>dir1</name><fileuid>9</fileuid><contents/></directory>",
		"unchanged and is not there":  "<directory><name>new</name><fileuid>9</fileuid><contents/></directory>",
		"has the file UID":            "<file><name>copy</name><length>0</length><fileuid>3</fileuid></file>",
	} {
		inc, err := ltfs.ReadIncremental(strings.NewReader(incremental(body)))
		if err != nil {
			t.Errorf("%s: %v", want, err)
			continue
		}
		if err := inc.Apply(base()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want a refusal with %q, got %v", want, err)
		}
	}
	inc, err := ltfs.ReadIncremental(strings.NewReader(incremental("")))
	if err != nil {
		t.Fatal(err)
	}
	late := base()
	late.Generation = 7
	if err := inc.Apply(late); err == nil || !strings.Contains(err.Error(), "does not follow") {
		t.Errorf("wrong generation: %v", err)
	}
	foreign := base()
	foreign.VolumeUUID = "00000000-0000-0000-0000-000000000000"
	if err := inc.Apply(foreign); err == nil || !strings.Contains(err.Error(), "is of volume") {
		t.Errorf("wrong volume: %v", err)
	}
}

func FuzzReadIncremental(f *testing.F) {
	f.Add([]byte(incremental("<file><name>a</name><deleted/></file>")))
	f.Fuzz(func(t *testing.T, b []byte) {
		if inc, err := ltfs.ReadIncremental(bytes.NewReader(b)); err == nil {
			_ = inc.Apply(&ltfs.Index{VolumeUUID: inc.VolumeUUID, Generation: inc.Generation - 1, Root: &ltfs.Directory{}})
		}
	})
}

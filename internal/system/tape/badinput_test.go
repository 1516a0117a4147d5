package tape_test

import (
	"context"
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

// Each wrong tape is one clear error, and nothing is written to it.
func TestBadInputIsNamed(t *testing.T) {
	record := func(d *faketape.Tape, part int, block uint64) []byte {
		r, _ := d.Record(drive.Position{Partition: part, Block: block})
		return r
	}
	both := func(d *faketape.Tape, block uint64, edit func(string) string) {
		for part := range 2 {
			d.Spoil(drive.Position{Partition: part, Block: block}, []byte(edit(string(record(d, part, block)))))
		}
	}
	replace := func(old, fresh string) func(string) string {
		return func(s string) string { return strings.Replace(s, old, fresh, 1) }
	}
	body := func(text string) func(string) string {
		return func(s string) string {
			head, _, _ := strings.Cut(s, "<creator>")
			return head + text
		}
	}
	for want, c := range map[string]struct {
		kind  cairn.Kind
		spoil func(d *faketape.Tape)
	}{
		"it has 1 partition, LTFS has two":              {cairn.KindUnsupported, func(d *faketape.Tape) { _ = d.Format(t.Context(), 1) }},
		"there is none: the tape is blank":              {cairn.KindCorrupt, func(d *faketape.Tape) { _ = d.Format(t.Context(), 2) }},
		"does not begin with VOL1: not a labelled tape": {cairn.KindCorrupt, func(d *faketape.Tape) { both(d, 0, replace("VOL1", "TAPE")) }},
		`is of another format ("BACKUPSYS"), not LTFS`:  {cairn.KindCorrupt, func(d *faketape.Tape) { both(d, 0, replace("LTFS     ", "BACKUPSYS")) }},
		"has 0 bytes":                     {cairn.KindCorrupt, func(d *faketape.Tape) { both(d, 0, func(string) string { return "" }) }},
		"label, byte 0: is not XML":       {cairn.KindCorrupt, func(d *faketape.Tape) { both(d, 2, func(string) string { return "tar" }) }},
		"version 3.0.0 is newer than 2.x": {cairn.KindCorrupt, func(d *faketape.Tape) { both(d, 2, replace("2.4.0", "3.0.0")) }},
		"labels are of different volumes or formats": {cairn.KindCorrupt, func(d *faketape.Tape) {
			d.Spoil(drive.Position{Block: 2}, []byte(replace("4096", "8192")(string(record(d, 0, 2)))))
		}},
		"both labels say that they stand in partition": {cairn.KindCorrupt, func(d *faketape.Tape) { d.Spoil(drive.Position{Block: 2}, record(d, 1, 2)) }},
		"it is of volume 00000000-0000-0000-0000": {cairn.KindDamaged, func(d *faketape.Tape) {
			both(d, 5, replace(uuidOf(record(d, 0, 2)), "00000000-0000-0000-0000-000000000000"))
		}},
		"it says that it stands at a:9, it stands at a:5": {cairn.KindDamaged, func(d *faketape.Tape) { both(d, 5, replace("<startblock>5<", "<startblock>9<")) }},
		"has a document type or declaration": {cairn.KindDamaged, func(d *faketape.Tape) {
			both(d, 5, replace("<ltfsindex", `<!DOCTYPE l [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><ltfsindex`))
		}},
		"entity other than those of XML":                    {cairn.KindDamaged, func(d *faketape.Tape) { both(d, 5, replace("<creator>c", "<creator>&lol;")) }},
		"is nested more than 1024 deep":                     {cairn.KindDamaged, func(d *faketape.Tape) { both(d, 5, body(strings.Repeat("<directory><contents>", 190))); deepen(d) }},
		"has encoding":                                      {cairn.KindDamaged, func(d *faketape.Tape) { both(d, 5, replace("UTF-8", "UTF-16")) }},
		"a character XML does not allow":                    {cairn.KindDamaged, func(d *faketape.Tape) { both(d, 5, replace("<creator>c", "<creator>\x80")) }},
		"a tag or text is longer than 4194304 bytes":        {cairn.KindDamaged, func(d *faketape.Tape) { lengthen(d) }},
		"neither partition holds an index that can be read": {cairn.KindDamaged, func(d *faketape.Tape) { both(d, 5, func(string) string { return "rubbish" }) }},
	} {
		d, _ := fakeTape(t)
		c.spoil(d)
		before := d.Changes()
		_, err := tape.Open(t.Context(), d, "tape")
		if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), want) {
			t.Errorf("want kind %v and %q, got %v", c.kind, want, err)
		}
		if d.Changes() != before {
			t.Errorf("%s: something was written", want)
		}
	}
}

func uuidOf(label []byte) string {
	_, rest, _ := strings.Cut(string(label), "<volumeuuid>")
	return rest[:36]
}

// rewrite replaces what follows the labels by one text in records, in both
// partitions.
func rewrite(d *faketape.Tape, text string) {
	for part := range 2 {
		if err := d.Locate(context.Background(), drive.Position{Partition: part, Block: 5}); err != nil {
			panic(err)
		}
		for rest := text; rest != ""; {
			n := min(len(rest), 4096)
			if _, err := d.Write(context.Background(), []byte(rest[:n])); err != nil {
				panic(err)
			}
			rest = rest[n:]
		}
	}
}

const head = `<?xml version="1.0" encoding="UTF-8"?><ltfsindex version="2.4.0">`

func deepen(d *faketape.Tape) { rewrite(d, head+strings.Repeat("<directory><contents>", 600)) }

func lengthen(d *faketape.Tape) { rewrite(d, head+"<creator>"+strings.Repeat("x", 5<<20)) }

// A newest index that is hostile costs that generation: the one before is opened,
// the tape says so, and is not written.
func TestHostileNewestIndex(t *testing.T) {
	d, tp := fakeTape(t)
	want := fill(t, tp, "a", 2, 100)
	if err := tp.Commit(t.Context(), "c", "", now); err != nil {
		t.Fatal(err)
	}
	older := d.Changes()
	fill(t, tp, "b", 2, 100)
	if err := tp.Commit(t.Context(), "c", "", now); err != nil {
		t.Fatal(err)
	}
	if older == d.Changes() {
		t.Fatal("nothing was committed")
	}
	for _, s := range places(d)[3] {
		d.Spoil(drive.Position{Partition: s.part, Block: s.first}, []byte(head+"&bomb;"))
	}
	hostile, err := tape.Open(t.Context(), d, "tape")
	if err != nil {
		t.Fatal(err)
	}
	if hostile.Index().Generation != 2 || len(hostile.Notes()) == 0 {
		t.Errorf("generation %d, notes %v", hostile.Index().Generation, hostile.Notes())
	}
	for name, n := range hostile.Index().All() {
		if n.File != nil {
			if got, err := hostile.ReadFile(t.Context(), n.File); err != nil || string(got) != string(want[name]) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	before := d.Changes()
	if _, err := hostile.Put(t.Context(), t.TempDir(), "/"); !errors.Is(err, cairn.KindDamaged) || !strings.Contains(err.Error(), "cairn tape check says what to do") {
		t.Errorf("put: %v", err)
	}
	if err := hostile.Rollback(t.Context(), 1, "c", now); !errors.Is(err, cairn.KindDamaged) {
		t.Errorf("rollback: %v", err)
	}
	if d.Changes() != before {
		t.Error("a tape that is out of order was written")
	}
}

// A tape that is full in the middle of a file, and one that is full in the index,
// say so and keep what was committed; one that is write-protected is left as it is.
func TestTapeThatTakesNoMore(t *testing.T) {
	protected := &cairn.Error{Op: "write tape record", Kind: cairn.KindPermission, Err: errors.New("the medium is write-protected")}
	for name, c := range map[string]struct {
		kind cairn.Kind
		set  func(d *faketape.Tape)
	}{
		"full in a file":    {cairn.KindSpace, func(d *faketape.Tape) { d.Room[1] = 60_000 }},
		"full in the index": {cairn.KindSpace, func(d *faketape.Tape) { d.Room[1] = 25_000 + 41_500 }},
		"write-protected": {cairn.KindPermission, func(d *faketape.Tape) {
			d.Fail = func(call string) error {
				if call == "write" || call == "filemark" {
					return protected
				}
				return nil
			}
		}},
	} {
		d, tp := fakeTape(t)
		want := fill(t, tp, "a", 5, 4000)
		if err := tp.Commit(t.Context(), "c", "", now); err != nil {
			t.Fatal(err)
		}
		c.set(d)
		file := filepath.Join(t.TempDir(), "big")
		size := 40_000
		if name == "full in a file" {
			size = 400_000
		}
		if err := os.WriteFile(file, make([]byte, size), 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := tp.Put(t.Context(), file, "/")
		if err == nil {
			err = tp.Commit(t.Context(), "c", "", now)
		}
		if !errors.Is(err, c.kind) {
			t.Errorf("%s: %v, want kind %v", name, err, c.kind)
		}
		d.Fail, d.Room = nil, [2]int64{}
		again, err := tape.Open(t.Context(), d, "tape")
		if err != nil {
			t.Errorf("%s: afterwards: %v", name, err)
			continue
		}
		held := 0
		for path, n := range again.Index().All() {
			if n.File != nil && want[path] != nil {
				held++
				if got, err := again.ReadFile(t.Context(), n.File); err != nil || string(got) != string(want[path]) {
					t.Errorf("%s: %s: %v", name, path, err)
				}
			}
		}
		if held != len(want) {
			t.Errorf("%s: %d of %d files are left", name, held, len(want))
		}
	}
}

// A medium that was changed under us, or written by somebody else, is not written
// to.
func TestMediumChangedUnderUs(t *testing.T) {
	d, tp := fakeTape(t)
	if err := d.Locate(t.Context(), drive.Position{Partition: 1, Block: 7}); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Write(t.Context(), []byte("somebody else's")); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, []byte("ours"), 0o644); err != nil {
		t.Fatal(err)
	}
	before := d.Changes()
	_, err := tp.Put(t.Context(), file, "/")
	if !errors.Is(err, cairn.KindConflict) || !strings.Contains(err.Error(), "its partition b ends at 8, it ended at 7 when it was opened (open it anew)") {
		t.Errorf("got %v", err)
	}
	if d.Changes() != before {
		t.Error("something was written")
	}
}

// Extents that overlap, run in circles over each other or leave the tape are named
// by the check, and an extraction ends, whatever they say.
func TestHostileExtents(t *testing.T) {
	for want, extents := range map[string][]ltfs.Extent{
		"extents that overlap":            {{Partition: 'b', StartBlock: 7, ByteCount: 50}, {Partition: 'b', StartBlock: 7, FileOffset: 20, ByteCount: 50}},
		"behind the end of the partition": {{Partition: 'b', StartBlock: 1 << 62, ByteCount: 10}},
		"beyond its length":               {{Partition: 'b', StartBlock: 7, FileOffset: 1<<64 - 5, ByteCount: 10}},
		"inside the label":                {{Partition: 'b', StartBlock: 0, ByteCount: 10}},
		"partition 'q'":                   {{Partition: 'q', StartBlock: 7, ByteCount: 10}},
		"without bytes":                   {{Partition: 'b', StartBlock: 7}},
		"begins beyond its first block":   {{Partition: 'b', StartBlock: 7, ByteOffset: 1 << 20, ByteCount: 10}},
	} {
		_, tp := fakeTape(t)
		fill(t, tp, "a", 1, 3000)
		if err := tp.Commit(t.Context(), "c", "", now); err != nil {
			t.Fatal(err)
		}
		f := tp.Index().Root.Dirs[0].Files[0]
		f.Length, f.Extents = 100, extents
		problems, err := tp.Check(t.Context(), true)
		if err != nil || !strings.Contains(strings.Join(problems, "\n"), want) {
			t.Errorf("want a problem with %q, got %q, %v", want, problems, err)
		}
		dir := t.TempDir()
		if _, err := tp.Extract(t.Context(), dir, tape.ExtractOptions{Skipped: func(string, string) {}}); err != nil && cairn.KindOf(err) == cairn.KindOther {
			t.Errorf("%s: extraction: %v", want, err)
		}
	}
}

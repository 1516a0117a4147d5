package hashes_test

import (
	"bytes"
	"encoding/hex"
	"slices"
	"testing"

	"cairn/internal/mech/extent"
	"cairn/internal/system/volume/hashes"
	"cairn/internal/testkit/fakedisk"
)

var key = bytes.Repeat([]byte{1, 2, 3, 4}, 8)

const (
	blockSize = 4096
	group     = 504
)

// golden is the headers of a page of bits and of one of entries, without their
// checksums, and what the bodies begin with.
const golden = "43485a31" + "0700000000000000" + "0300000000000000" + "0000000000000000" + "0900000000000000" + "0000000000000000" + "0200" + " " +
	"43485431" + "0700000000000000" + "0300000000000000" + "0100000000000000" + "0900000000000000" + "0000000000000000" + "0000000000000000" + "35d933ed94b7f329"

func set(blocks ...uint64) hashes.Changed {
	s := &extent.Bitmap{}
	for _, b := range blocks {
		s.Set(b, 1)
	}
	return hashes.Changed{Set: s}
}

func table(t *testing.T, disk *fakedisk.Disk) *hashes.Table {
	t.Helper()
	tab, err := hashes.Open(disk, "hash", hashes.Identity{Store: 7, Table: 3}, key)
	if err != nil {
		t.Fatal(err)
	}
	return tab
}

func block(b byte) []byte { return bytes.Repeat([]byte{b}, blockSize) }

// look gives what a table says of blocks.
func look(t *testing.T, tab *hashes.Table, o hashes.ViewOptions, blocks ...uint64) (out []hashes.Entry) {
	t.Helper()
	if o.Limit == 0 {
		o.Limit = 1 << 60
	}
	v, err := tab.View(o)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range blocks {
		e, err := v.Entry(b)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, e)
	}
	return out
}

// The hash and the layout are those of docs/formats/volume.md: a table that was
// written once is read by every later build.
func TestFormat(t *testing.T) {
	h, err := hashes.NewHasher(key)
	if err != nil {
		t.Fatal(err)
	}
	if got := h.Entry(block(5)); got != 0x29f3b794ed33d935 {
		t.Errorf("hash %#x", uint64(got))
	}
	if h.Entry(block(5)) == h.Entry(append([]byte{9}, block(5)[1:]...)) {
		t.Error("two contents have one hash")
	}
	if h.Entry(block(0)) != hashes.Zero || h.Entry(make([]byte, 512)) != hashes.Zero {
		t.Error("zeroes are not known as such")
	}
	if h.Entry([]byte{1, 2}) != h.Entry(append([]byte{1, 2}, make([]byte, blockSize-2)...)) {
		t.Error("a short block is not padded with zeroes")
	}
	disk := fakedisk.New()
	tab := table(t, disk)
	u := tab.Update(hashes.UpdateOptions{Stamp: 9, Size: 2 * group * blockSize, Since: hashes.Changed{All: true}, Unsure: hashes.Changed{All: true}})
	if err := u.Data(blockSize, block(5)); err != nil {
		t.Fatal(err)
	}
	if err := u.Zero(group*blockSize, group*blockSize); err != nil {
		t.Fatal(err)
	}
	if err := u.Finish(hashes.Changed{All: true}); err != nil {
		t.Fatal(err)
	}
	f, err := disk.Open("hash", false)
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 2*4096)
	if _, err := f.ReadAt(p, 0); err != nil {
		t.Fatal(err)
	}
	got := hex.EncodeToString(p[:4]) + hex.EncodeToString(p[8:48]) + hex.EncodeToString(p[64:66]) + " " +
		hex.EncodeToString(p[4096:4100]) + hex.EncodeToString(p[4104:4144]) + hex.EncodeToString(p[4160:4176])
	if got != golden {
		t.Errorf("the file begins with\n%s, not\n%s", got, golden)
	}
}

// An update forgets what changed and was not seen, keeps the rest, and is believed
// before it is on record only for what nobody wrote.
func TestUpdate(t *testing.T) {
	disk := fakedisk.New()
	tab := table(t, disk)
	far := uint64(40000 * group) // behind the second page of bits
	o := hashes.UpdateOptions{Stamp: 10, Size: int64(far+group) * blockSize, Since: hashes.Changed{All: true}, Unsure: hashes.Changed{All: true}}
	u := tab.Update(o)
	if tab.Update(o) != nil {
		t.Error("two updates at once")
	}
	for _, b := range []uint64{1, 2, 3, far} {
		if err := u.Data(int64(b)*blockSize, block(byte(b)|1)); err != nil {
			t.Fatal(err)
		}
	}
	if err := u.Zero(group*blockSize, 3*group*blockSize); err != nil {
		t.Fatal(err)
	}
	if err := u.Finish(o.Since); err != nil {
		t.Fatal(err)
	}
	u.End()
	h, _ := hashes.NewHasher(key)
	one, three, four := h.Entry(block(1)), h.Entry(block(3)), h.Entry(block(4))
	is := func(what string, o hashes.ViewOptions, want ...hashes.Entry) {
		t.Helper()
		if got := look(t, tab, o, 0, 1, 2, 3, group, 2*group, far); !slices.Equal(got, want) {
			t.Errorf("%s: %#x, want %#x", what, got, want)
		}
	}
	is("as of 10", hashes.ViewOptions{AsOf: 10}, 0, one, three, three, 1, 1, one)
	is("nothing is on record", hashes.ViewOptions{}, 0, 0, 0, 0, 0, 0, 0)
	is("apart", hashes.ViewOptions{AsOf: 10, Apart: set(2, group)}, 0, one, 0, three, 0, 1, one)
	is("an update that goes on", hashes.ViewOptions{AsOf: 10, Limit: 10}, 0, 0, 0, 0, 0, 0, 0)
	is("not on record yet", hashes.ViewOptions{AsOf: 9, Unsure: set(1, 2*group)}, 0, 0, three, three, 1, 0, one)

	// Blocks 2, 3, one of a group of zeroes and the far one were written; 2 is seen.
	since := set(2, 3, 2*group, far)
	u = tab.Update(hashes.UpdateOptions{AsOf: 10, Stamp: 20, Size: o.Size, Since: since, Unsure: since})
	if err := u.Data(2*blockSize, block(4)); err != nil {
		t.Fatal(err)
	}
	if err := u.Finish(since); err != nil {
		t.Fatal(err)
	}
	u.End()
	is("as of 20", hashes.ViewOptions{AsOf: 20}, 0, one, four, 0, 1, 0, 0)
	is("of the older version", hashes.ViewOptions{AsOf: 10, Apart: hashes.Changed{}, Unsure: since}, 0, one, 0, 0, 1, 0, 0)
	if err := tab.Clear(set(1)); err != nil {
		t.Fatal(err)
	}
	is("cleared", hashes.ViewOptions{AsOf: 20}, 0, 0, four, 0, 1, 0, 0)
	if err := u.Data(0, block(1)); err == nil {
		t.Error("an update that was ended goes on")
	}
	other, err := hashes.Open(disk, "hash", hashes.Identity{Store: 8, Table: 3}, key)
	if err != nil {
		t.Fatal(err)
	}
	if got := look(t, other, hashes.ViewOptions{AsOf: 20}, 2, group); !slices.Equal(got, []hashes.Entry{0, 0}) {
		t.Errorf("another store's table is believed: %v", got)
	}
}

// BenchmarkEntry is what a hash costs.
func BenchmarkEntry(b *testing.B) {
	h, err := hashes.NewHasher(key)
	if err != nil {
		b.Fatal(err)
	}
	p := block(3)
	b.SetBytes(blockSize)
	for b.Loop() {
		h.Entry(p)
	}
}

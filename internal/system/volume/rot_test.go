package volume_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"cairn"
	"cairn/internal/system/volume"
	"cairn/internal/testkit/fakedisk"
)

// rich is a store with a bit of everything, and what its versions hold.
type rich struct {
	disk   *fakedisk.Disk
	early  int // entries of the disk's log when it was half done
	o      volume.Options
	head   []byte
	names  []string // snapshots, oldest first
	held   map[string][]byte
	marked []string // bookmarks
	after  *fakedisk.Replay
	before *fakedisk.Disk // as it was when half done
}

func buildRich(t *testing.T, seed uint64, clean bool) *rich {
	t.Helper()
	const size = 1 << 20
	x := &rich{disk: fakedisk.New(), o: volume.Options{SegmentBytes: 64 << 10, ActiveBytes: 8 << 20}, head: make([]byte, size), held: map[string][]byte{}}
	if err := volume.Create(ctx, x.disk, volume.CreateOptions{Size: size}); err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(seed, 1))
	v := open(t, x.disk, x.o)
	n := byte(0)
	change := func(writes int) {
		for range writes {
			n++
			off := int64(rng.IntN(len(x.head)/4096)) * 4096
			p := fill(n, min(4096*(1+rng.IntN(5)), len(x.head)-int(off)))
			for i := 0; i < len(p); i += 4096 {
				p[i], p[i+1] = byte(off/4096)+byte(i/4096), n+1
			}
			write(t, v, off, p)
			copy(x.head[off:], p)
		}
	}
	for i := range 6 {
		change(12)
		name := fmt.Sprintf("@s%d", i)
		s := snap(t, v, name)
		x.names, x.held[name] = append(x.names, name), bytes.Clone(x.head)
		switch i {
		case 1:
			if _, err := v.Bookmark(ctx, s.VersionID, "#b1", false); err != nil {
				t.Fatal(err)
			}
			x.marked = append(x.marked, "#b1")
		case 2:
			closeVolume(t, v)
			v = open(t, x.disk, x.o)
			x.early = x.disk.Len()
		case 3:
			if err := v.Resize(ctx, size+256<<10); err != nil {
				t.Fatal(err)
			}
			x.head = append(x.head, make([]byte, 256<<10)...)
		case 4:
			destroyed := v.Listing("db", cairn.Want{Versions: true}).Versions
			at := slices.IndexFunc(destroyed, func(c cairn.Version) bool { return c.Name == "@s2" })
			if _, err := v.Destroy(ctx, []cairn.VersionID{destroyed[at].VersionID}); err != nil {
				t.Fatal(err)
			}
			x.names = slices.DeleteFunc(x.names, func(n string) bool { return n == "@s2" })
		}
	}
	if err := v.Resize(ctx, int64(len(x.head))+64<<10); err != nil { // what is written there is marked, not preserved
		t.Fatal(err)
	}
	x.head = append(x.head, make([]byte, 64<<10)...)
	change(12)
	write(t, v, int64(len(x.head))-4096, fill(77, 4096))
	copy(x.head[len(x.head)-4096:], fill(77, 4096))
	if clean {
		closeVolume(t, v)
	}
	x.after = x.disk.Replay()
	x.after.Seek(x.disk.Len())
	early := x.disk.Replay()
	early.Seek(x.early)
	x.before = early.Crash(fakedisk.Everything)
	return x
}

// copy is the store once more.
func (x *rich) copy() *fakedisk.Disk { return x.after.Crash(fakedisk.Everything) }

// rotting is one way to spoil a block of a file.
type rotting struct {
	file  string
	block int64
	how   string
}

func (r rotting) String() string { return fmt.Sprintf("%s, block %d, %s", r.file, r.block, r.how) }

var rots = []string{"flip", "flip head", "zero", "noise", "swap", "stale", "cut"}

// ways lists everything that can rot alone, but for the head.
func (x *rich) ways(t *testing.T) (out []rotting) {
	t.Helper()
	names, err := x.disk.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		if n == "head" || n == "reserve" {
			continue
		}
		for _, b := range x.blocksOf(t, n) {
			for _, how := range rots {
				out = append(out, rotting{n, b, how})
			}
		}
	}
	return out
}

// blocksOf lists the blocks of a file that hold something, and the first of each
// hole.
func (x *rich) blocksOf(t *testing.T, name string) (list []int64) {
	t.Helper()
	f, err := x.disk.Open(name, false)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	size, err := f.Size()
	for off := int64(0); err == nil && off < size; {
		var start, end int64
		if start, end, err = f.Data(off); start > off {
			list = append(list, off/4096)
		}
		for off = start; off < end; off += 4096 {
			list = append(list, off/4096)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// rot spoils the block; false when there is nothing to spoil.
func (x *rich) rot(t *testing.T, disk *fakedisk.Disk, r rotting) bool {
	t.Helper()
	f, err := disk.Open(r.file, true)
	if err != nil {
		return false // an opening that went before removed it
	}
	defer func() { _ = f.Close() }()
	size, err := f.Size()
	if err != nil {
		t.Fatal(err)
	}
	off := r.block * 4096
	if off >= size {
		return false
	}
	defer func() { // rot is durable
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
	}()
	if r.how == "cut" {
		return f.Truncate(off) == nil
	}
	old := make([]byte, min(4096, size-off))
	if _, err := f.ReadAt(old, off); err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(uint64(r.block), uint64(len(r.how))))
	p := bytes.Clone(old)
	switch r.how {
	case "flip":
		p[rng.IntN(len(p))] ^= 1 << rng.IntN(8)
	case "flip head":
		p[min(9, len(p)-1)] ^= 4
	case "zero":
		clear(p)
	case "noise":
		for i := range p {
			p[i] = byte(rng.Uint32())
		}
	case "swap":
		clear(p)
		if from := (r.block + 2) * 4096; from < size {
			_, _ = f.ReadAt(p, from) // a short end stays zeroes
		}
	case "stale":
		was, err := x.before.Open(r.file, false)
		if err != nil {
			return false
		}
		defer func() { _ = was.Close() }()
		clear(p)
		_, _ = was.ReadAt(p, off) // a short end stays zeroes
	}
	if bytes.Equal(p, old) {
		return false
	}
	if _, err := f.WriteAt(p, off); err != nil {
		t.Fatal(err)
	}
	return true
}

// judge opens a spoiled store and compares everything it says with the truth. bad
// is the number of blocks, over all snapshots, that could not be read.
func (x *rich) judge(disk *fakedisk.Disk) (bad int, err error) {
	o := x.o
	o.Name = "db"
	v, err := volume.Open(ctx, disk, o)
	if err != nil {
		return 0, err
	}
	hurt := map[string]bool{}
	versions := v.Listing("db", cairn.Want{Versions: true}).Versions
	for _, name := range append(slices.Clone(x.names), x.marked...) {
		at := slices.IndexFunc(versions, func(c cairn.Version) bool { return c.Name == name })
		if at < 0 {
			return 0, fmt.Errorf("%s vanished", name)
		}
		if strings.HasPrefix(name, "#") {
			continue
		}
		n, err := x.readSnapshot(v, versions[at].VersionID)
		if err != nil {
			return 0, err
		}
		hurt[name] = n > 0
		bad += n
	}
	l := v.Listing("db", cairn.Want{Versions: true})
	if (l.Dataset.State == cairn.StateDamaged) != (bad > 0) {
		return 0, fmt.Errorf("%d blocks cannot be read, and the volume is %v", bad, l.Dataset.State)
	}
	for _, c := range l.Versions {
		if (c.State == cairn.StateDamaged) != hurt[c.Name] {
			return 0, fmt.Errorf("%s is %v, blocks that cannot be read: %v", c.Name, c.State, hurt[c.Name])
		}
	}
	return bad, x.goOn(disk, v, versions)
}

func (x *rich) readSnapshot(v *volume.Volume, id cairn.VersionID) (bad int, err error) {
	r, err := v.OpenVersion(ctx, id)
	if err != nil {
		return 0, err
	}
	defer func() { _ = r.Close() }() // never fails
	want, p := x.held[id.Name], make([]byte, 4096)
	for off := 0; off < len(want); off += 4096 {
		err := r.ReadAt(ctx, p, int64(off))
		switch {
		case errors.Is(err, cairn.KindDamaged):
			bad++
		case err != nil:
			return 0, err
		case !bytes.Equal(p, want[off:off+4096]):
			return 0, fmt.Errorf("block %d of %s reads as something else", off/4096, id.Name)
		}
	}
	return bad, nil
}

// goOn: change sets hold what differs, the head is right and can be used, and a
// second opening finds the same.
func (x *rich) goOn(disk *fakedisk.Disk, v *volume.Volume, versions []cairn.Version) error {
	for _, c := range versions {
		content := x.held["@s"+c.Name[2:]]
		changed := map[int64]bool{}
		for e, err := range v.Changed(ctx, c.VersionID, cairn.VersionID{}) {
			if err != nil {
				return err
			}
			for b := e.Offset / 4096; b*4096 < e.End(); b++ {
				changed[b] = true
			}
		}
		for b := int64(0); (b+1)*4096 <= int64(len(content)); b++ {
			if !changed[b] && !bytes.Equal(content[b*4096:(b+1)*4096], x.head[b*4096:(b+1)*4096]) {
				return fmt.Errorf("block %d changed since %s and is not in the change set", b, c.Name)
			}
		}
	}
	d := v.Device()
	got := make([]byte, len(x.head))
	if err := d.ReadAt(ctx, got, 0); err != nil || !bytes.Equal(got, x.head) {
		return fmt.Errorf("the head reads as something else (%w)", err)
	}
	if err := errors.Join(d.WriteAt(ctx, got, 0, cairn.FUA), d.Close()); err != nil {
		return fmt.Errorf("writing to the head: %w", err)
	}
	if _, err := v.Snapshot(ctx, "@later"); err != nil {
		return err
	}
	v, err := volume.Open(ctx, disk, volume.Options{Name: "db"}) // as after a kill
	if err != nil {
		return fmt.Errorf("opening again: %w", err)
	}
	for _, c := range versions {
		if c.IsSnapshot() {
			if _, err := x.readSnapshot(v, c.VersionID); err != nil {
				return fmt.Errorf("after opening again: %w", err)
			}
		}
	}
	return v.Close()
}

// most is how many blocks of how many snapshots rot of one block may cost: a
// preserved block is read by each snapshot at most once.
func (x *rich) most(r rotting) int {
	switch {
	case r.how == "cut":
		return 1 << 30 // all behind
	case strings.HasPrefix(r.file, "seg-"):
		return len(x.names)
	}
	return 0
}

// told says whether a refusal to open is one that the loss explains: only a
// catalog of which both copies are spoiled, or the end cut off.
func told(err error, all ...rotting) bool {
	n := 0
	for _, r := range all {
		if r.file == "catalog" {
			n++
			if r.how == "cut" {
				n++
			}
		}
	}
	return errors.Is(err, cairn.KindCorrupt) && n > 1 && cairn.HintOf(err) != ""
}

// Whatever rots in a store, one block at a time: each read is right or an error,
// nothing vanishes, exactly the snapshots that lost something say so, and the head
// goes on.
func TestEveryRotIsReadAsWhatItIs(t *testing.T) {
	for _, clean := range []bool{true, false} {
		t.Run(fmt.Sprintf("clean=%v", clean), func(t *testing.T) {
			x := buildRich(t, 1, clean)
			ways := x.ways(t)
			step := 23
			if os.Getenv("CAIRN_SCALE") == "full" {
				step = 1
			}
			tried, lost := 0, 0
			for i := 0; i < len(ways); i += step {
				disk := x.copy()
				if !x.rot(t, disk, ways[i]) {
					continue
				}
				tried++
				bad, err := x.judge(disk)
				if err != nil && !told(err, ways[i]) {
					t.Errorf("%v: %v", ways[i], err)
				}
				if limit := x.most(ways[i]); bad > limit {
					t.Errorf("%v: %d blocks cannot be read", ways[i], bad)
				}
				if bad > 0 {
					lost++
				}
			}
			t.Logf("%d ways to rot, of which %d cost blocks of snapshots", tried, lost)
			if lost == 0 {
				t.Error("nothing was ever lost")
			}
		})
	}
}

// Two blocks at once: a read is right or an error, and what cannot be opened says
// what to do.
func TestPairsOfRot(t *testing.T) {
	x := buildRich(t, 2, true)
	ways := x.ways(t)
	rng := rand.New(rand.NewPCG(3, 4))
	n := 40
	if os.Getenv("CAIRN_SCALE") == "full" {
		n = 3000
	}
	refused := 0
	for range n {
		a, b := ways[rng.IntN(len(ways))], ways[rng.IntN(len(ways))]
		disk := x.copy()
		if !x.rot(t, disk, a) || !x.rot(t, disk, b) {
			continue
		}
		_, err := x.judge(disk)
		if told(err, a, b) {
			refused++
		} else if err != nil {
			t.Errorf("%v and %v: %v", a, b, err)
		}
	}
	t.Logf("%d pairs, %d refused to open", n, refused)
}

// Rot of what a batch holds, taken for a torn tail, is noticed.
func TestRotTakenForATornTailIsNoticed(t *testing.T) {
	x := buildRich(t, 1, false)
	x.o.Faults = volume.FaultRotIsTorn
	for _, way := range x.ways(t) {
		disk := x.copy()
		if way.how != "noise" || !strings.HasPrefix(way.file, "seg-") || !x.rot(t, disk, way) {
			continue
		}
		if _, err := x.judge(disk); err != nil {
			t.Logf("noticed: %v: %v", way, err)
			return
		}
	}
	t.Error("nothing noticed it")
}

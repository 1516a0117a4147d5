package volume_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"cairn"
	"cairn/internal/system/volume"
	"cairn/internal/testkit/fakedisk"
)

// readStream sends a version and throws the stream away.
func readStream(v *volume.Volume, from, to cairn.VersionID) (int64, error) {
	s, err := v.Send(context.Background(), cairn.Step{Dataset: "db", From: from, To: to}, []cairn.Format{cairn.FormatBlocks})
	if err != nil {
		return 0, err
	}
	n, err := io.Copy(io.Discard, s.Body)
	return n, errors.Join(err, s.Body.Close())
}

// hashed makes a volume with a block hash table and some content.
func hashed(t *testing.T, size int64) (*fakedisk.Disk, *volume.Volume) {
	t.Helper()
	disk := fakedisk.New()
	if err := volume.Create(ctx, disk, volume.CreateOptions{Size: size}); err != nil {
		t.Fatal(err)
	}
	return disk, open(t, disk, volume.Options{Name: "db", Hashes: yes()})
}

// yes is that a volume has a block hash table.
func yes() *bool { on := true; return &on }

// spoilHead changes a byte of the head behind the engine's back.
func spoilHead(t *testing.T, disk *fakedisk.Disk, off int64) {
	t.Helper()
	f, err := disk.Open("head", true)
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 1)
	if _, err := f.ReadAt(p, off); err != nil {
		t.Fatal(err)
	}
	p[0] ^= 0x10
	if _, err := f.WriteAt(p, off); err != nil {
		t.Fatal(err)
	}
}

func verified(t *testing.T, v *volume.Volume, id cairn.VersionID) cairn.Coverage {
	t.Helper()
	c, err := v.Verify(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// What a send has read covers the snapshot; what changed since it does not; a byte
// that changed behind the engine's back is named, in holes too.
func TestTableNamesSilentChanges(t *testing.T) {
	disk, v := hashed(t, 8<<20+512)
	write(t, v, 0, noise(1, 3<<20))
	write(t, v, 8<<20, fill(3, 512))
	a := snap(t, v, "@a")
	if c := verified(t, v, a.VersionID); c.Unchecked != 8<<20+512 {
		t.Errorf("before anything was sent: %+v", c)
	}
	if _, err := readStream(v, cairn.VersionID{}, a.VersionID); err != nil {
		t.Fatal(err)
	}
	if c := verified(t, v, a.VersionID); c.Unchecked != 0 || len(c.Damaged) != 0 || !strings.Contains(fmt.Sprint(c.Notes), "as of @a covered 2049 of 2049 blocks") {
		t.Errorf("after it was sent: %+v", c)
	}
	write(t, v, 4096, noise(2, 8192))
	b := snap(t, v, "@b")
	if c := verified(t, v, b.VersionID); c.Unchecked != 8192 || len(c.Damaged) != 0 {
		t.Errorf("a newer snapshot: %+v", c)
	}
	if _, err := readStream(v, a.VersionID, b.VersionID); err != nil {
		t.Fatal(err)
	}
	for _, id := range []cairn.VersionID{a.VersionID, b.VersionID} {
		if c := verified(t, v, id); c.Unchecked != 0 || len(c.Damaged) != 0 {
			t.Errorf("%s after it was sent: %+v", id, c)
		}
	}
	bad := []int64{8192, 40960, 5 << 20, 8 << 20} // written since @a, not written, in a hole, the short last block
	for _, off := range bad {
		spoilHead(t, disk, off+100)
	}
	var got []int64
	for _, e := range verified(t, v, b.VersionID).Damaged {
		got = append(got, e.Offset)
	}
	if !slices.Equal(got, bad) {
		t.Errorf("damaged in @b: %v, spoiled %v", got, bad)
	}
	if c := verified(t, v, a.VersionID); len(c.Damaged) != 3 {
		t.Errorf("damaged in @a: %+v", c.Damaged)
	}
	for _, s := range v.Listing("db", cairn.Want{Versions: true}).Versions {
		if s.State != cairn.StateDamaged {
			t.Errorf("%s is %v", s.Name, s.State)
		}
	}
}

// A verify of the whole volume gives the table what it does not know, and from then
// on covers all.
func TestVerifyFillsTheTable(t *testing.T) {
	disk, v := hashed(t, 4<<20)
	write(t, v, 1<<20, noise(1, 1<<20))
	a := snap(t, v, "@a")
	if c := verified(t, v, cairn.VersionID{}); !strings.Contains(fmt.Sprint(c.Notes), "1024 blocks of which it knew nothing") {
		t.Errorf("the first: %+v", c)
	}
	if c := verified(t, v, cairn.VersionID{}); c.Unchecked != 0 || len(c.Damaged) != 0 || len(c.Notes) != 1 {
		t.Errorf("the second: %+v", c)
	}
	closeVolume(t, v)
	v = open(t, disk, volume.Options{Name: "db"})
	write(t, v, 0, fill(7, 4096))
	spoilHead(t, disk, 1<<20+5)
	if c := verified(t, v, cairn.VersionID{}); len(c.Damaged) != 1 || c.Damaged[0].Offset != 1<<20 || c.Unchecked != 8192 {
		t.Errorf("spoiled: %+v", c)
	}
	if _, err := readStream(v, cairn.VersionID{}, a.VersionID); cairn.KindOf(err) != cairn.KindDamaged {
		t.Errorf("a damaged snapshot was sent: %v", err)
	}
	// What replaced it counts as changed, so that it is not missed.
	changed := int64(0)
	for e, err := range v.Changed(ctx, a.VersionID, cairn.VersionID{}) {
		if err != nil {
			t.Fatal(err)
		}
		changed += e.Length
	}
	if changed != 8192 {
		t.Errorf("%d bytes changed", changed)
	}
}

// A table can be made later, taken away, and be lost: then it knows nothing.
func TestTableComesAndGoes(t *testing.T) {
	disk := fakedisk.New()
	if err := volume.Create(ctx, disk, volume.CreateOptions{Size: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	v := open(t, disk, volume.Options{Name: "db"})
	write(t, v, 0, noise(1, 1<<20))
	a := snap(t, v, "@a")
	files := func() (n int) {
		names, _ := disk.ReadDir(".")
		for _, name := range names {
			if strings.HasPrefix(name, "hash-") {
				n++
			}
		}
		return n
	}
	for _, on := range []bool{true, true, false, false, true} {
		if err := v.SetHashes(ctx, on); err != nil || v.HasHashes() != on {
			t.Fatalf("on %v: %v", on, err)
		}
		verified(t, v, cairn.VersionID{})
		covered := verified(t, v, a.VersionID).Unchecked == 0
		if covered != on || files() != map[bool]int{true: 1}[on] {
			t.Errorf("on %v: covered %v, %d files", on, covered, files())
		}
	}
	closeVolume(t, v)
	names, _ := disk.ReadDir(".")
	for _, name := range names {
		if strings.HasPrefix(name, "hash-") {
			if err := disk.Remove(name); err != nil {
				t.Fatal(err)
			}
		}
	}
	v = open(t, disk, volume.Options{Name: "db"})
	if c := verified(t, v, a.VersionID); c.Unchecked != 1<<20 || len(c.Damaged) != 0 {
		t.Errorf("without its file: %+v", c)
	}
}

// Rot of the table makes it know less; no good block is ever called damaged for it.
func TestRotOfTheTableIsNoDamage(t *testing.T) {
	disk, v := hashed(t, 8<<20)
	write(t, v, 0, noise(1, 5<<20))
	a := snap(t, v, "@a")
	verified(t, v, cairn.VersionID{})
	f, err := disk.Open("hash-0000000000000002", true)
	if err != nil {
		t.Fatal(err)
	}
	size, err := f.Size()
	if err != nil || size < 3*4096 {
		t.Fatalf("%d bytes, %v", size, err)
	}
	for off := int64(7); off < size; off += 509 {
		p, bad := make([]byte, 1), make([]byte, 1)
		if _, err := f.ReadAt(p, off); err != nil {
			t.Fatal(err)
		}
		bad[0] = p[0] ^ 4
		if _, err := f.WriteAt(bad, off); err != nil {
			t.Fatal(err)
		}
		if c := verified(t, v, a.VersionID); len(c.Damaged) > 0 || c.Unchecked == 0 || c.Unchecked > 5<<20 {
			t.Fatalf("rot at %d: %+v", off, c)
		}
		if _, err := f.WriteAt(p, off); err != nil {
			t.Fatal(err)
		}
	}
}

// Pages of an update that was cut off are right for its version only.
func TestCutUpdateIsNotBelieved(t *testing.T) {
	for _, faults := range []volume.Fault{0, volume.FaultTableTrusted} {
		disk := fakedisk.New()
		if err := volume.Create(ctx, disk, volume.CreateOptions{Size: 8 << 20}); err != nil {
			t.Fatal(err)
		}
		v := open(t, disk, volume.Options{Name: "db", Hashes: yes(), Faults: faults})
		write(t, v, 0, noise(1, 8<<20))
		a := snap(t, v, "@a")
		verified(t, v, cairn.VersionID{})
		write(t, v, 0, noise(2, 8<<20))
		b := snap(t, v, "@b")
		s, err := v.Send(ctx, cairn.Step{Dataset: "db", From: a.VersionID, To: b.VersionID}, []cairn.Format{cairn.FormatBlocks})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(io.Discard, s.Body, 6<<20); err != nil {
			t.Fatal(err)
		}
		if err := s.Body.Close(); err != nil {
			t.Fatal(err)
		}
		if c := verified(t, v, a.VersionID); (len(c.Damaged) > 0) != (faults != 0) {
			t.Errorf("faults %#x: %+v", faults, c)
		}
	}
}

// replicate sends what the source has to the replica.
func replicate(t *testing.T, from, to *volume.Volume, base, v cairn.VersionID) {
	t.Helper()
	s, err := from.Send(ctx, cairn.Step{Dataset: "db", From: base, To: v}, []cairn.Format{cairn.FormatBlocks})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := to.Receive(ctx, s, cairn.ReceiveOptions{}); err != nil {
		t.Fatal(err)
	}
}

// A replica's table is made of what it receives. A block of its head that rots is
// named without the source, and put back in place from it.
func TestReplicaIsHealedInPlace(t *testing.T) {
	_, source := hashed(t, 6<<20)
	disk := fakedisk.New()
	if err := volume.Create(ctx, disk, volume.CreateOptions{Size: 6 << 20, Sealed: true}); err != nil {
		t.Fatal(err)
	}
	replica := open(t, disk, volume.Options{Name: "copy", Hashes: yes()})
	write(t, source, 1<<20, noise(1, 2<<20))
	a := snap(t, source, "@a")
	replicate(t, source, replica, cairn.VersionID{}, a.VersionID)
	write(t, source, 2<<20, noise(2, 4096))
	b := snap(t, source, "@b")
	replicate(t, source, replica, a.VersionID, b.VersionID)
	for _, id := range []cairn.VersionID{a.VersionID, b.VersionID, {}} {
		if c := verified(t, replica, id); c.Unchecked > 4096 || len(c.Damaged) > 0 {
			t.Errorf("%s: %+v", id, c)
		}
	}
	spoilHead(t, disk, 1<<20+77)
	spoilHead(t, disk, 2<<20+77)
	if c := verified(t, replica, cairn.VersionID{}); len(c.Damaged) != 2 {
		t.Errorf("spoiled: %+v", c)
	}
	content := readAll(t, source, b.VersionID)
	wrong := bytes.Clone(content)
	wrong[1<<20+77] ^= 1
	list, err := replica.Heal(ctx, b.VersionID, patches(wrong), cairn.HealOptions{DryRun: true})
	if err != nil || list[256] != cairn.MendRefused || list[512] != cairn.MendedBySum || list[257] != cairn.MendNotBad {
		t.Fatalf("%v %v", list, err)
	}
	for _, s := range []cairn.VersionID{b.VersionID, a.VersionID} {
		if _, err := replica.Heal(ctx, s, patches(readAll(t, source, s)), cairn.HealOptions{Whole: true}); err != nil {
			t.Fatal(err)
		}
	}
	if c := verified(t, replica, cairn.VersionID{}); len(c.Damaged) != 0 {
		t.Errorf("healed: %+v", c)
	}
	if l := replica.Listing("copy", cairn.Want{}).Dataset; l.State != cairn.StateOK {
		t.Errorf("the replica is %v: %s", l.State, l.Why)
	}
	write(t, source, 0, noise(3, 4096))
	c := snap(t, source, "@c")
	replicate(t, source, replica, b.VersionID, c.VersionID)
	if !bytes.Equal(readAll(t, replica, c.VersionID), readAll(t, source, c.VersionID)) {
		t.Error("what is received on a healed replica is something else")
	}
}

// hashModel adds a table to the model of a volume: streams, verifications and the
// table coming and going, in any order with all else. Nothing it says may be wrong.
type hashModel struct {
	*model
	covered *int64
}

func (m hashModel) send() {
	i, p := m.pick()
	if !p.data {
		m.rt.Skip("a bookmark")
	}
	from := cairn.VersionID{}
	if i > 0 && rapid.Bool().Draw(m.rt, "incremental") {
		from = m.points[rapid.IntRange(0, i-1).Draw(m.rt, "base")].id
	}
	if from.GUID == p.id.GUID {
		m.rt.Skip("its own bookmark")
	}
	s, err := m.v.Send(ctx, cairn.Step{Dataset: "db", From: from, To: p.id}, []cairn.Format{cairn.FormatBlocks})
	m.no(err)
	if rapid.IntRange(0, 3).Draw(m.rt, "cut") == 0 {
		_, err = io.CopyN(io.Discard, s.Body, int64(rapid.IntRange(0, 300<<10).Draw(m.rt, "after")))
		if !errors.Is(err, io.EOF) {
			m.no(err)
		}
	} else {
		_, err = io.Copy(io.Discard, s.Body)
		m.no(err)
	}
	m.no(s.Body.Close())
}

func (m hashModel) verify() {
	id := cairn.VersionID{}
	if len(m.points) > 0 && rapid.Bool().Draw(m.rt, "one") {
		if _, p := m.pick(); p.data {
			id = p.id
		}
	}
	m.sound(id)
}

func (m hashModel) sound(id cairn.VersionID) {
	c, err := m.v.Verify(ctx, id)
	m.no(err)
	if len(c.Damaged) > 0 {
		m.rt.Fatalf("verify of %q calls good blocks damaged: %v", id.Name, c.Damaged)
	}
	*m.covered += c.Checked
}

func (m hashModel) toggle() { m.no(m.v.SetHashes(ctx, rapid.IntRange(0, 3).Draw(m.rt, "on") > 0)) }

// check looks at every snapshot with the table's eyes.
func (m hashModel) check(rt *rapid.T) {
	m.rt = rt
	for _, p := range m.points {
		if p.data {
			m.sound(p.id)
		}
	}
}

func TestTableAgainstModel(t *testing.T) {
	var covered int64
	rapid.Check(t, func(rt *rapid.T) {
		m := hashModel{&model{rt: rt, disk: fakedisk.New(), head: make([]byte, 700<<10+512)}, &covered}
		m.o = volume.Options{Name: "db", SegmentBytes: 96 << 10, ActiveBytes: 1}
		if rapid.IntRange(0, 3).Draw(rt, "always") > 0 {
			m.o.Hashes = yes()
		}
		m.no(volume.Create(ctx, m.disk, volume.CreateOptions{Size: int64(len(m.head))}))
		m.open()
		steps := map[string]func(*rapid.T){"": m.check}
		for name, f := range map[string]func(){"write": m.write, "write2": m.write, "snapshot": m.snapshot, "destroy": m.destroy, "bookmark": m.bookmark,
			"rollback": m.rollback, "resize": m.resize, "reopen": m.reopen, "send": m.send, "send2": m.send, "verify": m.verify, "toggle": m.toggle} {
			steps[name] = func(rt *rapid.T) { m.rt = rt; f() }
		}
		rt.Repeat(steps)
		m.rt = rt
		m.no(m.v.Close())
	})
	t.Logf("%d bytes were compared", covered)
}

// Others wrote to an adopted origin while nobody looked. A capture reads it once and
// compares: only what they wrote counts as changed and is lost to the snapshots,
// which a replica heals.
func TestForeignWritesAreReconciledByTheTable(t *testing.T) {
	dir := t.TempDir()
	was := noise(1, 4<<20)
	origin := originFile(t, was)
	with := volume.PlaceOptions{Dir: dir, Volume: volume.Options{Hashes: yes()}}
	p := openPlace(t, with)
	if err := p.Adopt(ctx, "db", origin, "", ""); err != nil {
		t.Fatal(err)
	}
	v, err := p.Open(ctx, "db")
	if err != nil {
		t.Fatal(err)
	}
	a := snap(t, v, "@a")
	if _, err := readStream(v, cairn.VersionID{}, a.VersionID); err != nil {
		t.Fatal(err)
	}
	write(t, v, 8192, fill(7, 4096)) // of this the table knows nothing
	b := snap(t, v, "@b")
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	scribble(t, origin, 1<<20, 3<<20)
	p = openPlace(t, with)
	if v, err = p.Open(ctx, "db"); err != nil {
		t.Fatal(err)
	}
	if l := v.Listing("db", cairn.Want{}).Dataset; l.State != cairn.StateUnverified {
		t.Fatalf("the volume is %v: %s", l.State, l.Why)
	}
	c, err := v.Snapshot(ctx, "@c")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(v.Continuity(), "block hash table") {
		t.Errorf("continuity: %s", v.Continuity())
	}
	changed := int64(0)
	for e, err := range v.Changed(ctx, b.VersionID, c.VersionID) {
		if err != nil {
			t.Fatal(err)
		}
		changed += e.Length
	}
	// The two that differ, and the one of which the table knew nothing.
	if changed != 3*4096 {
		t.Errorf("%d bytes changed", changed)
	}
	for _, s := range v.Listing("db", cairn.Want{Versions: true}).Versions {
		if (s.State == cairn.StateDamaged) != (s.Name != "@c") {
			t.Errorf("%s is %v", s.Name, s.State)
		}
	}
	r, err := v.OpenVersion(ctx, a.VersionID)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.ReadAt(ctx, make([]byte, 4096), 1<<20); cairn.KindOf(err) != cairn.KindDamaged {
		t.Errorf("a lost block reads: %v", err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	list, err := v.Heal(ctx, a.VersionID, patches(was), cairn.HealOptions{Whole: true})
	if err != nil || list[256] != cairn.MendedBySum || list[768] != cairn.MendedBySum {
		t.Errorf("healed %v, %v, %v", list[256], list[768], err)
	}
	if !bytes.Equal(readAll(t, v, a.VersionID), was) {
		t.Error("@a reads as something else")
	}
	if got := readAll(t, v, c.VersionID); got[1<<20] != 0xEE || got[3<<20] != 0xEE {
		t.Error("what others wrote is not in @c")
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
}

// scribble writes a block at each offset past the engine.
func scribble(t *testing.T, path string, offs ...int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, off := range offs {
		if _, err := f.WriteAt(fill(0xEE, 4096), off); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// Writes, captures, streams and verifications at the same time: nothing that was
// written through the volume is ever called foreign.
func TestTableUnderLoad(t *testing.T) {
	_, v := hashed(t, 6<<20)
	write(t, v, 0, noise(1, 6<<20))
	first := snap(t, v, "@0")
	verified(t, v, cairn.VersionID{})
	const rounds = 25
	var g sync.WaitGroup
	g.Go(func() { // a writer
		d := v.Device()
		for i := range 40 * rounds {
			off := int64(i*37%1500) * 4096
			if err := d.WriteAt(ctx, noise(uint64(i+2), 8192), off, 0); err != nil {
				t.Error(err)
			}
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	g.Go(func() { // captures and streams
		last := first.VersionID
		for i := range rounds {
			s, err := v.Snapshot(ctx, fmt.Sprintf("@s%d", i))
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := readStream(v, last, s.VersionID); err != nil {
				t.Error(err)
			}
			last = s.VersionID
		}
	})
	for n := range 2 {
		g.Go(func() { // verifications of everything and of one
			for range rounds {
				id := cairn.VersionID{}
				if n > 0 {
					id = first.VersionID
				}
				c, err := v.Verify(ctx, id)
				if err != nil || len(c.Damaged) > 0 {
					t.Errorf("verify of %q: %v %v", id.Name, c.Damaged, err)
				}
			}
		})
	}
	g.Wait()
	closeVolume(t, v)
}

// A table with gaps does not end a doubt that a replica can still end better.
func TestTableWithGapsLeavesTheDoubt(t *testing.T) {
	dir := t.TempDir()
	was := noise(1, 1<<20)
	origin := originFile(t, was)
	with := volume.PlaceOptions{Dir: dir, Volume: volume.Options{Hashes: yes()}}
	p := openPlace(t, with)
	if err := p.Adopt(ctx, "db", origin, "", ""); err != nil {
		t.Fatal(err)
	}
	v, err := p.Open(ctx, "db")
	if err != nil {
		t.Fatal(err)
	}
	a := snap(t, v, "@a")
	verified(t, v, cairn.VersionID{})
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "db", "+store", "hash-*"))
	if err != nil || len(files) != 1 {
		t.Fatalf("%v %v", files, err)
	}
	if err := os.Remove(files[0]); err != nil {
		t.Fatal(err)
	}
	scribble(t, origin, 8192)
	p = openPlace(t, with)
	if v, err = p.Open(ctx, "db"); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Snapshot(ctx, "@b"); cairn.KindOf(err) != cairn.KindUnverified {
		t.Errorf("a capture: %v", err)
	}
	if s := v.Listing("db", cairn.Want{Versions: true}).Versions[0]; s.State != cairn.StateOK {
		t.Errorf("@a is %v", s.State)
	}
	list, err := v.Heal(ctx, a.VersionID, patches(was), cairn.HealOptions{Whole: true})
	if err != nil || list[2] != cairn.MendedByGUID {
		t.Errorf("healed from a replica: %v %v", list[2], err)
	}
	snap(t, v, "@b")
	if !bytes.Equal(readAll(t, v, a.VersionID), was) {
		t.Error("@a reads as something else")
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
}

package volume_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"cairn"
	"cairn/internal/mech/blockio"
	"cairn/internal/mech/extent"
	"cairn/internal/system/volume"
	"cairn/internal/system/volume/catalog"
	"cairn/internal/system/volume/changes"
	"cairn/internal/system/volume/segment"
)

const (
	terabyte     = 1 << 40
	manyVersions = 50
	memoryStore  = "CAIRN_MEMORY_STORE"
	memoryReads  = "CAIRN_MEMORY_READS"
)

// With CAIRN_SCALE=full: what a terabyte with fifty snapshots costs a process that
// opens it and reads all of them, and goes on writing. The store is made without
// writing a terabyte: what was preserved are zeroes.
func TestMemoryOfManySnapshots(t *testing.T) {
	if os.Getenv("CAIRN_SCALE") != "full" {
		t.Skip("builds gigabytes of segments; set CAIRN_SCALE=full")
	}
	const tenth = terabyte / cairn.BlockSize / 10
	const perSegment = volume.DefaultSegmentBytes / cairn.BlockSize
	for _, c := range []struct {
		name  string
		h     history
		reads int   // of each snapshot that is read
		limit int64 // MiB resident
	}{
		{"a tenth changed in all, in single blocks", history{segments: 1, runs: tenth / manyVersions, older: tenth / manyVersions, length: 1}, 200, 128},
		{"a tenth changed after each, in runs of 64 KiB", history{segments: 1, runs: tenth / 16, older: tenth / 16, length: 16}, 200, 256},
		// Segments as many as there are then, 1,638 for each snapshot. What is in memory of one
		// that no look-up uses is not its blocks: only the newest snapshot's have all of theirs.
		{"a tenth changed after each, in single blocks", history{segments: tenth / perSegment, runs: perSegment, older: 170, length: 1}, 1, 256},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			synthesize(t, dir, c.h)
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestServeManySnapshots$", "-test.v")
			cmd.Env = append(os.Environ(), memoryStore+"="+dir, fmt.Sprintf("%s=%d", memoryReads, c.reads))
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			resident := cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss >> 10
			t.Logf("%s%d MiB resident at most, %v CPU", out, resident, cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime())
			if resident > c.limit {
				t.Errorf("%d MiB resident, the limit is %d", resident, c.limit)
			}
		})
	}
}

// history is what was written after each of the snapshots.
type history struct {
	segments int    // that each snapshot owns
	runs     int    // of blocks in each of the newest snapshot's
	older    int    // and in each of the others'
	length   uint64 // of a run, in blocks
}

// synthesize makes a store of a terabyte with many snapshots and that history. Its
// segments are holes: opening and reading look at their indexes only, which are as
// docs/formats/volume.md has them.
func synthesize(t *testing.T, dir string, h history) {
	t.Helper()
	fsys, err := blockio.OS(dir)
	if err != nil {
		t.Fatal(err)
	}
	file := func(name string, use func(f blockio.File) error) {
		f, err := fsys.Create(name)
		if err == nil {
			err = use(f)
		}
		if err = errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	file("head", func(f blockio.File) error { return f.Truncate(terabyte) })
	st := catalog.State{Store: catalog.Store{ID: 77, Format: 1, Created: time.Now().UTC()}}
	newest := &extent.Bitmap{}
	id := uint64(10)
	for n := range manyVersions {
		start, runs := id, h.older
		id++
		if n == manyVersions-1 {
			runs = h.runs
		}
		for range h.segments {
			rec := catalog.Segment{ID: id, Interval: start, Incarnation: 1, Closed: true, Epoch: 1, Length: volume.DefaultSegmentBytes}
			id++
			file(fmt.Sprintf("seg-%016x", rec.ID), func(f blockio.File) error { return f.Truncate(rec.Length) })
			file(fmt.Sprintf("idx-%016x", rec.ID), func(f blockio.File) error {
				list := scatteredRuns(rand.New(rand.NewPCG(2, rec.ID)), runs, h.length)
				if n == manyVersions-1 {
					for _, first := range list {
						newest.Set(first, h.length)
					}
				}
				_, err := f.WriteAt(indexOf(rec, list, h.length), 0)
				return err
			})
			st.Segments = append(st.Segments, rec)
		}
		st.Versions = append(st.Versions, catalog.Version{Name: fmt.Sprintf("@s%02d", n), GUID: cairn.GUID(n + 1), Start: start, Order: start, Size: terabyte})
		st.Head = catalog.Head{Size: terabyte, Interval: start, Incarnation: 1, Clean: true, Epoch: 1}
	}
	st.Head.Checkpoint, st.Head.NextID = id, id+1
	file(fmt.Sprintf("set-%016x", id), func(f blockio.File) error { return changes.WriteSet(f, 77, id, newest) })
	l, err := catalog.Create(fsys, st)
	if err == nil {
		err = l.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// scatteredRuns is where runs of the length begin, ascending, all over a terabyte.
func scatteredRuns(rng *rand.Rand, runs int, length uint64) []uint64 {
	list := make([]uint64, 0, runs)
	gap := terabyte / cairn.BlockSize / uint64(runs)
	for at := uint64(0); len(list) < runs; at += gap {
		list = append(list, at+rng.Uint64N(gap-length+1))
	}
	return list
}

// indexOf is the index file of a segment that preserved zeroes.
func indexOf(rec catalog.Segment, list []uint64, length uint64) []byte {
	le := binary.LittleEndian
	p := make([]byte, 64, 64+24*len(list))
	for _, first := range list {
		p = le.AppendUint64(p, first)
		p = le.AppendUint32(p, uint32(length))
		p = le.AppendUint32(p, uint32(segment.Zero))
		p = le.AppendUint64(p, 0)
	}
	le.PutUint32(p, 0x31584943)
	for i, v := range []uint64{77, rec.ID, rec.Incarnation, uint64(rec.Length), rec.Epoch, uint64(len(list))} {
		le.PutUint64(p[8+8*i:], v)
	}
	le.PutUint32(p[4:], crc32.Checksum(p[8:], crc32.MakeTable(crc32.Castagnoli)))
	return p
}

// The process that TestMemoryOfManySnapshots measures.
func TestServeManySnapshots(t *testing.T) {
	dir := os.Getenv(memoryStore)
	if dir == "" {
		t.Skip("a process of TestMemoryOfManySnapshots; set CAIRN_SCALE=full")
	}
	fsys, err := blockio.OS(dir)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	v := open(t, fsys, volume.Options{})
	opened := time.Since(began)
	rng, p := rand.New(rand.NewPCG(4, 4)), make([]byte, 4096)
	reads, err := strconv.Atoi(os.Getenv(memoryReads))
	if err != nil {
		t.Fatal(err)
	}
	versions := slices.Collect(snapshotsOf(v))
	if reads == 1 { // each looks at every segment since its snapshot
		versions = []cairn.VersionID{versions[0], versions[len(versions)/2], versions[len(versions)-1]}
	}
	for _, s := range versions {
		r, err := v.OpenVersion(ctx, s)
		if err != nil {
			t.Fatal(err)
		}
		for range reads {
			if err := r.ReadAt(ctx, p, rng.Int64N(terabyte/4096)*4096); err != nil {
				t.Fatal(err)
			}
		}
		for _, err := range r.Extents(ctx, rng.Int64N(terabyte>>27)<<26, 64<<20) {
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	d := v.Device()
	for i := range int64(256) { // and takes writes
		if err := d.WriteAt(ctx, p, i*(terabyte/256), 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	fmt.Printf("opened in %v, %d snapshots read\n", opened, len(versions))
	_ = d.Close()
	closeVolume(t, v)
}

func snapshotsOf(v *volume.Volume) func(yield func(cairn.VersionID) bool) {
	return func(yield func(cairn.VersionID) bool) {
		for _, s := range v.Listing("db", cairn.Want{Versions: true}).Versions {
			if s.IsSnapshot() && !yield(s.VersionID) {
				return
			}
		}
	}
}

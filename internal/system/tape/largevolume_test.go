package tape_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"cairn/internal/policy/syncpolicy"
	"cairn/internal/system/tape"
	"cairn/internal/system/tape/drive"
	"cairn/internal/testkit/faketape"
	"cairn/ltfs"
)

var (
	volumeFiles = flag.Int("volumefiles", 1500, "files of the volume on which many syncs are asked for")
	volumeSyncs = flag.Int("volumesyncs", 60, "fsyncs on it, and small files that are closed under close-sync")
)

// largeVolume is a tape with many files, a thousand to a folder, and the bytes that
// a full index takes.
func largeVolume(t *testing.T) (*faketape.Tape, int64) {
	t.Helper()
	d := faketape.New()
	tp, err := tape.Format(t.Context(), d, "tape", tape.FormatOptions{Creator: "c", Now: now})
	if err != nil {
		t.Fatal(err)
	}
	f, err := tape.NewFS(t.Context(), tp, tape.FSOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var dir *tape.Node
	for i := range *volumeFiles {
		if i%1000 == 0 {
			if dir, err = f.Root().Mkdir(fmt.Sprint("folder ", i/1000)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := dir.Create(fmt.Sprint("file ", i)); err != nil {
			t.Fatal(err)
		}
	}
	unmount(t, f)
	return d, f.Status().IndexBytes
}

// Many fsyncs, and many closes under close-sync, on a large volume: indexes stay
// within the budget, whoever was told yes finds everything at any cut of power, and
// falling back shows in status and log. Incremental indexes make room for all.
func TestManySyncsOnALargeVolume(t *testing.T) {
	closing := syncpolicy.Policy{OnClose: true}
	d, full := largeVolume(t)
	for _, c := range []struct {
		name string
		o    tape.FSOptions
		all  bool // every one is granted
	}{
		{"fsync", tape.FSOptions{}, false},
		{"fsync, incremental", tape.FSOptions{Fsync: tape.FsyncIncremental}, true},
		{"close", tape.FSOptions{Policy: closing}, false},
		{"close, incremental", tape.FSOptions{Policy: closing, Fsync: tape.FsyncIncremental}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c.o.IndexBudget = 10 * full
				manySyncs(t, d.Cut(d.Changes(), false), c.o, c.all)
			})
		})
	}
}

func manySyncs(t *testing.T, d *faketape.Tape, o tape.FSOptions, all bool) {
	var log bytes.Buffer
	o.Logger = slog.New(slog.NewTextHandler(&log, nil))
	f := mount(t, d, o)
	dir := child(t, f.Root(), "folder 1")
	var kept []promise
	var granted, refused, slowest int
	paces := map[syncpolicy.Pace]bool{}
	begun := f.Status().IndexBytes
	for i := range *volumeSyncs {
		before := f.Status()
		h := begin(t, dir, fmt.Sprint("new ", i), []byte(fmt.Sprint("content ", i)))
		start := time.Now()
		var err error
		if o.Policy.OnClose {
			err = h.Flush(t.Context())
		} else {
			err = h.Node().Fsync(t.Context())
		}
		took := int(time.Since(start).Seconds())
		h.Close()
		time.Sleep(100 * time.Millisecond)
		s := f.Status()
		paces[s.Pace] = true
		slowest = max(slowest, took)
		switch {
		case err == nil && o.Policy.OnClose && before.Pace != syncpolicy.Free: // let go without an index, and the status had said so
		case err == nil && s.Generation > before.Generation:
			granted++
			kept = append(kept, promise{d.Changes(), s.Generation, map[string][]byte{fmt.Sprint("new ", i): []byte(fmt.Sprint("content ", i))}, "sync"})
		case errors.Is(err, syscall.ENOSPC):
			refused++
		default:
			t.Fatalf("sync %d: generation %d, then %d: %v", i, before.Generation, s.Generation, err)
		}
		if s.IndexBytes > s.Budget {
			t.Fatalf("indexes take %d of %d bytes", s.IndexBytes, s.Budget)
		}
	}
	said := log.String()
	unmount(t, f)
	s := f.Status()
	t.Logf("%d granted, %d refused, slowest %d s, %d generations; indexes took %d MB of %d MB", granted, refused, slowest, s.Generation, (s.IndexBytes-begun)>>20, s.Budget>>20)
	if s.IndexBytes > s.Budget {
		t.Errorf("after unmounting indexes take %d of %d bytes", s.IndexBytes, s.Budget)
	}
	if all != (granted == *volumeSyncs) {
		t.Errorf("%d of %d granted", granted, *volumeSyncs)
	}
	if fell := strings.Contains(said, "the budget for indexes is being spent"); fell == all || paces[syncpolicy.Slow] == all {
		t.Errorf("falling back shows in the log: %v, in the status: %v", fell, paces[syncpolicy.Slow])
	}
	for i := range min(8, len(kept)) { // cuts right behind a promise, and before the next
		p := kept[i*(len(kept)-1)/7]
		for _, cut := range []int{p.change, p.change + 2} {
			keptAtCut(t, d.Cut(min(cut, d.Changes()), cut > p.change), p)
		}
	}
}

func keptAtCut(t *testing.T, d *faketape.Tape, p promise) {
	t.Helper()
	tp, err := tape.Open(t.Context(), d, "tape")
	if err != nil {
		t.Fatal(err)
	}
	if tp.Index().Generation < p.generation {
		t.Errorf("generation %d was promised, %d was opened", p.generation, tp.Index().Generation)
	}
	for name, want := range p.files {
		found := false
		for _, sub := range tp.Index().Root.Dirs {
			for _, file := range sub.Files {
				found = found || file.Name == name && file.Length == uint64(len(want)) && onTape(d, file)
			}
		}
		if !found {
			t.Errorf("%s, promised by generation %d, is not there", name, p.generation)
		}
	}
}

// onTape reports whether a file's records are there.
func onTape(d *faketape.Tape, file *ltfs.File) bool {
	for _, e := range file.Extents {
		if _, ok := d.Record(drive.Position{Partition: 1, Block: e.StartBlock}); !ok {
			return false
		}
	}
	return len(file.Extents) > 0
}

package job_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"cairn"
	"cairn/internal/app/job"
	"cairn/internal/mech/blockio"
	"cairn/internal/testkit/fakedisk"
)

func folder(t *testing.T, dir string) blockio.FS {
	t.Helper()
	fsys, err := blockio.OS(dir)
	if err != nil {
		t.Fatal(err)
	}
	return fsys
}

func open(t *testing.T, fsys blockio.FS) *job.History {
	t.Helper()
	h, err := job.Open(fsys, nil).History("nightly")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close() })
	return h
}

// diskWith is a disk in memory that holds one log.
func diskWith(t testing.TB, log []byte) *fakedisk.Disk {
	t.Helper()
	d := fakedisk.New()
	f, err := d.Create("nightly.history")
	must(t, err)
	if len(log) > 0 {
		_, err = f.WriteAt(log, 0)
		must(t, err)
	}
	return d
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var errFault = errors.New("the disk says no")

var t0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func begin(t *testing.T, h *job.History) uint64 {
	t.Helper()
	id, err := h.Begin(job.Run{Cause: job.BySchedule, Started: t0})
	must(t, err)
	return id
}

func step(n int) job.Step {
	return job.Step{Verb: "replicate", Dataset: fmt.Sprintf("db%d", n), To: "@a", State: job.Done, Started: t0, Ended: t0.Add(time.Minute), Moved: 4096}
}

// record writes whole runs of two steps each.
func record(t *testing.T, h *job.History, runs int) {
	t.Helper()
	for range runs {
		begin(t, h)
		must(t, h.Step(step(1)))
		must(t, h.Step(step(2)))
		must(t, h.Verb(job.VerbRecord{Verb: "replicate", State: job.Done, Started: t0}))
		must(t, h.End(job.Done, t0.Add(time.Hour), job.Failure{}))
	}
}

func list(t *testing.T, h *job.History) []job.Run {
	t.Helper()
	runs, err := h.List(0)
	must(t, err)
	return runs
}

func ids(runs []job.Run) (ids []uint64) {
	for _, r := range runs {
		ids = append(ids, r.ID)
	}
	return ids
}

func TestHistorySurvivesRestart(t *testing.T) {
	dir := t.TempDir()
	h := open(t, folder(t, dir))
	record(t, h, 3)
	must(t, h.Close())
	h = open(t, folder(t, dir))
	if id := begin(t, h); id != 4 {
		t.Errorf("run %d after three, want 4", id)
	}
	runs := list(t, h)
	if !slices.Equal(ids(runs), []uint64{4, 3, 2, 1}) {
		t.Fatalf("runs %v, want newest first", ids(runs))
	}
	if runs[0].State != job.Running {
		t.Errorf("the run under way is %s", runs[0].State)
	}
	old := runs[3]
	if old.State != job.Done || old.Job != "nightly" || !old.Ended.Equal(t0.Add(time.Hour)) || len(old.Verbs) != 1 {
		t.Errorf("recorded %+v", old)
	}
	if len(old.Steps) != 2 || old.Steps[1] != step(2) {
		t.Errorf("steps %+v", old.Steps)
	}
	newest, err := h.List(2)
	must(t, err)
	if !slices.Equal(ids(newest), []uint64{4, 3}) {
		t.Errorf("the two newest are %v", ids(newest))
	}
}

func TestInterruptedRunShowsAsInterrupted(t *testing.T) {
	dir := t.TempDir()
	h := open(t, folder(t, dir))
	begin(t, h)
	must(t, h.Step(step(1)))
	// No End and no Close: the process was killed.
	for range 2 {
		h = open(t, folder(t, dir))
		runs := list(t, h)
		if len(runs) != 1 || runs[0].State != job.Interrupted || runs[0].Hint == "" {
			t.Fatalf("recorded %+v, want one interrupted run", runs)
		}
		if want := t0.Add(time.Minute); !runs[0].Ended.Equal(want) {
			t.Errorf("ended %v, want %v, when it was last heard of", runs[0].Ended, want)
		}
		if len(runs[0].Steps) != 1 {
			t.Errorf("steps %+v", runs[0].Steps)
		}
	}
}

// However short a cut leaves the log, what stands before the cut is read, nothing
// else is, and recording goes on.
func TestEveryTornTail(t *testing.T) {
	whole := recorded(t, 2)
	for n := range len(whole) + 1 {
		d := diskWith(t, append(whole[:n:n], make([]byte, 5000)...))
		h, err := job.Open(d, nil).History("nightly")
		if err != nil {
			t.Fatalf("cut at %d: %v", n, err)
		}
		lines := bytes.SplitAfter(whole[:n], []byte{'\n'})
		begun := bytes.Count(bytes.Join(lines[:len(lines)-1], nil), []byte(`"begin"`))
		before := list(t, h)
		if len(before) != begun {
			t.Fatalf("cut at %d: %d runs, want %d", n, len(before), begun)
		}
		for _, r := range before {
			if r.State != job.Done && r.State != job.Interrupted {
				t.Fatalf("cut at %d: run %d is %s", n, r.ID, r.State)
			}
		}
		record(t, h, 1)
		must(t, h.Close())
		var said bytes.Buffer
		again, err := job.Open(d, slog.New(slog.NewTextHandler(&said, nil))).History("nightly")
		must(t, err)
		if said.Len() > 0 {
			t.Fatalf("cut at %d: opened again, it said %s", n, &said)
		}
		if after := list(t, again); len(after) != begun+1 || after[0].State != job.Done || len(after[0].Steps) != 2 {
			t.Fatalf("cut at %d: recorded afterwards: %+v", n, after)
		}
	}
}

// recorded is the log of so many runs.
func recorded(t *testing.T, runs int) []byte {
	t.Helper()
	dir := t.TempDir()
	h := open(t, folder(t, dir))
	record(t, h, runs)
	must(t, h.Close())
	log, err := os.ReadFile(filepath.Join(dir, "nightly.history"))
	must(t, err)
	return log
}

func TestFlippedByteHidesOnlyItsRecord(t *testing.T) {
	whole := recorded(t, 2)
	read := func(log []byte) []job.Run {
		h, err := job.Open(diskWith(t, log), nil).History("nightly")
		must(t, err)
		return list(t, h)
	}
	want := fmt.Sprint(read(whole))
	for i := range whole {
		flipped := bytes.Clone(whole)
		flipped[i] ^= 0x20
		got := read(flipped)
		if fmt.Sprint(got) == want {
			t.Fatalf("byte %d: the flip was not noticed", i)
		}
		for _, r := range got {
			if r.Job != "nightly" || r.ID != 1 && r.ID != 2 || len(r.Steps) > 2 {
				t.Fatalf("byte %d: read %+v", i, r)
			}
			for _, s := range r.Steps {
				if s != step(1) && s != step(2) {
					t.Fatalf("byte %d: read step %+v", i, s)
				}
			}
		}
	}
}

// Steps whose run has lost its beginning are nobody's.
func TestStepsOfADamagedRunAreNotGivenToAnother(t *testing.T) {
	var rest []byte
	for line := range bytes.Lines(recorded(t, 2)) {
		if !bytes.Contains(line, []byte(`{"run":1,"end"`)) && !bytes.Contains(line, []byte(`{"run":2,"begin"`)) {
			rest = append(rest, line...)
		}
	}
	h, err := job.Open(diskWith(t, rest), nil).History("nightly")
	must(t, err)
	if runs := list(t, h); len(runs) != 1 || runs[0].State != job.Interrupted || len(runs[0].Steps) != 2 || len(runs[0].Verbs) != 1 {
		t.Errorf("read %+v", runs)
	}
}

func diskUse(t *testing.T, dir string) (total int64) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		info, err := e.Info()
		must(t, err)
		total += info.Size()
	}
	return total
}

func TestHistoryIsBounded(t *testing.T) {
	dir := t.TempDir()
	h := open(t, folder(t, dir))
	failed := step(1)
	failed.State, failed.Failure = job.Failed, job.Failure{Error: strings.Repeat("x", 5000), Kind: "space"}
	for range 12 {
		begin(t, h)
		for range 500 {
			must(t, h.Step(step(1)))
		}
		for range 5 {
			must(t, h.Step(failed))
		}
		must(t, h.End(job.Failed, t0, job.Failure{}))
	}
	if use := diskUse(t, dir); use > 900<<10 {
		t.Errorf("the history takes %d bytes", use)
	}
	h = open(t, folder(t, dir))
	runs := list(t, h)
	if len(runs) < 3 || runs[0].ID != 12 {
		t.Fatalf("runs %v, want the newest kept", ids(runs))
	}
	for i, r := range runs {
		failures := 0
		for _, s := range r.Steps {
			if s.State == job.Failed {
				failures++
			}
			if len(s.Error) > 1010 {
				t.Errorf("an error of %d bytes was recorded", len(s.Error))
			}
		}
		if failures != 5 || r.Omitted == 0 || len(r.Steps)+r.Omitted != 505 {
			t.Errorf("run %d: %d steps, %d failures, %d omitted", r.ID, len(r.Steps), failures, r.Omitted)
		}
		if i > 0 && r.ID != runs[i-1].ID-1 {
			t.Errorf("runs %v are not consecutive", ids(runs))
		}
	}
	// Cut between the rename and the making of the new file.
	must(t, h.Close())
	must(t, os.Remove(filepath.Join(dir, "nightly.history")))
	h = open(t, folder(t, dir))
	last := list(t, h)[0].ID
	if id := begin(t, h); id != last+1 {
		t.Errorf("run %d after %d", id, last)
	}
}

// fullDisk fails writes while it is full, after half of the bytes.
type fullDisk struct {
	blockio.FS
	full bool
}

type fullFile struct {
	blockio.File
	disk *fullDisk
}

func (d *fullDisk) Open(name string, write bool) (blockio.File, error) {
	f, err := d.FS.Open(name, write)
	return fullFile{f, d}, err
}

func (f fullFile) WriteAt(p []byte, off int64) (int, error) {
	if !f.disk.full {
		return f.File.WriteAt(p, off)
	}
	n, _ := f.File.WriteAt(p[:len(p)/2], off)
	return n, &fs.PathError{Op: "write", Path: "log", Err: syscall.ENOSPC}
}

func TestFullDiskLosesNothingElse(t *testing.T) {
	dir := t.TempDir()
	record(t, open(t, folder(t, dir)), 1)
	disk := &fullDisk{FS: folder(t, dir)}
	h := open(t, disk)
	disk.full = true
	id, err := h.Begin(job.Run{Started: t0})
	if id != 2 || !errors.Is(err, syscall.ENOSPC) || cairn.KindOf(err) != cairn.KindIO || cairn.HintOf(err) == "" {
		t.Errorf("Begin on a full disk: %d, %v", id, err)
	}
	if err := h.End(job.Failed, t0, job.Failure{}); err == nil {
		t.Error("End on a full disk succeeded")
	}
	var said bytes.Buffer
	if _, err := job.Open(folder(t, dir), slog.New(slog.NewTextHandler(&said, nil))).History("nightly"); err != nil || said.Len() > 0 {
		t.Errorf("opened after the failure: %v, said %s", err, &said)
	}
	disk.full = false
	record(t, h, 1)
	runs := list(t, open(t, folder(t, dir)))
	if !slices.Equal(ids(runs), []uint64{3, 1}) || runs[0].State != job.Done || runs[1].State != job.Done {
		t.Errorf("recorded %+v", runs)
	}
}

func TestRunWhoseEndWasNotRecorded(t *testing.T) {
	disk := &fullDisk{FS: folder(t, t.TempDir())}
	must(t, open(t, disk).Close()) // makes the file
	h := open(t, disk)
	begin(t, h)
	disk.full = true
	if err := h.End(job.Done, t0, job.Failure{}); err == nil {
		t.Error("End on a full disk succeeded")
	}
	disk.full = false
	record(t, h, 1)
	if runs := list(t, h); len(runs) != 2 || runs[1].State != job.Interrupted || runs[0].State != job.Done {
		t.Errorf("recorded %+v", runs)
	}
}

func TestNamesOfHistories(t *testing.T) {
	s := job.Open(folder(t, t.TempDir()), nil)
	for _, bad := range []string{"", "../x", ".."} {
		if _, err := s.History(bad); err == nil {
			t.Errorf("history of job %q opened", bad)
		}
	}
	if _, err := s.History("by hand: db-1.2_x"); err != nil {
		t.Error(err)
	}
}

// Whatever bytes a log holds, it opens, and recording goes on behind them.
func FuzzHistory(f *testing.F) {
	f.Add([]byte("00000000 {}\n"))
	f.Add([]byte(`6e9cd1ec {"run":9,"verb":{"verb":"capture","state":"done"}}` + "\n"))
	f.Fuzz(func(t *testing.T, log []byte) {
		d := diskWith(t, log)
		h, err := job.Open(d, nil).History("nightly")
		must(t, err)
		before := len(list(t, h))
		record(t, h, 1)
		if after := list(t, h); len(after) != before+1 || after[0].State != job.Done {
			t.Fatalf("%d runs became %+v", before, after)
		}
	})
}

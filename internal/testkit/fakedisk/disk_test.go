package fakedisk_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"cairn/internal/mech/blockio"
	"cairn/internal/testkit/fakedisk"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func create(t *testing.T, fsys blockio.FS, name string) blockio.File {
	t.Helper()
	f, err := fsys.Create(name)
	must(t, err)
	return f
}

func put(t *testing.T, f blockio.File, off int64, text string) {
	t.Helper()
	_, err := f.WriteAt([]byte(text), off)
	must(t, err)
}

// crash makes the disk after the whole log with that subset.
func crash(d *fakedisk.Disk, what fakedisk.Subset) *fakedisk.Disk {
	r := d.Replay()
	r.Seek(d.Len())
	return r.Crash(what)
}

// content reads a file whole; "-" when there is none.
func content(t *testing.T, fsys blockio.FS, name string) string {
	t.Helper()
	f, err := fsys.Open(name, false)
	if errors.Is(err, fs.ErrNotExist) {
		return "-"
	}
	must(t, err)
	defer func() { must(t, f.Close()) }()
	n, err := f.Size()
	must(t, err)
	p := make([]byte, n)
	if _, err := f.ReadAt(p, 0); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	return string(p)
}

// outcomes collects what crashes make of something, over many subsets.
func outcomes(d *fakedisk.Disk, look func(*fakedisk.Disk) string) []string {
	seen := map[string]bool{}
	r := d.Replay()
	r.Seek(d.Len())
	for what := range fakedisk.Subset(300) {
		seen[look(r.Crash(what))] = true
	}
	return slices.Sorted(maps.Keys(seen))
}

func TestDurableOnlyAfterTheSyncThatMakesItSo(t *testing.T) {
	look := func(d *fakedisk.Disk) string { return content(t, d, "a") }
	d := fakedisk.New()
	f := create(t, d, "a")
	put(t, f, 0, "one")
	must(t, f.Sync())
	if got := outcomes(d, look); !slices.Equal(got, []string{"-", "one"}) {
		t.Errorf("name not synced: %q", got)
	}
	must(t, d.SyncDir("."))
	if got := outcomes(d, look); !slices.Equal(got, []string{"one"}) {
		t.Errorf("both synced: %q", got)
	}
	put(t, f, 0, "two")
	put(t, f, 3, "!")
	if got := outcomes(d, look); !slices.Equal(got, []string{"one", "one\x00", "two", "two\x00", "two!"}) {
		t.Errorf("overwritten: %q", got)
	}
	must(t, d.Remove("a"))
	must(t, f.Sync())
	if got := outcomes(d, look); !slices.Equal(got, []string{"-", "two!"}) {
		t.Errorf("removed: %q", got)
	}
	must(t, d.SyncDir("."))
	if got := outcomes(d, look); !slices.Equal(got, []string{"-"}) {
		t.Errorf("removal synced: %q", got)
	}
}

func TestSectorsTearIndependently(t *testing.T) {
	d := fakedisk.New()
	f := create(t, d, "a")
	must(t, f.Truncate(4*512))
	must(t, f.Sync())
	must(t, d.SyncDir("."))
	put(t, f, 0, strings.Repeat("A", 3*512))
	put(t, f, 512, strings.Repeat("B", 512))
	got := outcomes(d, func(c *fakedisk.Disk) string {
		s := content(t, c, "a")
		for i := range s {
			if s[i] != s[i/512*512] {
				t.Fatal("torn inside a sector")
			}
		}
		return s[0:1] + s[512:513] + s[1024:1025] + s[1536:1537]
	})
	var want []string
	for _, a := range []string{"\x00", "A"} {
		for _, b := range []string{"\x00", "A", "B"} {
			for _, c := range []string{"\x00", "A"} {
				want = append(want, a+b+c+"\x00")
			}
		}
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestFailedSyncIsNeverMadeGood(t *testing.T) {
	d := fakedisk.New()
	f := create(t, d, "a")
	put(t, f, 0, "old")
	must(t, f.Sync())
	must(t, d.SyncDir("."))
	put(t, f, 0, "new")
	put(t, f, 600, "x")
	d.OnCall(func(c fakedisk.Call) error {
		if c.Op == fakedisk.OpSync {
			return syscall.EIO
		}
		return nil
	})
	if err := f.Sync(); !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	d.OnCall(nil)
	if got := content(t, d, "a"); got[:3] != "new" {
		t.Errorf("reads show %q", got)
	}
	must(t, f.Sync())
	first := func(c *fakedisk.Disk) string { return content(t, c, "a")[:3] }
	if got := outcomes(d, first); !slices.Equal(got, []string{"new", "old"}) {
		t.Errorf("a later sync made it %q", got)
	}
	put(t, f, 0, "now")
	must(t, f.Sync())
	if got := outcomes(d, first); !slices.Equal(got, []string{"now"}) {
		t.Errorf("written anew and synced: %q", got)
	}
}

func TestRenameIsWholeAndNeedsBothFolders(t *testing.T) {
	d := fakedisk.New()
	must(t, d.Mkdir("x"))
	must(t, d.Mkdir("y"))
	for name, text := range map[string]string{"x/a": "new", "y/b": "old"} {
		f := create(t, d, name)
		put(t, f, 0, text)
		must(t, f.Sync())
		must(t, f.Close())
	}
	for _, dir := range []string{".", "x", "y"} {
		must(t, d.SyncDir(dir))
	}
	look := func(c *fakedisk.Disk) string { return content(t, c, "x/a") + " " + content(t, c, "y/b") }
	must(t, d.Rename("x/a", "y/b"))
	for _, dir := range []string{"", "x", "y"} {
		want := []string{"- new", "new old"}
		if dir != "" {
			must(t, d.SyncDir(dir))
		}
		if dir == "y" {
			want = want[:1]
		}
		if got := outcomes(d, look); !slices.Equal(got, want) {
			t.Errorf("after syncing %q: %q", dir, got)
		}
	}
}

// A name made durable takes with it what had to happen before.
func TestSyncedNameStandsOnTheRenameBefore(t *testing.T) {
	d := fakedisk.New()
	for _, dir := range []string{"x", "y"} {
		must(t, d.Mkdir(dir))
	}
	f := create(t, d, "x/a")
	put(t, f, 0, "old")
	must(t, f.Sync())
	for _, dir := range []string{".", "x", "y"} {
		must(t, d.SyncDir(dir))
	}
	must(t, d.Rename("x/a", "y/b"))
	g := create(t, d, "x/a")
	put(t, g, 0, "new")
	must(t, g.Sync())
	look := func(c *fakedisk.Disk) string { return content(t, c, "x/a") + " " + content(t, c, "y/b") }
	if got := outcomes(d, look); !slices.Equal(got, []string{"- old", "new old", "old -"}) {
		t.Errorf("not synced: %q", got)
	}
	must(t, d.SyncDir("x"))
	if got := outcomes(d, look); !slices.Equal(got, []string{"new old"}) {
		t.Errorf("synced: %q", got)
	}
}

func TestNamesStandOnTheirFolders(t *testing.T) {
	d := fakedisk.New()
	must(t, d.Mkdir("x"))
	f := create(t, d, "x/a")
	must(t, f.Sync())
	must(t, d.SyncDir("x"))
	look := func(c *fakedisk.Disk) string {
		names, err := c.ReadDir("x")
		return fmt.Sprint(names, err == nil)
	}
	if got := outcomes(d, look); !slices.Equal(got, []string{"[] false", "[a] true"}) {
		t.Errorf("folder not synced: %q", got)
	}
	must(t, d.SyncDir("."))
	must(t, d.Rename("x/a", "x/b"))
	g := create(t, d, "x/a")
	must(t, g.Close())
	if got := outcomes(d, look); !slices.Equal(got, []string{"[a b] true", "[a] true", "[b] true"}) {
		t.Errorf("renamed and made anew: %q", got)
	}
}

func TestShrinkAndPunchLoseSectorsOneByOne(t *testing.T) {
	d := fakedisk.New()
	f := create(t, d, "a")
	put(t, f, 0, strings.Repeat("A", 1024))
	must(t, f.Sync())
	must(t, d.SyncDir("."))
	must(t, f.Punch(0, 512))
	must(t, f.Truncate(700))
	must(t, f.Truncate(1024))
	got := outcomes(d, func(c *fakedisk.Disk) string {
		s := content(t, c, "a")
		return fmt.Sprintf("%d %q", len(s), s[0:1]+s[699:700]+s[len(s)-1:])
	})
	want := []string{`1024 "AA\x00"`, `1024 "AAA"`, `1024 "\x00A\x00"`, `1024 "\x00AA"`, `700 "AAA"`, `700 "\x00AA"`}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	must(t, f.Sync())
	if got := content(t, crash(d, fakedisk.Nothing), "a"); got != strings.Repeat("\x00", 512)+strings.Repeat("A", 188)+strings.Repeat("\x00", 324) {
		t.Errorf("synced: %q", got)
	}
}

// Any crash of any prefix is a disk that can be used and crashed again, and is the
// same whenever it is made.
func TestCrashesRepeatAndNest(t *testing.T) {
	d := fakedisk.New()
	run(t, d, script(7, 120))
	look := func(c *fakedisk.Disk) string { return strings.Join(state(t, c, "."), "\n") }
	r, again := d.Replay(), d.Replay()
	for r.Next() {
		again.Next()
		one := r.Crash(fakedisk.Subset(r.Pos()))
		if look(one) != look(again.Crash(fakedisk.Subset(r.Pos()))) {
			t.Fatalf("cut %d gives two disks", r.Pos())
		}
		before := look(one)
		run(t, one, script(uint64(r.Pos()), 10))
		if look(one.Replay().Crash(fakedisk.Nothing)) != before {
			t.Fatalf("cut %d: a crash before the first entry is not the first state", r.Pos())
		}
	}
	if look(r.Crash(fakedisk.Everything)) != look(d) {
		t.Error("everything kept is not what the system saw")
	}
}

// The same calls on a real file system and here show the same.
func TestSameAsTheRealThing(t *testing.T) {
	for seed := range uint64(60) {
		real, err := blockio.OS(t.TempDir())
		must(t, err)
		d := fakedisk.New()
		calls := script(seed, 150)
		got, want := run(t, d, calls), run(t, real, calls)
		for i := range want {
			if got[i] != want[i] {
				t.Fatalf("seed %d, call %d, %v: %s here, %s on the real one", seed, i, calls[i], got[i], want[i])
			}
		}
		if got, want := state(t, d, "."), state(t, real, "."); !slices.Equal(got, want) {
			t.Fatalf("seed %d: here\n%s\non the real one\n%s", seed, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}

// step is one call of a script.
type step struct {
	op       string
	name, to string
	off, n   int64
}

var scriptNames = []string{"a", "b", "d", "d/a", "d/b", "e", "e/a", "d/e", "d/e/a", "nowhere/a"}

func script(seed uint64, n int) []step {
	rng := rand.New(rand.NewPCG(seed, 3))
	ops := []string{"create", "mkdir", "remove", "rename", "write", "write", "write", "punch", "zero", "truncate", "allocate", "sync", "syncdir", "read", "data"}
	steps := []step{{op: "mkdir", name: "d"}, {op: "create", name: "d/a"}}
	for range n {
		steps = append(steps, step{op: ops[rng.IntN(len(ops))], name: scriptNames[rng.IntN(len(scriptNames))],
			to: scriptNames[rng.IntN(len(scriptNames))], off: rng.Int64N(20000), n: 1 + rng.Int64N(9000)})
	}
	return steps
}

// run makes the calls and says how each ended.
func run(t *testing.T, fsys blockio.FS, steps []step) []string {
	t.Helper()
	results := make([]string, len(steps))
	for i, s := range steps {
		out, err := perform(fsys, s)
		var no syscall.Errno
		if errors.As(err, &no) {
			out += " " + no.Error()
		} else if err != nil {
			t.Fatalf("%v: %v", s, err)
		}
		results[i] = out
	}
	return results
}

func perform(fsys blockio.FS, s step) (string, error) {
	switch s.op {
	case "create":
		f, err := fsys.Create(s.name)
		if err == nil {
			err = f.Close()
		}
		return "", err
	case "mkdir":
		return "", fsys.Mkdir(s.name)
	case "remove":
		return "", fsys.Remove(s.name)
	case "rename":
		if strings.HasPrefix(s.to, s.name+"/") { // into itself: not a question for here
			return "", nil
		}
		return "", fsys.Rename(s.name, s.to)
	}
	st, err := fsys.Stat(s.name)
	switch {
	case err != nil:
		return "", err
	case st.IsDir() && s.op == "syncdir":
		return "", fsys.SyncDir(s.name)
	case st.IsDir() || s.op == "syncdir":
		return "", nil
	}
	f, err := fsys.Open(s.name, true)
	if err != nil {
		return "", err
	}
	out, err := performFile(f, s)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return out, err
}

func performFile(f blockio.File, s step) (string, error) {
	switch s.op {
	case "write":
		n, err := f.WriteAt(bytes.Repeat([]byte{byte(s.off), byte(s.n)}, int(s.n)/2+1)[:s.n], s.off)
		return fmt.Sprint(n), err
	case "punch":
		return "", f.Punch(s.off, s.n)
	case "zero":
		return "", f.Zero(s.off, s.n)
	case "truncate":
		return "", f.Truncate(s.off)
	case "allocate":
		return "", f.Allocate(s.off, s.n)
	case "sync":
		return "", f.Sync()
	case "read":
		p := make([]byte, s.n)
		n, err := f.ReadAt(p, s.off)
		if errors.Is(err, io.EOF) {
			return fmt.Sprintf("%d %x EOF", n, p[:n]), nil
		}
		return fmt.Sprintf("%d %x", n, p[:n]), err
	}
	return "", holesAreZero(f)
}

// holesAreZero checks what Data promises; where data begins may differ.
func holesAreZero(f blockio.File) error {
	size, err := f.Size()
	if err != nil {
		return err
	}
	for off := int64(0); off < size; {
		start, end, err := f.Data(off)
		if err != nil {
			return err
		}
		p := make([]byte, start-off)
		if _, err := f.ReadAt(p, off); err != nil || !bytes.Equal(p, make([]byte, len(p))) || end <= start && start < size {
			return fmt.Errorf("hole %d-%d, data to %d: %w", off, start, end, err)
		}
		off = max(end, start)
	}
	return nil
}

// state lists all files below dir with their content.
func state(t *testing.T, fsys blockio.FS, dir string) []string {
	t.Helper()
	names, err := fsys.ReadDir(dir)
	must(t, err)
	var out []string
	for _, name := range names {
		full := strings.TrimPrefix(dir+"/"+name, "./")
		st, err := fsys.Stat(full)
		must(t, err)
		if st.IsDir() {
			out = append(out, full+"/")
			out = append(out, state(t, fsys, full)...)
			continue
		}
		out = append(out, fmt.Sprintf("%s %d %x", full, st.Size(), content(t, fsys, full)))
	}
	return out
}

func TestRoomRunsOut(t *testing.T) {
	d := fakedisk.New()
	f := create(t, d, "a")
	must(t, f.Allocate(0, 8192))
	d.SetCapacity(8192)
	put(t, f, 0, strings.Repeat("x", 8192))
	if _, err := f.WriteAt([]byte("x"), 8192); !errors.Is(err, syscall.ENOSPC) {
		t.Error(err)
	}
	if err := f.Allocate(8192, 1); !errors.Is(err, syscall.ENOSPC) {
		t.Error(err)
	}
	must(t, f.Punch(0, 4096))
	put(t, f, 8192, "x")
	must(t, d.Remove("a"))
	if free, _, err := d.Space(); err != nil || free != 0 {
		t.Errorf("%d free while the file is open, %v", free, err)
	}
	must(t, f.Close())
	if free, total, err := d.Space(); err != nil || free != total {
		t.Errorf("%d of %d free, %v", free, total, err)
	}
}

func TestEveryCallCanBeMadeToFail(t *testing.T) {
	calls := script(3, 200)
	count := 0
	d := fakedisk.New()
	d.OnCall(func(fakedisk.Call) error { count++; return nil })
	run(t, d, calls)
	for n := 0; n < count; n += 7 {
		d := fakedisk.New()
		failed := false
		d.OnCall(func(c fakedisk.Call) error {
			if c.N == n {
				failed = true
				return syscall.EIO
			}
			return nil
		})
		results := run(t, d, calls)
		if !failed || !strings.Contains(strings.Join(results, ""), syscall.EIO.Error()) {
			t.Fatalf("call %d of %d did not fail", n, count)
		}
	}
}

func TestReadersRunSideBySide(t *testing.T) {
	d := fakedisk.New()
	f := create(t, d, "a")
	put(t, f, 0, strings.Repeat("x", 1<<16))
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			p := make([]byte, 4096)
			for i := range int64(200) {
				if n, err := f.ReadAt(p, i%16*4096); n != 4096 || err != nil || p[0] != 'x' && p[0] != 'y' {
					t.Errorf("%d %v", n, err)
				}
			}
		})
	}
	for i := range int64(200) {
		put(t, f, i%16*4096, "y")
		if i%50 == 0 {
			crash(d, fakedisk.Subset(i))
		}
	}
	wg.Wait()
}

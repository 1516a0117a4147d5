package tape_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"cairn"
	"cairn/internal/policy/syncpolicy"
	"cairn/internal/system/tape"
	"cairn/internal/testkit/faketape"
)

// blank is a formatted tape in memory, with records of 4 KiB.
func blank(t *testing.T, room ...int64) *faketape.Tape {
	t.Helper()
	d := faketape.New()
	copy(d.Room[:], room)
	if _, err := tape.Format(t.Context(), d, "tape", tape.FormatOptions{BlockSize: 4096, Creator: "c", Now: now}); err != nil {
		t.Fatal(err)
	}
	return d
}

func mount(t *testing.T, d *faketape.Tape, o tape.FSOptions) *tape.FS {
	t.Helper()
	tp, err := tape.Open(t.Context(), d, "tape")
	if err != nil {
		t.Fatal(err)
	}
	f, err := tape.NewFS(t.Context(), tp, o)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func unmount(t *testing.T, f *tape.FS) {
	t.Helper()
	if err := f.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// begin creates a file and leaves it open.
func begin(t *testing.T, dir *tape.Node, name string, data []byte) *tape.Handle {
	t.Helper()
	n, err := dir.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	h, err := n.Open(true, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Write(t.Context(), data, 0); err != nil {
		t.Fatal(err)
	}
	return h
}

func write(t *testing.T, dir *tape.Node, name string, data []byte) {
	t.Helper()
	finish(t, begin(t, dir, name, data))
}

func finish(t *testing.T, h *tape.Handle) {
	t.Helper()
	if err := h.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.Close()
}

func content(t *testing.T, n *tape.Node) []byte {
	t.Helper()
	p := make([]byte, n.Attr().Size)
	if count, err := n.Read(t.Context(), p, 0); err != nil || count != len(p) {
		t.Fatalf("read %d of %d: %v", count, len(p), err)
	}
	return p
}

func child(t *testing.T, dir *tape.Node, name string) *tape.Node {
	t.Helper()
	n, err := dir.Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func noise(rng *rand.Rand, n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(rng.Uint32())
	}
	return p
}

// Random writes, truncations and reads of a few files against slices in memory,
// with syncs in between, and again after mounting anew.
func TestContentAgainstModel(t *testing.T) {
	for seed := range uint64(8) {
		rng := rand.New(rand.NewPCG(seed, 1))
		d := blank(t)
		f := mount(t, d, tape.FSOptions{Buffer: 20000})
		model := map[string][]byte{}
		open := map[string]*tape.Handle{}
		for i := range 4 {
			name := fmt.Sprintf("f%d", i)
			open[name], model[name] = begin(t, f.Root(), name, nil), nil
		}
		for range 400 {
			name := fmt.Sprintf("f%d", rng.IntN(4))
			modelStep(t, f, rng, open[name], name, model)
		}
		for name, h := range open {
			finish(t, h)
			if got := content(t, h.Node()); !bytes.Equal(got, model[name]) {
				t.Fatalf("seed %d: %s differs before unmounting", seed, name)
			}
		}
		unmount(t, f)
		again := mount(t, d, tape.FSOptions{})
		for name, want := range model {
			if got := content(t, child(t, again.Root(), name)); !bytes.Equal(got, want) {
				t.Fatalf("seed %d: %s differs after mounting anew", seed, name)
			}
		}
		checkInOrder(t, again)
		unmount(t, again)
	}
}

func modelStep(t *testing.T, f *tape.FS, rng *rand.Rand, h *tape.Handle, name string, model map[string][]byte) {
	t.Helper()
	have := model[name]
	switch k := rng.IntN(20); {
	case k < 12:
		off := rng.IntN(len(have) + 1000)
		if k < 6 {
			off = len(have)
		}
		data := noise(rng, 1+rng.IntN(9000))
		if err := h.Write(t.Context(), data, uint64(off)); err != nil {
			t.Fatal(err)
		}
		grown := make([]byte, max(len(have), off+len(data)))
		copy(grown, have)
		copy(grown[off:], data)
		model[name] = grown
	case k < 15:
		size := rng.IntN(len(have) + 2000)
		if err := h.Node().Truncate(uint64(size)); err != nil {
			t.Fatal(err)
		}
		cut := make([]byte, size)
		copy(cut, have)
		model[name] = cut
	case k < 19:
		if got := content(t, h.Node()); !bytes.Equal(got, have) {
			t.Fatalf("%s differs: %d bytes, want %d", name, len(got), len(have))
		}
	default:
		if err := f.Sync(t.Context(), syncpolicy.Manual, false); err != nil {
			t.Fatal(err)
		}
	}
}

func checkInOrder(t *testing.T, f *tape.FS) {
	t.Helper()
	if notes := f.Tape().Notes(); len(notes) > 0 {
		t.Errorf("out of order: %v", notes)
	}
	if problems := f.Tape().Index().Check(f.Tape().Label()); len(problems) > 0 {
		t.Errorf("problems: %v", problems)
	}
}

// Small files share records, and many small writes make few of them.
func TestPacking(t *testing.T) {
	d := blank(t)
	f := mount(t, d, tape.FSOptions{})
	const files, size = 200, 100
	for i := range files {
		write(t, f.Root(), fmt.Sprint(i), bytes.Repeat([]byte{byte(i)}, size))
	}
	h := begin(t, f.Root(), "trickle", nil)
	for i := range 1000 {
		if err := h.Write(t.Context(), make([]byte, 100), uint64(i*100)); err != nil {
			t.Fatal(err)
		}
	}
	finish(t, h)
	unmount(t, f)
	last := mount(t, d, tape.FSOptions{}).Tape().Index()
	blocks := map[uint64]bool{}
	for _, n := range last.All() {
		if n.File == nil {
			continue
		}
		if len(n.File.Extents) > 2 {
			t.Errorf("%s stands in %d pieces", n.File.Name, len(n.File.Extents))
		}
		for _, e := range n.File.Extents {
			for b := e.StartBlock; b <= e.StartBlock+(uint64(e.ByteOffset)+e.ByteCount-1)/4096; b++ {
				blocks[b] = true
			}
		}
	}
	if most := (files*size+100*1000)/4096 + 2; len(blocks) > most {
		t.Errorf("%d records, at most %d are needed", len(blocks), most)
	}
}

func TestNames(t *testing.T) {
	d := blank(t)
	f := mount(t, d, tape.FSOptions{})
	dir, err := f.Root().Mkdir("dir")
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir, "a", []byte("a"))
	write(t, dir, "b", []byte("bb"))
	sub, err := dir.Mkdir("sub")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dir.Symlink("link", "../x:y"); err != nil {
		t.Fatal(err)
	}
	_, missing := dir.Lookup("zz")
	_, twice := dir.Create("a")
	_, long := dir.Create(strings.Repeat("ä", 256))
	_, coded := dir.Create("\xff")
	for _, c := range []struct {
		what string
		err  error
		want syscall.Errno
	}{
		{"missing", missing, syscall.ENOENT}, {"twice", twice, syscall.EEXIST}, {"long", long, syscall.ENAMETOOLONG}, {"not UTF-8", coded, syscall.EILSEQ},
		{"rmdir of a full one", f.Root().Remove("dir", true), syscall.ENOTEMPTY}, {"rmdir of a file", dir.Remove("a", true), syscall.ENOTDIR},
		{"unlink of a folder", dir.Remove("sub", false), syscall.EISDIR}, {"into itself", f.Root().Rename("dir", sub, "x", false), syscall.EINVAL},
		{"over a folder", dir.Rename("a", dir, "sub", false), syscall.EISDIR}, {"folder over file", dir.Rename("sub", dir, "a", false), syscall.ENOTDIR},
		{"keep", dir.Rename("a", dir, "b", true), syscall.EEXIST}, {"rename", dir.Rename("a", sub, "b2", false), 0}, {"replace", dir.Rename("b", sub, "b2", false), 0},
		{"read-only", child(t, sub, "b2").SetReadOnly(true), 0}, {"attribute", sub.SetXAttr("k:ey", []byte{1, 0}), 0},
	} {
		var got syscall.Errno
		errors.As(c.err, &got)
		if got != c.want || c.want == 0 && c.err != nil {
			t.Errorf("%s: %v", c.what, c.err)
		}
	}
	if err := sub.SetXAttr("other", nil); !errors.Is(err, tape.ErrNoXAttr) {
		t.Errorf("removing no attribute: %v", err)
	}
	unmount(t, f)
	tree := files(mount(t, d, tape.FSOptions{}).Tape().Index())
	if want := []string{"/dir/link", "/dir/sub/b2"}; !slices.Equal(slices.Sorted(slices.Values(tree)), want) {
		t.Errorf("%q", tree)
	}
}

// A removed file that is open stays readable and writable; its bytes take no room
// in memory afterwards.
func TestRemovedButOpen(t *testing.T) {
	f := mount(t, blank(t), tape.FSOptions{})
	h := begin(t, f.Root(), "gone", []byte("before"))
	if err := f.Root().Remove("gone", false); err != nil {
		t.Fatal(err)
	}
	if err := h.Write(t.Context(), []byte(" after"), 6); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(t.Context(), syncpolicy.Manual, false); err != nil {
		t.Fatal(err)
	}
	if got := content(t, h.Node()); string(got) != "before after" {
		t.Errorf("%q", got)
	}
	finish(t, h)
	unmount(t, f)
	if s := f.Status(); s.Open != 0 || s.Risk.Bytes != 0 {
		t.Errorf("%+v", s)
	}
}

// An index that is written while files are open says which, and the history shows
// them; the copy of a foreign writer is recognised.
func TestPartialFilesAreNamed(t *testing.T) {
	d := blank(t)
	f := mount(t, d, tape.FSOptions{Policy: syncpolicy.Policy{OnClose: true}})
	b := begin(t, f.Root(), "B", make([]byte, 10000))
	write(t, f.Root(), "A", []byte("small"))
	middle := f.Status().Generation
	if err := b.Write(t.Context(), make([]byte, 5000), 10000); err != nil {
		t.Fatal(err)
	}
	finish(t, b)
	whole := f.Status().Generation
	rewrite, err := child(t, f.Root(), "A").Open(true, true)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(t.Context(), syncpolicy.Manual, false); err != nil {
		t.Fatal(err)
	}
	rewritten := f.Status().Generation
	finish(t, rewrite)
	unmount(t, f)
	tp, err := tape.Open(t.Context(), d, "tape")
	if err != nil {
		t.Fatal(err)
	}
	for generation, want := range map[uint64][]string{middle: {"/B"}, whole: nil, rewritten: {"/A"}, tp.Index().Generation: nil} {
		ix, err := tp.At(t.Context(), generation)
		if err != nil {
			t.Fatal(err)
		}
		x, ok := ix.Extension()
		var marked []string
		for name, n := range ix.All() {
			if n.File != nil && n.File.OpenForWrite {
				marked = append(marked, name)
			}
		}
		if !ok || x.OpenCount != len(want) || !slices.Equal(x.Open, want) || !slices.Equal(marked, want) {
			t.Errorf("generation %d: %+v (current %v), marked %q, want %q", generation, x, ok, marked, want)
		}
	}
	half, err := tp.At(t.Context(), middle)
	if err != nil {
		t.Fatal(err)
	}
	old, err := tape.NewFS(t.Context(), tp, tape.FSOptions{Index: half})
	if err != nil {
		t.Fatal(err)
	}
	if got := len(content(t, child(t, old.Root(), "B"))); got != 10000 {
		t.Errorf("B has %d bytes in generation %d: what was written when the index was", got, middle)
	}
	if _, err := old.Root().Create("x"); !errors.Is(err, syscall.EROFS) {
		t.Errorf("an old generation takes changes: %v", err)
	}
}

// The time policy writes one index per interval while something changes, and none
// in between or on an idle volume.
func TestTimePolicy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := blank(t)
		f := mount(t, d, tape.FSOptions{Policy: syncpolicy.Default()})
		idle := d.Changes()
		time.Sleep(time.Hour)
		if d.Changes() != idle {
			t.Error("an idle volume was written to")
		}
		first := f.Status().Generation
		h := begin(t, f.Root(), "long copy", nil)
		for i := range 60 { // seventy minutes
			if err := h.Write(t.Context(), make([]byte, 3000), uint64(i*3000)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(70 * time.Second)
		}
		if n := f.Status().Generation - first; n != 12 {
			// One five minutes after the first change that no index holds, which is the
			// next write: every 350 seconds.
			t.Errorf("%d generations", n)
		}
		finish(t, h)
		unmount(t, f)
		tp, err := tape.Open(t.Context(), d, "tape")
		if err != nil {
			t.Fatal(err)
		}
		ix, err := tp.At(t.Context(), first+2)
		if err != nil {
			t.Fatal(err)
		}
		if x, ok := ix.Extension(); !ok || x.OpenCount != 1 {
			t.Errorf("the generation in the middle of the copy says %+v, %v", x, ok)
		}
	})
}

// A failing drive is reported, tried again with pauses, and the schedule goes on.
func TestFailingDriveResumes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := blank(t)
		f := mount(t, d, tape.FSOptions{Policy: syncpolicy.Default()})
		boom := &cairn.Error{Op: "write", Kind: cairn.KindIO}
		var failing atomic.Bool
		var tries atomic.Int32
		d.Fail = func(call string) error {
			if failing.Load() && call == "filemark" {
				tries.Add(1)
				return boom
			}
			return nil
		}
		write(t, f.Root(), "a", []byte("a"))
		failing.Store(true)
		if err := f.Root().Rename("a", f.Root(), "b", false); err != nil {
			t.Fatal(err)
		}
		if err := child(t, f.Root(), "b").Fsync(t.Context()); !errors.Is(err, cairn.KindIO) {
			t.Errorf("fsync on a failing drive: %v", err)
		}
		if s := f.Status(); s.Failures == 0 || s.Err == nil || s.Risk.Files != 1 {
			t.Errorf("%+v", s)
		}
		time.Sleep(time.Hour)
		if n := tries.Load(); n < 50 || n > 80 {
			t.Errorf("%d tries in an hour", n)
		}
		failing.Store(false)
		time.Sleep(2 * time.Minute)
		if s := f.Status(); s.Failures != 0 || s.Risk != (tape.Risk{}) {
			t.Errorf("after the drive works again: %+v", s)
		}
		unmount(t, f)
		again := mount(t, d, tape.FSOptions{})
		if got := content(t, child(t, again.Root(), "b")); string(got) != "a" {
			t.Errorf("%q", got)
		}
		checkInOrder(t, again)
		unmount(t, again)
	})
}

// With fsync for data alone no index is written, and all data is on tape, each part
// in a record.
func TestFsyncOfData(t *testing.T) {
	d := blank(t)
	f := mount(t, d, tape.FSOptions{Fsync: tape.FsyncData})
	h := begin(t, f.Root(), "file", []byte("one"))
	before := d.Changes()
	if err := h.Node().Fsync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if d.Changes() == before || f.Status().Generation != 1 {
		t.Errorf("%d changes of the tape, generation %d", d.Changes()-before, f.Status().Generation)
	}
	if a := h.Node().Attr(); !a.HasData {
		t.Error("the data is not on tape")
	}
	d.Fail = func(call string) error {
		if call == "filemark" {
			return &cairn.Error{Op: "flush", Kind: cairn.KindIO}
		}
		return nil
	}
	if err := h.Write(t.Context(), []byte("two"), 3); err != nil {
		t.Fatal(err)
	}
	if err := h.Node().Fsync(t.Context()); !errors.Is(err, cairn.KindIO) {
		t.Errorf("fsync on a drive that cannot flush: %v", err)
	}
	d.Fail = nil
	finish(t, h)
	unmount(t, f)
}

// Concurrent fsyncs share indexes.
func TestFsyncsShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := blank(t)
		f := mount(t, d, tape.FSOptions{})
		d.Fail = func(call string) error {
			if call == "filemark" {
				time.Sleep(time.Second)
			}
			return nil
		}
		results := make(chan error)
		for i := range 100 {
			go func() {
				n, err := f.Root().Create(fmt.Sprint(i))
				if err == nil {
					err = n.Fsync(t.Context())
				}
				results <- err
			}()
		}
		for range 100 {
			if err := <-results; err != nil {
				t.Error(err)
			}
		}
		if g := f.Status().Generation; g > 4 {
			t.Errorf("100 concurrent fsyncs took %d indexes", g-1)
		}
		unmount(t, f)
	})
}

// Over the budget nothing returns success without its index, closes fall back, and
// unmounting still works.
func TestIndexBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := blank(t)
		const budget = 60 << 10
		f := mount(t, d, tape.FSOptions{IndexBudget: budget, Policy: syncpolicy.Policy{OnClose: true}})
		var refused, granted int
		n, err := f.Root().Create("file")
		if err != nil {
			t.Fatal(err)
		}
		for range 60 {
			if err := n.SetXAttr("k", []byte("v")); err != nil {
				t.Fatal(err)
			}
			before := f.Status().Generation
			start := time.Now()
			switch err := n.Fsync(t.Context()); {
			case err == nil:
				granted++
				if f.Status().Generation == before {
					t.Fatal("fsync returned success without an index")
				}
			case errors.Is(err, syscall.ENOSPC):
				refused++
				if waited := time.Since(start); waited > time.Minute {
					t.Errorf("refused after %v", waited)
				}
			default:
				t.Fatal(err)
			}
		}
		if granted == 0 || refused == 0 || f.Status().Pace != syncpolicy.Exhausted {
			t.Errorf("%d granted, %d refused, %v", granted, refused, f.Status().Pace)
		}
		write(t, f.Root(), "closed", []byte("x")) // a close does not wait, nor fail
		unmount(t, f)
		if s := f.Status(); s.IndexBytes > budget {
			t.Errorf("indexes took %d of %d bytes", s.IndexBytes, budget)
		}
		again := mount(t, d, tape.FSOptions{})
		if got := content(t, child(t, again.Root(), "closed")); string(got) != "x" {
			t.Errorf("%q", got)
		}
		unmount(t, again)
	})
}

// A full tape refuses more data with ENOSPC; what was taken before is there.
func TestMountedTapeFillsUp(t *testing.T) {
	d := blank(t, 0, 400<<10)
	f := mount(t, d, tape.FSOptions{Buffer: 50 << 10})
	rng := rand.New(rand.NewPCG(1, 1))
	kept := map[string][]byte{}
	var full error
	for i := 0; full == nil; i++ {
		name, data := fmt.Sprint(i), noise(rng, 10000)
		h := begin(t, f.Root(), name, nil)
		full = h.Write(t.Context(), data, 0)
		if full == nil {
			kept[name] = data
		}
		if err := h.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		h.Close()
	}
	if !errors.Is(full, syscall.ENOSPC) || len(kept) < 25 {
		t.Fatalf("%v after %d files", full, len(kept))
	}
	unmount(t, f)
	again := mount(t, d, tape.FSOptions{})
	for name, want := range kept {
		if got := content(t, child(t, again.Root(), name)); !bytes.Equal(got, want) {
			t.Errorf("%s differs", name)
		}
	}
	checkInOrder(t, again)
	unmount(t, again)
}

// Reads and writes go on while an index is written: they take turns with its
// records.
func TestReadsAndWritesDuringAnIndex(t *testing.T) {
	d := blank(t)
	f := mount(t, d, tape.FSOptions{})
	data := noise(rand.New(rand.NewPCG(2, 2)), 20000)
	for i := range 600 {
		write(t, f.Root(), fmt.Sprint("small", i), []byte("x"))
	}
	write(t, f.Root(), "old", data) // the last in the index
	if err := f.Sync(t.Context(), syncpolicy.Manual, false); err != nil {
		t.Fatal(err)
	}
	const slow = 5 * time.Millisecond
	var begun sync.Once
	writing := make(chan struct{})
	d.Fail = func(call string) error {
		if call == "write" || call == "filemark" {
			begun.Do(func() { close(writing) })
			time.Sleep(slow)
		}
		return nil
	}
	write(t, f.Root(), "new", []byte("x"))
	done := make(chan error, 1)
	start := time.Now()
	go func() { done <- f.Sync(t.Context(), syncpolicy.Manual, false) }()
	<-writing
	if got := content(t, child(t, f.Root(), "old")); !bytes.Equal(got, data) {
		t.Error("old differs")
	}
	write(t, f.Root(), "meanwhile", make([]byte, 30000))
	if err := child(t, f.Root(), "old").Truncate(10); err != nil {
		t.Fatal(err)
	}
	select {
	case <-done:
		t.Error("the index came first: a read or a write waited for it")
	default:
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if took := time.Since(start); took < 50*slow {
		t.Errorf("the index took %v: nothing was tested", took)
	}
	generation := f.Status().Generation
	unmount(t, f)
	checkOldLength(t, d, generation, len(data))
}

// checkOldLength makes sure that an index holds the tree as it was when it was
// begun, whatever was done while it was written.
func checkOldLength(t *testing.T, d *faketape.Tape, generation uint64, want int) {
	t.Helper()
	tp, err := tape.Open(t.Context(), d, "tape")
	if err != nil {
		t.Fatal(err)
	}
	ix, err := tp.At(t.Context(), generation)
	if err != nil {
		t.Fatal(err)
	}
	for name, n := range ix.All() {
		if name == "/old" && (n.File.Length != uint64(want) || n.File.Extents[0].ByteCount != uint64(want)) {
			t.Errorf("the index has %d and %d bytes of a file that had %d when it was begun", n.File.Length, n.File.Extents[0].ByteCount, want)
		}
		if name == "/meanwhile" {
			t.Errorf("the index has a file that was made later")
		}
	}
}

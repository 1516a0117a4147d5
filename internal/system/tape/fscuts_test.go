package tape_test

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cairn"
	"cairn/internal/policy/syncpolicy"
	"cairn/internal/system/tape"
	"cairn/internal/testkit/faketape"
	"cairn/ltfs"
)

var cuts = flag.Int("cuts", 100, "power cuts of a mounted tape to look at")

// promise is what a call that returned said to be on tape: from this change of the
// medium on, this generation holds exactly these files.
type promise struct {
	change     int
	generation uint64
	files      map[string][]byte
	by         string
}

// mountedWork uses a mounted tape at random under a policy and notes every
// promise: of fsync, of a sync on request, of a close under close-sync, and of
// unmounting.
func mountedWork(t *testing.T, seed uint64, o tape.FSOptions) (*faketape.Tape, []promise) {
	t.Helper()
	w := &worker{t: t, rng: rand.New(rand.NewPCG(seed, 9)), d: blank(t), o: o, model: map[string][]byte{}, open: map[string]*tape.Handle{}}
	w.promises = []promise{{w.d.Changes(), 1, map[string][]byte{}, "format"}}
	for range 2 {
		w.f = mount(t, w.d, o)
		for range 20 + w.rng.IntN(20) {
			w.step()
		}
		for name := range maps.Clone(w.open) {
			w.close(name)
		}
		unmount(t, w.f)
		w.note("unmount")
	}
	return w.d, w.promises
}

type worker struct {
	t        *testing.T
	rng      *rand.Rand
	d        *faketape.Tape
	f        *tape.FS
	o        tape.FSOptions
	model    map[string][]byte
	open     map[string]*tape.Handle
	promises []promise
}

func (w *worker) note(by string) {
	w.promises = append(w.promises, promise{w.d.Changes(), w.f.Status().Generation, maps.Clone(w.model), by})
}

func (w *worker) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *worker) close(name string) {
	w.t.Helper()
	w.must(w.open[name].Flush(w.t.Context()))
	if w.o.Policy.OnClose {
		w.note("close")
	}
	w.open[name].Close()
	delete(w.open, name)
}

func (w *worker) step() {
	name := fmt.Sprintf("f%d", w.rng.IntN(5))
	h := w.open[name]
	_, there := w.model[name]
	switch k := w.rng.IntN(20); {
	case !there:
		w.open[name] = begin(w.t, w.f.Root(), name, nil)
		w.model[name] = []byte{}
	case h == nil && k < 3:
		w.must(w.f.Root().Remove(name, false))
		delete(w.model, name)
	case h == nil && k < 6:
		to := fmt.Sprintf("f%d", w.rng.IntN(5))
		if w.open[to] != nil || to == name {
			return
		}
		w.must(w.f.Root().Rename(name, w.f.Root(), to, false))
		w.model[to] = w.model[name]
		delete(w.model, name)
	case h == nil:
		again, err := child(w.t, w.f.Root(), name).Open(true, k < 12)
		w.must(err)
		w.open[name] = again
		if k < 12 {
			w.model[name] = []byte{}
		}
	case k < 13:
		w.write(h, name)
	case k < 16:
		w.close(name)
	case k < 18:
		w.must(h.Node().Fsync(w.t.Context()))
		w.note("fsync")
	default:
		w.must(w.f.Sync(w.t.Context(), syncpolicy.Manual, false))
		w.note("sync")
	}
}

func (w *worker) write(h *tape.Handle, name string) {
	have := w.model[name]
	data, off := noise(w.rng, 1+w.rng.IntN(12000)), len(have)
	if w.rng.IntN(3) == 0 {
		off = w.rng.IntN(len(have) + 500)
	}
	w.must(h.Write(w.t.Context(), data, uint64(off)))
	grown := make([]byte, max(len(have), off+len(data)))
	copy(grown, have)
	copy(grown[off:], data)
	w.model[name] = grown
}

// Power is cut after every change of the medium, and inside it, under each policy:
// the tape opens, can be repaired where its end is torn, and holds what every call
// that had returned promised; then it can be mounted and written to again.
func TestPowerCutsKeepPromises(t *testing.T) {
	closing := syncpolicy.Policy{OnClose: true}
	rules := &ltfs.Policy{MaxSize: 9000, Names: []string{"f1", "f3"}}
	ways := []tape.FSOptions{{}, {Policy: syncpolicy.Default()}, {Policy: closing}, {Policy: closing, Rules: rules}, {Rules: rules}, {Fsync: tape.FsyncIncremental}, {Policy: closing, Fsync: tape.FsyncIncremental, Rules: rules}}
	looked, told := 0, 0
	for seed := uint64(0); looked < *cuts; seed++ {
		way := ways[seed%uint64(len(ways))]
		way.Buffer = 30000
		d, promises := mountedWork(t, seed, way)
		told += len(promises)
		examineCut(t, d.Cut(d.Changes(), false), promises, fmt.Sprintf("seed %d, after all", seed)) // every generation
		// In the short run every cut of a recording is as likely as any other.
		stride := max(1, d.Changes()*2*len(ways) / *cuts)
		for n := promises[0].change + int(seed)%stride; n <= d.Changes() && looked < *cuts; n += stride {
			for _, torn := range []bool{false, true} {
				looked++
				what := fmt.Sprintf("seed %d (%v, fsync %v, rules %v), %d of %d changes, torn %v", seed, way.Policy, way.Fsync, way.Rules != nil, n, d.Changes(), torn)
				examineCut(t, d.Cut(n, torn), promisesAt(promises, n), what)
				if t.Failed() {
					t.Fatalf("stopped after %d cuts", looked)
				}
			}
		}
	}
	t.Logf("%d cuts, %d promises", looked, told)
}

// promisesAt are the last promise before a change, which the newest generation has
// to keep, and an earlier one: every generation stays.
func promisesAt(promises []promise, change int) (kept []promise) {
	last := 0
	for i, p := range promises {
		if p.change <= change {
			last = i
		}
	}
	return []promise{promises[last], promises[change%(last+1)]}
}

func examineCut(t *testing.T, d *faketape.Tape, kept []promise, what string) {
	t.Helper()
	tp, err := tape.Open(t.Context(), d, "tape")
	if err != nil {
		t.Errorf("%s: %v", what, err)
		return
	}
	check := func(what string) {
		for _, p := range kept {
			checkPromise(t, tp, p, what)
		}
	}
	check(what)
	f, err := tape.NewFS(t.Context(), tp, tape.FSOptions{})
	if err != nil {
		if _, err := tp.Recover(t.Context(), false, "c", now); err != nil {
			t.Errorf("%s: recovery: %v", what, err)
			return
		}
		check(what + ", after recovery")
		if f, err = tape.NewFS(t.Context(), tp, tape.FSOptions{}); err != nil {
			t.Errorf("%s: mounting after recovery: %v", what, err)
			return
		}
	}
	write(t, f.Root(), "later", []byte("later"))
	unmount(t, f)
	again, err := tape.Open(t.Context(), d, "tape")
	if err != nil {
		t.Errorf("%s: afterwards: %v", what, err)
		return
	}
	if problems, err := again.Check(t.Context(), true); err != nil || len(problems) > 0 {
		t.Errorf("%s: afterwards: %v, %v", what, problems, err)
	}
}

// checkPromise compares the promised generation with what was promised.
func checkPromise(t *testing.T, tp *tape.Tape, p promise, what string) {
	t.Helper()
	if tp.Index().Generation < p.generation {
		t.Errorf("%s: generation %d was opened, %s promised %d", what, tp.Index().Generation, p.by, p.generation)
		return
	}
	ix, err := tp.At(t.Context(), p.generation)
	if err != nil {
		t.Errorf("%s: generation %d, promised by %s: %v", what, p.generation, p.by, err)
		return
	}
	f, err := tape.NewFS(t.Context(), tp, tape.FSOptions{Index: ix})
	if err != nil {
		t.Errorf("%s: %v", what, err)
		return
	}
	if names := files(ix); len(names) != len(p.files) {
		t.Errorf("%s: generation %d holds %v, %s promised %d files", what, p.generation, names, p.by, len(p.files))
		return
	}
	for name, want := range p.files {
		if got := content(t, child(t, f.Root(), name)); !bytes.Equal(got, want) {
			t.Errorf("%s: %s of generation %d differs from what %s promised", what, name, p.generation, p.by)
		}
	}
}

// Every call of the drive fails once while a mounted tape is in use: whoever was
// told yes was told the truth, nothing that was written is lost, and at the end
// everything is on tape.
func TestMountSurvivesEveryDriveError(t *testing.T) {
	for name, o := range map[string]tape.FSOptions{"data partition": {}, "incremental": {Fsync: tape.FsyncIncremental}, "both partitions": {Rules: &ltfs.Policy{MaxSize: 10000, Names: []string{"1", "4"}}}} {
		t.Run(name, func(t *testing.T) { surviveEveryError(t, o) })
	}
}

func surviveEveryError(t *testing.T, o tape.FSOptions) {
	o.Policy, o.Buffer = syncpolicy.Default(), 30000
	for fail := 1; ; fail++ {
		reached := false
		synctest.Test(t, func(t *testing.T) {
			d := blank(t)
			f := mount(t, d, o)
			var calls atomic.Int64
			d.Fail = func(call string) error {
				if calls.Add(1) == int64(fail) {
					return &cairn.Error{Op: call, Kind: cairn.KindIO}
				}
				return nil
			}
			refused := useMounted(t, f)
			if err := f.Close(t.Context()); err != nil {
				t.Errorf("call %d failed: unmounting: %v", fail, err)
			}
			reached = calls.Load() >= int64(fail)
			if !reached && refused > 0 {
				t.Errorf("%d errors without a fault", refused)
			}
			d.Fail = nil
			again := mount(t, d, tape.FSOptions{})
			for i := range 6 {
				if got := content(t, child(t, again.Root(), fmt.Sprint(i))); !bytes.Equal(got, bytes.Repeat([]byte{byte(i)}, 9000)) {
					t.Errorf("call %d failed: file %d differs (%d bytes)", fail, i, len(got))
				}
			}
			if problems, err := again.Tape().Check(t.Context(), true); err != nil || len(problems) > 0 {
				t.Errorf("call %d failed: %v, %v", fail, problems, err)
			}
			unmount(t, again)
		})
		if !reached || t.Failed() {
			t.Logf("%d calls", fail)
			return
		}
	}
}

// useMounted writes six files and asks for syncs; it tells how many calls failed,
// and tries those again that a program would.
func useMounted(t *testing.T, f *tape.FS) (refused int) {
	t.Helper()
	try := func(call func() error) {
		for range 5 {
			if call() == nil {
				return
			}
			refused++
			time.Sleep(time.Second)
		}
		t.Error("it fails for ever")
	}
	for i := range 6 {
		h := begin(t, f.Root(), fmt.Sprint(i), nil)
		try(func() error { return h.Write(t.Context(), bytes.Repeat([]byte{byte(i)}, 9000), 0) })
		switch i % 3 {
		case 0:
			try(func() error { return h.Node().Fsync(t.Context()) })
			try(func() error { _, err := h.Node().Read(t.Context(), make([]byte, 9000), 0); return err })
		case 1:
			try(func() error { return f.Sync(t.Context(), syncpolicy.Manual, false) })
		}
		try(func() error { return h.Flush(t.Context()) })
		h.Close()
	}
	return refused
}

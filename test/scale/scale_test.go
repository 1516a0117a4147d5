//go:build linux

package scale_test

import (
	"context"
	"fmt"
	"iter"
	"os"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"cairn"
	"cairn/internal/work/prune"
	"cairn/internal/work/replicate"
)

// size of the made-up places.
type size struct{ datasets, versions int }

var (
	small = size{400, 500}
	full  = size{10_000, 1_000}
)

func sizes() size {
	if isFull() {
		return full
	}
	return small
}

func isFull() bool { return os.Getenv("CAIRN_SCALE") == "full" }

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// madeUp is a place whose listing is made as it is read: every dataset holds
// versions from first to last, ten minutes apart. It counts what is destroyed.
type madeUp struct {
	size
	names     []string // of versions
	last      int
	made      *cairn.Listing // when set, the only dataset
	destroyed atomic.Int64
}

func newPlace(s size, last int) *madeUp {
	m := &madeUp{size: s, last: last}
	for i := range s.versions + 1 {
		m.names = append(m.names, "@zrepl_"+epoch.Add(time.Duration(i)*10*time.Minute).Format("20060102_150405_000"))
	}
	return m
}

// List implements cairn.Lister.
func (m *madeUp) List(ctx context.Context, q cairn.Query) iter.Seq2[*cairn.Listing, error] {
	return func(yield func(*cairn.Listing, error) bool) {
		for d := range m.datasets {
			if ctx.Err() != nil {
				yield(nil, ctx.Err())
				return
			}
			if m.made != nil {
				yield(m.made, nil)
				return
			}
			l := m.make(d)
			if !yield(l, nil) {
				return
			}
		}
	}
}

func (m *madeUp) make(d int) *cairn.Listing {
	l := &cairn.Listing{Dataset: cairn.Dataset{Name: fmt.Sprintf("tank/data/%05d", d), Kind: cairn.KindVolume}}
	l.Versions = make([]cairn.Version, m.last)
	for i := range l.Versions {
		l.Versions[i] = cairn.Version{VersionID: cairn.VersionID{Name: m.names[i], GUID: cairn.GUID(d<<20 + i + 1)},
			Order: uint64(i + 1), Created: epoch.Add(time.Duration(i) * 10 * time.Minute)}
	}
	return l
}

// Destroy implements cairn.Destroyer.
func (m *madeUp) Destroy(_ context.Context, _ string, ids []cairn.VersionID) ([]error, error) {
	m.destroyed.Add(int64(len(ids)))
	return make([]error, len(ids)), nil
}

func (m *madeUp) Send(context.Context, cairn.Step, []cairn.Format) (*cairn.Stream, error) {
	return nil, cairn.KindSpace // planning is what is measured: every dataset fails at its first step
}

func (m *madeUp) Receive(context.Context, *cairn.Stream, cairn.ReceiveOptions) (cairn.Received, error) {
	return cairn.Received{}, cairn.KindSpace
}

func (m *madeUp) Abort(context.Context, string) error { return nil }

func (m *madeUp) endpoint() *cairn.Endpoint {
	return &cairn.Endpoint{Info: cairn.Info{Place: "made up"}, Lister: m, Sender: m, Receiver: m, Destroys: m}
}

// cost is what a piece of work took.
type cost struct {
	cpu  time.Duration
	heap uint64 // highest seen beyond what was there before, in bytes
}

// measure runs fn; with a collection target as a daemon with little memory has it.
func measure(t *testing.T, fn func()) cost {
	t.Helper()
	defer debug.SetGCPercent(debug.SetGCPercent(100))
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	before, peak := m.HeapInuse, m.HeapInuse
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				runtime.ReadMemStats(&m)
				peak = max(peak, m.HeapInuse)
			}
		}
	}()
	from := cpuTime(t)
	fn()
	c := cost{cpu: cpuTime(t) - from}
	close(stop)
	<-done
	c.heap = peak - before
	t.Logf("%.2f CPU s, %.1f MiB of heap", c.cpu.Seconds(), float64(c.heap)/(1<<20))
	return c
}

func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// within checks the budgets at full size; at small size a part of the memory, so
// that holding a whole side is seen there too.
func (c cost) within(t *testing.T, cpu time.Duration) {
	t.Helper()
	memory := uint64(128 << 20)
	if !isFull() {
		memory /= 8 // one side of the small place takes 25 MiB when it is held
	}
	if isFull() && c.cpu > cpu {
		t.Errorf("took %s of CPU, at most %s is allowed", c.cpu, cpu)
	}
	if c.heap > memory {
		t.Errorf("held %d MiB, at most %d are allowed", c.heap>>20, memory>>20)
	}
}

// Planning a run in which nothing is to be done.
func TestPlanNothingToDo(t *testing.T) {
	s := sizes()
	c := measure(t, func() {
		r, err := replicate.Run(t.Context(), replicate.Options{Sender: newPlace(s, s.versions).endpoint(), Receiver: newPlace(s, s.versions).endpoint(), Filter: cairn.All, Owner: "job"})
		if err != nil || len(r.Datasets) != s.datasets || r.Datasets[s.datasets-1].State != replicate.UpToDate {
			t.Error(err)
		}
	})
	c.within(t, 10*time.Second)
}

// Planning a run in which every dataset is one version behind.
func TestPlanAllOneBehind(t *testing.T) {
	s := sizes()
	c := measure(t, func() {
		r, _ := replicate.Run(t.Context(), replicate.Options{Sender: newPlace(s, s.versions).endpoint(), Receiver: newPlace(s, s.versions-1).endpoint(), Filter: cairn.All, Owner: "job", Steps: 2})
		if len(r.Datasets) != s.datasets {
			t.Errorf("%d datasets", len(r.Datasets))
		}
		for _, d := range r.Datasets {
			if len(d.Attempts) != 1 || len(d.Attempts[0].Steps) != 1 || d.ErrorKind != "space" {
				t.Fatalf("%+v", d)
			}
		}
	})
	c.within(t, 10*time.Second)
}

var rules = []cairn.KeepRule{
	{Type: "not_replicated"}, {Type: "last_n", Count: 12},
	{Type: "grid", Regex: "^zrepl_", Grid: "1x1h(keep=all) | 24x1h | 14x1d"}, {Type: "regex", Regex: "^zrepl_", Negate: true},
}

// Pruning the sender by what the receiver has; a preview and then the run.
func TestPrune(t *testing.T) {
	s := sizes()
	place := newPlace(s, s.versions)
	o := prune.Options{Target: place.endpoint(), Side: prune.Sender, Peer: newPlace(s, s.versions-1).endpoint(), Filter: cairn.All, Rules: rules, Owner: "job", Each: func(prune.DatasetReport) {}}
	var preview, run *prune.Report
	c := measure(t, func() {
		var err error
		if preview, err = prune.Preview(t.Context(), o); err != nil {
			t.Error(err)
		}
	})
	c.within(t, 10*time.Second)
	c = measure(t, func() {
		var err error
		if run, err = prune.Run(t.Context(), o); err != nil {
			t.Error(err)
		}
	})
	c.within(t, 10*time.Second)
	if preview.Destroyed != run.Destroyed || int64(run.Destroyed) != place.destroyed.Load() || run.Destroyed < s.datasets*s.versions/2 {
		t.Errorf("preview %d, run %d, destroyed %d", preview.Destroyed, run.Destroyed, place.destroyed.Load())
	}
}

// One dataset with a very long history. The budget holds for the whole verb.
func TestPruneLongHistory(t *testing.T) {
	n := 10_000
	if isFull() {
		n = 100_000
	}
	place := newPlace(size{1, n}, n)
	peer := newPlace(size{1, n}, n-1)
	place.made, peer.made = place.make(0), peer.make(0)
	o := prune.Options{Target: place.endpoint(), Side: prune.Sender, Peer: peer.endpoint(), Filter: cairn.All, Rules: rules, Owner: "job", Each: func(prune.DatasetReport) {}}
	c := measure(t, func() {
		if r, err := prune.Run(t.Context(), o); err != nil || r.Destroyed < n/2 {
			t.Error(r, err)
		}
	})
	c.within(t, 100*time.Millisecond)
}

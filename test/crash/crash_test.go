package crash_test

import (
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"runtime/debug"
	"sync/atomic"
	"testing"

	"cairn/internal/system/volume"
	"cairn/internal/testkit/fakedisk"
)

var (
	seeds   = flag.Int("seeds", 0, "number of workloads; 0: few, or 300 with CAIRN_SCALE=full")
	samples = flag.Int("samples", 0, "random outcomes of random cuts, in all; 0: 50, or 10,000 with CAIRN_SCALE=full")
	from    = flag.Uint64("from", 1, "first seed")
	seed    = flag.Uint64("seed", 0, "only this workload")
	cutFlag = flag.Int("cut", -1, "with -seed: only this cut")
	subset  = flag.Uint64("subset", 0, "with -cut: only this outcome")
	length  = flag.Int("length", 40, "operations of a workload")
)

// TestMain trades memory for time: nearly all that a crashed disk needs is garbage
// after it.
func TestMain(m *testing.M) {
	debug.SetGCPercent(300)
	m.Run()
}

// full tells that this is the run that takes its time.
func full() bool { return os.Getenv("CAIRN_SCALE") == "full" }

// workloads is how many seeds a test runs: quick ones in the default run, one in
// share of all in the full one.
func workloads(quick, share int) int {
	switch {
	case *seeds > 0:
		return max(1, *seeds/share)
	case full():
		return 300 / share
	}
	return quick
}

// killed is the outcome of a cut in which only the process dies.
const killed = fakedisk.Subset(math.MaxUint64)

// outcomes says with which outcomes each cut is tried of a log with that many
// entries.
type outcomes func(entries int) func(pos int) []fakedisk.Subset

// always tries the loss of everything that was not durable, the death of the
// process alone, and n others.
func always(n int) outcomes {
	return func(int) func(int) []fakedisk.Subset {
		return func(pos int) []fakedisk.Subset {
			list := []fakedisk.Subset{fakedisk.Nothing, killed}
			for i := range n {
				list = append(list, fakedisk.Subset(i+1+pos%7)) // from Everything on
			}
			return list
		}
	}
}

// prefixes tries every prefix of the log: with all that was not durable, without
// it, and with the process dead and the power on; and n random parts of it at random
// cuts.
func prefixes(seed uint64, n int) outcomes {
	return func(entries int) func(int) []fakedisk.Subset {
		rng := rand.New(rand.NewPCG(seed, 0x5a3))
		at := map[int][]fakedisk.Subset{}
		for range n {
			cut := rng.IntN(entries + 1)
			at[cut] = append(at[cut], 2+fakedisk.Subset(rng.Uint64N(1<<20)))
		}
		return func(pos int) []fakedisk.Subset {
			return append([]fakedisk.Subset{fakedisk.Nothing, fakedisk.Everything, killed}, at[pos]...)
		}
	}
}

// single tries one outcome of one cut.
func single(cut int, what fakedisk.Subset) outcomes {
	return func(int) func(int) []fakedisk.Subset {
		return func(pos int) []fakedisk.Subset {
			if pos != cut {
				return nil
			}
			return []fakedisk.Subset{what}
		}
	}
}

// failure is a cut that came out wrong.
type failure struct {
	w    workload
	cut  int // -1: while the power was on
	what fakedisk.Subset
	err  error
	log  string // what the disk saw before the cut
}

func (f *failure) String() string {
	where := "while the power was on"
	if f.cut >= 0 {
		where = fmt.Sprintf("cut %d, outcome %d", f.cut, f.what)
	}
	return fmt.Sprintf("%s: %v\nvolume of %d sectors, active %d, segments of %d bytes; operations:\n%slast entries of the log:\n%s",
		where, f.err, f.w.sectors, f.w.active, f.w.segment, list(f.w.ops), f.log)
}

// replay is the command that shows the failure again.
func (f *failure) replay() string {
	s := fmt.Sprintf("go test ./test/crash -run TestCuts -length %d -seed %d", *length, f.w.seed)
	if f.cut >= 0 {
		s += fmt.Sprintf(" -cut %d -subset %d", f.cut, f.what)
	}
	return s
}

// try runs a workload and its cuts; nil when all came out right.
func try(w workload, faults volume.Fault, tried outcomes) (*failure, int) {
	l, err := w.run(faults)
	if err != nil {
		return &failure{w: w, cut: -1, err: err, log: tail(l.disk.Log(), l.disk.Len())}, 0
	}
	return l.cuts(tried)
}

// cuts checks what the power leaves at each entry of the log.
func (l *live) cuts(tried outcomes) (*failure, int) {
	count := 0
	l.h.finish()
	r := l.disk.Replay()
	list := tried(l.disk.Len())
	for {
		for _, what := range list(r.Pos()) {
			count++
			err := error(nil)
			if what == killed {
				err = l.checkKilled(r.Kill(), r.Pos())
			} else {
				err = l.check(r.Crash(what), r.Pos())
			}
			if err != nil {
				return &failure{w: l.w, cut: r.Pos(), what: what, err: err, log: tail(l.disk.Log(), r.Pos())}, count
			}
		}
		if !r.Next() {
			return nil, count
		}
	}
}

func tail(log []fakedisk.Entry, pos int) string {
	s := ""
	for i := max(0, pos-30); i < min(pos+3, len(log)); i++ {
		mark := "  "
		if i == pos {
			mark = "> "
		}
		s += fmt.Sprintf("%s%5d %v\n", mark, i, log[i])
	}
	return s
}

// shorten leaves out what the failure does not need: operations, then nestings.
func shorten(f *failure, faults volume.Fault) *failure {
	tries := 0
	for size := len(f.w.ops) / 2; size > 0; size /= 2 {
		for at := 0; at+size <= len(f.w.ops) && tries < 60; {
			w := f.w
			w.ops = append(append([]op(nil), w.ops[:at]...), w.ops[at+size:]...)
			tries++
			if shorter, _ := try(w, faults, always(2)); shorter != nil {
				f = shorter
			} else {
				at += size
			}
		}
	}
	return f
}

// Every prefix of every workload's log comes out right, and so do random parts of
// what was not durable.
func TestCuts(t *testing.T) {
	n, all := workloads(2, 1), *samples
	if all == 0 && full() {
		all = 10000
	} else if all == 0 {
		all = 50
	}
	var total atomic.Int64
	if *seed > 0 {
		tried := prefixes(*seed, 0)
		if *cutFlag >= 0 {
			tried = single(*cutFlag, fakedisk.Subset(*subset))
		}
		if f, _ := try(draw(*seed, *length), 0, tried); f != nil {
			t.Fatal(f)
		}
		return
	}
	t.Run("all", func(t *testing.T) {
		for s := *from; s < *from+uint64(n); s++ {
			t.Run(fmt.Sprintf("seed=%d", s), func(t *testing.T) {
				t.Parallel()
				f, disks := try(draw(s, *length), 0, prefixes(s, (all+n-1)/n))
				total.Add(int64(disks))
				if f != nil {
					t.Fatalf("%v\nshortened: %v\nreplay: %s", f, shorten(f, 0), f.replay())
				}
			})
		}
	})
	t.Logf("%d workloads, %d crashed disks, %d or more of them with a random part of what was not durable", n, total.Load(), all)
}

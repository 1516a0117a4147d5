package crash_test

import (
	"flag"
	"fmt"
	"os"
	"testing"

	"cairn/internal/system/volume"
	"cairn/internal/testkit/fakedisk"
)

var (
	seeds   = flag.Int("seeds", 0, "number of workloads; 0: 3, or 50 with CAIRN_SCALE=full")
	from    = flag.Uint64("from", 1, "first seed")
	seed    = flag.Uint64("seed", 0, "only this workload")
	cutFlag = flag.Int("cut", -1, "with -seed: only this cut")
	subset  = flag.Int64("subset", -1, "with -cut: only this outcome")
	subsets = flag.Int("subsets", 0, "random outcomes of each cut; 0: 1, or 4 with CAIRN_SCALE=full")
	length  = flag.Int("length", 40, "operations of a workload")
)

// scale gives the sizes that the flags leave open.
func scale() (workloads, outcomes int) {
	workloads, outcomes = 3, 1
	if os.Getenv("CAIRN_SCALE") == "full" {
		workloads, outcomes = 50, 4
	}
	if *seeds > 0 {
		workloads = *seeds
	}
	if *subsets > 0 {
		outcomes = *subsets
	}
	return workloads, outcomes
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

// try runs a workload and every cut of it; nil when all came out right.
func try(w workload, faults volume.Fault, outcomes int, cuts func(cut int) bool) (*failure, int) {
	l, err := w.run(faults)
	if err != nil {
		return &failure{w: w, cut: -1, err: err, log: tail(l.disk.Log(), l.disk.Len())}, 0
	}
	return l.cuts(outcomes, cuts)
}

// cuts checks what the power leaves at every entry of the log that was chosen.
func (l *live) cuts(outcomes int, chosen func(cut int) bool) (*failure, int) {
	count := 0
	r := l.disk.Replay()
	for {
		if chosen == nil || chosen(r.Pos()) {
			for n := range fakedisk.Subset(outcomes + 1) {
				what := fakedisk.Nothing
				if n > 0 {
					what = n + fakedisk.Subset(r.Pos()%7) // from Everything on
				}
				if *subset >= 0 && chosen != nil {
					what = fakedisk.Subset(*subset)
				}
				count++
				if err := l.check(r.Crash(what), r.Pos()); err != nil {
					return &failure{w: l.w, cut: r.Pos(), what: what, err: err, log: tail(l.disk.Log(), r.Pos())}, count
				}
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
func shorten(f *failure, faults volume.Fault, outcomes int) *failure {
	tries := 0
	for size := len(f.w.ops) / 2; size > 0; size /= 2 {
		for at := 0; at+size <= len(f.w.ops) && tries < 60; {
			w := f.w
			w.ops = append(append([]op(nil), w.ops[:at]...), w.ops[at+size:]...)
			tries++
			if shorter, _ := try(w, faults, outcomes, nil); shorter != nil {
				f = shorter
			} else {
				at += size
			}
		}
	}
	return f
}

// Every cut of every workload comes out right.
func TestCuts(t *testing.T) {
	workloads, outcomes := scale()
	first := *from
	var cuts func(int) bool
	if *seed > 0 {
		first, workloads = *seed, 1
		if *cutFlag >= 0 {
			cuts = func(cut int) bool { return cut == *cutFlag }
		}
	}
	total := 0
	for s := first; s < first+uint64(workloads); s++ {
		t.Run(fmt.Sprintf("seed=%d", s), func(t *testing.T) {
			f, n := try(draw(s, *length), 0, outcomes, cuts)
			total += n
			switch {
			case f != nil && cuts != nil:
				t.Fatal(f)
			case f != nil:
				t.Fatalf("%v\nshortened: %v\nreplay: %s", f, shorten(f, 0, outcomes), f.replay())
			}
		})
	}
	t.Logf("%d workloads, %d crashed disks", workloads, total)
}

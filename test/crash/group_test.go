package crash_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"cairn"
	"cairn/internal/system/volume"
	"cairn/internal/testkit/fakedisk"
)

// groupsDir is where the records of group captures lie on a disk with two volumes.
const groupsDir = "groups"

// pair is two volumes on one disk, under way. Their operations take turns, but for
// group captures, and for what is nested.
type pair struct {
	disk    *fakedisk.Disk
	a, b    *live
	ops     []pairOp
	groups  []*groupMade
	crossed int // group captures that a write of each volume met
}

// pairOp is an operation on one of the volumes, or a group capture: then a write to
// the first volume and one to the second happen, one after the other, before call
// number at of it.
type pairOp struct {
	op
	second, group bool
}

func (o pairOp) String() string {
	if o.group {
		return fmt.Sprintf("group, before call %d write %d+%d to both", o.at, o.first, o.count)
	}
	return fmt.Sprintf("%s: %v", map[bool]string{false: "a", true: "b"}[o.second], o.op)
}

// groupMade is a group capture that was reported as done.
type groupMade struct{ a, b *version }

func drawPair(seed uint64, n int) (workload, []pairOp) {
	w := draw(seed, n)
	rng := rand.New(rand.NewPCG(seed, 0x92))
	var ops []pairOp
	for _, o := range w.ops {
		ops = append(ops, pairOp{op: o, second: rng.IntN(2) == 0})
		if rng.IntN(4) == 0 {
			ops = append(ops, pairOp{group: true, op: op{first: o.first, count: max(1, o.count), at: rng.IntN(24)}})
		}
	}
	return w, ops
}

func newPair(w workload, ops []pairOp, faults volume.Fault) (*pair, error) {
	p := &pair{disk: w.disk(), ops: ops}
	p.a = &live{w: w, faults: faults, disk: p.disk, h: newHistory(w.sectors), dir: "a"}
	p.b = &live{w: w, faults: faults, disk: p.disk, h: newHistory(w.sectors), dir: "b"}
	err := errors.Join(p.disk.Mkdir("a"), p.disk.Mkdir("b"), p.disk.Mkdir(groupsDir), p.disk.SyncDir("."))
	if err == nil {
		err = p.a.create()
	}
	if err == nil {
		err = p.b.create()
	}
	return p, err
}

func (p *pair) run() error {
	for i, o := range p.ops {
		l := p.a
		if o.second {
			l = p.b
		}
		var err error
		if o.group {
			err = p.group(i, o)
		} else {
			err = l.do(o.op)
		}
		if err != nil {
			return fmt.Errorf("live, operation %d, %v: %w", i, o, err)
		}
	}
	return nil
}

// group captures both, while a write to the first and then one to the second come
// in between.
func (p *pair) group(i int, o pairOp) error {
	write := op{kind: opWrite, first: o.first, count: o.count}
	var ta, tb *task
	var began atomic.Bool
	done := make(chan struct{})
	start := func() {
		if began.CompareAndSwap(false, true) {
			p.disk.OnCall(nil)
			ta = p.a.perform(write)
			tb = p.b.perform(write)
			close(done)
		}
	}
	var calls atomic.Int32
	p.disk.OnCall(func(fakedisk.Call) error {
		if int(calls.Add(1)-1) == o.at {
			go start()
			select {
			case <-done:
			case <-time.After(50 * time.Millisecond): // it waits for the capture
			}
		}
		return nil
	})
	outer, err := p.capture(fmt.Sprintf("@g%d", i))
	start()
	<-done
	if err != nil {
		return err
	}
	if err := errors.Join(p.a.settle([]*task{&outer[0], ta}), p.b.settle([]*task{&outer[1], tb})); err != nil {
		return err
	}
	return p.oneInstant(outer, ta, tb)
}

// capture gives the group capture as a task of each volume.
func (p *pair) capture(name string) ([]task, error) {
	tasks := make([]task, 2)
	begin := p.disk.Len()
	type outcome struct {
		made []cairn.Version
		err  error
	}
	ended := make(chan outcome, 1)
	go func() {
		made, err := volume.CaptureGroup(context.Background(), p.disk.Sub(groupsDir), name, []*volume.Volume{p.a.v, p.b.v})
		ended <- outcome{made, err}
	}()
	select {
	case out := <-ended:
		if out.err != nil {
			return nil, out.err
		}
		for i := range tasks {
			tasks[i] = task{op: op{kind: opCapture}, span: span{begin, p.disk.Len()}, name: name, made: out.made[i]}
		}
		return tasks, nil
	case <-time.After(30 * time.Second):
		return nil, errors.New("it hangs")
	}
}

// oneInstant: when the later write, to the second volume, is in its snapshot, then
// the earlier one is in the other's.
func (p *pair) oneInstant(outer []task, ta, tb *task) error {
	g := &groupMade{p.a.find(outer[0].made.VersionID), p.b.find(outer[1].made.VersionID)}
	p.groups = append(p.groups, g)
	if ta.op.count == 0 || tb.op.count == 0 {
		return nil
	}
	if g.b.content[tb.op.first] != tb.id {
		return nil
	}
	p.crossed++
	for s := ta.op.first; s < ta.op.first+ta.op.count; s++ {
		if g.a.content[s] != ta.id {
			return fmt.Errorf("%s holds the later write and not, in sector %d of the other volume, the earlier one", g.a.id.Name, s)
		}
	}
	return nil
}

func (l *live) find(id cairn.VersionID) *version {
	for _, v := range l.h.versions {
		if v.id == id {
			return v
		}
	}
	panic("a version that was made is not in the model")
}

// cuts cuts the power at every entry of the log.
func (p *pair) cuts(tried outcomes) (disks int, err error) {
	p.a.h.finish()
	p.b.h.finish()
	list := tried(p.disk.Len())
	for r := p.disk.Replay(); ; {
		for _, what := range list(r.Pos()) {
			if what == killed {
				continue
			}
			disks++
			err := errors.Join(p.a.check(r.Crash(what), r.Pos()), p.b.check(r.Crash(what), r.Pos()), p.together(r.Crash(what), r.Pos()))
			if err != nil {
				return disks, fmt.Errorf("cut %d, outcome %d: %w\n%s", r.Pos(), what, err, tail(p.disk.Log(), r.Pos()))
			}
		}
		if !r.Next() {
			return disks, nil
		}
	}
}

// together: of each group that was not touched since, both volumes have the version
// or none has; so it is whichever is opened first.
func (p *pair) together(disk *fakedisk.Disk, cut int) error {
	order := []*live{p.a, p.b}
	if cut%2 == 0 {
		order = []*live{p.b, p.a}
	}
	have := map[*live]*cairn.Listing{}
	for _, l := range order {
		v, err := l.openOn(disk, l.faults, "after the cut")
		if errors.Is(err, cairn.KindNotFound) && !l.h.sizes[0].doneAt(cut) {
			return nil
		}
		if err != nil {
			return err
		}
		have[l] = v.Listing("v", cairn.Want{Versions: true})
	}
	for _, g := range p.groups {
		if g.a.gone.begunAt(cut) || g.b.gone.begunAt(cut) {
			continue
		}
		if a, b := listed(have[p.a], g.a.id.Name), listed(have[p.b], g.b.id.Name); a != b {
			return fmt.Errorf("of group %s the first volume has its version: %v, the second: %v", g.a.id.Name, a, b)
		}
	}
	if a, b := listed(have[p.a], "@g"), listed(have[p.b], "@g"); a != b { // of a group capture that failed
		return fmt.Errorf("the first volume has its version of the group: %v, the second: %v", a, b)
	}
	return nil
}

func listed(l *cairn.Listing, name string) bool {
	return slices.ContainsFunc(l.Versions, func(v cairn.Version) bool { return v.Name == name })
}

// tryPair runs a workload of two volumes and its cuts.
func tryPair(seed uint64, faults volume.Fault, lie func() bool, tried outcomes) (groups, crossed, disks int, err error) {
	w, ops := drawPair(seed, *length/2)
	w.lie = lie
	p, err := newPair(w, ops, faults)
	if err == nil {
		if err = p.run(); err == nil {
			disks, err = p.cuts(tried)
		} else {
			err = fmt.Errorf("%w\n%s", err, tail(p.disk.Log(), p.disk.Len()))
		}
	}
	return len(p.groups), p.crossed, disks, err
}

// Two volumes that are captured together have both versions or neither, of one
// instant, wherever the power is cut.
func TestGroupCuts(t *testing.T) {
	n := workloads(1, 5)
	var groups, crossed, total atomic.Int64
	t.Run("all", func(t *testing.T) {
		for s := *from; s < *from+uint64(n); s++ {
			t.Run(fmt.Sprintf("seed=%d", s), func(t *testing.T) {
				t.Parallel()
				g, c, disks, err := tryPair(s, 0, nil, always(1))
				groups.Add(int64(g))
				crossed.Add(int64(c))
				if total.Add(int64(disks)); err != nil {
					_, ops := drawPair(s, *length/2)
					t.Fatalf("%v\noperations: %v\nreplay: go test ./test/crash -run TestGroupCuts -from %d -seeds 1", err, ops, s)
				}
			})
		}
	})
	t.Logf("%d workloads, %d group captures, %d with writes in between, %d crashed disks", n, groups.Load(), crossed.Load(), total.Load())
}

// failGroup captures a group on a disk whose call number n fails during it; at is -1
// when there was no such call.
func failGroup(seed uint64, n int) (p *pair, at int, err error) {
	w, ops := drawPair(seed, 12)
	for i := range ops {
		ops[i].nested = nil
	}
	p, err = newPair(w, slices.DeleteFunc(ops, func(o pairOp) bool { return o.group }), 0)
	if err == nil {
		err = p.run()
	}
	if err != nil {
		return p, -1, err
	}
	calls, at := 0, -1
	p.disk.OnCall(func(c fakedisk.Call) error {
		if !changes(c.Op) {
			return nil
		}
		if calls++; calls-1 == n {
			at = p.disk.Len()
			return syscall.EIO
		}
		return nil
	})
	begin := p.disk.Len()
	tasks, failure := p.capture("@g")
	p.disk.OnCall(nil)
	for i, l := range []*live{p.a, p.b} {
		if failure != nil {
			l.doubt(&task{op: op{kind: opCapture}, span: span{start: begin}, name: "@g"})
		} else if err := l.settle([]*task{&tasks[i]}); err != nil {
			return p, at, err
		}
	}
	if at < 0 && failure != nil {
		return p, at, failure
	}
	for _, l := range []*live{p.a, p.b} { // goes on, or takes no more writes: either is right
		t := l.perform(op{kind: opWrite, first: w.sectors / 2, count: 8, fua: true})
		done := t.span
		l.doubt(t)
		if t.err == nil {
			c := &l.h.changes[len(l.h.changes)-1]
			c.span, c.durable = done, true
		}
	}
	return p, at, nil
}

// Whichever call fails while a group is captured: both volumes have their version
// or neither, and so it is after the power fails too.
func TestGroupFailingCalls(t *testing.T) {
	step := 4
	if full() {
		step = 1
	}
	for n := 0; ; n += step {
		p, at, err := failGroup(3, n)
		if err != nil {
			t.Fatalf("call %d fails: %v\n%s", n, err, tail(p.disk.Log(), p.disk.Len()))
		}
		from := max(at, 0)
		_, err = p.cuts(func(entries int) func(int) []fakedisk.Subset {
			return func(pos int) []fakedisk.Subset {
				if pos < from {
					return nil
				}
				return []fakedisk.Subset{fakedisk.Nothing, fakedisk.Everything}
			}
		})
		if err != nil {
			t.Fatalf("call %d fails, then the power: %v", n, err)
		}
		if at < 0 {
			t.Logf("every %d. of %d calls failed once", step, n)
			return
		}
	}
}

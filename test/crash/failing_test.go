package crash_test

import (
	"context"
	"fmt"
	"maps"
	"syscall"
	"testing"

	"cairn/internal/system/volume"
	"cairn/internal/testkit/fakedisk"
)

// changes says which calls to the disk can be made to fail here: reads that fail
// cost a snapshot its block, which is another promise.
func changes(op fakedisk.Op) bool {
	switch op {
	case fakedisk.OpOpen, fakedisk.OpRead, fakedisk.OpReadDir, fakedisk.OpStat, fakedisk.OpSeek:
		return false
	}
	return true
}

// runFailing does the workload, without nesting, on a disk whose call number n
// fails. It ends with the first operation that fails; failed is false when there
// was no such call.
func (w workload) runFailing(n int) (l *live, failed bool, err error) {
	l = &live{w: w, disk: fakedisk.New(), h: newHistory(w.sectors)}
	calls := 0
	l.disk.OnCall(func(c fakedisk.Call) error {
		if !changes(c.Op) {
			return nil
		}
		if calls++; calls-1 == n {
			failed = true
			return syscall.EIO
		}
		return nil
	})
	l.h.sizes[0].span = span{0, never}
	if err := volume.Create(context.Background(), l.disk, volume.CreateOptions{Size: w.sectors * sectorSize}); err != nil {
		return l, failed, nil
	}
	l.h.sizes[0].span = span{0, l.disk.Len()}
	if err := l.open(); err != nil {
		return l, failed, nil
	}
	for i, o := range w.ops {
		o.nested = nil
		t := l.perform(o)
		if t.err != nil && failed {
			l.doubt(t)
			return l, true, nil
		}
		if err := l.settle([]*task{t}); err != nil {
			return l, failed, fmt.Errorf("operation %d, %v: %w", i, o, err)
		}
	}
	return l, failed, nil
}

// doubt enters an operation that failed: it may have happened, or not.
func (l *live) doubt(t *task) {
	h := l.h
	t.span.end = never
	switch t.op.kind {
	case opWrite, opZero, opDiscard:
		c := change{span: t.span, first: t.op.first, count: t.op.count, value: map[int64]uint32{}}
		for s := c.first; s < c.first+c.count; s++ {
			c.value[s] = t.id
		}
		h.record(c)
	case opCapture:
		v := &version{sectors: h.size, content: maps.Clone(h.now), made: t.span, named: t.span}
		v.id.Name = t.name
		h.add(v)
	case opBookmark, opDegrade:
		b := &version{order: t.of.order, sectors: t.of.sectors, content: t.of.content, made: t.of.made, named: t.span}
		b.id.Name, b.id.GUID = t.name, t.of.id.GUID
		h.add(b)
		if t.op.kind == opDegrade {
			t.of.gone, t.of.heir = t.span, b
		}
	case opDestroy:
		for _, v := range append(t.also, t.of) {
			v.gone = t.span
		}
	case opResize:
		l.resized(t.span, t.op.first)
	case opRollback:
		if t.of != nil {
			l.settleRollback(t)
		}
	}
}

// Whichever call to the disk fails, and the power with it: what was promised
// before stands.
func TestFailingCalls(t *testing.T) {
	workloads, outcomes := scale()
	total := 0
	for s := *from; s < *from+uint64(workloads); s++ {
		t.Run(fmt.Sprintf("seed=%d", s), func(t *testing.T) {
			w := draw(s, *length)
			for n := 0; ; n++ {
				l, failed, err := w.runFailing(n)
				if err != nil {
					t.Fatalf("call %d fails: %v\n%s", n, err, tail(l.disk.Log(), l.disk.Len()))
				}
				l.disk.OnCall(nil)
				r := l.disk.Replay()
				r.Seek(l.disk.Len())
				for what := range fakedisk.Subset(outcomes + 2) {
					total++
					if err := l.check(r.Crash(what), r.Pos()); err != nil {
						t.Fatalf("call %d fails, then the power, outcome %d: %v\noperations:\n%s%s", n, what, err, list(w.ops), tail(l.disk.Log(), l.disk.Len()))
					}
				}
				if !failed {
					return
				}
			}
		})
	}
	t.Logf("%d workloads, %d crashed disks", workloads, total)
}

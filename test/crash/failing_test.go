package crash_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync/atomic"
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
// fails. It ends with the first operation that fails; at is the place in the log
// of the call, -1 when there was none.
func (w workload) runFailing(n int) (l *live, at int, err error) {
	l = &live{w: w, faults: w.faults, disk: w.disk(), h: newHistory(w.sectors)}
	calls, flush := 0, false
	at = -1
	l.disk.OnCall(func(c fakedisk.Call) error {
		if !changes(c.Op) {
			return nil
		}
		if calls++; calls-1 == n {
			at, flush = l.disk.Len(), c.Op == fakedisk.OpSync && c.Name == "head"
			return syscall.EIO
		}
		return nil
	})
	l.h.sizes[0].span = span{0, never}
	if err := volume.Create(context.Background(), l.disk, volume.CreateOptions{Size: w.sectors * sectorSize}); err != nil {
		return l, at, nil
	}
	l.h.sizes[0].span = span{0, l.disk.Len()}
	if err := l.open(); err != nil {
		return l, at, nil
	}
	for i, o := range w.ops {
		o.nested = nil
		t := l.perform(o)
		if o.kind >= opReopen {
			t.err, t.bad = errors.Join(t.err, t.bad), nil // it could not be opened
		}
		if t.err != nil && at >= 0 {
			l.doubt(t)
			if t.op.kind == opCapture {
				err = l.checkStill()
			}
			if err == nil && flush && l.dev.Flush(context.Background()) == nil && o.kind != opReopen {
				err = fmt.Errorf("operation %d, %v: a flush failed, and the next one claims success", i, o)
			}
			return l, at, err
		}
		if err := l.settle([]*task{t}); err != nil {
			return l, at, fmt.Errorf("operation %d, %v: %w", i, o, err)
		}
	}
	return l, at, nil
}

// checkStill looks at the change sets of the volume as it goes on after a capture
// that failed.
func (l *live) checkStill() error {
	blocks := l.h.blocks()
	a := &after{l: l, w: l.w, h: l.h, cut: l.disk.Len(), disk: l.disk, v: l.v, dev: l.dev, blocks: blocks, now: map[int64]uint32{}}
	err := readBlocks(l.dev.ReadAt, blocks, l.dev.Size()/sectorSize, func(p []byte) error {
		for s, sector := range sectorsOf(p, blocks) {
			if id, _ := unstamp(sector, s); id != 0 {
				a.now[s] = id
			}
		}
		return nil
	})
	for _, v := range l.h.present() {
		if err == nil && v.id.GUID != 0 { // not the one that failed
			err = a.checkChange(v, nil)
		}
	}
	return err
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
		v := &version{order: 1 << 62, sectors: h.size, content: maps.Clone(h.now), made: t.span, named: t.span}
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
	n := workloads(1, 20)
	first, step := *from, 1
	if !full() && *seeds == 0 { // the quick run takes a few of the calls of one workload with marks
		first, step = 5, 6
	}
	var total atomic.Int64
	t.Run("all", func(t *testing.T) {
		for s := first; s < first+uint64(n); s++ {
			t.Run(fmt.Sprintf("seed=%d", s), func(t *testing.T) {
				t.Parallel()
				disks, err := draw(s, *length).failEach(step)
				if total.Add(int64(disks)); err != nil {
					t.Fatal(err)
				}
			})
		}
	})
	t.Logf("%d workloads, %d crashed disks", n, total.Load())
}

// failEach runs the workload once for every step-th call, which fails then.
func (w workload) failEach(step int) (disks int, err error) {
	for n := 0; ; n += step {
		l, at, err := w.runFailing(n)
		if err != nil {
			return disks, fmt.Errorf("call %d fails: %w\n%s", n, err, tail(l.disk.Log(), l.disk.Len()))
		}
		l.disk.OnCall(nil)
		more, err := l.checkSince(max(at, 0), 1)
		if disks += more; err != nil {
			return disks, fmt.Errorf("call %d fails, then the power: %w\noperations:\n%s", n, err, list(w.ops))
		}
		if at < 0 {
			return disks, nil
		}
	}
}

// checkSince cuts the power soon after the entry, and at the end of the log.
func (l *live) checkSince(at, outcomes int) (disks int, err error) {
	l.h.finish()
	for r := l.disk.Replay(); ; {
		if end := r.Pos() == l.disk.Len(); end || r.Pos() >= at && r.Pos() < at+8 {
			for n := range fakedisk.Subset(outcomes + 1) {
				what := n + fakedisk.Subset(r.Pos()%2)*n
				disks++
				if err := l.check(r.Crash(what), r.Pos()); err != nil {
					return disks, fmt.Errorf("cut %d, outcome %d: %w\n%s", r.Pos(), what, err, tail(l.disk.Log(), r.Pos()))
				}
			}
			if end {
				return disks, nil
			}
		}
		r.Next()
	}
}

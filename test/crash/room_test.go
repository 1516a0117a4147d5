package crash_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"cairn"
	"cairn/internal/system/volume"
	"cairn/internal/system/volume/catalog"
)

// runOutOfRoom does the workload, without nesting, on a disk that has room for
// little more from the given operation on. gave counts the snapshots given up.
func (w workload) runOutOfRoom(from int) (l *live, gave int, err error) {
	w.ops = append([]op(nil), w.ops...)
	for i := range w.ops {
		w.ops[i].nested = nil
	}
	head := w
	head.ops = w.ops[:from]
	if l, err = head.run(w.faults); err != nil {
		return l, 0, err
	}
	free, total, err := l.disk.Space()
	if err != nil {
		return l, 0, err
	}
	l.disk.SetCapacity(total - free + 96<<10)
	for i, o := range w.ops[from:] {
		t := l.perform(o)
		if t.bad != nil {
			return l, gave, fmt.Errorf("operation %d, %v: %w", from+i, o, t.bad)
		}
		given, err := l.settleGivenUp(t)
		if gave += given; err == nil && t.err != nil {
			err = l.settleFull(t)
		} else if err == nil {
			err = l.settle([]*task{t})
		}
		if err != nil {
			return l, gave, fmt.Errorf("operation %d, %v: %w", from+i, o, err)
		}
	}
	return l, gave, nil
}

// settleGivenUp enters the snapshots that the engine gave up for room: from the
// oldest on, each a bookmark of the same name now, and never below two.
func (l *live) settleGivenUp(t *task) (int, error) {
	log, err := catalog.Open(l.disk)
	if err != nil {
		return 0, err
	}
	st := log.State()
	if err := log.Close(); err != nil {
		return 0, err
	}
	given := 0
	for _, v := range l.h.snapshots() {
		r, is := st.Find("#" + v.id.Name[1:])
		if _, still := st.Find(v.id.Name); still || !is || r.GUID != v.id.GUID {
			continue
		}
		b := &version{id: r.ID(), order: v.order, sectors: v.sectors, content: v.content, made: v.made, named: t.span}
		l.h.add(b)
		v.gone, v.heir = t.span, b
		given++
	}
	if left := len(l.h.snapshots()); given > 0 && left < volume.DefaultKeepAtLeast {
		return given, fmt.Errorf("%d snapshots given up, %d left", given, left)
	}
	return given, nil
}

// settleFull enters an operation that failed for want of room. It may only when
// nothing more may be given up, and only a change of the head can be half done.
func (l *live) settleFull(t *task) error {
	if !errors.Is(t.err, cairn.KindSpace) {
		return t.err
	}
	if left := len(l.h.snapshots()); left > volume.DefaultKeepAtLeast && t.changes() {
		return fmt.Errorf("%d snapshots are left: %w", left, t.err)
	}
	if !t.changes() {
		return nil
	}
	c := change{span: t.span, first: t.op.first, count: t.op.count, vague: true, value: map[int64]uint32{}}
	old := map[int64]uint32{}
	for s := c.first; s < c.first+c.count; s++ {
		c.value[s], old[s] = t.id, l.h.now[s]
	}
	l.h.record(c)
	p := make([]byte, c.count*sectorSize)
	if err := l.dev.ReadAt(context.Background(), p, c.first*sectorSize); err != nil {
		return err
	}
	err := sameRun("head", p, c.first, func(s int64) []uint32 { return []uint32{old[s], t.id} })
	for i := range c.count {
		if id, _ := unstamp(p[i*sectorSize:(i+1)*sectorSize], c.first+i); id != 0 {
			l.h.now[c.first+i] = id
		} else {
			delete(l.h.now, c.first+i)
		}
	}
	return err
}

// On a full disk no write fails while a snapshot may be given up, and every cut
// comes out right.
func TestOutOfRoom(t *testing.T) {
	n := max(3, workloads(3, 5)) // the first two give nothing up
	var total, gave atomic.Int64
	t.Run("all", func(t *testing.T) {
		for s := *from; s < *from+uint64(n); s++ {
			t.Run(fmt.Sprintf("seed=%d", s), func(t *testing.T) {
				t.Parallel()
				w := draw(s, *length)
				l, given, err := w.runOutOfRoom(len(w.ops) / 4)
				if err != nil {
					t.Fatalf("while the power was on: %v\n%s%s", err, list(w.ops), tail(l.disk.Log(), l.disk.Len()))
				}
				gave.Add(int64(given))
				f, disks := l.cuts(always(1))
				if total.Add(int64(disks)); f != nil {
					t.Fatalf("%v", f)
				}
			})
		}
	})
	t.Logf("%d workloads, %d snapshots given up, %d crashed disks", n, gave.Load(), total.Load())
	if gave.Load() == 0 {
		t.Error("no snapshot was ever given up")
	}
}

package crash_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync/atomic"
	"time"

	"cairn"
	"cairn/internal/mech/blockio"
	"cairn/internal/system/volume"
	"cairn/internal/testkit/fakedisk"
)

// live is a workload under way.
type live struct {
	w      workload
	faults volume.Fault
	disk   *fakedisk.Disk
	v      *volume.Volume
	dev    cairn.BlockDevice
	h      *history
	nextID atomic.Uint32
	dir    string // of its store on the disk; empty: the disk is the store

	covered atomic.Int64 // bytes that the block hash table vouched for

	allowedCut int // allowed is of this cut
	allowed    map[int64][]uint32
}

func (w workload) options(faults volume.Fault, boot string) volume.Options {
	o := volume.Options{Name: "v", SegmentBytes: w.segment, ActiveBytes: w.active, Boot: boot, Faults: faults}
	if w.hashes {
		o.Hashes = &w.hashes
	}
	return o
}

// openOn opens the volume as it is on a disk.
func (l *live) openOn(d *fakedisk.Disk, faults volume.Fault, boot string) (*volume.Volume, error) {
	o := l.w.options(faults, boot)
	if l.dir != "" {
		o.Name, o.Groups = l.dir, d.Sub(groupsDir)
	}
	return volume.Open(context.Background(), l.store(d), o)
}

// store is the folder of the volume's store on a disk.
func (l *live) store(d *fakedisk.Disk) blockio.FS {
	if l.dir == "" {
		return d
	}
	return d.Sub(l.dir)
}

// run makes a volume and does the workload on it. What the engine shows while the
// power is on is checked on the way.
func (w workload) run(faults volume.Fault) (*live, error) {
	l := &live{w: w, faults: faults, disk: w.disk(), h: newHistory(w.sectors)}
	if err := l.create(); err != nil {
		return l, err
	}
	for i, o := range w.ops {
		if err := l.do(o); err != nil {
			return l, fmt.Errorf("live, operation %d, %v: %w", i, o, err)
		}
	}
	return l, nil
}

func (l *live) create() error {
	begin := l.disk.Len()
	if err := volume.Create(context.Background(), l.store(l.disk), volume.CreateOptions{Size: l.w.sectors * sectorSize}); err != nil {
		return err
	}
	l.h.sizes[0].span = span{begin, l.disk.Len()}
	return l.open()
}

func (l *live) open() error {
	v, err := l.openOn(l.disk, l.faults, "first boot")
	if err != nil {
		return err
	}
	l.v, l.dev = v, v.Device()
	return nil
}

// task is an operation that has ended and whose outcome is still to be looked at.
type task struct {
	op   op
	span span
	err  error
	id   uint32        // of what a write wrote
	name string        // of the version it was to make
	made cairn.Version // by a capture
	of   *version      // what it was about
	also []*version
	bad  error // found while it ran
}

// changes tells whether the task changed blocks in its range.
func (t *task) changes() bool { return t.op.kind <= opDiscard && t.op.count > 0 }

// do performs an operation, and the one nested in it at its place.
func (l *live) do(o op) error {
	var inner *task
	var began atomic.Bool
	done := make(chan struct{})
	start := func() {
		if began.CompareAndSwap(false, true) {
			l.disk.OnCall(nil)
			inner = l.perform(*o.nested)
			close(done)
		}
	}
	if o.nested != nil {
		calls := atomic.Int32{}
		l.disk.OnCall(func(c fakedisk.Call) error {
			if n := int(calls.Add(1) - 1); o.nestsAt(n, c) {
				go start()
				select {
				case <-done:
				case <-time.After(50 * time.Millisecond): // it waits for the outer one
				}
			}
			return nil
		})
	}
	outer := l.perform(o)
	tasks := []*task{outer}
	if o.nested != nil {
		start() // when the outer one made too few calls
		<-done
		tasks = append(tasks, inner)
	}
	return l.settle(tasks)
}

// perform does one operation. One that does not end is a failure, not a test that
// does not end.
func (l *live) perform(o op) *task {
	ended := make(chan *task, 1)
	go func() { ended <- l.call(o) }()
	select {
	case t := <-ended:
		return t
	case <-time.After(30 * time.Second):
		return &task{op: o, bad: errors.New("it hangs")}
	}
}

// call makes one operation's calls to the engine.
func (l *live) call(o op) *task {
	ctx := context.Background()
	t := &task{op: o, span: span{start: l.disk.Len()}}
	t.op.count = max(0, min(o.count, l.h.size-o.first))
	if o.kind <= opDiscard && t.op.count == 0 {
		t.span.end = t.span.start
		return t // the volume has shrunk below it
	}
	off, n := t.op.first*sectorSize, t.op.count*sectorSize
	var flags cairn.WriteFlags
	if o.fua {
		flags = cairn.FUA
	}
	switch o.kind {
	case opWrite:
		t.id = l.nextID.Add(1)
		p := make([]byte, n)
		stamp(p, t.op.first, t.id)
		t.err = l.dev.WriteAt(ctx, p, off, flags)
	case opZero:
		t.err = l.dev.WriteZeroes(ctx, off, n, flags|cairn.WriteFlags(o.pick%2)*cairn.MayUnmap)
	case opDiscard:
		t.err = l.dev.Discard(ctx, off, n)
	case opFlush:
		t.err = l.dev.Flush(ctx)
	case opCapture:
		t.name = fmt.Sprintf("@n%d", l.nextID.Add(1))
		t.made, t.err = l.v.Snapshot(ctx, t.name)
	case opResize:
		if l.dev.Size() != o.first*sectorSize {
			t.err = l.v.Resize(ctx, o.first*sectorSize)
		}
	case opReopen, opKill:
		if o.kind == opReopen {
			t.err = errors.Join(l.dev.Close(), l.v.Close())
		}
		if err := l.open(); err != nil {
			t.bad = fmt.Errorf("opening anew: %w", err)
		}
	default:
		l.performOn(ctx, t)
	}
	t.span.end = l.disk.Len()
	return t
}

// performOn is perform for operations on a version.
func (l *live) performOn(ctx context.Context, t *task) {
	from := l.h.snapshots()
	if t.op.kind == opDestroy {
		from = l.h.present()
	}
	if len(from) == 0 {
		return
	}
	v := from[t.op.pick%len(from)]
	t.of = v
	switch t.op.kind {
	case opBookmark, opDegrade:
		t.name = fmt.Sprintf("#b%d", l.nextID.Add(1))
		t.made, t.err = l.v.Bookmark(ctx, v.id, t.name, t.op.kind == opDegrade)
	case opDestroy:
		ids := []cairn.VersionID{v.id}
		if next := from[(t.op.pick+1)%len(from)]; t.op.fua && next != v {
			t.also, ids = []*version{next}, append(ids, next.id)
		}
		var errs []error
		errs, t.err = l.v.Destroy(ctx, ids)
		t.err = errors.Join(append(errs, t.err)...)
	case opRollback:
		l.rollback(ctx, t)
	case opRead:
		t.bad = checkSnapshot(l.v, v, l.h.blocks())
	case opSend:
		t.bad = sendAway(l.v, from, t.op)
	case opVerify:
		t.bad = l.askTable(l.v, v.id, !t.op.fua)
	}
}

func (l *live) rollback(ctx context.Context, t *task) {
	for _, v := range l.h.present() {
		if v.order > t.of.order {
			t.also = append(t.also, v)
		}
	}
	t.err = l.dev.Close()
	err := l.v.Rollback(ctx, t.of.id, t.op.fua)
	l.dev = l.v.Device()
	if len(t.also) > 0 && !t.op.fua {
		if !errors.Is(err, cairn.KindConflict) {
			t.err = errors.Join(t.err, fmt.Errorf("rollback below newer versions: %w", err))
		}
		t.of, t.also = nil, nil // nothing happened
		return
	}
	t.err = errors.Join(t.err, err)
}

// settle looks at what operations that ran side by side left, and enters it into
// the model.
func (l *live) settle(tasks []*task) error {
	before := maps.Clone(l.h.now)
	for _, t := range tasks {
		if t.err != nil {
			return t.err
		}
		if t.bad != nil {
			return t.bad
		}
	}
	for _, t := range tasks {
		if t.changes() {
			if err := l.settleChange(t, tasks, before); err != nil {
				return err
			}
		}
	}
	for _, t := range tasks {
		if err := l.settleOther(t, tasks, before); err != nil {
			return err
		}
	}
	for _, t := range tasks {
		if err := l.checkAround(t.op); err != nil {
			return err
		}
	}
	return nil
}

// values lists what a sector may hold after the tasks: what they write, or what
// was there when they need not have.
func values(tasks []*task, sector int64, before map[int64]uint32, mayBeOld bool) []uint32 {
	var ids []uint32
	old := true
	for _, t := range tasks {
		if t.changes() && sector >= t.op.first && sector < t.op.first+t.op.count {
			ids = append(ids, t.id)
			old = old && t.op.kind == opDiscard
		}
	}
	if old || mayBeOld {
		ids = append(ids, before[sector])
	}
	return ids
}

func (l *live) settleChange(t *task, tasks []*task, before map[int64]uint32) error {
	p := make([]byte, t.op.count*sectorSize)
	if err := l.dev.ReadAt(context.Background(), p, t.op.first*sectorSize); err != nil {
		return err
	}
	if err := sameRun("head", p, t.op.first, func(s int64) []uint32 { return values(tasks, s, before, false) }); err != nil {
		return err
	}
	c := change{span: t.span, first: t.op.first, count: t.op.count, durable: t.op.fua && t.op.kind != opDiscard, value: map[int64]uint32{}}
	seen := map[int64]uint32{}
	for i := range t.op.count {
		s := t.op.first + i
		seen[s], _ = unstamp(p[i*sectorSize:(i+1)*sectorSize], s)
		c.value[s] = t.id
		if seen[s] != 0 {
			c.vague = t.op.kind == opDiscard
		}
	}
	l.h.record(c)
	for s, id := range seen {
		if delete(l.h.now, s); id != 0 {
			l.h.now[s] = id
		}
	}
	return nil
}

func (l *live) settleOther(t *task, tasks []*task, before map[int64]uint32) error {
	h := l.h
	switch t.op.kind {
	case opFlush, opReopen:
		h.flushes = append(h.flushes, t.span)
	case opKill:
		h.kills = append(h.kills, t.span.start)
	case opCapture:
		return l.settleCapture(t, tasks, before)
	case opBookmark, opDegrade:
		if t.of == nil {
			return nil
		}
		b := &version{id: t.made.VersionID, order: t.of.order, sectors: t.of.sectors, content: t.of.content, made: t.of.made, named: t.span}
		h.add(b)
		if t.op.kind == opDegrade {
			t.of.gone, t.of.heir = t.span, b
		}
	case opDestroy:
		for _, v := range append(t.also, t.of) {
			if v != nil {
				v.gone = t.span
			}
		}
	case opResize:
		l.resized(t.span, t.op.first)
	case opRollback:
		l.settleRollback(t)
	}
	return nil
}

func (l *live) settleCapture(t *task, tasks []*task, before map[int64]uint32) error {
	v := &version{id: t.made.VersionID, order: t.made.Order, sectors: t.made.Size / sectorSize, content: map[int64]uint32{}, made: t.span, named: t.span}
	if v.sectors != l.h.size {
		return fmt.Errorf("snapshot of %d sectors, the head has %d", v.sectors, l.h.size)
	}
	blocks := l.h.blocks()
	err := readSnapshot(l.v, v, blocks, func(p []byte) error {
		for s, sector := range sectorsOf(p, blocks) {
			if id, _ := unstamp(sector, s); id != 0 {
				v.content[s] = id
			}
		}
		return same("new snapshot "+v.id.Name, p, blocks, v.sectors, func(s int64) []uint32 { return values(tasks, s, before, true) })
	})
	l.h.add(v)
	return err
}

// resized enters a new size: what a shrinking cuts off is gone at once.
func (l *live) resized(s span, sectors int64) {
	h := l.h
	if sectors < h.size {
		h.record(change{span: s, first: sectors, count: h.size - sectors, durable: true, value: map[int64]uint32{}})
	}
	if sectors != h.size {
		h.size = sectors
		h.sizes = append(h.sizes, sized{s, sectors})
	}
}

func (l *live) settleRollback(t *task) {
	if t.of == nil {
		return
	}
	l.resized(t.span, t.of.sectors)
	for s := range l.h.bySector {
		if s < t.of.sectors {
			l.h.record(change{span: t.span, first: s, count: 1, durable: true, value: map[int64]uint32{s: t.of.content[s]}})
		}
	}
	for _, v := range t.also {
		v.gone = t.span
	}
}

// checkAround compares the head and every snapshot with the model where the
// operation was.
func (l *live) checkAround(o op) error {
	var blocks []int64
	for b := o.first / perBlock; b*perBlock < min(o.first+o.count, l.h.size); b++ {
		blocks = append(blocks, b)
	}
	if o.kind > opDiscard {
		blocks = l.h.blocks()
	}
	for _, v := range l.h.snapshots() {
		if err := checkSnapshot(l.v, v, blocks); err != nil {
			return err
		}
		if err := l.askTable(l.v, v.id, false); err != nil {
			return err
		}
	}
	return checkHead(l.dev, l.h.size, blocks, func(s int64) []uint32 { return []uint32{l.h.now[s]} })
}

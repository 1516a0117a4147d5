package tape

import (
	"context"
	"errors"
	"slices"
	"syscall"
	"time"

	"cairn"
	"cairn/internal/policy/syncpolicy"
	"cairn/ltfs"
)

// act is what the goroutine does next.
type act struct {
	stop   bool
	sync   syncpolicy.Reason
	record bool      // write one record of data
	flush  []*ask    // write all data for them
	next   time.Time // look again then; zero: when woken
}

// run writes records as they fill and indexes as the policy says, until Close.
func (f *FS) run() {
	defer close(f.done)
	for {
		f.mu.Lock()
		a := f.decide(time.Now())
		f.mu.Unlock()
		switch {
		case a.stop:
			return
		case len(a.flush) > 0:
			f.flushData(a.flush)
		case a.sync != syncpolicy.None:
			f.writeIndex(a.sync)
		case a.record:
			if err := f.writeRecord(); err != nil {
				f.attemptFailed(err, nil)
			}
		default:
			f.sleep(a.next)
		}
	}
}

func (f *FS) sleep(until time.Time) {
	var timer <-chan time.Time
	if !until.IsZero() {
		timer = time.After(time.Until(until))
	}
	select {
	case <-f.kick:
	case <-timer:
	case <-f.ctx.Done():
		f.mu.Lock()
		f.ending = true
		f.mu.Unlock()
	}
}

// decide answers who need not wait any longer and says what to do. The caller
// holds mu.
func (f *FS) decide(now time.Time) act {
	if f.broken != nil {
		f.answer(f.asks, f.broken)
		f.asks = nil
	}
	if f.ending {
		f.stopped = true
		f.answer(f.asks, f.fail("sync tape", cairn.KindUnavailable, "it is unmounted"))
		f.asks = nil
		return act{stop: true}
	}
	f.notePace()
	if data := f.takeDataAsks(); len(data) > 0 {
		return act{flush: data}
	}
	f.dismissSatisfied()
	s := syncpolicy.State{Dirty: !f.clean(len(f.asks) > 0), Since: f.pending.and(f.risk).Since, LastIndex: f.sync.LastIndex, Failures: f.sync.Failures,
		LastFailure: f.sync.LastFailure, Pace: f.pace()}
	for _, a := range f.asks {
		s.Asks = append(s.Asks, a.Ask)
	}
	d := syncpolicy.Decide(f.opt.Policy, s, now)
	f.dismiss(d)
	a := act{sync: d.Write, next: d.Next}
	if f.broken != nil {
		return act{}
	}
	if f.queued-f.placed >= int64(f.t.label.BlockSize) {
		again := f.sync.LastFailure.Add(syncpolicy.Pause(f.sync.Failures))
		a.record = f.sync.Failures == 0 || !again.After(now)
		if !a.record && (a.next.IsZero() || again.Before(a.next)) {
			a.next = again
		}
	}
	return a
}

// takeDataAsks takes those out of the asks that wait for data alone.
func (f *FS) takeDataAsks() (data []*ask) {
	f.asks = slices.DeleteFunc(f.asks, func(a *ask) bool {
		if a.data {
			data = append(data, a)
		}
		return a.data
	})
	return data
}

// flushData puts everything written so far on tape, without an index.
func (f *FS) flushData(served []*ask) {
	f.mu.Lock()
	f.enqueueAll()
	target := f.queued
	f.mu.Unlock()
	err := f.drain(target)
	if err == nil {
		err = f.t.mover.flush(f.ctx)
	}
	if err != nil {
		f.attemptFailed(err, served)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answer(served, nil)
}

// dismissSatisfied answers those whose changes are on tape.
func (f *FS) dismissSatisfied() {
	f.asks = slices.DeleteFunc(f.asks, func(a *ask) bool {
		if f.clean(a.both) {
			a.answer <- nil
			return true
		}
		return false
	})
}

func (f *FS) dismiss(d syncpolicy.Decision) {
	i := -1
	f.asks = slices.DeleteFunc(f.asks, func(a *ask) bool {
		i++
		switch {
		case d.Let[i]:
			a.answer <- nil
		case d.Refused[i]:
			a.answer <- &cairn.Error{Op: "sync tape", Subject: f.t.subject, Kind: cairn.KindSpace, Err: syscall.ENOSPC,
				Hint: "the budget for indexes is spent; unmounting still writes one"}
		default:
			return false
		}
		return true
	})
}

func (f *FS) answer(asks []*ask, err error) {
	for _, a := range asks {
		a.answer <- err
	}
}

// writeIndex puts everything written so far on tape, then an index of it. What is
// written meanwhile waits in memory; readers take turns with it.
func (f *FS) writeIndex(reason syncpolicy.Reason) {
	f.mu.Lock()
	served := f.asks
	f.asks = nil
	f.enqueueAll()
	target := f.queued
	f.mu.Unlock()
	if err := f.drain(target); err != nil {
		f.attemptFailed(err, served)
		return
	}
	f.settleClosed()
	both := slices.ContainsFunc(served, func(a *ask) bool { return a.both })
	f.mu.Lock()
	if f.clean(false) {
		f.mu.Unlock()
		f.completeIndexPartition(served)
		return
	}
	ix := f.takeIndex(reason)
	f.mu.Unlock()
	f.fillTree()
	if f.incremental(reason, both) {
		if err := f.putIncrement(ix); err != nil {
			f.attemptFailed(err, served)
			return
		}
		f.attemptDone(ix, served, false)
		return
	}
	if err := f.put(ix); err != nil {
		f.attemptFailed(err, served)
		return
	}
	f.noteIndex(ix)
	if both {
		last, err := f.placeAndIndex(ix, reason)
		if err != nil {
			f.attemptFailed(err, served)
			return
		}
		ix = last
	}
	if err := f.t.vouch(f.ctx); err != nil {
		f.attemptFailed(err, served)
		return
	}
	f.attemptDone(ix, served, both)
}

// releaseTime is how soon after the last close of a file its handle ends.
const releaseTime = 50 * time.Millisecond

// settleClosed waits a moment for handles that were just closed by a user. They
// end right behind that, unless others have them in common: then their files are
// open, and the index says so.
func (f *FS) settleClosed() {
	for {
		f.mu.Lock()
		var wait time.Duration
		for h, at := range f.flushed {
			left := releaseTime - time.Since(at)
			if left <= 0 {
				delete(f.flushed, h)
			}
			wait = max(wait, left)
		}
		progress := f.progress
		f.mu.Unlock()
		if wait <= 0 {
			return
		}
		select {
		case <-progress:
		case <-time.After(wait):
		case <-f.ctx.Done():
			return
		}
	}
}

// completeIndexPartition is for those who want the index that is at the end of the
// data partition in the other one too.
func (f *FS) completeIndexPartition(served []*ask) {
	ix := f.newestIndex()
	err := f.atEnd()
	if err == nil {
		err = f.fullAtEnd(ix)
	}
	if err == nil {
		ix, err = f.placeAndIndex(ix, syncpolicy.Unmount)
	}
	if err == nil {
		err = f.t.vouch(f.ctx)
	}
	if err != nil {
		f.attemptFailed(err, served)
		return
	}
	f.attemptDone(ix, served, true)
}

// takeIndex begins a generation: the tree as it is now, as far as it is on tape.
// The caller holds mu.
func (f *FS) takeIndex(reason syncpolicy.Reason) *ltfs.Index {
	f.header.Generation++ // also after a failure: a number means one thing
	ix := f.header
	ix.Comment, ix.UpdateTime = f.comment, stamp()
	ix.Creator = reason.String()
	if f.opt.Creator != nil {
		ix.Creator = f.opt.Creator(reason.String())
	}
	ix.Root = f.beginTree()
	x := ltfs.Extension{IndexBytes: uint64(f.sync.IndexBytes), OpenCount: len(f.partial)}
	for n := range f.partial {
		x.Open = append(x.Open, n.path())
	}
	slices.Sort(x.Open)
	ix.SetExtension(x)
	f.pending, f.risk = f.pending.and(f.risk), Risk{}
	f.epoch++
	if f.buffered > 0 {
		f.risk = Risk{Bytes: f.buffered, Since: time.Now()}
		for n := range f.partial {
			if len(n.drafts) > 0 {
				n.epoch = f.epoch
				f.risk.Files++
			}
		}
	}
	f.writing = true
	return &ix
}

// put writes a generation to the end of the data partition.
func (f *FS) put(ix *ltfs.Index) error {
	if err := f.atEnd(); err != nil {
		return err
	}
	if err := f.beforeData(); err != nil {
		return err
	}
	t := f.t
	data := t.ends[t.label.DataPart]
	ix.Previous = ltfs.Location{}
	if data.last != nil {
		ix.Previous = data.last.Self
	}
	return t.writeIndex(f.ctx, ix, t.label.DataPart, data.end)
}

// noteIndex enters a generation that is at the end of the data partition now.
func (f *FS) noteIndex(ix *ltfs.Index) {
	end := f.t.ends[f.t.label.DataPart]
	size := int64((end.end - 1 - ix.Self.Block) * f.t.label.BlockSize)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.takeHeader(ix)
	f.sync.lastSize, f.sync.complete, f.increments = size, false, increments{}
	f.sync.IndexBytes += size
	f.notePace()
}

// notePace says in the log when the budget for indexes begins to slow them down,
// and when it is spent. The caller holds mu.
func (f *FS) notePace() {
	if pace := f.pace(); pace > f.saidPace {
		f.saidPace = pace
		f.log.Warn("the budget for indexes is being spent", "tape", f.t.subject, "pace", pace.String(), "spent", f.sync.IndexBytes, "budget", f.sync.Budget)
	}
}

// takeHeader makes a generation that is on tape the newest one. The caller holds
// mu.
func (f *FS) takeHeader(ix *ltfs.Index) {
	f.header.Self, f.header.Previous, f.header.UpdateTime, f.header.Creator, f.header.Comment, f.header.Unknown = ix.Self, ix.Previous, ix.UpdateTime, ix.Creator, ix.Comment, ix.Unknown
	f.sync.Generation, f.sync.Location, f.sync.LastIndex = ix.Generation, ix.Self, time.Now()
	f.indexed = ix.Root
}

func (f *FS) attemptDone(ix *ltfs.Index, served []*ask, both bool) {
	room, rerr := f.t.mover.capacity(f.ctx, f.t.number[f.t.label.DataPart])
	f.mu.Lock()
	defer f.mu.Unlock()
	if rerr == nil {
		f.noteRoom(room)
	}
	if f.sync.Failures > 0 {
		f.log.Info("the index is written again", "tape", f.t.subject, "generation", ix.Generation, "failures", f.sync.Failures)
	}
	f.takeHeader(ix)
	f.sync.complete = both
	f.sync.Failures, f.sync.Err = 0, nil
	f.pending, f.writing = Risk{}, false
	f.answer(served, nil)
	f.answer(f.joined, nil)
	f.joined = nil
}

// attemptFailed records a failure. What was not written stays, and is tried again.
func (f *FS) attemptFailed(err error, served []*ask) {
	if worn(err) {
		f.condemn(err, served)
		return
	}
	f.endUnknown = true
	resync := f.atEnd()
	f.mu.Lock()
	defer f.mu.Unlock()
	if kind := cairn.KindOf(resync); f.broken == nil && (kind == cairn.KindDamaged || kind == cairn.KindConflict) {
		f.broken, err = resync, resync
	}
	if f.sync.Failures == 0 || f.broken != nil {
		f.log.Warn("the tape could not be written", "tape", f.t.subject, "error", err, "files", f.risk.Files)
	}
	f.failed(err, served)
}

// failed enters a failure and tells everybody who waits. The caller holds mu.
func (f *FS) failed(err error, served []*ask) {
	f.sync.Failures++
	f.sync.LastFailure, f.sync.Err, f.sync.LastErr = time.Now(), err, err
	f.risk, f.pending, f.writing = f.pending.and(f.risk), Risk{}, false
	f.answer(served, err)
	f.answer(f.joined, err)
	f.joined = nil
	f.moved()
}

// atEnd makes sure that the end of the data partition is known.
func (f *FS) atEnd() error {
	if !f.endUnknown {
		return nil
	}
	if err := f.findEnd(); err != nil {
		return err
	}
	f.endUnknown = false
	return nil
}

// findEnd looks where the data partition ends after a failure: what was being
// written may stand there in part, and is left behind; the partition only grows.
// When it ends before what was written, data is lost that was believed to be on
// tape, and nothing may be written any more.
func (f *FS) findEnd() error {
	t := f.t
	if err := t.sameVolume(f.ctx); err != nil {
		return err
	}
	end, err := t.mover.seekEnd(f.ctx, t.number[t.label.DataPart])
	if err != nil {
		return err
	}
	data := t.ends[t.label.DataPart]
	if end.Block < data.end {
		return t.fail("write to tape", cairn.KindDamaged, "unmount it, and check it: cairn tape check", "its data partition ends at %d; what was written went up to %d: the drive lost it, or the medium was changed", end.Block, data.end)
	}
	data.extra += end.Block - data.end
	data.end = end.Block
	return nil
}

// sameVolume makes sure, after a failure, that the drive still holds the tape that
// was mounted: another one must not be written to.
func (t *Tape) sameVolume(ctx context.Context) error {
	if t.unnamed { // there is no label to compare
		return nil
	}
	return t.mover.do("read the label of", func() error {
		t.mover.known = false
		_, label, err := t.readLabel(ctx, t.number[t.label.DataPart])
		var format *ltfs.FormatError
		switch {
		case errors.As(err, &format):
			return t.fail("write to tape", cairn.KindConflict, "unmount it, then load the tape that was mounted; what is not on tape is lost", "the drive holds another medium: %v", err)
		case err != nil:
			return err
		case label.VolumeUUID != t.label.VolumeUUID:
			return t.fail("write to tape", cairn.KindConflict, "unmount it, then load the tape that was mounted; what is not on tape is lost", "the drive holds volume %s, mounted is %s", label.VolumeUUID, t.label.VolumeUUID)
		}
		return nil
	})
}

// moved wakes who waits for room in memory. The caller holds mu.
func (f *FS) moved() {
	close(f.progress)
	f.progress = make(chan struct{})
}

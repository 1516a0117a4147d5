package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"cairn"
	"cairn/internal/mech/blockio"
	"cairn/internal/system/volume/catalog"
	"cairn/internal/system/volume/segment"
)

const (
	windowBytes   = 1 << 20 // a request is worked off in windows of this size, others in between
	windowBlocks  = windowBytes / blockSize
	holeBytes     = 1 << 30 // window over a hole, which is preserved without being read
	roomRetryTime = time.Second
)

// inflight keeps two changes of one block apart: between the look-up whether it
// is preserved and the write of the origin nobody else may change it.
type inflight struct {
	cond sync.Cond // on Volume.mu, which guards claims
	held []run
}

func (v *Volume) claim(r run) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for slices.ContainsFunc(v.inflight.held, func(h run) bool {
		return h.first < r.first+r.count && r.first < h.first+h.count
	}) {
		v.inflight.cond.Wait()
	}
	v.inflight.held = append(v.inflight.held, r)
}

func (v *Volume) unclaim(r run) {
	v.mu.Lock()
	defer v.mu.Unlock()
	i := slices.Index(v.inflight.held, r)
	v.inflight.held = slices.Delete(v.inflight.held, i, i+1)
	v.inflight.cond.Broadcast()
}

// errOrigin marks errors of the head itself, as against those of the store.
var errOrigin = errors.New("head")

// writeKind says what a change of the head is.
type writeKind uint8

const (
	zeroing  writeKind = 1 << 0 // the range will read as zeroes
	internal writeKind = 1 << 1 // not a user's: a sealed head takes it, and the caller holds admin
)

// write runs one window's change: what a snapshot needs is preserved, the blocks
// are marked, then apply touches the head. content, if not nil, is what apply would
// write: it may be staged instead.
func (v *Volume) write(ctx context.Context, off, length int64, k writeKind, content []byte, apply func() error) error {
	return v.withRoom(ctx, k, func() error { return v.change(off, length, k, content, apply) })
}

// withRoom does what needs room. Without it snapshots are given up, as the rules
// allow, and it is done again.
func (v *Volume) withRoom(ctx context.Context, k writeKind, do func() error) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		given := v.given.Load()
		err := do()
		if err == nil || blockio.Kind(err) != cairn.KindSpace {
			return err
		}
		if errors.Is(err, errOrigin) && v.state().Store.Origin != "" {
			return err // an adopted head has its room elsewhere
		}
		if !v.makeRoom(k&internal != 0, given) {
			if v.o.OnFull == FailWrites || k&internal != 0 {
				return err // waiting would keep admin, and with it everything that could make room
			}
			if werr := wait(ctx, roomRetryTime); werr != nil {
				return errors.Join(err, werr)
			}
		}
	}
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// mayChange refuses what must not touch the head now, and records that this opening
// changes the store. Callers hold gate.
func (v *Volume) mayChange(off, length int64, k writeKind) error {
	switch {
	case v.closed:
		return errClosed
	case k&internal == 0 && v.state().Head.Sealed:
		return v.sealedError()
	}
	if err := v.inRange(off, length); err != nil {
		return err
	}
	return errors.Join(v.certain(), v.activate())
}

func (v *Volume) change(off, length int64, k writeKind, content []byte, apply func() error) error {
	v.gate.RLock()
	defer v.gate.RUnlock()
	if err := v.mayChange(off, length, k); err != nil {
		return err
	}
	r := blocksOf(off, length)
	v.claim(r)
	defer v.unclaim(r)
	if content != nil {
		if done, err := v.stageWrite(r, content); done || err != nil {
			return err
		}
	}
	if v.stage.Holds(r.first, r.count) {
		if err := v.carryOut(); err != nil {
			return err
		}
	}
	touched := []run{r}
	if k&zeroing != 0 {
		var err error
		if touched, err = v.dataRuns(off, length); err != nil {
			return fmt.Errorf("%w: %w", errOrigin, err)
		}
		if len(touched) == 0 {
			return nil // zeroes already: nothing changes
		}
	}
	if k&zeroing != 0 && v.o.Faults.has(FaultZeroUnpreserved) {
		touched = nil
	}
	if err := v.protect(touched); err != nil {
		return err
	}
	if err := apply(); err != nil {
		return fmt.Errorf("%w: %w", errOrigin, err)
	}
	return nil
}

// dataRuns lists the blocks of the range that are not a hole: only they change when
// the range is zeroed.
func (v *Volume) dataRuns(off, length int64) ([]run, error) {
	var runs []run
	for end := off + length; off < end; {
		start, stop, err := v.head.Data(off)
		if err != nil {
			return nil, err
		}
		if start >= end || stop <= off {
			break
		}
		start, stop = max(start, off), min(stop, end)
		r := blocksOf(start, stop-start)
		if n := len(runs); n > 0 && r.first < runs[n-1].first+runs[n-1].count {
			r = run{r.first + 1, r.count - 1} // two extents share a block
		}
		if r.count > 0 {
			runs = append(runs, r)
		}
		off = stop
	}
	return runs, nil
}

var errClosed = &cairn.Error{Op: "use volume", Kind: cairn.KindUnavailable, Hint: "it was closed; open it again"}

// inRange refuses what leaves the volume. Callers hold gate, which guards size
// against change.
func (v *Volume) inRange(off, length int64) error {
	if off < 0 || length < 0 || off > v.size || length > v.size-off {
		return &cairn.Error{Op: "access volume", Subject: v.o.Name, Kind: cairn.KindInvalid,
			Err: fmt.Errorf("bytes %d to %d lie outside its %d bytes", off, off+length, v.size)}
	}
	return nil
}

// blocksOf is the blocks that the bytes touch.
func blocksOf(off, length int64) run {
	first := uint64(off) / blockSize
	return run{first, (uint64(off+length)+blockSize-1)/blockSize - first}
}

// protect preserves and marks the blocks of the runs, durably, as far as they need
// it. Callers hold gate and a claim of them.
func (v *Volume) protect(runs []run) error {
	preserve, mark := v.admit(runs)
	if len(preserve) == 0 && len(mark) == 0 {
		return nil
	}
	buf := buffers.Get().(*[windowBytes]byte)
	defer buffers.Put(buf)
	req := &request{mark: mark}
	room := buf[:]
	for len(preserve) > 0 {
		var recs []segment.Record
		var err error
		if recs, preserve, room, err = v.readOld(preserve, room); err != nil {
			return err
		}
		req.preserve = append(req.preserve, recs...)
		if len(preserve) > 0 { // the buffer is full
			if err := v.durable(req); err != nil {
				return err
			}
			req, room = &request{}, buf[:]
		}
	}
	return v.durable(req)
}

var buffers = sync.Pool{New: func() any { return new([windowBytes]byte) }}

// admit tells which blocks have to be preserved and which marked. A preserved
// block is marked by that. Blocks under a durable mark enter the change set here.
func (v *Volume) admit(runs []run) (preserve, mark []run) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, r := range runs {
		for b := r.first; b < r.first+r.count; b++ {
			switch {
			case b < v.keep && !v.kept.Has(b):
				preserve = extend(preserve, b)
			case !v.tracking || v.dirty.Has(b):
			case v.marked.Has(b):
				if !v.o.Faults.has(FaultForgetBits) {
					v.dirty.Set(b, 1)
				}
			default:
				mark = extend(mark, b)
			}
		}
	}
	return preserve, mark
}

func extend(runs []run, b uint64) []run {
	if n := len(runs); n > 0 && runs[n-1].first+runs[n-1].count == b {
		runs[n-1].count++
		return runs
	}
	return append(runs, run{b, 1})
}

// readOld reads what the runs hold now into room, until that is full, and gives
// the records, what is left to do and the room left. Zeroes take none.
func (v *Volume) readOld(runs []run, room []byte) (recs []segment.Record, left []run, rest []byte, err error) {
	for len(runs) > 0 {
		r := runs[0]
		hole, err := v.holeAt(r)
		if err != nil {
			return nil, nil, nil, err
		}
		if hole > 0 {
			recs = append(recs, segment.Record{First: r.first, Count: hole, Kind: segment.Zero})
			runs = cut(runs, hole)
			continue
		}
		n := min(r.count, uint64(len(room))/blockSize)
		if n == 0 {
			return recs, runs, room, nil
		}
		p := room[:n*blockSize]
		recs = append(recs, v.readBlocks(r.first, p)...)
		runs, room = cut(runs, n), room[len(p):]
	}
	return recs, nil, room, nil
}

func cut(runs []run, n uint64) []run {
	if runs[0].count == n {
		return runs[1:]
	}
	runs[0] = run{runs[0].first + n, runs[0].count - n}
	return runs
}

// holeAt tells how many blocks from the start of r on are a hole. It asks only
// where asking costs less than reading.
func (v *Volume) holeAt(r run) (uint64, error) {
	if r.count < 16 {
		return 0, nil
	}
	off := int64(r.first) * blockSize
	start, _, err := v.head.Data(off)
	if err != nil {
		return 0, err
	}
	return min(uint64(start-min(start, off))/blockSize, r.count), nil
}

// readBlocks reads whole blocks of the head into p and makes records of them. A
// block that cannot be read becomes lost: that is the snapshot's misfortune, not
// the write's.
func (v *Volume) readBlocks(first uint64, p []byte) []segment.Record {
	n := uint64(len(p)) / blockSize
	bad := map[uint64]bool{}
	if err := v.readHead(p, int64(first)*blockSize); err != nil {
		for i := range n {
			if err := v.readHead(p[i*blockSize:(i+1)*blockSize], int64(first+i)*blockSize); err != nil {
				bad[i] = true
				v.o.Log.Error("a block cannot be read and is lost to its snapshot", "volume", v.o.Name, "block", first+i, "error", err)
			}
		}
	}
	var recs []segment.Record
	for i := range n {
		block := p[i*blockSize : (i+1)*blockSize]
		kind := segment.Data
		switch {
		case bad[i]:
			kind = segment.Lost
		case isZero(block):
			kind = segment.Zero
		}
		last := len(recs) - 1
		if last < 0 || recs[last].Kind != kind {
			recs = append(recs, segment.Record{First: first + i, Kind: kind})
			last++
		}
		recs[last].Count++
		if kind == segment.Data {
			from := (recs[last].First - first) * blockSize
			recs[last].Bytes = p[from : (i+1)*blockSize]
		}
	}
	return recs
}

// readHead fills p from off; what lies behind the end of the head reads as zeroes.
func (v *Volume) readHead(p []byte, off int64) error { return v.readFrom(v.head, p, off) }

// readFrom is readHead by another way to the head.
func (v *Volume) readFrom(head io.ReaderAt, p []byte, off int64) error {
	n, err := head.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	size, serr := v.head.Size()
	if serr != nil || off+int64(n) < size {
		return errors.Join(err, serr)
	}
	clear(p[n:])
	return nil
}

var zeroBlock [blockSize]byte

func isZero(p []byte) bool { return string(p) == string(zeroBlock[:len(p)]) }

// flush makes every write durable that was carried out. A flush that failed once fails for
// good: what it should have written may be gone.
func (v *Volume) flush() error {
	v.syncing.RLock()
	defer v.syncing.RUnlock()
	if e := v.flushErr.Load(); e != nil && !v.o.Faults.has(FaultForgetFlushError) {
		return *e
	}
	if err := v.head.Sync(); err != nil {
		return v.failFlush(err)
	}
	return nil
}

func (v *Volume) failFlush(err error) error {
	sticky := error(&cairn.Error{Op: "flush", Subject: v.o.Name, Kind: cairn.KindIO, Err: err,
		Hint: "writes since the last good flush may be lost; look at the disk, then open the volume again"})
	if !v.flushErr.CompareAndSwap(nil, &sticky) || v.o.Faults.has(FaultForgetFlush) {
		return sticky
	}
	// The next opening finds a head that looks whole.
	cerr := v.commit("failed flush", func(_ *catalog.State, h *catalog.Head) catalog.Edit {
		h.FailedFlush = err.Error() + " at " + v.o.Now().UTC().Format(time.RFC3339)
		return catalog.Edit{}
	})
	if cerr != nil {
		v.o.Log.Error("cannot record that a flush failed", "volume", v.o.Name, "error", cerr)
	}
	return sticky
}

package volume

import (
	"cmp"
	"context"
	"errors"
	"io"
	"iter"
	"slices"
	"sync/atomic"

	"cairn"
	"cairn/internal/system/volume/segment"
)

// Reader reads one snapshot. It holds the snapshot until it is closed, but against
// giving it up for room: then reads fail with KindDegraded.
type Reader struct {
	v     *Volume
	name  string
	size  int64
	start uint64
	head  io.ReaderAt // how it reads the head
	gone  atomic.Bool // given up, or closed
}

// OpenVersion opens a snapshot.
func (v *Volume) OpenVersion(ctx context.Context, id cairn.VersionID) (*Reader, error) {
	if err := ctx.Err(); err != nil {
		return nil, failed("open", v.o.Name+id.Name, err)
	}
	v.mu.Lock() // so that nothing destroys it between the look-up and the entry in readers
	defer v.mu.Unlock()
	rec, err := find(v.state(), id)
	if err == nil && v.doomed[id.Name] {
		err = &cairn.Error{Op: "read", Subject: id.Name, Kind: cairn.KindNotFound, Hint: "it is being destroyed"}
	}
	if err == nil && !id.IsSnapshot() {
		err = &cairn.Error{Op: "read", Subject: id.Name, Kind: cairn.KindDegraded, Hint: "a bookmark has no data; read a snapshot"}
	}
	if err != nil {
		return nil, failed("open", v.o.Name+id.Name, err)
	}
	r := &Reader{v: v, name: id.Name, size: rec.Size, start: rec.Start, head: v.head}
	v.readers[r] = struct{}{}
	return r, nil
}

func (v *Volume) reading(name string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	for r := range v.readers {
		if r.name == name {
			return true
		}
	}
	return false
}

// Size is the snapshot's size in bytes.
func (r *Reader) Size() int64 { return r.size }

// Close releases the snapshot.
func (r *Reader) Close() error {
	r.gone.Store(true)
	r.v.mu.Lock()
	defer r.v.mu.Unlock()
	delete(r.v.readers, r)
	return nil
}

func (r *Reader) check(ctx context.Context, off, length int64) error {
	if off < 0 || length < 0 || off > r.size || length > r.size-off {
		return &cairn.Error{Op: "read", Subject: r.v.o.Name + r.name, Kind: cairn.KindInvalid, Hint: "the range leaves the snapshot"}
	}
	return ctx.Err()
}

// ReadAt fills p from off.
func (r *Reader) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := r.check(ctx, off, int64(len(p))); err != nil {
		return failed("read", r.v.o.Name+r.name, err)
	}
	for len(p) > 0 {
		n := min(len(p), windowBytes-int(off%blockSize))
		err := r.readWindow(p[:n], off)
		if again := r.v.mend(err); again {
			continue
		}
		if errors.Is(err, cairn.KindDamaged) {
			r.v.suspect(r.name, blocksOf(off, int64(n)))
		}
		if err != nil {
			return failed("read", r.v.o.Name+r.name, err)
		}
		p, off = p[n:], off+int64(n)
	}
	return failed("read", r.v.o.Name+r.name, r.v.stack.trim())
}

func (r *Reader) readWindow(p []byte, off int64) error {
	s := &r.v.stack
	s.use.RLock()
	defer s.use.RUnlock()
	if r.gone.Load() {
		return &cairn.Error{Op: "read", Subject: r.name, Kind: cairn.KindDegraded, Hint: "its data was given up for room; a bookmark took its place"}
	}
	first, err := s.find(r.start, blocksOf(off, int64(len(p))))
	if err != nil {
		return err
	}
	for _, piece := range first {
		if err := r.readPiece(piece, p, off); err != nil {
			return err
		}
		if piece.seg != nil || r.v.o.Faults.has(FaultNoSecondLook) {
			continue
		}
		// What the head held may be newer than the snapshot: then it was preserved
		// before it was overwritten, and is found now.
		again, err := s.find(r.start, run{piece.First, piece.Count})
		if err != nil {
			return err
		}
		for _, moved := range again {
			if moved.seg == nil {
				continue
			}
			if err := r.readPiece(moved, p, off); err != nil {
				return err
			}
		}
	}
	return nil
}

// readPiece reads the part of the piece that lies in p, which begins at off.
func (r *Reader) readPiece(x piece, p []byte, off int64) error {
	from, to := int64(x.First)*blockSize, int64(x.First+x.Count)*blockSize
	lo, hi := max(from, off), min(to, off+int64(len(p)))
	if x.seg == nil {
		return r.v.readFrom(r.head, p[lo-off:hi-off], lo)
	}
	if lo == from && hi == to {
		return x.seg.Read(x.Run, p[lo-off:hi-off])
	}
	whole := make([]byte, to-from)
	if err := x.seg.Read(x.Run, whole); err != nil {
		return err
	}
	copy(p[lo-off:hi-off], whole[lo-from:])
	return nil
}

// piece is a run of blocks and where its content is: a segment, or the head.
type piece struct {
	segment.Run
	seg *segment.Segment // nil: the head
}

// find tells where the blocks of a version are whose first interval is start, in
// no particular order. The segments that have some stay open until use is next
// taken alone.
func (s *stack) find(start uint64, r run) ([]piece, error) { return s.look(start, r, true) }

// look is find; what is found is not to be read unless keep is set.
func (s *stack) look(start uint64, r run, keep bool) ([]piece, error) {
	var found []piece
	open := []run{r}
	for _, x := range s.since(start) {
		if len(open) == 0 {
			break
		}
		seg, err := x.get()
		if err != nil {
			return nil, err
		}
		var left []run
		known := len(found)
		for _, o := range open {
			at := o.first
			runs, err := seg.Find(o.first, o.count)
			if err != nil {
				return nil, err
			}
			for _, f := range runs {
				if f.First > at {
					left = append(left, run{at, f.First - at})
				}
				found = append(found, piece{f, seg})
				at = f.First + f.Count
			}
			if end := o.first + o.count; at < end {
				left = append(left, run{at, end - at})
			}
		}
		open = left
		if keep && len(found) > known {
			continue
		}
		if err := x.put(); err != nil {
			return nil, err
		}
	}
	for _, o := range open {
		found = append(found, piece{Run: segment.Run{First: o.first, Count: o.count}})
	}
	return found, nil
}

// extentWindow is how much of a volume one look-up for Extents covers.
const extentWindow = 64 << 20

// Extents tells where data, zeroes and holes are.
func (r *Reader) Extents(ctx context.Context, off, length int64) iter.Seq2[cairn.Extent, error] {
	return func(yield func(cairn.Extent, error) bool) {
		m := merger{yield: yield}
		fail := func(err error) { yield(cairn.Extent{}, failed("read extents of", r.v.o.Name+r.name, err)) }
		if err := r.check(ctx, off, length); err != nil {
			fail(err)
			return
		}
		for end := off + length; off < end; {
			n := min(end-off, extentWindow-off%extentWindow)
			list, err := r.extents(ctx, off, n)
			if r.v.mend(err) {
				continue
			}
			if err != nil {
				fail(err)
				return
			}
			for _, e := range list {
				if !m.add(e) {
					return
				}
			}
			off += n
			if err := r.v.stack.trim(); err != nil {
				fail(err)
				return
			}
		}
		m.flush()
	}
}

func (r *Reader) extents(ctx context.Context, off, length int64) ([]cairn.Extent, error) {
	s := &r.v.stack
	s.use.RLock()
	defer s.use.RUnlock()
	blocks := blocksOf(off, length)
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if r.gone.Load() {
			return nil, &cairn.Error{Op: "read", Subject: r.name, Kind: cairn.KindDegraded}
		}
		found, err := s.look(r.start, blocks, false)
		if err != nil {
			return nil, err
		}
		list, err := r.v.mapPieces(found, off, off+length)
		if err != nil {
			return nil, err
		}
		again, err := s.look(r.start, blocks, false)
		if err != nil {
			return nil, err
		}
		if inHead(again) == inHead(found) {
			return list, nil
		}
	}
}

// inHead counts the blocks that are read from the head. They only become fewer.
func inHead(list []piece) (n uint64) {
	for _, x := range list {
		if x.seg == nil {
			n += x.Count
		}
	}
	return n
}

// mapPieces makes sorted extents of pieces, clipped to [lo, hi).
func (v *Volume) mapPieces(list []piece, lo, hi int64) ([]cairn.Extent, error) {
	var out []cairn.Extent
	for _, x := range list {
		from, to := max(int64(x.First)*blockSize, lo), min(int64(x.First+x.Count)*blockSize, hi)
		switch {
		case x.seg == nil:
			var err error
			if out, err = v.mapHead(out, from, to); err != nil {
				return nil, err
			}
		case x.Kind == segment.Zero:
			out = append(out, cairn.Extent{Offset: from, Length: to - from, Kind: cairn.ExtentZero})
		default:
			out = append(out, cairn.Extent{Offset: from, Length: to - from, Kind: cairn.ExtentData})
		}
	}
	sortExtents(out)
	return out, nil
}

// mapHead appends the extents of the head in [from, to).
func (v *Volume) mapHead(out []cairn.Extent, from, to int64) ([]cairn.Extent, error) {
	for from < to {
		start, end, err := v.head.Data(from)
		if err != nil {
			return nil, err
		}
		if start <= from && end <= from { // behind the head's end
			start, end = to, to
		}
		if start = min(start, to); start > from {
			out = append(out, cairn.Extent{Offset: from, Length: start - from, Kind: cairn.ExtentHole})
		}
		if end = min(end, to); end > start {
			out = append(out, cairn.Extent{Offset: start, Length: end - start, Kind: cairn.ExtentData})
		}
		from = max(start, end)
	}
	return out, nil
}

// merger joins neighbours of one kind.
type merger struct {
	yield func(cairn.Extent, error) bool
	held  cairn.Extent
}

func (m *merger) add(e cairn.Extent) bool {
	if m.held.Length > 0 && m.held.Kind == e.Kind && m.held.End() == e.Offset {
		m.held.Length += e.Length
		return true
	}
	ok := m.flush()
	m.held = e
	return ok
}

func (m *merger) flush() bool {
	if m.held.Length == 0 {
		return true
	}
	ok := m.yield(m.held, nil)
	m.held = cairn.Extent{}
	return ok
}

func sortExtents(list []cairn.Extent) {
	slices.SortFunc(list, func(a, b cairn.Extent) int { return cmp.Compare(a.Offset, b.Offset) })
}

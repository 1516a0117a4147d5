package volume

import (
	"errors"
	"io/fs"
	"sync"
	"sync/atomic"

	"cairn/internal/mech/blockio"
	"cairn/internal/mech/extent"
	"cairn/internal/system/volume/catalog"
	"cairn/internal/system/volume/segment"
)

// stacked is a segment in its place in the stack. Closed ones are opened when
// they are first looked at.
type stacked struct {
	rec  catalog.Segment // as first recorded; Interval and ID never change
	fs   blockio.FS
	id   segment.Identity
	mu   sync.Mutex // guards what follows
	open *segment.Segment
	gone bool // dropped: nothing reads it any more
}

var errDropped = errors.New("the segment is not needed any more")

func (x *stacked) get() (*segment.Segment, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.gone {
		return nil, errDropped
	}
	if x.open != nil {
		return x.open, nil
	}
	f, err := x.fs.Open(numbered(segPrefix, x.rec.ID), false)
	if err != nil {
		return nil, err
	}
	idx, err := x.fs.Open(numbered(indexPrefix, x.rec.ID), false)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, errors.Join(err, f.Close())
	}
	s, err := segment.OpenSealed(f, idx, x.id, x.rec.Length, x.rec.Epoch)
	if idx != nil {
		err = errors.Join(err, idx.Close())
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	x.open = s
	return s, nil
}

func (x *stacked) close() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.gone = true
	if x.open == nil {
		return nil
	}
	return x.open.Close()
}

// stack is the segments of a store in their order in time. A block is read from
// the first segment of a version's intervals that has it. The list is replaced as
// one and never changed.
type stack struct {
	use  sync.RWMutex // shared by each read; alone while segments are dropped
	list atomic.Pointer[[]*stacked]
}

func (s *stack) all() []*stacked {
	if p := s.list.Load(); p != nil {
		return *p
	}
	return nil
}

// since is the part of the stack that a version reads whose first interval is
// start.
func (s *stack) since(start uint64) []*stacked {
	all := s.all()
	out := make([]*stacked, 0, len(all))
	for _, x := range all {
		if x.rec.Interval >= start {
			out = append(out, x)
		}
	}
	return out
}

// push puts a segment on top. Callers hold persist, or are alone.
func (s *stack) push(x *stacked) {
	next := append(append([]*stacked{}, s.all()...), x)
	s.list.Store(&next)
}

// drop takes segments out, waiting for the reads that are under way. Callers hold
// persist.
func (s *stack) drop(ids []uint64) error {
	gone := map[uint64]bool{}
	for _, id := range ids {
		gone[id] = true
	}
	s.use.Lock()
	defer s.use.Unlock()
	var next []*stacked
	var err error
	for _, x := range s.all() {
		if gone[x.rec.ID] {
			err = errors.Join(err, x.close())
			continue
		}
		next = append(next, x)
	}
	s.list.Store(&next)
	return err
}

// union is every block preserved in the intervals from start on.
func (s *stack) union(start uint64) (*extent.Bitmap, error) {
	set := &extent.Bitmap{}
	for _, x := range s.since(start) {
		seg, err := x.get()
		if err != nil {
			return nil, err
		}
		seg.Union(set)
	}
	return set, nil
}

func (s *stack) close() error {
	s.use.Lock()
	defer s.use.Unlock()
	var err error
	for _, x := range s.all() {
		err = errors.Join(err, x.close())
	}
	s.list.Store(nil)
	return err
}

package volume

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sort"
	"sync"
	"sync/atomic"

	"cairn/internal/mech/blockio"
	"cairn/internal/mech/extent"
	"cairn/internal/system/volume/catalog"
	"cairn/internal/system/volume/segment"
)

// stacked is a segment in its place in the stack. A closed one is opened when it
// is looked at, and closed again when too many are.
type stacked struct {
	rec  catalog.Segment // as first recorded; Interval and ID never change
	id   segment.Identity
	in   *stack
	used atomic.Int64 // when it was last looked at, in ticks of the stack

	mu     sync.Mutex       // guards what follows
	open   *segment.Segment // not nil while it takes blocks
	sealed bool             // its index is on disk: it can be opened again
	length int64            // of a sealed one
	epoch  uint64
	pins   int  // look-ups that got it and did not put it back
	gone   bool // dropped: nothing reads it any more
	told   bool // that blocks of it are missing: they are in the stack as lost
}

var errDropped = errors.New("the segment is not needed any more")

// get gives the open segment. What is sealed stays open until it is put back, or
// else until use is next taken alone: callers hold use, or are alone.
func (x *stacked) get() (*segment.Segment, error) {
	x.used.Store(x.in.tick.Add(1))
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.gone {
		return nil, errDropped
	}
	if x.open != nil {
		x.pins++
		return x.open, nil
	}
	s, whole, err := x.load()
	if err != nil {
		return nil, err
	}
	if !whole && !x.told {
		return nil, errors.Join(incomplete{x}, s.Close())
	}
	x.open = s
	x.pins++
	x.in.loaded.Add(1)
	return s, nil
}

// put ends the use of what get gave. Where many segments are open this one is
// closed, unless somebody else uses it: a look-up may go through any number.
func (x *stacked) put() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.pins--
	if x.pins > 0 || x.in.loaded.Load() <= maxLoaded {
		return nil
	}
	return x.close()
}

// load opens the files of a sealed segment, as far as they are there. Callers hold
// mu.
func (x *stacked) load() (s *segment.Segment, whole bool, err error) {
	f, err := x.in.optional(numbered(segPrefix, x.rec.ID))
	if err != nil {
		return nil, false, err
	}
	idx, err := x.in.optional(numbered(indexPrefix, x.rec.ID))
	if err == nil {
		s, whole, err = segment.OpenSealed(f, idx, x.id, x.length, x.epoch)
	}
	if err != nil && f != nil {
		err = errors.Join(err, f.Close())
	}
	return s, whole, err
}

// optional opens a file; nil when it is gone.
func (s *stack) optional(name string) (blockio.File, error) {
	f, err := s.fs.Open(name, false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return f, err
}

// incomplete says that a segment lacks blocks, and that nobody looked yet which.
// Volume.complete answers it.
type incomplete struct{ x *stacked }

func (e incomplete) Error() string { return fmt.Sprintf("segment %d lacks blocks", e.x.rec.ID) }

// rest adds what is left of the segment to the set, whether anybody knows what it
// lacks or not.
func (x *stacked) rest(set *extent.Bitmap) (whole bool, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.open != nil {
		return true, x.open.Union(set)
	}
	s, whole, err := x.load()
	if err != nil {
		return false, err
	}
	return whole, errors.Join(s.Union(set), s.Close())
}

// seal notes that the segment can be closed and opened again. Its index in memory
// gives way to the one on disk.
func (x *stacked) seal(length int64, epoch uint64) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.sealed, x.length, x.epoch = true, length, epoch
	if x.open == nil {
		return nil
	}
	x.in.loaded.Add(1)
	idx, err := x.in.fs.Open(numbered(indexPrefix, x.rec.ID), false)
	if err != nil {
		return err
	}
	return x.open.UseIndex(idx)
}

// unload closes a sealed segment until it is looked at again. Callers hold use
// alone.
func (x *stacked) unload() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.pins = 0
	return x.close()
}

// close closes a sealed segment. Callers hold mu.
func (x *stacked) close() error {
	if !x.sealed || x.open == nil {
		return nil
	}
	s := x.open
	x.open = nil
	x.in.loaded.Add(-1)
	return s.Close()
}

func (x *stacked) drop() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.gone = true
	if x.open == nil {
		return nil
	}
	if x.sealed {
		x.in.loaded.Add(-1)
	}
	return x.open.Close()
}

// stack is the segments of a store in their order in time. A block is read from
// the first segment of a version's intervals that has it. The list is replaced as
// one and never changed.
type stack struct {
	fs     blockio.FS
	early  bool         // broken on purpose, for tests: drop does not wait for reads
	use    sync.RWMutex // shared by each read; alone while segments are dropped or unloaded
	list   atomic.Pointer[[]*stacked]
	tick   atomic.Int64
	loaded atomic.Int64 // sealed segments that are open
}

// maxLoaded bounds the sealed segments that are open, each with two files and some
// kilobytes of memory.
const maxLoaded = 128

// trim closes the sealed segments that were not looked at for longest, down to
// half the bound. Callers hold nothing of the stack.
func (s *stack) trim() error {
	if s.loaded.Load() <= maxLoaded {
		return nil
	}
	s.use.Lock()
	defer s.use.Unlock()
	all := slices.Clone(s.all())
	slices.SortFunc(all, func(a, b *stacked) int { return cmp.Compare(a.used.Load(), b.used.Load()) })
	var err error
	for _, x := range all {
		if s.loaded.Load() <= maxLoaded/2 {
			break
		}
		err = errors.Join(err, x.unload())
	}
	return err
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

// push puts a segment in its place: on top, unless it heals another. Callers hold
// persist, or are alone.
func (s *stack) push(x *stacked) {
	all := s.all()
	at := sort.Search(len(all), func(i int) bool { return catalog.SegmentOrder(all[i].rec, x.rec) > 0 })
	var next []*stacked
	if at == len(all) {
		next = append(all, x) // behind all that earlier lists see of the array
	} else {
		next = slices.Insert(slices.Clone(all), at, x)
	}
	s.list.Store(&next)
}

// drop takes segments out, waiting for the reads that are under way. Callers hold
// persist.
func (s *stack) drop(ids []uint64) error {
	gone := map[uint64]bool{}
	for _, id := range ids {
		gone[id] = true
	}
	if !s.early {
		s.use.Lock()
		defer s.use.Unlock()
	}
	var next []*stacked
	var err error
	for _, x := range s.all() {
		if gone[x.rec.ID] {
			err = errors.Join(err, x.drop())
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
		if err := s.unite(x, set); err != nil {
			return nil, err
		}
		if err := s.trim(); err != nil {
			return nil, err
		}
	}
	return set, nil
}

func (s *stack) unite(x *stacked, set *extent.Bitmap) error {
	s.use.RLock()
	defer s.use.RUnlock()
	seg, err := x.get()
	if err != nil {
		return err
	}
	return errors.Join(seg.Union(set), x.put())
}

func (s *stack) close() error {
	s.use.Lock()
	defer s.use.Unlock()
	var err error
	for _, x := range s.all() {
		err = errors.Join(err, x.drop())
	}
	s.list.Store(nil)
	return err
}

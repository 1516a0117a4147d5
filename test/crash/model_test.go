package crash_test

import (
	"maps"
	"math"
	"slices"

	"cairn"
)

// never is a log position behind every other.
const never = math.MaxInt

// span is the part of the disk's log that an operation made: a cut at start or
// before knows nothing of it, one at end or behind knows it was acknowledged.
type span struct{ start, end int }

func (s span) begunAt(cut int) bool { return s.start < cut }
func (s span) doneAt(cut int) bool  { return s.end <= cut }

// change is one write, zeroing, discard, rollback or shrinking.
type change struct {
	span
	first, count int64 // sectors
	durable      bool  // when it is done
	value        map[int64]uint32
	vague        bool // a discard, which may have left what was there
}

// version is a snapshot or bookmark, now or once.
type version struct {
	id      cairn.VersionID
	order   uint64
	sectors int64
	content map[int64]uint32 // sectors that are not zero
	made    span             // of the snapshot's capture, also for bookmarks made of it later
	named   span             // of this name
	gone    span
	heir    *version // the bookmark that took its place

	rendered []byte // of a snapshot, its content in the blocks of a finished history
}

func (v *version) snapshot() bool { return v.id.IsSnapshot() }

// history is the model: what was done and seen, with the place in the log.
type history struct {
	size     int64            // sectors of the head now
	now      map[int64]uint32 // sectors of the head that are not zero
	changes  []change
	bySector map[int64][]int // changes
	flushes  []span
	sizes    []sized
	versions []*version // by order; bookmarks before their snapshot
	kills    []int
	finished []int64 // once nothing is added any more: blocks
}

type sized struct {
	span
	sectors int64
}

func newHistory(sectors int64) *history {
	return &history{size: sectors, now: map[int64]uint32{}, bySector: map[int64][]int{}, sizes: []sized{{sectors: sectors}}}
}

// record adds a change whose outcome is known.
func (h *history) record(c change) {
	h.changes = append(h.changes, c)
	for s := c.first; s < c.first+c.count; s++ {
		h.bySector[s] = append(h.bySector[s], len(h.changes)-1)
		if id := c.value[s]; id != 0 {
			h.now[s] = id
		} else {
			delete(h.now, s)
		}
	}
}

// blocks is every block that was ever touched, and those beside them, ascending.
func (h *history) blocks() []int64 {
	if h.finished != nil {
		return h.finished
	}
	set := map[int64]bool{}
	for s := range h.bySector {
		b := s / perBlock
		set[max(b-1, 0)], set[b], set[b+1] = true, true, true
	}
	return slices.Sorted(maps.Keys(set))
}

// finish renders what the snapshots hold, so that thousands of cuts can be
// compared with it in no time. Nothing may be added afterwards.
func (h *history) finish() {
	h.finished = append([]int64{}, h.blocks()...)
	for _, v := range h.versions {
		if !v.snapshot() {
			continue
		}
		v.rendered = make([]byte, len(h.finished)*blockSize)
		for s, sector := range sectorsOf(v.rendered, h.finished) {
			if s < v.sectors {
				stamp(sector, s, v.content[s])
			}
		}
	}
}

// present lists the versions that exist now.
func (h *history) present() []*version {
	var out []*version
	for _, v := range h.versions {
		if v.gone.start == never {
			out = append(out, v)
		}
	}
	return out
}

func (h *history) snapshots() []*version {
	return slices.DeleteFunc(h.present(), func(v *version) bool { return !v.snapshot() })
}

// add puts a version in its place.
func (h *history) add(v *version) {
	v.gone = span{never, never}
	h.versions = append(h.versions, v)
	slices.SortStableFunc(h.versions, func(a, b *version) int {
		if a.order != b.order {
			return int(int64(a.order) - int64(b.order))
		}
		return int(a.id.Name[0]) - int(b.id.Name[0])
	})
}

// allowed is what a sector of the head may hold after a cut: what was last
// flushed, or any change since that had begun.
func (h *history) allowed(sector int64, cut int) []uint32 {
	flushed := -1
	for _, f := range h.flushes {
		if f.doneAt(cut) {
			flushed = max(flushed, f.start)
		}
	}
	return h.allowedSince(sector, cut, flushed)
}

// allowedSince is allowed when every change that was acknowledged by flushed is on
// the disk.
func (h *history) allowedSince(sector int64, cut, flushed int) []uint32 {
	floor, last := -1, -1 // changes acknowledged by floor are overwritten by the last one for good
	for _, i := range h.bySector[sector] {
		if c := &h.changes[i]; !c.vague && (c.end <= flushed || c.durable && c.doneAt(cut)) && c.start >= floor {
			floor, last = c.start, i
		}
	}
	var ids []uint32
	if last < 0 {
		ids = append(ids, 0)
	}
	for _, i := range h.bySector[sector] {
		c := &h.changes[i]
		if (c.begunAt(cut) || c.doneAt(cut)) && (c.end > floor || i >= last) {
			ids = append(ids, c.value[sector])
		}
	}
	return ids
}

// written tells which blocks were written between two positions of the log, and
// which regions intent marks may cover: those around, and some that lie ahead.
func (h *history) written(from, to int, ahead int64) (blocks, regions map[int64]bool) {
	blocks, regions = map[int64]bool{}, map[int64]bool{}
	for _, c := range h.changes {
		if c.end <= from || c.start >= to || c.count == 0 {
			continue
		}
		for b := c.first / perBlock; b <= (c.first+c.count-1)/perBlock; b++ {
			blocks[b] = true
			for r := range ahead + 1 {
				regions[b*blockSize/regionSize+r] = true
			}
		}
	}
	return blocks, regions
}

// killed tells whether the engine had to recover between two positions.
func (h *history) killed(from, to int) bool {
	return slices.ContainsFunc(h.kills, func(at int) bool { return at >= from && at <= to })
}

// mustExist and mayExist say what a cut leaves of a version's name.
func (v *version) mustExist(cut int) bool { return v.named.doneAt(cut) && !v.gone.begunAt(cut) }
func (v *version) mayExist(cut int) bool  { return v.named.begunAt(cut) && !v.gone.doneAt(cut) }

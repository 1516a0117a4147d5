package tape

import (
	"context"
	"sync"

	"cairn"
	"cairn/internal/system/tape/drive"
	"cairn/ltfs"
)

// cachedRecords is how many records are kept for readers: a few, so that several
// files may be read at a time.
const cachedRecords = 8

// recordCache reads records for many readers and keeps the last ones. A record
// that an index or a file names never changes.
type recordCache struct {
	t     *Tape
	mu    sync.Mutex // guards the slots
	slots []cacheSlot
	clock uint64
}

type cacheSlot struct {
	at   drive.Position
	data []byte
	n    int // bytes of data; 0: empty
	used uint64
}

func newRecordCache(t *Tape) *recordCache {
	return &recordCache{t: t, slots: make([]cacheSlot, cachedRecords)}
}

// fill reads an extent into p, which is as long.
func (c *recordCache) fill(ctx context.Context, p []byte, e ltfs.Extent) error {
	part, known := c.t.number[e.Partition]
	if !known {
		return c.t.fail("read tape", cairn.KindCorrupt, "", "an extent stands in partition %c, which there is not", e.Partition)
	}
	skip := int(e.ByteOffset)
	for block := e.StartBlock; len(p) > 0; block++ {
		n, err := c.copy(ctx, p, drive.Position{Partition: part, Block: block}, skip)
		if err != nil {
			return err
		}
		p, skip = p[n:], 0
	}
	return nil
}

// copy copies from a record, from skip bytes into it.
func (c *recordCache) copy(ctx context.Context, p []byte, at drive.Position, skip int) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, err := c.slot(ctx, at)
	if err != nil {
		return 0, err
	}
	if skip >= s.n {
		return 0, c.t.fail("read tape", cairn.KindCorrupt, "check the tape", "the record at partition %d block %d has %d bytes; data was expected at %d", at.Partition, at.Block, s.n, skip)
	}
	return copy(p, s.data[skip:s.n]), nil
}

// slot finds a record or reads it into the slot that was used longest ago.
func (c *recordCache) slot(ctx context.Context, at drive.Position) (*cacheSlot, error) {
	c.clock++
	oldest := &c.slots[0]
	for i := range c.slots {
		s := &c.slots[i]
		if s.n > 0 && s.at == at {
			s.used = c.clock
			return s, nil
		}
		if s.used < oldest.used {
			oldest = s
		}
	}
	if oldest.data == nil {
		oldest.data = make([]byte, c.t.label.BlockSize)
	}
	oldest.n = 0
	n, err := c.t.mover.read(ctx, at, oldest.data)
	if cairn.KindOf(err) == cairn.KindStuck {
		oldest.data = nil // the drive may still write into it
		return nil, err
	}
	if err != nil {
		return nil, c.t.missing(at, err)
	}
	oldest.at, oldest.n, oldest.used = at, n, c.clock
	return oldest, nil
}

package tape

import (
	"context"

	"cairn"
	"cairn/internal/system/tape/drive"
	"cairn/ltfs"
)

// Two partitions take data, and one rule keeps a cut of power from costing more
// than what was not committed: before the first record of data goes to a partition
// that ends in an index, the other one ends in an index. The data partition only
// grows; data for the index partition goes over its last index, whose generation
// the data partition keeps.

// partner is the other partition.
func (t *Tape) partner(letter byte) byte { return t.label.IndexPart ^ t.label.DataPart ^ letter }

// beforeData makes sure of the rule before anything is written behind a
// partition's last index. index gives the index to write, of a generation of its own, when one is due.
func (t *Tape) beforeData(ctx context.Context, letter byte, index func() *ltfs.Index) error {
	other := t.partner(letter)
	if !t.ends[letter].inIndex() || t.ends[other].inIndex() {
		return nil
	}
	ix := index()
	ix.Previous = ltfs.Location{}
	if last := t.ends[t.label.DataPart].last; last != nil {
		ix.Previous = last.Self
	}
	return t.writeIndex(ctx, ix, other, t.indexAt(other))
}

// dataAt is the block where the next record of data goes.
func (t *Tape) dataAt(letter byte) uint64 {
	if letter == t.label.IndexPart {
		return t.indexAt(letter)
	}
	return t.ends[letter].end
}

// indexAt is the block where the filemark before the next index goes.
func (t *Tape) indexAt(letter byte) uint64 {
	end := t.ends[letter]
	if letter == t.label.IndexPart && end.last != nil && end.extra == 0 { // else something stands there that is not an index
		return end.last.Self.Block - 1
	}
	return end.end
}

// wroteData notes a record of data: the partition does not end in an index any
// more, and in the index partition the index is gone.
func (t *Tape) wroteData(letter byte, block uint64) {
	if letter == t.label.IndexPart {
		t.ends[letter] = &tail{end: block + 1, ended: true}
		return
	}
	end := t.ends[letter]
	end.end, end.extra = block+1, end.extra+1
}

// lane packs files into the records of one partition. Files that end in the record
// being filled wait in ready until it is written: only then they are in the tree.
type lane struct {
	t      *Tape
	letter byte
	pack   []byte // the record being filled
	block  uint64 // where it will stand
	ready  []func()
}

// openLane begins to write data to a partition.
func (t *Tape) openLane(ctx context.Context, letter byte, index func() *ltfs.Index) (*lane, error) {
	end, err := t.mover.seekEnd(ctx, t.number[letter])
	if err != nil {
		return nil, err
	}
	if end.Block != t.ends[letter].end {
		return nil, t.fail("write to tape", cairn.KindConflict, "open it anew", "its partition %c ends at %d, it ended at %d when it was opened", letter, end.Block, t.ends[letter].end)
	}
	if err := t.beforeData(ctx, letter, index); err != nil {
		return nil, err
	}
	return &lane{t: t, letter: letter, pack: make([]byte, 0, t.label.BlockSize), block: t.dataAt(letter)}, nil
}

// at is where the next byte will stand.
func (l *lane) at() ltfs.Extent {
	return ltfs.Extent{Partition: l.letter, StartBlock: l.block, ByteOffset: uint32(len(l.pack))}
}

// whenWritten calls place once all that is in the lane so far is on tape.
func (l *lane) whenWritten(place func()) {
	if len(l.pack) == 0 {
		place()
		return
	}
	l.ready = append(l.ready, place)
}

// flush writes the record and places the files that end in it. full says that the
// partition takes no more.
func (l *lane) flush(ctx context.Context) (full bool, err error) {
	if len(l.pack) > 0 {
		warning, err := l.t.mover.write(ctx, drive.Position{Partition: l.t.number[l.letter], Block: l.block}, l.pack)
		if err != nil {
			return false, err
		}
		l.t.wroteData(l.letter, l.block)
		l.pack, l.block = l.pack[:0], l.block+1
		full = warning == drive.EarlyWarning
	}
	for _, place := range l.ready {
		place()
	}
	l.ready = l.ready[:0]
	return full, nil
}

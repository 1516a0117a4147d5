package tape

import (
	"cmp"
	"context"
	"slices"
	"syscall"

	"cairn"
	"cairn/internal/policy/syncpolicy"
	"cairn/ltfs"
)

// Placement of a mount's files. While a tape is mounted all data goes to the data
// partition, so that a sync never has to change the partition. The last index of a
// session puts the small files that the rules name into the index partition:
//
//  1. a generation at the end of the data partition, in which everything is whole;
//  2. copies of the files, over the index of the index partition;
//  3. the generation after that, which names the copies, behind them.
//
// A cut of power before the end of 3 leaves the first generation, and a mount
// completes the index partition.

// placed is a file and where its copy in the index partition stands.
type placed struct {
	node *Node
	from []ltfs.Extent
	to   ltfs.Extent
}

// rules are the placement rules of this mount: those of the volume, unless the
// mount has its own.
func (f *FS) rules() *ltfs.Policy {
	if f.opt.Rules != nil {
		return f.opt.Rules
	}
	return f.header.Policy
}

// mayRule refuses rules of a mount's own where the volume allows none.
func mayRule(t *Tape, ix *ltfs.Index, o FSOptions) error {
	if o.Rules == nil || ix.AllowPolicyUpdate {
		return nil
	}
	return &cairn.Error{Op: "mount tape", Subject: t.subject, Kind: cairn.KindPermission, Err: syscall.EPERM, Hint: "leave out the rules: the volume does not allow others than its own"}
}

// toPlace are the files of this session that belong into the index partition, in
// the order in which they stand on the tape.
func (f *FS) toPlace() (list []placed) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for n := range f.written {
		if n.gone || n.isPartial() || !f.rules().Match(n.name, n.size) || len(n.file.Extents) == 0 || n.size != n.file.Length || n.file.Extents[0].Partition == f.t.label.IndexPart {
			continue
		}
		list = append(list, placed{node: n, from: slices.Clone(n.file.Extents)})
	}
	slices.SortFunc(list, func(a, b placed) int { return cmp.Compare(a.from[0].StartBlock, b.from[0].StartBlock) })
	return list
}

// placeFiles copies the session's small files to the index partition and lets
// their extents name the copies. It reports whether there are any.
func (f *FS) placeFiles(ctx context.Context) (bool, error) {
	list := f.toPlace()
	if len(list) == 0 {
		return false, nil
	}
	room, err := f.t.mover.capacity(ctx, f.t.number[f.t.label.IndexPart])
	if err != nil {
		return false, err
	}
	f.mu.Lock()
	left := room.Remaining - 2*f.reserve()
	f.mu.Unlock()
	l, err := f.t.openLane(ctx, f.t.label.IndexPart, f.newestIndex)
	if err != nil {
		return false, err
	}
	done := list[:0]
	for _, p := range list {
		size := int64(p.node.Attr().Size)
		if room.Total > 0 && left < size {
			break // what stays in the data partition is as safe
		}
		left -= size
		ok, err := f.copyTo(ctx, l, &p)
		if err != nil {
			return false, err
		}
		if ok {
			done = append(done, p)
		}
	}
	if _, err := l.flush(ctx); err != nil {
		return false, err
	}
	f.settlePlaced(done)
	return true, nil
}

// copyTo appends a file to the lane.
func (f *FS) copyTo(ctx context.Context, l *lane, p *placed) (bool, error) {
	data := make([]byte, p.node.Attr().Size)
	n, err := p.node.Read(ctx, data, 0)
	if err != nil || n < len(data) {
		return false, err // shorter now: somebody uses it again
	}
	p.to = l.at()
	p.to.ByteCount = uint64(n)
	for len(data) > 0 {
		n := copy(l.pack[len(l.pack):cap(l.pack)], data)
		l.pack, data = l.pack[:len(l.pack)+n], data[n:]
		if len(l.pack) == cap(l.pack) {
			if _, err := l.flush(ctx); err != nil {
				return false, err
			}
		}
	}
	return true, nil
}

// settlePlaced lets the files name their copies, but those that changed meanwhile.
func (f *FS) settlePlaced(list []placed) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range list {
		n := p.node
		delete(f.written, n)
		if n.gone || len(n.drafts) > 0 || n.size != p.to.ByteCount || !slices.Equal(n.file.Extents, p.from) {
			continue
		}
		n.own().Extents = []ltfs.Extent{p.to}
		n.parent.spoil()
	}
}

// newestIndex is the newest generation on tape once more, for the partition that
// lacks it.
func (f *FS) newestIndex() *ltfs.Index {
	f.mu.Lock()
	defer f.mu.Unlock()
	ix := f.header
	ix.Root, ix.Self, ix.Generation = f.indexed, f.sync.Location, f.sync.Generation
	return &ix
}

// keepCurrent makes sure, before the data partition is written to, that the newest
// generation stands in it: it may stand in the index partition alone.
func (f *FS) keepCurrent() error {
	index, data := f.t.ends[f.t.label.IndexPart].last, f.t.ends[f.t.label.DataPart].last
	if index == nil || data == nil || index.Generation <= data.Generation {
		return nil
	}
	return f.t.preserve(f.ctx, f.newestIndex())
}

// beforeData keeps the rule of placement.go before the data partition is written
// to.
func (f *FS) beforeData() error {
	if err := f.keepCurrent(); err != nil {
		return err
	}
	return f.t.beforeData(f.ctx, f.t.label.DataPart, f.newestIndex)
}

// placeAndIndex ends a session whose generation ix is at the end of the data
// partition: the small files go to the index partition, and behind them the next
// generation, or the same one when there are none.
func (f *FS) placeAndIndex(ix *ltfs.Index, reason syncpolicy.Reason) (*ltfs.Index, error) {
	t := f.t
	some, err := f.placeFiles(f.ctx)
	if err != nil {
		return nil, err
	}
	if !some {
		copied := *ix
		return ix, t.writeIndexPartition(f.ctx, &copied)
	}
	f.mu.Lock()
	next := f.takeIndex(reason)
	f.mu.Unlock()
	f.fillTree()
	next.Previous = t.ends[t.label.DataPart].last.Self
	return next, t.writeIndex(f.ctx, next, t.label.IndexPart, t.indexAt(t.label.IndexPart))
}

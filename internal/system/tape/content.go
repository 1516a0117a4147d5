package tape

import (
	"cmp"
	"context"
	"slices"
	"syscall"
	"time"

	"cairn"
	"cairn/internal/policy/syncpolicy"
	"cairn/ltfs"
)

// draft is bytes of a file that are not on tape yet. While it is the last of its
// file and not queued it grows; queued bytes do not change any more, but a
// truncation shortens the draft.
type draft struct {
	node   *Node
	off    uint64
	data   []byte
	queued bool
	taken  int // bytes of it that are on tape or in the record being written
	length int // of data when it was queued
}

func (p *draft) end() uint64 { return p.off + uint64(len(p.data)) }

// Handle is an open file.
type Handle struct {
	n       *Node
	write   bool
	closing int // Flush calls that have not returned
}

// Open opens a file.
func (n *Node) Open(write, truncate bool) (*Handle, error) {
	f := n.fs
	f.mu.Lock()
	defer f.mu.Unlock()
	if n.file == nil {
		return nil, refuse("open on tape", n.name, cairn.KindInvalid, syscall.EISDIR)
	}
	if write || truncate {
		if err := f.writable("open on tape"); err != nil {
			return nil, err
		}
	}
	h := &Handle{n: n, write: write}
	n.handles++
	if write {
		n.writers++
		n.notePartial()
	}
	if truncate && n.size > 0 {
		n.truncate(0)
	}
	return h, nil
}

// Node is the file that is open.
func (h *Handle) Node() *Node { return h.n }

// Flush is a close by the handle's user, or by one of several who have it in
// common. It tells of data that was lost. With close-sync, everything is on tape
// with its index when it returns; that index counts the file as closed.
func (h *Handle) Flush(ctx context.Context) error {
	f := h.n.fs
	f.mu.Lock()
	h.beginClosing()
	err := h.n.lost()
	wait := f.opt.Policy.OnClose && !f.opt.ReadOnly && f.pace() == syncpolicy.Free
	f.mu.Unlock()
	if err == nil && wait {
		err = f.afterSync(h.n, f.wait(ctx, syncpolicy.OnClose, false))
	}
	f.mu.Lock()
	h.endClosing()
	f.mu.Unlock()
	return err
}

func (h *Handle) beginClosing() {
	if !h.write {
		return
	}
	h.n.enqueueLast()
	if h.closing++; h.closing == 1 {
		h.n.closing++
	}
	h.n.notePartial()
}

func (h *Handle) endClosing() {
	if !h.write {
		return
	}
	if h.closing--; h.closing == 0 {
		h.n.closing--
		h.n.fs.flushed[h] = time.Now()
	}
	h.n.notePartial()
}

// Close ends a handle.
func (h *Handle) Close() {
	n := h.n
	n.fs.mu.Lock()
	defer n.fs.mu.Unlock()
	n.handles--
	if h.write {
		n.writers--
		n.enqueueLast()
		n.notePartial()
		delete(n.fs.flushed, h)
		n.fs.moved()
	}
	if n.gone && n.handles == 0 {
		n.drop()
	}
}

// Fsync returns when the node's data and an index that names it are on tape; with
// FsyncData, when the data is.
func (n *Node) Fsync(ctx context.Context) error {
	f := n.fs
	if f.opt.ReadOnly {
		return nil
	}
	if f.opt.Fsync == FsyncData {
		a := &ask{Ask: syncpolicy.Ask{Reason: syncpolicy.Fsync, Since: time.Now()}, data: true, answer: make(chan error, 1)}
		return f.afterSync(n, f.waitFor(ctx, a))
	}
	return f.afterSync(n, f.wait(ctx, syncpolicy.Fsync, false))
}

// afterSync adds to a sync's outcome what was lost of a file.
func (f *FS) afterSync(n *Node, err error) error {
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return n.lost()
}

// lost tells once of data that did not reach the tape. The caller holds mu.
func (n *Node) lost() error {
	err := n.failed
	n.failed = nil
	return err
}

// Write puts bytes at an offset. They are in memory then, and on tape some time
// later: Flush and Fsync tell. It waits while too much is in memory.
func (h *Handle) Write(ctx context.Context, p []byte, off uint64) error {
	const op = "write to tape"
	n, f := h.n, h.n.fs
	if !h.write {
		return refuse(op, n.name, cairn.KindPermission, syscall.EBADF)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.flushed, h) // a duplicate is still in use
	for len(p) > 0 {
		if err := f.admit(ctx, op, n, len(p)); err != nil {
			return err
		}
		done := n.append(p, off)
		p, off = p[done:], off+uint64(done)
	}
	now := stamp()
	t := n.times()
	t.Modify, t.Change = now, now
	n.notePartial()
	f.touched(n)
	return nil
}

// admit waits for room in memory and makes sure of room on tape. The caller holds
// mu, which is given up meanwhile.
func (f *FS) admit(ctx context.Context, op string, n *Node, count int) error {
	for {
		if err := f.writable(op); err != nil {
			return err
		}
		if f.full || f.left >= 0 && f.buffered+int64(count)+f.reserve() > f.left {
			return refuse(op, n.name, cairn.KindSpace, syscall.ENOSPC)
		}
		if f.buffered == 0 || f.buffered+int64(count) <= f.opt.Buffer {
			return nil
		}
		if f.sync.Failures > 0 {
			return f.sync.Err
		}
		f.enqueueAll()
		f.wake()
		progress := f.progress
		f.mu.Unlock()
		select {
		case <-progress:
		case <-ctx.Done():
		}
		f.mu.Lock()
		if ctx.Err() != nil {
			return refuse(op, n.name, cairn.KindCanceled, syscall.EINTR)
		}
	}
}

// append takes some of p into memory: it goes on with the last draft, changes it,
// or begins one.
func (n *Node) append(p []byte, off uint64) int {
	f, block := n.fs, int(n.fs.t.label.BlockSize)
	var last *draft
	if len(n.drafts) > 0 {
		last = n.drafts[len(n.drafts)-1]
	}
	if last == nil || last.queued || off < last.off || off > last.end() || off == last.end() && len(last.data) >= block {
		n.enqueueLast()
		last = &draft{node: n, off: off}
		if len(p) >= block {
			last.data = f.block()
		}
		n.drafts = append(n.drafts, last)
		f.open[n] = true
	}
	at := int(off - last.off)
	count := min(len(p), block-at)
	before := len(last.data)
	if at+count > before {
		last.data = append(last.data[:at], p[:count]...)
	} else {
		copy(last.data[at:], p[:count])
	}
	f.buffered += int64(len(last.data) - before)
	f.risk.Bytes += int64(count)
	n.size = max(n.size, last.end())
	if len(last.data) >= block {
		n.enqueueLast()
	}
	return count
}

// enqueueLast gives the node's last draft to the writer.
func (n *Node) enqueueLast() {
	if len(n.drafts) == 0 {
		return
	}
	if p := n.drafts[len(n.drafts)-1]; !p.queued {
		f := n.fs
		p.queued, p.length = true, len(p.data)
		f.queue = append(f.queue, p)
		f.queued += int64(p.length)
		delete(f.open, n)
		f.wake()
	}
}

// enqueueAll gives everything to the writer. The caller holds mu.
func (f *FS) enqueueAll() {
	waiting := make([]*Node, 0, len(f.open))
	for n := range f.open {
		waiting = append(waiting, n)
	}
	slices.SortFunc(waiting, func(a, b *Node) int { return cmp.Compare(a.file.UID, b.file.UID) })
	for _, n := range waiting {
		n.enqueueLast()
	}
}

// Truncate sets a file's size; what is beyond the old end reads as zeroes.
func (n *Node) Truncate(size uint64) error {
	f := n.fs
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.writable("truncate on tape"); err != nil {
		return err
	}
	if n.file == nil || n.file.IsSymlink {
		return refuse("truncate on tape", n.name, cairn.KindInvalid, syscall.EINVAL)
	}
	if size > 1<<62 {
		return refuse("truncate on tape", n.name, cairn.KindInvalid, syscall.EFBIG)
	}
	n.truncate(size)
	return nil
}

func (n *Node) truncate(size uint64) {
	f, file := n.fs, n.own()
	file.Extents = clip(file.Extents, size)
	file.Length, n.size = size, size
	kept := n.drafts[:0]
	for _, p := range n.drafts {
		if p.end() > size {
			cut := len(p.data)
			p.data = p.data[:size-min(size, p.off)]
			f.buffered -= int64(cut - len(p.data))
		}
		if len(p.data) > 0 {
			kept = append(kept, p)
		} else if !p.queued {
			delete(f.open, n)
		}
	}
	n.drafts = kept
	now := stamp()
	t := n.times()
	t.Modify, t.Change = now, now
	n.notePartial()
	f.changed(n)
}

// clip cuts extents at a size.
func clip(list []ltfs.Extent, size uint64) []ltfs.Extent {
	kept := list[:0]
	for _, e := range list {
		if e.FileOffset >= size {
			continue
		}
		e.ByteCount = min(e.ByteCount, size-e.FileOffset)
		kept = append(kept, e)
	}
	return kept
}

// drop forgets the bytes of a file that has no name and no user any more.
func (n *Node) drop() {
	for _, p := range n.drafts {
		n.fs.buffered -= int64(len(p.data))
		p.data = nil
	}
	n.drafts = nil
	delete(n.fs.open, n)
	delete(n.fs.partial, n)
	delete(n.fs.written, n)
}

// placed enters bytes that are on tape now into the file, over what was there.
// block is the size of the volume's records.
func (n *Node) place(e ltfs.Extent, block uint64) {
	file := n.own()
	if n.fs.rules() != nil {
		n.fs.written[n] = true
	}
	list := file.Extents
	if len(list) > 0 && follows(&list[len(list)-1], e, block) {
		list[len(list)-1].ByteCount += e.ByteCount
	} else if len(list) == 0 || list[len(list)-1].FileOffset+list[len(list)-1].ByteCount <= e.FileOffset {
		list = append(list, e)
	} else {
		list = overlay(list, e, block)
	}
	file.Extents = list
	file.Length = max(file.Length, e.FileOffset+e.ByteCount)
	if n.parent != nil {
		n.parent.spoil()
	}
}

// follows reports whether e goes on where x ends, in the file and on the tape.
func follows(x *ltfs.Extent, e ltfs.Extent, block uint64) bool {
	return x.Partition == e.Partition && x.FileOffset+x.ByteCount == e.FileOffset &&
		x.StartBlock*block+uint64(x.ByteOffset)+x.ByteCount == e.StartBlock*block+uint64(e.ByteOffset)
}

// overlay puts an extent over a list that is in order.
func overlay(list []ltfs.Extent, e ltfs.Extent, block uint64) []ltfs.Extent {
	end := e.FileOffset + e.ByteCount
	out := make([]ltfs.Extent, 0, len(list)+2)
	for _, x := range list {
		if x.FileOffset < e.FileOffset {
			left := x
			left.ByteCount = min(x.ByteCount, e.FileOffset-x.FileOffset)
			out = append(out, left)
		}
	}
	out = append(out, e)
	for _, x := range list {
		if xend := x.FileOffset + x.ByteCount; xend > end {
			if x.FileOffset < end {
				x = advance(x, end-x.FileOffset, block)
			}
			out = append(out, x)
		}
	}
	return out
}

// advance drops the first count bytes of an extent.
func advance(x ltfs.Extent, count, block uint64) ltfs.Extent {
	at := uint64(x.ByteOffset) + count
	x.FileOffset += count
	x.ByteCount -= count
	x.StartBlock += at / block
	x.ByteOffset = uint32(at % block)
	return x
}

// fetch is a part of a reader's buffer that stands on tape.
type fetch struct {
	to     []byte
	extent ltfs.Extent // as long as to
}

// Read fills p from an offset and returns how many bytes there are up to the end
// of the file.
func (n *Node) Read(ctx context.Context, p []byte, off uint64) (int, error) {
	f := n.fs
	f.mu.Lock()
	if n.file == nil {
		f.mu.Unlock()
		return 0, refuse("read on tape", n.name, cairn.KindInvalid, syscall.EISDIR)
	}
	if off >= n.size {
		f.mu.Unlock()
		return 0, nil
	}
	p = p[:min(uint64(len(p)), n.size-off)]
	fetches := n.plan(p, off)
	f.mu.Unlock()
	for _, x := range fetches {
		if err := f.cache.fill(ctx, x.to, x.extent); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// plan fills p with what is in memory and zeroes, and says what has to come from
// the tape.
func (n *Node) plan(p []byte, off uint64) (fetches []fetch) {
	clear(p)
	type gap struct{ from, to uint64 }
	gaps := []gap{{off, off + uint64(len(p))}}
	for _, draft := range slices.Backward(n.drafts) {
		var rest []gap
		for _, g := range gaps {
			from, to := max(g.from, draft.off), min(g.to, draft.end())
			if from >= to {
				rest = append(rest, g)
				continue
			}
			copy(p[from-off:to-off], draft.data[from-draft.off:])
			if g.from < from {
				rest = append(rest, gap{g.from, from})
			}
			if to < g.to {
				rest = append(rest, gap{to, g.to})
			}
		}
		gaps = rest
	}
	list, block := n.file.Extents, n.fs.t.label.BlockSize
	for _, g := range gaps {
		i, _ := slices.BinarySearchFunc(list, g.from, func(x ltfs.Extent, at uint64) int { return cmp.Compare(x.FileOffset+x.ByteCount, at+1) })
		for ; i < len(list) && list[i].FileOffset < g.to; i++ {
			x := list[i]
			if x.FileOffset < g.from {
				x = advance(x, g.from-x.FileOffset, block)
			}
			x.ByteCount = min(x.ByteCount, g.to-x.FileOffset)
			fetches = append(fetches, fetch{p[x.FileOffset-off : x.FileOffset-off+x.ByteCount], x})
		}
	}
	return fetches
}

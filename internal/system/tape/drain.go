package tape

import (
	"errors"
	"slices"
	"syscall"

	"cairn"
	"cairn/internal/system/tape/drive"
	"cairn/ltfs"
)

// drain writes queued data until everything up to target is on tape.
func (f *FS) drain(target int64) error {
	for {
		f.mu.Lock()
		done := f.placed >= target
		f.mu.Unlock()
		if done {
			return nil
		}
		if err := f.writeRecord(); err != nil {
			return err
		}
	}
}

// share is a part of a draft in a record.
type share struct {
	draft *draft
	from  int // in the draft
	n     int
	at    int // in the record
}

// writeRecord fills a record from the queue and writes it. A full tape gives up
// what is queued: its files say so at their next fsync or close.
func (f *FS) writeRecord() error {
	if err := f.atEnd(); err != nil {
		return err
	}
	if err := f.beforeData(); err != nil {
		return err
	}
	f.mu.Lock()
	record, shares := f.compose()
	f.mu.Unlock()
	if len(record) == 0 {
		return nil
	}
	t := f.t
	data := t.ends[t.label.DataPart]
	warning, err := t.mover.write(f.ctx, drive.Position{Partition: t.number[t.label.DataPart], Block: data.end}, record)
	if err != nil {
		f.mu.Lock()
		defer f.mu.Unlock()
		if errors.Is(err, cairn.KindSpace) {
			f.giveUp()
			return nil
		}
		for _, s := range shares {
			s.draft.taken = s.from
		}
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	block := data.end
	t.wroteData(t.label.DataPart, block)
	f.sync.complete = false
	f.full = f.full || warning == drive.EarlyWarning
	ask := f.used(len(record)) || warning != drive.NoWarning
	for _, s := range shares {
		f.settle(s, block)
	}
	f.moved()
	if ask {
		f.mu.Unlock()
		room, err := t.mover.capacity(f.ctx, t.number[t.label.DataPart])
		f.mu.Lock()
		if err == nil {
			f.noteRoom(room)
		}
	}
	return nil
}

// compose takes bytes from the queue for one record. The caller holds mu, but need
// not while it uses the record: queued bytes do not change.
func (f *FS) compose() (record []byte, parts []share) {
	size := int(f.t.label.BlockSize)
	if len(f.queue) > 0 {
		if p := f.queue[0]; p.taken == 0 && len(p.data) == size {
			p.taken = size
			return p.data, []share{{p, 0, size, 0}}
		}
	}
	record = f.t.buf[:0]
	for _, p := range f.queue {
		if len(record) == size {
			break
		}
		n := min(size-len(record), max(0, len(p.data)-p.taken))
		parts = append(parts, share{p, p.taken, n, len(record)})
		record = append(record, p.data[min(p.taken, len(p.data)):][:n]...)
		p.taken += n
	}
	if len(record) == 0 { // only drafts that a truncation emptied
		for _, s := range parts {
			f.settle(s, 0)
		}
	}
	return record, parts
}

// settle enters a part of a record, which stands at block, into its file. The
// caller holds mu.
func (f *FS) settle(s share, block uint64) {
	p, n := s.draft, s.draft.node
	if count := min(s.n, len(p.data)-s.from); count > 0 && (!n.gone || n.handles > 0) {
		n.place(ltfs.Extent{FileOffset: p.off + uint64(s.from), Partition: f.t.label.DataPart, StartBlock: block, ByteOffset: uint32(s.at), ByteCount: uint64(count)}, f.t.label.BlockSize)
	}
	if p.taken >= len(p.data) {
		f.finish(p)
	}
}

// finish takes a draft out of its file and the queue, of which it is the first.
func (f *FS) finish(p *draft) {
	n := p.node
	f.buffered -= int64(len(p.data))
	f.placed += int64(p.length)
	if i := slices.Index(n.drafts, p); i >= 0 {
		n.drafts = slices.Delete(n.drafts, i, i+1)
	}
	f.queue = f.queue[1:]
	f.recycle(p.data)
	p.data = nil
	if !n.gone {
		n.notePartial()
	}
}

// spareBlocks is how much memory for whole records is kept for the next ones.
const spareBlocks = 16

// block is memory for a draft of a whole record. The caller holds mu.
func (f *FS) block() []byte {
	if n := len(f.spare); n > 0 {
		b := f.spare[n-1]
		f.spare = f.spare[:n-1]
		return b
	}
	return make([]byte, 0, f.t.label.BlockSize)
}

// recycle keeps memory that no reader or drive uses any more. The caller holds mu.
func (f *FS) recycle(data []byte) {
	if cap(data) == int(f.t.label.BlockSize) && len(f.spare) < spareBlocks {
		f.spare = append(f.spare, data[:0])
	}
}

// giveUp drops what is queued, since the tape takes no more. The files end where
// their bytes on tape end. The caller holds mu.
func (f *FS) giveUp() {
	f.full = true
	for len(f.queue) > 0 {
		p := f.queue[0]
		n := p.node
		n.failed = refuse("write to tape", n.name, cairn.KindSpace, syscall.ENOSPC)
		f.log.Warn("the tape is full: data was lost", "tape", f.t.subject, "file", n.path(), "bytes", len(p.data)-p.taken)
		f.finish(p)
		if len(n.drafts) == 0 {
			n.size = n.file.Length
		}
	}
	f.moved()
}

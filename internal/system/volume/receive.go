package volume

import (
	"context"
	"errors"
	"fmt"
	"io"

	"cairn"
	"cairn/internal/format/blocks"
	"cairn/internal/mech/watchdog"
	"cairn/internal/system/volume/catalog"
)

// Receive applies the stream to the sealed head, preserving for its base what it
// overwrites, and commits the version at the end. What a cut left is kept, with
// the point from which the stream can go on.
func (v *Volume) Receive(ctx context.Context, s *cairn.Stream, o cairn.ReceiveOptions) (cairn.Received, error) {
	subject := v.o.Name + s.Header.To.Name
	in := &counter{r: s.Body}
	stop := context.AfterFunc(ctx, func() { _ = s.Body.Close() }) // ends a read that hangs
	defer stop()
	err := v.receiveStream(ctx, s, in, o)
	if ctx.Err() != nil && err != nil {
		err = errors.Join(ctx.Err(), err)
		return cairn.Received{}, &cairn.Error{Op: "receive", Subject: subject, Kind: cairn.KindCanceled, Err: err}
	}
	if cerr := s.Body.Close(); err == nil && cerr != nil {
		v.o.Log.Debug("closing a received stream", "volume", v.o.Name, "error", cerr)
	}
	if err != nil {
		return cairn.Received{}, failed("receive", subject, err)
	}
	return cairn.Received{Versions: []cairn.VersionID{s.Header.To.VersionID}, Bytes: in.n}, nil
}

type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

func (v *Volume) receiveStream(ctx context.Context, s *cairn.Stream, in io.Reader, o cairn.ReceiveOptions) error {
	if s.Header.Format != cairn.FormatBlocks || len(s.Header.Via) > 0 {
		return &cairn.Error{Op: "receive", Subject: string(s.Header.Format), Kind: cairn.KindUnsupported, Hint: "a volume takes " + string(cairn.FormatBlocks) + " streams of one version"}
	}
	if err := v.claimReceive(); err != nil {
		return err
	}
	defer v.endReceive()
	token, err := v.resumeToken(s.Header)
	if err != nil {
		return err
	}
	r, err := blocks.NewReader(in, blocks.ReaderOptions{Resume: token})
	if err != nil {
		return err
	}
	if h := r.Header(); h.To != s.Header.To.VersionID || h.From.GUID != s.Header.From.GUID {
		return &cairn.Error{Op: "receive", Kind: cairn.KindCorrupt, Err: fmt.Errorf("the stream carries %q (%v) on %v, its header says %q (%v) on %v",
			h.To.Name, h.To.GUID, h.From.GUID, s.Header.To.Name, s.Header.To.GUID, s.Header.From.GUID)}
	}
	if err := v.beginReceive(ctx, r.Header(), token, o.Owner); err != nil {
		return err
	}
	table := v.receiveTable(r.Header(), s.Header.Resume)
	defer table.end()
	if err := v.applyStream(ctx, r, table); err != nil {
		return err
	}
	return v.commitReceive(r.Header(), table)
}

func (v *Volume) claimReceive() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.receive {
		return &cairn.Error{Op: "receive", Subject: v.o.Name, Kind: cairn.KindBusy, Err: errors.New("another receive is running")}
	}
	v.receive = true
	return nil
}

func (v *Volume) endReceive() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.receive = false
	v.hashing.stamp.Store(0)
}

// resumeToken is where the pending receive stands, when the stream goes on from
// there.
func (v *Volume) resumeToken(h cairn.StreamHeader) ([]byte, error) {
	if h.Resume == 0 {
		return nil, nil
	}
	rc := v.state().Head.Receiving
	if rc == nil || rc.To.GUID != h.To.GUID {
		return nil, &cairn.Error{Op: "resume", Subject: h.To.Name, Kind: cairn.KindConflict, Err: errors.New("no receive of it is pending here"), Hint: "send from the beginning"}
	}
	return rc.Token, nil
}

// beginReceive checks that the stream fits and records it; the head is given the
// stream's size.
func (v *Volume) beginReceive(ctx context.Context, h blocks.Header, token []byte, owner string) error {
	v.admin.Lock()
	defer v.admin.Unlock()
	if v.closed {
		return errClosed
	}
	st := v.state()
	if err := v.mayReceive(st, h); err != nil {
		return err
	}
	if err := v.activate(); err != nil {
		return err
	}
	v.drawStamp()
	rc := catalog.Receiving{From: h.From, To: h.To, Created: h.Created, Size: h.Size, Owner: owner}
	if old := st.Head.Receiving; old != nil && token != nil {
		rc = *old
	}
	err := v.commit("receive "+h.To.Name, func(_ *catalog.State, hd *catalog.Head) catalog.Edit {
		hd.Receiving = &rc
		return catalog.Edit{}
	})
	if err != nil {
		return err
	}
	return v.resize(ctx, h.Size)
}

func (v *Volume) mayReceive(st *catalog.State, h blocks.Header) error {
	conflict := func(hint, format string, args ...any) error {
		return &cairn.Error{Op: "receive", Subject: v.o.Name + h.To.Name, Kind: cairn.KindConflict, Err: fmt.Errorf(format, args...), Hint: hint}
	}
	if rc := st.Head.Receiving; rc != nil && (rc.To != h.To || rc.From.GUID != h.From.GUID) {
		return conflict("finish or abort it", "a receive of %s is pending", rc.To.Name)
	}
	var newest catalog.Version
	for _, r := range st.Versions {
		if r.ID() == h.To {
			return &cairn.Error{Op: "receive", Subject: h.To.Name, Kind: cairn.KindExists}
		}
		if r.Name == h.To.Name {
			return conflict("destroy or rename one of them", "%s has GUID %v here, %v in the stream", r.Name, r.GUID, h.To.GUID)
		}
		newest = r // at one order, the snapshot comes last
	}
	switch {
	case !st.Head.Sealed:
		return conflict("seal the volume to make it a replica", "its head is not sealed: it takes writes of its own")
	case newest.GUID != h.From.GUID:
		return conflict("choose a base that both sides have, or roll back", "the newest version here is %s, the stream stands on %s", named(newest.ID()), named(h.From))
	case newest.GUID != 0 && !newest.ID().IsSnapshot():
		return conflict("receive into a new volume", "the base %s has no data here", newest.Name)
	case newest.Damaged:
		return conflict("roll back to a good snapshot, or receive into a new volume", "the base %s lost blocks here", newest.Name)
	case v.doubt() != "":
		return v.verified()
	case st.Head.Receiving == nil:
		return v.untouched(newest, conflict)
	}
	return nil
}

func named(id cairn.VersionID) string {
	if id.IsZero() {
		return "nothing"
	}
	return fmt.Sprintf("%s (%v)", id.Name, id.GUID)
}

// untouched makes sure that the head is what the base says it is.
func (v *Volume) untouched(newest catalog.Version, conflict func(hint, format string, args ...any) error) error {
	if newest.GUID != 0 {
		set, _, err := v.changedSet(newest.ID(), cairn.VersionID{})
		if err == nil && set.Count() > 0 {
			err = conflict("roll back to "+newest.Name+" first", "the head was written to since %s", newest.Name)
		}
		return err
	}
	empty, err := v.headIsZero()
	if err == nil && !empty {
		err = conflict("receive into a new volume", "the volume has content and no version")
	}
	return err
}

// headIsZero reads what data the head has, until some of it is not zero.
func (v *Volume) headIsZero() (bool, error) {
	buf := buffers.Get().(*[windowBytes]byte)
	defer buffers.Put(buf)
	for off := int64(0); off < v.size; {
		start, end, err := v.head.Data(off)
		if err != nil || start >= v.size {
			return err == nil, err
		}
		p := buf[:min(end-start, windowBytes)]
		if err := v.readHead(p, start); err != nil {
			return false, err
		}
		for i := 0; i < len(p); i += blockSize {
			if !isZero(p[i:min(i+blockSize, len(p))]) {
				return false, nil
			}
		}
		off = start + int64(len(p))
	}
	return true, nil
}

// applyStream writes the records to the head. At each point the head is flushed
// before the point is recorded.
func (v *Volume) applyStream(ctx context.Context, r *blocks.Reader, table *tableUpdate) error {
	progress := watchdog.From(ctx)
	g := &gathered{v: v, table: table}
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		rec, err := r.Next()
		switch {
		case errors.Is(err, io.EOF) && cairn.KindOf(err) == cairn.KindOther: // the reader's word that all was right
			return g.apply()
		case err != nil:
			return err
		}
		if err := g.take(r, rec); err != nil {
			return err
		}
		progress.Level("received", rec.Offset+rec.Length)
	}
}

// gathered is data records that are applied together: scattered blocks share the
// barrier of what their base needs preserved.
type gathered struct {
	v     *Volume
	table *tableUpdate // takes what was applied
	data  []byte
	list  []placed
}

// placed is content and where it goes.
type placed struct {
	off  int64
	data []byte
}

// take applies the record, or puts it to those that wait.
func (g *gathered) take(r *blocks.Reader, rec blocks.Record) error {
	for rec.Kind == blocks.KindData && rec.Length > 0 {
		n := min(rec.Length, int64(windowBytes-len(g.data)))
		if n < rec.Length {
			n -= n % blockSize
		}
		g.add(rec.Offset, rec.Data[:n])
		rec.Offset, rec.Length, rec.Data = rec.Offset+n, rec.Length-n, rec.Data[n:]
		if rec.Length == 0 {
			return nil
		}
		if err := g.apply(); err != nil {
			return err
		}
	}
	if err := g.apply(); err != nil {
		return err
	}
	if rec.Kind == blocks.KindPoint {
		return g.v.recordPoint(r, rec.Offset)
	}
	err := windows(rec.Offset, rec.Length, g.v.zeroWindow, func(off, n int64) error {
		return g.v.change(off, n, zeroing|internal, nil, func() error { return g.v.zero(off, n, cairn.MayUnmap) })
	})
	if err == nil {
		g.table.applied(rec.Offset, rec.Length, nil)
	}
	return err
}

func (g *gathered) add(off int64, p []byte) {
	if len(p) == 0 {
		return
	}
	if g.data == nil {
		g.data = make([]byte, 0, windowBytes)
	}
	at := len(g.data)
	g.data = append(g.data, p...)
	if last := len(g.list) - 1; last >= 0 && g.list[last].off+int64(len(g.list[last].data)) == off {
		g.list[last].data = g.data[at-len(g.list[last].data):]
		return
	}
	g.list = append(g.list, placed{off, g.data[at:]})
}

// apply writes what waits.
func (g *gathered) apply() error {
	if len(g.list) == 0 {
		return nil
	}
	err := g.v.applyData(g.list)
	if err == nil {
		for _, x := range g.list {
			g.table.applied(x.off, int64(len(x.data)), x.data)
		}
	}
	g.list, g.data = g.list[:0], g.data[:0]
	return err
}

// applyData writes pieces, ascending, to the sealed head.
func (v *Volume) applyData(list []placed) error {
	v.gate.RLock()
	defer v.gate.RUnlock()
	first, last := list[0], list[len(list)-1]
	length := last.off + int64(len(last.data)) - first.off
	if err := v.mayChange(first.off, length, internal); err != nil {
		return err
	}
	all := blocksOf(first.off, length)
	v.claim(all)
	defer v.unclaim(all)
	var runs []run
	for _, x := range list {
		runs = append(runs, blocksOf(x.off, int64(len(x.data)))) // no two share a block
	}
	if err := v.protect(runs); err != nil {
		return err
	}
	for _, x := range list {
		if _, err := v.bulk.WriteAt(x.data, x.off); err != nil {
			return fmt.Errorf("%w: %w", errOrigin, err)
		}
	}
	return nil
}

func (v *Volume) recordPoint(r *blocks.Reader, position int64) error {
	if !v.o.Faults.has(FaultPointBeforeFlush) {
		if err := v.flush(); err != nil {
			return err
		}
	}
	return v.commit("point", func(_ *catalog.State, h *catalog.Head) catalog.Edit {
		rc := *h.Receiving
		rc.Token, rc.Received = r.Token(), position
		h.Receiving = &rc
		return catalog.Edit{}
	})
}

// commitReceive makes the received version, whose count and hash the reader has
// checked by now.
func (v *Volume) commitReceive(h blocks.Header, table *tableUpdate) error {
	v.admin.Lock()
	defer v.admin.Unlock()
	if v.closed {
		return errClosed
	}
	hashed := table.prepare()
	_, err := v.capture(catalog.Version{Name: h.To.Name, GUID: h.To.GUID, Created: h.Created}, func(hd *catalog.Head) {
		hd.Receiving = nil
		hashed(hd)
	})
	return err
}

// Abort gives up a pending receive and returns the head to its newest version.
func (v *Volume) Abort(ctx context.Context) error {
	if err := v.claimReceive(); err != nil {
		return failed("abort", v.o.Name, err)
	}
	defer v.endReceive()
	v.admin.Lock()
	defer v.admin.Unlock()
	if v.closed {
		return errClosed
	}
	st := v.state()
	if st.Head.Receiving == nil {
		return nil
	}
	forget := func(h *catalog.Head) { h.Receiving = nil }
	if v.o.Faults.has(FaultAbortForgets) {
		return v.commit("abort", func(_ *catalog.State, h *catalog.Head) catalog.Edit { forget(h); return catalog.Edit{} })
	}
	if from := st.Head.Receiving.From; !from.IsZero() {
		base, _ := st.NewestSnapshot()
		err := v.startRollback(base.Name, nil, forget)
		if err == nil {
			err = v.resumeRollback(ctx)
		}
		return failed("abort receive into", v.o.Name, err)
	}
	return failed("abort receive into", v.o.Name, v.emptyHead(ctx))
}

// emptyHead undoes a full receive. The point goes first: nothing may go on from
// there once the head is being emptied.
func (v *Volume) emptyHead(ctx context.Context) error {
	if err := v.activate(); err != nil {
		return err
	}
	record := func(why string, change func(h *catalog.Head)) error {
		return v.commit(why, func(_ *catalog.State, h *catalog.Head) catalog.Edit {
			change(h)
			return catalog.Edit{}
		})
	}
	err := record("abort", func(h *catalog.Head) {
		rc := *h.Receiving
		rc.Token, rc.Received = nil, 0
		h.Receiving = &rc
	})
	if err != nil {
		return err
	}
	if err := v.writeZeroes(ctx, 0, v.size, internal, cairn.MayUnmap); err != nil {
		return err
	}
	if err := v.flush(); err != nil {
		return err
	}
	return record("aborted", func(h *catalog.Head) { h.Receiving = nil })
}

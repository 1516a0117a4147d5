package memory

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"cairn"
	"cairn/internal/format/blocks"
)

// readMax is the most that one read of a body moves, so that a context or a hook
// takes effect in the middle of small streams too.
const readMax = 32 << 10

// body is one end of a stream: it asks the hooks before each read.
type body struct {
	p    *Place
	ctx  context.Context
	call Call
	r    io.Reader
}

func (b *body) Read(buf []byte) (int, error) {
	if err := b.p.ask(b.ctx, b.call); err != nil {
		return 0, err
	}
	n, err := b.r.Read(buf[:min(len(buf), readMax)])
	b.call.Bytes += int64(n)
	return n, err
}

// sending is the body that a caller of Send reads. Close ends a read that hangs.
type sending struct {
	body
	once  sync.Once
	close func()
}

func (s *sending) Close() error {
	s.once.Do(s.close)
	return nil
}

// step looks a step's ends up and tells which blocks its stream carries.
func (d *dataset) step(s cairn.Step) (to *version, set blockSet, err error) {
	if to, err = d.find("send", s.To); err != nil {
		return nil, nil, err
	}
	if to.image == nil {
		return nil, nil, failed("send", d.info.Name+s.To.Name, cairn.KindInvalid, errors.New("a bookmark has no data"))
	}
	if len(s.Via) > 0 {
		return nil, nil, failed("send", d.info.Name+s.To.Name, cairn.KindUnsupported, errors.New("a stream of blocks carries one version"))
	}
	set = blockSet{}
	if s.From.IsZero() {
		for i, b := range to.image.blocks {
			if b != nil {
				set[int64(i)] = struct{}{}
			}
		}
		return to, set, nil
	}
	if s.Origin != "" {
		if d.info.Origin != (cairn.Origin{Dataset: s.Origin, VersionID: s.From}) {
			return nil, nil, failed("send", d.info.Name+s.To.Name, cairn.KindConflict, fmt.Errorf("it is no clone of %s%s", s.Origin, s.From.Name))
		}
		return to, d.changed(0, to), nil
	}
	from, err := d.find("send", s.From)
	if err != nil {
		return nil, nil, err
	}
	if from.Order >= to.Order {
		return nil, nil, failed("send", d.info.Name+s.To.Name, cairn.KindInvalid, fmt.Errorf("it is not newer than %s", s.From))
	}
	return to, d.changed(from.Order, to), nil
}

// Send is cairn.Sender's.
func (p *Place) Send(ctx context.Context, s cairn.Step, accept []cairn.Format) (*cairn.Stream, error) {
	call := Call{Ability: "send", Dataset: s.Dataset, Stage: Begin}
	if err := p.ask(ctx, call); err != nil {
		return nil, err
	}
	if !slices.Contains(accept, cairn.FormatBlocks) {
		return nil, failed("send", s.Dataset, cairn.KindUnsupported, fmt.Errorf("none of the formats %v", accept))
	}
	var to *version
	var content *bytes.Buffer
	var resume int64
	err := p.locked("send", s.Dataset, func(d *dataset) error {
		v, set, err := d.step(s)
		if err != nil {
			return err
		}
		if content, resume, err = encode(v, s, set); err != nil {
			return err
		}
		to = v
		v.users++
		return nil
	})
	if err != nil {
		return nil, err
	}
	call.Stage = Body
	h := cairn.StreamHeader{Format: cairn.FormatBlocks, Dataset: s.Dataset, Kind: cairn.KindVolume, Origin: s.Origin, From: s.From,
		To: to.Version, Volume: to.Size, Resume: resume, Size: int64(content.Len())}
	ctx, cancel := context.WithCancel(ctx)
	return &cairn.Stream{Header: h, Body: &sending{body: body{p: p, ctx: ctx, call: call, r: content}, close: func() {
		cancel()
		p.mu.Lock()
		defer p.mu.Unlock()
		to.users--
	}}}, nil
}

// encode renders the whole stream: contents here are small.
func encode(v *version, s cairn.Step, set blockSet) (*bytes.Buffer, int64, error) {
	var out bytes.Buffer
	w, err := blocks.NewWriter(&out, blocks.Header{Size: v.Size, Sector: sector, From: s.From, To: v.VersionID, Created: v.Created},
		blocks.WriterOptions{Resume: s.Resume, PointBytes: readMax})
	if err != nil {
		return nil, 0, err
	}
	for _, e := range set.extents(v.Size) {
		for off := e.Offset; off < e.End(); off += cairn.BlockSize {
			if err := encodeBlock(w, v, off, min(cairn.BlockSize, e.End()-off)); err != nil {
				return nil, 0, err
			}
		}
	}
	return &out, w.Position(), w.End()
}

func encodeBlock(w *blocks.Writer, v *version, off, length int64) error {
	if off < w.Position() {
		return nil
	}
	b := v.image.blocks[off/cairn.BlockSize]
	switch {
	case b == nil:
		return w.Zero(off, length)
	case !b.sound():
		return failed("send", v.Name, cairn.KindDamaged, fmt.Errorf("block at %d", off))
	}
	return w.Data(off, b.data[:length])
}

// Abort is cairn.Receiver's.
func (p *Place) Abort(ctx context.Context, ds string) error {
	return p.change(ctx, "abort", ds, func(d *dataset) error {
		if d.receiving {
			return failed("abort", ds, cairn.KindBusy, errors.New("the receive is running"))
		}
		if d.partial != nil {
			d.partial = nil
			p.forget(d)
		}
		return nil
	})
}

// forget removes a dataset that a receive made and never filled; p.mu is held.
func (p *Place) forget(d *dataset) {
	if d.unfilled {
		delete(p.datasets, d.info.Name)
	}
}

// Receive is cairn.Receiver's.
func (p *Place) Receive(ctx context.Context, s *cairn.Stream, o cairn.ReceiveOptions) (cairn.Received, error) {
	defer func() { _ = s.Body.Close() }() // what it held was read and checked
	call := Call{Ability: "receive", Dataset: s.Header.Dataset, Stage: Begin}
	if err := p.ask(ctx, call); err != nil {
		return cairn.Received{}, err
	}
	in, err := p.begin(s.Header)
	if err != nil {
		return cairn.Received{}, err
	}
	call.Stage = Body
	src := &body{p: p, ctx: ctx, call: call, r: s.Body}
	stop := context.AfterFunc(ctx, func() { _ = s.Body.Close() }) // ends a read that hangs
	err = in.read(src)
	stop()
	if err != nil && ctx.Err() != nil {
		err = p.failed(call, fmt.Errorf("%w: %w", ctx.Err(), err))
	}
	call.Stage = Commit
	if err == nil {
		err = p.ask(ctx, call)
	}
	if err := p.end(in, err); err != nil {
		return cairn.Received{}, err
	}
	call.Stage = Done
	return cairn.Received{Versions: []cairn.VersionID{s.Header.To.VersionID}, Bytes: src.call.Bytes}, p.asked(ctx, call)
}

// incoming is one receive under way; only its own goroutine uses it.
type incoming struct {
	header  cairn.StreamHeader
	dataset *dataset
	base    *version // nil for a full stream; counted in users
	partial *partial // what is kept when it is cut
	image   *image
	changed blockSet
}

// begin checks that the stream fits, and claims the dataset.
func (p *Place) begin(h cairn.StreamHeader) (*incoming, error) {
	refuse := func(k cairn.Kind, format string, args ...any) (*incoming, error) {
		return nil, &cairn.Error{Op: "receive", Subject: h.Dataset + h.To.Name, Place: p.name, Kind: k, Err: fmt.Errorf(format, args...)}
	}
	if h.Format != cairn.FormatBlocks || h.Kind != cairn.KindVolume || len(h.Via) > 0 {
		return refuse(cairn.KindUnsupported, "format %s of a %s", h.Format, h.Kind)
	}
	for _, err := range []error{cairn.CheckDatasetName(h.Dataset), cairn.CheckVersionName(h.To.Name)} {
		if err != nil {
			return nil, err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	d := p.datasets[h.Dataset]
	var origin *version
	switch {
	case h.Origin != "" && d != nil && d.newest() != nil:
		return refuse(cairn.KindConflict, "the stream makes a clone, and the dataset is here")
	case h.Origin != "":
		if origin = p.snapshotOf(h.Origin, h.From.GUID); origin == nil {
			return refuse(cairn.KindConflict, "the stream makes a clone of %s%s (%v), which is not here", h.Origin, h.From.Name, h.From.GUID)
		}
	}
	if d == nil {
		if !h.From.IsZero() && origin == nil {
			return refuse(cairn.KindConflict, "the base %s (%v) is not here: the dataset does not exist", h.From.Name, h.From.GUID)
		}
		d = newDataset(h.Dataset, h.Volume)
		d.info.Sealed, d.unfilled = true, true
		if origin != nil {
			d.info.Origin = cairn.Origin{Dataset: h.Origin, VersionID: origin.VersionID}
		}
	}
	for _, v := range d.versions {
		switch {
		case v.GUID == h.To.GUID && v.IsSnapshot():
			return refuse(cairn.KindExists, "it is there as %s", v.Name)
		case v.Name == h.To.Name:
			return refuse(cairn.KindConflict, "%s is there with GUID %v, the stream brings %v", v.Name, v.GUID, h.To.GUID)
		}
	}
	in := &incoming{header: h, dataset: d}
	newest := d.newest()
	switch {
	case d.receiving:
		return refuse(cairn.KindBusy, "another receive is running")
	case !d.info.Sealed:
		return refuse(cairn.KindConflict, "the head is not sealed: it may hold writes of its own")
	case h.From.IsZero() && newest != nil:
		return refuse(cairn.KindConflict, "a full stream onto a dataset that has %s (%v)", newest.Name, newest.GUID)
	case h.From.IsZero():
	case origin != nil:
		in.base = origin
		in.base.users++
	case newest == nil || newest.GUID != h.From.GUID || newest.image == nil:
		return refuse(cairn.KindConflict, "the stream stands on %s (%v), the newest version here is %s", h.From.Name, h.From.GUID, newest.text())
	default:
		in.base = newest
		in.base.users++
	}
	if !in.start() {
		in.release()
		return refuse(cairn.KindConflict, "it goes on from byte %d of a receive that is not here", h.Resume)
	}
	p.datasets[h.Dataset] = d
	d.receiving = true
	return in, nil
}

// snapshotOf finds a snapshot by its GUID; p.mu is held.
func (p *Place) snapshotOf(ds string, guid cairn.GUID) *version {
	d := p.datasets[ds]
	if d == nil {
		return nil
	}
	for _, v := range d.versions {
		if v.GUID == guid && v.image != nil {
			return v
		}
	}
	return nil
}

func (v *version) text() string {
	if v == nil {
		return "none"
	}
	return fmt.Sprintf("%s (%v)", v.Name, v.GUID)
}

// start sets what the stream is applied to; p.mu is held. It fails when there is
// nothing to resume.
func (in *incoming) start() bool {
	old, h := in.dataset.partial, in.header
	if h.Resume > 0 {
		if old == nil || old.To != h.To.VersionID || old.Received != h.Resume {
			return false
		}
		in.partial = old
		in.image, in.changed = old.image.clone(), blockSet{}
		in.changed.add(old.changed)
		return true
	}
	in.image, in.changed = newImage(h.Volume), blockSet{}
	if in.base != nil {
		in.image = in.base.image.clone()
		if in.image.size != h.Volume {
			in.image.resize(h.Volume, in.changed)
		}
	}
	in.partial = &partial{Partial: cairn.Partial{From: h.From, To: h.To.VersionID}, image: in.image.clone(), changed: blockSet{}}
	return true
}

func (in *incoming) release() {
	if in.base != nil {
		in.base.users--
	}
}

// read applies the whole body; at each point of the stream what came before is
// kept.
func (in *incoming) read(src io.Reader) error {
	r, err := blocks.NewReader(src, blocks.ReaderOptions{Resume: in.partial.Token})
	if err != nil {
		return err
	}
	if h := r.Header(); h.To != in.header.To.VersionID || h.From.GUID != in.header.From.GUID || h.Size != in.header.Volume {
		return failed("receive", in.header.Dataset+in.header.To.Name, cairn.KindCorrupt, errors.New("the stream is not the one its header tells of"))
	}
	for {
		rec, err := r.Next()
		switch {
		case err == io.EOF: //nolint:errorlint // only EOF itself vouches for the stream
			return nil
		case err != nil:
			return err
		case rec.Kind == blocks.KindPoint:
			in.keep(rec.Offset, r.Token())
		case rec.Kind == blocks.KindData:
			in.image.write(rec.Offset, rec.Data, in.changed)
		default:
			in.image.zero(rec.Offset, rec.Length, in.changed)
		}
	}
}

func (in *incoming) keep(at int64, token []byte) {
	kept := &partial{Partial: in.partial.Partial, image: in.image.clone(), changed: blockSet{}}
	kept.Received, kept.Token = at, token
	kept.changed.add(in.changed)
	in.partial = kept
}

// end commits, or keeps what arrived.
func (p *Place) end(in *incoming, err error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	d := in.dataset
	d.receiving = false
	in.release()
	if err != nil {
		d.partial = in.partial
		if d.partial.Received == 0 {
			d.partial = nil
			p.forget(d)
		}
		var e *cairn.Error
		if !errors.As(err, &e) {
			err = failed("receive", in.header.Dataset+in.header.To.Name, cairn.KindOther, err)
		}
		return err
	}
	d.partial, d.unfilled = nil, false
	d.head = in.image
	d.dirty = in.changed
	d.capture(in.header.To.VersionID, in.header.To.Created)
	return nil
}

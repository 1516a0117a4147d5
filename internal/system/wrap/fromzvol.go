package wrap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"cairn"
	"cairn/internal/format/blocks"
	"cairn/internal/format/zfsstream"
)

// fromZvol receives the streams of zvols into volumes.
type fromZvol struct {
	cairn.Receiver
	ep *cairn.Endpoint
}

// zvolSector is the logical sector of a zvol's device, whatever its volblocksize.
const zvolSector = 512

// Receive makes a stream of blocks of a zvol's as it comes; others pass.
func (f fromZvol) Receive(ctx context.Context, s *cairn.Stream, o cairn.ReceiveOptions) (cairn.Received, error) {
	if s.Header.Format != cairn.FormatZFS {
		return f.Receiver.Receive(ctx, s, o)
	}
	stop := context.AfterFunc(ctx, func() { _ = s.Body.Close() }) // ends a read that hangs
	defer stop()
	b, err := f.translation(ctx, s)
	if err != nil {
		_ = s.Body.Close() // the first error counts
		if ctx.Err() != nil {
			err = &cairn.Error{Op: "receive", Subject: s.Header.Dataset + s.Header.To.Name, Kind: cairn.KindCanceled, Err: errors.Join(ctx.Err(), err)}
		}
		return cairn.Received{}, err
	}
	h := s.Header
	h.Format, h.Kind, h.Resume = cairn.FormatBlocks, cairn.KindVolume, b.start
	got, err := f.Receiver.Receive(ctx, &cairn.Stream{Header: h, Body: b}, o)
	got.Bytes = b.below.n.Load()
	return got, err
}

// translation checks the stream's own header against what was said of it, and finds
// where a cut receive stands.
func (f fromZvol) translation(ctx context.Context, s *cairn.Stream) (*volumeBody, error) {
	h := s.Header
	fail := func(kind cairn.Kind, hint, format string, args ...any) (*volumeBody, error) {
		return nil, &cairn.Error{Op: "receive", Subject: h.Dataset + h.To.Name, Kind: kind, Err: fmt.Errorf(format, args...), Hint: hint}
	}
	if len(h.Via) > 0 {
		return fail(cairn.KindUnsupported, "send one step per version", "a volume takes one version at a time, the stream carries %d", len(h.Via)+1)
	}
	if h.Origin != "" {
		return fail(cairn.KindUnsupported, "send it whole", "a volume is no clone of another one")
	}
	b := &volumeBody{ctx: ctx, ep: f.ep, header: h, below: &counted{body: s.Body}}
	in, err := zfsstream.NewVolumeReader(b.below)
	if err != nil {
		return nil, err
	}
	is := in.Header()
	if is.ToGUID != h.To.GUID || is.FromGUID != h.From.GUID {
		return fail(cairn.KindCorrupt, "", "the stream carries %v on %v, its header says %v on %v", is.ToGUID, is.FromGUID, h.To.GUID, h.From.GUID)
	}
	if h.Volume <= 0 {
		return fail(cairn.KindInvalid, "use a cairn at the sending side too", "the sender does not say how large the zvol is")
	}
	var token []byte
	if _, offset, resumed := is.Resume(); resumed {
		p, err := f.partial(ctx, h.Dataset)
		switch {
		case err != nil:
			return nil, err
		case p == nil || p.To.GUID != h.To.GUID || uint64(p.Received) < offset:
			return fail(cairn.KindConflict, "plan anew", "the stream goes on from byte %d, and no receive was cut there", offset)
		}
		token = p.Token
	}
	created := h.To.Created
	if created.IsZero() {
		created = is.Created
	}
	b.in = in
	b.out, err = blocks.NewWriter(&b.buf, blocks.Header{Size: h.Volume, Sector: zvolSector, From: h.From, To: h.To.VersionID, Created: created}, blocks.WriterOptions{Resume: token})
	if err != nil {
		return nil, err
	}
	b.start = b.out.Position()
	return b, nil
}

// partial is the dataset's pending receive.
func (f fromZvol) partial(ctx context.Context, dataset string) (*cairn.Partial, error) {
	for l, err := range f.ep.Lister.List(ctx, cairn.Query{Filter: cairn.All, Names: []string{dataset}, Want: cairn.Want{Partial: true}}) {
		if err != nil {
			return nil, err
		}
		return l.Partial, nil
	}
	return nil, nil
}

// volumeBody makes the stream of a volume as it is read.
type volumeBody struct {
	ctx    context.Context
	ep     *cairn.Endpoint
	header cairn.StreamHeader
	below  *counted
	start  int64 // what lies before is there

	mu    sync.Mutex // guards what follows: Close may come while Read runs
	in    *zfsstream.VolumeReader
	out   *blocks.Writer
	buf   bytes.Buffer
	block []byte // a block that came in part; empty: none
	at    int64  // its offset
	base  cairn.BlockReader
	err   error
}

// Read gives the next bytes of the stream.
func (b *volumeBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.buf.Len() == 0 {
		if b.err != nil {
			return 0, b.err
		}
		b.err = b.produce()
	}
	return b.buf.Read(p)
}

// produce translates one extent, io.EOF after the last.
func (b *volumeBody) produce() error {
	e, err := b.in.Next()
	if isEnd(err) {
		return b.end()
	}
	if err != nil {
		return err
	}
	if e = cutTo(e, b.start, b.header.Volume); e.Length <= 0 {
		return nil
	}
	for e.Length > 0 {
		n, err := b.piece(e)
		if err != nil {
			return err
		}
		e = cutTo(e, e.Offset+n, b.header.Volume)
	}
	return nil
}

// cutTo is the part of an extent between two offsets; nothing is behind the end of
// a zvol, and what lies before the start of a resumed stream is there.
func cutTo(e zfsstream.Extent, start, end int64) zfsstream.Extent {
	if skip := min(max(start-e.Offset, 0), e.Length); skip > 0 {
		e.Offset, e.Length = e.Offset+skip, e.Length-skip
		if e.Data != nil {
			e.Data = e.Data[skip:]
		}
	}
	e.Length = min(e.Length, end-e.Offset)
	return e
}

// piece writes as much of an extent as can be written at once: the whole blocks, or
// what belongs to one block.
func (b *volumeBody) piece(e zfsstream.Extent) (int64, error) {
	within := e.Offset % cairn.BlockSize
	whole := e.Length &^ (cairn.BlockSize - 1)
	if e.Offset+e.Length == b.header.Volume {
		whole = e.Length
	}
	if within == 0 && whole > 0 {
		err := b.settle()
		switch {
		case err != nil:
		case e.Data != nil:
			err = b.out.Data(e.Offset, e.Data[:whole])
		case !b.header.From.IsZero(): // what a full stream leaves out reads as zeroes
			err = b.out.Discard(e.Offset, whole)
		}
		return whole, err
	}
	if at := e.Offset - within; len(b.block) == 0 || at != b.at {
		if err := b.load(at); err != nil {
			return 0, err
		}
	}
	n := min(e.Length, int64(len(b.block))-within)
	if e.Data == nil {
		clear(b.block[within : within+n])
	} else {
		copy(b.block[within:], e.Data[:n])
	}
	return n, nil
}

// load begins a block of which the stream has a part, with what the base has there.
func (b *volumeBody) load(at int64) error {
	if err := b.settle(); err != nil {
		return err
	}
	b.at = at
	b.block = append(b.block[:0], make([]byte, min(cairn.BlockSize, b.header.Volume-at))...)
	if b.header.From.IsZero() {
		return nil
	}
	if b.base == nil {
		if err := b.openBase(); err != nil {
			return err
		}
	}
	if n := min(int64(len(b.block)), b.base.Size()-at); n > 0 {
		return b.base.ReadAt(b.ctx, b.block[:n], at)
	}
	return nil
}

// openBase opens the snapshot that the stream stands on, whatever its name is here.
func (b *volumeBody) openBase() error {
	dataset, guid := b.header.Dataset, b.header.From.GUID
	if b.ep.Blocks == nil {
		return b.ep.Lacks("blocks", dataset)
	}
	for l, err := range b.ep.Lister.List(b.ctx, cairn.Query{Filter: cairn.All, Names: []string{dataset}, Want: cairn.Want{Versions: true}}) {
		if err != nil {
			return err
		}
		for _, v := range l.Versions {
			if v.GUID == guid && v.IsSnapshot() {
				b.base, err = b.ep.Blocks.OpenVersion(b.ctx, dataset, v.VersionID)
				return err
			}
		}
	}
	return &cairn.Error{Op: "receive", Subject: dataset + b.header.To.Name, Kind: cairn.KindConflict, Err: fmt.Errorf("there is no snapshot with the base's GUID %v", guid), Hint: "send a full stream"}
}

// settle writes the block that came in part.
func (b *volumeBody) settle() error {
	if len(b.block) == 0 {
		return nil
	}
	err := b.out.Data(b.at, b.block)
	b.block = b.block[:0]
	return err
}

// end vouches for the whole, once the zvol's size is known to be the one announced.
func (b *volumeBody) end() error {
	if size := b.in.Size(); size != 0 && size != b.header.Volume {
		return &cairn.Error{Op: "read zfs stream", Subject: b.header.To.Name, Kind: cairn.KindCorrupt, Err: fmt.Errorf("the zvol has %d bytes, its header says %d", size, b.header.Volume)}
	}
	if err := b.settle(); err != nil {
		return err
	}
	if err := b.out.End(); err != nil {
		return err
	}
	return io.EOF
}

// Close closes the stream below, which ends a Read that waits, and what was opened.
func (b *volumeBody) Close() error {
	err := b.below.body.Close()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.base != nil {
		err = errors.Join(err, b.base.Close())
		b.base = nil
	}
	b.err = &cairn.Error{Op: "read stream", Subject: b.header.To.Name, Kind: cairn.KindCanceled, Hint: "it was closed"}
	return err
}

// counted counts a body's bytes.
type counted struct {
	body io.ReadCloser
	n    atomic.Int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.body.Read(p)
	c.n.Add(int64(n))
	return n, err
}

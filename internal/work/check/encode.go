package check

import (
	"bytes"
	"context"
	"io"
	"slices"
	"sync"

	"cairn"
	"cairn/internal/format/blocks"
)

// encoded is a stream that a rule made itself.
type encoded struct {
	header cairn.StreamHeader
	bytes  []byte
}

// encode makes the stream from → to (from nil: full) for a receiver.
func (l *lab) encode(ds string, from *point, to point, resume []byte) encoded {
	if l.zvols() {
		return l.encodeZvol(ds, from, to, resume)
	}
	if !slices.Contains(l.Info.Accepts[cairn.KindVolume], cairn.FormatBlocks) {
		panic(notOffered("it does not accept " + string(cairn.FormatBlocks)))
	}
	h := blocks.Header{Size: int64(len(to.content)), Sector: 512, To: to.VersionID, Created: to.created}
	var base []byte
	if from != nil {
		h.From, base = from.VersionID, from.content
	}
	var out bytes.Buffer
	w, err := blocks.NewWriter(&out, h, blocks.WriterOptions{Resume: resume})
	l.ok("encode a stream", err)
	for _, e := range differing(base, to.content) {
		if e.Offset >= w.Position() {
			l.ok("encode a stream", w.Data(e.Offset, to.content[e.Offset:e.End()]))
		}
	}
	l.ok("encode a stream", w.End())
	return encoded{cairn.StreamHeader{Format: cairn.FormatBlocks, Dataset: ds, Kind: cairn.KindVolume, From: h.From,
		To: cairn.Version{VersionID: to.VersionID, Created: to.created, Size: h.Size}, Volume: h.Size, Resume: w.Position(), Size: int64(out.Len())}, out.Bytes()}
}

// receive hands the stream over and makes sure that its body gets closed.
func (l *lab) receive(e encoded) (cairn.Received, error) {
	b := newBody(e.bytes)
	r, err := l.Receiver.Receive(l.ctx, &cairn.Stream{Header: e.header, Body: b}, cairn.ReceiveOptions{Owner: "check"})
	if !b.isClosed() {
		l.fail("receive of %s%s did not close the body", e.header.Dataset, e.header.To.Name)
	}
	if err == nil && !b.atEOF() {
		l.fail("receive of %s%s committed before it had read the body to EOF", e.header.Dataset, e.header.To.Name)
	}
	return r, err
}

// receiveAll makes the versions one after the other.
func (l *lab) receiveAll(ds string, points []point) {
	if l.Receiver == nil {
		panic(notOffered("datasets can neither be created nor received here"))
	}
	var from *point
	for i := range points {
		_, err := l.receive(l.encode(ds, from, points[i], nil))
		l.ok("receive "+ds+points[i].Name, err)
		from = &points[i]
	}
}

// body is a stream's body that remembers how it was used, and may stop half way.
type body struct {
	mu     sync.Mutex // guards what follows
	rest   []byte
	eof    bool
	closed bool

	hangAt  int           // with this many bytes left, Read blocks; -1 never
	hanging chan struct{} // closed when Read blocks
	resume  chan struct{} // closing it lets Read go on
	gone    chan struct{} // closed by Close
	cutAt   int           // with this many bytes left, Read fails with cut; -1 never
	cut     error
}

func newBody(p []byte) *body {
	return &body{rest: p, hangAt: -1, cutAt: -1, hanging: make(chan struct{}), resume: make(chan struct{}), gone: make(chan struct{})}
}

// Read hands out at most 16 KiB, and stops exactly where it is to hang or fail.
func (b *body) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.hangAt >= 0 && len(b.rest) <= b.hangAt {
		b.hangAt = -1
		close(b.hanging)
		b.mu.Unlock()
		select {
		case <-b.resume:
		case <-b.gone:
		}
		b.mu.Lock()
	}
	switch {
	case b.closed:
		return 0, io.ErrClosedPipe
	case b.cutAt >= 0 && len(b.rest) <= b.cutAt:
		return 0, b.cut
	case len(b.rest) == 0:
		b.eof = true
		return 0, io.EOF
	}
	n := len(b.rest)
	for _, stop := range []int{b.hangAt, b.cutAt} {
		if stop >= 0 {
			n = min(n, len(b.rest)-stop)
		}
	}
	n = copy(p, b.rest[:min(n, 16<<10)])
	b.rest = b.rest[n:]
	return n, nil
}

func (b *body) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closed {
		b.closed = true
		close(b.gone)
	}
	return nil
}

func (b *body) isClosed() bool { b.mu.Lock(); defer b.mu.Unlock(); return b.closed }
func (b *body) atEOF() bool    { b.mu.Lock(); defer b.mu.Unlock(); return b.eof }

// cutReceive hands over a stream that fails with the given number of bytes left.
func (l *lab) cutReceive(e encoded, left int, cut error) error {
	b := newBody(e.bytes)
	b.cutAt, b.cut = left, cut
	_, err := l.Receiver.Receive(l.ctx, &cairn.Stream{Header: e.header, Body: b}, cairn.ReceiveOptions{Owner: "check"})
	if !b.isClosed() {
		l.fail("a receive that was cut did not close the body")
	}
	return err
}

// hangingReceive starts a receive whose body stops with so many bytes left, and
// waits until it does. The result comes on the channel.
func (l *lab) hangingReceive(ctx context.Context, e encoded, left int) (*body, <-chan error) {
	b := newBody(e.bytes)
	b.hangAt = left
	done := make(chan error, 1)
	go func() {
		_, err := l.Receiver.Receive(ctx, &cairn.Stream{Header: e.header, Body: b}, cairn.ReceiveOptions{Owner: "check"})
		done <- err
	}()
	select {
	case <-b.hanging:
	case err := <-done:
		l.fail("receive ended before the body did: %v", err)
	case <-l.ctx.Done():
		l.fail("receive does not read its body")
	}
	return b, done
}

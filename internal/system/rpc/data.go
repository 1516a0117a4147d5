package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"cairn"
	"cairn/internal/mech/frame"
)

const (
	dataFrame = 256 << 10 // payload bytes of a frame of bulk data
	dataFill  = 64 << 10  // that are gathered before a frame goes out, unless the body ends
)

// paced is how many frames of a push are asked for one by one. So a receiver that
// refuses a stream leaves its body unread, and a body of which a second piece is
// read stands at an endpoint that has taken the first, and holds what it needs.
const paced = 2

// upload sends body over a data connection until it ends, and then its end: the
// length, and the error if body ended with one. Heartbeats go out while body
// gives nothing. wants, when not nil, is read before each of the first frames.
// It returns the error of the body, or else of the connection, and leaves both
// open. When ctx ends the connection is closed.
func upload(ctx context.Context, conn net.Conn, t Timings, body io.Reader, wants *frame.Reader, moved func(int64)) (bodyErr, connErr error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	w := &dataWriter{conn: conn, turn: make(chan struct{}, 1)}
	quit := make(chan struct{})
	var beats sync.WaitGroup
	beats.Go(func() { w.beats(t.Beat, quit) })
	defer beats.Wait()
	defer close(quit)

	buf := make([]byte, frame.HeaderSize+dataFrame)
	total := int64(0)
	for frames := 0; ; frames++ {
		enough := dataFill
		if wants != nil && frames < paced {
			enough = 1
			if connErr = readMessage(wants, frameWant, &nothing{}); connErr != nil {
				return nil, connErr
			}
		}
		n, err := fill(body, buf[frame.HeaderSize:], enough)
		if n > 0 {
			if connErr = w.write(frameData, buf[:frame.HeaderSize+n]); connErr != nil {
				return nil, connErr
			}
			total += int64(n)
			moved(total)
		}
		if err == nil {
			continue
		}
		if err == io.EOF { //nolint:errorlint // bare: what wraps it vouches for nothing
			err = nil
		}
		last := append(buf[:frame.HeaderSize], encode(&end{total, err})...)
		return err, w.write(frameEnd, last)
	}
}

// fill reads until p holds enough for a frame or the body ends.
func fill(body io.Reader, p []byte, enough int) (n int, err error) {
	for idle := 0; n < enough && err == nil; {
		var got int
		got, err = body.Read(p[n:])
		n += got
		if idle++; got > 0 {
			idle = 0
		}
		if idle > 100 {
			err = io.ErrNoProgress
		}
	}
	return n, err
}

// dataWriter numbers the frames of a data connection.
type dataWriter struct {
	conn net.Conn
	turn chan struct{} // whoever writes holds its one token
	seq  uint32        // held with the token, like over
	over bool          // the end is sent: nothing may follow
}

// write sends one frame whose payload is buf[frame.HeaderSize:].
func (w *dataWriter) write(kind uint8, buf []byte) error {
	w.turn <- struct{}{}
	defer func() { <-w.turn }()
	return w.writeTurn(kind, buf)
}

func (w *dataWriter) writeTurn(kind uint8, buf []byte) error {
	frame.Seal(buf, frame.Header{Type: kind, ID: w.seq})
	w.seq++
	w.over = kind == frameEnd
	_, err := w.conn.Write(buf)
	return err
}

// beats shows that the sender lives while it has nothing to send; a write under
// way shows it too.
func (w *dataWriter) beats(every time.Duration, quit <-chan struct{}) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-quit:
			return
		}
		select {
		case w.turn <- struct{}{}:
			over := w.over || w.writeTurn(frameBeat, make([]byte, frame.HeaderSize)) != nil
			<-w.turn
			if over {
				return // whoever writes data finds out about a failure too
			}
		default:
		}
	}
}

// download is the body of a stream that comes over a data connection. Read and
// Close may be called at once; Close ends a Read.
type download struct {
	ctx    context.Context
	conn   net.Conn
	in     *frame.Reader
	limit  time.Duration // of silence
	moved  func(total int64)
	op     string // for errors
	stop   func() bool
	closed sync.Once
	whole  atomic.Bool // the sender's word was read

	// owned by the goroutine that reads
	wants int // frames still to be asked for
	asked bool
	seq   uint32
	buf   []byte
	left  []byte // part of buf that was not handed out yet
	total int64
	err   error // how the body ended; io.EOF when the sender vouches for it
}

// newDownload reads a data connection from its first data frame on. When ctx ends
// the connection is closed.
func newDownload(ctx context.Context, conn *dataConn, op string, moved func(int64)) *download {
	return &download{ctx: ctx, conn: conn, in: frame.NewReader(conn.in, dataFrame), limit: conn.in.limit, moved: moved, op: op,
		stop: context.AfterFunc(ctx, func() { _ = conn.Close() })}
}

func (d *download) Read(p []byte) (int, error) {
	for len(d.left) == 0 {
		if d.err != nil {
			return 0, d.err
		}
		if len(p) == 0 {
			return 0, nil
		}
		n, err := d.next(p)
		if err != nil {
			d.err = err
		}
		if n > 0 {
			return n, nil
		}
	}
	n := copy(p, d.left)
	d.left = d.left[n:]
	return n, nil
}

// WriteTo saves io.Copy its buffer.
func (d *download) WriteTo(w io.Writer) (int64, error) {
	written := int64(0)
	for {
		if len(d.left) > 0 {
			n, err := w.Write(d.left)
			d.left = d.left[n:]
			written += int64(n)
			if err != nil {
				return written, err
			}
		}
		if d.err == nil {
			_, d.err = d.next(nil)
		}
		if d.err != nil && len(d.left) == 0 {
			if d.whole.Load() {
				return written, nil
			}
			return written, d.err
		}
	}
}

// next reads a frame: its data straight into p when it fits, else into left.
func (d *download) next(p []byte) (int, error) {
	if err := errors.Join(d.ctx.Err(), d.want()); err != nil {
		return 0, d.cut(err)
	}
	h, err := d.in.Header()
	if err != nil {
		return 0, d.cut(err)
	}
	if h.ID != d.seq {
		return 0, d.cut(errors.New("a frame is missing"))
	}
	d.seq++
	direct := h.Type == frameData && h.Length <= len(p)
	if !direct {
		if cap(d.buf) < h.Length {
			d.buf = make([]byte, max(h.Length, dataFill))
		}
		p = d.buf
	}
	p = p[:h.Length]
	if err := d.in.Payload(p); err != nil {
		return 0, d.cut(err)
	}
	switch h.Type {
	case frameData:
		d.asked = false
		d.total += int64(h.Length)
		d.moved(d.total)
		if direct {
			return h.Length, nil
		}
		d.left = p
		return 0, nil
	case frameBeat:
		return 0, nil
	case frameEnd:
		return 0, d.ended(p)
	}
	return 0, d.cut(errors.New("unknown frame type"))
}

// want asks for a frame, where it has to be asked for.
func (d *download) want() error {
	if d.asked || d.wants == 0 {
		return nil
	}
	d.asked = true
	d.wants--
	if err := d.conn.SetWriteDeadline(time.Now().Add(d.limit)); err != nil {
		return err
	}
	_, err := d.conn.Write(frame.Append(nil, frame.Header{Type: frameWant}, nil))
	return err
}

// ended reads the sender's last word; io.EOF when all is there.
func (d *download) ended(p []byte) error {
	var last end
	if err := decode(p, &last); err != nil {
		return d.cut(err)
	}
	if last.err != nil {
		return &cairn.Error{Op: d.op, Kind: cairn.KindOf(last.err), Err: last.err}
	}
	if last.bytes != d.total || d.ctx.Err() != nil {
		return d.cut(fmt.Errorf("the sender sent %d bytes", last.bytes))
	}
	d.whole.Store(true)
	return io.EOF
}

func (d *download) cut(err error) error {
	kind := cairn.KindUnavailable
	switch {
	case d.ctx.Err() != nil:
		kind, err = cairn.KindCanceled, d.ctx.Err()
	case errors.Is(err, cairn.KindCorrupt):
		kind = cairn.KindCorrupt
	case errors.Is(err, io.EOF): // to no reader may a cut look like an end
		err = io.ErrUnexpectedEOF
	}
	return &cairn.Error{Op: d.op, Kind: kind, Err: fmt.Errorf("cut after %d bytes: %w", d.total, err)}
}

// Close ends the transfer.
func (d *download) Close() error {
	d.closed.Do(func() {
		d.stop()
		_ = d.conn.Close() // what was vouched for has been read
	})
	return nil
}

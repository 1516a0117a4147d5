package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"cairn"
	"cairn/internal/mech/frame"
)

const (
	dataFrame = 256 << 10 // payload bytes of a frame of bulk data
	dataFill  = 64 << 10  // that are gathered before a frame goes out, unless the body ends
)

// upload sends body over a data connection until it ends, and then its end: the
// length, and the error if body ended with one. Heartbeats go out while body
// gives nothing. It returns the error of the body, or else of the connection, and
// leaves both open. When ctx ends the connection is closed.
func upload(ctx context.Context, conn net.Conn, t Timings, body io.Reader, moved func(int64)) (bodyErr, connErr error) {
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
	for {
		n, err := fill(body, buf[frame.HeaderSize:])
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
		if err == io.EOF { // bare: whatever wraps it vouches for nothing
			err = nil
		}
		last := append(buf[:frame.HeaderSize], encode(&end{total, err})...)
		return err, w.write(frameEnd, last)
	}
}

// fill reads until p holds enough for a frame or the body ends.
func fill(body io.Reader, p []byte) (n int, err error) {
	for idle := 0; n < dataFill && err == nil; {
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
	seq  uint32        // held with the token
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
			err := w.writeTurn(frameBeat, make([]byte, frame.HeaderSize))
			<-w.turn
			if err != nil {
				return // whoever writes data finds out too
			}
		default:
		}
	}
}

// download is the body of a stream that comes over a data connection. Read and
// Close may be called at once; Close ends a Read.
type download struct {
	conn   net.Conn
	in     *frame.Reader
	moved  func(total int64)
	op     string // for errors
	stop   func() bool
	closed sync.Once

	// owned by the goroutine that reads
	seq   uint32
	buf   []byte
	left  []byte // part of buf that was not handed out yet
	total int64
	err   error // how the body ended; io.EOF when the sender vouches for it
}

// newDownload reads a data connection that opens at in. When ctx ends the
// connection is closed.
func newDownload(ctx context.Context, conn net.Conn, in *frame.Reader, op string, moved func(int64)) *download {
	return &download{conn: conn, in: in, moved: moved, op: op,
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
			if d.err == io.EOF {
				return written, nil
			}
			return written, d.err
		}
	}
}

// next reads a frame: its data straight into p when it fits, else into left.
func (d *download) next(p []byte) (int, error) {
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

// ended reads the sender's last word; io.EOF when all is there.
func (d *download) ended(p []byte) error {
	var last end
	if err := decode(p, &last); err != nil {
		return d.cut(err)
	}
	if last.err != nil {
		return &cairn.Error{Op: d.op, Kind: cairn.KindOf(last.err), Err: last.err}
	}
	if last.bytes != d.total {
		return d.cut(fmt.Errorf("the sender sent %d bytes", last.bytes))
	}
	return io.EOF
}

func (d *download) cut(err error) error {
	kind := cairn.KindUnavailable
	if errors.Is(err, cairn.KindCorrupt) {
		kind = cairn.KindCorrupt
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

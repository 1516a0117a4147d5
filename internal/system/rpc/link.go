package rpc

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"cairn"
	"cairn/internal/mech/frame"
)

// Frame types. Layout: docs/formats/rpc.md.
const (
	frameHello   = 1 // handshake, both directions
	frameRequest = 2 // method, window and arguments of a new call
	frameReady   = 3 // of a call that needs a data connection: its token
	frameRows    = 4 // a piece of a call's row stream
	frameAnswer  = 5 // the call's last word: success
	frameFault   = 6 // the call's last word: an error
	frameCancel  = 7 // the caller gave the call up
	frameCredit  = 8 // the caller took rows: so many more bytes may come
	frameBeat    = 9 // alive; from the serving side with progress of running calls

	frameAttach = 16 // first frame of a data connection: the token
	frameData   = 17
	frameEnd    = 18 // the data's last word: length and error
	frameWant   = 19 // from the receiver of a push: its endpoint reads

	flagMore = 1 // the message goes on in the next frame of the same type and id
)

const (
	maxFragment = 64 << 10 // payload bytes of a frame that carries calls
	maxMessage  = 16 << 20 // bytes of a message put together from its frames
	maxQueue    = 1 << 14  // frames that wait to be written; honest use has a few per call
)

// Timings bound how long a silent peer is believed in.
type Timings struct {
	Beat      time.Duration // between heartbeats; 0 is 5 s
	Limit     time.Duration // of silence, after which the peer is dead; 0 is 15 s
	Handshake time.Duration // for a new connection to say who it is; 0 is 10 s
	Grace     time.Duration // that a cancelled call waits for the other side to be done; 0 is 2 s
}

func (t Timings) orDefaults() Timings {
	for _, d := range []struct {
		value     *time.Duration
		otherwise time.Duration
	}{
		{&t.Beat, 5 * time.Second}, {&t.Limit, 15 * time.Second},
		{&t.Handshake, 10 * time.Second}, {&t.Grace, 2 * time.Second},
	} {
		if *d.value <= 0 {
			*d.value = d.otherwise
		}
	}
	return t
}

// patient is a connection's reading side on which any byte shows that the peer
// lives, and silence beyond the limit is an error. While the limit is zero, the
// connection's own deadline holds: that of the handshake.
type patient struct {
	conn  net.Conn
	limit time.Duration
}

func (p *patient) Read(b []byte) (int, error) {
	if p.limit > 0 {
		if err := p.conn.SetReadDeadline(time.Now().Add(p.limit)); err != nil {
			return 0, err
		}
	}
	return p.conn.Read(b)
}

// frames reads frames of calls from p.
func (p *patient) frames() *frame.Reader {
	return frame.NewReader(bufio.NewReaderSize(p, maxFragment), maxFragment)
}

// link is a connection that carries calls: whole messages in both directions, and
// heartbeats. It owns three goroutines from open to close: one writes, one
// beats, one reads.
type link struct {
	conn net.Conn
	t    Timings
	ctx  context.Context // done when the link has ended; its cause says why
	end  context.CancelCauseFunc
	work sync.WaitGroup

	long chan struct{} // one token: who sends a message of several frames holds it

	mu    sync.Mutex // guards queue
	queue []outgoing
	wake  chan struct{} // holds one token when queue may have grown
}

type outgoing struct {
	frame []byte
	done  chan struct{} // closed when written; nil when nobody waits
}

func newLink(ctx context.Context, conn net.Conn, t Timings) *link {
	l := &link{conn: conn, t: t, long: make(chan struct{}, 1), wake: make(chan struct{}, 1)}
	l.ctx, l.end = context.WithCancelCause(ctx)
	return l
}

// open starts the link. What beat returns goes out with each heartbeat; take gets
// each whole message, valid during the call, and must not block. Its error, like
// any other, ends the link.
func (l *link) open(in *frame.Reader, beat func() []byte, take func(frame.Header, []byte) error) {
	l.work.Go(l.write)
	l.work.Go(func() { l.beats(beat) })
	l.work.Go(func() { l.read(in, take) })
	context.AfterFunc(l.ctx, func() { _ = l.conn.Close() })
}

// close ends the link and waits for its goroutines.
func (l *link) close(cause error) {
	l.end(cause)
	l.work.Wait()
	_ = l.conn.Close() // also when the link was never opened
}

func (l *link) read(in *frame.Reader, take func(frame.Header, []byte) error) {
	var part assembly
	for {
		h, p, err := in.Next()
		if err == nil {
			var whole bool
			if p, whole, err = part.add(h, p); err == nil && whole {
				err = take(h, p)
			}
		}
		if err != nil {
			l.end(silence(err, l.t.Limit))
			return
		}
	}
}

// silence puts the read deadline's error into words.
func silence(err error, limit time.Duration) error {
	var timeout net.Error
	switch {
	case errors.Is(err, io.EOF):
		return errors.New("the peer closed the connection")
	case errors.As(err, &timeout) && timeout.Timeout():
		return errors.New("the peer has been silent for " + limit.String())
	}
	return err
}

// assembly puts messages of several frames together; at most one is under way.
type assembly struct {
	head frame.Header
	buf  []byte
	open bool
}

// add takes a frame and returns the whole message when it is complete. A frame
// that starts another message of several frames drops an unfinished one: its
// sender gave it up.
func (a *assembly) add(h frame.Header, p []byte) ([]byte, bool, error) {
	continues := a.open && a.head.Type == h.Type && a.head.ID == h.ID
	more := h.Flags&flagMore != 0
	if !continues && !more {
		return p, true, nil
	}
	if !continues {
		a.head, a.buf, a.open = h, a.buf[:0], true
	}
	if len(a.buf)+len(p) > maxMessage {
		return nil, false, &cairn.Error{Op: "read message", Kind: cairn.KindInvalid, Err: errors.New("it is longer than 16 MiB")}
	}
	a.buf = append(a.buf, p...)
	if more {
		return nil, false, nil
	}
	whole := a.buf
	*a = assembly{}
	return whole, true, nil
}

func (l *link) beats(payload func() []byte) {
	tick := time.NewTicker(l.t.Beat)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			l.post(frame.Header{Type: frameBeat}, payload())
		case <-l.ctx.Done():
			return
		}
	}
}

// post queues one frame without waiting.
func (l *link) post(h frame.Header, payload []byte) {
	l.enqueue(outgoing{frame: frame.Append(nil, h, payload)})
}

func (l *link) enqueue(o outgoing) {
	l.mu.Lock()
	l.queue = append(l.queue, o)
	full := len(l.queue) > maxQueue
	l.mu.Unlock()
	if full {
		l.end(errors.New("the peer asks for more than it takes"))
	}
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// send writes a message and returns when the connection has taken it. When it
// fails, queued says whether the peer may still get the whole message.
func (l *link) send(ctx context.Context, h frame.Header, payload []byte) (queued bool, err error) {
	if len(payload) > maxMessage {
		return false, &cairn.Error{Op: "send message", Kind: cairn.KindInvalid, Err: errors.New("it is longer than 16 MiB"),
			Hint: "name fewer datasets or versions in one call"}
	}
	if len(payload) > maxFragment {
		select {
		case l.long <- struct{}{}:
			defer func() { <-l.long }()
		case <-ctx.Done():
			return false, ctx.Err()
		case <-l.ctx.Done():
			return false, context.Cause(l.ctx)
		}
	}
	for {
		piece := payload[:min(len(payload), maxFragment)]
		payload = payload[len(piece):]
		h.Flags &^= flagMore
		if len(payload) > 0 {
			h.Flags |= flagMore
		}
		if err := l.sendFrame(ctx, h, piece); err != nil || len(payload) == 0 {
			return len(payload) == 0, err
		}
	}
}

// sendFrame queues a frame and waits until it is written.
func (l *link) sendFrame(ctx context.Context, h frame.Header, piece []byte) error {
	o := outgoing{frame: frame.Append(make([]byte, 0, frame.HeaderSize+len(piece)), h, piece), done: make(chan struct{})}
	l.enqueue(o)
	select {
	case <-o.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-l.ctx.Done():
		return context.Cause(l.ctx)
	}
}

// write sends what is queued, many small frames in one go.
func (l *link) write() {
	out := bufio.NewWriterSize(l.conn, maxFragment)
	for {
		select {
		case <-l.wake:
		case <-l.ctx.Done():
			return
		}
		l.mu.Lock()
		batch := l.queue
		l.queue = nil
		l.mu.Unlock()
		if err := l.writeBatch(out, batch); err != nil {
			l.end(silence(err, l.t.Limit))
			return
		}
	}
}

func (l *link) writeBatch(out *bufio.Writer, batch []outgoing) error {
	if err := l.conn.SetWriteDeadline(time.Now().Add(l.t.Limit)); err != nil {
		return err
	}
	for _, o := range batch {
		if _, err := out.Write(o.frame); err != nil {
			return err
		}
	}
	if err := out.Flush(); err != nil {
		return err
	}
	for _, o := range batch {
		if o.done != nil {
			close(o.done)
		}
	}
	return nil
}

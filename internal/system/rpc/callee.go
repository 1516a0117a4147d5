package rpc

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"sync"

	"cairn"
	"cairn/internal/mech/frame"
	"cairn/internal/mech/watchdog"
)

const (
	rowsPiece       = 32 << 10 // bytes of rows that are gathered before they go out
	maxRequestBytes = 64 << 20 // of all requests of a session that are being served
	maxBeat         = maxFragment - 4096
)

// callee is the serving side of a link.
type callee struct {
	*link
	serve    func(ctx context.Context, s *serving, method uint8, args []byte) (message, error)
	maxCalls int

	calls sync.WaitGroup // one per call being served

	mu      sync.Mutex // guards the rest
	running map[uint32]*serving
	bytes   int // of the requests in running
}

func newCallee(l *link, maxCalls int, serve func(context.Context, *serving, uint8, []byte) (message, error)) *callee {
	return &callee{link: l, serve: serve, maxCalls: maxCalls, running: map[uint32]*serving{}}
}

// close ends the link, which begins no further call then, and waits for those
// that run; their contexts have ended.
func (c *callee) close(cause error) {
	c.link.close(cause)
	c.calls.Wait()
}

// serving is one call being served.
type serving struct {
	callee   *callee
	id       uint32
	op       string // method, for messages about calls that do not end
	bytes    int
	progress *watchdog.Progress
	cancel   context.CancelFunc

	sent watchdog.Report // last one in a heartbeat; owned by the beating goroutine
	rows []byte          // gathered; owned by the call's goroutine

	mu     sync.Mutex // guards credit
	credit int
	paid   chan struct{} // holds one token when credit may have grown
}

// take handles one message of the peer.
func (c *callee) take(h frame.Header, p []byte) error {
	switch h.Type {
	case frameBeat:
		return nil
	case frameRequest:
		return c.begin(h.ID, p)
	}
	c.mu.Lock()
	s := c.running[h.ID]
	c.mu.Unlock()
	switch h.Type {
	case frameCancel:
		if s != nil {
			s.cancel()
		}
		return nil
	case frameCredit:
		var m credit
		if err := decode(p, &m); err != nil {
			return err
		}
		if s != nil {
			s.pay(m.bytes)
		}
		return nil
	}
	return &cairn.Error{Op: "read request", Kind: cairn.KindCorrupt, Err: errors.New("unknown frame type")}
}

// begin starts to serve a request, or answers at once that it cannot.
func (c *callee) begin(id uint32, p []byte) error {
	head := coder{buf: p, reading: true}
	r := request{}
	r.code(&head)
	if head.err != nil {
		return &cairn.Error{Op: "read request", Kind: cairn.KindCorrupt, Err: head.err}
	}
	s := &serving{callee: c, id: id, op: methodNames[r.method], bytes: len(p), progress: new(watchdog.Progress), credit: min(r.window, window), paid: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(watchdog.With(c.ctx, s.progress))
	s.cancel = cancel
	if err := c.admit(s); err != nil {
		cancel()
		if errors.Is(err, cairn.KindBusy) {
			c.post(frame.Header{Type: frameFault, ID: id}, encode(&fault{err}))
			return nil
		}
		return err
	}
	args := append([]byte{}, head.buf...)
	c.calls.Go(func() {
		defer cancel()
		answer, err := c.serve(ctx, s, r.method, args)
		c.forget(s)
		s.finish(answer, err)
	})
	return nil
}

func (c *callee) admit(s *serving) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.running[s.id] != nil:
		return &cairn.Error{Op: "serve call", Kind: cairn.KindCorrupt, Err: errors.New("its number is in use")}
	case len(c.running) >= c.maxCalls || c.bytes+s.bytes > maxRequestBytes:
		return &cairn.Error{Op: "serve call", Kind: cairn.KindBusy, Hint: "this session has too many calls running; try again"}
	}
	c.running[s.id] = s
	c.bytes += s.bytes
	return nil
}

func (c *callee) forget(s *serving) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.running, s.id)
	c.bytes -= s.bytes
}

// finish sends the call's last word; the peer may be gone.
func (s *serving) finish(answer message, err error) {
	if cairn.KindOf(err) == cairn.KindOther && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)) {
		err = &cairn.Error{Op: s.op, Kind: cairn.KindCanceled, Err: err}
	}
	h, payload := frame.Header{Type: frameAnswer, ID: s.id}, []byte(nil)
	if err == nil {
		payload = encode(answer)
		if len(payload) > maxMessage {
			err = &cairn.Error{Op: "answer", Kind: cairn.KindInvalid, Err: errors.New("the answer is longer than 16 MiB"), Hint: "ask for less at once"}
		}
	}
	if err != nil {
		h.Type, payload = frameFault, encode(&fault{err})
	}
	_, _ = s.callee.send(s.callee.ctx, h, payload) // fails only with the link, which ends every call
}

// pay lets more rows out.
func (s *serving) pay(n uint64) {
	s.mu.Lock()
	s.credit += int(min(n, window))
	s.mu.Unlock()
	select {
	case s.paid <- struct{}{}:
	default:
	}
}

// row adds one row to the call's row stream; it waits while the peer takes none.
func (s *serving) row(ctx context.Context, row []byte) error {
	s.rows = binary.AppendUvarint(s.rows, uint64(len(row)))
	s.rows = append(s.rows, row...)
	sent := 0
	for ; len(s.rows)-sent >= rowsPiece; sent += rowsPiece {
		if err := s.piece(ctx, s.rows[sent:sent+rowsPiece]); err != nil {
			return err
		}
	}
	s.rows = s.rows[:copy(s.rows, s.rows[sent:])]
	return nil
}

// flush sends the rows that are gathered.
func (s *serving) flush(ctx context.Context) error {
	if len(s.rows) == 0 {
		return nil
	}
	err := s.piece(ctx, s.rows)
	s.rows = s.rows[:0]
	return err
}

func (s *serving) piece(ctx context.Context, p []byte) error {
	for {
		s.mu.Lock()
		enough := s.credit >= len(p)
		if enough {
			s.credit -= len(p)
		}
		s.mu.Unlock()
		if enough {
			_, err := s.callee.send(ctx, frame.Header{Type: frameRows, ID: s.id}, p)
			return err
		}
		select {
		case <-s.paid:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// ready sends the message that comes before the last word.
func (s *serving) ready(ctx context.Context, m message) error {
	_, err := s.callee.send(ctx, frame.Header{Type: frameReady, ID: s.id}, encode(m))
	return err
}

// beat tells which running calls moved since the last heartbeat.
func (c *callee) beat() []byte {
	c.mu.Lock()
	running := make([]*serving, 0, len(c.running))
	for _, s := range c.running {
		running = append(running, s)
	}
	c.mu.Unlock()
	var moved reports
	size := 0
	for _, s := range running {
		now := s.progress.Report()
		if now.Phase == s.sent.Phase && now.LastMove.Equal(s.sent.LastMove) {
			continue
		}
		r := report{id: s.id, phase: now.Phase}
		for name, level := range now.Counters {
			r.counters = append(r.counters, counter{name, level})
		}
		c := coder{}
		codeReport(&c, &r)
		if size += len(c.buf); size > maxBeat {
			break // the others go with the next one
		}
		s.sent = now
		moved = append(moved, r)
	}
	return encode(&moved)
}

// stuck names the calls that are being served.
func (c *callee) stuck() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var ops []string
	for _, s := range c.running {
		ops = append(ops, s.op)
	}
	slices.Sort(ops)
	return ops
}

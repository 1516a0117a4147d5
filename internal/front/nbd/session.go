package nbd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"cairn"
	"cairn/internal/format/nbdproto"
)

// maxDrain is the longest data of a refused write that is read and thrown away to
// keep the connection in step, in bytes.
const maxDrain = 2 * MaxPayload

// slowAfter is the cost of a request above which its kind is handed to workers.
// Below it a change of goroutine costs more than it gains.
const slowAfter = 100 * time.Microsecond

// session is the transmission phase of one connection. One goroutine at a time is
// its leader: it reads requests and executes those of fast kinds itself, and those
// of a client that sends one at a time; the others run in workers, so that writes
// which wait for a group commit wait together.
type session struct {
	*conn
	export   *Export
	device   cairn.BlockDevice // nil: read-only
	contexts []statusContext
	out      *replies

	mem     *budget
	slots   chan struct{}  // one per running worker
	workers sync.WaitGroup // workers and leaders
	result  chan error     // of the last leader
	reads   pace
	writes  pace
	lone    int // requests that came one at a time so far; the leader's
}

// serial is the number of requests, each sent after the answer to the last, after
// which a client is taken to send one at a time.
const serial = 16

func newSession(c *conn, n *negotiation) *session {
	return &session{
		conn: c, export: n.export, device: n.export.Device, contexts: statusContexts(n.export, n.contexts),
		out: newReplies(c.Conn, n.structured),
		mem: newBudget(MaxPayload), slots: make(chan struct{}, c.o.Workers), result: make(chan error, 1),
	}
}

// run serves requests until the client disconnects, which lets running requests
// finish, or until anything else ends the connection, which cancels them.
func (s *session) run(ctx context.Context, cancel func()) error {
	s.workers.Go(func() { s.lead(ctx) })
	err := <-s.result
	if err != nil {
		cancel()
	}
	s.workers.Wait()
	return errors.Join(err, s.out.flush())
}

// errSucceeded ends a leader that has lost its place.
var errSucceeded = errors.New("another goroutine reads on")

// lead reads requests until the connection ends or a successor has taken over.
func (s *session) lead(ctx context.Context) {
	t := &turn{}
	t.timer = time.AfterFunc(time.Hour, func() {
		if !t.look(func() { s.workers.Add(1) }) {
			return
		}
		defer s.workers.Done()
		s.slots <- struct{}{} // of the request that is still running
		s.lead(ctx)
	})
	t.timer.Stop()
	err := s.loop(ctx, t)
	t.timer.Stop()
	if !errors.Is(err, errSucceeded) {
		s.result <- err
	}
}

func (s *session) loop(ctx context.Context, t *turn) error {
	for {
		if s.r.Buffered() < nbdproto.RequestSize {
			if err := s.out.flush(); err != nil {
				return err
			}
		}
		head, err := s.r.Peek(nbdproto.RequestSize)
		if err != nil {
			return err
		}
		q, ok := nbdproto.ParseRequest(head)
		if !ok {
			return errors.New("the client sent something that is no request")
		}
		if _, err := s.r.Discard(nbdproto.RequestSize); err != nil {
			return err
		}
		if q.Type == nbdproto.CmdDisc {
			return nil
		}
		if err := s.accept(ctx, t, q); err != nil {
			return err
		}
	}
}

// accept checks one request, reads its data and has it executed. An error ends
// the connection.
func (s *session) accept(ctx context.Context, t *turn, q nbdproto.Request) error {
	if err := s.check(q); err != nil {
		if q.Type == nbdproto.CmdWrite {
			if q.Length > maxDrain {
				return fmt.Errorf("the client writes %d bytes at once", q.Length)
			}
			if _, err := io.CopyN(io.Discard, s.r, int64(q.Length)); err != nil {
				return err
			}
		}
		s.refuse(q, err)
		return nil
	}
	var buf []byte
	if n := bufferFor(q); n > 0 {
		if err := s.reserve(ctx, n); err != nil {
			return err
		}
		buf = takeBuffer(n)
	}
	if q.Type == nbdproto.CmdWrite {
		if err := s.fill(buf); err != nil {
			s.release(buf)
			return err
		}
	}
	return s.dispatch(ctx, t, q, buf)
}

// bufferFor is the request buffer that a checked request needs, in bytes.
func bufferFor(q nbdproto.Request) int {
	switch q.Type {
	case nbdproto.CmdRead, nbdproto.CmdWrite:
		return int(q.Length)
	case nbdproto.CmdCache:
		return int(min(q.Length, cacheWindow))
	}
	return 0
}

// fill reads a write's data, and first hands out the answers that wait if the
// data is not there yet. What is long goes straight to its place.
func (s *session) fill(buf []byte) error {
	if s.r.Buffered() >= len(buf) {
		_, err := io.ReadFull(s.r, buf)
		return err
	}
	if err := s.out.flush(); err != nil {
		return err
	}
	from := io.Reader(s.r)
	if len(buf) >= streamBuffer {
		n, err := io.ReadFull(s.r, buf[:s.r.Buffered()])
		if err != nil {
			return err
		}
		from, buf = s.Conn, buf[n:]
	}
	_, err := io.ReadFull(from, buf)
	return err
}

// reserve takes the room of a buffer from the connection's budget.
func (s *session) reserve(ctx context.Context, n int) error {
	n = 1 << class(n)
	if s.mem.try(n) {
		return nil
	}
	if err := s.out.flush(); err != nil {
		return err
	}
	return s.mem.take(ctx, n)
}

func (s *session) release(buf []byte) {
	if buf != nil {
		s.mem.give(cap(buf))
		giveBuffer(buf)
	}
}

// dispatch executes the request here or in a worker.
func (s *session) dispatch(ctx context.Context, t *turn, q nbdproto.Request, buf []byte) error {
	if s.oneAtATime() || q.Type == nbdproto.CmdRead && !s.reads.slow() || q.Type == nbdproto.CmdWrite && !s.writes.slow() {
		return s.inline(ctx, t, q, buf)
	}
	select {
	case s.slots <- struct{}{}:
	default:
		if err := s.out.flush(); err != nil {
			s.release(buf)
			return err
		}
		select {
		case s.slots <- struct{}{}:
		case <-ctx.Done():
			s.release(buf)
			return ctx.Err()
		}
	}
	s.workers.Go(func() {
		defer func() { <-s.slots }()
		s.execute(ctx, q, buf, false)
	})
	return nil
}

// oneAtATime reports whether the client has waited for each answer for some time:
// then nobody gains from a change of goroutine.
func (s *session) oneAtATime() bool {
	if len(s.slots) > 0 || s.r.Buffered() > 0 {
		s.lone = 0
		return false
	}
	s.lone = min(s.lone+1, serial)
	return s.lone == serial
}

// inline executes a request in the leader, unless it takes so long that a
// successor leads on; the leader then ends.
func (s *session) inline(ctx context.Context, t *turn, q nbdproto.Request, buf []byte) error {
	every := patience
	if s.lone == serial {
		every = lonePatience
	}
	t.begin(every)
	s.execute(ctx, q, buf, true)
	if t.end() {
		return nil
	}
	<-s.slots
	if err := s.out.flush(); err != nil { // nobody may be on the way to do it
		s.log.Debug("cannot answer an NBD client", "err", err)
	}
	return errSucceeded
}

// execute carries out one request and answers it.
func (s *session) execute(ctx context.Context, q nbdproto.Request, buf []byte, hold bool) {
	begin := time.Now()
	switch q.Type {
	case nbdproto.CmdRead:
		pieces, err := s.read(ctx, q, buf)
		s.reads.note(time.Since(begin), len(buf))
		s.answerRead(q, buf, pieces, err, hold)
	case nbdproto.CmdBlockStatus:
		s.answerStatus(ctx, q, hold)
	default:
		err := s.change(ctx, q, buf)
		if q.Type == nbdproto.CmdWrite {
			s.writes.note(time.Since(begin), len(buf))
		}
		if err != nil {
			s.log.Debug("NBD request failed", "command", q.Type.String(), "offset", q.Offset, "length", q.Length, "err", err)
		}
		s.out.done(q, err, hold)
	}
	s.release(buf)
}

// refuse answers a request that was not executed.
func (s *session) refuse(q nbdproto.Request, err error) {
	if q.Type == nbdproto.CmdRead {
		s.answerRead(q, nil, nil, err, true)
		return
	}
	s.out.done(q, err, true)
}

// pace is a moving average of what the requests of one kind cost, in
// nanoseconds, the mere transfer of their bytes left out. One that took long, because
// another process had the processor, does not make the kind slow.
type pace struct{ cost atomic.Int64 }

func (p *pace) note(elapsed time.Duration, bytes int) {
	c := min(max(int64(elapsed)-int64(bytes), 0), int64(4*slowAfter))
	old := p.cost.Load()
	p.cost.Store(old + (c-old)/8)
}

func (p *pace) slow() bool { return p.cost.Load() > int64(slowAfter) }

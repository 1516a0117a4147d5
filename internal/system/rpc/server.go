package rpc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"cairn"
	"cairn/internal/mech/frame"
	"cairn/internal/system/transport"
)

// ServerOptions configure Serve.
type ServerOptions struct {
	// Endpoint makes what a session of that identity may use; required. It is called
	// once per session, with a context that ends with the session. At the session's
	// end, when its calls have returned, the endpoint's Close is called.
	Endpoint func(ctx context.Context, identity string) (*cairn.Endpoint, error)

	Software    string // name and version, told to clients
	MaxCalls    int    // at once in one session; 0 is 1024
	MaxSessions int    // at once of one identity; 0 is 64
	Timings     Timings
	Logger      *slog.Logger // nil discards
}

// server is one Serve.
type server struct {
	o    ServerOptions
	ctx  context.Context
	log  *slog.Logger
	work sync.WaitGroup // one per connection

	mu       sync.Mutex // guards the rest
	waiting  map[string]*waiter
	sessions map[string]int // per identity
	running  map[*callee]string
}

// Serve answers the connections of ln until ctx ends or ln is closed, then ends
// all sessions and waits for their calls, at most the silence limit: calls that
// do not return by then are named in an error of KindStuck. It closes ln.
func Serve(ctx context.Context, ln transport.Listener, o ServerOptions) error {
	o.Timings = o.Timings.orDefaults()
	if o.MaxCalls <= 0 {
		o.MaxCalls = 1024
	}
	if o.MaxSessions <= 0 {
		o.MaxSessions = 64
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &server{o: o, ctx: ctx, log: o.Logger, waiting: map[string]*waiter{}, sessions: map[string]int{}, running: map[*callee]string{}}
	err := s.accept(ln)
	cancel()
	closeErr := ln.Close()
	if stuck := s.wait(); stuck != nil {
		return stuck
	}
	return errors.Join(err, closeErr)
}

func (s *server) accept(ln transport.Listener) error {
	for {
		conn, err := ln.Accept(s.ctx)
		if err != nil {
			if s.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			return err
		}
		s.work.Go(func() { s.handle(conn) })
	}
}

// wait returns when every connection has been dealt with, or says which calls
// are in the way.
func (s *server) wait() error {
	done := make(chan struct{})
	go func() {
		s.work.Wait()
		close(done)
	}()
	limit := time.NewTimer(s.o.Timings.Limit)
	defer limit.Stop()
	select {
	case <-done:
		return nil
	case <-limit.C:
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var stuck []string
	for c, identity := range s.running {
		for _, op := range c.stuck() {
			stuck = append(stuck, op+" of "+identity)
		}
	}
	return &cairn.Error{Op: "end sessions", Kind: cairn.KindStuck, Err: fmt.Errorf("after %s these calls still run: %s", s.o.Timings.Limit, strings.Join(stuck, ", "))}
}

// handle deals with one admitted connection, whatever its role.
func (s *server) handle(conn *transport.Conn) {
	in := &patient{conn: conn}
	var role uint8
	err := within(s.ctx, conn, s.o.Timings.Handshake, func() error {
		p, err := readPreface(in)
		role = p.role
		if errors.Is(err, cairn.KindUnsupported) {
			s.refuseVersion(conn)
		}
		return err
	})
	switch {
	case err != nil:
	case role == roleControl:
		err = s.session(conn, in)
	case role == roleData:
		err = s.attach(conn, in)
	default:
		err = &cairn.Error{Op: "greet peer", Kind: cairn.KindCorrupt, Err: errors.New("unknown role")}
	}
	if err != nil {
		_ = conn.Close() // the session and the call close what they took
		if s.ctx.Err() == nil {
			s.log.Warn("refused a connection", "identity", conn.Identity, "peer", conn.RemoteAddr().String(), "error", err)
		}
	}
}

// refuseVersion tells the peer our version, and reads what it has under way so
// that closing does not take our words back.
func (s *server) refuseVersion(conn net.Conn) {
	if _, err := conn.Write(ourPreface(roleControl)); err != nil {
		return // it is gone
	}
	var rest [4096]byte
	for range 16 {
		if _, err := conn.Read(rest[:]); err != nil {
			return
		}
	}
}

// session runs one control connection from hello to end.
func (s *server) session(conn *transport.Conn, in *patient) error {
	frames := in.frames()
	var peer hello
	err := within(s.ctx, conn, s.o.Timings.Handshake, func() error {
		if err := readMessage(frames, frameHello, &peer); err != nil {
			return err
		}
		_, err := conn.Write(ourPreface(roleControl))
		return err
	})
	if err != nil {
		return err
	}
	in.limit = s.o.Timings.Limit
	if err := s.enter(conn.Identity); err != nil {
		return s.sendFault(conn, err)
	}
	defer s.exit(conn.Identity)
	l := newLink(s.ctx, conn, s.o.Timings)
	defer l.close(nil)
	ep, err := s.endpoint(l, conn.Identity)
	if err != nil {
		return s.sendFault(conn, err)
	}
	h := &handler{server: s, ep: ep, identity: conn.Identity}
	c := newCallee(l, s.o.MaxCalls, h.serve)
	s.track(c, conn.Identity)
	defer s.leave(c, conn.Identity, ep)
	own := &hello{software: s.o.Software, abilities: ep.Abilities(), info: ep.Info, calls: s.o.MaxCalls}
	if own.info.Identity == "" {
		own.info.Identity = conn.Identity
	}
	l.post(frame.Header{Type: frameHello}, encode(own))
	l.open(frames, c.beat, c.take)
	s.log.Info("session begun", "identity", conn.Identity, "peer", conn.RemoteAddr().String(), "client", peer.place, "software", peer.software)
	<-l.ctx.Done()
	s.log.Info("session ended", "identity", conn.Identity, "peer", conn.RemoteAddr().String(), "reason", context.Cause(l.ctx).Error())
	return nil
}

// endpoint opens the session's endpoint; the peer gets heartbeats meanwhile.
func (s *server) endpoint(l *link, identity string) (*cairn.Endpoint, error) {
	type result struct {
		ep  *cairn.Endpoint
		err error
	}
	opened := make(chan result, 1)
	go func() {
		ep, err := s.o.Endpoint(l.ctx, identity)
		opened <- result{ep, err}
	}()
	tick := time.NewTicker(s.o.Timings.Beat)
	defer tick.Stop()
	for {
		select {
		case r := <-opened:
			return r.ep, r.err
		case <-tick.C:
			_ = l.conn.SetWriteDeadline(time.Now().Add(s.o.Timings.Limit)) // fails with the write
			if _, err := l.conn.Write(frame.Append(nil, frame.Header{Type: frameBeat}, nil)); err != nil {
				l.end(err) // the endpoint's context ends with it
			}
		}
	}
}

// sendFault tells a peer in the handshake why there is no session.
func (s *server) sendFault(conn net.Conn, err error) error {
	_ = conn.SetWriteDeadline(time.Now().Add(s.o.Timings.Handshake)) // fails with the write
	_, writeErr := conn.Write(frame.Append(nil, frame.Header{Type: frameFault}, encode(&fault{err})))
	return errors.Join(err, writeErr)
}

// enter counts a session of the identity; exit must follow.
func (s *server) enter(identity string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sessions[identity] >= s.o.MaxSessions {
		return &cairn.Error{Op: "open session", Subject: identity, Kind: cairn.KindBusy, Hint: "this identity has too many sessions open"}
	}
	s.sessions[identity]++
	return nil
}

func (s *server) exit(identity string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sessions[identity]--; s.sessions[identity] == 0 {
		delete(s.sessions, identity)
	}
}

func (s *server) track(c *callee, identity string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running[c] = identity
}

// leave ends the session's calls and then its endpoint.
func (s *server) leave(c *callee, identity string, ep *cairn.Endpoint) {
	c.close(nil)
	if ep.Close != nil {
		if err := ep.Close(); err != nil {
			s.log.Error("cannot close the endpoint of a session", "identity", identity, "error", err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.running, c)
}

// waiter is a call that waits for its data connection.
type waiter struct {
	identity string
	conn     chan *dataConn // takes one
}

// dataConn is a data connection and what reads it.
type dataConn struct {
	net.Conn
	in *patient
}

// attach gives a data connection to the call that its token names.
func (s *server) attach(conn *transport.Conn, in *patient) error {
	var m attach
	err := within(s.ctx, conn, s.o.Timings.Handshake, func() error {
		if err := readMessage(frame.NewReader(in, maxFragment), frameAttach, &m); err != nil {
			return err
		}
		_, err := conn.Write(ourPreface(roleData))
		return err
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.waiting[string(m.token)]
	if w == nil || w.identity != conn.Identity {
		return &cairn.Error{Op: "attach data connection", Subject: conn.Identity, Kind: cairn.KindPermission, Err: errors.New("no call waits for it")}
	}
	delete(s.waiting, string(m.token))
	in.limit = s.o.Timings.Limit
	w.conn <- &dataConn{conn, in}
	return nil
}

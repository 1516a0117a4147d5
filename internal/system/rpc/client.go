package rpc

import (
	"context"
	"errors"
	"net"
	"slices"

	"cairn"
	"cairn/internal/mech/frame"
	"cairn/internal/system/transport"
)

// ClientOptions configure Dial.
type ClientOptions struct {
	Place    string // what messages call the peer; empty takes the name it gives itself
	Self     string // what the peer's log calls us
	Software string // name and version, told to the peer
	Timings  Timings
}

// session is the calling side of a control connection.
type session struct {
	*caller
	dialer transport.Dialer
}

// Dial opens a session with a peer and returns its endpoint: with the abilities
// that the peer offers this identity. All calls fail with KindUnavailable once
// the session is lost; Dial again then. The endpoint's Close ends the session and
// waits for its goroutines.
func Dial(ctx context.Context, d transport.Dialer, o ClientOptions) (*cairn.Endpoint, error) {
	t := o.Timings.orDefaults()
	conn, err := d.Dial(ctx)
	if err != nil {
		return nil, err
	}
	in := &patient{conn: conn}
	frames := in.frames()
	peer, err := shakeHands(ctx, conn, in, frames, t, &hello{software: o.Software, place: o.Self, abilities: known()})
	if err != nil {
		_ = conn.Close() // the first error is the one to report
		return nil, handshakeError(ctx, err, o.Place, conn)
	}
	if o.Place != "" {
		peer.info.Place = o.Place
	}
	s := &session{dialer: d}
	l := newLink(context.Background(), conn, t)
	s.caller = newCaller(l, peer.info.Place, max(1, peer.calls))
	l.open(frames, func() []byte { return nil }, s.take)
	return s.endpoint(peer), nil
}

// known are the abilities this side knows how to use.
func known() []cairn.Ability {
	return (&session{}).endpoint(nil).Abilities()
}

func shakeHands(ctx context.Context, conn net.Conn, in *patient, frames *frame.Reader, t Timings, own *hello) (*hello, error) {
	if err := within(ctx, conn, t.Handshake, func() error { return greetControl(conn, in, own) }); err != nil {
		return nil, err
	}
	in.limit = t.Limit
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	var peer hello
	err := readMessage(frames, frameHello, &peer)
	if !stop() {
		return nil, ctx.Err()
	}
	return &peer, err
}

func handshakeError(ctx context.Context, err error, place string, conn net.Conn) error {
	if place == "" {
		place = conn.RemoteAddr().String()
	}
	if ctx.Err() != nil {
		return ended(ctx, "open session with", place, "")
	}
	var known *cairn.Error
	e := &cairn.Error{Op: "open session with", Subject: place, Kind: cairn.KindUnavailable, Err: err}
	if errors.As(err, &known) {
		e.Kind = known.Kind
	}
	return e
}

// endpoint makes the value callers use; without a peer, one with every ability.
func (s *session) endpoint(peer *hello) *cairn.Endpoint {
	offers := func(a cairn.Ability) bool { return peer == nil || slices.Contains(peer.abilities, a) }
	e := &cairn.Endpoint{}
	if peer != nil {
		e.Info, e.Close = peer.info, s.close
	}
	for ability, set := range map[cairn.Ability]func(){
		"list":     func() { e.Lister = s },
		"send":     func() { e.Sender = s },
		"receive":  func() { e.Receiver = s },
		"snapshot": func() { e.Snapshots = s },
		"bookmark": func() { e.Bookmarks = s },
		"destroy":  func() { e.Destroys = s },
		"lease":    func() { e.Leases = s },
		"estimate": func() { e.Estimates = s },
		"blocks":   func() { e.Blocks = s },
		"changes":  func() { e.Changes = s },
		"rollback": func() { e.Rollbacks = s },
		"resize":   func() { e.Resizes = s },
		"rename":   func() { e.Renames = s },
		"verify":   func() { e.Verifies = s },
		"seal":     func() { e.Seals = s },
		"digest":   func() { e.Digests = s },
		"heal":     func() { e.Heals = s },
	} {
		if offers(ability) {
			set()
		}
	}
	return e
}

func (s *session) close() error {
	s.link.close(errors.New("the session was closed"))
	return nil
}

// openData opens a data connection for the call that gave the token.
func (s *session) openData(ctx context.Context, token []byte) (*dataConn, error) {
	conn, err := s.dialer.Dial(ctx)
	if err != nil {
		return nil, err
	}
	in := &patient{conn: conn}
	if err := within(ctx, conn, s.t.Handshake, func() error { return greetData(conn, in, token) }); err != nil {
		_ = conn.Close() // the first error is the one to report
		return nil, err
	}
	in.limit = s.t.Limit
	return &dataConn{conn, in}, nil
}

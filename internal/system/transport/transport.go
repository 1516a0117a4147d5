// Package transport makes the connections that protocols run over, and says who
// is at the other end: in-process by a listener's name (Local), unix sockets,
// TCP with a map from address to identity, mutual TLS 1.3 where the identity is the
// certificate's common name, and ssh where it is in the command that the key forces.
//
// It promises that a connection which Accept returns has an identity that was
// checked and is one component of a dataset name; that a slow or hostile peer
// delays no other: admissions run side by side, each bounded in time, and what a
// peer may send before it is admitted is bounded too; that a refused peer is told
// why in plain words, with what to do next, on both sides; and that certificates
// replaced on disk are used from the next connection on.
//
// What can go wrong: plain TCP trusts the network for addresses and content; who
// can open a unix socket's folder is who its identity says.
//
// Over TCP, TLS and ssh the listening side sends one verdict before anything else,
// written down in docs/formats/rpc.md.
package transport

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"time"

	"cairn"
)

// Defaults of zrepl's grammar.
const (
	DefaultDialTimeout      = 10 * time.Second
	DefaultLocalTimeout     = 2 * time.Second
	DefaultHandshakeTimeout = 10 * time.Second
)

// Dialer opens connections to one peer.
type Dialer interface {
	// Dial returns a connection that the peer has admitted. KindUnavailable means
	// that the peer cannot be reached now, KindAuth that one side refused the other.
	Dial(ctx context.Context) (net.Conn, error)
}

// Listener takes connections.
type Listener interface {
	// Accept returns the next admitted connection. After Close it fails with an
	// error for which errors.Is(err, net.ErrClosed) holds.
	Accept(ctx context.Context) (*Conn, error)

	Addr() net.Addr

	// Close ends all waiting and half-admitted connections and waits for what
	// Listen started. Connections that Accept returned stay open.
	Close() error
}

// Conn is an admitted connection.
type Conn struct {
	net.Conn
	Identity string // of the peer: one component of a dataset name
}

// DialerFunc makes a function a Dialer.
type DialerFunc func(ctx context.Context) (net.Conn, error)

// Dial calls f.
func (f DialerFunc) Dial(ctx context.Context) (net.Conn, error) { return f(ctx) }

// CheckIdentity refuses identities that are not one component of a dataset name:
// a sink's datasets lie below it.
func CheckIdentity(identity string) error {
	err := cairn.CheckDatasetName(identity)
	if err == nil && strings.Contains(identity, "/") {
		err = errors.New("it contains '/'")
	}
	if err != nil {
		return &cairn.Error{Op: "use identity", Subject: identity, Kind: cairn.KindAuth, Err: err,
			Hint: "an identity is one component of a dataset name: letters, digits and - _ . :"}
	}
	return nil
}

func orDefault(d, otherwise time.Duration) time.Duration {
	if d <= 0 {
		return otherwise
	}
	return d
}

func orDiscard(l *slog.Logger) *slog.Logger {
	if l == nil {
		return slog.New(slog.DiscardHandler)
	}
	return l
}

// dialError classifies why a connection could not be made.
func dialError(ctx context.Context, address string, err error) error {
	var known *cairn.Error
	if errors.As(err, &known) {
		return err
	}
	e := &cairn.Error{Op: "connect to", Subject: address, Kind: cairn.KindUnavailable, Err: err,
		Hint: "check that the daemon runs there and that the address is right"}
	if ctx.Err() != nil && errors.Is(ctx.Err(), context.Canceled) {
		e.Kind, e.Err, e.Hint = cairn.KindCanceled, ctx.Err(), ""
	}
	return e
}

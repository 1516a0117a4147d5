package transport

import (
	"context"
	"net"
	"sync"
	"time"

	"cairn"
)

// Local connects jobs of one process by a listener's name.
type Local struct {
	mu        sync.Mutex // guards listeners
	listeners map[string]*localListener
}

// NewLocal makes an empty set of listeners.
func NewLocal() *Local { return &Local{listeners: map[string]*localListener{}} }

// Listen takes the name; KindExists when it is taken.
func (l *Local) Listen(name string) (Listener, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.listeners[name] != nil {
		return nil, &cairn.Error{Op: "listen on local", Subject: name, Kind: cairn.KindExists, Hint: "two jobs use the same listener_name"}
	}
	ln := &localListener{set: l, name: name, queue: make(chan *Conn), closed: make(chan struct{})}
	l.listeners[name] = ln
	return ln, nil
}

// Dialer connects to the listener of that name as identity, which the listener
// believes: both are in one process. A timeout of zero is DefaultLocalTimeout.
func (l *Local) Dialer(name, identity string, timeout time.Duration) Dialer {
	timeout = orDefault(timeout, DefaultLocalTimeout)
	return DialerFunc(func(ctx context.Context) (net.Conn, error) {
		if err := CheckIdentity(identity); err != nil {
			return nil, err
		}
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		return l.dial(ctx, name, identity)
	})
}

func (l *Local) dial(ctx context.Context, name, identity string) (net.Conn, error) {
	l.mu.Lock()
	ln := l.listeners[name]
	l.mu.Unlock()
	unavailable := &cairn.Error{Op: "connect to local", Subject: name, Kind: cairn.KindUnavailable, Hint: "no job of this daemon listens under that listener_name"}
	if ln == nil {
		return nil, unavailable
	}
	near, far := net.Pipe()
	select {
	case ln.queue <- &Conn{Conn: far, Identity: identity}:
		return near, nil
	case <-ln.closed:
		return nil, unavailable
	case <-ctx.Done():
		return nil, dialError(ctx, "local "+name, ctx.Err())
	}
}

type localListener struct {
	set    *Local
	name   string
	queue  chan *Conn
	once   sync.Once
	closed chan struct{}
}

func (ln *localListener) Accept(ctx context.Context) (*Conn, error) {
	select {
	case c := <-ln.queue:
		return c, nil
	case <-ctx.Done():
		return nil, &cairn.Error{Op: "accept on local", Subject: ln.name, Kind: cairn.KindCanceled, Err: ctx.Err()}
	case <-ln.closed:
		return nil, &cairn.Error{Op: "accept on local", Subject: ln.name, Kind: cairn.KindCanceled, Err: net.ErrClosed}
	}
}

func (ln *localListener) Addr() net.Addr { return localAddr(ln.name) }

func (ln *localListener) Close() error {
	ln.once.Do(func() {
		ln.set.mu.Lock()
		defer ln.set.mu.Unlock()
		delete(ln.set.listeners, ln.name)
		close(ln.closed)
	})
	return nil
}

type localAddr string

func (localAddr) Network() string  { return "local" }
func (a localAddr) String() string { return "local:" + string(a) }

package nbd

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"syscall"
	"time"
)

// farewell is how long a connection that is being ended may take to hand its last
// answers to the client.
const farewell = 2 * time.Second

// conn is one client. Its fields belong to the goroutine that runs serveConn;
// what workers share lives in session and replies.
type conn struct {
	net.Conn // replaced when TLS starts, and when a plain one comes to its requests
	r        *bufio.Reader
	o        Options
	log      *slog.Logger
}

// present reads from the connection as it is at each call.
type present struct{ c *conn }

func (p present) Read(b []byte) (int, error) { return p.c.Read(b) }

// serveConn runs one connection to its end.
func serveConn(ctx context.Context, nc net.Conn, o Options) {
	c := &conn{Conn: nc, o: o, log: o.Logger.With("client", nc.RemoteAddr().String())}
	c.r = bufio.NewReaderSize(present{c}, streamBuffer)
	defer func() { _ = c.Close() }()
	_ = nc.SetDeadline(time.Now().Add(o.HandshakeTimeout)) // a closed connection tells the next read
	own, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(own, func() {
		_ = nc.SetReadDeadline(time.Unix(1, 0))
		_ = nc.SetWriteDeadline(time.Now().Add(farewell))
	})
	defer stop()
	err := c.serve(own, cancel)
	switch {
	case err == nil, ctx.Err() != nil, errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF),
		errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		c.log.Debug("NBD client left", "err", err)
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.log.Warn("NBD client was silent during the handshake and was disconnected")
	default:
		c.log.Warn("NBD client was disconnected", "err", err)
	}
}

// serve runs the two phases. cancel ends ctx, and with it every wait on the
// connection.
func (c *conn) serve(ctx context.Context, cancel func()) error {
	n := &negotiation{conn: c}
	defer n.close()
	if err := n.run(ctx); err != nil {
		return err
	}
	if err := c.SetDeadline(time.Time{}); err != nil {
		return err
	}
	if ctx.Err() != nil { // its deadline may be the one just cleared
		return ctx.Err()
	}
	if p := block(c.Conn); p != nil {
		c.Conn = p
		stop := context.AfterFunc(ctx, p.hangUp)
		defer stop()
	}
	c.log = c.log.With("export", n.export.Name)
	c.log.Debug("NBD client connected")
	return newSession(c, n).run(ctx, cancel)
}

// startTLS wraps the connection. Bytes that came before the handshake in clear
// could be an attacker's, so there must be none.
func (c *conn) startTLS(ctx context.Context) error {
	if c.r.Buffered() > 0 {
		return errors.New("the client sent clear text after it asked for TLS")
	}
	t := tls.Server(c.Conn, c.o.TLS)
	if err := t.HandshakeContext(ctx); err != nil {
		return err
	}
	c.Conn = t
	return nil
}

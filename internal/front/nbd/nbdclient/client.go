// Package nbdclient is a small NBD client: enough to use an export of front/nbd,
// or of any server that speaks fixed newstyle, from tests and tools where no
// foreign client is installed.
//
// It promises that requests may be made from several goroutines at once and are
// then in flight together, that an answer is matched to its request whatever the
// order of answers, and that a broken connection fails every request that waits
// and all later ones. A context that ends gives up waiting, not the request: the
// buffer of such a request must not be used again.
//
// What can go wrong: errors are *cairn.Error; those the server answered with carry
// an [Answer], with its number and text. It does not reconnect.
//
// The protocol is the public NBD specification; see docs/formats/nbd.md.
package nbdclient

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"cairn"
	"cairn/internal/format/nbdproto"
)

var be = binary.BigEndian

// Options say how to connect and what to ask for.
type Options struct {
	Network string // "unix" or "tcp"
	Address string
	Export  string
	TLS     *tls.Config // not nil: start TLS first

	Structured bool     // ask for structured replies; implied by Contexts
	Contexts   []string // metadata contexts to ask for; those the server lacks are left out
}

// Answer is an error number with which a server answered.
type Answer struct {
	Errno nbdproto.Errno
	Text  string // only with structured replies
}

// Error renders the number and the text.
func (a *Answer) Error() string { return fmt.Sprintf("the server answered %d %s", a.Errno, a.Text) }

// Client is a connection in the transmission phase.
type Client struct {
	conn       net.Conn
	r          *bufio.Reader // of the receiving goroutine
	size       int64
	flags      uint16
	sizes      [3]uint32 // minimum, preferred, maximum block; zero when not told
	structured bool
	contexts   map[uint32]string
	name       string

	sending sync.Mutex // guards writes to conn

	mu     sync.Mutex // guards what follows
	next   uint64
	calls  map[uint64]*call
	broken error

	ended chan struct{} // closed when the receiving goroutine has ended
}

// call is a request that waits for its answer.
type call struct {
	into   []byte // of a read
	offset int64
	status map[string][]nbdproto.Descriptor
	err    error
	done   chan struct{}
}

// Dial connects, negotiates and enters transmission.
func Dial(ctx context.Context, o Options) (*Client, error) {
	h, err := begin(ctx, o)
	if err != nil {
		return nil, fail("connect to", o, err)
	}
	defer h.stop()
	c, err := h.enter(o)
	if err != nil {
		_ = h.Close()
		return nil, fail("open NBD export", o, err)
	}
	go c.receive()
	return c, nil
}

// List asks a server for the names of its exports.
func List(ctx context.Context, o Options) ([]string, error) {
	h, err := begin(ctx, o)
	if err != nil {
		return nil, fail("connect to", o, err)
	}
	defer func() { _ = h.Close() }()
	defer h.stop()
	var names []string
	err = h.ask(nbdproto.OptList, nil, func(t nbdproto.OptionReply, data []byte) error {
		name, _, ok := nbdproto.ParseString(data)
		if !ok {
			return errMalformed
		}
		names = append(names, name)
		return nil
	})
	if err != nil {
		return nil, fail("list NBD exports of", o, err)
	}
	return names, nil
}

func fail(op string, o Options, err error) error {
	return &cairn.Error{Op: op, Subject: fmt.Sprintf("%s %q", o.Address, o.Export), Kind: kindOf(err), Err: err}
}

func kindOf(err error) cairn.Kind {
	var a *Answer
	var o *optionError
	switch {
	case errors.As(err, &a):
		return kindOfNumber(a.Errno)
	case errors.As(err, &o) && o.reply == nbdproto.RepErrUnknown:
		return cairn.KindNotFound
	case errors.As(err, &o) && (o.reply == nbdproto.RepErrPolicy || o.reply == nbdproto.RepErrTLSReqd):
		return cairn.KindPermission
	case errors.Is(err, context.Canceled):
		return cairn.KindCanceled
	case errors.Is(err, errMalformed):
		return cairn.KindCorrupt
	}
	return cairn.KindUnavailable
}

func kindOfNumber(n nbdproto.Errno) cairn.Kind {
	switch n {
	case nbdproto.EPERM:
		return cairn.KindPermission
	case nbdproto.EINVAL, nbdproto.EOVERFLOW:
		return cairn.KindInvalid
	case nbdproto.ENOSPC:
		return cairn.KindSpace
	case nbdproto.ENOTSUP:
		return cairn.KindUnsupported
	case nbdproto.ESHUTDOWN:
		return cairn.KindCanceled
	}
	return cairn.KindIO
}

// Size is the export's size in bytes.
func (c *Client) Size() int64 { return c.size }

// Flags are the export's transmission flags (nbdproto.Export…).
func (c *Client) Flags() uint16 { return c.flags }

// BlockSizes are the minimum, preferred and maximum sizes of a request in bytes;
// zero when the server did not tell.
func (c *Client) BlockSizes() (minimum, preferred, maximum uint32) {
	return c.sizes[0], c.sizes[1], c.sizes[2]
}

// ReadAt fills p from off; one request, so at most the maximum block size.
func (c *Client) ReadAt(ctx context.Context, p []byte, off int64) error {
	_, err := c.Do(ctx, nbdproto.Request{Type: nbdproto.CmdRead, Offset: uint64(off), Length: uint32(len(p))}, p)
	return err
}

// WriteAt writes p at off; fua makes it durable before it is answered.
func (c *Client) WriteAt(ctx context.Context, p []byte, off int64, fua bool) error {
	_, err := c.Do(ctx, nbdproto.Request{Type: nbdproto.CmdWrite, Flags: fuaFlag(fua), Offset: uint64(off), Length: uint32(len(p))}, p)
	return err
}

func fuaFlag(fua bool) uint16 {
	if fua {
		return nbdproto.CmdFlagFUA
	}
	return 0
}

// Flush returns when every write answered before is durable.
func (c *Client) Flush(ctx context.Context) error {
	_, err := c.Do(ctx, nbdproto.Request{Type: nbdproto.CmdFlush}, nil)
	return err
}

// Trim says that the range's content is not needed.
func (c *Client) Trim(ctx context.Context, off int64, length uint32) error {
	_, err := c.Do(ctx, nbdproto.Request{Type: nbdproto.CmdTrim, Offset: uint64(off), Length: length}, nil)
	return err
}

// WriteZeroes makes the range read as zeroes; flags are those of the command.
func (c *Client) WriteZeroes(ctx context.Context, off int64, length uint32, flags uint16) error {
	_, err := c.Do(ctx, nbdproto.Request{Type: nbdproto.CmdWriteZeroes, Flags: flags, Offset: uint64(off), Length: length}, nil)
	return err
}

// BlockStatus describes the range, or a beginning of it, per negotiated context.
func (c *Client) BlockStatus(ctx context.Context, off int64, length uint32) (map[string][]nbdproto.Descriptor, error) {
	return c.Do(ctx, nbdproto.Request{Type: nbdproto.CmdBlockStatus, Offset: uint64(off), Length: length}, nil)
}

// Do sends any request, well-formed or not, and waits for its answer. data is
// what a write sends or what a read fills. The cookie is chosen here.
func (c *Client) Do(ctx context.Context, q nbdproto.Request, data []byte) (map[string][]nbdproto.Descriptor, error) {
	k := &call{offset: int64(q.Offset), done: make(chan struct{})}
	if q.Type == nbdproto.CmdRead {
		k.into = data
	}
	err := c.send(q, k, data)
	if err == nil {
		select {
		case <-k.done:
			err = k.err
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	if err != nil {
		return nil, &cairn.Error{Op: q.Type.String(), Subject: fmt.Sprintf("%d bytes at %d of NBD export %q", q.Length, q.Offset, c.name), Kind: kindOf(err), Err: err}
	}
	return k.status, nil
}

func (c *Client) send(q nbdproto.Request, k *call, data []byte) error {
	c.mu.Lock()
	if c.broken != nil {
		defer c.mu.Unlock()
		return c.broken
	}
	c.next++
	q.Cookie = c.next
	c.calls[q.Cookie] = k
	c.mu.Unlock()

	parts := net.Buffers{nbdproto.AppendRequest(nil, q)}
	if q.Type == nbdproto.CmdWrite {
		parts = append(parts, data)
	}
	c.sending.Lock()
	defer c.sending.Unlock()
	_, err := parts.WriteTo(c.conn)
	return err
}

// Close disconnects in an orderly way, lets answers that are due arrive and waits
// for the connection's end.
func (c *Client) Close() error {
	c.sending.Lock()
	_, err := c.conn.Write(nbdproto.AppendRequest(nil, nbdproto.Request{Type: nbdproto.CmdDisc}))
	c.sending.Unlock()
	if err != nil {
		_ = c.conn.Close()
	}
	<-c.ended
	return c.conn.Close()
}

// Abandon closes the connection as a killed client would.
func (c *Client) Abandon() {
	_ = c.conn.Close()
	<-c.ended
}

var errMalformed = errors.New("the server sent something that NBD does not have")

// receive matches answers to calls until the connection ends.
func (c *Client) receive() {
	defer close(c.ended)
	var err error
	for err == nil {
		if c.structured {
			err = c.either()
		} else {
			err = c.simple()
		}
	}
	if errors.Is(err, io.EOF) {
		err = errors.New("the server closed the connection")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.broken = err
	for cookie, k := range c.calls {
		delete(c.calls, cookie)
		k.err = err
		close(k.done)
	}
}

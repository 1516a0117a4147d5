// Package nbd serves block devices and snapshots over the NBD protocol, so that
// any NBD client (qemu, libnbd, fio, the kernel) can use a volume's head and read
// its snapshots and change sets.
//
// # What it promises
//
//   - A reply without error to a write means what [cairn.BlockDevice] says: it
//     survives a kill; FLUSH and FUA survive a power cut. A flush on one connection
//     covers all connections to the export, so multi-conn is announced.
//   - A snapshot, or any export without Device, refuses every change with EPERM.
//   - Writes must be aligned to the device's sector, the end of the device apart,
//     and fail with EINVAL otherwise; reads may have any alignment. A range beyond
//     the end fails with EINVAL when read and ENOSPC when written.
//   - Block status never calls data a hole, and never calls a changed block clean.
//   - Memory is bounded: per connection two stream buffers of [streamBuffer] bytes
//     and request buffers of at most [MaxPayload] bytes in all; Options.MaxConns
//     bounds the connections.
//   - Serve returns only after all its connections have ended.
//
// # What can go wrong
//
// A client that breaks the protocol, is silent during the handshake or vanishes
// loses its connection, nothing else: requests in flight are cancelled through
// their context and their export is released. Errors of a device are answered with
// the error number that fits their kind, and with their text where the client
// negotiated structured replies.
//
// The protocol is the public NBD specification; docs/formats/nbd.md says which part
// of it is spoken and how the export and context names are made.
package nbd

import (
	"context"
	"crypto/tls"
	"errors"
	"iter"
	"log/slog"
	"net"
	"strings"
	"sync"
	"syscall"
	"time"

	"cairn"
	"cairn/internal/format/nbdproto"
)

// MaxPayload is the largest read or write, in bytes, and the bound of the request
// buffers that one connection holds at a time.
const MaxPayload = 32 << 20

// Exports is what a server needs to know of the things it can serve.
type Exports interface {
	// List names the exports, for clients that ask.
	List(ctx context.Context) ([]string, error)
	// Open opens an export for one connection; KindNotFound when there is none of
	// that name. An empty name is the default export. Several connections may hold
	// the same export at once. ctx lives as long as the connection.
	Open(ctx context.Context, name string) (*Export, error)
}

// Export is one opened export.
type Export struct {
	Name        string
	Description string            // one sentence; may be empty
	Reader      cairn.BlockReader // nil: reads go to Device
	Device      cairn.BlockDevice // nil: read-only
	Contexts    []Context         // beside base:allocation, which every export has
	Close       func() error      // called once, after the last request; may be nil
}

// Context is a metadata context that tells what changed since a version.
type Context struct {
	// Name as clients ask for it: DirtyContext of a version's name.
	Name string
	// Changed streams the changed extents that touch the range, ascending and not
	// overlapping; their kind is ignored. It may also yield extents outside the
	// range, so the sequence that [cairn.Changer] returns for the whole dataset is
	// fit too.
	Changed func(ctx context.Context, off, length int64) iter.Seq2[cairn.Extent, error]
}

// Options configure Serve.
type Options struct {
	Exports Exports
	TLS     *tls.Config  // not nil: every client must start TLS before anything else
	Logger  *slog.Logger // nil: discard

	MaxConns         int           // at once; default 64
	Workers          int           // requests of one connection in flight at once; default 32
	HandshakeTimeout time.Duration // from accept to the first request; default 60 s
}

func (o Options) withDefaults() Options {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.MaxConns <= 0 {
		o.MaxConns = 64
	}
	if o.Workers <= 0 {
		o.Workers = 32
	}
	if o.HandshakeTimeout <= 0 {
		o.HandshakeTimeout = time.Minute
	}
	return o
}

// Serve accepts connections until ctx ends, then closes the listener, ends the
// connections and waits for them. It returns nil after ctx ended, and an error
// when the listener failed.
func Serve(ctx context.Context, l net.Listener, o Options) error {
	o = o.withDefaults()
	ctx, cancel := context.WithCancel(ctx)
	var conns sync.WaitGroup
	defer conns.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	defer func() { _ = l.Close() }()

	room := make(chan struct{}, o.MaxConns)
	for {
		select {
		case room <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		c, err := accept(ctx, l, o.Logger)
		if ctx.Err() != nil {
			if c != nil {
				_ = c.Close()
			}
			return nil
		}
		if err != nil {
			return &cairn.Error{Op: "accept NBD clients on", Subject: l.Addr().String(), Kind: cairn.KindIO, Err: err}
		}
		conns.Go(func() {
			defer func() { <-room }()
			serveConn(ctx, c, o)
		})
	}
}

// accept waits out failures that pass by themselves, such as a full table of
// open files.
func accept(ctx context.Context, l net.Listener, logger *slog.Logger) (net.Conn, error) {
	for {
		c, err := l.Accept()
		if err == nil || ctx.Err() != nil || !passing(err) {
			return c, err
		}
		logger.Warn("cannot accept an NBD client now; trying again", "listener", l.Addr().String(), "err", err)
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func passing(err error) bool {
	var number syscall.Errno
	if !errors.As(err, &number) {
		return false
	}
	switch number {
	case syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED:
		return true
	}
	return false
}

// DirtyContext is the name of the context that tells what changed since the
// version (with its '@' or '#'): qemu's name for a dirty bitmap, then the
// version's name without its sign.
func DirtyContext(version string) string {
	return nbdproto.ContextDirtyPrefix + strings.TrimLeft(version, "@#")
}

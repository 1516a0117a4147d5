package nbd

import (
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"
)

// plain is a connection without TLS whose reads and writes block in the kernel.
// The runtime's poller would wake a thread of its own for each request, and for
// each part of a long answer; here one thread waits for its client.
type plain struct {
	net.Conn // closed; knows the addresses
	f        *os.File
	gone     atomic.Bool // hung up: nothing more is read, whatever still comes
}

// block takes nc over, or returns nil where that cannot be done; then nc is as it
// was.
func block(nc net.Conn) *plain {
	s, ok := nc.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return nil
	}
	var f *os.File
	err = raw.Control(func(fd uintptr) { f = blockingCopy(int(fd)) })
	if err != nil || f == nil {
		return nil
	}
	_ = nc.Close() // takes its descriptor out of the poller; the other was never in it
	return &plain{Conn: nc, f: f}
}

// blockingCopy is another descriptor of a socket, which from then on blocks; nil
// without one.
func blockingCopy(fd int) *os.File {
	syscall.ForkLock.RLock()
	dup, err := syscall.Dup(fd)
	if err == nil {
		syscall.CloseOnExec(dup)
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil
	}
	if err := syscall.SetNonblock(dup, false); err != nil {
		_ = syscall.Close(dup)
		return nil
	}
	return os.NewFile(uintptr(dup), "client")
}

func (p *plain) Read(b []byte) (int, error) {
	if p.gone.Load() {
		return 0, net.ErrClosed
	}
	return p.f.Read(b)
}

func (p *plain) Write(b []byte) (int, error) { return p.f.Write(b) }
func (p *plain) Close() error                { return p.f.Close() }

// hangUp ends every wait on the connection: for the client now, for room to answer
// it in a while.
func (p *plain) hangUp() {
	p.gone.Store(true)
	p.shutdown(syscall.SHUT_RD)
	time.AfterFunc(farewell, func() { p.shutdown(syscall.SHUT_RDWR) })
}

func (p *plain) shutdown(how int) {
	raw, err := p.f.SyscallConn()
	if err == nil {
		_ = raw.Control(func(fd uintptr) { _ = syscall.Shutdown(int(fd), how) }) // fails once closed
	}
}

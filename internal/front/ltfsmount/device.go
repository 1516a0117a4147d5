//go:build linux

package ltfsmount

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// Operation codes of the FUSE protocol (linux/fuse.h) that are looked at here;
// the library knows the others.
const (
	opRead        = 15
	opReaddir     = 28
	opReaddirPlus = 44
	opGetxattr    = 22
	opListxattr   = 23
	opInterrupt   = 36
	opDestroy     = 38
	opSyncfs      = 50
)

// Sizes of the protocol in bytes.
const (
	headerIn  = 40
	headerOut = 16
	smallIn   = 8 << 10 // a request without data
	smallOut  = 8 << 10 // a reply without data
)

// device reads the kernel's requests and answers them. The library turns them into
// calls; what it has no call for is answered here.
type device struct {
	fd       int
	ps       *fuse.ProtocolServer
	syncAll  func(context.Context) syscall.Errno // syncfs(2)
	unmounts func()                              // umount(2), which waits for it

	large   sync.Pool // *[]byte of maxRequest and its headers
	readers sync.WaitGroup

	mu    sync.Mutex                    // guards what follows
	idle  int                           // goroutines that wait for a request
	syncs map[uint64]context.CancelFunc // requests to sync everything, by number
}

// serve returns when the file system was unmounted.
func (d *device) serve() {
	d.syncs = map[uint64]context.CancelFunc{}
	d.large.New = func() any {
		p := make([]byte, maxRequest+4096)
		return &p
	}
	d.start()
	d.readers.Wait()
}

// start adds a goroutine that handles requests; it ends by itself when there are
// enough of them, or with the connection. The caller may hold mu.
func (d *device) start() {
	d.idle++
	d.readers.Go(d.loop)
}

// spare is how many goroutines wait for requests while nothing happens.
const spare = 2

func (d *device) loop() {
	small := make([]byte, smallIn)
	out := make([]byte, smallOut)
	for {
		buf := d.large.Get().(*[]byte) //nolint:forcetypeassert // New makes nothing else
		n, err := d.next(*buf)
		if err != nil {
			return
		}
		d.mu.Lock()
		if d.idle--; d.idle == 0 {
			d.start()
		}
		d.mu.Unlock()
		request := (*buf)[:n]
		if n <= smallIn { // a sync may take minutes; it needs no megabyte meanwhile
			request = small[:copy(small, request)]
			d.large.Put(buf)
		}
		d.handle(request, out)
		if n > smallIn {
			d.large.Put(buf)
		}
		d.mu.Lock()
		enough := d.idle >= spare
		if !enough {
			d.idle++
		}
		d.mu.Unlock()
		if enough {
			return
		}
	}
}

// next reads a request. An error is the end of the connection.
func (d *device) next(p []byte) (int, error) {
	for {
		n, err := syscall.Read(d.fd, p)
		switch {
		case err == nil && n >= headerIn:
			return n, nil
		case err == nil:
			return 0, syscall.EIO
		case errors.Is(err, syscall.EINTR), errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.ENOENT): // ENOENT: it was interrupted
		default:
			return 0, err
		}
	}
}

func (d *device) handle(request, small []byte) {
	switch binary.NativeEndian.Uint32(request[4:]) {
	case opSyncfs:
		d.reply(request, d.syncEverything(request))
		return
	case opInterrupt:
		if d.interrupted(request) {
			return
		}
	case opDestroy:
		d.unmounts()
	}
	out := small
	if need := headerOut + 256 + replyBytes(request); need > len(out) {
		buf := d.large.Get().(*[]byte) //nolint:forcetypeassert // New makes nothing else
		defer d.large.Put(buf)
		out = *buf
	}
	n, status := d.ps.HandleRequest([][]byte{request}, [][]byte{out})
	if status != fuse.OK {
		d.reply(request, syscall.Errno(status))
		return
	}
	if n > 0 {
		d.write(out[:n])
	}
}

func (d *device) syncEverything(request []byte) syscall.Errno {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	number := binary.NativeEndian.Uint64(request[8:])
	d.mu.Lock()
	d.syncs[number] = cancel
	d.mu.Unlock()
	errno := d.syncAll(ctx)
	d.mu.Lock()
	delete(d.syncs, number)
	d.mu.Unlock()
	return errno
}

// interrupted lets a caller of sync go who got a signal; all other interruptions
// are the library's.
func (d *device) interrupted(request []byte) bool {
	if len(request) < headerIn+8 {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	cancel, ours := d.syncs[binary.NativeEndian.Uint64(request[headerIn:])]
	if ours {
		cancel()
	}
	return ours
}

// replyBytes is how much data the answer to a request may have.
func replyBytes(request []byte) int {
	at := 0
	switch binary.NativeEndian.Uint32(request[4:]) {
	case opRead, opReaddir, opReaddirPlus:
		at = headerIn + 16
	case opGetxattr, opListxattr:
		at = headerIn
	}
	if at == 0 || len(request) < at+4 {
		return 0
	}
	return int(min(binary.NativeEndian.Uint32(request[at:]), maxRequest))
}

func (d *device) reply(request []byte, errno syscall.Errno) {
	var out [headerOut]byte
	binary.NativeEndian.PutUint32(out[0:], headerOut)
	binary.NativeEndian.PutUint32(out[4:], uint32(-int32(errno)))
	copy(out[8:16], request[8:16])
	d.write(out[:])
}

// write answers. A request that was interrupted, or whose connection is gone, has
// nobody who would miss the answer.
func (d *device) write(p []byte) {
	for {
		if _, err := syscall.Write(d.fd, p); !errors.Is(err, syscall.EINTR) {
			return
		}
	}
}

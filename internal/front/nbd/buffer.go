package nbd

import (
	"context"
	"math/bits"
	"sync"
	"unsafe"
)

// streamBuffer is the size of a connection's read buffer; its write buffer is a
// quarter of it.
const streamBuffer = 256 << 10

// Request buffers come in powers of two from 4 KiB to MaxPayload. They start on a
// page, so that a device opened for direct I/O can use them as they are, and are
// reused: a fresh MiB per request costs more in page faults than its transfer.
const (
	minClass = 12
	maxClass = 25
	pageSize = 1 << minClass
)

var pools [maxClass + 1]sync.Pool

func class(n int) int { return max(minClass, bits.Len(uint(n-1))) }

// takeBuffer returns a buffer of n bytes, 0 < n <= MaxPayload, with old content.
func takeBuffer(n int) []byte {
	c := class(n)
	if b, ok := pools[c].Get().(*[]byte); ok {
		return (*b)[:n]
	}
	size := 1 << c
	raw := make([]byte, size+pageSize)
	skip := -int(uintptr(unsafe.Pointer(unsafe.SliceData(raw)))) & (pageSize - 1)
	return raw[skip : skip+size : skip+size][:n]
}

// giveBuffer takes back what takeBuffer returned.
func giveBuffer(b []byte) {
	b = b[:cap(b)]
	pools[class(len(b))].Put(&b)
}

// budget counts the bytes of request buffers that one connection holds. Only the
// connection's reader takes, so a taker waits for nothing but givers.
type budget struct {
	free  int
	mu    sync.Mutex // guards free
	freed chan struct{}
}

func newBudget(n int) *budget { return &budget{free: n, freed: make(chan struct{}, 1)} }

// try takes n bytes if they are free; n is at most the budget's size.
func (b *budget) try(n int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.free < n {
		return false
	}
	b.free -= n
	return true
}

// take waits until n bytes are free.
func (b *budget) take(ctx context.Context, n int) error {
	for !b.try(n) {
		select {
		case <-b.freed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (b *budget) give(n int) {
	b.mu.Lock()
	b.free += n
	b.mu.Unlock()
	select {
	case b.freed <- struct{}{}:
	default:
	}
}

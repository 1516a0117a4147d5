package volume

import (
	"context"
	"sync"

	"cairn"
)

// flushes lets clients that flush at the same time share one sync: whoever comes
// while one is under way waits for the next, which begins after it came.
type flushes struct {
	turn chan struct{} // has room for the one that is under way
	mu   sync.Mutex    // guards next
	next *sharedFlush
}

func newFlushes() flushes { return flushes{turn: make(chan struct{}, 1)} }

// sharedFlush is one flush for all who wait for it.
type sharedFlush struct {
	done chan struct{}
	err  error // set before done is closed
}

// share does the flush, or waits for one that somebody else begins after this
// call. A flush that ends because its caller's context does counts for that caller
// only.
func (f *flushes) share(ctx context.Context, flush func() error) error {
	f.mu.Lock()
	s, lead := f.next, f.next == nil
	if lead {
		s = &sharedFlush{done: make(chan struct{})}
		f.next = s
	}
	f.mu.Unlock()
	if !lead {
		<-s.done
		if cairn.KindOf(s.err) == cairn.KindCanceled && ctx.Err() == nil {
			return f.share(ctx, flush)
		}
		return s.err
	}
	f.turn <- struct{}{}
	defer func() { <-f.turn }()
	f.mu.Lock()
	f.next = nil
	f.mu.Unlock()
	s.err = flush()
	close(s.done)
	return s.err
}

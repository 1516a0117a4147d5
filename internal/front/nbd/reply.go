package nbd

import (
	"bufio"
	"io"
	"sync"
	"sync/atomic"

	"cairn/internal/format/nbdproto"
)

// replies writes the answers of one connection. Answers are gathered in a buffer
// that is written out by whoever knows that no other answer follows at once: the
// reader before it waits for the client, or the last of the workers that queue
// for the lock.
type replies struct {
	structured bool // negotiated

	waiting atomic.Int32 // answers that wait for mu

	mu      sync.Mutex // guards what follows
	w       *bufio.Writer
	scratch []byte
	err     error // first failure to write; nothing is written after it
}

func newReplies(w io.Writer, structured bool) *replies {
	return &replies{structured: structured, w: bufio.NewWriterSize(w, streamBuffer/4)}
}

// send runs fill under the lock. hold leaves the answer in the buffer for the
// reader to write out.
func (r *replies) send(hold bool, fill func()) {
	r.waiting.Add(1)
	r.mu.Lock()
	defer r.mu.Unlock()
	last := r.waiting.Add(-1) == 0
	if r.err != nil {
		return
	}
	fill()
	if last && !hold && r.err == nil {
		r.err = r.w.Flush()
	}
}

func (r *replies) flush() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil && r.w.Buffered() > 0 {
		r.err = r.w.Flush()
	}
	return r.err
}

func (r *replies) write(b []byte) {
	if r.err == nil {
		_, r.err = r.w.Write(b)
	}
}

// done answers a request that returns no data.
func (r *replies) done(q nbdproto.Request, err error, hold bool) {
	if err != nil && r.structured {
		r.send(hold, func() { r.errorChunk(q, err) })
		return
	}
	var number nbdproto.Errno
	if err != nil {
		number = numberOf(err)
	}
	r.send(hold, func() {
		r.scratch = nbdproto.AppendSimpleReply(r.scratch[:0], number, q.Cookie)
		r.write(r.scratch)
	})
}

func (r *replies) errorChunk(q nbdproto.Request, err error) {
	r.chunk(q, nbdproto.ChunkError, true, nbdproto.AppendError(nil, numberOf(err), err.Error()))
}

// chunk writes one chunk whose payload is the concatenation of parts.
func (r *replies) chunk(q nbdproto.Request, kind uint16, last bool, parts ...[]byte) {
	h := nbdproto.ChunkHeader{Type: kind, Cookie: q.Cookie}
	if last {
		h.Flags = nbdproto.ChunkFlagDone
	}
	for _, p := range parts {
		h.Length += uint32(len(p))
	}
	r.scratch = nbdproto.AppendChunkHeader(r.scratch[:0], h)
	r.write(r.scratch)
	for _, p := range parts {
		r.write(p)
	}
}

package nbd

import (
	"io"
	"net"
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

	mu  sync.Mutex // guards what follows
	w   io.Writer
	buf []byte // not yet written; shorter than twice answerBuffer
	err error  // first failure to write; nothing is written after it
}

// answerBuffer is the length from which gathered answers are written out, and
// from which a read's data is handed to the kernel from where it lies, in bytes.
const answerBuffer = streamBuffer / 4

func newReplies(w io.Writer, structured bool) *replies {
	return &replies{structured: structured, w: w, buf: make([]byte, 0, 2*answerBuffer)}
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
	if last && !hold || len(r.buf) >= answerBuffer {
		r.writeOut()
	}
}

func (r *replies) flush() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.writeOut()
	return r.err
}

func (r *replies) writeOut() {
	if r.err == nil && len(r.buf) > 0 {
		_, r.err = r.w.Write(r.buf)
	}
	r.buf = r.buf[:0]
}

// data appends what may be long.
func (r *replies) data(b []byte) {
	if len(b) < answerBuffer {
		r.buf = append(r.buf, b...)
		if len(r.buf) >= answerBuffer {
			r.writeOut()
		}
		return
	}
	if r.err == nil {
		both := net.Buffers{r.buf, b}
		_, r.err = both.WriteTo(r.w)
	}
	r.buf = r.buf[:0]
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
		r.buf = nbdproto.AppendSimpleReply(r.buf, number, q.Cookie)
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
	r.buf = nbdproto.AppendChunkHeader(r.buf, h)
	for _, p := range parts {
		r.data(p)
	}
}

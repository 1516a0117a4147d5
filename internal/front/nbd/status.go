package nbd

import (
	"context"
	"iter"

	"cairn"
	"cairn/internal/format/nbdproto"
)

// maxDescriptors bounds the answer to one block status request, per context; a
// client asks again for the rest.
const maxDescriptors = 8192

// statusContext is a negotiated metadata context.
type statusContext struct {
	dirty   bool
	extents func(ctx context.Context, off, length int64) iter.Seq2[cairn.Extent, error]
}

// statusContexts finds the named contexts of the export. A name that has gone
// since it was negotiated answers with an error, so that ids stay in place.
func statusContexts(e *Export, names []string) []statusContext {
	out := make([]statusContext, len(names))
	for i, name := range names {
		out[i] = statusContext{extents: goneContext(name)}
		if name == nbdproto.ContextAllocation {
			out[i].extents = e.Reader.Extents
			continue
		}
		for _, c := range e.Contexts {
			if c.Name == name {
				out[i] = statusContext{dirty: true, extents: c.Changed}
			}
		}
	}
	return out
}

func goneContext(name string) func(context.Context, int64, int64) iter.Seq2[cairn.Extent, error] {
	return func(context.Context, int64, int64) iter.Seq2[cairn.Extent, error] {
		return func(yield func(cairn.Extent, error) bool) {
			yield(cairn.Extent{}, &cairn.Error{Op: "read context", Subject: name, Kind: cairn.KindNotFound, Hint: "connect again"})
		}
	}
}

// answerStatus answers a block status request: one chunk per context.
func (s *session) answerStatus(ctx context.Context, q nbdproto.Request, hold bool) {
	limit := maxDescriptors
	if q.Flags&nbdproto.CmdFlagReqOne != 0 {
		limit = 1
	}
	payloads := make([][]byte, len(s.contexts))
	for i, c := range s.contexts {
		ds, err := c.describe(ctx, int64(q.Offset), int64(q.Length), limit)
		if err != nil {
			s.log.Debug("NBD request failed", "command", "block status", "offset", q.Offset, "length", q.Length, "err", err)
			s.out.done(q, err, hold)
			return
		}
		payloads[i] = nbdproto.AppendStatus(nil, uint32(i), ds)
	}
	s.out.send(hold, func() {
		for i, p := range payloads {
			s.out.chunk(q, nbdproto.ChunkBlockStatus, i == len(payloads)-1, p)
		}
	})
}

// describe turns extents into at most limit descriptors that begin at off.
func (c statusContext) describe(ctx context.Context, off, length int64, limit int) ([]nbdproto.Descriptor, error) {
	d := description{pos: off, limit: limit}
	end := off + length
	for e, err := range c.extents(ctx, off, length) {
		if err != nil {
			return nil, err
		}
		if !d.add(min(e.Offset, end), 0) {
			return d.list, nil
		}
		if e.Offset >= end {
			break
		}
		if !d.add(min(e.End(), end), c.flags(e.Kind)) {
			return d.list, nil
		}
	}
	d.add(end, 0) // what no extent covers is clean, or data
	return d.list, nil
}

func (c statusContext) flags(kind cairn.ExtentKind) uint32 {
	switch {
	case c.dirty:
		return nbdproto.StatusDirty
	case kind == cairn.ExtentHole:
		return nbdproto.StatusHole | nbdproto.StatusZero
	case kind == cairn.ExtentZero:
		return nbdproto.StatusZero
	}
	return 0
}

// description gathers descriptors from left to right.
type description struct {
	list  []nbdproto.Descriptor
	pos   int64 // where the next begins
	limit int
}

// add describes everything up to to, and reports whether more is wanted.
func (d *description) add(to int64, flags uint32) bool {
	if to <= d.pos {
		return true
	}
	if n := len(d.list); n > 0 && d.list[n-1].Flags == flags {
		d.list[n-1].Length += uint32(to - d.pos)
	} else if n == d.limit {
		return false
	} else {
		d.list = append(d.list, nbdproto.Descriptor{Length: uint32(to - d.pos), Flags: flags})
	}
	d.pos = to
	return true
}

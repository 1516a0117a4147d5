package nbd

import (
	"context"

	"cairn"
	"cairn/internal/format/nbdproto"
)

const (
	cacheWindow = 1 << 20  // bytes that a CACHE command reads at a time
	holeRead    = 64 << 10 // reads below this many bytes are not searched for holes
	holeMin     = 16 << 10 // shorter holes are sent as data
)

// check refuses requests that no device should see.
func (s *session) check(q nbdproto.Request) error {
	changes := q.Type == nbdproto.CmdWrite || q.Type == nbdproto.CmdTrim || q.Type == nbdproto.CmdWriteZeroes
	switch {
	case q.Type > nbdproto.CmdBlockStatus:
		return refusal{nbdproto.EINVAL, "this server does not know the command"}
	case q.Flags&^s.allowedFlags(q.Type) != 0:
		return refusal{nbdproto.EINVAL, "the command does not take these flags"}
	case changes && s.device == nil:
		return refusal{nbdproto.EPERM, "the export is read-only"}
	case q.Type == nbdproto.CmdFlush:
		if q.Offset != 0 || q.Length != 0 {
			return refusal{nbdproto.EINVAL, "a flush has neither offset nor length"}
		}
		return nil
	case q.Type == nbdproto.CmdBlockStatus && len(s.contexts) == 0:
		return refusal{nbdproto.EINVAL, "no metadata context was negotiated"}
	case q.Length == 0:
		return refusal{nbdproto.EINVAL, "the length is zero"}
	case (q.Type == nbdproto.CmdRead || q.Type == nbdproto.CmdWrite) && q.Length > MaxPayload:
		return refusal{nbdproto.EINVAL, "the request is longer than the largest block size"}
	}
	return s.checkRange(q, changes)
}

// allowedFlags are those the specification gives the command; FUA is valid, if
// without meaning, on all.
func (s *session) allowedFlags(c nbdproto.Command) uint16 {
	f := nbdproto.CmdFlagFUA
	switch c {
	case nbdproto.CmdRead:
		if s.out.structured {
			f |= nbdproto.CmdFlagDF
		}
	case nbdproto.CmdWriteZeroes:
		f |= nbdproto.CmdFlagNoHole | nbdproto.CmdFlagFastZero
	case nbdproto.CmdBlockStatus:
		f |= nbdproto.CmdFlagReqOne
	}
	return f
}

// checkRange holds the request against the size of this moment: a device may be
// resized under a connection.
func (s *session) checkRange(q nbdproto.Request, changes bool) error {
	size := uint64(s.export.Reader.Size())
	if q.Offset > size || uint64(q.Length) > size-q.Offset {
		if changes && q.Type != nbdproto.CmdTrim {
			return refusal{nbdproto.ENOSPC, "the range ends beyond the device"}
		}
		return refusal{nbdproto.EINVAL, "the range ends beyond the device"}
	}
	if !changes {
		return nil
	}
	sector := uint64(s.device.Sector())
	end := q.Offset + uint64(q.Length)
	if q.Offset%sector != 0 || end%sector != 0 && end != size {
		return refusal{nbdproto.EINVAL, "the range is not aligned to the device's sectors"}
	}
	return nil
}

// change carries out a command that returns no data.
func (s *session) change(ctx context.Context, q nbdproto.Request, buf []byte) error {
	off, length := int64(q.Offset), int64(q.Length)
	var flags cairn.WriteFlags
	if q.Flags&nbdproto.CmdFlagFUA != 0 {
		flags |= cairn.FUA
	}
	switch q.Type {
	case nbdproto.CmdWrite:
		return s.device.WriteAt(ctx, buf, off, flags)
	case nbdproto.CmdWriteZeroes:
		if q.Flags&nbdproto.CmdFlagNoHole == 0 {
			flags |= cairn.MayUnmap
		}
		if q.Flags&nbdproto.CmdFlagFastZero != 0 {
			flags |= cairn.FastOnly
		}
		return s.device.WriteZeroes(ctx, off, length, flags)
	case nbdproto.CmdTrim:
		if err := s.device.Discard(ctx, off, length); err != nil || flags&cairn.FUA == 0 {
			return err
		}
		return s.device.Flush(ctx)
	case nbdproto.CmdCache:
		return s.cache(ctx, buf, off, length)
	}
	if s.device == nil {
		return nil // a flush of what cannot change
	}
	return s.device.Flush(ctx)
}

// cache reads the range so that it lies in the caches below.
func (s *session) cache(ctx context.Context, buf []byte, off, length int64) error {
	for length > 0 {
		n := min(length, int64(len(buf)))
		if err := s.export.Reader.ReadAt(ctx, buf[:n], off); err != nil {
			return err
		}
		off, length = off+n, length-n
	}
	return nil
}

// read fills buf and returns what it holds, as extents that cover the request
// without gaps; the buffer is left as it was where an extent is a hole.
func (s *session) read(ctx context.Context, q nbdproto.Request, buf []byte) ([]cairn.Extent, error) {
	off := int64(q.Offset)
	pieces := []cairn.Extent{{Offset: off, Length: int64(len(buf)), Kind: cairn.ExtentData}}
	if s.out.structured && q.Flags&nbdproto.CmdFlagDF == 0 && len(buf) >= holeRead {
		var err error
		if pieces, err = s.pieces(ctx, off, int64(len(buf))); err != nil {
			return nil, err
		}
	}
	for _, p := range pieces {
		if p.Kind != cairn.ExtentData {
			continue
		}
		if err := s.export.Reader.ReadAt(ctx, buf[p.Offset-off:p.End()-off], p.Offset); err != nil {
			return nil, err
		}
	}
	return pieces, nil
}

// pieces cuts a range into data and holes long enough to be worth a chunk.
func (s *session) pieces(ctx context.Context, off, length int64) ([]cairn.Extent, error) {
	all := pieceList{pos: off}
	end := off + length
	for e, err := range s.export.Reader.Extents(ctx, off, length) {
		if err != nil {
			return nil, err
		}
		kind := cairn.ExtentData
		if e.Kind != cairn.ExtentData {
			kind = cairn.ExtentHole
		}
		all.add(min(e.Offset, end), cairn.ExtentData) // what nobody described is read
		all.add(min(e.End(), end), kind)
	}
	all.add(end, cairn.ExtentData)

	long := pieceList{pos: off}
	for _, p := range all.list {
		if p.Length < holeMin {
			p.Kind = cairn.ExtentData
		}
		long.add(p.End(), p.Kind)
	}
	return long.list, nil
}

// pieceList gathers extents from left to right and joins neighbours of one kind.
type pieceList struct {
	list []cairn.Extent
	pos  int64 // where the next begins
}

func (l *pieceList) add(to int64, kind cairn.ExtentKind) {
	if to <= l.pos {
		return
	}
	if n := len(l.list); n > 0 && l.list[n-1].Kind == kind {
		l.list[n-1].Length += to - l.pos
	} else {
		l.list = append(l.list, cairn.Extent{Offset: l.pos, Length: to - l.pos, Kind: kind})
	}
	l.pos = to
}

// answerRead sends what read found, in the form that was negotiated.
func (s *session) answerRead(q nbdproto.Request, buf []byte, pieces []cairn.Extent, err error, hold bool) {
	if err != nil {
		s.log.Debug("NBD request failed", "command", "read", "offset", q.Offset, "length", q.Length, "err", err)
		s.out.done(q, err, hold)
		return
	}
	if !s.out.structured {
		s.out.send(hold, func() {
			s.out.buf = nbdproto.AppendSimpleReply(s.out.buf, 0, q.Cookie)
			s.out.data(buf)
		})
		return
	}
	s.out.send(hold, func() {
		for i, p := range pieces {
			last := i == len(pieces)-1
			at := be.AppendUint64(make([]byte, 0, 12), uint64(p.Offset))
			if p.Kind == cairn.ExtentData {
				from := p.Offset - int64(q.Offset)
				s.out.chunk(q, nbdproto.ChunkOffsetData, last, at, buf[from:from+p.Length])
			} else {
				s.out.chunk(q, nbdproto.ChunkOffsetHole, last, be.AppendUint32(at, uint32(p.Length)))
			}
		}
	})
}

package rpc

import (
	"context"
	"errors"
	"iter"

	"cairn"
)

const (
	maxRead      = 1 << 20 // bytes of one read; longer ones are split
	maxReads     = 16      // at once on the connection of one opened version
	extentsInRow = 512
)

// serveRead serves one call on the connection of an opened version.
func serveRead(ctx context.Context, s *serving, r cairn.BlockReader, method uint8, args []byte) (message, error) {
	switch method {
	case methodRead:
		return answer(args, true, func(m *rangeRequest) (*readAnswer, error) {
			if m.length < 0 || m.length > maxRead {
				return nil, &cairn.Error{Op: "read", Kind: cairn.KindInvalid, Err: errors.New("a read has at most 1 MiB")}
			}
			data := make([]byte, m.length)
			return &readAnswer{data}, r.ReadAt(ctx, data, m.offset)
		})
	case methodExtents:
		return answer(args, true, func(m *rangeRequest) (*nothing, error) {
			return sendExtents(ctx, s, r.Extents(ctx, m.offset, m.length))
		})
	}
	return nil, &cairn.Error{Op: "serve call", Kind: cairn.KindUnsupported, Hint: "upgrade Cairn there"}
}

// sendExtents streams extents, many to a row.
func sendExtents(ctx context.Context, s *serving, extents iter.Seq2[cairn.Extent, error]) (*nothing, error) {
	var row extentRows
	for e, err := range extents {
		if err != nil {
			return nil, err
		}
		row.extents = append(row.extents, e)
		if len(row.extents) < extentsInRow {
			continue
		}
		if err := s.row(ctx, encode(&row)); err != nil {
			return nil, err
		}
		row.extents = row.extents[:0]
	}
	if len(row.extents) > 0 {
		if err := s.row(ctx, encode(&row)); err != nil {
			return nil, err
		}
	}
	return &nothing{}, s.flush(ctx)
}

// digestsInRow is few: each stands for up to a MiB that was read, and the caller
// compares while more is read.
const digestsInRow = 64

// sendDigests streams digests, many to a row.
func sendDigests(ctx context.Context, s *serving, digests iter.Seq2[cairn.Digest, error]) (*nothing, error) {
	var row digestRows
	send := func() error {
		err := s.row(ctx, encode(&row))
		row.digests = row.digests[:0]
		return err
	}
	for d, err := range digests {
		if err != nil {
			return nil, err
		}
		row.digests = append(row.digests, d)
		s.progress.Level("hashed bytes", d.Offset+d.Length)
		if len(row.digests) == digestsInRow {
			if err := send(); err != nil {
				return nil, err
			}
		}
	}
	if len(row.digests) > 0 {
		if err := send(); err != nil {
			return nil, err
		}
	}
	return &nothing{}, s.flush(ctx)
}

// versionReader reads a version that is open at the peer.
type versionReader struct {
	*caller
	call    *call // holds the version open
	subject string
	size    int64
}

func (r *versionReader) Size() int64 { return r.size }

func (r *versionReader) check(off, length int64) error {
	if off < 0 || length < 0 || off > r.size || length > r.size-off {
		return &cairn.Error{Op: "read", Subject: r.subject, Place: r.place, Kind: cairn.KindInvalid, Err: errors.New("the range leaves the version")}
	}
	return nil
}

func (r *versionReader) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := r.check(off, int64(len(p))); err != nil {
		return err
	}
	for len(p) > 0 {
		n := min(len(p), maxRead)
		var got readAnswer
		if err := r.unary(ctx, methodRead, "read", r.subject, &rangeRequest{off, int64(n)}, &got); err != nil {
			return err
		}
		if len(got.data) != n {
			return &cairn.Error{Op: "read", Subject: r.subject, Place: r.place, Kind: cairn.KindCorrupt, Err: errMalformed}
		}
		copy(p, got.data)
		p, off = p[n:], off+int64(n)
	}
	return nil
}

func (r *versionReader) Extents(ctx context.Context, off, length int64) iter.Seq2[cairn.Extent, error] {
	if err := r.check(off, length); err != nil {
		return func(yield func(cairn.Extent, error) bool) { yield(cairn.Extent{}, err) }
	}
	return r.extents(ctx, methodExtents, "list extents of", r.subject, &rangeRequest{off, length})
}

// Close gives the version back, and waits until the peer has let go of it.
func (r *versionReader) Close() error {
	r.close(errors.New("it was closed"))
	ctx, cancel := context.WithTimeout(context.Background(), r.t.Grace)
	defer cancel()
	if err := r.call.await(ctx, func() bool { return false }); err != nil {
		r.call.giveUp()
		return nil // the peer was told; it lets go when it can
	}
	return r.call.fault
}

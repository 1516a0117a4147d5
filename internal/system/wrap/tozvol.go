package wrap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"cairn"
	"cairn/internal/format/blocks"
	"cairn/internal/format/zfsstream"
)

// toZvol sends volumes as zvols to places that take no blocks.
type toZvol struct{ cairn.Sender }

// Send passes on what the place below can send itself. A stream that goes on with a
// token of zfs is read from its beginning, and leaves out what the receiver has.
func (t toZvol) Send(ctx context.Context, step cairn.Step, accept []cairn.Format) (*cairn.Stream, error) {
	token, err := zfsstream.ParseToken(string(step.Resume))
	if !slices.Contains(accept, cairn.FormatZFS) || err != nil && (len(step.Resume) > 0 || slices.Contains(accept, cairn.FormatBlocks)) {
		return t.Sender.Send(ctx, step, accept)
	}
	if err == nil && (token.ToGUID != step.To.GUID || token.FromGUID != step.From.GUID) {
		return nil, &cairn.Error{Op: "resume", Subject: step.Dataset + step.To.Name, Kind: cairn.KindConflict, Hint: "abort the partial receive and send from the beginning",
			Err: fmt.Errorf("the token leads from %v to %v, the step from %v to %v", token.FromGUID, token.ToGUID, step.From.GUID, step.To.GUID)}
	}
	step.Resume = nil
	s, err := t.Sender.Send(ctx, step, []cairn.Format{cairn.FormatBlocks})
	if err != nil {
		return nil, err
	}
	out, err := asZvol(s, step, token)
	if err != nil {
		return nil, errors.Join(err, s.Body.Close())
	}
	return out, nil
}

// asZvol is the stream of a zvol with what a stream of a volume carries.
func asZvol(s *cairn.Stream, step cairn.Step, token zfsstream.Token) (*cairn.Stream, error) {
	in, err := blocks.NewReader(s.Body, blocks.ReaderOptions{})
	if err != nil {
		return nil, err
	}
	b := &zvolBody{below: s.Body, in: in}
	b.out, err = zfsstream.NewWriter(&b.buf, zfsstream.WriterOptions{Name: sentName(step), To: step.To.GUID, From: step.From.GUID,
		Created: in.Header().Created, Size: in.Header().Size, Object: token.Object, Offset: token.Offset})
	if err != nil {
		return nil, err
	}
	h := s.Header
	h.Format, h.Kind, h.Resume = cairn.FormatZFS, cairn.KindZvol, int64(token.Bytes)
	return &cairn.Stream{Header: h, Body: b}, nil
}

// sentName is what the stream calls the snapshot. Receivers use what is behind the
// '@'; the whole has at most 255 bytes.
func sentName(step cairn.Step) string {
	if name := step.Dataset + step.To.Name; len(name) <= cairn.MaxNameBytes {
		return name
	}
	return "volume" + step.To.Name
}

// zvolBody makes the stream of a zvol as it is read.
type zvolBody struct {
	below io.ReadCloser

	mu  sync.Mutex // guards what follows: Close may come while Read runs
	in  *blocks.Reader
	out *zfsstream.Writer
	buf bytes.Buffer
	err error
}

// Read gives the next bytes of the stream.
func (b *zvolBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.buf.Len() == 0 {
		if b.err != nil {
			return 0, b.err
		}
		b.err = b.produce()
	}
	return b.buf.Read(p)
}

// produce translates one record, io.EOF after the last.
func (b *zvolBody) produce() error {
	rec, err := b.in.Next()
	switch {
	case isEnd(err):
		if err := b.out.End(); err != nil {
			return err
		}
		return io.EOF
	case err != nil:
		return err
	case rec.Kind == blocks.KindData:
		return b.out.Data(rec.Offset, rec.Data)
	case rec.Kind == blocks.KindPoint:
		return nil
	}
	return b.out.Zero(rec.Offset, rec.Length)
}

// Close closes the stream below, which ends a Read that waits.
func (b *zvolBody) Close() error { return b.below.Close() }

// isEnd reports whether a reader's answer vouches for the whole stream.
func isEnd(err error) bool { return err == io.EOF } //nolint:errorlint // a cut stream has EOF somewhere inside

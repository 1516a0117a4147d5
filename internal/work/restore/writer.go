package restore

import (
	"bytes"
	"context"
	"fmt"
	"hash"

	"cairn"
	"cairn/internal/mech/watchdog"
)

// writer puts a version's bytes in their place and hashes them in order. What no
// piece of a full stream covers reads as zeroes; what no piece of a further stream
// covers stays as it is.
type writer struct {
	out      *output
	size     int64
	digest   hash.Hash // of the content in order; means nothing after a further stream
	at       int64     // end of the last piece
	further  bool      // another stream was applied before this one
	passed   int64     // bytes of all pieces
	written  int64     // bytes written to the output
	progress *watchdog.Progress
	live     *FileLive
}

var zeroes [256 << 10]byte

// data writes p at off.
func (w *writer) data(ctx context.Context, off int64, p []byte) error {
	if err := w.begin(ctx, off, int64(len(p))); err != nil {
		return err
	}
	w.digest.Write(p)
	w.pass(int64(len(p)))
	if !w.sparse() {
		return w.write(off, p)
	}
	for len(p) > 0 {
		run, hole := dataRun(p)
		if err := w.write(off, p[:run]); err != nil {
			return err
		}
		off, p = off+int64(run+hole), p[run+hole:]
	}
	return nil
}

// dataRun tells how many bytes p begins with until a block of zeroes, and how many
// bytes of zeroes follow.
func dataRun(p []byte) (data, hole int) {
	isZero := func(at int) bool {
		n := min(cairn.BlockSize, len(p)-at)
		return bytes.Equal(p[at:at+n], zeroes[:n])
	}
	for data < len(p) && !isZero(data) {
		data = min(data+cairn.BlockSize, len(p))
	}
	for at := data; at < len(p) && isZero(at); at = data + hole {
		hole = min(hole+cairn.BlockSize, len(p)-data)
	}
	return data, hole
}

// zero makes a range read as zeroes.
func (w *writer) zero(ctx context.Context, off, length int64) error {
	if err := w.begin(ctx, off, length); err != nil {
		return err
	}
	return w.fill(ctx, off, length)
}

// end fills what follows the last piece, and makes the writer ready for a further
// stream.
func (w *writer) end(ctx context.Context) error {
	err := w.begin(ctx, w.size, 0)
	w.at, w.further = 0, true
	return err
}

// begin checks a piece and fills what lies before it.
func (w *writer) begin(ctx context.Context, off, length int64) error {
	if ctx.Err() != nil {
		return canceled(ctx, w.out.path)
	}
	if off < w.at || off+length > w.size {
		return &cairn.Error{Op: "restore to", Subject: w.out.path, Kind: cairn.KindCorrupt,
			Err: fmt.Errorf("a piece of %d bytes at %d comes after %d, in a version of %d bytes", length, off, w.at, w.size)}
	}
	if gap := off - w.at; gap > 0 && !w.further {
		return w.fill(ctx, w.at, gap)
	}
	w.at = off
	return nil
}

// fill writes zeroes where there may be something else; a new file has none.
func (w *writer) fill(ctx context.Context, off, length int64) error {
	for length > 0 {
		if ctx.Err() != nil {
			return canceled(ctx, w.out.path)
		}
		p := zeroes[:min(int64(len(zeroes)), length)]
		w.digest.Write(p)
		w.pass(int64(len(p)))
		if !w.sparse() {
			if err := w.write(off, p); err != nil {
				return err
			}
		}
		off, length = off+int64(len(p)), length-int64(len(p))
	}
	return nil
}

func (w *writer) sparse() bool { return !w.out.device && !w.further }

// pass books n bytes of content.
func (w *writer) pass(n int64) {
	w.at += n
	w.passed += n
	w.live.written.Store(w.at)
	w.progress.Level("bytes", w.passed)
}

func (w *writer) write(off int64, p []byte) error {
	if len(p) == 0 {
		return nil
	}
	if _, err := w.out.file.WriteAt(p, off); err != nil {
		return failed(w.out.path, err)
	}
	w.written += int64(len(p))
	return nil
}

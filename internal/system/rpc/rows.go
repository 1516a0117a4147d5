package rpc

import (
	"context"
	"encoding/binary"
	"errors"
	"iter"

	"cairn"
)

// maxRow is the bytes of one row, which holds a dataset with all its versions.
const maxRow = 64 << 20

// rows runs a call that streams rows. A row is valid until the next one is asked
// for. When the consumer leaves early the peer is told.
func (c *caller) rows(ctx context.Context, method uint8, op, subject string, in message) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		k, err := c.start(ctx, method, op, subject, in)
		if err != nil {
			yield(nil, err)
			return
		}
		var cut rowCutter
		taken := 0
		for {
			piece, err := k.nextRows(ctx, taken)
			if err == nil && piece == nil && len(cut.left) > 0 {
				err = &cairn.Error{Op: op, Subject: subject, Place: c.place, Kind: cairn.KindCorrupt, Err: errMalformed}
			}
			if err != nil {
				k.leave()
				yield(nil, err)
				return
			}
			if piece == nil {
				return
			}
			taken = len(piece)
			if err := cut.each(piece, func(row []byte) bool { return yield(row, nil) }); err != nil {
				k.leave()
				if !errors.Is(err, errLeft) {
					yield(nil, &cairn.Error{Op: op, Subject: subject, Place: c.place, Kind: cairn.KindCorrupt, Err: err})
				}
				return
			}
		}
	}
}

// leave gives a call up whose consumer has gone, and does not wait for it.
func (k *call) leave() {
	k.mu.Lock()
	over := k.over
	k.mu.Unlock()
	if !over {
		k.giveUp()
	}
}

var errLeft = errors.New("the consumer left")

// rowCutter cuts pieces of a row stream into rows.
type rowCutter struct{ left []byte }

// each calls fn with every row that piece completes.
func (r *rowCutter) each(piece []byte, fn func([]byte) bool) error {
	if len(r.left) > 0 {
		r.left = append(r.left, piece...)
		piece = r.left
	}
	for len(piece) > 0 {
		n, head := binary.Uvarint(piece)
		if head < 0 || n > maxRow || head == 0 && len(piece) >= binary.MaxVarintLen64 {
			return errMalformed
		}
		if head == 0 || n > uint64(len(piece)-head) {
			break
		}
		row := piece[head : head+int(n)]
		piece = piece[head+int(n):]
		if !fn(row) {
			return errLeft
		}
	}
	r.left = append(r.left[:0], piece...)
	return nil
}

// extents runs a call that streams extents.
func (c *caller) extents(ctx context.Context, method uint8, op, subject string, in message) iter.Seq2[cairn.Extent, error] {
	return func(yield func(cairn.Extent, error) bool) {
		for row, err := range c.rows(ctx, method, op, subject, in) {
			var r extentRows
			if err == nil {
				err = decode(row, &r)
			}
			if err != nil {
				yield(cairn.Extent{}, err)
				return
			}
			for _, e := range r.extents {
				if !yield(e, nil) {
					return
				}
			}
		}
	}
}

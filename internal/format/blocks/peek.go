package blocks

import (
	"bytes"
	"io"
)

// Peek reads a stream's header and returns it with the position that the stream
// goes on from and a reader of the whole stream, header included: what a command
// needs that takes a stream from a pipe and hands it to a receiver.
func Peek(r io.Reader) (Header, int64, io.Reader, error) {
	var seen bytes.Buffer
	h, at, err := readHeader(io.TeeReader(r, &seen))
	if err != nil {
		return Header{}, 0, nil, err
	}
	return h, at.Position, io.MultiReader(&seen, r), nil
}

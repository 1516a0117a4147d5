package tape

import (
	"context"

	"cairn/ltfs"
)

// ReadFile reads a file's bytes, for tests that look at thousands of tapes.
func (t *Tape) ReadFile(ctx context.Context, f *ltfs.File) ([]byte, error) {
	data := make([]byte, f.Length)
	x := &extractor{t: t}
	for _, e := range f.Extents {
		err := x.extent(ctx, e, func(part []byte, at uint64) error {
			copy(data[at:], part)
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return data, nil
}

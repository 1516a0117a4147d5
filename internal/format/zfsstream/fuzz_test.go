package zfsstream_test

import (
	"bytes"
	"io"
	"testing"

	"cairn"
	"cairn/internal/format/zfsstream"
)

// FuzzReader feeds arbitrary bytes. Reader and check agree on what is whole; the
// sums are mended first, so that what lies behind them is reached.
func FuzzReader(f *testing.F) {
	for _, name := range []string{"Lce", "ce-i", "I", "p", "w", "redacted", "fs-i", "clone", "resumed-ce"} {
		f.Add(golden(f, name))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		mend(b)
		_, _, err := count(b)
		c := zfsstream.Check(bytes.NewReader(b), zfsstream.CheckOptions{})
		_, checked := io.Copy(io.Discard, c)
		if (err == nil) != (checked == nil) && c.Summary().Unread == "" {
			t.Errorf("reader %v, check %v", err, checked)
		}
		if err != nil && cairn.KindOf(err) != cairn.KindCorrupt && cairn.KindOf(err) != cairn.KindUnsupported {
			t.Errorf("an error of kind %v: %v", cairn.KindOf(err), err)
		}
	})
}

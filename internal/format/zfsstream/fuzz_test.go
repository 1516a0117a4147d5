package zfsstream_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"testing"

	"cairn"
	"cairn/internal/format/zfsstream"
)

// FuzzReader feeds arbitrary bytes. Reader and check agree on what is whole; the
// sums are mended first, so that what lies behind them is reached.
func FuzzReader(f *testing.F) {
	for _, name := range []string{"Lce", "ce-i", "I", "p", "w", "redacted", "fs-i", "clone", "resumed-ce"} {
		f.Add(shortened(golden(f, name)))
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		if len(input) > 1<<16 { // what is larger says no more, and takes the time of many
			return
		}
		b := bytes.Clone(input) // the fuzzer keeps its own
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

// shortened leaves out of a stream what repeats itself, so that mutation meets
// records rather than content: of each type of record, but those that make its
// frame, the first six.
func shortened(b []byte) []byte {
	var out []byte
	counts := map[zfsstream.Type]int{}
	walk(b, func(o binary.ByteOrder, head, payload []byte) {
		kind := zfsstream.Type(o.Uint32(head))
		if counts[kind]++; counts[kind] <= 6 || kind == zfsstream.TypeBegin || kind == zfsstream.TypeEnd {
			out = append(append(out, head...), payload...)
		}
	})
	return out
}

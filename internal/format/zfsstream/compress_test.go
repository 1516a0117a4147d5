package zfsstream_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"testing"

	"cairn"
	"cairn/internal/format/zfsstream"
)

// contentSum is what sha256sum said of the four zvols of comp-*, which held the same
// and were compressed differently.
const contentSum = "660774790d151875d5961ce211a4eec5d91dff65dd111be636310d8e7ee9718b"

// Each compression of OpenZFS unpacks to what the zvol held.
func TestUnpack(t *testing.T) {
	for name, want := range map[string]zfsstream.Compression{"comp-gzip": 10, "comp-lzjb": zfsstream.CompressLZJB, "comp-zle": zfsstream.CompressZLE, "comp-zstd": zfsstream.CompressZstd} {
		content, seen := unpackVolume(t, golden(t, name), 64<<10)
		if sum := sha256.Sum256(content); hex.EncodeToString(sum[:]) != contentSum || !seen[want] {
			t.Errorf("%s: %x, compressions %v", name, sum, seen)
		}
	}
	content, seen := unpackVolume(t, golden(t, "Lce"), 256<<10)
	if !bytes.Equal(content, golden(t, "a.raw")) || !seen[zfsstream.CompressLZ4] {
		t.Errorf("lz4 and embedded data: the content differs, compressions %v", seen)
	}
}

// unpackVolume lays out the writes of object 1.
func unpackVolume(t *testing.T, stream []byte, size int) ([]byte, map[zfsstream.Compression]bool) {
	t.Helper()
	r, err := zfsstream.NewReader(bytes.NewReader(stream))
	if err != nil {
		t.Fatal(err)
	}
	content, seen := make([]byte, size), map[zfsstream.Compression]bool{}
	var u zfsstream.Unpacker
	for {
		rec, err := r.Next()
		if errors.Is(err, io.EOF) {
			return content, seen
		}
		if err != nil {
			t.Fatal(err)
		}
		if rec.Object != 1 || rec.Type != zfsstream.TypeWrite && rec.Type != zfsstream.TypeEmbedded {
			continue
		}
		p, err := u.Unpack(rec)
		if err != nil {
			t.Fatal(err)
		}
		seen[rec.Compressed] = true
		copy(content[rec.Offset:], p)
	}
}

// Any damage in a packed block is an error or other content of the right length;
// nothing is written past it.
func FuzzUnpack(f *testing.F) {
	for _, name := range []string{"comp-gzip", "comp-lzjb", "comp-zle", "comp-zstd", "Lce"} {
		r, err := zfsstream.NewReader(bytes.NewReader(golden(f, name)))
		if err != nil {
			f.Fatal(err)
		}
		for rec, err := r.Next(); err == nil; rec, err = r.Next() {
			if len(rec.Payload) > 0 && rec.Compressed != 0 {
				f.Add(uint8(rec.Compressed), uint32(rec.Length), rec.Payload)
			}
		}
	}
	f.Fuzz(func(t *testing.T, c uint8, length uint32, payload []byte) {
		var u zfsstream.Unpacker
		rec := zfsstream.Record{Type: zfsstream.TypeWrite, Compressed: zfsstream.Compression(c), Length: uint64(length % (1 << 20)), Payload: payload}
		out, err := u.Unpack(rec)
		if err == nil && uint64(len(out)) != rec.Length {
			t.Errorf("%d bytes, not %d", len(out), rec.Length)
		}
		if k := cairn.KindOf(err); err != nil && k != cairn.KindCorrupt && k != cairn.KindUnsupported {
			t.Error(err)
		}
	})
}

package blocks_test

import (
	"bytes"
	"io"
	"testing"
	"time"

	"cairn"
	"cairn/internal/format/blocks"
)

func TestPeekLeavesTheStreamWhole(t *testing.T) {
	h := blocks.Header{Size: 8192, Sector: 512, To: cairn.VersionID{Name: "@a", GUID: 7}, Created: time.Unix(1, 0).UTC()}
	var stream bytes.Buffer
	w, err := blocks.NewWriter(&stream, h, blocks.WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.End(); err != nil {
		t.Fatal(err)
	}
	whole := bytes.Clone(stream.Bytes())
	got, at, rest, err := blocks.Peek(&stream)
	if err != nil || got != h || at != 0 {
		t.Fatalf("%+v at %d, %v", got, at, err)
	}
	again, err := io.ReadAll(rest)
	if err != nil || !bytes.Equal(again, whole) {
		t.Errorf("%d of %d bytes are left, %v", len(again), len(whole), err)
	}
}

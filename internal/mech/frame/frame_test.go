package frame_test

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"cairn"
	"cairn/internal/mech/frame"
)

const limit = 1 << 16

func TestFramesRoundTrip(t *testing.T) {
	var wire []byte
	payloads := [][]byte{nil, []byte("x"), bytes.Repeat([]byte("cairn"), 5000), nil}
	for i, p := range payloads {
		wire = frame.Append(wire, frame.Header{Type: uint8(i), Flags: uint8(2 * i), ID: uint32(1<<31 + i)}, p)
	}
	r := frame.NewReader(bytes.NewReader(wire), limit)
	for i, want := range payloads {
		h, got, err := r.Next()
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("frame %d: %q, %v", i, got, err)
		}
		if h != (frame.Header{Type: uint8(i), Flags: uint8(2 * i), ID: uint32(1<<31 + i), Length: len(want)}) {
			t.Fatalf("frame %d: header %+v", i, h)
		}
	}
	if _, _, err := r.Next(); err != io.EOF { //nolint:errorlint // the promise is a bare EOF
		t.Fatalf("at the end: %v", err)
	}
}

// A cut at every byte: between frames it is io.EOF, inside one it is
// io.ErrUnexpectedEOF, and never a payload.
func TestCutIsNoticedAtEveryByte(t *testing.T) {
	wire := frame.Append(nil, frame.Header{Type: 1}, []byte("first"))
	boundary := len(wire)
	wire = frame.Append(wire, frame.Header{Type: 2}, []byte("second"))
	for n := range wire {
		r := frame.NewReader(bytes.NewReader(wire[:n]), limit)
		frames := 0
		var err error
		for err == nil {
			if _, _, err = r.Next(); err == nil {
				frames++
			}
		}
		whole := 0
		if n >= boundary {
			whole = 1
		}
		between := n == 0 || n == boundary
		bare := err == io.EOF //nolint:errorlint // the promise is a bare EOF
		if frames != whole || bare != between || !between && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut at %d: %d frames, %v", n, frames, err)
		}
	}
}

func TestFlippedBitIsCaughtAnywhere(t *testing.T) {
	wire := frame.Append(nil, frame.Header{Type: 3, Flags: 1, ID: 7}, []byte("payload of a frame"))
	for bit := range len(wire) * 8 {
		bad := bytes.Clone(wire)
		bad[bit/8] ^= 1 << (bit % 8)
		if _, _, err := frame.NewReader(bytes.NewReader(bad), limit).Next(); err == nil {
			t.Errorf("bit %d: taken as good", bit)
		}
	}
}

func TestClaimedLengthAllocatesNothing(t *testing.T) {
	wire := frame.Append(nil, frame.Header{}, nil)
	wire[3] = 0x7f
	r := frame.NewReader(bytes.NewReader(wire), limit)
	if _, _, err := r.Next(); !errors.Is(err, cairn.KindCorrupt) {
		t.Fatalf("claimed 2 GiB: %v", err)
	}
}

func TestPayloadWantsTheFramesLength(t *testing.T) {
	r := frame.NewReader(bytes.NewReader(frame.Append(nil, frame.Header{}, []byte("four"))), limit)
	if _, err := r.Header(); err != nil {
		t.Fatal(err)
	}
	if err := r.Payload(make([]byte, 3)); !errors.Is(err, cairn.KindInvalid) {
		t.Fatalf("short buffer: %v", err)
	}
}

func FuzzReader(f *testing.F) {
	f.Add(frame.Append(nil, frame.Header{Type: 1, ID: 2}, []byte("seed")))
	f.Fuzz(func(t *testing.T, wire []byte) {
		r := frame.NewReader(bytes.NewReader(wire), 64)
		for {
			h, p, err := r.Next()
			if err != nil {
				return
			}
			if again := frame.Append(nil, h, p); !bytes.Contains(wire, again) {
				t.Fatalf("frame %+v was not in the input", h)
			}
		}
	})
}

func BenchmarkSeal256KiB(b *testing.B) {
	buf := make([]byte, frame.HeaderSize+256<<10)
	b.SetBytes(256 << 10)
	for b.Loop() {
		frame.Seal(buf, frame.Header{})
	}
}

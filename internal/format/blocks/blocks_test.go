package blocks_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"

	"cairn"
	"cairn/internal/format/blocks"
)

// op is one call of a writer.
type op struct {
	kind   blocks.Kind
	off    int64
	length int64
	data   []byte
}

func header(size int64) blocks.Header {
	return blocks.Header{Size: size, Sector: 512,
		From:    cairn.VersionID{Name: "#a", GUID: 0x1111},
		To:      cairn.VersionID{Name: "@b", GUID: 0x2222},
		Created: time.Unix(1700000000, 42).UTC()}
}

// write sends those ops, or the parts of them, that lie at or after the writer's
// position.
func write(t interface{ Fatal(...any) }, h blocks.Header, o blocks.WriterOptions, ops []op) []byte {
	var out bytes.Buffer
	w, err := blocks.NewWriter(&out, h, o)
	if err != nil {
		t.Fatal(err)
	}
	for _, op := range ops {
		skip := max(0, min(op.length, w.Position()-op.off))
		off, length := op.off+skip, op.length-skip
		if length == 0 {
			continue
		}
		switch op.kind {
		case blocks.KindData:
			err = w.Data(off, op.data[skip:])
		case blocks.KindZero:
			err = w.Zero(off, length)
		default:
			err = w.Discard(off, length)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.End(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// model is the content that ops leave on a volume full of 0xEE, and which bytes a
// discard covered.
func model(size int64, ops []op) (image, discarded []byte) {
	image, discarded = bytes.Repeat([]byte{0xEE}, int(size)), make([]byte, size)
	for _, op := range ops {
		part := image[op.off : op.off+op.length]
		clear(part)
		copy(part, op.data)
		if op.kind == blocks.KindDiscard {
			for i := range op.length {
				discarded[op.off+i] = 1
			}
		}
	}
	return image, discarded
}

// apply reads a stream onto an image until it ends or fails.
func apply(image, discarded, stream, token []byte) (last []byte, r *blocks.Reader, err error) {
	r, err = blocks.NewReader(bytes.NewReader(stream), blocks.ReaderOptions{Resume: token})
	if err != nil {
		return token, nil, err
	}
	for {
		rec, err := r.Next()
		if err != nil {
			return r.Token(), r, err
		}
		part := image[rec.Offset : rec.Offset+rec.Length]
		clear(part)
		copy(part, rec.Data)
		if rec.Kind == blocks.KindDiscard {
			for i := range rec.Length {
				discarded[rec.Offset+i] = 1
			}
		}
	}
}

func content(rng *rand.Rand, n int64) []byte {
	p := make([]byte, n)
	for i := 0; i < len(p); i += cairn.BlockSize {
		block := p[i:min(i+cairn.BlockSize, len(p))]
		switch rng.IntN(4) {
		case 0: // zero
		case 1:
			for j := range block {
				block[j] = byte(rng.Uint32())
			}
		default:
			copy(block, bytes.Repeat([]byte{byte(rng.Uint32()), 1, 2, 3, 4}, len(block)/5))
			block[0] = 7
		}
	}
	return p
}

// script draws extents in ascending order; the volume's tail may be short.
func script(rng *rand.Rand, blocksMax int64) (size int64, ops []op) {
	size = (rng.Int64N(blocksMax) + 1) * cairn.BlockSize
	if rng.IntN(2) == 0 {
		size -= int64(rng.IntN(8)) * 512
	}
	for off := int64(0); off < size; {
		off += cairn.BlockSize * rng.Int64N(4) * rng.Int64N(2)
		if off >= size {
			break
		}
		n := min(size-off, cairn.BlockSize*(1+rng.Int64N(1+rng.Int64N(200))))
		o := op{kind: blocks.Kind(1 + rng.IntN(3)), off: off, length: n}
		if o.kind == blocks.KindData {
			o.data = content(rng, n)
		}
		ops = append(ops, o)
		off += n
	}
	return size, ops
}

var compressions = []blocks.Compression{blocks.CompressS2, blocks.CompressZstd, blocks.CompressNone, ""}

func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		size, ops := script(rng, rapid.Int64Range(1, 1500).Draw(t, "blocks"))
		h := header(size)
		if rapid.Bool().Draw(t, "full") {
			h.From = cairn.VersionID{}
		}
		stream := write(t, h, blocks.WriterOptions{Compression: rapid.SampledFrom(compressions).Draw(t, "compression")}, ops)
		image, discarded := bytes.Repeat([]byte{0xEE}, int(size)), make([]byte, size)
		_, r, err := apply(image, discarded, stream, nil)
		if !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		wantImage, wantDiscarded := model(size, ops)
		if !bytes.Equal(image, wantImage) || !bytes.Equal(discarded, wantDiscarded) {
			t.Fatal("the image differs")
		}
		if r.Header() != h {
			t.Fatalf("header %+v, want %+v", r.Header(), h)
		}
	})
}

// A stream cut anywhere goes on from its last point, as often as it is cut; what
// arrives in the end, and the counts, are those of the uncut stream, and no more
// than the data between two points is sent again.
func TestResume(t *testing.T) {
	resumed := 0
	rapid.Check(t, func(t *rapid.T) {
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 2))
		size, ops := script(rng, 2000)
		h, o := header(size), blocks.WriterOptions{PointBytes: 300 << 10, Compression: rapid.SampledFrom(compressions).Draw(t, "compression")}
		whole := write(t, h, o, ops)
		image, discarded := bytes.Repeat([]byte{0xEE}, int(size)), make([]byte, size)
		_, r, err := apply(image, discarded, whole, nil)
		if !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		want := r.Counts()

		image, discarded = bytes.Repeat([]byte{0xEE}, int(size)), make([]byte, size)
		var token []byte
		for range rapid.IntRange(1, 2).Draw(t, "cuts") {
			o.Resume = token
			rest := write(t, h, o, ops)
			var before int64
			if token != nil {
				before = point(t, token).Counts.Data
			}
			cut := rapid.IntRange(0, len(rest)-1).Draw(t, "cut")
			last, r, err := apply(image, discarded, rest[:cut], token)
			if !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatalf("cut at %d: %v", cut, err)
			}
			if r != nil {
				if p := point(t, last); r.Counts().Data-p.Counts.Data > o.PointBytes || p.Counts.Data < before {
					t.Fatalf("point at %d bytes of data, cut at %d", p.Counts.Data, r.Counts().Data)
				}
			}
			token = last
			if token != nil && point(t, token).Position > 0 {
				resumed++
			}
		}
		o.Resume = token
		_, r, err = apply(image, discarded, write(t, h, o, ops), token)
		if !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		wantImage, wantDiscarded := model(size, ops)
		if !bytes.Equal(image, wantImage) || !bytes.Equal(discarded, wantDiscarded) {
			t.Fatal("the image differs")
		}
		if got := r.Counts(); got.Data+got.Zeroes+got.Discards != want.Data+want.Zeroes+want.Discards {
			t.Fatalf("counts %+v, want %+v", got, want)
		}
	})
	if resumed == 0 {
		t.Error("no stream went on from a point")
	}
}

func point(t interface{ Fatal(...any) }, token []byte) blocks.Point {
	p, err := blocks.ParsePoint(token)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestZeroesInDataBecomeExtents(t *testing.T) {
	const k = cairn.BlockSize
	p := make([]byte, 64*k)
	p[0], p[40*k] = 1, 1
	stream := write(t, header(128*k), blocks.WriterOptions{}, []op{
		{kind: blocks.KindData, off: 0, length: 64 * k, data: p},
		{kind: blocks.KindData, off: 64 * k, length: 60 * k, data: make([]byte, 60*k)},
		{kind: blocks.KindZero, off: 124 * k, length: k},
		{kind: blocks.KindDiscard, off: 125 * k, length: k},
	})
	r, err := blocks.NewReader(bytes.NewReader(stream), blocks.ReaderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var got []blocks.Record
	for {
		rec, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, blocks.Record{Kind: rec.Kind, Offset: rec.Offset / k, Length: rec.Length / k})
	}
	want := []blocks.Record{{Kind: 1, Offset: 0, Length: 1}, {Kind: 2, Offset: 1, Length: 39}, {Kind: 1, Offset: 40, Length: 1},
		{Kind: 2, Offset: 41, Length: 84}, {Kind: 3, Offset: 125, Length: 1}}
	if len(got) != len(want) {
		t.Fatalf("got %v, want %v", got, want)
	}
	for i := range want {
		if got[i].Kind != want[i].Kind || got[i].Offset != want[i].Offset || got[i].Length != want[i].Length {
			t.Errorf("record %d is %v, want %v", i, got[i], want[i])
		}
	}
}

func TestWriterRefuses(t *testing.T) {
	const k = cairn.BlockSize
	size := int64(10*k + 512)
	for name, calls := range map[string]func(w *blocks.Writer) error{
		"backwards":       func(w *blocks.Writer) error { _ = w.Zero(4*k, k); return w.Data(k, make([]byte, k)) },
		"overlap":         func(w *blocks.Writer) error { _ = w.Discard(0, 2*k); return w.Discard(k, k) },
		"outside":         func(w *blocks.Writer) error { return w.Zero(10*k, k) },
		"far outside":     func(w *blocks.Writer) error { return w.Zero(1<<62, 1<<62) },
		"inside a block":  func(w *blocks.Writer) error { return w.Data(512, make([]byte, 512)) },
		"half a block":    func(w *blocks.Writer) error { return w.Data(0, make([]byte, 512)) },
		"nothing":         func(w *blocks.Writer) error { return w.Data(0, nil) },
		"after the end":   func(w *blocks.Writer) error { _ = w.End(); return w.Zero(0, k) },
		"end twice":       func(w *blocks.Writer) error { _ = w.End(); return w.End() },
		"after a failure": func(w *blocks.Writer) error { _ = w.Zero(-k, k); return w.End() },
	} {
		w, err := blocks.NewWriter(io.Discard, header(size), blocks.WriterOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if err := calls(w); !errors.Is(err, cairn.KindInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, change := range map[string]func(h *blocks.Header, o *blocks.WriterOptions){
		"compression": func(_ *blocks.Header, o *blocks.WriterOptions) { o.Compression = "lzma" },
		"name":        func(h *blocks.Header, _ *blocks.WriterOptions) { h.To.Name = "b" },
		"GUID":        func(h *blocks.Header, _ *blocks.WriterOptions) { h.To.GUID = 0 },
		"half a base": func(h *blocks.Header, _ *blocks.WriterOptions) { h.From.GUID = 0 },
		"sector":      func(h *blocks.Header, _ *blocks.WriterOptions) { h.Sector = 1000 },
		"token":       func(_ *blocks.Header, o *blocks.WriterOptions) { o.Resume = []byte("x") },
	} {
		h, o := header(size), blocks.WriterOptions{}
		change(&h, &o)
		if _, err := blocks.NewWriter(io.Discard, h, o); !errors.Is(err, cairn.KindInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// full is an output with no room.
type full struct{}

func (full) Write([]byte) (int, error) {
	return 0, &cairn.Error{Op: "write", Kind: cairn.KindSpace}
}

func TestErrorsOfInputAndOutputKeepTheirKind(t *testing.T) {
	w, err := blocks.NewWriter(full{}, header(4096), blocks.WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.End(); !errors.Is(err, cairn.KindSpace) {
		t.Error(err)
	}
	stream := write(t, header(4096), blocks.WriterOptions{}, nil)
	for want, cause := range map[cairn.Kind]error{
		cairn.KindIO:          errors.New("line noise"),
		cairn.KindUnavailable: &cairn.Error{Op: "read", Kind: cairn.KindUnavailable, Err: io.EOF}, // no clean end
	} {
		for _, cut := range []int{3, len(stream) - 5, len(stream)} {
			_, _, err := applyFrom(io.MultiReader(bytes.NewReader(stream[:cut]), failing{cause}))
			if cairn.KindOf(err) != want || !errors.Is(err, cause) {
				t.Errorf("cut at %d: %v has kind %v, want %v", cut, err, cairn.KindOf(err), want)
			}
		}
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func applyFrom(in io.Reader) (n int, r *blocks.Reader, err error) {
	r, err = blocks.NewReader(in, blocks.ReaderOptions{})
	for ; err == nil; n++ {
		_, err = r.Next()
	}
	return n, r, err
}

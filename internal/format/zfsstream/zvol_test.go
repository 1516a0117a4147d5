package zfsstream_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"cairn"
	"cairn/internal/format/zfsstream"
)

// apply lays a stream out over the content of its base.
func apply(stream, base []byte) ([]byte, *zfsstream.VolumeReader, error) {
	v, err := zfsstream.NewVolumeReader(bytes.NewReader(stream))
	if err != nil {
		return nil, nil, err
	}
	content := bytes.Clone(base)
	for {
		e, err := v.Next()
		if errors.Is(err, io.EOF) && cairn.KindOf(err) == cairn.KindOther {
			break
		}
		if err != nil {
			return nil, v, err
		}
		length := e.Length
		if e.Data == nil && e.Offset+length > int64(len(content)) {
			length = max(0, int64(len(content))-e.Offset)
		}
		if grown := e.Offset + length; length > 0 && grown > int64(len(content)) {
			content = append(content, make([]byte, grown-int64(len(content)))...)
		}
		if e.Data != nil {
			copy(content[e.Offset:], e.Data)
		} else if length > 0 {
			clear(content[e.Offset : e.Offset+length])
		}
	}
	if n := int(v.Size()) - len(content); n > 0 {
		content = append(content, make([]byte, n)...)
	} else if v.Size() > 0 {
		content = content[:v.Size()]
	}
	return content, v, nil
}

// The content that OpenZFS sent is the content that the zvol had, whatever the
// options: full, packed, embedded, behind properties, resumed, incremental, grown.
func TestVolumeContent(t *testing.T) {
	a, b, c := golden(t, "a.raw"), golden(t, "b.raw"), golden(t, "c.raw")
	for _, x := range []struct {
		stream     string
		base, want []byte
	}{
		{"plain", nil, a}, {"c", nil, a}, {"L", nil, a}, {"e", nil, a}, {"Lce", nil, a}, {"p", nil, a}, {"resumed", nil, a},
		{"resumed-ce", a[:0x3000], a}, {"i", a, b}, {"ce-i", a, b}, {"i-bookmark", a, b}, {"i-grown", b, c},
	} {
		got, v, err := apply(golden(t, x.stream), x.base)
		if err != nil || !bytes.Equal(got, x.want) {
			t.Errorf("%s: %v, %d bytes, equal %v", x.stream, err, len(got), bytes.Equal(got, x.want))
			continue
		}
		if h := v.Header(); h.Kind != cairn.KindZvol || h.Snapshot().GUID != h.ToGUID || strings.HasPrefix(h.ToName, "p1/t/v@a") != (h.FromGUID == 0) {
			t.Errorf("%s: header %+v", x.stream, h)
		}
	}
	h, _, err := zfsstream.Peek(bytes.NewReader(golden(t, "resumed-ce")))
	if object, offset, resumed := h.Resume(); err != nil || object != 1 || offset != 0x3000 || !resumed {
		t.Errorf("goes on from %d, %d, %v, %v", object, offset, resumed, err)
	}
}

// Streams of which no volume can be made are refused with the reason.
func TestNoVolume(t *testing.T) {
	for name, reason := range map[string]string{"fs": "filesystem", "fs-Rh": "filesystem", "w": "encrypted", "R": "several snapshots", "I": "several snapshots"} {
		_, _, err := apply(golden(t, name), nil)
		if cairn.KindOf(err) != cairn.KindUnsupported || !strings.Contains(err.Error(), reason) || cairn.HintOf(err) == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What a Writer makes reads back as what it was given, full and incremental, from
// the beginning and from any place that a token names.
func TestWriter(t *testing.T) {
	a, b := golden(t, "a.raw"), golden(t, "b.raw")
	for _, o := range []zfsstream.WriterOptions{
		{}, {From: 7}, {Object: 1, Offset: 0x10000}, {Object: 1, Offset: 0x15000}, {From: 7, Object: 1, Offset: 0x3000}, {Object: 2}, {From: 7, Object: 2},
	} {
		o.Name, o.To, o.Size, o.Created = "v@b", 9, int64(len(b)), time.Unix(1700000000, 0)
		base := []byte(nil)
		if o.From != 0 {
			base = a
		}
		stream := written(t, o, base, b)
		if _, err := io.Copy(io.Discard, zfsstream.Check(bytes.NewReader(stream), zfsstream.CheckOptions{})); err != nil {
			t.Errorf("%+v: %v", o, err)
		}
		have := bytes.Clone(base)
		if o.Object != 0 { // what the receiver has from before the cut
			have = append(bytes.Clone(b[:position(o)]), bytes.Clone(base)[min(len(base), position(o)):]...)
		}
		got, v, err := apply(stream, have)
		if err != nil || !bytes.Equal(got, b) {
			t.Fatalf("%+v: %v, equal %v", o, err, bytes.Equal(got, b))
		}
		h := v.Header()
		if h.ToGUID != 9 || h.FromGUID != o.From || h.ToName != "v@b" || !h.Created.Equal(o.Created) || v.Size() != o.Size {
			t.Errorf("%+v: header %+v, size %d", o, h, v.Size())
		}
		if object, offset, resumed := h.Resume(); resumed != (o.Object != 0) || object != o.Object || offset != o.Offset {
			t.Errorf("%+v: goes on from %d, %d, %v", o, object, offset, resumed)
		}
	}
}

func position(o zfsstream.WriterOptions) int {
	if o.Object > 1 {
		return int(o.Size)
	}
	return int(o.Offset)
}

// A record of a power of two begins at a multiple of it, and there are no others: a
// zvol with blocks of just that length would take it for a whole block.
func TestRecordsAreAligned(t *testing.T) {
	var out bytes.Buffer
	const size = 1 << 20
	w, err := zfsstream.NewWriter(&out, zfsstream.WriterOptions{Name: "v@b", To: 9, From: 7, Size: size})
	for off := int64(4096); err == nil && off < size; off += 61440 + 4096 {
		err = w.Data(off, make([]byte, min(61440, size-off)))
	}
	if err := errors.Join(err, w.End()); err != nil {
		t.Fatal(err)
	}
	r, err := zfsstream.NewReader(&out)
	n := 0
	for rec := (zfsstream.Record{}); err == nil; rec, err = r.Next() {
		if rec.Type == zfsstream.TypeWrite && rec.Object == zfsstream.DataObject {
			if n++; rec.Length&(rec.Length-1) != 0 || rec.Offset%rec.Length != 0 {
				t.Errorf("%d bytes at %d", rec.Length, rec.Offset)
			}
		}
	}
	if n < 16 {
		t.Errorf("%d records", n)
	}
}

// A full stream carries what came and no more, however it is scattered over the
// blocks of the zvol that it makes: a record is at most the header longer than in
// the stream of a zvol of 4 KiB blocks, and whole blocks are one record.
func TestFullStreamCarriesWhatCame(t *testing.T) {
	const size, unit, block = 8 << 20, cairn.BlockSize, 16 << 10
	for _, share := range []float64{0.02, 0.3, 0.7, 1} {
		rnd := rand.New(rand.NewPCG(1, 2))
		content, units, whole := make([]byte, size), int64(0), 0
		for at := 0; at < size; at += block {
			came := 0
			for off := at; off < at+block; off += unit {
				if rnd.Float64() < share {
					content[off], content[off+unit-1], units, came = 1, byte(at>>14)|1, units+1, came+1
				}
			}
			if came == block/unit {
				whole++
			}
		}
		stream := written(t, zfsstream.WriterOptions{Name: "v@a", To: 9, Size: size}, nil, content)
		got, _, err := apply(stream, nil)
		if err != nil || !bytes.Equal(got, content) {
			t.Fatalf("share %v: %v, equal %v", share, err, bytes.Equal(got, content))
		}
		var payload int64
		blocks, records := 0, int64(0)
		r, err := zfsstream.NewReader(bytes.NewReader(stream))
		for rec := (zfsstream.Record{}); err == nil; rec, err = r.Next() {
			records++
			if rec.Type != zfsstream.TypeWrite || rec.Object != zfsstream.DataObject {
				continue
			}
			payload += int64(len(rec.Payload))
			if rec.Length == block {
				blocks++
			}
			if rec.Length&(rec.Length-1) != 0 || rec.Offset%rec.Length != 0 || rec.Length > block {
				t.Errorf("%d bytes at %d", rec.Length, rec.Offset)
			}
		}
		zfs := units * (unit + zfsstream.RecordBytes) // of a zvol with blocks of 4 KiB
		t.Logf("share %v: %d bytes, a zvol of 4 KiB blocks %d (%+.1f %%)", share, len(stream), zfs, 100*float64(int64(len(stream))-zfs)/float64(zfs))
		if payload != units*unit || blocks != whole || int64(len(stream)) > zfs+zfs/10 || records > units+10 {
			t.Errorf("share %v: %d bytes of payload for %d units, %d of %d blocks whole, %d records, %d bytes in all", share, payload, units, blocks, whole, records, len(stream))
		}
	}
}

// written makes a stream of what differs between base and content in units of 4 KiB.
func written(t testing.TB, o zfsstream.WriterOptions, base, content []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := zfsstream.NewWriter(&out, o)
	if err != nil {
		t.Fatal(err)
	}
	base = append(bytes.Clone(base), make([]byte, len(content)-len(base))...)
	for at := 0; at < len(content) && err == nil; at += cairn.BlockSize {
		p := content[at : at+cairn.BlockSize]
		switch {
		case bytes.Equal(p, base[at:at+cairn.BlockSize]):
		case bytes.Equal(p, make([]byte, len(p))):
			err = w.Zero(int64(at), int64(len(p)))
		default:
			err = w.Data(int64(at), p)
		}
	}
	if err := errors.Join(err, w.End()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// built is a full stream of about size bytes of noise, in records of one size.
func built(t testing.TB, size, record int) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := zfsstream.NewWriter(&out, zfsstream.WriterOptions{Name: "v@a", To: 1, From: 2, Size: int64(size)})
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, record)
	noise := rand.NewChaCha8([32]byte{})
	for at := 0; at < size && err == nil; at += record {
		_, _ = noise.Read(p) // never fails
		err = w.Data(int64(at), p)
	}
	if err := errors.Join(err, w.End()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// A stream of a big-endian machine reads like the one it was made from.
func TestBigEndian(t *testing.T) {
	for _, name := range []string{"plain", "p", "c"} {
		b := golden(t, name)
		swap(b)
		h, _, err := zfsstream.Peek(bytes.NewReader(b))
		if err != nil || !h.BigEndian {
			t.Fatal(name, h, err)
		}
		got, _, err := apply(b, nil)
		if err != nil || !bytes.Equal(got, golden(t, "a.raw")) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// swap turns a stream into that of a big-endian sender. The properties of the zvol
// are numbers in their sender's memory.
func swap(b []byte) {
	walk(b, func(_ binary.ByteOrder, head, payload []byte) {
		kind := zfsstream.Type(binary.LittleEndian.Uint32(head))
		if kind == zfsstream.TypeWrite && head[8] == 2 {
			flip(payload, 8, 8, 8)
			for payload = payload[64:]; len(payload) >= 64; payload = payload[64:] {
				flip(payload, 8, 4, 2)
			}
		}
		flip(head, 4, 4)
		fields := map[zfsstream.Type][]int{
			zfsstream.TypeBegin: {8, 8, 8, 4, 4, 8, 8}, zfsstream.TypeObject: {8, 4, 4, 4, 4, 1, 1, 1, 1, 4, 8, 1, 1, 1, 5, 8},
			zfsstream.TypeFreeObjects: {8, 8, 8}, zfsstream.TypeWrite: {8, 4, 4, 8, 8, 8, 1, 1, 1, 5, 8, 8, 8, 8, 8, 8},
			zfsstream.TypeFree: {8, 8, 8, 8}, zfsstream.TypeEnd: {8, 8, 8, 8, 8}, zfsstream.TypeEmbedded: {8, 8, 8, 8, 1, 1, 6, 4, 4},
		}[kind]
		flip(head[8:], fields...)
		if kind != zfsstream.TypeBegin {
			flip(head[280:], 8, 8, 8, 8)
		}
	})
	mend(b)
}

// flip turns the bytes of fields of the given lengths around.
func flip(b []byte, fields ...int) {
	for _, n := range fields {
		if n == 1 || n == 2 || n == 4 || n == 8 {
			for i, j := 0, n-1; i < j; i, j = i+1, j-1 {
				b[i], b[j] = b[j], b[i]
			}
		}
		b = b[n:]
	}
}

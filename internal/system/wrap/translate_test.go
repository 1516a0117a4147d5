package wrap_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"cairn"
	"cairn/internal/format/zfsstream"
	"cairn/internal/system/volume"
	"cairn/internal/system/wrap"
)

// recorded is what OpenZFS made: a stream, or the content of a zvol.
func recorded(t *testing.T, name string) []byte {
	t.Helper()
	f := must[*os.File](t)(os.Open("../../format/zfsstream/testdata/" + name + ".gz"))
	defer func() { _ = f.Close() }() // only read
	return must[[]byte](t)(io.ReadAll(must[*gzip.Reader](t)(gzip.NewReader(f))))
}

func volumes(t *testing.T) *cairn.Endpoint {
	t.Helper()
	p := must[*volume.Place](t)(volume.OpenPlace(t.Context(), volume.PlaceOptions{Dir: t.TempDir()}))
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return wrap.Translate(p.Endpoint())
}

// zvolStream is a recorded stream as a place with ZFS sends it.
func zvolStream(t *testing.T, dataset string, b []byte, size int64) *cairn.Stream {
	t.Helper()
	h, _, err := zfsstream.Peek(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	if h.Compound { // the properties come first
		v := must[*zfsstream.VolumeReader](t)(zfsstream.NewVolumeReader(bytes.NewReader(b)))
		h = v.Header()
	}
	from := cairn.VersionID{}
	if h.FromGUID != 0 {
		from = cairn.VersionID{Name: "#base", GUID: h.FromGUID}
	}
	return &cairn.Stream{Body: io.NopCloser(bytes.NewReader(b)), Header: cairn.StreamHeader{Format: cairn.FormatZFS, Dataset: dataset, Kind: cairn.KindZvol,
		From: from, To: cairn.Version{VersionID: h.Snapshot(), Created: h.Created, Size: size}, Volume: size, Size: -1}}
}

func contentAt(t *testing.T, ep *cairn.Endpoint, dataset string, id cairn.VersionID) []byte {
	t.Helper()
	r := must[cairn.BlockReader](t)(ep.Blocks.OpenVersion(t.Context(), dataset, id))
	p := make([]byte, r.Size())
	if err := errors.Join(r.ReadAt(t.Context(), p, 0), r.Close()); err != nil {
		t.Fatal(err)
	}
	return p
}

func receive(t *testing.T, ep *cairn.Endpoint, s *cairn.Stream) cairn.Received {
	t.Helper()
	return must[cairn.Received](t)(ep.Receiver.Receive(t.Context(), s, cairn.ReceiveOptions{Owner: "test"}))
}

// Versions of a zvol become versions of a volume with their GUIDs and bytes: full
// and incremental, packed in any way, grown and shrunk, in blocks above and below
// 4 KiB.
func TestZvolIntoVolume(t *testing.T) {
	for _, chain := range [][][2]string{
		{{"plain", "a.raw"}, {"i", "b.raw"}, {"i-grown", "c.raw"}},
		{{"Lce", "a.raw"}, {"ce-i", "b.raw"}},
		{{"p", "a.raw"}, {"i-bookmark", "b.raw"}},
		{{"s", "s-a.raw"}, {"s-ce-i", "s-b.raw"}},
		{{"s-b", "s-b.raw"}},
	} {
		ep := volumes(t)
		for _, link := range chain {
			b, want := recorded(t, link[0]), recorded(t, link[1])
			s := zvolStream(t, "tank/z", b, int64(len(want)))
			got := receive(t, ep, s)
			if got.Bytes != int64(len(b)) || !slices.Equal(got.Versions, []cairn.VersionID{s.Header.To.VersionID}) {
				t.Errorf("%s: received %+v", link[0], got)
			}
			if !bytes.Equal(contentAt(t, ep, "tank/z", s.Header.To.VersionID), want) {
				t.Errorf("%s: the content differs", link[0])
			}
		}
	}
}

// A stream that is no zvol's, is cut, lies about itself or cannot be understood
// leaves nothing visible.
func TestZvolRefused(t *testing.T) {
	plain, size := recorded(t, "plain"), int64(256<<10)
	for _, c := range []struct {
		name   string
		stream func() *cairn.Stream
		kind   cairn.Kind
	}{
		{"filesystem", func() *cairn.Stream { return zvolStream(t, "z", recorded(t, "fs"), size) }, cairn.KindUnsupported},
		{"encrypted", func() *cairn.Stream { return zvolStream(t, "z", recorded(t, "w"), 64<<10) }, cairn.KindUnsupported},
		{"cut", func() *cairn.Stream { return zvolStream(t, "z", plain[:len(plain)-312], size) }, cairn.KindCorrupt},
		{"bytes behind", func() *cairn.Stream { return zvolStream(t, "z", append(bytes.Clone(plain), 0), size) }, cairn.KindCorrupt},
		{"other size", func() *cairn.Stream { return zvolStream(t, "z", plain, size*2) }, cairn.KindCorrupt},
		{"no size", func() *cairn.Stream { return zvolStream(t, "z", plain, 0) }, cairn.KindInvalid},
		{"other version", func() *cairn.Stream {
			s := zvolStream(t, "z", plain, size)
			s.Header.To.GUID++
			return s
		}, cairn.KindCorrupt},
		{"several versions", func() *cairn.Stream {
			s := zvolStream(t, "z", plain, size)
			s.Header.Via = []cairn.Version{s.Header.To}
			return s
		}, cairn.KindUnsupported},
		{"no cut receive", func() *cairn.Stream { return zvolStream(t, "z", recorded(t, "resumed-ce"), size) }, cairn.KindConflict},
		{"no base", func() *cairn.Stream { return zvolStream(t, "z", recorded(t, "i"), size) }, cairn.KindConflict},
	} {
		ep := volumes(t)
		closed := &closing{}
		s := c.stream()
		closed.Reader, s.Body = s.Body, closed
		_, err := ep.Receiver.Receive(t.Context(), s, cairn.ReceiveOptions{})
		if !errors.Is(err, c.kind) || !closed.closed {
			t.Errorf("%s: %v, closed %v", c.name, err, closed.closed)
		}
		for l, err := range ep.Lister.List(t.Context(), cairn.Query{Filter: cairn.All, Want: cairn.Want{Versions: true}}) {
			if err != nil || len(l.Versions) > 0 {
				t.Errorf("%s: %v, %+v", c.name, err, l)
			}
		}
	}
}

type closing struct {
	io.Reader
	closed bool
}

func (c *closing) Close() error { c.closed = true; return nil }

// replay is a place with ZFS that sends one recorded stream, from the place that a
// token of zfs names.
type replay struct {
	t      *testing.T
	stream []byte
	size   int64
	token  zfsstream.Token
}

func (r *replay) Send(_ context.Context, step cairn.Step, _ []cairn.Format) (*cairn.Stream, error) {
	s := zvolStream(r.t, step.Dataset, r.stream, r.size)
	if step.Resume != nil {
		token, err := zfsstream.ParseToken(string(step.Resume))
		if err != nil {
			return nil, err
		}
		r.token = token
		s.Header.Resume = int64(token.Bytes)
		s.Body = io.NopCloser(bytes.NewReader(rewritten(r.t, r.stream, token, r.size)))
	}
	return s, nil
}

// rewritten is the same stream as it goes on from a token.
func rewritten(t *testing.T, stream []byte, token zfsstream.Token, size int64) []byte {
	t.Helper()
	v := must[*zfsstream.VolumeReader](t)(zfsstream.NewVolumeReader(bytes.NewReader(stream)))
	var out bytes.Buffer
	w := must[*zfsstream.Writer](t)(zfsstream.NewWriter(&out, zfsstream.WriterOptions{Name: token.ToName, To: token.ToGUID, From: token.FromGUID, Size: size,
		Created: v.Header().Created, Object: token.Object, Offset: token.Offset}))
	for {
		e, err := v.Next()
		if err == io.EOF { //nolint:errorlint // the reader's own end
			break
		}
		if err == nil && e.Data != nil {
			err = w.Data(e.Offset, e.Data)
		} else if err == nil {
			err = w.Zero(e.Offset, min(e.Length, size-e.Offset))
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

// large is the stream of a zvol of 24 MiB.
func large(t *testing.T) (stream, content []byte) {
	t.Helper()
	content = make([]byte, 24<<20)
	for i := range content {
		content[i] = byte(i>>12*7 + i)
	}
	clear(content[5<<20 : 6<<20])
	var out bytes.Buffer
	w := must[*zfsstream.Writer](t)(zfsstream.NewWriter(&out, zfsstream.WriterOptions{Name: "tank/z@a", To: 77, Size: int64(len(content)), Created: time.Unix(1700000000, 0)}))
	for at := 0; at < len(content); at += 16 << 10 {
		if at>>20 == 5 {
			continue
		}
		if err := w.Data(int64(at), content[at:at+16<<10]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.End(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes(), content
}

// A stream of a zvol that was cut on its way into a volume goes on where it was cut:
// the volume's token becomes one of zfs.
func TestCutZvolGoesOn(t *testing.T) {
	stream, content := large(t)
	ep := volumes(t)
	from := &replay{t: t, stream: stream, size: int64(len(content))}
	sender := wrap.Translate(&cairn.Endpoint{Info: cairn.Info{Sends: map[cairn.DatasetKind][]cairn.Format{cairn.KindZvol: {cairn.FormatZFS}}}, Sender: from})
	cutOff := zvolStream(t, "z", stream[:len(stream)*2/3], int64(len(content)))
	if _, err := ep.Receiver.Receive(t.Context(), cutOff, cairn.ReceiveOptions{Owner: "test"}); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatal(err)
	}
	var partial *cairn.Partial
	for l, err := range ep.Lister.List(t.Context(), cairn.Query{Filter: cairn.All, Want: cairn.Want{Partial: true}}) {
		if err != nil || l.Partial == nil {
			t.Fatal(err, l)
		}
		partial = l.Partial
	}
	s := must[*cairn.Stream](t)(sender.Sender.Send(t.Context(), cairn.Step{Dataset: "z", To: cairn.VersionID{Name: "@a", GUID: 77}, Resume: partial.Token}, []cairn.Format{cairn.FormatZFS}))
	if from.token.Offset != uint64(partial.Received) || from.token.ToName != "z@a" || from.token.Object != zfsstream.DataObject || partial.Received < 8<<20 {
		t.Fatalf("%+v of %+v", from.token, partial)
	}
	got := receive(t, ep, s)
	if got.Bytes > int64(len(stream))/2 {
		t.Errorf("%d bytes sent again of %d", got.Bytes, len(stream))
	}
	if !bytes.Equal(contentAt(t, ep, "z", cairn.VersionID{Name: "@a", GUID: 77}), content) {
		t.Error("the content differs")
	}
}

// A volume's versions go as streams of a zvol: read back they are equal, with their
// GUIDs, full, incremental and from any place that a token of zfs names.
func TestVolumeAsZvol(t *testing.T) {
	ep := volumes(t)
	a, b := recorded(t, "a.raw"), recorded(t, "b.raw")
	first := receive(t, ep, zvolStream(t, "z", recorded(t, "plain"), int64(len(a)))).Versions[0]
	second := receive(t, ep, zvolStream(t, "z", recorded(t, "i"), int64(len(b)))).Versions[0]
	for _, c := range []struct {
		step  cairn.Step
		token zfsstream.Token
		base  []byte
		want  []byte
	}{
		{step: cairn.Step{To: first}, want: a},
		{step: cairn.Step{From: first, To: second}, base: a, want: b},
		{step: cairn.Step{To: second}, token: zfsstream.Token{Object: 1, Offset: 0x10000}, base: b[:0x10000], want: b},
		{step: cairn.Step{From: first, To: second}, token: zfsstream.Token{Object: 2}, base: b, want: b},
	} {
		c.step.Dataset = "z"
		if c.token.Object != 0 {
			c.token.ToName, c.token.ToGUID, c.token.FromGUID, c.token.Bytes = "z"+c.step.To.Name, c.step.To.GUID, c.step.From.GUID, 5000
			c.step.Resume = []byte(c.token.String())
		}
		s := must[*cairn.Stream](t)(ep.Sender.Send(t.Context(), c.step, []cairn.Format{cairn.FormatZFS}))
		if h := s.Header; h.Format != cairn.FormatZFS || h.Kind != cairn.KindZvol || h.To.VersionID != c.step.To || h.Resume != int64(c.token.Bytes) {
			t.Errorf("header %+v", h)
		}
		stream := must[[]byte](t)(io.ReadAll(s.Body))
		if err := s.Body.Close(); err != nil {
			t.Error(err)
		}
		content := append(bytes.Clone(c.base), make([]byte, len(c.want)-len(c.base))...)
		v := must[*zfsstream.VolumeReader](t)(zfsstream.NewVolumeReader(bytes.NewReader(stream)))
		for {
			e, err := v.Next()
			if err == io.EOF { //nolint:errorlint // the reader's own end
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if e.Data == nil {
				clear(content[min(e.Offset, int64(len(content))):min(e.Offset+e.Length, int64(len(content)))])
			}
			copy(content[min(e.Offset, int64(len(content))):], e.Data)
		}
		if !bytes.Equal(content, c.want) || v.Header().ToGUID != c.step.To.GUID || v.Header().FromGUID != c.step.From.GUID {
			t.Errorf("%+v: the content or the header %+v differs", c.step, v.Header())
		}
	}
	wrong := zfsstream.Token{ToName: "z@a", ToGUID: second.GUID, Object: 1}
	if _, err := ep.Sender.Send(t.Context(), cairn.Step{Dataset: "z", To: first, Resume: []byte(wrong.String())}, []cairn.Format{cairn.FormatZFS}); !errors.Is(err, cairn.KindConflict) {
		t.Errorf("a token of another version: %v", err)
	}
	long := cairn.Step{Dataset: strings.Repeat("d/", 120) + "z", To: first}
	if _, err := ep.Sender.Send(t.Context(), long, []cairn.Format{cairn.FormatZFS}); !errors.Is(err, cairn.KindNotFound) {
		t.Errorf("no such volume: %v", err)
	}
}

// Both sides of a translated place that can blocks go on with blocks.
func TestBlocksStayBlocks(t *testing.T) {
	ep := volumes(t)
	first := receive(t, ep, zvolStream(t, "z", recorded(t, "plain"), 256<<10)).Versions[0]
	s := must[*cairn.Stream](t)(ep.Sender.Send(t.Context(), cairn.Step{Dataset: "z", To: first}, []cairn.Format{cairn.FormatZFS, cairn.FormatBlocks}))
	if s.Header.Format != cairn.FormatBlocks || s.Body.Close() != nil {
		t.Errorf("sends %s", s.Header.Format)
	}
	if got := ep.Info.Accepts; !slices.Equal(got[cairn.KindZvol], []cairn.Format{cairn.FormatZFS}) || !slices.Equal(got[cairn.KindVolume], []cairn.Format{cairn.FormatBlocks}) {
		t.Errorf("accepts %v", got)
	}
}

package nbdproto_test

import (
	"bytes"
	"reflect"
	"testing"

	"cairn/internal/format/nbdproto"
)

func TestOptionDataRoundTrip(t *testing.T) {
	g := nbdproto.GoData{Name: "db@a", Infos: []uint16{1, 3}}
	if back, ok := nbdproto.ParseGo(nbdproto.AppendGo(nil, g)); !ok || !reflect.DeepEqual(back, g) {
		t.Errorf("go: %+v %v", back, ok)
	}
	m := nbdproto.MetaData{Name: "db", Queries: []string{"base:allocation", ""}}
	if back, ok := nbdproto.ParseMeta(nbdproto.AppendMeta(nil, m)); !ok || !reflect.DeepEqual(back, m) {
		t.Errorf("meta: %+v %v", back, ok)
	}
	h, ok := nbdproto.ParseOptionHeader(nbdproto.AppendOption(nil, nbdproto.OptGo, []byte("abc")))
	if !ok || h != (nbdproto.OptionHeader{Option: nbdproto.OptGo, Length: 3}) {
		t.Errorf("option: %+v %v", h, ok)
	}
	r, ok := nbdproto.ParseReplyHeader(nbdproto.AppendOptionReply(nil, nbdproto.OptGo, nbdproto.RepErrUnknown, nil))
	if !ok || r.Type != nbdproto.RepErrUnknown || !r.Type.IsError() {
		t.Errorf("option reply: %+v %v", r, ok)
	}
}

func TestRequestAndRepliesRoundTrip(t *testing.T) {
	q := nbdproto.Request{Flags: 5, Type: nbdproto.CmdWrite, Cookie: 1 << 60, Offset: 1 << 50, Length: 77}
	if back, ok := nbdproto.ParseRequest(nbdproto.AppendRequest(nil, q)); !ok || back != q {
		t.Errorf("request: %+v %v", back, ok)
	}
	c := nbdproto.ChunkHeader{Flags: 1, Type: nbdproto.ChunkErrorOffset, Cookie: 9, Length: 8}
	if back, ok := nbdproto.ParseChunkHeader(nbdproto.AppendChunkHeader(nil, c)); !ok || back != c {
		t.Errorf("chunk: %+v %v", back, ok)
	}
	ds := []nbdproto.Descriptor{{Length: 4096, Flags: 3}, {Length: 512}}
	if id, back, ok := nbdproto.ParseStatus(nbdproto.AppendStatus(nil, 7, ds)); !ok || id != 7 || !reflect.DeepEqual(back, ds) {
		t.Errorf("status: %d %+v %v", id, back, ok)
	}
	if e, msg, ok := nbdproto.ParseError(append(nbdproto.AppendError(nil, nbdproto.ENOSPC, "full"), 0, 0)); !ok || e != nbdproto.ENOSPC || msg != "full" {
		t.Errorf("error: %v %q %v", e, msg, ok)
	}
}

// Every truncation of well-formed option data is malformed, and one byte more too.
func TestEveryTruncationIsMalformed(t *testing.T) {
	goData := nbdproto.AppendGo(nil, nbdproto.GoData{Name: "abc", Infos: []uint16{0, 3}})
	meta := nbdproto.AppendMeta(nil, nbdproto.MetaData{Name: "abc", Queries: []string{"x", "yy"}})
	for n := range len(goData) + 2 {
		if _, ok := nbdproto.ParseGo(append(goData, 0)[:n]); ok != (n == len(goData)) {
			t.Errorf("go data of %d bytes: ok %v", n, ok)
		}
	}
	for n := range len(meta) + 2 {
		if _, ok := nbdproto.ParseMeta(append(meta, 0)[:n]); ok != (n == len(meta)) {
			t.Errorf("meta data of %d bytes: ok %v", n, ok)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(nbdproto.AppendGo(nil, nbdproto.GoData{Name: "abc", Infos: []uint16{0}}))
	f.Add(nbdproto.AppendMeta(nil, nbdproto.MetaData{Name: "abc", Queries: []string{"x"}}))
	f.Add(nbdproto.AppendStatus(nil, 1, []nbdproto.Descriptor{{Length: 1}}))
	f.Add(nbdproto.AppendError(nil, nbdproto.EIO, "x"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if g, ok := nbdproto.ParseGo(b); ok && !bytes.Equal(nbdproto.AppendGo(nil, g), b) {
			t.Errorf("go data is read in two ways: %x", b)
		}
		if m, ok := nbdproto.ParseMeta(b); ok && !bytes.Equal(nbdproto.AppendMeta(nil, m), b) {
			t.Errorf("meta data is read in two ways: %x", b)
		}
		if id, ds, ok := nbdproto.ParseStatus(b); ok && !bytes.Equal(nbdproto.AppendStatus(nil, id, ds), b) {
			t.Errorf("status is read in two ways: %x", b)
		}
		nbdproto.ParseError(b)
	})
}

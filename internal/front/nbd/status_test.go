package nbd_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"testing"

	"cairn"
	"cairn/internal/format/nbdproto"
	"cairn/internal/front/nbd"
	"cairn/internal/front/nbd/nbdclient"
)

// fixed streams extents whatever range is asked for.
func fixed(es ...cairn.Extent) func(context.Context, int64, int64) iter.Seq2[cairn.Extent, error] {
	return func(context.Context, int64, int64) iter.Seq2[cairn.Extent, error] {
		return func(yield func(cairn.Extent, error) bool) {
			for _, e := range es {
				if !yield(e, nil) {
					return
				}
			}
		}
	}
}

// mapAll asks until the whole range is described, and returns a flag per block.
func mapAll(t *testing.T, c *nbdclient.Client, context string, off, length int64, flags uint16) []uint32 {
	t.Helper()
	var out []uint32
	for end := off + length; off < end; {
		st, err := c.Do(t.Context(), nbdproto.Request{Type: nbdproto.CmdBlockStatus, Flags: flags, Offset: uint64(off), Length: uint32(end - off)}, nil)
		if err != nil {
			t.Fatal(err)
		}
		ds := st[context]
		if len(ds) == 0 || flags != 0 && len(ds) != 1 {
			t.Fatalf("%d descriptors at %d", len(ds), off)
		}
		for _, d := range ds {
			if d.Length == 0 || off+int64(d.Length) > end {
				t.Fatalf("descriptor %+v at %d leaves the range", d, off)
			}
			for range d.Length / 4096 {
				out = append(out, d.Flags)
			}
			off += int64(d.Length)
		}
	}
	return out
}

// Both contexts describe random devices exactly, asked for in one go, in
// descriptors of one, and in pieces.
func TestBlockStatusEqualsTheMap(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	const blocks = 512
	for round := range 20 {
		d := newDevice(blocks*4096, 4096)
		var dirty []cairn.Extent
		alloc, changed := make([]uint32, blocks), make([]uint32, blocks)
		for b := range int64(blocks) {
			alloc[b] = nbdproto.StatusHole | nbdproto.StatusZero
			if r.IntN(3) == 0 {
				d.written[b], alloc[b] = true, 0
			}
			if r.IntN(4) == 0 {
				dirty = append(dirty, cairn.Extent{Offset: b * 4096, Length: 4096, Kind: cairn.ExtentData})
				changed[b] = nbdproto.StatusDirty
			}
		}
		name := nbd.DirtyContext("#b0")
		s := serve(t, map[string]*nbd.Export{"db": {Device: d, Contexts: []nbd.Context{{Name: name, Changed: fixed(dirty...)}}}})
		c := s.dial(nbdclient.Options{Export: "db", Contexts: []string{name, nbdproto.ContextAllocation}})
		from := r.Int64N(blocks)
		for _, flags := range []uint16{0, nbdproto.CmdFlagReqOne} {
			for context, want := range map[string][]uint32{nbdproto.ContextAllocation: alloc, name: changed} {
				got := mapAll(t, c, context, from*4096, (blocks-from)*4096, flags)
				if !slices.Equal(got, want[from:]) {
					t.Fatalf("round %d: %s from block %d with flags %d differs", round, context, from, flags)
				}
			}
		}
		s.stop()
	}
}

// More extents than fit into one answer are told in several, none is lost.
func TestBlockStatusOfManyExtents(t *testing.T) {
	const blocks = 3 * 8192
	d := newDevice(blocks*4096, 4096)
	for b := int64(0); b < blocks; b += 2 {
		d.written[b] = true
	}
	c := serve(t, heads(d)).dial(nbdclient.Options{Export: "db", Contexts: []string{nbdproto.ContextAllocation}})
	for b, flags := range mapAll(t, c, nbdproto.ContextAllocation, 0, blocks*4096, 0) {
		if (flags == 0) != (b%2 == 0) {
			t.Fatalf("block %d has flags %d", b, flags)
		}
	}
}

func TestBlockStatusErrors(t *testing.T) {
	lost := &cairn.Error{Op: "read change set of", Subject: "#b0", Kind: cairn.KindDamaged}
	name := nbd.DirtyContext("#b0")
	broken := func(context.Context, int64, int64) iter.Seq2[cairn.Extent, error] {
		return func(yield func(cairn.Extent, error) bool) { yield(cairn.Extent{}, lost) }
	}
	d := newDevice(1<<20, 512)
	s := serve(t, map[string]*nbd.Export{"db": {Device: d, Contexts: []nbd.Context{{Name: name, Changed: broken}}}})
	c := s.dial(nbdclient.Options{Export: "db", Contexts: []string{name}})
	_, err := c.BlockStatus(t.Context(), 0, 4096)
	var a *nbdclient.Answer
	if !errors.As(err, &a) || a.Errno != nbdproto.EIO || a.Text != lost.Error() {
		t.Errorf("a lost change set: %v", err)
	}
	if _, err := c.BlockStatus(t.Context(), 1<<20, 4096); !errors.Is(err, cairn.KindInvalid) {
		t.Errorf("past the end: %v", err)
	}
}

// Contexts hold for the export they were set for, and for no other.
func TestContextsBelongToTheirExport(t *testing.T) {
	s := serve(t, heads(newDevice(1<<20, 512)))
	for _, other := range []bool{false, true} {
		r := s.raw()
		r.ask(nbdproto.OptStructuredReply, nil)
		r.ask(nbdproto.OptSetMetaContext, nbdproto.AppendMeta(nil, nbdproto.MetaData{Name: "db", Queries: []string{"base:allocation"}}))
		name := "db"
		if other {
			name = "db@a"
		}
		r.ask(nbdproto.OptGo, nbdproto.AppendGo(nil, nbdproto.GoData{Name: name}))
		r.send(nbdproto.AppendRequest(nil, nbdproto.Request{Type: nbdproto.CmdBlockStatus, Length: 4096})...)
		var head [nbdproto.ChunkHeaderSize]byte
		if _, err := r.Read(head[:]); err != nil {
			t.Fatal(err)
		}
		h, _ := nbdproto.ParseChunkHeader(head[:])
		if (h.Type == nbdproto.ChunkError) != other {
			t.Errorf("export %s: chunk of type %#x", name, h.Type)
		}
	}
}

// Large structured reads send holes as holes, but not under DF, and never data.
func TestReadsSendHoles(t *testing.T) {
	const size = 2 << 20
	d := newDevice(size, 512)
	for b := int64(0); b < 32; b++ {
		d.written[b] = true
	}
	d.written[40] = true // after a gap of 32 KiB, which is sent as a hole
	d.written[42] = true // after a gap of 4 KiB, which is sent as data
	r := serve(t, heads(d)).raw()
	r.ask(nbdproto.OptStructuredReply, nil)
	r.ask(nbdproto.OptGo, nbdproto.AppendGo(nil, nbdproto.GoData{Name: "db"}))
	for _, x := range []struct {
		flags uint16
		want  string
	}{
		{0, "data 0+131072, hole 131072+32768, data 163840+12288, hole 176128+1921024"},
		{nbdproto.CmdFlagDF, "data 0+2097152"},
	} {
		r.send(nbdproto.AppendRequest(nil, nbdproto.Request{Type: nbdproto.CmdRead, Flags: x.flags, Length: size})...)
		if got := r.chunks(); got != x.want {
			t.Errorf("flags %d: %s, want %s", x.flags, got, x.want)
		}
	}
}

// chunks reads one structured read reply and describes it.
func (r *raw) chunks() string {
	r.t.Helper()
	text := ""
	for {
		head := make([]byte, nbdproto.ChunkHeaderSize)
		r.full(head)
		h, ok := nbdproto.ParseChunkHeader(head)
		if !ok {
			r.t.Fatalf("no chunk: %x", head)
		}
		payload := make([]byte, h.Length)
		r.full(payload)
		if text != "" {
			text += ", "
		}
		switch h.Type {
		case nbdproto.ChunkOffsetData:
			text += fmt.Sprintf("data %d+%d", be.Uint64(payload), h.Length-8)
		case nbdproto.ChunkOffsetHole:
			text += fmt.Sprintf("hole %d+%d", be.Uint64(payload), be.Uint32(payload[8:]))
		default:
			text += fmt.Sprintf("chunk %d", h.Type)
		}
		if h.Flags&nbdproto.ChunkFlagDone != 0 {
			return text
		}
	}
}

package nbdclient_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"cairn"
	"cairn/internal/format/nbdproto"
	"cairn/internal/front/nbd/nbdclient"
)

var be = binary.BigEndian

// script is a server that answers each option with the next of its replies and
// then runs its part of the transmission.
type script struct {
	hello    []byte
	options  [][]byte
	transmit func(c net.Conn)
}

func hello() []byte {
	b := be.AppendUint64(nil, nbdproto.MagicServer)
	b = be.AppendUint64(b, nbdproto.MagicOption)
	return be.AppendUint16(b, nbdproto.FlagFixedNewstyle|nbdproto.FlagNoZeroes)
}

func ack(o nbdproto.Option) []byte { return nbdproto.AppendOptionReply(nil, o, nbdproto.RepAck, nil) }

// goReply announces an export of 1 MiB.
func goReply() []byte {
	info := be.AppendUint16(nil, nbdproto.InfoExport)
	info = be.AppendUint64(info, 1<<20)
	info = be.AppendUint16(info, nbdproto.ExportHasFlags)
	return append(nbdproto.AppendOptionReply(nil, nbdproto.OptGo, nbdproto.RepInfo, info), ack(nbdproto.OptGo)...)
}

// play listens, plays the script for one client and returns the address.
func play(t *testing.T, s script) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(10 * time.Second))
		if s.hello == nil {
			return
		}
		c.Write(s.hello)
		io.ReadFull(c, make([]byte, 4))
		for _, reply := range s.options {
			head := make([]byte, nbdproto.OptionHeaderSize)
			if _, err := io.ReadFull(c, head); err != nil {
				return
			}
			io.CopyN(io.Discard, c, int64(be.Uint32(head[12:])))
			c.Write(reply)
		}
		if s.transmit != nil {
			s.transmit(c)
		}
	}()
	return l.Addr().String()
}

func dial(t *testing.T, s script, structured bool) (*nbdclient.Client, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	return nbdclient.Dial(ctx, nbdclient.Options{Network: "tcp", Address: play(t, s), Export: "db", Structured: structured})
}

func TestHandshakeFailures(t *testing.T) {
	refuse := func(r nbdproto.OptionReply) [][]byte {
		return [][]byte{nbdproto.AppendOptionReply(nil, nbdproto.OptGo, r, []byte("because"))}
	}
	for name, x := range map[string]struct {
		s    script
		want cairn.Kind
		text string
	}{
		"no NBD":          {script{hello: []byte(strings.Repeat("x", 18))}, cairn.KindCorrupt, "does not have"},
		"closed at once":  {script{}, cairn.KindUnavailable, ""},
		"unknown export":  {script{hello(), refuse(nbdproto.RepErrUnknown), nil}, cairn.KindNotFound, "because"},
		"forbidden":       {script{hello(), refuse(nbdproto.RepErrPolicy), nil}, cairn.KindPermission, "because"},
		"other option":    {script{hello(), [][]byte{ack(nbdproto.OptList)}, nil}, cairn.KindCorrupt, ""},
		"endless reply":   {script{hello(), [][]byte{append(ack(nbdproto.OptGo)[:16], 0xff, 0xff, 0xff, 0xff)}, nil}, cairn.KindCorrupt, ""},
		"no option reply": {script{hello(), [][]byte{make([]byte, 20)}, nil}, cairn.KindCorrupt, ""},
	} {
		_, err := dial(t, x.s, false)
		if !errors.Is(err, x.want) || !strings.Contains(err.Error(), x.text) {
			t.Errorf("%s: %v, want kind %v", name, err, x.want)
		}
	}
}

// Whatever a server answers to a read, the client neither hangs nor writes outside
// the read's buffer, and what it takes for good was good.
func TestMalformedAnswersBreakTheConnection(t *testing.T) {
	chunk := func(kind, flags uint16, cookie uint64, payload ...byte) []byte {
		h := nbdproto.ChunkHeader{Flags: flags, Type: kind, Cookie: cookie, Length: uint32(len(payload))}
		return append(nbdproto.AppendChunkHeader(nil, h), payload...)
	}
	at := func(off uint64, rest ...byte) []byte { return append(be.AppendUint64(nil, off), rest...) }
	for name, answer := range map[string][]byte{
		"no magic":              make([]byte, 64),
		"foreign cookie":        nbdproto.AppendSimpleReply(nil, 0, 99),
		"cut in the data":       append(nbdproto.AppendSimpleReply(nil, 0, 1), 1, 2, 3),
		"data before the read":  chunk(nbdproto.ChunkOffsetData, 1, 1, at(0, 7)...),
		"data after the read":   chunk(nbdproto.ChunkOffsetData, 1, 1, at(4096+512, 7)...),
		"data without offset":   chunk(nbdproto.ChunkOffsetData, 1, 1, 7),
		"hole beyond the read":  chunk(nbdproto.ChunkOffsetHole, 1, 1, at(4096, 0, 0, 4, 0)...),
		"hole without length":   chunk(nbdproto.ChunkOffsetHole, 1, 1, at(4096)...),
		"status nobody set":     chunk(nbdproto.ChunkBlockStatus, 1, 1, make([]byte, 12)...),
		"unknown chunk":         chunk(77, 1, 1),
		"error without a text":  chunk(nbdproto.ChunkError, 1, 1, 0),
		"chunk of gigabytes":    nbdproto.AppendChunkHeader(nil, nbdproto.ChunkHeader{Type: 1, Cookie: 1, Length: 1 << 31}),
		"closed without answer": nil,
	} {
		c, err := dial(t, script{hello(), [][]byte{ack(nbdproto.OptStructuredReply), goReply()}, func(c net.Conn) {
			io.ReadFull(c, make([]byte, nbdproto.RequestSize))
			c.Write(answer)
		}}, true)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		around := make([]byte, 3*512)
		if err := c.ReadAt(t.Context(), around[512:1024:1024], 4096); err == nil {
			t.Errorf("%s: was taken for an answer", name)
		}
		for i, b := range around {
			if b != 0 && (i < 512 || i >= 1024) {
				t.Fatalf("%s: byte %d outside the buffer was written", name, i-512)
			}
		}
		if err := c.Flush(t.Context()); err == nil {
			t.Errorf("%s: the connection is used further", name)
		}
		c.Abandon()
	}
}

func TestAnswersInAnyOrder(t *testing.T) {
	c, err := dial(t, script{hello(), [][]byte{goReply()}, func(c net.Conn) {
		head := make([]byte, 2*nbdproto.RequestSize)
		io.ReadFull(c, head)
		for _, raw := range [][]byte{head[nbdproto.RequestSize:], head[:nbdproto.RequestSize]} {
			q, _ := nbdproto.ParseRequest(raw)
			c.Write(append(nbdproto.AppendSimpleReply(nil, 0, q.Cookie), byte(q.Offset)))
		}
		io.Copy(io.Discard, c)
	}}, false)
	if err != nil {
		t.Fatal(err)
	}
	answers := make(chan error, 2)
	for off := range int64(2) {
		go func() {
			p := make([]byte, 1)
			err := c.ReadAt(t.Context(), p, off)
			if err == nil && p[0] != byte(off) {
				err = errors.New("the other request's answer")
			}
			answers <- err
		}()
	}
	if err := errors.Join(<-answers, <-answers); err != nil {
		t.Error(err)
	}
	c.Abandon()
}

func TestContextEndsTheWait(t *testing.T) {
	c, err := dial(t, script{hello(), [][]byte{goReply()}, func(c net.Conn) { io.Copy(io.Discard, c) }}, false)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Abandon()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := c.Flush(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}

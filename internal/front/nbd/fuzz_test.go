package nbd_test

import (
	"context"
	"io"
	"net"
	"testing"
	"time"

	"cairn"
	"cairn/internal/format/nbdproto"
	"cairn/internal/front/nbd"
)

// one is a listener that hands out a single connection.
type one struct {
	conn chan net.Conn
	done chan struct{}
}

func (l *one) Accept() (net.Conn, error) {
	select {
	case c := <-l.conn:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *one) Close() error {
	select {
	case <-l.done:
	default:
		close(l.done)
	}
	return nil
}

func (l *one) Addr() net.Addr { return &net.UnixAddr{Name: "fuzz", Net: "unix"} }

// feed sends bytes to a server as a client would and waits for its end.
func feed(t *testing.T, d *device, input []byte) {
	ours, theirs := net.Pipe()
	l := &one{conn: make(chan net.Conn, 1), done: make(chan struct{})}
	l.conn <- theirs
	x := &exports{byName: map[string]*nbd.Export{
		"db":   {Device: d, Contexts: []nbd.Context{{Name: "qemu:dirty-bitmap:a", Changed: fixed(cairn.Extent{Offset: 4096, Length: 4096})}}},
		"db@a": {Reader: d},
	}}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- nbd.Serve(ctx, l, nbd.Options{Exports: x, HandshakeTimeout: 5 * time.Second}) }()
	read := make(chan struct{})
	go func() {
		io.Copy(io.Discard, ours)
		close(read)
	}()
	ours.Write(input)
	ours.Close()
	<-read
	cancel()
	select {
	case err := <-served:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the server hangs")
	}
	if x.stillOpen() != 0 {
		t.Error("an export is still open")
	}
}

func opening(structured bool) []byte {
	b := []byte{0, 0, 0, 3}
	if structured {
		b = nbdproto.AppendOption(b, nbdproto.OptStructuredReply, nil)
		meta := nbdproto.AppendMeta(nil, nbdproto.MetaData{Name: "db", Queries: []string{"base:allocation", "qemu:dirty-bitmap:a"}})
		b = nbdproto.AppendOption(b, nbdproto.OptSetMetaContext, meta)
	}
	return nbdproto.AppendOption(b, nbdproto.OptGo, nbdproto.AppendGo(nil, nbdproto.GoData{Name: "db", Infos: []uint16{3}}))
}

// FuzzNegotiation: no bytes make the server panic, hang or leak an export.
func FuzzNegotiation(f *testing.F) {
	f.Add(opening(true))
	f.Add(opening(false))
	f.Add(nbdproto.AppendOption([]byte{0, 0, 0, 1}, nbdproto.OptExportName, []byte("db@a")))
	f.Add(nbdproto.AppendOption(nbdproto.AppendOption([]byte{0, 0, 0, 3}, nbdproto.OptList, nil), nbdproto.OptAbort, nil))
	f.Add(nbdproto.AppendOption([]byte{0, 0, 0, 3}, nbdproto.OptStartTLS, nil))
	f.Fuzz(func(t *testing.T, input []byte) { feed(t, newDevice(1<<20, 512), input) })
}

// FuzzTransmission: the same after a good handshake; and nothing outside the
// device is reached (its slices would panic).
func FuzzTransmission(f *testing.F) {
	var all []byte
	for c := range nbdproto.CmdBlockStatus + 1 {
		if c == nbdproto.CmdDisc {
			continue
		}
		q := nbdproto.AppendRequest(nil, nbdproto.Request{Type: c, Cookie: 1, Offset: 4096, Length: 512})
		if c == nbdproto.CmdWrite {
			q = append(q, make([]byte, 512)...)
		}
		f.Add(true, q)
		all = append(all, q...)
	}
	f.Add(true, all)
	f.Add(false, all)
	f.Add(true, nbdproto.AppendRequest(nil, nbdproto.Request{Type: nbdproto.CmdRead, Offset: 1<<64 - 1, Length: 1<<32 - 1}))
	f.Fuzz(func(t *testing.T, structured bool, input []byte) {
		feed(t, newDevice(1<<20, 512), append(opening(structured), input...))
	})
}

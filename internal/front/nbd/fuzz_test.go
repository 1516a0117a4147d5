package nbd_test

import (
	"bytes"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"cairn"
	"cairn/internal/format/nbdproto"
	"cairn/internal/front/nbd"
)

// one is a listener that hands out a single connection, and ends once that was
// closed.
type one struct {
	conn *scripted
	took bool // Accept is called by one goroutine at a time
}

func (l *one) Accept() (net.Conn, error) {
	if !l.took {
		l.took = true
		return l.conn, nil
	}
	<-l.conn.closed
	return nil, net.ErrClosed
}

func (l *one) Close() error   { return nil }
func (l *one) Addr() net.Addr { return &net.UnixAddr{Name: "fuzz", Net: "unix"} }

// scripted is a connection whose client said all that it has to say and takes
// every answer.
type scripted struct {
	bytes.Reader
	closed chan struct{}
	once   sync.Once
}

func (*scripted) Write(p []byte) (int, error)      { return len(p), nil }
func (*scripted) LocalAddr() net.Addr              { return &net.UnixAddr{Name: "fuzz", Net: "unix"} }
func (*scripted) RemoteAddr() net.Addr             { return &net.UnixAddr{Name: "client", Net: "unix"} }
func (*scripted) SetDeadline(time.Time) error      { return nil }
func (*scripted) SetReadDeadline(time.Time) error  { return nil }
func (*scripted) SetWriteDeadline(time.Time) error { return nil }

func (c *scripted) Close() error {
	c.once.Do(func() { close(c.closed) })
	return nil
}

// feed sends bytes to a server as a client would and waits for its end. A server
// that hangs is what the fuzzer itself reports.
func feed(t *testing.T, d *device, input []byte) {
	c := &scripted{closed: make(chan struct{})}
	c.Reset(input)
	x := &exports{byName: map[string]*nbd.Export{
		"db":   {Device: d, Contexts: []nbd.Context{{Name: "qemu:dirty-bitmap:a", Changed: fixed(cairn.Extent{Offset: 4096, Length: 4096})}}},
		"db@a": {Reader: d},
	}}
	err := nbd.Serve(t.Context(), &one{conn: c}, nbd.Options{Exports: x})
	if !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	if x.stillOpen() != 0 {
		t.Error("an export is still open")
	}
}

// fuzzed is the size of the device that fuzzers talk about.
const fuzzed = 64 << 10

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
	f.Fuzz(func(t *testing.T, input []byte) { feed(t, newDevice(fuzzed, 512), input) })
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
		feed(t, newDevice(fuzzed, 512), append(opening(structured), input...))
	})
}

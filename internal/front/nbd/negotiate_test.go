package nbd_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"cairn"
	"cairn/internal/format/nbdproto"
	"cairn/internal/front/nbd"
	"cairn/internal/front/nbd/nbdclient"
)

var be = binary.BigEndian

// raw is a connection after the greeting, for clients that misbehave.
type raw struct {
	net.Conn
	t *testing.T
}

func (s *server) raw() *raw {
	s.t.Helper()
	c, err := net.Dial("unix", s.path)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(10 * time.Second))
	var hello [18]byte
	if _, err := io.ReadFull(c, hello[:]); err != nil {
		s.t.Fatal(err)
	}
	if be.Uint64(hello[:]) != nbdproto.MagicServer || be.Uint16(hello[16:]) != 3 {
		s.t.Fatalf("greeting %x", hello)
	}
	r := &raw{c, s.t}
	r.send(0, 0, 0, 3)
	return r
}

func (r *raw) send(b ...byte) {
	r.t.Helper()
	if _, err := r.Write(b); err != nil {
		r.t.Fatal(err)
	}
}

func (r *raw) full(b []byte) {
	r.t.Helper()
	if _, err := io.ReadFull(r, b); err != nil {
		r.t.Fatal(err)
	}
}

// ask sends an option and returns the types of its replies and the last's data.
func (r *raw) ask(o nbdproto.Option, data []byte) (types []nbdproto.OptionReply, last []byte) {
	r.t.Helper()
	r.send(nbdproto.AppendOption(nil, o, data)...)
	for {
		var head [nbdproto.ReplyHeaderSize]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			r.t.Fatalf("option %d: %v", o, err)
		}
		h, ok := nbdproto.ParseReplyHeader(head[:])
		if !ok || h.Option != o {
			r.t.Fatalf("option %d: reply %x", o, head)
		}
		last = make([]byte, h.Length)
		if _, err := io.ReadFull(r, last); err != nil {
			r.t.Fatal(err)
		}
		types = append(types, h.Type)
		if h.Type == nbdproto.RepAck || h.Type.IsError() {
			return types, last
		}
	}
}

// ended checks that the server has closed the connection.
func (r *raw) ended(what string) {
	r.t.Helper()
	if b, err := io.ReadAll(r); errors.Is(err, os.ErrDeadlineExceeded) || len(b) > 0 {
		r.t.Errorf("%s: the connection goes on (%x, %v)", what, b, err)
	}
}

func TestListAndInfo(t *testing.T) {
	d := newDevice(1<<20, 512)
	s := serve(t, heads(d))
	names, err := nbdclient.List(t.Context(), nbdclient.Options{Network: "unix", Address: s.path})
	if err != nil || !reflect.DeepEqual(names, []string{"db", "db@a"}) {
		t.Errorf("list: %q, %v", names, err)
	}
	c := s.dial(nbdclient.Options{Export: "db"})
	minimum, preferred, maximum := c.BlockSizes()
	if c.Size() != 1<<20 || minimum != 512 || preferred != 4096 || maximum != 32<<20 {
		t.Errorf("size %d, block sizes %d %d %d", c.Size(), minimum, preferred, maximum)
	}
	if _, err := s.try(nbdclient.Options{Export: "nope"}); !errors.Is(err, cairn.KindNotFound) {
		t.Errorf("unknown export: %v", err)
	}
}

func TestOptionsAreAnsweredByTheBook(t *testing.T) {
	d := newDevice(1<<20, 512)
	exports := heads(d)
	exports["db"].Description = "the head of db"
	exports["db"].Contexts = []nbd.Context{{Name: nbd.DirtyContext("@a")}, {Name: nbd.DirtyContext("#b")}}
	r := serve(t, exports).raw()
	go1 := func(name string, infos ...uint16) []byte {
		return nbdproto.AppendGo(nil, nbdproto.GoData{Name: name, Infos: infos})
	}
	meta := func(name string, queries ...string) []byte {
		return nbdproto.AppendMeta(nil, nbdproto.MetaData{Name: name, Queries: queries})
	}
	const (
		ack, info, ctx = nbdproto.RepAck, nbdproto.RepInfo, nbdproto.RepMetaContext
		invalid        = nbdproto.RepErrInvalid
	)
	type replies = []nbdproto.OptionReply
	for _, x := range []struct {
		name string
		o    nbdproto.Option
		data []byte
		want replies
	}{
		{"unknown option", 77, []byte("abc"), replies{nbdproto.RepErrUnsup}},
		{"list with data", nbdproto.OptList, []byte("x"), replies{invalid}},
		{"list", nbdproto.OptList, nil, replies{nbdproto.RepServer, nbdproto.RepServer, ack}},
		{"TLS without certificate", nbdproto.OptStartTLS, nil, replies{nbdproto.RepErrPolicy}},
		{"contexts before structured replies", nbdproto.OptListMetaContext, meta("db"), replies{invalid}},
		{"structured replies", nbdproto.OptStructuredReply, nil, replies{ack}},
		{"list all contexts", nbdproto.OptListMetaContext, meta("db"), replies{ctx, ctx, ctx, ack}},
		{"list by namespace", nbdproto.OptListMetaContext, meta("db", "qemu:"), replies{ctx, ctx, ack}},
		{"list by prefix", nbdproto.OptListMetaContext, meta("db", "qemu:dirty-bitmap:"), replies{ctx, ctx, ack}},
		{"set takes no prefix", nbdproto.OptSetMetaContext, meta("db", "qemu:dirty-bitmap:"), replies{ack}},
		{"set one", nbdproto.OptSetMetaContext, meta("db", "qemu:dirty-bitmap:b", "no:such"), replies{ctx, ack}},
		{"set on unknown export", nbdproto.OptSetMetaContext, meta("nope", "base:allocation"), replies{nbdproto.RepErrUnknown}},
		{"malformed contexts", nbdproto.OptSetMetaContext, []byte{0, 0}, replies{invalid}},
		{"malformed go", nbdproto.OptGo, []byte{0, 0, 0, 9, 'd'}, replies{invalid}},
		{"info of nothing", nbdproto.OptInfo, go1("nope"), replies{nbdproto.RepErrUnknown}},
		{"name too long", nbdproto.OptInfo, go1(strings.Repeat("x", 5000)), replies{nbdproto.RepErrPolicy}},
		{"option too long", nbdproto.OptInfo, make([]byte, 100_000), replies{nbdproto.RepErrTooBig}},
		{"info", nbdproto.OptInfo, go1("db"), replies{info, info, ack}},
		{"info with name and description", nbdproto.OptInfo, go1("db", 1, 2, 3, 99), replies{info, info, info, info, ack}},
		{"go", nbdproto.OptGo, go1("db"), replies{info, info, ack}},
	} {
		if got, text := r.ask(x.o, x.data); !reflect.DeepEqual(got, x.want) {
			t.Errorf("%s: got %#x %q, want %#x", x.name, got, text, x.want)
		}
	}
	r.send(nbdproto.AppendRequest(nil, nbdproto.Request{Type: nbdproto.CmdDisc})...)
	r.ended("disconnect")
}

func TestExportNameOption(t *testing.T) {
	s := serve(t, heads(newDevice(1<<20, 512)))
	for _, x := range []struct {
		flags byte
		want  int
	}{{1, 10 + 124}, {3, 10}} {
		c, err := net.Dial("unix", s.path)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(10 * time.Second))
		c.Write([]byte{0, 0, 0, x.flags})
		c.Write(nbdproto.AppendOption(nil, nbdproto.OptExportName, []byte("db")))
		c.Write(nbdproto.AppendRequest(nil, nbdproto.Request{Type: nbdproto.CmdDisc}))
		all, err := io.ReadAll(c)
		if err != nil || len(all) != 18+x.want || be.Uint64(all[18:]) != 1<<20 {
			t.Errorf("flags %d: %d bytes, %v", x.flags, len(all), err)
		}
	}
	r := s.raw()
	r.send(nbdproto.AppendOption(nil, nbdproto.OptExportName, []byte("nope"))...)
	r.ended("unknown export by name")
}

func TestBrokenHandshakesEndTheConnection(t *testing.T) {
	s := serve(t, heads(newDevice(1<<20, 512)))
	r := s.raw()
	r.send(make([]byte, nbdproto.OptionHeaderSize)...)
	r.ended("no option")
	r = s.raw()
	for range 300 {
		if _, err := r.Write(nbdproto.AppendOption(nil, 77, nil)); err != nil {
			break
		}
	}
	if _, err := io.Copy(io.Discard, r); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("endless options are answered")
	}
	r = s.raw()
	if types, _ := r.ask(nbdproto.OptAbort, nil); types[0] != nbdproto.RepAck {
		t.Errorf("abort: %#x", types)
	}
	r.ended("abort")
	c, err := net.Dial("unix", s.path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	c.Write([]byte{0xff, 0, 0, 3})
	if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("unknown handshake flags are accepted")
	}
}

func TestSilentHandshakeTimesOut(t *testing.T) {
	s := serve(t, heads(newDevice(1<<20, 512)), func(o *nbd.Options) { o.HandshakeTimeout = 50 * time.Millisecond })
	s.raw().ended("silence")
	c := s.dial(nbdclient.Options{Export: "db"})
	time.Sleep(100 * time.Millisecond)
	if err := c.ReadAt(t.Context(), make([]byte, 512), 0); err != nil {
		t.Errorf("the handshake's limit reaches into transmission: %v", err)
	}
}

// certificates makes a CA and a pair of configurations that trust it.
func certificates(t *testing.T) (server, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, DNSNames: []string{"test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(parsed)
	pair := []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}
	server = &tls.Config{Certificates: pair, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}
	return server, &tls.Config{Certificates: pair, RootCAs: pool, ServerName: "test"}
}

func TestTLSIsRequiredAndWorks(t *testing.T) {
	server, client := certificates(t)
	d := newDevice(8<<20, 512)
	s := serve(t, heads(d), func(o *nbd.Options) { o.TLS = server })
	c := s.dial(nbdclient.Options{Export: "db", TLS: client, Structured: true})
	want := bytes.Repeat([]byte("cairn---"), 1<<19)
	got := make([]byte, len(want))
	if err := errors.Join(c.WriteAt(t.Context(), want, 512, true), c.ReadAt(t.Context(), got, 512)); err != nil || !bytes.Equal(want, got) {
		t.Errorf("through TLS: %v", err)
	}
	if _, err := s.try(nbdclient.Options{Export: "db"}); !errors.Is(err, cairn.KindPermission) {
		t.Errorf("without TLS: %v", err)
	}
	anonymous := client.Clone()
	anonymous.Certificates = nil
	if _, err := s.try(nbdclient.Options{Export: "db", TLS: anonymous}); err == nil {
		t.Error("a client without certificate came in")
	}
	r := s.raw()
	r.send(nbdproto.AppendOption(nil, nbdproto.OptExportName, []byte("db"))...)
	r.ended("export name without TLS")
}

// Clear text that follows STARTTLS in one packet is never taken for TLS's content.
func TestTextBeforeTLSIsNotBelieved(t *testing.T) {
	server, _ := certificates(t)
	s := serve(t, heads(newDevice(1<<20, 512)), func(o *nbd.Options) { o.TLS = server })
	r := s.raw()
	r.send(append(nbdproto.AppendOption(nil, nbdproto.OptStartTLS, nil), nbdproto.AppendOption(nil, nbdproto.OptList, nil)...)...)
	var ack [nbdproto.ReplyHeaderSize]byte
	if _, err := io.ReadFull(r, ack[:]); err != nil {
		t.Fatal(err)
	}
	r.ended("injected option")
}

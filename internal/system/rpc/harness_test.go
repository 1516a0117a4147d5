package rpc_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"cairn"
	"cairn/internal/system/rpc"
	"cairn/internal/system/transport"
	"cairn/internal/system/transport/certs"
	"cairn/internal/testkit/memory"
)

var kinds = []string{"local", "unix", "tcp", "tls"}

// wire makes a listener of the kind and a dialer to it, as identity "client".
func wire(t testing.TB, kind string) (transport.Listener, transport.Dialer) {
	t.Helper()
	ctx := context.Background()
	var ln transport.Listener
	var d transport.Dialer
	var err error
	switch kind {
	case "local":
		l := transport.NewLocal()
		ln, err = l.Listen("sink")
		d = l.Dialer("sink", "client", 0)
	case "unix":
		path := filepath.Join(shortDir(t), "sock")
		ln, err = transport.ListenUnix(ctx, transport.UnixOptions{Path: path, Identity: "client"})
		d = transport.UnixDialer(path, 0)
	case "tcp":
		ln, err = transport.ListenTCP(ctx, transport.TCPOptions{Address: "127.0.0.1:0", Clients: map[string]string{"127.0.0.1": "client"}})
		if err == nil {
			d = transport.TCPDialer(ln.Addr().String(), 0)
		}
	case "tls":
		ln, d, err = wireTLS(t)
	}
	if err != nil {
		t.Fatal(err)
	}
	return ln, d
}

// shortDir is a folder for a socket, whose path must be short: t.TempDir's holds
// the test's name.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "s")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func wireTLS(t testing.TB) (transport.Listener, transport.Dialer, error) {
	t.Helper()
	dir := t.TempDir()
	if _, err := certs.Init(dir); err != nil {
		return nil, nil, err
	}
	var files [2]transport.TLSFiles
	for i, name := range []string{"vault", "client"} {
		p, err := certs.Issue(dir, name, nil)
		if err != nil {
			return nil, nil, err
		}
		files[i] = transport.TLSFiles{CA: p.CA, Cert: p.Cert, Key: p.Key}
	}
	ln, err := transport.ListenTLS(context.Background(), transport.TLSListenOptions{Address: "127.0.0.1:0", Files: files[0], ClientCNs: []string{"client"}})
	if err != nil {
		return nil, nil, err
	}
	d, err := transport.TLSDialer(transport.TLSDialOptions{Address: ln.Addr().String(), Files: files[1], ServerCN: "vault"})
	return ln, d, err
}

// serve serves o until the test ends, and reports what Serve returned.
func serve(t testing.TB, ln transport.Listener, o rpc.ServerOptions) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- rpc.Serve(ctx, ln, o) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
}

func always(ep *cairn.Endpoint) func(context.Context, string) (*cairn.Endpoint, error) {
	return func(context.Context, string) (*cairn.Endpoint, error) { return ep, nil }
}

// remote serves ep over a wire of the kind and dials it.
func remote(t testing.TB, kind string, ep *cairn.Endpoint) *cairn.Endpoint {
	t.Helper()
	ln, d := wire(t, kind)
	serve(t, ln, rpc.ServerOptions{Endpoint: always(ep), Timings: quick})
	return dial(t, d, rpc.ClientOptions{Timings: quick})
}

func dial(t testing.TB, d transport.Dialer, o rpc.ClientOptions) *cairn.Endpoint {
	t.Helper()
	ep, err := rpc.Dial(context.Background(), d, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ep.Close(); err != nil {
			t.Error(err)
		}
	})
	return ep
}

// quick notices a dead peer fast enough for a test, and slowly enough for a busy
// machine.
var quick = rpc.Timings{Beat: 100 * time.Millisecond, Limit: 5 * time.Second, Handshake: 5 * time.Second, Grace: time.Second}

// newPlace is a place with one dataset "db" of 1 MiB and a snapshot "@a" of it.
func newPlace(t testing.TB, name string) (*memory.Place, cairn.Version) {
	t.Helper()
	p := memory.New(name)
	if err := p.Create("db", 1<<20); err != nil {
		t.Fatal(err)
	}
	if err := p.Write("db", 8192, bytes.Repeat([]byte("data"), 4096)); err != nil {
		t.Fatal(err)
	}
	return p, snapshot(t, p.Endpoint(), "@a")
}

func snapshot(t testing.TB, ep *cairn.Endpoint, name string) cairn.Version {
	t.Helper()
	captured, err := ep.Snapshots.Snapshot(context.Background(), name, []string{"db"}, false)
	if err != nil || captured[0].Err != nil {
		t.Fatal(err, captured)
	}
	return captured[0].Version
}

// replicate moves one version from one place to the other.
func replicate(ctx context.Context, from, to *cairn.Endpoint, step cairn.Step) (cairn.Received, error) {
	stream, err := from.Sender.Send(ctx, step, to.Info.Accepts[cairn.KindVolume])
	if err != nil {
		return cairn.Received{}, err
	}
	return to.Receiver.Receive(ctx, stream, cairn.ReceiveOptions{Owner: "job"})
}

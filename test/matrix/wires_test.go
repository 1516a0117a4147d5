//go:build linux

package matrix_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"cairn"
	"cairn/internal/system/rpc"
	"cairn/internal/system/transport"
	"cairn/internal/system/transport/certs"
	"cairn/internal/system/wrap"
	"cairn/internal/testkit/fakezfs"
)

var transports = []string{"local", "unix", "tcp", "tls", "ssh"}

const identity = "client"

// TestMain lets the test program be the fake zfs, and the forced command of an ssh
// login.
func TestMain(m *testing.M) {
	if dir := os.Getenv("STDIN_DIR"); dir != "" {
		if err := transport.ServeStdin(context.Background(), dir, os.Args[1], os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "cairn:", err)
			os.Exit(1) //nolint:forbidigo // the forced command's process ends here
		}
		return
	}
	fakezfs.Main(m)
}

// shortDir is a folder for sockets, whose paths must be short.
func shortDir(t *testing.T) string {
	dir := must(os.MkdirTemp("", "m"))(t)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// wire is a listener of the transport and a dialer to it.
func wire(t *testing.T, kind string) (transport.Listener, transport.Dialer) {
	t.Helper()
	switch kind {
	case "unix":
		path := filepath.Join(shortDir(t), "sock")
		return must(transport.ListenUnix(t.Context(), transport.UnixOptions{Path: path, Identity: identity}))(t), transport.UnixDialer(path, 0)
	case "tcp":
		ln := must(transport.ListenTCP(t.Context(), transport.TCPOptions{Address: "127.0.0.1:0", Clients: map[string]string{"127.0.0.1": identity}}))(t)
		return ln, transport.TCPDialer(ln.Addr().String(), 0)
	case "tls":
		return wireTLS(t)
	case "ssh": // without the login: the forced command itself
		dir := filepath.Join(shortDir(t), "in")
		ln := must(transport.ListenStdin(t.Context(), transport.StdinOptions{Dir: dir, Identities: []string{identity}}))(t)
		return ln, transport.SSHDialer(transport.SSHOptions{Host: "vault", Timeout: time.Minute, Command: []string{"/usr/bin/env", "STDIN_DIR=" + dir, os.Args[0], identity}})
	}
	l := transport.NewLocal()
	return must(l.Listen("vault"))(t), l.Dialer("vault", identity, 0)
}

func wireTLS(t *testing.T) (transport.Listener, transport.Dialer) {
	t.Helper()
	dir := t.TempDir()
	if _, err := certs.Init(dir); err != nil {
		t.Fatal(err)
	}
	var files [2]transport.TLSFiles
	for i, name := range []string{"vault", identity} {
		p := must(certs.Issue(dir, name, nil))(t)
		files[i] = transport.TLSFiles{CA: p.CA, Cert: p.Cert, Key: p.Key}
	}
	ln := must(transport.ListenTLS(t.Context(), transport.TLSListenOptions{Address: "127.0.0.1:0", Files: files[0], ClientCNs: []string{identity}}))(t)
	return ln, must(transport.TLSDialer(transport.TLSDialOptions{Address: ln.Addr().String(), Files: files[1], ServerCN: "vault"}))(t)
}

// patient notices a dead peer slowly enough for a busy machine.
var patient = rpc.Timings{Beat: time.Second, Limit: time.Minute, Handshake: time.Minute, Grace: time.Second}

// remote serves the endpoint over the transport and reaches it.
func remote(t *testing.T, kind string, ep *cairn.Endpoint) *cairn.Endpoint {
	t.Helper()
	ln, dialer := wire(t, kind)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- rpc.Serve(ctx, ln, rpc.ServerOptions{Timings: patient, Endpoint: func(context.Context, string) (*cairn.Endpoint, error) { return ep, nil }})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
			t.Error("serve:", err)
		}
	})
	far := must(wrap.Redial(t.Context(), func(ctx context.Context) (*cairn.Endpoint, error) {
		return rpc.Dial(ctx, dialer, rpc.ClientOptions{Place: "vault", Self: identity, Timings: patient})
	}))(t)
	t.Cleanup(func() { _ = far.Close() })
	return far
}

package transport_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cairn"
	"cairn/internal/system/transport"
	"cairn/internal/system/transport/certs"
)

func newCA(t *testing.T, names ...string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "ca")
	if _, err := certs.Init(dir); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if _, err := certs.Issue(dir, name, []string{"127.0.0.1", name + ".example"}); err != nil {
			t.Fatal(err)
		}
	}
	return dir
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

func files(dir, name string) transport.TLSFiles {
	return transport.TLSFiles{CA: filepath.Join(dir, "ca.pem"), Cert: filepath.Join(dir, name+".pem"), Key: filepath.Join(dir, name+".key")}
}

// echo accepts for ever and writes each peer's identity to it.
func echo(t *testing.T, ln transport.Listener) {
	t.Helper()
	t.Cleanup(func() {
		if err := ln.Close(); err != nil {
			t.Error(err)
		}
	})
	go func() {
		for {
			c, err := ln.Accept(context.Background())
			if err != nil {
				if !errors.Is(err, net.ErrClosed) {
					t.Error(err)
				}
				return
			}
			go func() {
				_, _ = io.WriteString(c, c.Identity)
				_ = c.Close()
			}()
		}
	}()
}

func identityOver(t *testing.T, d transport.Dialer) string {
	t.Helper()
	c, err := d.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	text, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func listenTLS(t *testing.T, dir, name string, cns ...string) string {
	t.Helper()
	ln, err := transport.ListenTLS(t.Context(), transport.TLSListenOptions{Address: "127.0.0.1:0", Files: files(dir, name), ClientCNs: cns})
	if err != nil {
		t.Fatal(err)
	}
	echo(t, ln)
	return ln.Addr().String()
}

func TestIdentityArrives(t *testing.T) {
	dir := newCA(t, "vault", "db1")
	local := transport.NewLocal()
	lln, err := local.Listen("sink")
	if err != nil {
		t.Fatal(err)
	}
	echo(t, lln)
	sock := filepath.Join(shortDir(t), "sock")
	uln, err := transport.ListenUnix(t.Context(), transport.UnixOptions{Path: sock, Identity: "host"})
	if err != nil {
		t.Fatal(err)
	}
	echo(t, uln)
	tln, err := transport.ListenTCP(t.Context(), transport.TCPOptions{Address: "127.0.0.1:0", Clients: map[string]string{"127.0.0.0/8": "lo-*", "127.0.0.1": "me", "::1": "me6"}})
	if err != nil {
		t.Fatal(err)
	}
	echo(t, tln)
	tlsDialer, err := transport.TLSDialer(transport.TLSDialOptions{Address: listenTLS(t, dir, "vault", "db1"), Files: files(dir, "db1"), ServerCN: "vault"})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, want string
		dialer     transport.Dialer
	}{
		{"local", "db1", local.Dialer("sink", "db1", 0)},
		{"unix", "host", transport.UnixDialer(sock, 0)},
		{"tcp", "me", transport.TCPDialer(tln.Addr().String(), 0)},
		{"tls", "db1", tlsDialer},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := identityOver(t, c.dialer); got != c.want {
				t.Errorf("identity %q, want %q", got, c.want)
			}
		})
	}
}

func TestTCPRefusesStrangersInWords(t *testing.T) {
	ln, err := transport.ListenTCP(t.Context(), transport.TCPOptions{Address: "127.0.0.1:0", Clients: map[string]string{"192.0.2.0/24": "web-*"}})
	if err != nil {
		t.Fatal(err)
	}
	echo(t, ln)
	_, err = transport.TCPDialer(ln.Addr().String(), 0).Dial(t.Context())
	if !errors.Is(err, cairn.KindAuth) || !strings.Contains(err.Error(), "add the address to the listener's clients") {
		t.Fatalf("got %v", err)
	}
}

func TestClientMapRefusesNonsense(t *testing.T) {
	for key, identity := range map[string]string{
		"192.0.2.0/24": "web", "10.0.0.0/8": "a-*-*", "host.example": "web", "192.0.2.1": "a/b", "192.0.2.2": "", "::/0": "a/*",
	} {
		ln, err := transport.ListenTCP(t.Context(), transport.TCPOptions{Address: "127.0.0.1:0", Clients: map[string]string{key: identity}})
		if !errors.Is(err, cairn.KindConfig) {
			t.Errorf("%s: %s: %v", key, identity, err)
		}
		if ln != nil {
			_ = ln.Close()
		}
	}
}

func TestUnixSocketIsPrivate(t *testing.T) {
	dir := filepath.Join(shortDir(t), "run")
	sock := filepath.Join(dir, "sock")
	open := func() (transport.Listener, error) {
		return transport.ListenUnix(t.Context(), transport.UnixOptions{Path: sock, Identity: "host"})
	}
	ln, err := open()
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]os.FileMode{dir: 0o700, sock: 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
	if _, err := open(); !errors.Is(err, cairn.KindBusy) {
		t.Errorf("second listener: %v", err)
	}
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := transport.UnixDialer(sock, 0).Dial(t.Context()); !errors.Is(err, cairn.KindUnavailable) {
		t.Errorf("nobody listens: %v", err)
	}
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: sock, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	if err := stale.Close(); err != nil {
		t.Fatal(err)
	}
	if ln, err = open(); err != nil {
		t.Fatalf("a dead process's socket is in the way: %v", err)
	}
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(sock, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := open(); !errors.Is(err, cairn.KindExists) {
		t.Errorf("a file in the way: %v", err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := open(); !errors.Is(err, cairn.KindPermission) || !strings.Contains(err.Error(), "chmod 700") {
		t.Errorf("folder open to others: %v", err)
	}
}

// A peer that connects and says nothing delays nobody, and is dropped in time.
func TestSlowHandshakeDelaysNobody(t *testing.T) {
	dir := newCA(t, "vault", "db1")
	ln, err := transport.ListenTLS(t.Context(), transport.TLSListenOptions{Address: "127.0.0.1:0", Files: files(dir, "vault"),
		ClientCNs: []string{"db1"}, HandshakeTimeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	echo(t, ln)
	var silent []net.Conn
	for range 20 {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		silent = append(silent, c)
	}
	d, err := transport.TLSDialer(transport.TLSDialOptions{Address: ln.Addr().String(), Files: files(dir, "db1"), ServerCN: "vault"})
	if err != nil {
		t.Fatal(err)
	}
	if got := identityOver(t, d); got != "db1" {
		t.Fatalf("identity %q", got)
	}
	for _, c := range silent {
		_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := io.ReadAll(c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal("a silent peer was not dropped")
		}
		_ = c.Close()
	}
}

func TestSilentServerEndsTheDial(t *testing.T) {
	raw, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = raw.Close() }()
	begin := time.Now()
	_, err = transport.TCPDialer(raw.Addr().String(), 200*time.Millisecond).Dial(t.Context())
	if !errors.Is(err, cairn.KindUnavailable) || time.Since(begin) > 3*time.Second {
		t.Fatalf("after %s: %v", time.Since(begin), err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	if _, err = transport.TCPDialer(raw.Addr().String(), time.Minute).Dial(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("cancelled: %v", err)
	}
}

func TestLocalNames(t *testing.T) {
	l := transport.NewLocal()
	if _, err := l.Dialer("none", "me", 0).Dial(t.Context()); !errors.Is(err, cairn.KindUnavailable) {
		t.Errorf("nobody listens: %v", err)
	}
	ln, err := l.Listen("sink")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Listen("sink"); !errors.Is(err, cairn.KindExists) {
		t.Errorf("name taken: %v", err)
	}
	if _, err := l.Dialer("sink", "a/b", 0).Dial(t.Context()); !errors.Is(err, cairn.KindAuth) {
		t.Errorf("identity with a slash: %v", err)
	}
	if _, err := l.Dialer("sink", "me", 20*time.Millisecond).Dial(t.Context()); !errors.Is(err, cairn.KindUnavailable) {
		t.Errorf("nobody accepts: %v", err)
	}
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := ln.Accept(t.Context()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

package transport_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cairn"
	"cairn/internal/system/transport"
	"cairn/internal/system/transport/certs"
)

// forge writes a certificate of the CA in dir with dates and uses of its own.
func forge(t *testing.T, dir, name string, change func(*x509.Certificate)) transport.TLSFiles {
	t.Helper()
	ca, err := tls.LoadX509KeyPair(filepath.Join(dir, "ca.pem"), filepath.Join(dir, "ca.key"))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	change(template)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.Leaf, key.Public(), ca.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	f := files(dir, name)
	for file, block := range map[string]*pem.Block{f.Cert: {Type: "CERTIFICATE", Bytes: der}, f.Key: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// dialRaw is a client that checks nothing, so that the server has to.
func dialRaw(t *testing.T, address string, pair ...tls.Certificate) error {
	t.Helper()
	c, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true, Certificates: pair})
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	text := make([]byte, 2048)
	n, err := c.Read(text)
	if err == nil && text[0] != 0 {
		err = errors.New(string(text[3:n]))
	}
	return err
}

func TestServerRefusesBadClientsInWords(t *testing.T) {
	dir := newCA(t, "vault", "db1", "web1")
	other := newCA(t, "db1")
	address := listenTLS(t, dir, "vault", "db1", "late", "early", "server-only")
	forge(t, dir, "late", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Hour) })
	forge(t, dir, "early", func(c *x509.Certificate) { c.NotBefore = time.Now().Add(30 * time.Minute) })
	forge(t, dir, "server-only", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })
	for _, c := range []struct {
		name, want string
		dir, cert  string
	}{
		{"good", "", dir, "db1"},
		{"expired", "expired since 20", dir, "late"},
		{"not yet valid", "not valid before", dir, "early"},
		{"another CA", "signed by another CA", other, "db1"},
		{"not allowed", "web1: the name is not in client_cns", dir, "web1"},
		{"no client usage", "usage", dir, "server-only"},
		{"none", "none was presented", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var pairs []tls.Certificate
			if c.cert != "" {
				f := files(c.dir, c.cert)
				pair, err := tls.LoadX509KeyPair(f.Cert, f.Key)
				if err != nil {
					t.Fatal(err)
				}
				pairs = append(pairs, pair)
			}
			err := dialRaw(t, address, pairs...)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestRefusedClientHearsWhy(t *testing.T) {
	dir := newCA(t, "vault", "db1", "web1")
	d, err := transport.TLSDialer(transport.TLSDialOptions{Address: listenTLS(t, dir, "vault", "db1"), Files: files(dir, "web1"), ServerCN: "vault"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = d.Dial(t.Context())
	if !errors.Is(err, cairn.KindAuth) || !strings.Contains(err.Error(), "client_cns") {
		t.Fatalf("got %v", err)
	}
}

func TestClientRefusesBadServers(t *testing.T) {
	dir := newCA(t, "vault", "db1")
	other := newCA(t, "vault")
	for _, c := range []struct {
		name, want string
		address    string
		cn         string
	}{
		{"good", "", listenTLS(t, dir, "vault", "db1"), "vault"},
		{"by DNS name", "", listenTLS(t, dir, "vault", "db1"), "vault.example"},
		{"wrong name", "server_cn expects strongroom", listenTLS(t, dir, "vault", "db1"), "strongroom"},
		{"another CA", "signed by another CA", listenTLS(t, other, "vault", "db1"), "vault"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, err := transport.TLSDialer(transport.TLSDialOptions{Address: c.address, Files: files(dir, "db1"), ServerCN: c.cn})
			if err != nil {
				t.Fatal(err)
			}
			conn, err := d.Dial(t.Context())
			if conn != nil {
				_ = conn.Close()
			}
			if c.want == "" && err != nil || c.want != "" && (!errors.Is(err, cairn.KindAuth) || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestOwnFilesAreCheckedInWords(t *testing.T) {
	dir := newCA(t, "db1")
	other := newCA(t)
	late := forge(t, dir, "late", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Hour) })
	mixed := files(dir, "db1")
	mixed.CA = files(other, "db1").CA
	garbage := files(dir, "db1")
	garbage.Cert = filepath.Join(t.TempDir(), "x.pem")
	if err := os.WriteFile(garbage.Cert, []byte("no PEM"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, want string
		files      transport.TLSFiles
	}{
		{"good", "", files(dir, "db1")},
		{"missing", "it does not exist (make a CA with cairn cert init and certificates with cairn cert issue", files(dir, "none")},
		{"expired", "renew it: cairn cert renew late", late},
		{"CA of others", "not signed by the CA", mixed},
		{"garbage", "must be a PEM file", garbage},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := c.files.Check()
			if c.want == "" && err != nil || c.want != "" && (!errors.Is(err, cairn.KindAuth) || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			_, err = transport.ListenTLS(t.Context(), transport.TLSListenOptions{Address: "192.0.2.1:0", Files: c.files})
			if c.want != "" && !errors.Is(err, cairn.KindAuth) {
				t.Errorf("a listener took them: %v", err)
			}
		})
	}
}

// A certificate renewed on disk is used from the next connection on, without a
// restart.
func TestRenewedCertificateIsUsed(t *testing.T) {
	dir := newCA(t, "vault", "db1")
	address := listenTLS(t, dir, "vault", "db1")
	serial := func() string {
		c, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		return c.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	before := serial()
	if _, err := certs.Renew(dir, "vault"); err != nil {
		t.Fatal(err)
	}
	if serial() == before {
		t.Error("the old certificate is still served")
	}
	if err := files(dir, "vault").Check(); err != nil {
		t.Error(err)
	}
}

func TestPlainPeerIsNoTLS(t *testing.T) {
	dir := newCA(t, "vault", "db1")
	ln, err := transport.ListenTCP(t.Context(), transport.TCPOptions{Address: "127.0.0.1:0", Clients: map[string]string{"127.0.0.1": "db1"}})
	if err != nil {
		t.Fatal(err)
	}
	echo(t, ln)
	d, err := transport.TLSDialer(transport.TLSDialOptions{Address: ln.Addr().String(), Files: files(dir, "db1"), ServerCN: "vault"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Dial(t.Context()); err == nil || !strings.Contains(err.Error(), "does not speak TLS") {
		t.Errorf("TLS to plain: %v", err)
	}
	_, err = transport.TCPDialer(listenTLS(t, dir, "vault", "db1"), 200*time.Millisecond).Dial(t.Context())
	if !errors.Is(err, cairn.KindUnavailable) {
		t.Errorf("plain to TLS: %v", err)
	}
}

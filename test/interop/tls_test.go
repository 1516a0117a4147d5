package interop_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cairn/internal/system/volume"
)

// authority issues certificates into a folder under the names that libnbd and
// qemu look for.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, dir string) *authority {
	a := &authority{t: t, dir: dir}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature}
	a.cert, a.key = a.issue("ca", template)
	return a
}

// issue writes NAME-cert.pem and NAME-key.pem.
func (a *authority) issue(name string, template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	write(a.t, a.dir, name+"-cert.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	write(a.t, a.dir, name+"-key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key
}

// TestToolsOverTLS: foreign clients come in over TCP with a certificate, and
// neither without one nor without TLS.
func TestToolsOverTLS(t *testing.T) {
	dir := t.TempDir()
	a := newAuthority(t, filepath.Join(dir, "pki"))
	leaf := func(usage x509.ExtKeyUsage) *x509.Certificate {
		return &x509.Certificate{Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{usage}}
	}
	a.issue("server", leaf(x509.ExtKeyUsageServerAuth))
	a.issue("client", leaf(x509.ExtKeyUsageClientAuth))
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "pki/server-cert.pem"), filepath.Join(dir, "pki/server-key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := newVolume(t, volume.CreateOptions{Size: diskSize}).head()
	d.dir = dir
	port := l.Addr().(*net.TCPAddr).Port
	serveOn(t, l, d.served, &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert})

	uri := fmt.Sprintf("nbds://localhost:%d/%s?tls-certificates=%s", port, d.export, filepath.Join(dir, "pki"))
	t.Run("nbdcopy", func(t *testing.T) {
		need(t, "nbdcopy")
		run(t, dir, "nbdcopy", uri, "copied")
		if sumFile(t, dir, "copied") != d.sum(t) {
			t.Error("the copy differs")
		}
	})
	t.Run("nbdinfo refuses to go without", func(t *testing.T) {
		need(t, "nbdinfo")
		run(t, dir, "nbdinfo", uri)
		if _, err := attempt(t, dir, "nbdinfo", fmt.Sprintf("nbd://localhost:%d/%s", port, d.export)); err == nil {
			t.Error("a client without TLS came in")
		}
		os.Remove(filepath.Join(dir, "pki/client-cert.pem"))
		if _, err := attempt(t, dir, "nbdinfo", uri); err == nil {
			t.Error("a client without certificate came in")
		}
	})
	t.Run("qemu-img", func(t *testing.T) {
		need(t, "qemu-img")
		a.issue("client", leaf(x509.ExtKeyUsageClientAuth))
		out := run(t, dir, "qemu-img", "info", "--object", "tls-creds-x509,id=tls0,endpoint=client,dir=pki", "--image-opts",
			fmt.Sprintf("driver=nbd,host=localhost,port=%d,export=%s,tls-creds=tls0", port, d.export))
		if !strings.Contains(out, fmt.Sprintf("(%d bytes)", d.size)) {
			t.Error(out)
		}
	})
}

package certs_test

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"cairn"
	"cairn/internal/system/transport/certs"
)

func read(t *testing.T, file string) *x509.Certificate {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestInitIssueRenew(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	if _, err := certs.Issue(dir, "db1", nil); !errors.Is(err, cairn.KindNotFound) {
		t.Fatalf("issued without a CA: %v", err)
	}
	if _, err := certs.Init(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := certs.Init(dir); !errors.Is(err, cairn.KindExists) {
		t.Fatalf("second CA: %v", err)
	}
	p, err := certs.Issue(dir, "db1", []string{"db1.example", "192.0.2.7", "db1"})
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{p.Key, p.Cert, filepath.Join(dir, "ca.key")} {
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", file, info.Mode(), err)
		}
	}
	if _, err := certs.Issue(dir, "db1", nil); !errors.Is(err, cairn.KindExists) {
		t.Fatalf("issued twice: %v", err)
	}
	old := read(t, p.Cert)
	if _, err := certs.Renew(dir, "db1"); err != nil {
		t.Fatal(err)
	}
	c := read(t, p.Cert)
	if c.SerialNumber.Cmp(old.SerialNumber) == 0 {
		t.Error("renewing changed nothing")
	}
	if c.Subject.CommonName != "db1" || !slices.Equal(c.DNSNames, []string{"db1", "db1.example"}) || len(c.IPAddresses) != 1 {
		t.Errorf("names: %s %v %v", c.Subject.CommonName, c.DNSNames, c.IPAddresses)
	}
	if left := time.Until(c.NotAfter); left < certs.CertLifetime-time.Hour || left > certs.CertLifetime {
		t.Errorf("lifetime %s", left)
	}
	if err := c.CheckSignatureFrom(read(t, p.CA)); err != nil {
		t.Error(err)
	}
}

func TestNamesThatAreNoIdentity(t *testing.T) {
	dir := t.TempDir()
	if _, err := certs.Init(dir); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", "a/b", "..", "ca", "x\n", "ü"} {
		if _, err := certs.Issue(dir, name, nil); !errors.Is(err, cairn.KindInvalid) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

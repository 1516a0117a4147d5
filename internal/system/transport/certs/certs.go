// Package certs is a small certificate authority in a folder: enough for the
// machines of one installation to know each other by mutual TLS.
//
// The folder holds ca.pem and ca.key, and NAME.pem and NAME.key per machine. Keys
// are ECDSA P-256 in PKCS#8, files of mode 0600. A machine's certificate serves
// both ends of a connection; its common name is the identity under which a sink
// keeps what the machine sends, so it must be one component of a dataset name.
//
// It promises never to overwrite a key or certificate, except that Renew replaces
// a certificate, whole, by one for the same key and names.
//
// What can go wrong: whoever can read ca.key can be anybody. It is needed only to
// issue, and belongs on no machine that just replicates.
package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"cairn"
)

// Lifetimes; a certificate begins an hour early, for clocks that disagree.
const (
	CALifetime   = 10 * 365 * 24 * time.Hour
	CertLifetime = 825 * 24 * time.Hour
	earlier      = time.Hour
)

const (
	caCert = "ca.pem"
	caKey  = "ca.key"
)

// Paths are the files that a machine needs.
type Paths struct {
	CA   string
	Cert string
	Key  string
}

// Init makes a CA in dir, which is made with mode 0700 when it is missing.
// KindExists when there is one.
func Init(dir string) (Paths, error) {
	p := Paths{CA: filepath.Join(dir, caCert), Cert: filepath.Join(dir, caCert), Key: filepath.Join(dir, caKey)}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return Paths{}, failed("make CA", dir, err)
	}
	for _, name := range []string{p.CA, p.Key} {
		if _, err := os.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
			return Paths{}, &cairn.Error{Op: "make CA", Subject: name, Kind: cairn.KindExists,
				Hint: "issue certificates from it, or choose another folder"}
		}
	}
	host, _ := os.Hostname() // only to tell CAs apart
	template := newTemplate("Cairn CA "+host, CALifetime)
	template.IsCA, template.BasicConstraintsValid, template.MaxPathLenZero = true, true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Paths{}, failed("make CA", dir, err)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return Paths{}, failed("make CA", dir, err)
	}
	return p, writePair(p, key, der)
}

// Issue makes a key and a certificate for name from the CA in dir, valid for the
// name itself and for hosts (DNS names or IP addresses). KindExists when name has
// one.
func Issue(dir, name string, hosts []string) (Paths, error) {
	if err := checkName(name); err != nil {
		return Paths{}, err
	}
	ca, err := readCA(dir)
	if err != nil {
		return Paths{}, err
	}
	p := pathsOf(dir, name)
	for _, file := range []string{p.Cert, p.Key} {
		if _, err := os.Lstat(file); !errors.Is(err, fs.ErrNotExist) {
			return Paths{}, &cairn.Error{Op: "issue certificate", Subject: file, Kind: cairn.KindExists,
				Hint: "renew it with cairn cert renew, or choose another name"}
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Paths{}, failed("issue certificate", name, err)
	}
	der, err := ca.sign(name, hosts, key)
	if err != nil {
		return Paths{}, err
	}
	return p, writePair(p, key, der)
}

// Renew replaces name's certificate by one with a new lifetime for the same key
// and hosts.
func Renew(dir, name string) (Paths, error) {
	if err := checkName(name); err != nil {
		return Paths{}, err
	}
	ca, err := readCA(dir)
	if err != nil {
		return Paths{}, err
	}
	p := pathsOf(dir, name)
	old, key, err := readPair(p.Cert, p.Key)
	if err != nil {
		return Paths{}, err
	}
	hosts := old.DNSNames
	for _, ip := range old.IPAddresses {
		hosts = append(hosts, ip.String())
	}
	der, err := ca.sign(name, hosts, key)
	if err != nil {
		return Paths{}, err
	}
	fresh := p.Cert + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Paths{}, failed("renew certificate", name, err)
	}
	if err := writePEM(fresh, "CERTIFICATE", der); err != nil {
		return Paths{}, err
	}
	if err := os.Rename(fresh, p.Cert); err != nil {
		return Paths{}, failed("renew certificate", name, err)
	}
	return p, nil
}

func pathsOf(dir, name string) Paths {
	return Paths{CA: filepath.Join(dir, caCert), Cert: filepath.Join(dir, name+".pem"), Key: filepath.Join(dir, name+".key")}
}

func checkName(name string) error {
	err := cairn.CheckDatasetName(name)
	if err == nil && (strings.Contains(name, "/") || name == "ca") {
		err = errors.New("'/' and the name ca are not allowed here")
	}
	if err != nil {
		return &cairn.Error{Op: "issue certificate", Subject: name, Kind: cairn.KindInvalid, Err: err,
			Hint: "the name becomes the machine's identity: one component of a dataset name"}
	}
	return nil
}

type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func readCA(dir string) (*authority, error) {
	cert, key, err := readPair(filepath.Join(dir, caCert), filepath.Join(dir, caKey))
	if err != nil {
		return nil, err
	}
	return &authority{cert, key}, nil
}

func (a *authority) sign(name string, hosts []string, key *ecdsa.PrivateKey) ([]byte, error) {
	template := newTemplate(name, CertLifetime)
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	seen := map[string]bool{}
	for _, host := range append([]string{name}, hosts...) {
		switch ip := net.ParseIP(host); {
		case seen[host] || host == "":
		case ip != nil:
			template.IPAddresses = append(template.IPAddresses, ip)
		default:
			template.DNSNames = append(template.DNSNames, host)
		}
		seen[host] = true
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return nil, failed("issue certificate", name, err)
	}
	return der, nil
}

func newTemplate(name string, lifetime time.Duration) *x509.Certificate {
	now := time.Now()
	return &x509.Certificate{Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-earlier), NotAfter: now.Add(lifetime)}
}

func readPair(certFile, keyFile string) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	certDER, err := readPEM(certFile)
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(certDER)
	if err != nil {
		return nil, nil, failed("read certificate", certFile, err)
	}
	keyDER, err := readPEM(keyFile)
	if err != nil {
		return nil, nil, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(keyDER)
	if err != nil {
		return nil, nil, failed("read key", keyFile, err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, nil, failed("read key", keyFile, errors.New("it is not an ECDSA key"))
	}
	return cert, key, nil
}

func readPEM(file string) ([]byte, error) {
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &cairn.Error{Op: "read", Subject: file, Kind: cairn.KindNotFound, Hint: "make a CA there with cairn cert init, then issue with cairn cert issue NAME"}
	}
	if err != nil {
		return nil, failed("read", file, err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, failed("read", file, errors.New("it is not a PEM file"))
	}
	return block.Bytes, nil
}

func writePair(p Paths, key *ecdsa.PrivateKey, certDER []byte) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return failed("write key", p.Key, err)
	}
	if err := writePEM(p.Key, "PRIVATE KEY", der); err != nil {
		return err
	}
	return writePEM(p.Cert, "CERTIFICATE", certDER)
}

// writePEM makes the file, which must not exist, and makes it durable.
func writePEM(file, kind string, der []byte) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return failed("write", file, err)
	}
	err = pem.Encode(f, &pem.Block{Type: kind, Bytes: der})
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return failed("write", file, err)
	}
	return nil
}

func failed(op, subject string, err error) error {
	kind := cairn.KindIO
	switch {
	case errors.Is(err, fs.ErrPermission):
		kind = cairn.KindPermission
	case errors.Is(err, fs.ErrExist):
		kind = cairn.KindExists
	}
	return &cairn.Error{Op: op, Subject: subject, Kind: kind, Err: err}
}

package transport

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io/fs"
	"os"
	"sync"
	"time"

	"cairn"
)

// TLSFiles are PEM files: the CA that signed both sides, our certificate and its
// key.
type TLSFiles struct {
	CA   string
	Cert string
	Key  string
}

// Check reads the files as a connection would, and says in plain words what is
// wrong with them: KindAuth when one is missing, unreadable, expired or of
// another CA.
func (f TLSFiles) Check() error {
	_, err := (&credentials{files: f}).load(time.Now())
	return err
}

// credentials are TLSFiles in use: read again when a file changed.
type credentials struct {
	files TLSFiles

	mu     sync.Mutex // guards the rest
	stamps [3]stamp
	racy   bool // a file was so young when it was read that a later write may bear the same time
	loaded *keyring
}

// youngest is the age from which a file's time tells it from what is written
// later: file systems keep times no finer than the kernel's tick.
const youngest = time.Second

type keyring struct {
	pair  tls.Certificate
	roots *x509.CertPool
}

type stamp struct {
	size  int64
	mtime time.Time
}

func (c *credentials) load(now time.Time) (*keyring, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var stamps [3]stamp
	racy := false
	for i, name := range []string{c.files.CA, c.files.Cert, c.files.Key} {
		info, err := os.Stat(name)
		if err != nil {
			return nil, fileError(name, err)
		}
		stamps[i] = stamp{info.Size(), info.ModTime()}
		racy = racy || time.Since(info.ModTime()) < youngest
	}
	if c.loaded == nil || c.racy || stamps != c.stamps {
		k, err := readKeyring(c.files)
		if err != nil {
			return nil, err
		}
		c.loaded, c.stamps, c.racy = k, stamps, racy
	}
	return c.loaded, checkDates("use our certificate", c.loaded.pair.Leaf, now)
}

func readKeyring(f TLSFiles) (*keyring, error) {
	ca, err := os.ReadFile(f.CA)
	if err != nil {
		return nil, fileError(f.CA, err)
	}
	k := &keyring{roots: x509.NewCertPool()}
	if !k.roots.AppendCertsFromPEM(ca) {
		return nil, fileError(f.CA, errors.New("it holds no PEM certificate"))
	}
	k.pair, err = tls.LoadX509KeyPair(f.Cert, f.Key)
	if err != nil {
		return nil, fileError(f.Cert, err)
	}
	_, err = k.pair.Leaf.Verify(x509.VerifyOptions{Roots: k.roots, CurrentTime: k.pair.Leaf.NotAfter, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	var unknown x509.UnknownAuthorityError
	if errors.As(err, &unknown) {
		return nil, &cairn.Error{Op: "use certificate", Subject: f.Cert, Kind: cairn.KindAuth, Err: errors.New("it was not signed by the CA in " + f.CA),
			Hint: "give both sides the ca.pem that signed their certificates"}
	}
	return k, nil
}

func fileError(name string, err error) error {
	e := &cairn.Error{Op: "use certificate file", Subject: name, Kind: cairn.KindAuth, Err: err,
		Hint: "it must be a PEM file that this user can read"}
	if errors.Is(err, fs.ErrNotExist) {
		e.Err = errors.New("it does not exist")
		e.Hint = "make a CA with cairn cert init and certificates with cairn cert issue NAME"
	}
	return e
}

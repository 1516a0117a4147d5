package transport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"time"

	"cairn"
)

// TLSListenOptions say where to listen and whom to admit.
type TLSListenOptions struct {
	Address          string // host:port
	FreeBind         bool   // also on an address that no interface has yet
	Files            TLSFiles
	ClientCNs        []string      // common names that are admitted; all others are refused
	HandshakeTimeout time.Duration // 0 is DefaultHandshakeTimeout
	Logger           *slog.Logger
}

// ListenTLS listens with mutual TLS 1.3. The files must be readable and valid
// now; they are read again when they change.
func ListenTLS(ctx context.Context, o TLSListenOptions) (Listener, error) {
	for _, cn := range o.ClientCNs {
		if err := CheckIdentity(cn); err != nil {
			return nil, err
		}
	}
	creds := &credentials{files: o.Files}
	if _, err := creds.load(time.Now()); err != nil {
		return nil, err
	}
	ln, err := ListenPlain(ctx, o.Address, o.FreeBind)
	if err != nil {
		return nil, err
	}
	return newAcceptor(ln, o.HandshakeTimeout, o.Logger, func(ctx context.Context, raw net.Conn) (*Conn, error) {
		return admitTLS(ctx, raw, creds, o.ClientCNs)
	}), nil
}

// admitTLS takes any client certificate in the handshake and judges it after, so
// that the client hears the reason and not an alert number.
func admitTLS(ctx context.Context, raw net.Conn, creds *credentials, cns []string) (*Conn, error) {
	own, err := creds.load(time.Now())
	if err != nil {
		return nil, err
	}
	c := tls.Server(raw, &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{own.pair},
		ClientAuth:             tls.RequestClientCert,
		SessionTicketsDisabled: true,
	})
	if err := c.HandshakeContext(ctx); err != nil {
		return nil, &cairn.Error{Op: "complete the TLS handshake with", Subject: raw.RemoteAddr().String(), Kind: cairn.KindAuth, Err: err}
	}
	identity, refusal := judgeClient(c.ConnectionState().PeerCertificates, own.roots, cns)
	if err := sendVerdict(c, refusal); err != nil {
		return nil, err
	}
	return &Conn{Conn: c, Identity: identity}, nil
}

func judgeClient(chain []*x509.Certificate, roots *x509.CertPool, cns []string) (string, error) {
	if err := judge(chain, roots, x509.ExtKeyUsageClientAuth, "client"); err != nil {
		return "", err
	}
	cn := chain[0].Subject.CommonName
	if !slices.Contains(cns, cn) {
		return "", &cairn.Error{Op: "accept client certificate", Subject: cn, Kind: cairn.KindAuth,
			Err: errors.New("the name is not in client_cns"), Hint: "add it to the listener's client_cns, or use another certificate"}
	}
	return cn, CheckIdentity(cn)
}

// TLSDialOptions say where to connect and whom to expect.
type TLSDialOptions struct {
	Address  string // host:port
	Files    TLSFiles
	ServerCN string        // common name or DNS name the server's certificate must have
	Timeout  time.Duration // of connecting, handshake and admission; 0 is DefaultDialTimeout
}

// TLSDialer connects with mutual TLS 1.3. The files must be readable and valid
// now; they are read again when they change.
func TLSDialer(o TLSDialOptions) (Dialer, error) {
	if o.ServerCN == "" {
		return nil, &cairn.Error{Op: "connect to", Subject: o.Address, Kind: cairn.KindConfig, Hint: "server_cn must say whose certificate to expect"}
	}
	creds := &credentials{files: o.Files}
	if _, err := creds.load(time.Now()); err != nil {
		return nil, err
	}
	return DialerFunc(func(ctx context.Context) (net.Conn, error) {
		return dialNet(ctx, o.Address, orDefault(o.Timeout, DefaultDialTimeout), func(ctx context.Context, raw net.Conn) (net.Conn, error) {
			return greetTLS(ctx, raw, creds, o)
		})
	}), nil
}

func greetTLS(ctx context.Context, raw net.Conn, creds *credentials, o TLSDialOptions) (net.Conn, error) {
	own, err := creds.load(time.Now())
	if err != nil {
		return nil, err
	}
	c := tls.Client(raw, &tls.Config{
		MinVersion:         tls.VersionTLS13,
		Certificates:       []tls.Certificate{own.pair},
		ServerName:         o.ServerCN,
		InsecureSkipVerify: true, // judgeServer does all of it, and says in words what is wrong
		VerifyConnection: func(s tls.ConnectionState) error {
			return judgeServer(s.PeerCertificates, own.roots, o.ServerCN)
		},
	})
	if err := c.HandshakeContext(ctx); err != nil {
		return nil, handshakeError(o.Address, err)
	}
	return c, readVerdict(c, o.Address)
}

func handshakeError(address string, err error) error {
	var known *cairn.Error
	if errors.As(err, &known) {
		return err
	}
	e := &cairn.Error{Op: "complete the TLS handshake with", Subject: address, Kind: cairn.KindUnavailable, Err: err}
	var alert tls.AlertError
	var record tls.RecordHeaderError
	switch {
	case errors.As(err, &alert):
		e.Kind = cairn.KindAuth
	case errors.As(err, &record):
		e.Hint = "the listener there does not speak TLS; check address and transport type"
	}
	return e
}

func judgeServer(chain []*x509.Certificate, roots *x509.CertPool, name string) error {
	if err := judge(chain, roots, x509.ExtKeyUsageServerAuth, "server"); err != nil {
		return err
	}
	leaf := chain[0]
	if leaf.Subject.CommonName == name || slices.Contains(leaf.DNSNames, name) {
		return nil
	}
	return &cairn.Error{Op: "accept server certificate", Subject: leaf.Subject.CommonName, Kind: cairn.KindAuth,
		Err: fmt.Errorf("server_cn expects %s", name), Hint: "correct server_cn, or check that the address is the right machine"}
}

// judge checks a peer's chain against our CA, and its dates first: they are the
// usual reason.
func judge(chain []*x509.Certificate, roots *x509.CertPool, usage x509.ExtKeyUsage, role string) error {
	op := "accept " + role + " certificate"
	if len(chain) == 0 {
		return &cairn.Error{Op: op, Kind: cairn.KindAuth, Err: errors.New("none was presented"),
			Hint: "give the peer one: cairn cert issue NAME"}
	}
	leaf := chain[0]
	if err := checkDates(op, leaf, time.Now()); err != nil {
		return err
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{usage}})
	if err == nil {
		return nil
	}
	e := &cairn.Error{Op: op, Subject: leaf.Subject.CommonName, Kind: cairn.KindAuth, Err: err}
	var unknown x509.UnknownAuthorityError
	if errors.As(err, &unknown) {
		e.Err = fmt.Errorf("it was signed by another CA (%s)", strings.TrimSpace(leaf.Issuer.CommonName))
		e.Hint = "issue both certificates from one CA with cairn cert issue, and give both sides its ca.pem"
	}
	return e
}

func checkDates(op string, c *x509.Certificate, now time.Time) error {
	e := &cairn.Error{Op: op, Subject: c.Subject.CommonName, Kind: cairn.KindAuth}
	switch {
	case now.After(c.NotAfter):
		e.Err = fmt.Errorf("it is expired since %s", c.NotAfter.UTC().Format(time.RFC3339))
		e.Hint = "renew it: cairn cert renew " + c.Subject.CommonName
	case now.Before(c.NotBefore):
		e.Err = fmt.Errorf("it is not valid before %s", c.NotBefore.UTC().Format(time.RFC3339))
		e.Hint = "check the clocks of both machines"
	default:
		return nil
	}
	return e
}

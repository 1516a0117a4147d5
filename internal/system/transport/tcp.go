package transport

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sort"
	"strings"
	"syscall"
	"time"

	"cairn"
	"cairn/internal/mech/kernel"
)

// TCPOptions say where to listen and who is who.
type TCPOptions struct {
	Address          string            // host:port
	FreeBind         bool              // also on an address that no interface has yet
	Clients          map[string]string // IP address or CIDR range → identity; a range's has one '*', which becomes the address
	HandshakeTimeout time.Duration     // 0 is DefaultHandshakeTimeout
	Logger           *slog.Logger
}

// ListenTCP listens for plain TCP connections from the addresses in the map.
func ListenTCP(ctx context.Context, o TCPOptions) (Listener, error) {
	clients, err := compileClients(o.Clients)
	if err != nil {
		return nil, err
	}
	ln, err := ListenPlain(ctx, o.Address, o.FreeBind)
	if err != nil {
		return nil, err
	}
	return newAcceptor(ln, o.HandshakeTimeout, o.Logger, func(_ context.Context, raw net.Conn) (*Conn, error) {
		identity, refusal := clients.identify(raw.RemoteAddr())
		if err := sendVerdict(raw, refusal); err != nil {
			return nil, err
		}
		return &Conn{Conn: raw, Identity: identity}, nil
	}), nil
}

// ListenPlain listens at host:port for who brings a protocol of its own; freeBind also
// at an address that no interface has yet.
func ListenPlain(ctx context.Context, address string, freeBind bool) (net.Listener, error) {
	var lc net.ListenConfig
	if freeBind {
		lc.Control = func(_, _ string, c syscall.RawConn) error { return kernel.FreeBind(c) }
	}
	ln, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, &cairn.Error{Op: "listen on", Subject: address, Kind: cairn.KindUnavailable, Err: err,
			Hint: "choose an address of this machine and a port that is free"}
	}
	return ln, nil
}

// TCPDialer connects by plain TCP. The timeout covers connecting and being
// admitted; zero is DefaultDialTimeout.
func TCPDialer(address string, timeout time.Duration) Dialer {
	timeout = orDefault(timeout, DefaultDialTimeout)
	return DialerFunc(func(ctx context.Context) (net.Conn, error) {
		return dialNet(ctx, address, timeout, func(_ context.Context, raw net.Conn) (net.Conn, error) {
			return raw, readVerdict(raw, address)
		})
	})
}

// dialNet connects and runs greet, both within the timeout.
func dialNet(ctx context.Context, address string, timeout time.Duration, greet func(context.Context, net.Conn) (net.Conn, error)) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var d net.Dialer
	raw, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, dialError(ctx, address, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = raw.SetDeadline(time.Unix(1, 0)) })
	conn, err := greet(ctx, raw)
	if !stop() {
		err = dialError(ctx, address, fmt.Errorf("no answer within %s", timeout))
	}
	if err != nil {
		_ = raw.Close() // the first error is the one to report
		return nil, dialError(ctx, address, err)
	}
	return conn, nil
}

// clientMap is the compiled map of a TCP listener, longest prefix first.
type clientMap []clientRule

type clientRule struct {
	prefix   netip.Prefix
	zone     string
	identity string // with one '*' when the key was a range
}

func compileClients(clients map[string]string) (clientMap, error) {
	var m clientMap
	for key, identity := range clients {
		r, err := compileClient(key, identity)
		if err != nil {
			return nil, &cairn.Error{Op: "use clients entry", Subject: key, Kind: cairn.KindConfig, Err: err,
				Hint: `write "192.0.2.7": name, or "192.0.2.0/24": "name-*"`}
		}
		m = append(m, r)
	}
	sort.Slice(m, func(i, j int) bool {
		a, b := m[i].prefix, m[j].prefix
		if a.Bits() != b.Bits() {
			return a.Bits() > b.Bits()
		}
		return a.Addr().Less(b.Addr())
	})
	return m, nil
}

func compileClient(key, identity string) (clientRule, error) {
	if prefix, err := netip.ParsePrefix(key); err == nil {
		if strings.Count(identity, "*") != 1 {
			return clientRule{}, errors.New("the identity of a range needs exactly one '*'")
		}
		return clientRule{prefix: prefix.Masked(), identity: identity}, CheckIdentity(strings.Replace(identity, "*", "1", 1))
	}
	addr, err := netip.ParseAddr(key)
	if err != nil {
		return clientRule{}, errors.New("it is neither an IP address nor a range")
	}
	r := clientRule{zone: addr.Zone(), identity: identity}
	addr = addr.WithZone("").Unmap()
	r.prefix = netip.PrefixFrom(addr, addr.BitLen())
	return r, CheckIdentity(identity)
}

func (m clientMap) identify(from net.Addr) (string, error) {
	tcp, ok := from.(*net.TCPAddr)
	if !ok {
		return "", &cairn.Error{Op: "identify", Subject: from.String(), Kind: cairn.KindAuth}
	}
	zoned := tcp.AddrPort().Addr().Unmap()
	addr := zoned.WithZone("")
	for _, r := range m {
		if !r.prefix.Contains(addr) || r.zone != "" && r.zone != zoned.Zone() {
			continue
		}
		identity := strings.Replace(r.identity, "*", addr.String(), 1)
		return identity, CheckIdentity(identity)
	}
	return "", &cairn.Error{Op: "admit", Subject: addr.String(), Kind: cairn.KindAuth,
		Hint: "add the address to the listener's clients"}
}

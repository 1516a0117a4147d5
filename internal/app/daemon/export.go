package daemon

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"iter"
	"net"
	"os"
	"slices"

	"cairn"
	"cairn/client"
	"cairn/internal/front/nbd"
)

// exports offers volumes over NBD: a volume under its name, writable, and each of
// its snapshots as VOLUME@SNAPSHOT, read-only. Both tell what changed since each
// older version as a dirty-bitmap context.
type exports struct {
	here     *Here
	readOnly bool
	allow    func(dataset, version string) bool // nil: everything
}

func (x *exports) allowed(dataset, version string) bool {
	return x.allow == nil || x.allow(dataset, version)
}

// List names what can be opened.
func (x *exports) List(ctx context.Context) ([]string, error) {
	var names []string
	for l, err := range x.here.Endpoint.Lister.List(ctx, cairn.Query{Filter: cairn.All, Want: cairn.Want{Versions: true}}) {
		if err != nil {
			return nil, err
		}
		if l.Dataset.Kind != cairn.KindVolume {
			continue
		}
		if x.allowed(l.Dataset.Name, "") {
			names = append(names, l.Dataset.Name)
		}
		for _, v := range l.Versions {
			if v.IsSnapshot() && x.allowed(l.Dataset.Name, v.Name) {
				names = append(names, l.Dataset.Name+v.Name)
			}
		}
	}
	return names, nil
}

// Open opens an export for one connection.
func (x *exports) Open(ctx context.Context, name string) (*nbd.Export, error) {
	missing := &cairn.Error{Op: "export", Subject: name, Kind: cairn.KindNotFound, Hint: "exports are named VOLUME or VOLUME@SNAPSHOT"}
	a, err := cairn.ParseAddress(name)
	if err != nil || !x.allowed(a.Dataset, a.Version) {
		return nil, missing
	}
	l, err := x.listing(ctx, a.Dataset)
	if err != nil {
		return nil, err
	}
	if l == nil {
		return nil, missing
	}
	if a.Version == "" {
		return x.openHead(ctx, l)
	}
	for _, v := range l.Versions {
		if v.Name == a.Version && v.IsSnapshot() {
			return x.openSnapshot(ctx, l, v)
		}
	}
	return nil, missing
}

func (x *exports) listing(ctx context.Context, dataset string) (*cairn.Listing, error) {
	for l, err := range x.here.Endpoint.Lister.List(ctx, cairn.Query{Filter: cairn.All, Names: []string{dataset}, Want: cairn.Want{Versions: true}}) {
		if err != nil {
			return nil, err
		}
		return l, nil
	}
	return nil, nil
}

func (x *exports) openHead(ctx context.Context, l *cairn.Listing) (*nbd.Export, error) {
	device, err := x.here.Device(ctx, l.Dataset.Name)
	if err != nil {
		return nil, err
	}
	e := &nbd.Export{Name: l.Dataset.Name, Description: "volume " + l.Dataset.Name, Device: device, Close: device.Close,
		Contexts: x.contexts(l, cairn.Version{Order: 1<<64 - 1})}
	if x.readOnly || l.Dataset.Sealed {
		e.Device, e.Reader = nil, device
	}
	return e, nil
}

func (x *exports) openSnapshot(ctx context.Context, l *cairn.Listing, v cairn.Version) (*nbd.Export, error) {
	if x.here.Endpoint.Blocks == nil {
		return nil, x.here.Endpoint.Lacks("blocks", l.Dataset.Name+v.Name)
	}
	r, err := x.here.Endpoint.Blocks.OpenVersion(ctx, l.Dataset.Name, v.VersionID)
	if err != nil {
		return nil, err
	}
	return &nbd.Export{Name: l.Dataset.Name + v.Name, Description: "snapshot of volume " + l.Dataset.Name, Reader: r, Close: r.Close,
		Contexts: x.contexts(l, v)}, nil
}

// contexts are the changes since each version older than v; a zero v.VersionID is
// the head.
func (x *exports) contexts(l *cairn.Listing, v cairn.Version) []nbd.Context {
	changes := x.here.Endpoint.Changes
	if changes == nil {
		return nil
	}
	var all []nbd.Context
	for _, from := range l.Versions {
		name := nbd.DirtyContext(from.Name)
		if from.Order >= v.Order || slices.ContainsFunc(all, func(c nbd.Context) bool { return c.Name == name }) {
			continue
		}
		all = append(all, nbd.Context{Name: name, Changed: func(ctx context.Context, _, _ int64) iter.Seq2[cairn.Extent, error] {
			return changes.Changed(ctx, l.Dataset.Name, from.VersionID, v.VersionID)
		}})
	}
	return all
}

// ServeVolumes exports the volumes and snapshots that s names until the context
// ends; ready is called once it listens.
func ServeVolumes(ctx context.Context, h *Here, s client.Serve, ready func(client.Serving)) error {
	x := &exports{here: h, readOnly: s.ReadOnly}
	if len(s.Volumes) > 0 {
		wanted, err := h.wanted(ctx, x, s.Volumes)
		if err != nil {
			return err
		}
		x.allow = wanted
	}
	config, err := serverTLS(s, nil)
	if err != nil {
		return err
	}
	l, err := listenNBD(ctx, s.Network, s.Address, config != nil)
	if err != nil {
		return err
	}
	names, err := x.List(ctx)
	if err == nil {
		err = x.canOpen(ctx, s.Volumes)
	}
	if err != nil {
		return errors.Join(err, l.Close())
	}
	ready(client.Serving{Network: s.Network, Address: l.Addr().String(), Exports: names})
	return nbd.Serve(ctx, l, nbd.Options{Exports: x, TLS: config, Logger: h.log})
}

// canOpen opens each once: what another process has open is an error now rather than
// at the first client.
func (x *exports) canOpen(ctx context.Context, names []string) error {
	for _, n := range names {
		e, err := x.Open(ctx, n)
		if err == nil {
			err = e.Close()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// wanted is the filter of what was asked for by name; a name that is not there is
// an error now rather than at the first client. A volume's name stands for its
// snapshots too.
func (h *Here) wanted(ctx context.Context, x *exports, names []string) (func(dataset, version string) bool, error) {
	there, err := x.List(ctx)
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		if !slices.Contains(there, n) {
			return nil, &cairn.Error{Op: "export", Subject: n, Kind: cairn.KindNotFound, Err: errors.New("there is no such volume or snapshot"), Hint: "'cairn list' shows what there is"}
		}
	}
	return func(dataset, version string) bool {
		return slices.Contains(names, dataset) || slices.Contains(names, dataset+version)
	}, nil
}

func listenNBD(ctx context.Context, network, address string, secured bool) (net.Listener, error) {
	if network == "unix" {
		return nbd.ListenUnix(address)
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, &cairn.Error{Op: "listen on", Subject: address, Kind: cairn.KindInvalid, Err: err, Hint: "write HOST:PORT"}
	}
	if ip := net.ParseIP(host); !secured && (ip == nil || !ip.IsLoopback()) {
		return nil, &cairn.Error{Op: "listen on", Subject: address, Kind: cairn.KindInvalid,
			Err: errors.New("it would offer the volumes to the network unprotected"), Hint: "use a loopback address, or give --ca, --cert and --key"}
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, &cairn.Error{Op: "listen on", Subject: address, Kind: cairn.KindUnavailable, Err: err, Hint: "choose an address of this machine and a port that is free"}
	}
	return l, nil
}

// serverTLS is nil when no files are named. With names, only certificates of these
// are let in.
func serverTLS(s client.Serve, clientCNs []string) (*tls.Config, error) {
	if s.CA == "" && s.Cert == "" && s.Key == "" {
		return nil, nil
	}
	pair, err := tls.LoadX509KeyPair(s.Cert, s.Key)
	if err != nil {
		return nil, &cairn.Error{Op: "load certificate", Subject: s.Cert, Kind: cairn.KindAuth, Err: err, Hint: "give --ca, --cert and --key; 'cairn cert issue' makes them"}
	}
	text, err := os.ReadFile(s.CA)
	roots := x509.NewCertPool()
	if err != nil || !roots.AppendCertsFromPEM(text) {
		return nil, &cairn.Error{Op: "load certificate authority", Subject: s.CA, Kind: cairn.KindAuth, Err: err, Hint: "it has to be a PEM file with a certificate"}
	}
	config := &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: roots}
	if clientCNs != nil {
		config.VerifyConnection = func(state tls.ConnectionState) error {
			if cn := state.PeerCertificates[0].Subject.CommonName; !slices.Contains(clientCNs, cn) {
				return &cairn.Error{Op: "accept client certificate", Subject: cn, Kind: cairn.KindAuth, Err: errors.New("the name is not in client_cns")}
			}
			return nil
		}
	}
	return config, nil
}

package daemon

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"

	"cairn"
	"cairn/internal/app/config"
	"cairn/internal/system/rpc"
	"cairn/internal/system/transport"
	"cairn/internal/system/wrap"
)

// placeOf names the place at the other end of a connection: what status, list and
// --at call it.
func placeOf(c *config.Connect) string {
	switch c.Type {
	case "tls":
		return c.ServerCN
	case "local":
		return c.ListenerName
	case "ssh+stdinserver":
		return c.Host
	}
	if host, _, err := net.SplitHostPort(c.Address); err == nil {
		return host
	}
	return c.Address
}

// dialer makes the dialer of a connection.
func dialer(c *config.Connect, local *transport.Local) (transport.Dialer, error) {
	switch c.Type {
	case "tls":
		return transport.TLSDialer(transport.TLSDialOptions{Address: c.Address, ServerCN: c.ServerCN, Timeout: c.DialTimeout,
			Files: transport.TLSFiles{CA: c.CA, Cert: c.Cert, Key: c.Key}})
	case "tcp":
		return transport.TCPDialer(c.Address, c.DialTimeout), nil
	case "local":
		return local.Dialer(c.ListenerName, c.ClientIdentity, c.DialTimeout), nil
	case "ssh+stdinserver":
		return transport.SSHDialer(transport.SSHOptions{Host: c.Host, User: c.User, Port: c.Port, IdentityFile: c.IdentityFile,
			Options: c.Options, Program: c.SSHCommand, Command: c.TransportOpenCommand, Timeout: c.DialTimeout}), nil
	}
	return nil, unknownTransport(c.Type)
}

// listen opens the listener of a passive job.
func (d *Daemon) listen(ctx context.Context, s *config.Serve) (transport.Listener, error) {
	switch s.Type {
	case "tls":
		return transport.ListenTLS(ctx, transport.TLSListenOptions{Address: s.Listen, FreeBind: s.ListenFreebind, ClientCNs: s.ClientCNs, HandshakeTimeout: s.HandshakeTimeout,
			Files: transport.TLSFiles{CA: s.CA, Cert: s.Cert, Key: s.Key}, Logger: d.log})
	case "tcp":
		return transport.ListenTCP(ctx, transport.TCPOptions{Address: s.Listen, FreeBind: s.ListenFreebind, Clients: s.Clients, Logger: d.log})
	case "local":
		return d.local.Listen(s.ListenerName)
	case "stdinserver":
		return transport.ListenStdin(ctx, transport.StdinOptions{Dir: d.cfg.Global.Serve.StdinServer.SockDir, Identities: s.ClientIdentities, Logger: d.log})
	}
	return nil, unknownTransport(s.Type)
}

func unknownTransport(name string) error {
	return &cairn.Error{Op: "use transport", Subject: name, Kind: cairn.KindUnsupported, Hint: "use tls, tcp, ssh+stdinserver or local"}
}

// peerJobs are the jobs with a peer at the place, or with any when place is empty.
func peerJobs(cfg *config.Config, place string) []*config.Job {
	var jobs []*config.Job
	for _, j := range cfg.Jobs {
		if j.Connect != nil && (place == "" || placeOf(j.Connect) == place) {
			jobs = append(jobs, j)
		}
	}
	return jobs
}

// Peer opens the endpoint of a peer by its place's name, as the first job that
// connects to it sees it. It is closed with h.
func (h *Here) Peer(ctx context.Context, place string) (*cairn.Endpoint, error) {
	jobs := peerJobs(h.cfg, place)
	if len(jobs) == 0 {
		return nil, h.unknownPlace(place)
	}
	ep, err := h.dialPeer(ctx, jobs[0])
	if err != nil {
		return nil, err
	}
	h.peers = append(h.peers, ep)
	return ep, nil
}

// dialPeer connects as the job does. A peer in the same configuration, over the
// local transport, is this place seen with the rights of that job's client.
func (h *Here) dialPeer(ctx context.Context, j *config.Job) (*cairn.Endpoint, error) {
	if j.Connect.Type == "local" {
		passive := listenerJob(h.cfg, j.Connect.ListenerName)
		if passive == nil {
			return nil, &cairn.Error{Op: "connect to local", Subject: j.Connect.ListenerName, Kind: cairn.KindUnavailable,
				Err: errors.New("no job serves it"), Hint: "give a sink or source job that listener_name"}
		}
		own, err := h.sides(ctx, passive)
		if err != nil {
			return nil, err
		}
		ep, err := offered(own, passive, j.Connect.ClientIdentity)
		if err != nil {
			return nil, errors.Join(err, own.close())
		}
		closing := *ep
		closing.Close = own.close
		return &closing, nil
	}
	how, err := dialer(j.Connect, nil)
	if err != nil {
		return nil, err
	}
	return dialPlace(ctx, how, j)
}

// dialPlace opens a session that is renewed after a loss.
func dialPlace(ctx context.Context, how transport.Dialer, j *config.Job) (*cairn.Endpoint, error) {
	return wrap.Redial(ctx, func(ctx context.Context) (*cairn.Endpoint, error) {
		return rpc.Dial(ctx, how, rpc.ClientOptions{Place: placeOf(j.Connect), Self: j.Name, Software: software})
	})
}

func listenerJob(cfg *config.Config, name string) *config.Job {
	for _, j := range cfg.Jobs {
		if s := j.Serve; s != nil && s.Type == "local" && s.ListenerName == name {
			return j
		}
	}
	return nil
}

func (h *Here) unknownPlace(place string) error {
	names := []string{HereName}
	for _, j := range peerJobs(h.cfg, "") {
		if name := placeOf(j.Connect); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return &cairn.Error{Op: "find place", Subject: place, Kind: cairn.KindNotFound, Err: errors.New("no job connects to it"),
		Hint: "known places: " + strings.Join(names, ", ")}
}

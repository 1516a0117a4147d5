package daemon

import (
	"context"
	"errors"
	"sort"
	"sync"

	"cairn"
	"cairn/internal/app/config"
	"cairn/internal/system/rpc"
	"cairn/internal/system/wrap"
)

// serving is what a passive job shows of its listener and clients.
type serving struct {
	mu      sync.Mutex // guards what follows
	address string
	clients map[string]int // sessions by identity
}

func (s *serving) look() (address string, clients []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.clients {
		clients = append(clients, c)
	}
	sort.Strings(clients)
	return s.address, clients
}

func (s *serving) listening(address string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.address = address
}

func (s *serving) count(client string, by int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.clients == nil {
		s.clients = map[string]int{}
	}
	if s.clients[client] += by; s.clients[client] <= 0 {
		delete(s.clients, client)
	}
}

// keepServing listens for the peers of a passive job until the context ends; a
// failure is shown in status and tried again.
func (d *Daemon) keepServing(ctx context.Context, u *unit) {
	part := "listener of " + u.cfg.Name
	d.persist(ctx, part, func(ctx context.Context) error {
		l, err := d.listen(ctx, u.cfg.Serve)
		if err != nil {
			return err
		}
		d.trouble.clear(part)
		u.serving.listening(l.Addr().String())
		defer u.serving.listening("")
		d.log.Info("listening", "job", u.cfg.Name, "address", l.Addr().String())
		return rpc.Serve(ctx, l, rpc.ServerOptions{Software: software, Logger: d.log, Endpoint: func(ctx context.Context, identity string) (*cairn.Endpoint, error) {
			return d.session(ctx, u, identity)
		}})
	})
}

// session is the endpoint of one client's session; its leases of plans end with it.
func (d *Daemon) session(ctx context.Context, u *unit, identity string) (*cairn.Endpoint, error) {
	own, err := d.here.sides(ctx, u.cfg)
	if err != nil {
		return nil, err
	}
	ep, err := offered(own, u.cfg, identity)
	if err != nil {
		return nil, errors.Join(err, own.close())
	}
	u.serving.count(identity, 1)
	var once sync.Once
	out := *wrap.Limit(ep, u.activity.send, u.activity.recv)
	out.Close = func() error {
		once.Do(func() { u.serving.count(identity, -1) })
		return own.close()
	}
	return &out, nil
}

// offered is what a passive job lets a client see and do.
func offered(own sides, j *config.Job, identity string) (*cairn.Endpoint, error) {
	if j.Type == "source" {
		owner := j.Name
		if !j.Serve.SoleClient() {
			owner += "." + identity // each client's cursor stands for itself
		}
		return wrap.Select(wrap.Owned(own.selected(), owner), cairn.All, identity), nil
	}
	ep, err := own.confined(j.Name, identity)
	if err != nil {
		return nil, err
	}
	if j.AppendOnly {
		ep = wrap.AppendOnly(ep)
	}
	out := *ep
	out.Info.Keep = j.Pruning.Keep
	return &out, nil
}

// dial connects an active job to its peer.
func (d *Daemon) dial(ctx context.Context, j *config.Job) (*cairn.Endpoint, error) {
	how, err := dialer(j.Connect, d.local)
	if err != nil {
		return nil, err
	}
	return dialPlace(ctx, how, j)
}

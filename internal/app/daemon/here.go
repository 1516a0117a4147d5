package daemon

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"cairn"
	"cairn/client"
	"cairn/internal/app/config"
	"cairn/internal/system/rpc"
	"cairn/internal/system/transport"
	"cairn/internal/system/wrap"
	"cairn/internal/system/zfs"
)

// place is what the daemon needs of the place that holds the volumes.
type place interface {
	Endpoint() *cairn.Endpoint
	// Device opens the head of a volume that this process hosts.
	Device(ctx context.Context, name string) (cairn.BlockDevice, error)
	Create(ctx context.Context, v client.NewVolume, owner string) error
	Release(ctx context.Context, name string) error
	Destroy(ctx context.Context, name string) error
	MarkDirty(ctx context.Context, name string) error
	SetHashes(ctx context.Context, name string, on bool) error
	// Rescan looks for volumes that other processes made.
	Rescan(ctx context.Context) error
	Show(ctx context.Context, name string) (client.Volume, error)
	Close() error
}

// Here is the place of this machine: its volumes, those that this process hosts
// and, through their host, those that another does. Its fields do not change; its
// methods, Peer apart, may be called from several goroutines.
type Here struct {
	Endpoint *cairn.Endpoint // volumes, and ZFS where the configuration uses it, with the leases of all who use this process

	cfg   *config.Config
	log   *slog.Logger
	place place
	table wrap.Table
	peers []*cairn.Endpoint // opened by Peer

	opening sync.Mutex // guards zfs
	zfs     *zfs.Place // nil before it was needed
}

// HereOptions say who opens the place.
type HereOptions struct {
	Host   string       // unix socket on which this process will offer what it hosts; empty: it offers nothing
	Logger *slog.Logger // nil discards
}

// OpenHere opens the place in the configuration's state folder.
func OpenHere(ctx context.Context, cfg *config.Config, o HereOptions) (*Here, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	p, err := openPlace(ctx, filepath.Join(cfg.Global.State, "volumes"), cfg, o)
	if err != nil {
		return nil, err
	}
	return newHere(ctx, cfg, p, o.Logger), nil
}

func newHere(ctx context.Context, cfg *config.Config, p place, log *slog.Logger) *Here {
	h := &Here{cfg: cfg, log: log, place: p}
	h.Endpoint = h.Session()
	if !slices.ContainsFunc(cfg.Jobs, usesZFS) {
		return h
	}
	z, err := h.ZFS(ctx)
	if err != nil {
		log.Error("ZFS cannot be used; jobs try again", "err", err, "kind", cairn.KindOf(err), "hint", cairn.HintOf(err))
		return h
	}
	h.Endpoint = wrap.Union(wrap.Side{Endpoint: h.Endpoint, Filter: cairn.All},
		wrap.Side{Endpoint: wrap.Leased(wrap.Translate(z.Endpoint(zfs.Job{})), &h.table), Filter: cairn.All})
	return h
}

// ZFS is this machine's ZFS, opened when it is first needed.
func (h *Here) ZFS(ctx context.Context) (*zfs.Place, error) {
	h.opening.Lock()
	defer h.opening.Unlock()
	if h.zfs == nil {
		z, err := zfs.Open(ctx, zfs.Options{Name: HereName, Devices: "/dev/zvol", Remember: remember, Log: h.log})
		if err != nil {
			return nil, err
		}
		h.zfs = z
	}
	return h.zfs, nil
}

// renew makes the listings that follow tell what is there now.
func (h *Here) renew() {
	h.opening.Lock()
	defer h.opening.Unlock()
	if h.zfs != nil {
		h.zfs.Renew()
	}
}

// remember is how long a listing of ZFS serves what is looked at one after another,
// such as planning and pruning.
const remember = 10 * time.Second

// dialHost reaches the volumes that another process hosts.
func dialHost(ctx context.Context, socket string) (*cairn.Endpoint, error) {
	return rpc.Dial(ctx, transport.UnixDialer(socket, 0), rpc.ClientOptions{Place: HereName, Self: HereName, Software: software})
}

const software = "cairn " + Version

// Session is an endpoint whose leases of plans end when it is closed; closing it
// leaves the place open.
func (h *Here) Session() *cairn.Endpoint {
	return wrap.Leased(wrap.Translate(h.place.Endpoint()), &h.table)
}

// Close releases the place and the peers.
func (h *Here) Close() error {
	var all []error
	for _, ep := range h.peers {
		all = append(all, closeEndpoint(ep))
	}
	h.opening.Lock()
	defer h.opening.Unlock()
	if h.zfs != nil {
		all = append(all, h.zfs.Close())
	}
	return errors.Join(append(all, h.place.Close())...)
}

// Device opens the head of a volume for reading and writing.
func (h *Here) Device(ctx context.Context, name string) (cairn.BlockDevice, error) {
	return h.place.Device(ctx, name)
}

// Volume tells where a volume lies and who owns it. One whose file declares it
// no more is without an owner; nothing is destroyed for that.
func (h *Here) Volume(ctx context.Context, name string) (client.Volume, error) {
	r, err := h.place.Show(ctx, name)
	if r.Owner != "" && r.Owner == h.cfg.File && h.NotDeclared("show", name) == nil {
		r.Owner = "nobody: " + h.cfg.File + " declares it no more"
	}
	return r, err
}

// byCommand is the owner of what a command makes.
const byCommand = "command"

// CreateVolume makes or adopts a volume.
func (h *Here) CreateVolume(ctx context.Context, v client.NewVolume) error {
	if err := h.NotDeclared("create volume", v.Name); err != nil {
		return err
	}
	return h.place.Create(ctx, v, byCommand)
}

// ReleaseVolume ends the protection of an adopted volume.
func (h *Here) ReleaseVolume(ctx context.Context, name string) error {
	if err := h.NotDeclared("release volume", name); err != nil {
		return err
	}
	return h.place.Release(ctx, name)
}

// DestroyVolume destroys a volume with all its versions.
func (h *Here) DestroyVolume(ctx context.Context, name string) error {
	if err := h.NotDeclared("destroy volume", name); err != nil {
		return err
	}
	// A volume too broken to be described may be destroyed all the same.
	if r, err := h.place.Show(ctx, name); err == nil && r.Origin != "" {
		return &cairn.Error{Op: "destroy volume", Subject: name, Kind: cairn.KindConflict, Err: errors.New("its content lies in " + r.Origin + ", which is not ours"),
			Hint: "'cairn volume release " + name + "' ends its protection"}
	}
	return h.place.Destroy(ctx, name)
}

// SetHashes gives a volume a block hash table, or takes it away.
func (h *Here) SetHashes(ctx context.Context, name string, on bool) error {
	return h.place.SetHashes(ctx, name, on)
}

// MarkDirty makes everything in the volume count as changed.
func (h *Here) MarkDirty(ctx context.Context, name string) error { return h.place.MarkDirty(ctx, name) }

// NotDeclared refuses to make or unmake what the configuration owns.
func (h *Here) NotDeclared(op, name string) error {
	for _, v := range h.cfg.Volumes {
		if v.Name == name {
			return &cairn.Error{Op: op, Subject: name, Kind: cairn.KindConflict, Err: errors.New("it is declared at " + v.At.String()),
				Hint: "a volume has one owner: take it out of the file first"}
		}
	}
	return nil
}

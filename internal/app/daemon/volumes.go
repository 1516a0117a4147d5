package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"

	"cairn"
	"cairn/client"
	"cairn/internal/app/config"
	"cairn/internal/system/rpc"
	"cairn/internal/system/transport"
)

// declare makes the volumes of the configuration that do not exist yet. One that
// cannot be made is shown in status and does not stop the others.
func (d *Daemon) declare(ctx context.Context) {
	for _, v := range d.cfg.Volumes {
		err := d.here.place.Create(ctx, client.NewVolume{Name: v.Name, Size: v.Size, Origin: v.Adopt, Store: v.Store, Hashes: v.Hashes}, d.cfg.File)
		if err == nil || errors.Is(err, cairn.KindExists) {
			d.trouble.clear("volume " + v.Name)
		}
		if err == nil {
			d.log.Info("volume made", "dataset", v.Name, "origin", v.Adopt)
			continue
		}
		if !errors.Is(err, cairn.KindExists) {
			d.trouble.note("volume "+v.Name, err)
			d.log.Error("declared volume cannot be used", "dataset", v.Name, "err", err, "kind", cairn.KindOf(err), "hint", cairn.HintOf(err))
		}
	}
}

// hostVolumes offers the volumes that this process hosts to commands.
func (d *Daemon) hostVolumes(ctx context.Context, parts *sync.WaitGroup) error {
	l, err := listenHost(ctx, hostSocket(d.cfg), d.log)
	if err != nil {
		return err
	}
	parts.Go(func() {
		if err := d.here.offer(ctx, l); err != nil {
			d.log.Error("commands cannot reach the volumes any more", "err", err, "kind", cairn.KindOf(err))
			d.trouble.note("host socket", err)
		}
	})
	return nil
}

func listenHost(ctx context.Context, socket string, log *slog.Logger) (transport.Listener, error) {
	return transport.ListenUnix(ctx, transport.UnixOptions{Path: socket, Identity: HereName, Logger: log})
}

// offer serves the place to other processes of this machine until the context ends.
func (h *Here) offer(ctx context.Context, l transport.Listener) error {
	return rpc.Serve(ctx, l, rpc.ServerOptions{Software: software, Logger: h.log,
		Endpoint: func(context.Context, string) (*cairn.Endpoint, error) { return h.Session(), nil }})
}

// Hosting opens the place for a command that keeps volumes open for long, calls use
// and lets other commands reach them meanwhile.
func Hosting(ctx context.Context, cfg *config.Config, use func(context.Context, *Here) error) (err error) {
	socket := fmt.Sprintf("%s-%d", hostSocket(cfg), os.Getpid())
	h, err := OpenHere(ctx, cfg, HereOptions{Host: socket})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.Close()) }()
	l, err := listenHost(ctx, socket, h.log)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	offered := make(chan error, 1)
	go func() { offered <- h.offer(ctx, l) }()
	err = use(ctx, h)
	cancel()
	return errors.Join(err, <-offered)
}

// Volume tells where a volume lies and who owns it.
func (d *Daemon) Volume(ctx context.Context, name string) (client.Volume, error) {
	return d.here.Volume(ctx, name)
}

// CreateVolume makes or adopts a volume that the daemon hosts from then on.
func (d *Daemon) CreateVolume(ctx context.Context, v client.NewVolume) error {
	return d.here.CreateVolume(ctx, v)
}

// ReleaseVolume ends the protection of an adopted volume.
func (d *Daemon) ReleaseVolume(ctx context.Context, name string) error {
	return d.here.ReleaseVolume(ctx, name)
}

// DestroyVolume destroys a volume with all its versions.
func (d *Daemon) DestroyVolume(ctx context.Context, name string) error {
	return d.here.DestroyVolume(ctx, name)
}

// MarkDirty makes everything in the volume count as changed.
func (d *Daemon) MarkDirty(ctx context.Context, name string) error {
	return d.here.MarkDirty(ctx, name)
}

// SetHashes gives a volume a block hash table, or takes it away.
func (d *Daemon) SetHashes(ctx context.Context, name string, on bool) error {
	return d.here.SetHashes(ctx, name, on)
}

// Rescan tries again to make the declared volumes, and looks for those that others
// made.
func (d *Daemon) Rescan(ctx context.Context) error {
	d.declare(ctx)
	return d.here.place.Rescan(ctx)
}

// ServeVolumes exports volumes over NBD until the context ends.
func (d *Daemon) ServeVolumes(ctx context.Context, s client.Serve, ready func(client.Serving)) error {
	return ServeVolumes(ctx, d.here, s, ready)
}

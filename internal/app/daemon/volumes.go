package daemon

import (
	"context"
	"errors"
	"sync"

	"cairn"
	"cairn/client"
	"cairn/internal/system/rpc"
	"cairn/internal/system/transport"
)

// declare makes the volumes of the configuration that do not exist yet. One that
// cannot be made is shown in status and does not stop the others.
func (d *Daemon) declare(ctx context.Context) {
	for _, v := range d.cfg.Volumes {
		err := d.here.place.Create(ctx, client.NewVolume{Name: v.Name, Size: v.Size, Origin: v.Adopt, Store: v.Store}, d.cfg.File)
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
	l, err := transport.ListenUnix(ctx, transport.UnixOptions{Path: hostSocket(d.cfg), Identity: HereName, Logger: d.log})
	if err != nil {
		return err
	}
	parts.Go(func() {
		err := rpc.Serve(ctx, l, rpc.ServerOptions{Software: software, Logger: d.log,
			Endpoint: func(context.Context, string) (*cairn.Endpoint, error) { return d.here.Session(), nil }})
		if err != nil {
			d.log.Error("commands cannot reach the volumes any more", "err", err, "kind", cairn.KindOf(err))
			d.trouble.note("host socket", err)
		}
	})
	return nil
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

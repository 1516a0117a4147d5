package daemon

import (
	"context"
	"fmt"
	"strings"

	"cairn"
	"cairn/client"
	"cairn/internal/app/config"
	"cairn/internal/system/volume"
)

// onDisk makes a volume.Place what the daemon needs.
type onDisk struct{ *volume.Place }

func openPlace(ctx context.Context, dir string, cfg *config.Config, o HereOptions) (place, error) {
	p, err := volume.OpenPlace(ctx, volume.PlaceOptions{Dir: dir, Name: HereName, Socket: o.Host, Dial: dialHost, Log: o.Logger,
		Each: func(name string, v *volume.Options) { choose(cfg, name, v) }})
	if err != nil {
		return nil, err
	}
	return onDisk{p}, nil
}

// choose applies what the configuration declares of a volume.
func choose(cfg *config.Config, name string, o *volume.Options) {
	for _, v := range cfg.Volumes {
		if v.Name != name {
			continue
		}
		o.KeepAtLeast = v.KeepAtLeast
		if v.OnFull == "block" {
			o.OnFull = volume.BlockWrites
		}
		o.Hashes = &v.Hashes
	}
	for _, j := range cfg.Jobs {
		if j.Recv.Hashes && strings.HasPrefix(name, j.RootVolumes+"/") {
			o.Hashes = &j.Recv.Hashes
		}
	}
}

// Create makes or adopts a volume, and hosts it from then on.
func (p onDisk) Create(ctx context.Context, v client.NewVolume, owner string) error {
	var err error
	if v.Origin != "" {
		err = p.Adopt(ctx, v.Name, v.Origin, v.Store, owner)
	} else {
		err = p.CreateIn(ctx, v.Name, v.Size, v.Store, owner)
	}
	if err != nil {
		return err
	}
	if v.Hashes {
		return p.SetHashes(ctx, v.Name, true)
	}
	_, err = p.Open(ctx, v.Name)
	return err
}

// Destroy destroys a volume.
func (p onDisk) Destroy(ctx context.Context, name string) error { return p.DestroyVolume(ctx, name) }

// MarkDirty makes everything in a volume count as changed.
func (p onDisk) MarkDirty(ctx context.Context, name string) error {
	v, err := p.Open(ctx, name)
	if err != nil {
		return err
	}
	return v.MarkDirty(ctx)
}

// Rescan opens what can be opened: a listing looks at every volume.
func (p onDisk) Rescan(ctx context.Context) error {
	for _, err := range p.Endpoint().Lister.List(ctx, cairn.Query{Filter: cairn.All}) {
		if err != nil {
			return err
		}
	}
	return nil
}

// Show tells where a volume lies and who owns it.
func (p onDisk) Show(ctx context.Context, name string) (client.Volume, error) {
	d, err := p.Describe(ctx, name)
	r := client.Volume{Store: d.Store, Origin: d.Origin, Owner: d.Owner, Continuity: d.Continuity, Hashes: d.Hashes, HashBytes: d.HashBytes}
	for _, g := range d.GivenUp {
		r.GivenUp = append(r.GivenUp, client.GivenUp(g))
	}
	if d.Host != 0 {
		r.Host = fmt.Sprintf("process %d", d.Host)
	}
	return r, err
}

package daemon

import (
	"context"
	"errors"

	"cairn"
	"cairn/internal/app/config"
	"cairn/internal/system/wrap"
	"cairn/internal/system/zfs"
)

// side is one kind of this place's datasets as a job works on it.
type side struct {
	ep     *cairn.Endpoint // leased; closing it ends the leases of plans
	filter cairn.Filter    // what the job selects
	root   string          // below which it receives
}

// sides are the kinds of datasets that a job works on.
type sides []side

// sides opens what the job needs of this place; the caller closes it.
func (h *Here) sides(ctx context.Context, j *config.Job) (sides, error) {
	var all sides
	if len(j.Volumes) > 0 || j.RootVolumes != "" {
		all = append(all, side{h.Session(), j.Volumes, j.RootVolumes})
	}
	if usesZFS(j) {
		ep, err := h.zfsFor(ctx, j)
		if err != nil {
			return nil, errors.Join(err, all.close())
		}
		all = append(all, side{ep, j.Filesystems, j.RootFS})
	}
	return all, nil
}

func usesZFS(j *config.Job) bool { return len(j.Filesystems) > 0 || j.RootFS != "" }

// zfsFor is ZFS with a job's options for sending and receiving.
func (h *Here) zfsFor(ctx context.Context, j *config.Job) (*cairn.Endpoint, error) {
	place, err := h.ZFS(ctx)
	if err != nil {
		return nil, err
	}
	encryption, err := zfs.ParsePlaceholderEncryption(j.Recv.Placeholder.Encryption)
	if err != nil {
		return nil, err
	}
	s := j.Send
	ep := place.Endpoint(zfs.Job{
		Send: zfs.SendOptions{Encrypted: s.Encrypted, Raw: s.Raw, Properties: s.SendProperties, BackupProperties: s.BackupProperties,
			LargeBlocks: s.LargeBlocks, Compressed: s.Compressed, EmbeddedData: s.EmbeddedData},
		Receive: zfs.ReceiveOptions{Inherit: j.Recv.Properties.Inherit, Override: j.Recv.Properties.Override, Placeholder: encryption, Root: j.RootFS},
	})
	return wrap.Leased(wrap.Translate(ep), &h.table), nil
}

// selected is what the job selects, under its own names.
func (s sides) selected() *cairn.Endpoint {
	return s.union(func(one side) (*cairn.Endpoint, cairn.Filter) { return one.ep, one.filter })
}

// received is everything below the roots, under its own names.
func (s sides) received() *cairn.Endpoint {
	return s.union(func(one side) (*cairn.Endpoint, cairn.Filter) { return one.ep, below(one.root) })
}

// rebased is what a pull job receives, named as at the peer.
func (s sides) rebased() (*cairn.Endpoint, error) {
	return s.inside(func(one side) (*cairn.Endpoint, error) { return wrap.Rebase(one.ep, one.root) })
}

// confined is what a client of a sink sees.
func (s sides) confined(owner, identity string) (*cairn.Endpoint, error) {
	return s.inside(func(one side) (*cairn.Endpoint, error) {
		return wrap.Confine(wrap.Owned(one.ep, owner), one.root, identity)
	})
}

func (s sides) inside(enter func(side) (*cairn.Endpoint, error)) (*cairn.Endpoint, error) {
	var failed error
	ep := s.union(func(one side) (*cairn.Endpoint, cairn.Filter) {
		in, err := enter(one)
		if err != nil {
			failed, in = err, one.ep
		}
		return in, cairn.All
	})
	return ep, failed
}

func (s sides) union(show func(side) (*cairn.Endpoint, cairn.Filter)) *cairn.Endpoint {
	var parts []wrap.Side
	for _, one := range s {
		ep, filter := show(one)
		parts = append(parts, wrap.Side{Endpoint: ep, Filter: filter})
	}
	return wrap.Union(parts...)
}

// close ends the leases of plans.
func (s sides) close() error {
	var all []error
	for _, one := range s {
		all = append(all, closeEndpoint(one.ep))
	}
	return errors.Join(all...)
}

// below selects everything under a root.
func below(root string) cairn.Filter {
	return cairn.Filter{{Name: root, Subtree: true, Keep: true}}
}

package api

import (
	"context"

	"cairn/client"
)

// Daemon is what the API speaks for. Its methods return *cairn.Error and obey
// their context.
type Daemon interface {
	Views
	Jobs
	Volumes
}

// Views are read-only looks at the whole.
type Views interface {
	Version() client.Version
	Status(ctx context.Context, q client.StatusQuery) (*client.Status, error)
	// Listings tells what each place holds of the dataset (empty: of all); place
	// limits it to one.
	Listings(ctx context.Context, dataset, place string) ([]client.Place, error)
}

// Jobs acts on the configured jobs. An unknown name is KindNotFound.
type Jobs interface {
	Jobs() []client.Job
	Wake(ctx context.Context, job string, w client.Wake) (*client.Run, error)
	Cancel(job string) error
	Reset(job string) error
	History(job string, limit int) ([]client.Run, error)
	// Run returns one run; with wait when it has ended or the context is done.
	Run(ctx context.Context, job string, id uint64, wait bool) (*client.Run, error)
	PrunePreview(ctx context.Context, job string) ([]client.PruneSide, error)
}

// Volumes acts on the volumes that the daemon hosts.
type Volumes interface {
	// Volume tells where a volume lies and who owns it.
	Volume(ctx context.Context, name string) (client.Volume, error)
	CreateVolume(ctx context.Context, v client.NewVolume) error
	ReleaseVolume(ctx context.Context, name string) error
	DestroyVolume(ctx context.Context, name string) error
	MarkDirty(ctx context.Context, name string) error
	SetHashes(ctx context.Context, name string, on bool) error
	Rescan(ctx context.Context) error
	// ServeVolumes exports until the context ends; ready is called once it listens.
	ServeVolumes(ctx context.Context, s client.Serve, ready func(client.Serving)) error
}

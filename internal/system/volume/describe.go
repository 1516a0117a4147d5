package volume

import (
	"context"
	"errors"
)

// Description is what the registry knows of a volume beside its listing.
type Description struct {
	Store      string // its folder
	Origin     string // adopted file or device; empty for a sparse head of ours
	Owner      string // the file or command that made it
	Continuity string // why the change set of the head is believed
	Host       int    // the process that has it open, when it is not this one; then only Store is known too
}

// Describe tells where a volume lies and who owns it.
func (p *Place) Describe(ctx context.Context, name string) (Description, error) {
	store, err := p.registry.store(name)
	if err != nil {
		return Description{}, err
	}
	d := Description{Store: store}
	v, err := p.open(ctx, name)
	var b *busyElsewhere
	if errors.As(err, &b) {
		d.Host = b.host.PID
		return d, nil
	}
	if err != nil {
		return Description{}, err
	}
	d.Origin, d.Owner, d.Continuity = v.Origin(), v.Owner(), v.Continuity()
	return d, nil
}

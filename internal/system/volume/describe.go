package volume

import (
	"context"
	"errors"
	"time"
)

// Description is what the registry knows of a volume beside its listing.
type Description struct {
	Store      string // its folder
	Origin     string // adopted file or device; empty for a sparse head of ours
	Owner      string // the file or command that made it
	Continuity string // why the change set of the head is believed
	Hashes     string // of which version its block hash table is; empty without one
	HashBytes  int64  // room that the table takes
	GivenUp    []GivenUp
	Host       int // the process that has it open, when it is not this one; then only Store is known too
}

// GivenUp is a snapshot whose data went for want of room.
type GivenUp struct {
	Bookmark string // that took its place
	At       time.Time
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
	if t, _ := v.hashing.get(); t != nil {
		d.Hashes = tableAsOf(v.state())
		if d.HashBytes, err = t.Bytes(); err != nil {
			return Description{}, failed("describe", name, err)
		}
	}
	for _, r := range givenUp(v.state()) {
		d.GivenUp = append(d.GivenUp, GivenUp{r.Name, r.GivenUp})
	}
	return d, nil
}

// Package verify compares two snapshots, wherever they are, and heals what one of
// them has lost from the other.
//
// Each side hashes what it holds, on its own disks, under a nonce that this
// comparison makes: only hashes cross the wire. They are compared as a tree of two
// levels, pieces of 1 MiB and in those that differ blocks of 4 KiB. Content moves
// only for blocks that are healed.
//
// It promises that the report says what was compared and nothing more, and that a
// block is changed only by the side that holds it, which decides by what it knows
// (cairn.Healer): a good block is never changed. Two snapshots are equal only when
// the report says that nothing differs and all was read.
//
// What can go wrong: KindConflict (sizes differ, or healing between snapshots of
// different GUIDs), KindUnsupported (a side cannot hash or heal), and the errors of
// the two places.
package verify

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"iter"

	"cairn"
	"cairn/internal/mech/watchdog"
)

const (
	piece = 1 << 20
	batch = 256 // blocks in one call of Heal: a MiB
)

// Side is one of the two snapshots.
type Side struct {
	Endpoint *cairn.Endpoint
	Dataset  string
	Version  cairn.Version
}

func (s Side) String() string {
	if place := s.Endpoint.Info.Place; place != "" {
		return s.Dataset + s.Version.Name + " at " + place
	}
	return s.Dataset + s.Version.Name
}

// Options are the caller's choices.
type Options struct {
	Heal   bool // put right what either side has lost
	DryRun bool // with Heal: only say what would be done
}

// Difference is a run of blocks that are not equal, or not readable.
type Difference struct {
	Offset int64 `json:"offset"`
	Length int64 `json:"length"`
	BadA   bool  `json:"bad_a,omitempty"` // the first side cannot read it
	BadB   bool  `json:"bad_b,omitempty"`
}

// Healed counts blocks by what became of them, at one side.
type Healed struct {
	BySum    int `json:"by_checksum"`        // a checksum there says the content is right
	ByGUID   int `json:"by_guid"`            // the version's GUID vouches for it
	Refused  int `json:"refused,omitempty"`  // a checksum there speaks against it
	Doubtful int `json:"doubtful,omitempty"` // nothing there tells which side is right
}

// Report says what was compared, and what came of it.
type Report struct {
	A       string       `json:"a"`
	B       string       `json:"b"`
	Read    int64        `json:"read"`    // bytes that both sides read and hashed
	Zeroes  int64        `json:"zeroes"`  // bytes that both sides say are zeroes
	Differs []Difference `json:"differs"` // before healing
	HealedA Healed       `json:"healed_a"`
	HealedB Healed       `json:"healed_b"`
	Left    int          `json:"left"` // blocks that still differ or cannot be read at one side
}

// Equal reports that both sides hold the same now, as far as was looked.
func (r *Report) Equal() bool { return r.Left == 0 }

// Compare compares a with b.
func Compare(ctx context.Context, a, b Side, o Options) (*Report, error) {
	c := &comparison{a: a, b: b, o: o, report: &Report{A: a.String(), B: b.String(), Differs: []Difference{}}}
	if err := c.may(); err != nil {
		return nil, err
	}
	if _, err := rand.Read(c.nonce[:]); err != nil {
		return nil, err
	}
	return c.report, c.run(ctx)
}

// comparison is a Compare under way.
type comparison struct {
	a, b   Side
	o      Options
	nonce  [16]byte
	report *Report
}

func (c *comparison) may() error {
	both := c.a.String() + " with " + c.b.String()
	if c.a.Version.Size != c.b.Version.Size {
		return &cairn.Error{Op: "compare", Subject: both, Kind: cairn.KindConflict,
			Err: fmt.Errorf("one has %d bytes, the other %d", c.a.Version.Size, c.b.Version.Size), Hint: "'cairn list' shows which snapshots are the same version"}
	}
	if c.o.Heal && c.a.Version.GUID != c.b.Version.GUID {
		return &cairn.Error{Op: "heal", Subject: both, Kind: cairn.KindConflict,
			Err: fmt.Errorf("they are different versions, %v and %v", c.a.Version.GUID, c.b.Version.GUID), Hint: "heal from a replica of the same version"}
	}
	for _, s := range []Side{c.a, c.b} {
		if s.Endpoint.Digests == nil {
			return s.Endpoint.Lacks("digest", s.Dataset+s.Version.Name)
		}
	}
	return nil
}

func (c *comparison) run(ctx context.Context) error {
	progress := watchdog.From(ctx)
	var unequal []cairn.Extent
	err := c.walk(ctx, piece, nil, func(x, y cairn.Digest) error {
		progress.Level("compared bytes", x.Offset+x.Length)
		switch {
		case x.Zero && y.Zero:
			c.report.Zeroes += x.Length
		case x == y && !x.Bad:
			c.report.Read += x.Length
		default:
			unequal = join(unequal, x)
		}
		return nil
	})
	m := &mender{c: c}
	if err == nil && len(unequal) == 0 {
		err = m.finish(ctx)
	}
	if err != nil || len(unequal) == 0 {
		return err
	}
	err = c.walk(ctx, cairn.BlockSize, unequal, func(x, y cairn.Digest) error {
		progress.Level("compared blocks of bytes", x.Offset+x.Length)
		switch {
		case x.Zero && y.Zero:
			c.report.Zeroes += x.Length
			return nil
		case x == y && !x.Bad:
			c.report.Read += x.Length
			return nil
		}
		c.differs(x, y)
		return m.add(ctx, x, y)
	})
	if err == nil {
		err = m.finish(ctx)
	}
	return err
}

func join(list []cairn.Extent, d cairn.Digest) []cairn.Extent {
	if n := len(list); n > 0 && list[n-1].End() == d.Offset {
		list[n-1].Length += d.Length
		return list
	}
	return append(list, cairn.Extent{Offset: d.Offset, Length: d.Length, Kind: cairn.ExtentData})
}

// walk asks both sides for digests, which both make at the same time, and gives
// them in pairs.
func (c *comparison) walk(ctx context.Context, unit int64, extents []cairn.Extent, pair func(x, y cairn.Digest) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	q := cairn.DigestQuery{Nonce: c.nonce, Unit: unit, Extents: extents}
	next, stop := iter.Pull2(c.b.Endpoint.Digests.Digest(ctx, c.b.Dataset, c.b.Version.VersionID, q))
	defer stop()
	for x, err := range c.a.Endpoint.Digests.Digest(ctx, c.a.Dataset, c.a.Version.VersionID, q) {
		if err != nil {
			return err
		}
		y, err, ok := next()
		if err != nil {
			return err
		}
		if !ok || y.Offset != x.Offset || y.Length != x.Length {
			return &cairn.Error{Op: "compare", Subject: c.b.String(), Kind: cairn.KindCorrupt, Err: errors.New("it answers with other pieces than it was asked for")}
		}
		if err := pair(x, y); err != nil {
			return err
		}
	}
	if _, err, more := next(); err != nil || more {
		return errors.Join(err, ctx.Err())
	}
	return ctx.Err()
}

// differs notes a block, joined to its neighbour.
func (c *comparison) differs(x, y cairn.Digest) {
	d := Difference{Offset: x.Offset, Length: x.Length, BadA: x.Bad, BadB: y.Bad}
	list := c.report.Differs
	if n := len(list); n > 0 {
		if last := &list[n-1]; last.Offset+last.Length == d.Offset && last.BadA == d.BadA && last.BadB == d.BadB {
			last.Length += d.Length
			return
		}
	}
	c.report.Differs = append(list, d)
}

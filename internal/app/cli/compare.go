package cli

import (
	"context"
	"fmt"
	"strings"

	"cairn"
	"cairn/internal/mech/watchdog"
	"cairn/internal/work/verify"
)

// against says what a snapshot is compared with.
type against struct {
	other string // a place, or an address
	place string // of the address; empty is here
	heal  bool
	dry   bool
}

// target is the address and the place that the flags name: --against PLACE is the
// same snapshot there.
func (g against) target(a cairn.Address) (cairn.Address, string, error) {
	if !strings.Contains(g.other, "@") {
		return a, g.other, nil
	}
	b, err := versionAddress(g.other)
	return b, g.place, err
}

// proveEqual compares two snapshots, and heals what one of them has lost.
func (p *program) proveEqual(ctx context.Context, address string, g against, asJSON bool) error {
	a, err := versionAddress(address)
	if err != nil {
		return err
	}
	b, place, err := g.target(a)
	if err != nil {
		return err
	}
	d, err := p.compare(ctx, a, b, place, verify.Options{Heal: g.heal, DryRun: g.dry})
	if err != nil {
		return err
	}
	if asJSON {
		err = p.printJSON(d)
	} else {
		err = p.printComparison(d)
	}
	if err != nil || d.Equal() {
		return err
	}
	hint := "'cairn volume verify' of each side may tell which is damaged; --heal mends what one side has lost"
	if g.heal {
		hint = "what is left, neither side can be shown to be right about: compare with a third place"
	}
	return &cairn.Error{Op: "verify", Subject: d.A + " against " + d.B, Kind: cairn.KindDamaged, Err: fmt.Errorf("%s differ", count(d.Left, "block")), Hint: hint}
}

func (p *program) compare(ctx context.Context, a, b cairn.Address, place string, o verify.Options) (*verify.Report, error) {
	far, err := p.place(ctx, place)
	if err != nil {
		return nil, err
	}
	left, err := sideOf(ctx, p.opened.Endpoint, a)
	if err != nil {
		return nil, err
	}
	right, err := sideOf(ctx, far, b)
	if err != nil {
		return nil, err
	}
	progress := &watchdog.Progress{}
	bar := p.startBar("compare " + a.String())
	defer bar.end()
	bar.watch(progress, left.Version.Size)
	return verify.Compare(watchdog.With(ctx, progress), left, right, o)
}

func sideOf(ctx context.Context, ep *cairn.Endpoint, a cairn.Address) (verify.Side, error) {
	l, err := findDataset(ctx, ep, a.Dataset)
	if err != nil {
		return verify.Side{}, err
	}
	v, err := findVersion(ep, l, a.Version)
	return verify.Side{Endpoint: ep, Dataset: a.Dataset, Version: v}, err
}

func (p *program) printComparison(d *verify.Report) error {
	for _, c := range d.Differs {
		how := ""
		switch {
		case c.BadA && c.BadB:
			how = ", unreadable at both"
		case c.BadA:
			how = ", unreadable in " + d.A
		case c.BadB:
			how = ", unreadable in " + d.B
		}
		if err := p.printf("differs: %d bytes at %d%s\n", c.Length, c.Offset, how); err != nil {
			return err
		}
	}
	for _, side := range []struct {
		name string
		h    verify.Healed
	}{{d.A, d.HealedA}, {d.B, d.HealedB}} {
		if side.h == (verify.Healed{}) {
			continue
		}
		err := p.printf("%s: %s healed by checksum, %d by GUID, %d refused, %d in doubt\n", side.name, count(side.h.BySum, "block"), side.h.ByGUID, side.h.Refused, side.h.Doubtful)
		if err != nil {
			return err
		}
	}
	return p.printf("%s and %s: %s read and compared, %s zeroes on both sides, %s differ\n", d.A, d.B, size(d.Read), size(d.Zeroes), count(len(d.Differs), "extent"))
}

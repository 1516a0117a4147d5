package cli

import (
	"bytes"
	"context"
	"fmt"

	"cairn"
	"cairn/internal/mech/watchdog"
)

// compareBytes is how much of each side is read at a time.
const compareBytes = 1 << 20

// difference is what a comparison of two snapshots found.
type difference struct {
	A       string   `json:"a"`
	B       string   `json:"b"`
	Read    int64    `json:"read"`   // bytes that were read from both sides and compared
	Zeroes  int64    `json:"zeroes"` // bytes that both sides say are zeroes
	Differs []change `json:"differs"`
}

// verifyAgainst reads two snapshots, wherever they are, and compares every byte.
func (p *program) verifyAgainst(ctx context.Context, a, b cairn.Address, place string) (*difference, error) {
	far, err := p.place(ctx, place)
	if err != nil {
		return nil, err
	}
	left, err := openSnapshot(ctx, p.opened.Endpoint, a)
	if err != nil {
		return nil, err
	}
	defer func() { _ = left.Close() }() // only read
	right, err := openSnapshot(ctx, far, b)
	if err != nil {
		return nil, err
	}
	defer func() { _ = right.Close() }() // only read
	progress := &watchdog.Progress{}
	bar := p.startBar("compare " + a.String())
	defer bar.end()
	bar.watch(progress, left.Size())
	d := &difference{A: a.String(), B: b.String(), Differs: []change{}}
	if left.Size() != right.Size() {
		return nil, &cairn.Error{Op: "compare", Subject: d.A + " with " + d.B, Kind: cairn.KindConflict,
			Err: fmt.Errorf("one has %d bytes, the other %d", left.Size(), right.Size())}
	}
	for off := int64(0); off < left.Size(); off += compareBytes {
		if err := d.compare(ctx, left, right, off, min(compareBytes, left.Size()-off)); err != nil {
			return nil, err
		}
		progress.Level("bytes", off+compareBytes)
	}
	return d, nil
}

func openSnapshot(ctx context.Context, ep *cairn.Endpoint, a cairn.Address) (cairn.BlockReader, error) {
	l, err := findDataset(ctx, ep, a.Dataset)
	if err != nil {
		return nil, err
	}
	v, err := findVersion(ep, l, a.Version)
	if err != nil {
		return nil, err
	}
	if ep.Blocks == nil {
		return nil, ep.Lacks("blocks", a.String())
	}
	return ep.Blocks.OpenVersion(ctx, a.Dataset, v.VersionID)
}

// compare looks at one piece. What both sides say is zero is not read.
func (d *difference) compare(ctx context.Context, left, right cairn.BlockReader, off, length int64) error {
	emptyLeft, err := onlyZeroes(ctx, left, off, length)
	if err != nil {
		return err
	}
	emptyRight, err := onlyZeroes(ctx, right, off, length)
	if err != nil {
		return err
	}
	if emptyLeft && emptyRight {
		d.Zeroes += length
		return nil
	}
	a, b := make([]byte, length), make([]byte, length)
	if err := left.ReadAt(ctx, a, off); err != nil {
		return err
	}
	if err := right.ReadAt(ctx, b, off); err != nil {
		return err
	}
	d.Read += length
	for at := int64(0); at < length; at += cairn.BlockSize {
		end := min(at+cairn.BlockSize, length)
		if !bytes.Equal(a[at:end], b[at:end]) {
			d.add(off+at, end-at)
		}
	}
	return nil
}

func onlyZeroes(ctx context.Context, r cairn.BlockReader, off, length int64) (bool, error) {
	for e, err := range r.Extents(ctx, off, length) {
		if err != nil {
			return false, err
		}
		if e.Kind == cairn.ExtentData {
			return false, nil
		}
	}
	return true, nil
}

// add notes a block that differs, joined to its neighbour.
func (d *difference) add(off, length int64) {
	if n := len(d.Differs); n > 0 && d.Differs[n-1].Offset+d.Differs[n-1].Length == off {
		d.Differs[n-1].Length += length
		return
	}
	d.Differs = append(d.Differs, change{Offset: off, Length: length})
}

func (p *program) printDifference(d *difference) error {
	for _, c := range d.Differs {
		if err := p.printf("differs: %d bytes at %d\n", c.Length, c.Offset); err != nil {
			return err
		}
	}
	return p.printf("%s and %s: %s read and compared, %s zeroes on both sides, %s differ\n", d.A, d.B, size(d.Read), size(d.Zeroes), count(len(d.Differs), "extent"))
}

package volume

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"cairn"
	"cairn/internal/mech/blockio"
)

// groupFolder is the folder of the registry with the records of group captures;
// '+' is in no volume's name.
const groupFolder = "+groups"

// captureTogether makes a snapshot of several volumes of the place at one instant.
// All have to be hosted by this process, or by none: who holds writes back has to
// be one process, whose end releases them all.
func (p *Place) captureTogether(ctx context.Context, name string, datasets []string) ([]cairn.Captured, error) {
	volumes := make([]*Volume, len(datasets))
	for i, d := range datasets {
		v, err := p.open(ctx, d)
		var b *busyElsewhere
		if errors.As(err, &b) {
			return nil, &cairn.Error{Op: "capture", Subject: strings.Join(datasets, ", ") + " together", Kind: cairn.KindUnsupported,
				Err: errors.Join(errors.New("one process has to host them all, and "+d+" is elsewhere"), b), Hint: "end that process, or host all of them in the daemon"}
		}
		if err != nil {
			return nil, err
		}
		if err := v.relied(ctx); err != nil {
			return nil, err
		}
		volumes[i] = v
	}
	records, err := p.groupRecords(ctx)
	if err != nil {
		return nil, failed("capture", name, err)
	}
	versions, err := CaptureGroup(ctx, records, name, volumes)
	if err != nil {
		return nil, err
	}
	out := make([]cairn.Captured, len(datasets))
	for i, d := range datasets {
		out[i] = cairn.Captured{Dataset: d, Version: versions[i]}
	}
	return out, nil
}

// groupRecords gives the folder of the records, made where it is not there yet,
// without those that every volume has taken over.
func (p *Place) groupRecords(ctx context.Context) (blockio.FS, error) {
	dir := filepath.Join(string(p.registry), groupFolder)
	if gone(dir) {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
		if err := syncUp(string(p.registry), string(p.registry)); err != nil {
			return nil, err
		}
	}
	records, err := blockio.OS(dir)
	if err != nil {
		return nil, err
	}
	return records, p.sweepGroups(ctx, records)
}

// sweepGroups removes the records of groups all of whose volumes were opened since,
// or are no more.
func (p *Place) sweepGroups(ctx context.Context, records blockio.FS) error {
	files, err := records.ReadDir(".")
	if err != nil {
		return err
	}
	for _, name := range files {
		r, err := readGroup(records, name)
		if err != nil || !p.tookOver(ctx, r) {
			continue // opening one of its volumes will say what is wrong with it
		}
		if err := records.Remove(name); err != nil {
			return err
		}
	}
	return nil
}

func (p *Place) tookOver(ctx context.Context, r groupRecord) bool {
	for _, m := range r.Members {
		if _, err := p.Open(ctx, m.Volume); err != nil && !errors.Is(err, cairn.KindNotFound) {
			return false
		}
	}
	return true
}

// pendingGroups is the folder of records for an opening; nil where there is none.
func (p *Place) pendingGroups() (blockio.FS, error) {
	dir := filepath.Join(string(p.registry), groupFolder)
	if gone(dir) {
		return nil, nil
	}
	return blockio.OS(dir)
}

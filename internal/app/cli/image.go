package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"cairn"
	"cairn/client"
	"cairn/internal/app/daemon"
	"cairn/internal/mech/blockio"
	"cairn/internal/mech/watchdog"
)

func (p *program) volumeExportCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:     "export NAME@SNAP FILE",
		Short:   "Write a snapshot to a raw image file",
		Long:    "Zeroes become holes. The image's SHA-256 is printed.",
		Example: "  cairn volume export db@monday /tmp/db.img",
		Args:    cobra.ExactArgs(2),
		RunE: run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			a, err := versionAddress(args[0])
			if err != nil {
				return err
			}
			h, err := p.here(ctx)
			if err != nil {
				return err
			}
			target := absolute(args[1])
			report, err := p.restore(ctx, h.Endpoint, a, "file", target, force, consent{})
			if err != nil {
				return err
			}
			return p.printf("%s  %s\n", report.SHA256, target)
		}),
		ValidArgsFunction: p.completeDatasets,
	}
	cmd.Flags().BoolVar(&force, "force", false, "overwrite a file that exists")
	return cmd
}

func (p *program) volumeImportCommand() *cobra.Command {
	var store string
	cmd := &cobra.Command{
		Use:     "import NAME FILE",
		Short:   "Make a volume from a raw image file",
		Long:    "The file is copied; it stays as it is. To protect a file in place, adopt it instead.",
		Example: "  cairn volume import db /tmp/db.img",
		Args:    cobra.ExactArgs(2),
		RunE: run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			return p.importImage(ctx, args[0], args[1], absolute(store))
		}),
	}
	storeFlag(cmd, &store)
	return cmd
}

const importingSuffix = ".importing"

// importImage makes the volume under its name only when it is complete: here, in
// this process, before a daemon hears of it.
func (p *program) importImage(ctx context.Context, name, file, store string) error {
	f, err := os.Open(file)
	if err != nil {
		return &cairn.Error{Op: "import", Subject: file, Kind: blockio.Kind(err), Err: err}
	}
	defer func() { _ = f.Close() }() // only read
	info, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return &cairn.Error{Op: "import", Subject: file, Kind: cairn.KindIO, Err: err}
	}
	if name, err = datasetAddress(name); err != nil {
		return err
	}
	if info <= 0 || info%512 != 0 {
		return invalid("import", file, "make it a positive multiple of 512 bytes: truncate -s %512 "+file, fmt.Errorf("it has %d bytes", info))
	}
	if err := p.dropUnfinished(ctx, name+importingSuffix); err != nil {
		return err
	}
	h, err := p.here(ctx)
	if err != nil {
		return err
	}
	if err := p.importInto(ctx, h, client.NewVolume{Name: name, Size: info, Store: store}, f); err != nil {
		return err
	}
	if err := p.printf("%s\n", name); err != nil {
		return err
	}
	return p.handOver(ctx)
}

// importInto fills a volume of another name and renames it: a command that is
// killed leaves nothing that looks complete.
func (p *program) importInto(ctx context.Context, h *daemon.Here, v client.NewVolume, f *os.File) error {
	if _, err := findDataset(ctx, h.Endpoint, v.Name); err == nil {
		return &cairn.Error{Op: "import", Subject: v.Name, Kind: cairn.KindExists, Hint: "import under another name, or destroy that volume first"}
	}
	if err := h.NotDeclared("import", v.Name); err != nil {
		return err
	}
	name := v.Name
	v.Name += importingSuffix
	if err := h.CreateVolume(ctx, v); err != nil {
		return err
	}
	err := p.copyIn(ctx, h.Device, v.Name, f, v.Size)
	if err == nil {
		err = h.Endpoint.Renames.Rename(ctx, v.Name, name)
	}
	if err != nil {
		return errors.Join(err, h.DestroyVolume(context.WithoutCancel(ctx), v.Name))
	}
	return nil
}

// dropUnfinished destroys what a killed import left.
func (p *program) dropUnfinished(ctx context.Context, name string) error {
	_, err := p.localDataset(ctx, name)
	if errors.Is(err, cairn.KindNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	r, err := p.registry(ctx)
	if err != nil {
		return err
	}
	return r.DestroyVolume(ctx, name)
}

// letGo closes the volumes that this process hosts.
func (p *program) letGo() error {
	if p.opened == nil {
		return nil
	}
	h := p.opened
	p.opened = nil
	return h.Close()
}

// handOver lets a running daemon host what this process made.
func (p *program) handOver(ctx context.Context) error {
	if err := p.letGo(); err != nil {
		return err
	}
	c, err := p.running(ctx)
	if err != nil || c == nil {
		return err
	}
	return c.Rescan(ctx)
}

func (p *program) copyIn(ctx context.Context, open func(context.Context, string) (cairn.BlockDevice, error), name string, f *os.File, total int64) error {
	device, err := open(ctx, name)
	if err != nil {
		return err
	}
	defer func() { _ = device.Close() }() // flushed below
	progress := &watchdog.Progress{}
	bar := p.startBar("import " + name)
	bar.watch(progress, total)
	defer bar.end()
	buf := make([]byte, 1<<20)
	for off := int64(0); off < total; off += int64(len(buf)) {
		part := buf[:min(int64(len(buf)), total-off)]
		if _, err := f.ReadAt(part, off); err != nil {
			return &cairn.Error{Op: "import", Subject: f.Name(), Kind: cairn.KindIO, Err: err}
		}
		if !allZero(part) {
			if err := device.WriteAt(ctx, part, off, 0); err != nil {
				return err
			}
		}
		progress.Level("bytes", off+int64(len(part)))
	}
	return device.Flush(ctx)
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

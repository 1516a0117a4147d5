package restore

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync/atomic"
	"time"

	"cairn"
	"cairn/internal/format/blocks"
	"cairn/internal/mech/watchdog"
	"cairn/internal/policy/plan"
)

// FileOptions say what to restore to which path.
type FileOptions struct {
	Source   *cairn.Endpoint
	Dataset  string
	Version  string // with its '@'
	Path     string // of a file or a device
	Force    bool   // replace a file that exists, overwrite a device
	DryRun   bool
	Watchdog watchdog.Options
	Live     *FileLive // nil, or where to watch it
	Log      *slog.Logger
}

// FileLive shows a ToFile that is under way. The zero value is ready; all methods
// may be called at any time.
type FileLive struct {
	size, written, verified atomic.Int64
}

// Progress tells the bytes of the content, and how many of them are written and
// read back.
func (l *FileLive) Progress() (size, written, verified int64) {
	return l.size.Load(), l.written.Load(), l.verified.Load()
}

// ToFile restores a version to a file or device. The report is never nil. A
// failure leaves a file that existed as it was; a device holds part of the version.
func ToFile(ctx context.Context, o FileOptions) (*Report, error) {
	if o.Live == nil {
		o.Live = &FileLive{}
	}
	began := time.Now()
	w := o.Watchdog
	w.Op, w.Subject = "restore", o.Dataset+o.Version
	r, err, _ := watchdog.Value(ctx, &watchdog.Progress{}, w, o.run)
	r.Version, r.Target, r.DryRun, r.Began, r.Ended = o.Dataset+o.Version, o.Path, o.DryRun, began, time.Now()
	return &r, err
}

func (o *FileOptions) run(ctx context.Context) (r Report, err error) {
	watchdog.From(ctx).Enter("list")
	source, version, err := wanted(ctx, o.Source, o.Dataset, o.Version)
	if err != nil {
		return r, err
	}
	r.Size = version.Size
	o.Live.size.Store(version.Size)
	content, err := o.content(source, version)
	if err != nil {
		return r, err
	}
	out, err := openOutput(o.Path, version.Size, o.Force)
	if err != nil {
		return r, err
	}
	r.Method = File
	if out.device {
		r.Method = Device
	}
	r.Plan = []string{out.sentence(o.Dataset + o.Version)}
	if o.DryRun {
		return r, out.abandon()
	}
	if err := o.copy(ctx, &r, content, out); err != nil {
		return r, errors.Join(err, out.abandon())
	}
	return r, out.finish()
}

// content writes a version piece by piece and tells in how many streams it came.
type content func(ctx context.Context, to *writer) (streams int, err error)

// content chooses where the bytes come from.
func (o *FileOptions) content(source *cairn.Listing, version cairn.Version) (content, error) {
	if o.Source.Blocks != nil && o.Source.Info.Identity == "" {
		return func(ctx context.Context, to *writer) (int, error) { return 1, o.fromBlocks(ctx, version, to) }, nil
	}
	if o.Source.Sender == nil {
		return nil, o.Source.Lacks("send", o.Dataset)
	}
	p, err := plan.Dataset(source, nil, plan.Options{Until: version.VersionID, Accept: []cairn.Format{cairn.FormatBlocks}})
	if err != nil {
		return nil, err
	}
	if n := len(p.Steps); n == 0 || p.Steps[n-1].To != version.VersionID {
		return nil, &cairn.Error{Op: "restore", Subject: o.Dataset + version.Name, Place: o.Source.Info.Place, Kind: cairn.KindDamaged,
			Err: errors.New("its data cannot be sent"), Hint: "restore another version, or from another place"}
	}
	return func(ctx context.Context, to *writer) (int, error) {
		return len(p.Steps), o.fromStreams(ctx, p.Steps, to)
	}, nil
}

// copy writes, makes durable, reads back and compares.
func (o *FileOptions) copy(ctx context.Context, r *Report, from content, out *output) error {
	progress := watchdog.From(ctx)
	progress.Enter("read")
	to := &writer{out: out, size: r.Size, digest: sha256.New(), progress: progress, live: o.Live}
	streams, err := from(ctx, to)
	if err != nil {
		return err
	}
	r.BytesMoved = to.written
	progress.Enter("commit")
	if err := out.sync(); err != nil {
		return err
	}
	progress.Level("synced", 1)
	progress.Enter("verify")
	got, err := out.digest(ctx, r.Size, func(done int64) {
		o.Live.verified.Store(done)
		progress.Level("verified", done)
	})
	if err != nil {
		return err
	}
	r.SHA256 = hex.EncodeToString(got)
	if streams > 1 {
		r.Notes = append(r.Notes, "the streams were checked by their hashes; what was written was not compared again, since it came in several streams")
		return nil
	}
	if want := to.digest.Sum(nil); string(want) != string(got) {
		return &cairn.Error{Op: "restore to", Subject: o.Path, Kind: cairn.KindCorrupt,
			Err: fmt.Errorf("it reads back with SHA-256 %x instead of %x", got, want), Hint: "the disk does not keep what is written to it: check it, use another"}
	}
	r.Verified = true
	return nil
}

// pieceBytes is how much is read at once.
const pieceBytes = 1 << 20

func (o *FileOptions) fromBlocks(ctx context.Context, version cairn.Version, to *writer) (err error) {
	in, err := o.Source.Blocks.OpenVersion(ctx, o.Dataset, version.VersionID)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	buf := make([]byte, pieceBytes)
	for e, err := range in.Extents(ctx, 0, in.Size()) {
		if err != nil {
			return err
		}
		if e.Kind != cairn.ExtentData {
			if err := to.zero(ctx, e.Offset, e.Length); err != nil {
				return err
			}
			continue
		}
		for off := e.Offset; off < e.End(); {
			p := buf[:min(pieceBytes, e.End()-off)]
			if err := in.ReadAt(ctx, p, off); err != nil {
				return err
			}
			if err := to.data(ctx, off, p); err != nil {
				return err
			}
			off += int64(len(p))
		}
	}
	return to.end(ctx)
}

// fromStreams applies one stream after the other.
func (o *FileOptions) fromStreams(ctx context.Context, steps []cairn.Step, to *writer) error {
	for _, step := range steps {
		s, err := o.Source.Sender.Send(ctx, step, []cairn.Format{cairn.FormatBlocks})
		if err != nil {
			return err
		}
		if err := errors.Join(applyStream(ctx, s.Body, step, to), s.Body.Close()); err != nil {
			return err
		}
		if err := to.end(ctx); err != nil {
			return err
		}
	}
	return nil
}

func applyStream(ctx context.Context, body io.Reader, step cairn.Step, to *writer) error {
	r, err := blocks.NewReader(body, blocks.ReaderOptions{})
	if err != nil {
		return err
	}
	if h := r.Header(); h.To.GUID != step.To.GUID || h.From.GUID != step.From.GUID {
		return &cairn.Error{Op: "restore", Subject: step.Dataset + step.To.Name, Kind: cairn.KindCorrupt,
			Err: fmt.Errorf("the stream carries GUID %s on %s instead of %s on %s", h.To.GUID, h.From.GUID, step.To.GUID, step.From.GUID)}
	}
	for {
		rec, err := r.Next()
		if err == nil && rec.Offset+rec.Length > to.size {
			rec = clipped(rec, to.size)
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case rec.Kind == blocks.KindPoint, rec.Length == 0:
		case rec.Kind == blocks.KindData:
			err = to.data(ctx, rec.Offset, rec.Data)
		default:
			err = to.zero(ctx, rec.Offset, rec.Length)
		}
		if err != nil {
			return err
		}
	}
}

// clipped cuts a record at the end of the restored version: an older version that
// it stands on may have been larger.
func clipped(rec blocks.Record, size int64) blocks.Record {
	rec.Length = max(size-rec.Offset, 0)
	if rec.Kind == blocks.KindData {
		rec.Data = rec.Data[:rec.Length]
	}
	return rec
}

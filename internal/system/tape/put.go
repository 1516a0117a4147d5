package tape

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"

	"cairn"
	"cairn/internal/mech/watchdog"
	"cairn/internal/system/tape/drive"
	"cairn/ltfs"
)

// Put is what a Put call did.
type Put struct {
	Files, Dirs, Links int
	Bytes              int64
	Skipped            []string // what LTFS cannot hold, with the reason
}

// Put copies a file or folder with all below it to the tape, under the folder dest
// of the index ("/" is the root), and packs everything densely: small files share
// records. What is there already under the same name is replaced in the index.
// Nothing counts before Commit.
//
// It refuses a tape that is out of order. When the tape is full it fails with
// KindSpace; what was written so far is in the tree, each file whole or not at
// all, and may be committed.
func (t *Tape) Put(ctx context.Context, source, dest string) (Put, error) {
	var done Put
	if len(t.notes) > 0 {
		return done, t.fail("write to tape", cairn.KindDamaged, "cairn tape check says what to do", "it is out of order: %s", strings.Join(t.notes, "; "))
	}
	if t.index.Lock != ltfs.Unlocked {
		return done, t.fail("write to tape", cairn.KindPermission, "cairn tape lock --unlock", "the volume is %s", t.index.Lock)
	}
	into, err := t.folder(dest)
	if err != nil {
		return done, err
	}
	w := &putter{t: t, done: &done, progress: watchdog.From(ctx), pack: make([]byte, 0, t.label.BlockSize),
		names: map[*ltfs.Directory]map[string]bool{}}
	if err := w.start(ctx); err != nil {
		return done, err
	}
	t.dirty = true
	err = w.add(ctx, filepath.Clean(source), into)
	if err == nil {
		err = w.flush(ctx)
	}
	return done, err
}

// folder finds or makes the folder of the index that a path names.
func (t *Tape) folder(dest string) (*ltfs.Directory, error) {
	d := t.index.Root
	for part := range strings.SplitSeq(strings.Trim(path.Clean("/"+dest), "/"), "/") {
		if part == "" {
			continue
		}
		if err := ltfs.CheckName(part); err != nil {
			return nil, &cairn.Error{Op: "use folder on tape", Subject: dest, Kind: cairn.KindInvalid, Err: err}
		}
		next := findDir(d, part)
		if next == nil {
			next = t.newDir(part, time.Now())
			removeEntry(d, part)
			d.Dirs = append(d.Dirs, next)
		}
		d = next
	}
	return d, nil
}

func (t *Tape) newDir(name string, at time.Time) *ltfs.Directory {
	t.index.HighestUID++
	ts := ltfs.TimestampOf(at)
	return &ltfs.Directory{Name: name, UID: t.index.HighestUID, Times: ltfs.Times{Creation: ts, Change: ts, Modify: ts, Access: ts, Backup: ts}}
}

func findDir(d *ltfs.Directory, name string) *ltfs.Directory {
	for _, sub := range d.Dirs {
		if sub.Name == name {
			return sub
		}
	}
	return nil
}

func removeEntry(d *ltfs.Directory, name string) {
	for i, f := range d.Files {
		if f.Name == name {
			d.Files = append(d.Files[:i], d.Files[i+1:]...)
			return
		}
	}
	for i, sub := range d.Dirs {
		if sub.Name == name {
			d.Dirs = append(d.Dirs[:i], d.Dirs[i+1:]...)
			return
		}
	}
}

// putter fills records. Files that end inside the record in pack wait in open
// until it is written: only then they are in the tree.
type putter struct {
	t        *Tape
	done     *Put
	progress *watchdog.Progress
	pack     []byte // the record being filled
	block    uint64 // where it will stand
	ready    []func()
	names    map[*ltfs.Directory]map[string]bool // what folders hold, so that putting many files into one stays linear
}

// start moves to the end of the data partition.
func (w *putter) start(ctx context.Context) error {
	end, err := w.t.drive.SeekEnd(ctx, w.t.number[w.t.label.DataPart])
	if err != nil {
		return err
	}
	if end.Block != w.t.ends[w.t.label.DataPart].end {
		return w.t.fail("write to tape", cairn.KindConflict, "open it anew", "its data partition ends at %d, it ended at %d when it was opened", end.Block, w.t.ends[w.t.label.DataPart].end)
	}
	w.block = end.Block
	return nil
}

func (w *putter) add(ctx context.Context, source string, into *ltfs.Directory) error {
	if err := ctx.Err(); err != nil {
		return &cairn.Error{Op: "write to tape", Subject: w.t.subject, Kind: cairn.KindCanceled, Err: err}
	}
	info, err := os.Lstat(source)
	if err != nil {
		return fileError("read", source, err)
	}
	name := info.Name()
	if err := ltfs.CheckName(name); err != nil {
		w.skip(source, err.Error())
		return nil
	}
	switch {
	case info.IsDir():
		return w.addDir(ctx, source, name, info, into)
	case info.Mode().IsRegular():
		return w.addFile(ctx, source, name, info, into)
	case info.Mode()&fs.ModeSymlink != 0:
		return w.addLink(source, name, info, into)
	}
	w.skip(source, "LTFS holds files, folders and symbolic links only")
	return nil
}

func (w *putter) skip(source, why string) { w.done.Skipped = append(w.done.Skipped, source+": "+why) }

func (w *putter) addDir(ctx context.Context, source, name string, info fs.FileInfo, into *ltfs.Directory) error {
	sub := findDir(into, name)
	if sub == nil {
		removeEntry(into, name)
		sub = w.t.newDir(name, info.ModTime())
		into.Dirs = append(into.Dirs, sub)
		delete(w.names, into)
	}
	w.done.Dirs++
	entries, err := os.ReadDir(source)
	if err != nil {
		return fileError("read", source, err)
	}
	for _, e := range entries {
		if err := w.add(ctx, filepath.Join(source, e.Name()), sub); err != nil {
			return err
		}
	}
	return nil
}

func (w *putter) newFile(name string, info fs.FileInfo) *ltfs.File {
	w.t.index.HighestUID++
	now, mod := ltfs.TimestampOf(time.Now()), ltfs.TimestampOf(info.ModTime())
	return &ltfs.File{Name: name, UID: w.t.index.HighestUID, Times: ltfs.Times{Creation: now, Change: now, Modify: mod, Access: mod, Backup: now}}
}

func (w *putter) addLink(source, name string, info fs.FileInfo, into *ltfs.Directory) error {
	target, err := os.Readlink(source)
	if err != nil {
		return fileError("read", source, err)
	}
	if !utf8.ValidString(target) {
		w.skip(source, "its target is not UTF-8")
		return nil
	}
	f := w.newFile(name, info)
	f.IsSymlink, f.Symlink = true, target
	w.place(into, f)
	w.done.Links++
	return nil
}

func (w *putter) place(into *ltfs.Directory, f *ltfs.File) {
	names := w.names[into]
	if names == nil {
		names = make(map[string]bool, len(into.Files)+len(into.Dirs))
		for _, other := range into.Files {
			names[other.Name] = true
		}
		for _, sub := range into.Dirs {
			names[sub.Name] = true
		}
		w.names[into] = names
	}
	if names[f.Name] {
		removeEntry(into, f.Name)
	}
	names[f.Name] = true
	into.Files = append(into.Files, f)
}

// addFile appends a file's bytes. A file whose bytes are all on tape is placed in
// the tree; one that ends in the record being filled is placed when that is
// written.
func (w *putter) addFile(ctx context.Context, source, name string, info fs.FileInfo, into *ltfs.Directory) error {
	in, err := os.Open(source)
	if err != nil {
		return fileError("read", source, err)
	}
	defer in.Close() //nolint:errcheck // read only
	f := w.newFile(name, info)
	f.ReadOnly = info.Mode()&0o222 == 0
	start := ltfs.Extent{Partition: w.t.label.DataPart, StartBlock: w.block, ByteOffset: uint32(len(w.pack))}
	count, err := w.fill(ctx, in)
	if err != nil {
		var pe *fs.PathError
		if errors.As(err, &pe) {
			return fileError("read", source, err)
		}
		return err
	}
	if count > 0 {
		start.ByteCount = count
		f.Extents = []ltfs.Extent{start}
	}
	f.Length = count
	place := func() {
		w.place(into, f)
		w.done.Files++
		w.done.Bytes += int64(count)
		w.progress.Level("bytes", w.done.Bytes)
	}
	if len(w.pack) == 0 || count == 0 {
		place()
		return nil
	}
	w.ready = append(w.ready, place)
	return nil
}

// fill copies a file into records and returns its length.
func (w *putter) fill(ctx context.Context, in io.Reader) (uint64, error) {
	var count uint64
	for {
		room := w.pack[len(w.pack):cap(w.pack)]
		n, err := in.Read(room)
		count += uint64(n)
		w.pack = w.pack[:len(w.pack)+n]
		if len(w.pack) == cap(w.pack) {
			if werr := w.flush(ctx); werr != nil {
				return 0, werr
			}
		}
		if err == io.EOF {
			return count, nil
		}
		if err != nil {
			return 0, err
		}
	}
}

// flush writes the record and places the files that end in it.
func (w *putter) flush(ctx context.Context) error {
	if len(w.pack) > 0 {
		warning, err := w.t.drive.Write(ctx, w.pack)
		if err != nil {
			return err
		}
		w.pack = w.pack[:0]
		w.block++
		w.t.ends[w.t.label.DataPart].end = w.block
		if warning == drive.EarlyWarning {
			w.settle()
			return w.t.fail("write to tape", cairn.KindSpace, "use another tape", "the tape is full; what is left is for the index")
		}
	}
	w.settle()
	return nil
}

func (w *putter) settle() {
	for _, place := range w.ready {
		place()
	}
	w.ready = w.ready[:0]
}

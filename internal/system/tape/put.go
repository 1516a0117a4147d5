package tape

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"cairn"
	"cairn/internal/mech/kernel"
	"cairn/internal/mech/watchdog"
	"cairn/ltfs"
)

// Put is what a Put call did.
type Put struct {
	Files, Dirs, Links int
	Indexed            int // of the files, those whose data went to the index partition
	Bytes              int64
	Skipped            []string // what LTFS cannot hold, with the reason
}

// PutOptions are the choices of PutAll.
type PutOptions struct {
	// Policy says which files go to the index partition; nil: the volume's own rules.
	Policy *ltfs.Policy
	// Creator is what an index says that has to be written on the way; empty: that of
	// the index before.
	Creator string
}

// Put is PutAll of one source, by the volume's own rules.
func (t *Tape) Put(ctx context.Context, source, dest string) (Put, error) {
	return t.PutAll(ctx, []string{source}, dest, PutOptions{})
}

// PutAll copies files and folders with all below them to the tape, under the
// folder dest of the index ("/" is the root), and packs everything densely: small
// files share records. Files that the placement rules name go to the index
// partition while it has room, all others behind them to the data partition. What
// is there already under the same name is replaced in the index. Holes stay holes,
// and the user's extended attributes are kept. Nothing counts before Commit.
//
// It refuses a tape that is out of order. When the tape is full it fails with
// KindSpace; what was written so far is in the tree, each file whole or not at
// all, and may be committed.
func (t *Tape) PutAll(ctx context.Context, sources []string, dest string, o PutOptions) (Put, error) {
	var done Put
	if err := cmp.Or(t.mayPut(o), t.CheckWritable(ctx)); err != nil {
		return done, err
	}
	if o.Policy == nil {
		o.Policy = t.index.Policy
	}
	if err := t.keepCurrent(ctx); err != nil {
		return done, err
	}
	before := t.index.HighestUID
	defer func() { t.dirty = t.dirty || t.index.HighestUID != before }() // whatever is new takes a number
	into, err := t.folder(dest)
	if err != nil {
		return done, err
	}
	w := &putter{t: t, o: o, done: &done, progress: watchdog.From(ctx), names: map[*ltfs.Directory]map[string]bool{}}
	for _, source := range sources {
		if err := w.add(ctx, filepath.Clean(source), into); err != nil {
			return done, err
		}
	}
	w.progress.Level("expected", w.expected)
	for _, letter := range []byte{t.label.IndexPart, t.label.DataPart} {
		if err := w.write(ctx, letter); err != nil {
			return done, err
		}
	}
	return done, nil
}

func (t *Tape) mayPut(o PutOptions) error {
	switch {
	case len(t.notes) > 0:
		return t.fail("write to tape", cairn.KindDamaged, "cairn tape check says what to do", "it is out of order: %s", strings.Join(t.notes, "; "))
	case o.Policy != nil && !t.index.AllowPolicyUpdate:
		return t.fail("write to tape", cairn.KindPermission, "leave out --rules", "the volume does not allow other placement rules than its own")
	}
	return nil
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

// putter walks the sources first, then writes the files of one partition after the
// other, so that the drive changes between them once.
type putter struct {
	t        *Tape
	o        PutOptions
	done     *Put
	progress *watchdog.Progress
	planned  map[byte][]planned
	expected int64                               // bytes of the files that are planned
	names    map[*ltfs.Directory]map[string]bool // what folders hold, so that putting many files into one stays linear
}

// planned is a file that is to be written.
type planned struct {
	source string
	info   fs.FileInfo
	into   *ltfs.Directory
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
		w.plan(planned{source, info, into})
		return nil
	case info.Mode()&fs.ModeSymlink != 0:
		return w.addLink(source, name, info, into)
	}
	w.skip(source, "LTFS holds files, folders and symbolic links only")
	return nil
}

func (w *putter) skip(source, why string) { w.done.Skipped = append(w.done.Skipped, source+": "+why) }

func (w *putter) plan(p planned) {
	if w.planned == nil {
		w.planned = map[byte][]planned{}
	}
	letter := w.t.label.DataPart
	if w.o.Policy.Match(p.info.Name(), uint64(p.info.Size())) {
		letter = w.t.label.IndexPart
	}
	w.planned[letter], w.expected = append(w.planned[letter], p), w.expected+p.info.Size()
}

func (w *putter) addDir(ctx context.Context, source, name string, info fs.FileInfo, into *ltfs.Directory) error {
	sub := findDir(into, name)
	if sub == nil {
		removeEntry(into, name)
		sub = w.t.newDir(name, info.ModTime())
		var err error
		if sub.XAttrs, err = w.attributes(source); err != nil {
			return fileError("read", source, err)
		}
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

// write puts the files that are planned for a partition there. What the index
// partition has no room for goes to the data partition.
func (w *putter) write(ctx context.Context, letter byte) error {
	list := w.planned[letter]
	if len(list) == 0 {
		return nil
	}
	room := int64(-1)
	if letter == w.t.label.IndexPart {
		c, err := w.t.mover.capacity(ctx, w.t.number[letter])
		if err != nil {
			return err
		}
		room = c.Remaining
		if c.Total == 0 { // a partition without end
			room = -1
		}
	}
	l, err := w.t.openLane(ctx, letter, w.interim)
	if err != nil {
		return err
	}
	for i, p := range list {
		if room >= 0 {
			if room -= p.info.Size() + int64(w.t.label.BlockSize); room < 0 {
				w.planned[w.t.label.DataPart] = append(w.planned[w.t.label.DataPart], list[i:]...)
				break
			}
		}
		if err := w.writeFile(ctx, l, p); err != nil {
			return err
		}
	}
	return w.flush(ctx, l)
}

// interim is the index that has to be written when the partition changes: the tree
// as it is on tape.
func (w *putter) interim() *ltfs.Index {
	ix := w.t.index
	ix.Generation++
	ix.UpdateTime = ltfs.TimestampOf(time.Now())
	if w.o.Creator != "" {
		ix.Creator = w.o.Creator
	}
	copied := *ix
	return &copied
}

// writeFile appends a file's bytes. A file whose bytes are all on tape is placed in
// the tree; one that ends in the record being filled is placed when that is
// written.
func (w *putter) writeFile(ctx context.Context, l *lane, p planned) error {
	if err := ctx.Err(); err != nil {
		return &cairn.Error{Op: "write to tape", Subject: w.t.subject, Kind: cairn.KindCanceled, Err: err}
	}
	in, err := os.Open(p.source)
	if err != nil {
		return fileError("read", p.source, err)
	}
	defer in.Close() //nolint:errcheck // read only
	f := w.newFile(p.info.Name(), p.info)
	f.ReadOnly = p.info.Mode()&0o222 == 0
	if f.XAttrs, err = w.attributes(p.source); err != nil {
		return fileError("read", p.source, err)
	}
	if err := w.copyIn(ctx, l, in, p, f); err != nil {
		var pe *fs.PathError
		if errors.As(err, &pe) {
			return fileError("read", p.source, err)
		}
		return err
	}
	place := func() {
		w.place(p.into, f)
		w.done.Files++
		w.done.Bytes += int64(f.Length)
		if len(f.Extents) > 0 && l.letter == w.t.label.IndexPart {
			w.done.Indexed++
		}
		w.progress.Level("bytes", w.done.Bytes)
	}
	if len(f.Extents) == 0 {
		place()
		return nil
	}
	l.whenWritten(place)
	return nil
}

// copyIn appends what a file holds, an extent for each stretch between its holes.
func (w *putter) copyIn(ctx context.Context, l *lane, in *os.File, p planned, f *ltfs.File) error {
	size := p.info.Size()
	for off := int64(0); off < size; {
		start, end, err := kernel.Data(in, off, size)
		if err != nil {
			return &fs.PathError{Op: "seek", Path: p.source, Err: err}
		}
		if start >= size {
			break
		}
		extent := l.at()
		extent.FileOffset = uint64(start)
		if extent.ByteCount, err = w.fill(ctx, l, io.NewSectionReader(in, start, end-start)); err != nil {
			return err
		}
		if extent.ByteCount > 0 {
			f.Extents = append(f.Extents, extent)
		}
		if extent.ByteCount < uint64(end-start) { // it became shorter meanwhile
			size = start + int64(extent.ByteCount)
		}
		off = end
	}
	f.Length = uint64(size)
	return nil
}

// maxValue is the longest attribute value that other LTFS software keeps.
const maxValue = 4096

// attributes are a file's own extended attributes, as LTFS keeps them: without the
// name space's prefix.
func (w *putter) attributes(source string) ([]ltfs.XAttr, error) {
	all, err := userAttributes(source)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(x ltfs.XAttr) bool {
		if len(x.Value) <= maxValue && ltfs.CheckName(x.Key) == nil {
			return false
		}
		w.skip(source, fmt.Sprintf("its attribute %.40q, which LTFS cannot hold (%d bytes)", x.Key, len(x.Value)))
		return true
	}), nil
}

// fill copies a stretch of a file into records and returns its length.
func (w *putter) fill(ctx context.Context, l *lane, in io.Reader) (uint64, error) {
	var count uint64
	for {
		room := l.pack[len(l.pack):cap(l.pack)]
		n, err := in.Read(room)
		count += uint64(n)
		l.pack = l.pack[:len(l.pack)+n]
		if len(l.pack) == cap(l.pack) {
			if werr := w.flush(ctx, l); werr != nil {
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

// flush writes a lane's record. The index partition's early warning ends nothing:
// what is planned for it was held against its room.
func (w *putter) flush(ctx context.Context, l *lane) error {
	full, err := l.flush(ctx)
	if err == nil && full && l.letter == w.t.label.DataPart {
		return w.t.fail("write to tape", cairn.KindSpace, "use another tape", "the tape is full; what is left is for the index")
	}
	return err
}

package tape

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"cairn"
	"cairn/internal/mech/watchdog"
	"cairn/internal/system/tape/drive"
	"cairn/ltfs"
)

// ExtractOptions choose what is extracted.
type ExtractOptions struct {
	Index     *ltfs.Index               // nil: the current generation
	Paths     []string                  // files or folders, as in the index; none: everything
	Skipped   func(path, reason string) // told of each file of which something cannot be read; nil: the first ends the extraction
	Overwrite bool
}

// Extracted says what an Extract did.
type Extracted struct {
	Files, Dirs, Links int
	Bytes              int64
	Dropped            int // extended attributes that the file system there does not take
}

// piece is one extent of one file, in tape order.
type piece struct {
	name   string
	extent ltfs.Extent
}

// inTapeOrder sorts pieces by where they stand, so that one pass over each partition
// reads them all.
func inTapeOrder(pieces []piece) {
	slices.SortFunc(pieces, func(a, b piece) int {
		return cmp.Or(cmp.Compare(a.extent.Partition, b.extent.Partition), cmp.Compare(a.extent.StartBlock, b.extent.StartBlock),
			cmp.Compare(a.extent.ByteOffset, b.extent.ByteOffset))
	})
}

// Extract copies files from the tape into a folder, reading the tape in one pass
// per partition, whatever order the files have in the index. Nothing is written
// outside the folder, whatever the index says. Times and the read-only flag are
// set; what is not stored on tape (owners, modes) is the caller's.
func (t *Tape) Extract(ctx context.Context, to string, o ExtractOptions) (Extracted, error) {
	var done Extracted
	if o.Index == nil {
		o.Index = t.index
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return done, fileError("extract to", to, err)
	}
	root, err := os.OpenRoot(to)
	if err != nil {
		return done, fileError("extract to", to, err)
	}
	defer root.Close() //nolint:errcheck // a folder that was only read
	x := &extractor{t: t, root: root, o: o, done: &done, progress: watchdog.From(ctx), lost: map[string]error{}}
	if err := x.prepare(); err != nil {
		return done, err
	}
	if err := x.copy(ctx); err != nil {
		return done, err
	}
	if err := x.dropLost(); err != nil {
		return done, err
	}
	return done, x.finish()
}

type extractor struct {
	t        *Tape
	root     *os.Root
	o        ExtractOptions
	done     *Extracted
	progress *watchdog.Progress
	pieces   []piece
	chosen   []chosen
	whole    map[string]bool  // what was named
	above    map[string]bool  // the folders above
	lost     map[string]error // files of which something could not be read
	out      *os.File         // being written
	outName  string
	held     drive.Position // of the record in t.buf
	length   int
	next     drive.Position // where the drive stands
}

type chosen struct {
	name string
	node ltfs.Node
}

func fileError(op, subject string, err error) error {
	k, hint := cairn.KindIO, ""
	switch {
	case errors.Is(err, fs.ErrExist):
		k, hint = cairn.KindExists, "nothing is overwritten: choose another folder"
	case errors.Is(err, fs.ErrPermission):
		k = cairn.KindPermission
	case errors.Is(err, fs.ErrNotExist):
		k = cairn.KindNotFound
	}
	return &cairn.Error{Op: op, Subject: subject, Kind: k, Err: err, Hint: hint}
}

// choose reads Paths once: a tape holds a million files.
func (x *extractor) choose() {
	x.whole, x.above = map[string]bool{}, map[string]bool{}
	for _, p := range x.o.Paths {
		p = path.Clean("/" + p)
		x.whole[p] = true
		for p != "/" {
			p = path.Dir(p)
			x.above[p] = true
		}
	}
}

// wanted reports whether a path was named, stands below one that was, or above.
func (x *extractor) wanted(name string) bool {
	if len(x.o.Paths) == 0 || x.above[name] {
		return true
	}
	for {
		if x.whole[name] {
			return true
		}
		if name == "/" {
			return false
		}
		name = path.Dir(name)
	}
}

// prepare makes folders, links and empty files, and collects the pieces to copy.
func (x *extractor) prepare() error {
	matched := false
	x.choose()
	for name, node := range x.o.Index.All() {
		if !x.wanted(name) {
			continue
		}
		matched = matched || name != "/" && !x.above[name] || x.whole[name]
		rel := strings.TrimPrefix(name, "/")
		if rel == "" {
			continue
		}
		if err := x.create(rel, node); err != nil {
			return fileError("extract", name, err)
		}
		x.chosen = append(x.chosen, chosen{rel, node})
	}
	if !matched && len(x.o.Paths) > 0 {
		return x.t.fail("extract from tape", cairn.KindNotFound, "cairn tape ls shows what there is", "none of the paths is in generation %d", x.o.Index.Generation)
	}
	inTapeOrder(x.pieces)
	return nil
}

func (x *extractor) create(rel string, node ltfs.Node) error {
	switch {
	case node.Dir != nil:
		x.done.Dirs++
		if err := x.root.Mkdir(rel, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		return nil
	case node.File.IsSymlink:
		x.done.Links++
		if x.o.Overwrite {
			_ = x.root.Remove(rel)
		}
		return x.root.Symlink(node.File.Symlink, rel)
	}
	x.done.Files++
	flags := os.O_CREATE | os.O_WRONLY | os.O_EXCL
	if x.o.Overwrite {
		flags = os.O_CREATE | os.O_WRONLY | os.O_TRUNC
	}
	f, err := x.root.OpenFile(rel, flags, 0o644)
	if err != nil {
		return err
	}
	if err := f.Truncate(int64(node.File.Length)); err != nil {
		_ = f.Close()
		return err
	}
	for _, e := range node.File.Extents {
		x.pieces = append(x.pieces, piece{rel, e})
	}
	return f.Close()
}

// copy reads the pieces in tape order.
func (x *extractor) copy(ctx context.Context) error {
	var expected uint64
	for _, p := range x.pieces {
		expected += p.extent.ByteCount
	}
	x.progress.Level("expected", int64(expected))
	for _, p := range x.pieces {
		if x.lost[p.name] != nil {
			continue
		}
		if err := x.turnTo(p.name); err != nil {
			return err
		}
		var writing error
		err := x.extent(ctx, p.extent, func(data []byte, at uint64) error {
			_, writing = x.out.WriteAt(data, int64(at))
			x.done.Bytes += int64(len(data))
			return writing
		})
		switch {
		case writing != nil:
			return errors.Join(fileError("extract to", p.name, writing), x.turnTo(""))
		case err != nil && x.o.Skipped != nil && lostToDamage(err) && ctx.Err() == nil:
			x.lost[p.name] = err
		case err != nil:
			return errors.Join(err, x.turnTo(""))
		}
		x.progress.Level("bytes", x.done.Bytes)
	}
	return x.turnTo("")
}

// turnTo closes the file that is being written and opens another, or none.
func (x *extractor) turnTo(name string) (err error) {
	if x.out != nil && x.outName == name {
		return nil
	}
	if x.out != nil {
		err, x.out = x.out.Close(), nil
	}
	if err == nil && name != "" {
		x.out, err = x.root.OpenFile(name, os.O_WRONLY, 0)
	}
	if err != nil {
		return fileError("extract", cmp.Or(name, x.outName), err)
	}
	x.outName = name
	return nil
}

// dropLost removes the files of which something could not be read, and tells.
func (x *extractor) dropLost() error {
	for _, name := range slices.Sorted(maps.Keys(x.lost)) {
		if err := x.root.Remove(name); err != nil {
			return fileError("extract", name, err)
		}
		x.done.Files--
		x.o.Skipped("/"+name, x.lost[name].Error())
	}
	x.chosen = slices.DeleteFunc(x.chosen, func(c chosen) bool { return x.lost[c.name] != nil })
	return nil
}

// extent reads an extent and hands out its bytes with their place in the file.
func (x *extractor) extent(ctx context.Context, e ltfs.Extent, take func(data []byte, at uint64) error) error {
	part, known := x.t.number[e.Partition]
	if !known {
		return x.t.fail("read tape", cairn.KindCorrupt, "", "an extent stands in partition %c, which there is not", e.Partition)
	}
	at, left, skip := e.FileOffset, e.ByteCount, uint64(e.ByteOffset)
	for block := e.StartBlock; left > 0; block++ {
		record, err := x.record(ctx, drive.Position{Partition: part, Block: block})
		if err != nil {
			return err
		}
		if skip >= uint64(len(record)) {
			return x.t.fail("read tape", cairn.KindCorrupt, "", "the record at %c:%d has %d bytes; data was expected at %d", e.Partition, block, len(record), skip)
		}
		data := record[skip:]
		data = data[:min(uint64(len(data)), left)]
		if err := take(data, at); err != nil {
			return err
		}
		at, left, skip = at+uint64(len(data)), left-uint64(len(data)), 0
		if left > 0 && uint64(len(record)) < x.t.label.BlockSize {
			return x.t.fail("read tape", cairn.KindDamaged, "", "the record at %c:%d has %d bytes, and the file goes on behind it", e.Partition, block, len(record))
		}
	}
	return nil
}

// record returns the record at a position; the one that was read last is kept,
// since small files share records.
func (x *extractor) record(ctx context.Context, at drive.Position) ([]byte, error) {
	if x.length > 0 && x.held == at {
		return x.t.buf[:x.length], nil
	}
	x.length = 0
	if x.next != at || x.next == (drive.Position{}) {
		if err := x.t.drive.Locate(ctx, at); err != nil {
			return nil, x.t.missing(at, err)
		}
	}
	n, err := x.t.drive.Read(ctx, x.t.buf)
	if err != nil {
		x.next = drive.Position{}
		return nil, x.t.missing(at, err)
	}
	x.held, x.length = at, n
	x.next = drive.Position{Partition: at.Partition, Block: at.Block + 1}
	return x.t.buf[:n], nil
}

// missing words the error of a record that an index names and the tape has not.
func (t *Tape) missing(at drive.Position, err error) error {
	if errors.Is(err, drive.ErrFilemark) || errors.Is(err, drive.ErrEndOfData) {
		return t.fail("read tape", cairn.KindDamaged, "check the tape", "the index names a record at partition %d block %d, where the tape has: %w", at.Partition, at.Block, err)
	}
	return err
}

// finish sets attributes, times and the read-only flag, children before their
// folders.
func (x *extractor) finish() error {
	for _, c := range slices.Backward(x.chosen) {
		times, readonly, attributes := ltfs.Times{}, false, []ltfs.XAttr(nil)
		switch {
		case c.node.Dir != nil:
			times, readonly, attributes = c.node.Dir.Times, c.node.Dir.ReadOnly, c.node.Dir.XAttrs
		case c.node.File.IsSymlink:
			continue
		default:
			times, readonly, attributes = c.node.File.Times, c.node.File.ReadOnly, c.node.File.XAttrs
		}
		if err := x.setAttributes(c.name, attributes); err != nil {
			return fileError("set attribute of", c.name, err)
		}
		if err := x.root.Chtimes(c.name, times.Access.Time(), times.Modify.Time()); err != nil {
			return fileError("extract", c.name, err)
		}
		if !readonly {
			continue
		}
		mode := fs.FileMode(0o444)
		if c.node.Dir != nil {
			mode = 0o555
		}
		if err := x.root.Chmod(c.name, mode); err != nil {
			return fileError("extract", c.name, err)
		}
	}
	return nil
}

// setAttributes sets a file's extended attributes, as far as the file system there
// takes them.
func (x *extractor) setAttributes(name string, list []ltfs.XAttr) error {
	if len(list) == 0 {
		return nil
	}
	f, err := x.root.Open(name)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // read only
	for _, a := range list {
		ok, err := setUserAttribute(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), a)
		if err != nil {
			return err
		}
		if !ok {
			x.done.Dropped++
		}
	}
	return nil
}

package drive

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"cairn"
	"cairn/ltfs"
)

// FolderOptions choose how a folder behaves as a tape.
type FolderOptions struct {
	// CapacityBytes is the whole medium's room; 0 is what the folder's own
	// configuration says, or 3 GiB, as other tools default to. The index partition (0
	// of 2) has a twentieth of it.
	CapacityBytes int64
	ReadOnly      bool
}

const (
	defaultCapacity = 3 << 30
	folderMaxBlock  = 4 << 20
)

// Folder is a tape kept as one file per record in a folder.
type Folder struct {
	dir       string
	opt       FolderOptions
	parts     []partition
	pos       Position
	protected bool     // its configuration says so
	wrote     bool     // since loading: the change reference has been raised
	cached    bool     // writing around the page cache was refused
	stale     []string // records behind an end, left when power was cut during an overwriting
	lock      *os.File
}

// partition mirrors the folder: what stands at each block. A record's size is read
// when needed, so that opening costs one folder listing.
type partition struct {
	kinds     []kind // 'R' or 'F' per block, dense from 0
	filemarks []uint64
	used      int64 // bytes of records, if measured
	measured  bool
	ended     bool // the end-of-data file is there, or nothing at all
}

type kind byte

const (
	record   kind = 'R'
	filemark kind = 'F'
	end      kind = 'E'
)

// CreateFolder makes an empty medium of one partition in a folder that does not
// exist or is empty.
func CreateFolder(dir string, o FolderOptions) (*Folder, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, ioError("create tape folder", dir, err)
	}
	names, err := os.ReadDir(dir)
	if err != nil {
		return nil, ioError("create tape folder", dir, err)
	}
	if len(names) > 0 {
		return nil, &cairn.Error{Op: "create tape folder", Subject: dir, Kind: cairn.KindExists, Hint: "choose an empty folder"}
	}
	f := &Folder{dir: dir, opt: o, parts: make([]partition, 1)}
	if err := f.acquire(); err != nil {
		return nil, err
	}
	if o.CapacityBytes > 0 {
		if err := f.writeConfiguration(); err != nil {
			return nil, errors.Join(err, f.release())
		}
	}
	if err := f.Format(context.Background(), 1); err != nil {
		return nil, errors.Join(err, f.release())
	}
	return f, nil
}

// OpenFolder loads the medium in a folder. It lists the folder once and reads no
// record. For writing it has one opener at a time: KindBusy for the others.
func OpenFolder(dir string, o FolderOptions) (*Folder, error) {
	f := &Folder{dir: dir, opt: o}
	if err := f.acquire(); err != nil {
		return nil, err
	}
	if err := errors.Join(f.load(), f.readConfiguration()); err != nil {
		return nil, errors.Join(err, f.release())
	}
	return f, nil
}

func ioError(op, subject string, err error) error {
	k := cairn.KindIO
	switch {
	case errors.Is(err, fs.ErrNotExist):
		k = cairn.KindNotFound
	case errors.Is(err, fs.ErrPermission):
		k = cairn.KindPermission
	}
	return &cairn.Error{Op: op, Subject: subject, Kind: k, Err: err}
}

func (f *Folder) name(part int, block uint64, k kind) string {
	return filepath.Join(f.dir, fmt.Sprintf("%d_%d_%c", part, block, k))
}

func (f *Folder) part() *partition { return &f.parts[f.pos.Partition] }

// Partitions is how many the medium has.
func (f *Folder) Partitions() int { return len(f.parts) }

// MaxBlock is the longest record other tools accept in a folder.
func (f *Folder) MaxBlock() int { return folderMaxBlock }

// Position is where the next record will be read or written.
func (f *Folder) Position(context.Context) (Position, error) { return f.pos, nil }

// Locate moves to a position.
func (f *Folder) Locate(_ context.Context, to Position) error {
	if to.Partition < 0 || to.Partition >= len(f.parts) {
		return &cairn.Error{Op: "locate on tape", Subject: f.dir, Kind: cairn.KindInvalid, Err: fmt.Errorf("there is no partition %d", to.Partition)}
	}
	f.pos = to
	if length := uint64(len(f.part().kinds)); to.Block > length {
		f.pos.Block = length
		return ErrEndOfData
	}
	return nil
}

// SeekEnd moves to the end of data.
func (f *Folder) SeekEnd(ctx context.Context, part int) (Position, error) {
	if err := f.Locate(ctx, Position{Partition: part}); err != nil {
		return f.pos, err
	}
	if !f.part().ended {
		return f.pos, &cairn.Error{Op: "find end of data on tape", Subject: f.dir, Kind: cairn.KindDamaged,
			Err:  fmt.Errorf("partition %d has no end mark", part),
			Hint: "check the tape: its last block is taken for the end"}
	}
	f.pos.Block = uint64(len(f.part().kinds))
	return f.pos, nil
}

// SpaceFilemarks moves over filemarks.
func (f *Folder) SpaceFilemarks(_ context.Context, n int) error {
	marks := f.part().filemarks
	next := sort.Search(len(marks), func(i int) bool { return marks[i] >= f.pos.Block })
	switch {
	case n > 0 && next+n > len(marks):
		f.pos.Block = uint64(len(f.part().kinds))
		return ErrEndOfData
	case n > 0:
		f.pos.Block = marks[next+n-1] + 1
	case n < 0 && next+n < 0:
		f.pos.Block = 0
		return &cairn.Error{Op: "space on tape", Subject: f.dir, Kind: cairn.KindNotFound, Err: errors.New("beginning of the partition")}
	case n < 0:
		f.pos.Block = marks[next+n]
	}
	return nil
}

// Read reads one record.
func (f *Folder) Read(_ context.Context, p []byte) (int, error) {
	if f.pos.Block >= uint64(len(f.part().kinds)) {
		return 0, ErrEndOfData
	}
	if f.part().kinds[f.pos.Block] == filemark {
		f.pos.Block++
		return 0, ErrFilemark
	}
	name := f.name(f.pos.Partition, f.pos.Block, record)
	file, err := os.Open(name)
	if errors.Is(err, fs.ErrPermission) {
		// Some tools leave records without the right to read them; it is our file.
		if os.Chmod(name, 0o644) == nil {
			file, err = os.Open(name)
		}
	}
	if err != nil {
		return 0, ioError("read tape record", name, err)
	}
	defer file.Close() //nolint:errcheck // read only
	info, err := file.Stat()
	if err != nil {
		return 0, ioError("read tape record", name, err)
	}
	if info.Size() > int64(len(p)) {
		return 0, &cairn.Error{Op: "read tape record", Subject: name, Kind: cairn.KindInvalid,
			Err: fmt.Errorf("it has %d bytes, at most %d were expected", info.Size(), len(p))}
	}
	n, err := file.ReadAt(p[:info.Size()], 0)
	if err != nil {
		return n, ioError("read tape record", name, err)
	}
	f.pos.Block++
	return n, nil
}

// Write writes one record.
func (f *Folder) Write(_ context.Context, p []byte) (Warning, error) {
	if len(p) == 0 || len(p) > folderMaxBlock {
		return 0, &cairn.Error{Op: "write tape record", Subject: f.dir, Kind: cairn.KindInvalid, Err: fmt.Errorf("a record of %d bytes", len(p))}
	}
	if err := f.beforeWrite(); err != nil {
		return 0, err
	}
	part := f.part()
	if err := f.measure(f.pos.Partition); err != nil {
		return 0, err
	}
	if part.used+int64(len(p)) > f.capacity(f.pos.Partition) {
		return EarlyWarning, &cairn.Error{Op: "write tape record", Subject: f.dir, Kind: cairn.KindSpace, Err: errors.New("end of medium")}
	}
	if err := f.put(record, p); err != nil {
		return 0, err
	}
	part.used += int64(len(p))
	left := f.capacity(f.pos.Partition) - part.used
	switch {
	case left < f.reserve(f.pos.Partition):
		return EarlyWarning, nil
	case left < 2*f.reserve(f.pos.Partition):
		return LowSpace, nil
	}
	return NoWarning, nil
}

// WriteFilemarks writes filemarks and flushes.
func (f *Folder) WriteFilemarks(_ context.Context, n int, immediate bool) error {
	if n > 0 {
		if err := f.beforeWrite(); err != nil {
			return err
		}
	}
	for range n {
		if err := f.put(filemark, nil); err != nil {
			return err
		}
	}
	if immediate {
		return nil
	}
	return f.sync()
}

// beforeWrite refuses a protected medium and raises the change reference at the
// first write after loading, as drives do.
func (f *Folder) beforeWrite() error {
	if err := f.mayWrite("write tape"); err != nil {
		return err
	}
	if f.wrote {
		return nil
	}
	for _, name := range f.stale {
		if err := os.Remove(name); err != nil {
			return ioError("clear tape folder", name, err)
		}
	}
	f.wrote, f.stale = true, nil
	return f.raiseChangeReference()
}

// put writes one record or filemark at the position and ends the partition behind
// it. A record's bytes are synced here, its name by sync.
func (f *Folder) put(k kind, data []byte) error {
	at, part := f.pos, f.part()
	if err := f.cut(at); err != nil {
		return err
	}
	name := f.name(at.Partition, at.Block, k)
	err := f.writeFile(name, data)
	if err == nil {
		err = f.moveEnd(at.Partition, at.Block, at.Block+1)
	}
	if err != nil {
		return ioError("write tape record", name, err)
	}
	part.kinds = append(part.kinds, k)
	if k == filemark {
		part.filemarks = append(part.filemarks, at.Block)
	}
	f.pos.Block++
	return nil
}

// cut removes everything from a block on, last block first, so that what a cut of
// power leaves is dense.
func (f *Folder) cut(at Position) error {
	part := &f.parts[at.Partition]
	length := uint64(len(part.kinds))
	if at.Block == length && part.ended && length > 0 {
		return nil
	}
	err := os.Rename(f.name(at.Partition, length, end), f.name(at.Partition, at.Block, end))
	if errors.Is(err, fs.ErrNotExist) {
		err = os.WriteFile(f.name(at.Partition, at.Block, end), nil, 0o644)
	}
	if err != nil {
		return ioError("cut tape", f.dir, err)
	}
	part.ended = true
	for b := length; b > at.Block; b-- {
		name := f.name(at.Partition, b-1, part.kinds[b-1])
		if part.measured {
			if info, err := os.Stat(name); err == nil {
				part.used -= info.Size()
			}
		}
		if err := os.Remove(name); err != nil {
			return ioError("cut tape", name, err)
		}
		part.kinds = part.kinds[:b-1]
	}
	part.filemarks = part.filemarks[:sort.Search(len(part.filemarks), func(i int) bool { return part.filemarks[i] >= at.Block })]
	return nil
}

func (f *Folder) moveEnd(part int, from, to uint64) error {
	return os.Rename(f.name(part, from, end), f.name(part, to, end))
}

// sync makes names durable; the records' bytes are since they were written.
func (f *Folder) sync() error {
	d, err := os.Open(f.dir)
	if err != nil {
		return ioError("flush tape folder", f.dir, err)
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return ioError("flush tape folder", f.dir, err)
	}
	return nil
}

// Format erases the medium and makes partitions.
func (f *Folder) Format(_ context.Context, partitions int) error {
	if err := f.mayWrite("format tape"); err != nil {
		return err
	}
	names, err := f.names()
	if err != nil {
		return ioError("format tape", f.dir, err)
	}
	for _, name := range names {
		_, _, _, isRecord := parseRecordName(name)
		isAttribute := strings.HasPrefix(name, "attr_") && name != f.attributeFile(0, ltfs.AttrVolumeChangeReference)
		if !isRecord && !isAttribute {
			continue
		}
		if err := os.Remove(filepath.Join(f.dir, name)); err != nil {
			return ioError("format tape", f.dir, err)
		}
	}
	f.parts, f.pos, f.stale = make([]partition, partitions), Position{}, nil
	for p := range f.parts {
		f.parts[p].ended, f.parts[p].measured = true, true
		if err := os.WriteFile(f.name(p, 0, end), nil, 0o644); err != nil {
			return ioError("format tape", f.dir, err)
		}
	}
	if !f.wrote { // once per loading, whatever is done in it
		f.wrote = true
		if err := f.raiseChangeReference(); err != nil {
			return err
		}
	}
	return f.sync()
}

// Close syncs the folder when something was written.
func (f *Folder) Close() error {
	var err error
	if f.wrote {
		err = f.sync()
	}
	return errors.Join(err, f.release())
}

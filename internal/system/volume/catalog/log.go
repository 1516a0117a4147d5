// Package catalog is the one place where a store's versions, segments, change
// sets, size and states change: an append-only log of checksummed records, each
// an Edit of a State. Everything else in a store is reachable from it or garbage.
//
// It promises that Commit's edit is durable when it returns nil, entirely there or
// entirely absent after any crash, that rot of any one block of the log costs
// nothing (its pages are kept twice, package twin), and that a record of which no
// copy is good although a later one is there is told as damage, never taken for a
// torn tail. After a failed sync
// the log refuses every further change until it is opened anew; the record that
// failed may or may not be found then. The layout is in docs/formats/volume.md.
//
// It locks nothing: whoever holds a Log serialises Commit and Compact. State may be
// called beside them; what it hands out is never changed afterwards.
package catalog

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"sync/atomic"
	"syscall"

	"cairn"
	"cairn/internal/mech/blockio"
	"cairn/internal/mech/twin"
)

// Name is the log's file name; NewName that of one being written to replace it.
const (
	Name    = "catalog"
	NewName = "catalog.new"
)

const (
	magic      = 0x32544343 // "CCT2"
	magicPlain = 0x31544343 // "CCT1": a log without twins, as earlier builds wrote it
	headerSize = 32
	align      = 512
	maxPayload = 1 << 30
	reserve    = 128 << 10 // log kept allocated ahead, so that a full disk can still be cleaned up
)

var table = crc32.MakeTable(crc32.Castagnoli)

// Log is an open catalog.
type Log struct {
	// Unsynced leaves out every sync. Only the crash harness sets it, to see the
	// damage.
	Unsynced bool

	fs       blockio.FS
	file     blockio.File
	twins    *twin.Log // nil for a log without twins, which is written anew before it is changed
	state    atomic.Pointer[State]
	end      int64
	first    int64 // length of the first record
	sequence uint64
	worn     bool
	sure     bool // what was read is on disk: a killed process may have left a record in the cache
	failed   error
}

// Create makes the catalog of a new store.
func Create(fsys blockio.FS, first State) (*Log, error) {
	if _, err := fsys.Stat(Name); err == nil {
		return nil, &cairn.Error{Op: "create catalog", Kind: cairn.KindExists, Hint: "the folder holds a store already"}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, failure("create catalog", err)
	}
	l := &Log{fs: fsys}
	l.state.Store(&first)
	return l, l.Compact()
}

// Open reads the catalog of a store.
func Open(fsys blockio.FS) (*Log, error) {
	f, err := fsys.Open(Name, true)
	if err != nil {
		return nil, failure("open catalog", err)
	}
	l := &Log{fs: fsys, file: f}
	if err := l.read(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	// A process that was killed may have left records that are not on disk yet, and
	// what is read here is acted on: files go, and new records stand behind it.
	if err := f.Sync(); err != nil {
		return nil, errors.Join(failure("open catalog", err), f.Close())
	}
	return l, nil
}

// State is the present state; it is never changed, only replaced. It may be asked
// for at any time by anyone.
func (l *Log) State() *State { return l.state.Load() }

// Worn reports that blocks of the log were bad when it was opened, and that each
// was read from its other copy.
func (l *Log) Worn() bool { return l.worn }

// Length is the log's size in bytes.
func (l *Log) Length() int64 { return l.end }

// grown is the size from which a log is worth being written anew, when most of it
// is history.
const grown = 4 << 20

// Grown reports that the log is mostly history.
func (l *Log) Grown() bool { return l.end > max(grown, 4*l.first) }

func (l *Log) read() error {
	image, sign, err := l.load()
	if err != nil {
		return failure("read catalog", err)
	}
	for l.end < image.Len() {
		payload, seq, n := l.next(image, sign)
		if n == 0 {
			break
		}
		if err := l.replay(payload); err != nil {
			return err
		}
		if seq == 1 {
			l.first = n
		}
		l.sequence, l.end = seq, l.end+n
	}
	if l.State() == nil {
		return corrupt("its first record is unreadable")
	}
	l.worn = image.Worn(min(l.end, image.Len()))
	if sign == magic && image.Cut(l.end) {
		return corrupt(fmt.Sprintf("it is cut off at byte %d", image.Len()))
	}
	return l.checkTail(image, sign)
}

// load reads the file, with twins or without, and tells the sign of its records.
func (l *Log) load() (*twin.Image, uint32, error) {
	first := make([]byte, 4)
	if _, err := l.file.ReadAt(first, 0); err == nil && binary.LittleEndian.Uint32(first) == magicPlain {
		size, err := l.file.Size()
		if err != nil {
			return nil, 0, err
		}
		data := make([]byte, size)
		if _, err := l.file.ReadAt(data, 0); err != nil && !errors.Is(err, io.EOF) {
			return nil, 0, err
		}
		return twin.Plain(data), magicPlain, nil
	}
	size, err := l.file.Size()
	if err != nil {
		return nil, 0, err
	}
	l.twins = twin.New(l.file, size)
	image, err := twin.Read(l.file)
	return image, magic, err
}

// next gives the record that follows, from whichever copy holds it; n is 0 when
// none does.
func (l *Log) next(image *twin.Image, sign uint32) (payload []byte, seq uint64, n int64) {
	for p := range image.From(l.end) {
		payload, seq, store, n := parse(p, sign)
		if n > 0 && seq == l.sequence+1 && (l.State() == nil || store == l.State().Store.ID) {
			return payload, seq, n
		}
	}
	return nil, 0, 0
}

func (l *Log) replay(payload []byte) error {
	if l.State() == nil {
		var first State
		if err := json.Unmarshal(payload, &first); err != nil {
			return corrupt(err.Error())
		}
		l.state.Store(&first)
		return named(first.Versions)
	}
	var e Edit
	if err := json.Unmarshal(payload, &e); err != nil {
		return corrupt(err.Error())
	}
	if err := named(e.Versions); err != nil {
		return err
	}
	l.state.Store(l.State().apply(e))
	return nil
}

// named makes sure that every version has a name of its kind: the order of
// versions looks at its first letter.
func named(list []Version) error {
	for _, v := range list {
		if !v.ID().IsSnapshot() && !v.ID().IsBookmark() {
			return corrupt(fmt.Sprintf("a version is named %q", v.Name))
		}
	}
	return nil
}

// checkTail tells a torn last record from damage: behind damage stands a good
// record with a higher number, which was written only after the bad one had been
// synced.
func (l *Log) checkTail(image *twin.Image, sign uint32) error {
	for at := l.end; at < image.Len(); at += align {
		for _, p := range image.Copies(at) {
			if _, seq, store, n := parse(p, sign); n > 0 && store == l.State().Store.ID && seq > l.sequence {
				return corrupt(fmt.Sprintf("record %d at byte %d is damaged", l.sequence+1, l.end))
			}
		}
	}
	return nil
}

func corrupt(why string) error {
	return &cairn.Error{Op: "read catalog", Kind: cairn.KindCorrupt, Err: errors.New(why),
		Hint: "the head is plain and still readable; copy it, or restore the volume from a replica"}
}

// parse reads one record; n is its whole length, 0 when it is not a good record.
func parse(p []byte, sign uint32) (payload []byte, seq, store uint64, n int64) {
	if len(p) < headerSize || binary.LittleEndian.Uint32(p) != sign {
		return nil, 0, 0, 0
	}
	length := int64(binary.LittleEndian.Uint32(p[4:]))
	if length > maxPayload || headerSize+length > int64(len(p)) {
		return nil, 0, 0, 0
	}
	whole := p[:headerSize+length]
	if binary.LittleEndian.Uint32(p[24:]) != checksum(whole) {
		return nil, 0, 0, 0
	}
	return whole[headerSize:], binary.LittleEndian.Uint64(p[8:]), binary.LittleEndian.Uint64(p[16:]), roundUp(headerSize + length)
}

// checksum covers the header without its own field, and the payload.
func checksum(whole []byte) uint32 {
	c := crc32.Update(0, table, whole[:24])
	return crc32.Update(c, table, whole[28:])
}

func roundUp(n int64) int64 { return (n + align - 1) / align * align }

func record(store, seq uint64, v any) ([]byte, error) {
	payload, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	p := make([]byte, roundUp(int64(headerSize+len(payload))))
	binary.LittleEndian.PutUint32(p, magic)
	binary.LittleEndian.PutUint32(p[4:], uint32(len(payload)))
	binary.LittleEndian.PutUint64(p[8:], seq)
	binary.LittleEndian.PutUint64(p[16:], store)
	copy(p[headerSize:], payload)
	binary.LittleEndian.PutUint32(p[24:], checksum(p[:headerSize+len(payload)]))
	return p, nil
}

// Commit makes the edit durable and then the present state.
func (l *Log) Commit(e Edit) error {
	if l.failed != nil {
		return failure("change catalog", l.failed)
	}
	if l.twins == nil {
		if err := l.Compact(); err != nil {
			return err
		}
	}
	if !l.sure {
		if err := l.Rewrite(); err != nil {
			return err
		}
	}
	p, err := record(l.State().Store.ID, l.sequence+1, e)
	if err != nil {
		return failure("change catalog", err)
	}
	if err := l.twins.Grow(l.end + int64(len(p))); errors.Is(err, syscall.ENOSPC) {
		return failure("change catalog", err) // nothing was written
	}
	if err := l.twins.WriteAt(p, l.end); err != nil {
		return l.settle(err)
	}
	if !l.Unsynced {
		if err := l.file.Sync(); err != nil {
			return l.settle(err)
		}
	}
	l.sequence++
	l.end += int64(len(p))
	l.state.Store(l.State().apply(e))
	return nil
}

// settle answers a write or sync whose outcome is in doubt: with the log written
// anew without the record, it is certain that the edit did not happen.
func (l *Log) settle(cause error) error {
	l.failed = cause
	if err := l.Compact(); err != nil {
		l.failed = errors.Join(cause, err)
	}
	return failure("change catalog", cause)
}

// InDoubt tells why it is not known whether the last edit happened; nil when it
// is. The log refuses every change then, until it is opened anew.
func (l *Log) InDoubt() error { return l.failed }

// Compact writes the present state as the only record of a new file and puts it
// in place of the old one. After a crash it also makes sure that what was read is
// what is on disk, which a sync of the old file could not show.
func (l *Log) Compact() error {
	f, twins, end, err := l.writeNew()
	if err != nil {
		return failure("write catalog", err)
	}
	if err := l.fs.Rename(NewName, Name); err != nil {
		return failure("write catalog", errors.Join(err, f.Close()))
	}
	old := l.file
	l.file, l.twins, l.end, l.first, l.sequence, l.worn, l.sure, l.failed = f, twins, end, end, 1, false, true, nil
	if old != nil {
		err = old.Close()
	}
	if !l.Unsynced {
		if serr := l.fs.SyncDir("."); serr != nil {
			l.failed = serr
			return failure("write catalog", serr)
		}
	}
	return failure("write catalog", err)
}

func (l *Log) writeNew() (blockio.File, *twin.Log, int64, error) {
	if err := l.fs.Remove(NewName); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, 0, err
	}
	p, err := record(l.State().Store.ID, 1, l.State())
	if err != nil {
		return nil, nil, 0, err
	}
	f, err := l.fs.Create(NewName)
	if err != nil {
		return nil, nil, 0, err
	}
	twins := twin.New(f, 0)
	if err = twins.Reserve(int64(len(p)) + reserve); err == nil || errors.Is(err, syscall.ENOSPC) {
		err = twins.WriteAt(p, 0) // on a full disk without room ahead
	}
	if err == nil && !l.Unsynced {
		err = f.Sync()
	}
	if err != nil {
		return nil, nil, 0, errors.Join(err, f.Close(), l.fs.Remove(NewName))
	}
	return f, twins, int64(len(p)), nil
}

// Rewrite writes what was read over itself and syncs it, so that it is on disk:
// what Compact does, without room. A cut in between leaves bytes that are equal
// either way.
func (l *Log) Rewrite() error {
	size, err := l.file.Size()
	if err != nil {
		return failure("write catalog", err)
	}
	if l.twins != nil {
		size = min(size, twin.Bytes(l.end)) // what lies behind may take room
	}
	data := make([]byte, size)
	if _, err = l.file.ReadAt(data, 0); err == nil || errors.Is(err, io.EOF) {
		if _, err = l.file.WriteAt(data, 0); err == nil && !l.Unsynced {
			err = l.file.Sync()
		}
	}
	l.sure = err == nil
	return failure("write catalog", err)
}

// Raise notes that the store is of that format from now on, so that builds which do
// not know it leave it alone.
func (l *Log) Raise(format int) error {
	old := l.State()
	if old.Store.Format >= format {
		return nil
	}
	st := *old
	st.Store.Format = format
	l.state.Store(&st)
	err := l.Compact()
	if err != nil {
		l.state.Store(old)
	}
	return err
}

// Close releases the file.
func (l *Log) Close() error { return failure("close catalog", l.file.Close()) }

func failure(op string, err error) error {
	if err == nil {
		return nil
	}
	return &cairn.Error{Op: op, Kind: blockio.Kind(err), Err: err}
}

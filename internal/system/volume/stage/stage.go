// Package stage keeps writes that were acknowledged but not yet carried out: the
// first writes to blocks that a snapshot still needs. Carrying them out costs a
// barrier; many share one when they may wait for the client's next flush.
//
// It promises that a write which Put took survives the death of this process: its
// record is in the kernel, in a file of two regions that are used in turn, and
// Recover gives it back. It does not survive the death of the kernel, and need not:
// no flush has returned since. So a record counts only in the boot that wrote it,
// and the file is never synced. The layout is in docs/formats/volume.md.
//
// Writes are gathered in a round. Begin closes the round and End, once its writes
// are carried out, makes its records invalid: that has to be done before anything
// else overwrites its blocks.
package stage

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"hash/fnv"
	"io/fs"
	"iter"
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"

	"cairn"
	"cairn/internal/mech/blockio"
	"cairn/internal/mech/extent"
)

const (
	blockSize = cairn.BlockSize
	magic     = 0x31475453 // "STG1"
	headSize  = 64

	// RoundBlocks is how many blocks a round holds when each came alone.
	RoundBlocks = 256
	roundBytes  = RoundBlocks * (blockSize + headSize)

	shortRounds = 32
	shortBytes  = 16 * (blockSize + headSize)
)

var table = crc32.MakeTable(crc32.Castagnoli)

// ErrFull says that the round has no room for the write: carry it out, then put
// the write again.
var ErrFull = errors.New("the round is full")

// Identity is what records are bound to.
type Identity struct {
	Store uint64
	Boot  string // of the kernel that holds the records
}

func (id Identity) boot() uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(id.Boot)) // never fails
	return h.Sum64()
}

// Area is the staged writes of one volume.
type Area struct {
	Unended bool // broken on purpose, for tests: End leaves its records valid

	fs   blockio.FS
	name string
	id   Identity

	boot uint64       // id.Boot as records state it
	busy atomic.Int64 // rounds with writes in them, and 1 for a broken file: who asks while there is nothing pays nothing

	mu      sync.RWMutex // guards what follows
	file    blockio.File
	number  uint64 // of the last round
	filling *Round // takes writes; nil: the next write begins one
	moving  *Round // is being carried out
	spare   []byte // image of a round that ended, to be used again
	short   int    // rounds still to be begun that take little
	broken  bool   // a record may be there that does not count: the file has to go
}

// New is an area without writes. Its file is made by the first Put.
func New(fsys blockio.FS, name string, id Identity) *Area {
	return &Area{fs: fsys, name: name, id: id, boot: id.boot()}
}

// Round is the writes that are carried out together.
type Round struct {
	slot    int64
	number  uint64
	image   []byte // of its region of the file
	end     int
	room    int // bytes of the image that it may fill
	records uint32
	at      map[uint64]int // block → where its newest content is in image
}

// Block is a block's content.
type Block struct {
	No   uint64
	Data []byte
}

// Blocks lists the newest content of each block, ascending.
func (r *Round) Blocks() []Block {
	list := make([]Block, 0, len(r.at))
	for _, no := range slices.Sorted(maps.Keys(r.at)) {
		list = append(list, Block{no, r.image[r.at[no]:][:blockSize]})
	}
	return list
}

// Put takes a write of whole blocks, at most RoundBlocks of them. ErrFull when a
// round has to be carried out first; after any other error the area is broken, and
// takes no more writes until Discard.
func (a *Area) Put(first uint64, data []byte) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.broken {
		return ErrBroken
	}
	if err := a.prepare(); err != nil {
		a.spoil()
		return err
	}
	r := a.filling
	size := headSize + len(data)
	if r.end > 0 && r.end+size > r.room {
		return ErrFull
	}
	rec := r.image[r.end : r.end+size]
	copy(rec[headSize:], data)
	a.encode(r, first, rec)
	if _, err := a.file.WriteAt(rec, r.slot*roundBytes+int64(r.end)); err != nil {
		a.spoil()
		return err
	}
	for i := range len(data) / blockSize {
		r.at[first+uint64(i)] = r.end + headSize + i*blockSize
	}
	if r.records++; r.records == 1 {
		a.busy.Add(1)
	}
	r.end += size
	return nil
}

// ErrBroken says that no more writes are taken.
var ErrBroken = errors.New("the stage is broken")

func (a *Area) spoil() {
	if !a.broken && a.file != nil {
		a.busy.Add(1)
	}
	a.broken = true
}

// prepare makes the file and the round that the next write goes to.
func (a *Area) prepare() error {
	if a.file == nil {
		if err := a.create(); err != nil {
			return err
		}
	}
	if a.filling != nil {
		return nil
	}
	r := &Round{image: a.spare, room: roundBytes, at: make(map[uint64]int, RoundBlocks)}
	if a.short > 0 {
		a.short--
		r.room = shortBytes
	}
	if a.spare = nil; r.image == nil {
		r.image = make([]byte, roundBytes)
	}
	if a.moving != nil {
		r.slot = 1 - a.moving.slot
	}
	a.number++
	r.number = a.number
	a.filling = r
	return nil
}

// create makes the file, with its room: writing into it must not fail for want of
// that.
func (a *Area) create() error {
	f, err := a.fs.Create(a.name)
	if errors.Is(err, fs.ErrExist) { // of an earlier opening: it does not count any more
		if err = a.fs.Remove(a.name); err == nil {
			f, err = a.fs.Create(a.name)
		}
	}
	if err != nil {
		return err
	}
	if err = f.Allocate(0, 2*roundBytes); err != nil && !errors.Is(err, syscall.EOPNOTSUPP) {
		return errors.Join(err, f.Close(), a.fs.Remove(a.name))
	}
	a.file = f
	return nil
}

// encode writes the header of the record whose payload is in place.
func (a *Area) encode(r *Round, first uint64, rec []byte) {
	le := binary.LittleEndian
	clear(rec[:headSize])
	le.PutUint32(rec[0:], magic)
	le.PutUint64(rec[8:], a.id.Store)
	le.PutUint64(rec[16:], a.boot)
	le.PutUint64(rec[24:], r.number)
	le.PutUint64(rec[32:], first)
	le.PutUint32(rec[40:], uint32(len(rec)-headSize)/blockSize)
	le.PutUint32(rec[44:], r.records)
	le.PutUint32(rec[4:], crc32.Checksum(rec[8:], table))
}

// Begin gives the round that is to be carried out next, nil when there is none:
// one whose carrying out failed, then again is set, else the one that took writes
// so far.
func (a *Area) Begin() (r *Round, again bool) {
	if a.busy.Load() == 0 {
		return nil, false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.moving != nil {
		return a.moving, true
	}
	if a.filling != nil && a.filling.records > 0 {
		a.moving, a.filling = a.filling, nil
	}
	return a.moving, false
}

// Hasten makes the next rounds short, so that whoever waits until nothing is being
// carried out does not wait for long.
func (a *Area) Hasten() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.short = shortRounds
}

// End makes the records of the round that Begin gave invalid and forgets it. When
// the area is broken, or breaks by that, the records stay until Discard.
func (a *Area) End() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.Unended {
		if _, err := a.file.WriteAt(make([]byte, headSize), a.moving.slot*roundBytes); err != nil {
			a.spoil()
		}
	}
	a.moving, a.spare = nil, a.moving.image
	a.busy.Add(-1)
}

// Discard removes the file of a broken area. Callers have carried out every round.
func (a *Area) Discard() error {
	if a.busy.Load() == 0 {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.broken || a.file == nil {
		return nil
	}
	if err := a.fs.Remove(a.name); err != nil {
		return err
	}
	f := a.file
	a.file = nil
	a.busy.Add(-1)
	return f.Close()
}

// Close removes the file, unless it holds writes that were not carried out.
func (a *Area) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.file == nil {
		return nil
	}
	f := a.file
	a.file = nil
	if a.moving != nil || a.filling != nil && a.filling.records > 0 {
		return f.Close()
	}
	return errors.Join(a.fs.Remove(a.name), f.Close())
}

// Holds tells whether a staged write touches the blocks. While the file of a
// broken area is still there it says so of all: it may hold a record of any.
func (a *Area) Holds(first, count uint64) bool {
	if a.busy.Load() == 0 {
		return false
	}
	a.mu.RLock()
	defer a.mu.RUnlock()
	if a.broken && a.file != nil {
		return true
	}
	for _, r := range []*Round{a.filling, a.moving} {
		for range r.within(first, count) {
			return true
		}
	}
	return false
}

// within yields the round's blocks among count from first on, and where their
// content is. The round may be nil.
func (r *Round) within(first, count uint64) iter.Seq2[uint64, int] {
	return func(yield func(uint64, int) bool) {
		switch {
		case r == nil:
		case count <= uint64(len(r.at)):
			for no := first; no < first+count; no++ {
				if at, ok := r.at[no]; ok && !yield(no, at) {
					return
				}
			}
		default:
			for no, at := range r.at {
				if no >= first && no-first < count && !yield(no, at) {
					return
				}
			}
		}
	}
}

// Look lists copies of the staged blocks among count from first on: those of the
// round that is being carried out before newer ones.
func (a *Area) Look(first, count uint64) []Block {
	if a.busy.Load() == 0 {
		return nil
	}
	a.mu.RLock()
	defer a.mu.RUnlock()
	var list []Block
	for _, r := range []*Round{a.moving, a.filling} {
		for no, at := range r.within(first, count) {
			list = append(list, Block{no, slices.Clone(r.image[at : at+blockSize])})
		}
	}
	return list
}

// Add adds the staged blocks to the set.
func (a *Area) Add(set *extent.Bitmap) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	for _, r := range []*Round{a.moving, a.filling} {
		for no := range r.within(0, math.MaxUint64) {
			set.Set(no, 1)
		}
	}
}

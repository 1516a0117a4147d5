package volume

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"cairn"
	"cairn/internal/mech/blockio"
	"cairn/internal/mech/extent"
	"cairn/internal/system/volume/catalog"
	"cairn/internal/system/volume/changes"
	"cairn/internal/system/volume/stage"
)

// Names in a store's folder; numbered files are prefix plus 16 hex digits.
const (
	headName    = "head"
	lockName    = "lock"
	segPrefix   = "seg-"
	indexPrefix = "idx-"
	setPrefix   = "set-"
	marksPrefix = "marks-"
	newSuffix   = ".new" // of a log of marks that has no name yet
	hashPrefix  = "hash-"

	storeFormat = 2 // docs/formats/volume.md tells what earlier ones lacked
	blockSize   = cairn.BlockSize
)

// Defaults of Options.
const (
	DefaultSegmentBytes = 64 << 20
	DefaultActiveBytes  = 1 << 30
	DefaultKeepAtLeast  = 2
)

// OnFull says what a write does when there is no room left and no snapshot may be
// given up.
type OnFull uint8

// The choices.
const (
	FailWrites  OnFull = 0 // the write fails with KindSpace
	BlockWrites OnFull = 1 // the write waits for room until its context is done
)

// Options are the choices of whoever opens a store.
type Options struct {
	Name         string                                  // of the volume, for messages
	OpenOrigin   func(path string) (blockio.File, error) // of adopted heads; nil is blockio.OpenOS
	SegmentBytes int64                                   // size at which a new segment is begun
	ActiveBytes  int64                                   // most bytes that a crash may add to the change set
	KeepAtLeast  int                                     // snapshots that are never given up for room
	OnFull       OnFull
	Hashes       *bool      // with a block hash table, or without; nil: as it is
	Strict       bool       // accept an adopted origin only after a clean stop
	Groups       blockio.FS // the place's folder of group captures, for one that was cut off; nil: none
	Boot         string     // identity of the running boot; empty: the kernel's, where it has one
	Now          func() time.Time
	Log          *slog.Logger
	Faults       Fault

	cramped bool // there is no room at all: what a crash cut off is finished later
}

func (o Options) withDefaults() Options {
	if o.OpenOrigin == nil {
		o.OpenOrigin = blockio.OpenOS
	}
	if o.SegmentBytes == 0 {
		o.SegmentBytes = DefaultSegmentBytes
	}
	if o.ActiveBytes == 0 {
		o.ActiveBytes = DefaultActiveBytes
	}
	if o.KeepAtLeast == 0 {
		o.KeepAtLeast = DefaultKeepAtLeast
	}
	if o.Faults.has(FaultKeepNone) {
		o.KeepAtLeast = -1
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// Volume is an open store. Its methods may be called from several goroutines.
type Volume struct {
	fs     blockio.FS
	o      Options
	head   blockio.File
	bulk   *blockio.Bulk // the head, for long runs of streams
	sector int
	store  uint64

	// admin is held by every structural change (capture, destroy, resize,
	// rollback, receive, close) for its whole length. Taken before all others.
	admin sync.Mutex
	// gate is shared by each write for its whole length and taken alone to switch
	// what writes see. Taken after admin.
	gate sync.RWMutex
	// persist is held while preserved blocks and marks are made durable, and by
	// checkpoints. Taken after gate.
	persist sync.Mutex
	group   group // writes waiting for the next group commit

	stage    *stage.Area // writes that wait for the next flush
	staging  bool        // there may be any
	carrying sync.Mutex  // held while staged writes are carried out; taken after gate, before persist
	flushes  flushes
	syncing  sync.RWMutex // shared by each sync of the head; alone to close it. Nothing is taken after it

	logMu  sync.Mutex // serialises catalog records; nothing is taken after it
	log    *catalog.Log
	active atomic.Bool // this opening is recorded in the catalog

	given    atomic.Int64 // snapshots given up for room so far
	doubtful atomic.Bool  // the outcome of a catalog record is not known

	mu       sync.Mutex // guards what follows; taken after persist
	inflight inflight
	size     int64
	tracking bool           // there is a version, or is about to be
	kept     *extent.Bitmap // preserved for the newest snapshot
	keep     uint64         // blocks of the newest snapshot: those below are preserved; 0 without one
	dirty    *extent.Bitmap // written in the open intervals; every bit is durable somewhere
	closing  *extent.Bitmap // that of a capture between its switch and its commit, else nil
	marked   *extent.Bitmap // covered by durable marks of the present epoch
	interval uint64         // that writes belong to
	epoch    uint64
	marks    *changes.Marks // nil until the first mark of the epoch
	oldMarks []uint64       // epochs whose logs wait for the next checkpoint
	readers  map[*Reader]struct{}
	doomed   map[string]bool // versions whose destruction is under way
	devices  int
	receive  bool // a receive is running

	hashing hashing // the block hash table

	nextID  atomic.Uint64
	current *stacked // the segment that takes preserved blocks, nil before the first; guarded by persist
	stack   stack

	flushErr   atomic.Pointer[error] // first failed flush; sticky
	unverified string                // why continuity cannot be shown; written under admin and mu
	continuity string                // the class of evidence; written under admin and mu
	closed     bool                  // guarded by admin
}

// Open opens a store: it reads the catalog, finishes what a crash cut off and
// removes what nothing refers to. Nothing is written when the last stop was clean.
func Open(ctx context.Context, fsys blockio.FS, o Options) (v *Volume, err error) {
	once := func() error {
		v, err = openOnce(ctx, fsys, o)
		return err
	}
	if err = withReserve(fsys, once); blockio.Kind(err) == cairn.KindSpace && dropIndexes(fsys) {
		err = once()
	}
	if blockio.Kind(err) == cairn.KindSpace {
		o.cramped = true
		err = noRoomToOpen(once())
	}
	if err == nil && v.active.Load() {
		v.restoreReserve()
	}
	if err == nil && v.o.Hashes != nil {
		if herr := v.SetHashes(ctx, *v.o.Hashes); herr != nil {
			v.o.Log.Warn("cannot set whether the volume has a block hash table", "volume", v.o.Name, "error", herr)
		}
	}
	return v, err
}

func openOnce(ctx context.Context, fsys blockio.FS, o Options) (*Volume, error) {
	if err := ctx.Err(); err != nil {
		return nil, failed("open volume", o.Name, err)
	}
	l, err := catalog.Open(fsys)
	if err != nil {
		return nil, failed("open volume", o.Name, err)
	}
	o = o.withDefaults()
	l.Unsynced = o.Faults.has(FaultSkipCatalogSync)
	if f := l.State().Store.Format; f > storeFormat {
		err := &cairn.Error{Op: "open volume", Subject: o.Name, Kind: cairn.KindUnsupported,
			Err: fmt.Errorf("its store has format %d, this build knows %d", f, storeFormat), Hint: "use a newer cairn"}
		return nil, errors.Join(err, l.Close())
	}
	v := &Volume{fs: fsys, o: o, log: l, store: l.State().Store.ID, sector: 512, flushes: newFlushes(),
		readers: map[*Reader]struct{}{}, marked: &extent.Bitmap{}, dirty: &extent.Bitmap{}, kept: &extent.Bitmap{}}
	v.inflight.cond.L = &v.mu
	v.stack.fs, v.stack.early = fsys, o.Faults.has(FaultFreeEarly)
	if err := v.start(ctx); err != nil {
		return nil, failed("open volume", o.Name, errors.Join(err, v.release()))
	}
	return v, nil
}

func (v *Volume) start(ctx context.Context) error {
	v.renewCatalog()
	if err := v.takeOver(); err != nil {
		return err
	}
	if err := v.openHead(); err != nil {
		return err
	}
	if err := v.openStage(); err != nil {
		return err
	}
	if err := v.openTable(); err != nil {
		return err
	}
	clean := v.state().Head.Clean
	if err := v.recover(); err != nil {
		return err
	}
	if !clean {
		if err := v.restage(ctx); err != nil {
			return err
		}
	}
	if v.o.Faults.has(FaultRollbackNotResumed) {
		return nil
	}
	err := v.resumeRollback(ctx)
	if errors.Is(err, cairn.KindDamaged) || v.o.cramped && blockio.Kind(err) == cairn.KindSpace {
		// The volume can be read, and its snapshots healed and sent.
		v.o.Log.Error("a rollback cannot be finished", "volume", v.o.Name, "error", err)
		return nil
	}
	return err
}

// openHead opens the head, and for an adopted one looks at the evidence that
// nothing else wrote to it.
func (v *Volume) openHead() error {
	st := v.log.State()
	var err error
	if st.Store.Origin == "" {
		v.head, err = v.fs.Open(headName, true)
	} else {
		v.head, err = openOrigin(v.o.OpenOrigin, st.Store.Origin)
	}
	if err != nil {
		return err
	}
	v.bulk = blockio.OpenBulk(v.head)
	if v.sector, err = blockio.Sector(v.head); err != nil {
		return err
	}
	size, err := v.head.Size()
	if err != nil {
		return err
	}
	if st.Store.Origin != "" {
		return v.examine(st, size)
	}
	switch {
	case size < st.Head.Size && st.Head.RollingBack == "":
		return &cairn.Error{Op: "open head", Kind: cairn.KindDamaged, Err: fmt.Errorf("it has %d bytes, the volume %d", size, st.Head.Size),
			Hint: "something cut the file off; restore the volume from a replica"}
	case size > st.Head.Size && st.Head.RollingBack == "":
		return v.head.Truncate(st.Head.Size) // a resize was cut off
	}
	return nil
}

// state is what the catalog says now. It waits for nothing.
func (v *Volume) state() *catalog.State { return v.log.State() }

// commit writes one catalog record, made from the present state.
func (v *Volume) commit(why string, edit func(s *catalog.State, h *catalog.Head) catalog.Edit) error {
	v.logMu.Lock()
	defer v.logMu.Unlock()
	st := v.log.State()
	h := st.Head
	e := edit(st, &h)
	v.settleTable(st.After(e), &h)
	h.NextID = max(h.NextID, v.nextID.Load())
	e.Why, e.Head = why, &h
	err := v.log.Commit(e)
	if err == nil && v.log.Grown() {
		if cerr := v.log.Compact(); cerr != nil {
			v.o.Log.Warn("cannot write the catalog anew", "volume", v.o.Name, "error", cerr)
		}
	}
	if v.log.InDoubt() != nil {
		v.doubtful.Store(true)
	}
	return err
}

// certain refuses writes while a rollback is not finished, and once it is not known
// whether the last catalog record is there: what has to be preserved depends on it.
func (v *Volume) certain() error {
	if to := v.state().Head.RollingBack; to != "" {
		return &cairn.Error{Op: "write", Subject: v.o.Name, Kind: cairn.KindBusy, Err: errors.New("a rollback to " + to + " is not finished"), Hint: "roll back to it again"}
	}
	if !v.doubtful.Load() {
		return nil
	}
	return &cairn.Error{Op: "write", Subject: v.o.Name, Kind: cairn.KindIO, Err: errors.New("the catalog could not be written, nor replaced"),
		Hint: "look at the store's disk, then open the volume again"}
}

// activate records, once, that this opening changes the store.
func (v *Volume) activate() error {
	if v.active.Load() {
		return nil
	}
	v.logMu.Lock()
	defer v.logMu.Unlock()
	if v.active.Load() {
		return nil
	}
	if err := v.log.Raise(storeFormat); err != nil {
		return err
	}
	h := v.log.State().Head
	h.Incarnation++
	h.Clean = false
	h.Evidence = nil
	h.Unverified = v.unverified
	if err := v.log.Commit(catalog.Edit{Why: "open", Head: &h}); err != nil {
		return err // in doubt it does no harm: the next opening repairs
	}
	v.active.Store(true)
	keepReserve(v.fs, h.Size, v.o.Log)
	return nil
}

func (v *Volume) newID() uint64 { return v.nextID.Add(1) - 1 }

func newGUID() cairn.GUID {
	var p [8]byte
	for {
		_, _ = rand.Read(p[:]) // never fails
		if g := binary.LittleEndian.Uint64(p[:]); g != 0 {
			return cairn.GUID(g)
		}
	}
}

// Close flushes, records a clean stop and releases everything. Devices and readers
// that are still open fail afterwards.
func (v *Volume) Close() error {
	v.admin.Lock()
	defer v.admin.Unlock()
	if v.closed {
		return nil
	}
	v.closed = true
	v.gate.Lock()
	defer v.gate.Unlock()
	v.mu.Lock()
	for r := range v.readers {
		r.gone.Store(true)
	}
	v.mu.Unlock()
	terr := v.hashing.close()
	err := withReserve(v.fs, v.stopCleanly)
	return failed("close volume", v.o.Name, errors.Join(err, terr, v.release()))
}

// stopCleanly makes the exact change set durable, so that the next opening knows
// it without looking at marks.
func (v *Volume) stopCleanly() error {
	if !v.active.Load() {
		return nil // nothing was written
	}
	if v.doubtful.Load() {
		return nil // the next opening finds out what is there, as after a crash
	}
	if err := v.carryOut(); err != nil {
		return err
	}
	if err := v.flush(); err != nil {
		return err
	}
	v.persist.Lock()
	defer v.persist.Unlock()
	if err := v.sealCurrent(); err != nil {
		return err
	}
	evidence, err := v.evidence()
	if err != nil {
		return err
	}
	return v.checkpoint("close", func(h *catalog.Head) {
		h.Clean = true
		h.Evidence = evidence
	})
}

func (v *Volume) release() error {
	err := errors.Join(v.stack.close(), v.hashing.close())
	if v.marks != nil {
		err = errors.Join(err, v.marks.Close())
	}
	if v.stage != nil {
		err = errors.Join(err, v.stage.Close())
	}
	if v.head != nil {
		v.syncing.Lock()
		err = errors.Join(err, v.bulk.Close(), v.head.Close())
		v.syncing.Unlock()
	}
	return errors.Join(err, v.log.Close())
}

// failed gives err an operation and a kind, unless it has both.
func failed(op, subject string, err error) error {
	if err == nil {
		return nil
	}
	var e *cairn.Error
	if errors.As(err, &e) && e.Op == op && e.Subject == subject {
		return err
	}
	failure := &cairn.Error{Op: op, Subject: subject, Kind: blockio.Kind(err), Err: err}
	if failure.Kind == cairn.KindSpace && cairn.HintOf(err) == "" {
		failure.Hint = "make room on that file system; what was cut goes on then"
	}
	return failure
}

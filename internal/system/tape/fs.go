package tape

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"cairn"
	"cairn/internal/policy/syncpolicy"
	"cairn/internal/system/tape/drive"
	"cairn/ltfs"
)

// FSOptions choose how a tape is used as a file system.
type FSOptions struct {
	Policy      syncpolicy.Policy
	Fsync       Fsync
	IndexBudget int64                      // bytes of tape for indexes; 0: syncpolicy.Budget, negative: no limit
	Buffer      int64                      // bytes written but not on tape; 0: 64 MiB
	Rules       *ltfs.Policy               // which files go to the index partition in this mount; nil: as the volume says
	ReadOnly    bool                       // nothing is written
	Index       *ltfs.Index                // an older generation, read-only; nil: the current one
	Creator     func(reason string) string // what indexes say of who wrote them and why
	Logger      *slog.Logger               // nil: none
}

// Fsync is what fsync waits for.
type Fsync uint8

// What there is to wait for.
const (
	FsyncIndex       Fsync = iota // data, and a full index that names it
	FsyncIncremental              // data, and an incremental index, which is small; see docs/formats/ltfs.md
	FsyncData                     // data alone, as other LTFS software does: no index names it yet
)

var fsyncWords = []string{"index", "incremental", "data"}

// String is its word in options.
func (s Fsync) String() string { return fsyncWords[s] }

// ParseFsync reads the word.
func ParseFsync(word string) (Fsync, error) {
	i := slices.Index(fsyncWords, word)
	if i < 0 {
		return 0, fmt.Errorf("%q is no kind of fsync; there are %s", word, strings.Join(fsyncWords, ", "))
	}
	return Fsync(i), nil
}

// FS is a tape as a file system: a tree in memory, data that is written behind,
// and a goroutine that writes records and indexes. Its methods are for many
// goroutines. It owns the tape from NewFS to Close.
type FS struct {
	t     *Tape
	opt   FSOptions
	log   *slog.Logger
	cache *recordCache
	ctx   context.Context // of the goroutine
	stop  context.CancelFunc
	done  chan struct{} // closed when the goroutine has ended
	kick  chan struct{} // wakes it

	refuses string // why it is read-only although nobody asked for that; empty: it is not

	endUnknown bool       // a write failed; only the goroutine uses it
	increments increments // only the goroutine changes it, with mu held

	mu       sync.Mutex // guards everything below, and all nodes
	root     *Node
	header   ltfs.Index // what an index says beside the tree
	comment  string
	open     map[*Node]bool        // nodes with bytes not yet queued
	written  map[*Node]bool        // nodes whose data was written in this session, where there are placement rules
	partial  map[*Node]bool        // nodes open for writing or not all on tape
	flushed  map[*Handle]time.Time // writers that were closed by one user, and when; see settleClosed
	queue    []*draft              // to be written, oldest first
	queued   int64                 // bytes ever queued
	placed   int64                 // bytes of those that are on tape or were given up
	buffered int64                 // bytes in memory
	progress chan struct{}         // closed and replaced when buffered goes down or the goroutine failed
	asks     []*ask
	writing  bool   // an index is being written
	joined   []*ask // who waits for that index: nothing changed since it was begun
	risk     Risk   // since the last index was begun
	pending  Risk   // what the index being written will settle
	epoch    uint64
	snapshot uint64          // how many trees were taken
	promised []*Node         // folders of the tree being taken that are still to be filled in, among others
	indexed  *ltfs.Directory // the tree of the newest index on tape
	sync     SyncState
	saidPace syncpolicy.Pace // the slowest that the log was told of
	total    int64           // bytes that the data partition holds
	left     int64           // room for data, as the drive said last, less what was written since; -1: without end
	asked    int64           // bytes written since the drive was asked
	spare    [][]byte        // memory for drafts of a whole record
	full     bool
	broken   error // nothing can be written any more, for this reason
	ending   bool
	stopped  bool
}

// Risk is what a power cut would lose.
type Risk struct {
	Files   int       `json:"files"`   // changed or new
	Bytes   int64     `json:"bytes"`   // written
	Changes int       `json:"changes"` // of names, times, attributes
	Since   time.Time `json:"since"`   // the oldest of them; zero when there is none
}

func (r Risk) none() bool { return r.Files == 0 && r.Bytes == 0 && r.Changes == 0 }

func (r Risk) and(o Risk) Risk {
	sum := Risk{Files: r.Files + o.Files, Bytes: r.Bytes + o.Bytes, Changes: r.Changes + o.Changes, Since: r.Since}
	if sum.Since.IsZero() || !o.Since.IsZero() && o.Since.Before(sum.Since) {
		sum.Since = o.Since
	}
	return sum
}

// SyncState is how writing indexes goes.
type SyncState struct {
	Generation  uint64          `json:"generation"` // the newest on tape
	Location    ltfs.Location   `json:"-"`
	LastIndex   time.Time       `json:"last_index"` // zero: none since mounting
	IndexBytes  int64           `json:"index_bytes"`
	Budget      int64           `json:"index_budget"` // 0: none
	Pace        syncpolicy.Pace `json:"-"`
	Failures    int             `json:"failures"` // in a row
	LastFailure time.Time       `json:"last_failure"`
	Err         error           `json:"-"` // of the last attempt
	LastErr     error           `json:"-"` // of the last attempt that failed
	lastSize    int64           // of the last index
	complete    bool            // the index partition has it too
}

// Status is a file system's state at a moment.
type Status struct {
	SyncState
	Policy   syncpolicy.Policy
	Fsync    Fsync
	Risk     Risk // what a power cut now would lose
	Open     int  // files open for writing or not all on tape
	ReadOnly bool
	Broken   error
	Waiting  time.Time // since when a call of the drive is under way; zero: none
	Total    int64     // bytes that the data partition holds
	Free     int64     // and takes, with room for the last index kept
}

// ask is a caller who waits for an index.
type ask struct {
	syncpolicy.Ask
	both   bool // in both partitions
	data   bool // data alone will do
	answer chan error
}

const defaultBuffer = 64 << 20

// NewFS makes a file system of an open tape. For writing, the tape has to be in
// order; an index partition that is behind, as a cut of power after a sync leaves
// it, is brought up to date first.
func NewFS(ctx context.Context, t *Tape, o FSOptions) (*FS, error) {
	if o.Buffer == 0 {
		o.Buffer = defaultBuffer
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	ix := t.index
	if o.Index != nil {
		ix, o.ReadOnly = o.Index, true
	}
	why := ""
	if !o.ReadOnly {
		var err error
		if why, err = t.readOnlyWhy(ctx); err != nil {
			return nil, err
		}
		o.ReadOnly = why != ""
	}
	f := &FS{t: t, opt: o, log: o.Logger, cache: newRecordCache(t), done: make(chan struct{}), kick: make(chan struct{}, 1),
		open: map[*Node]bool{}, written: map[*Node]bool{}, partial: map[*Node]bool{}, flushed: map[*Handle]time.Time{}, progress: make(chan struct{}), epoch: 1, snapshot: 1, left: -1}
	f.ctx, f.stop = context.WithCancel(context.WithoutCancel(ctx))
	f.header, f.refuses = *ix, why
	f.header.Root, f.comment = nil, ""
	f.sync = SyncState{Generation: ix.Generation, Location: ix.Self, complete: true}
	t.mover.forget()
	err := f.prepare(ctx, ix)
	if err == nil {
		err = f.measure(ctx)
	}
	if err != nil {
		f.stop()
		return nil, err
	}
	f.load(ix)
	f.indexed = ix.Root
	if x, ok := ix.Extension(); ok {
		f.sync.IndexBytes = int64(x.IndexBytes) + f.sync.lastSize
	}
	if o.ReadOnly {
		close(f.done)
		return f, nil
	}
	go f.run()
	return f, nil
}

// prepare makes a tape that is to be written ready for it.
func (f *FS) prepare(ctx context.Context, ix *ltfs.Index) error {
	if f.opt.ReadOnly {
		return nil
	}
	t := f.t
	if err := mayRule(t, ix, f.opt); err != nil {
		return err
	}
	data, index := t.ends[t.label.DataPart], t.ends[t.label.IndexPart]
	behind := data.inIndex() && data.ended && index.ended && (index.last == nil || index.inIndex() && index.last.Generation < data.last.Generation)
	replayed := t.replayed > 0 && data.extra == 0 && data.ended && index.ended
	if replayed { // a full index takes their place
		if err := t.preserve(ctx, ix); err != nil {
			return err
		}
		data, behind = t.ends[t.label.DataPart], true
	}
	if len(t.notes) > 0 && !behind {
		return t.fail("mount tape", cairn.KindDamaged, "cairn tape check --repair brings it into order; a read-only mount works as it is", "it is out of order: %s", strings.Join(t.notes, "; "))
	}
	end, err := t.mover.seekEnd(ctx, t.number[t.label.DataPart])
	if err != nil {
		return err
	}
	if end.Block != data.end {
		return t.fail("mount tape", cairn.KindConflict, "open it anew", "its data partition ends at %d, it ended at %d when it was opened", end.Block, data.end)
	}
	if behind {
		copied := *ix
		copied.Self = data.last.Self
		if err := t.writeIndexPartition(ctx, &copied); err != nil {
			return err
		}
		if err := t.vouch(ctx); err != nil {
			return err
		}
		t.notes, t.replayed = nil, 0
	}
	return nil
}

// measure finds the budget and the room.
func (f *FS) measure(ctx context.Context) error {
	room, err := f.t.mover.capacity(ctx, f.t.number[f.t.label.DataPart])
	if err != nil {
		return err
	}
	f.noteRoom(room)
	switch {
	case f.opt.IndexBudget > 0:
		f.sync.Budget = f.opt.IndexBudget
	case f.opt.IndexBudget == 0:
		f.sync.Budget = syncpolicy.Budget(room.Total)
	}
	return nil
}

// noteRoom enters what the drive says of its room. The caller holds mu.
func (f *FS) noteRoom(room drive.Capacity) {
	f.asked, f.total = 0, room.Total
	if room.Total > 0 {
		f.left = room.Remaining
	}
}

// roomEvery is after how many bytes the drive is asked for its room again:
// compression makes more of it than our count.
const roomEvery = 64 << 20

// used enters that bytes were written, and reports whether the drive ought to be
// asked. The caller holds mu.
func (f *FS) used(count int) bool {
	f.asked += int64(count)
	if f.left >= 0 {
		f.left = max(0, f.left-int64(count))
	}
	return f.asked >= roomEvery
}

// Close writes what is left, ends the last generation in both partitions, and
// closes the drive. It tries three times before it gives up, and tells the truth:
// nil means that both partitions end in an index with everything in it.
func (f *FS) Close(ctx context.Context) error {
	err := f.unmount(ctx)
	f.stop()
	<-f.done
	if hung := f.t.mover.hung(); hung != nil {
		return errors.Join(err, hung) // a drive in the middle of a call cannot be closed; the process's end does it
	}
	if cerr := f.t.Close(); err == nil {
		err = cerr
	}
	return err
}

func (f *FS) unmount(ctx context.Context) (err error) {
	if f.opt.ReadOnly {
		return nil
	}
	for attempt := range 3 {
		if attempt > 0 {
			if err := pause(ctx, syncpolicy.Pause(attempt)); err != nil {
				return err
			}
		}
		if err = f.wait(ctx, syncpolicy.Unmount, true); err == nil || cairn.KindOf(err) == cairn.KindDamaged {
			break
		}
	}
	f.mu.Lock()
	f.ending = true
	f.mu.Unlock()
	f.wake()
	select {
	case <-f.done:
	case <-ctx.Done():
	}
	return err
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return &cairn.Error{Op: "unmount tape", Kind: cairn.KindCanceled, Err: ctx.Err()}
	}
}

// Sync returns when everything written and changed before is on tape, with an
// index that names it; with both, in both partitions. Concurrent callers share
// one.
func (f *FS) Sync(ctx context.Context, reason syncpolicy.Reason, both bool) error {
	if f.opt.ReadOnly {
		return nil
	}
	return f.wait(ctx, reason, both)
}

func (f *FS) wait(ctx context.Context, reason syncpolicy.Reason, both bool) error {
	return f.waitFor(ctx, &ask{Ask: syncpolicy.Ask{Reason: reason, Since: time.Now()}, both: both, answer: make(chan error, 1)})
}

func (f *FS) waitFor(ctx context.Context, a *ask) error {
	both := a.both
	f.mu.Lock()
	switch {
	case f.stopped:
		f.mu.Unlock()
		return f.fail("sync tape", cairn.KindUnavailable, "it is unmounted")
	case a.data:
		f.asks = append(f.asks, a)
	case f.clean(both) && !f.writing:
		f.mu.Unlock()
		return nil
	case f.clean(false) && f.writing && !both:
		f.joined = append(f.joined, a)
	default:
		f.asks = append(f.asks, a)
	}
	f.mu.Unlock()
	f.wake()
	select {
	case err := <-a.answer:
		return err
	case <-ctx.Done():
		return &cairn.Error{Op: "sync tape", Subject: f.t.subject, Kind: cairn.KindCanceled, Err: ctx.Err()}
	}
}

// clean reports whether everything is in an index that is on tape or being
// written. The caller holds mu.
func (f *FS) clean(both bool) bool {
	return f.risk.none() && f.buffered == 0 && (!both || f.sync.complete)
}

func (f *FS) wake() {
	select {
	case f.kick <- struct{}{}:
	default:
	}
}

func (f *FS) fail(op string, kind cairn.Kind, format string, args ...any) error {
	return &cairn.Error{Op: op, Subject: f.t.subject, Kind: kind, Err: fmt.Errorf(format, args...)}
}

// refuse is a file system's answer in the kernel's words.
func refuse(op, subject string, kind cairn.Kind, errno syscall.Errno) error {
	return &cairn.Error{Op: op, Subject: subject, Kind: kind, Err: errno}
}

// Status tells how things stand.
func (f *FS) Status() Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := Status{SyncState: f.sync, Policy: f.opt.Policy, Fsync: f.opt.Fsync, Risk: f.pending.and(f.risk), Open: len(f.partial), ReadOnly: f.opt.ReadOnly, Broken: f.broken}
	s.Pace, s.Waiting = f.pace(), f.t.mover.since()
	s.Total, s.Free = f.total, f.free()
	return s
}

// entryBytes is what an entry takes in an index, about.
const entryBytes = 600

// nextSize is what the next index will take, about. The caller holds mu.
func (f *FS) nextSize() int64 { return f.sync.lastSize + entryBytes*int64(f.risk.Files) }

// ReadOnlyWhy says why the tape refuses to be written although the options did not;
// empty when it does not.
func (f *FS) ReadOnlyWhy() string { return f.refuses }

// SetComment is the commit message of the indexes that follow, in this mount.
func (f *FS) SetComment(text string) error {
	const longest = 65536
	if len(text) > longest {
		return refuse("set commit message", "", cairn.KindInvalid, syscall.E2BIG)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.writable("set commit message"); err != nil {
		return err
	}
	f.comment = text
	f.changed(f.root)
	return nil
}

// Header is the newest index without its tree, and the commit message that is set.
func (f *FS) Header() (ltfs.Index, string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.header, f.comment
}

// Tape is the tape below; only its labels and name may be asked.
func (f *FS) Tape() *Tape { return f.t }

// reserve is the room kept for the last index. The caller holds mu.
func (f *FS) reserve() int64 { return f.nextSize() + f.nextSize()/4 }

// writable refuses changes of what cannot be changed. The caller holds mu.
func (f *FS) writable(op string) error {
	switch {
	case f.opt.ReadOnly:
		return refuse(op, f.t.subject, cairn.KindPermission, syscall.EROFS)
	case f.broken != nil:
		return f.broken
	case f.header.Lock != ltfs.Unlocked:
		return refuse(op, f.t.subject, cairn.KindPermission, syscall.EROFS)
	case f.stopped:
		return f.fail(op, cairn.KindUnavailable, "it is unmounted")
	}
	return nil
}

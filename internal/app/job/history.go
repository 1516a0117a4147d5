package job

import (
	"errors"
	"io/fs"
	"log/slog"
	"slices"
	"sync"
	"time"

	"cairn"
	"cairn/internal/mech/blockio"
)

// Limits of a log. Two files are kept, so that a job's history takes at most twice
// fileBytes plus one run.
const (
	fileBytes = 256 << 10 // a run that begins beyond it starts a new file
	runBytes  = 128 << 10 // steps of one run beyond it are counted, not recorded
	okBytes   = runBytes / 2
	syncEvery = time.Second
)

const (
	suffix    = ".history"
	oldSuffix = ".history.1"
)

// Store keeps the histories of a daemon's jobs in one folder. One process writes it.
type Store struct {
	fs      blockio.FS
	log     *slog.Logger
	maxFile int64 // fileBytes, smaller in tests
}

// Open returns the store in the folder that fsys is. The logger is told about
// damage; nil discards.
func Open(fsys blockio.FS, log *slog.Logger) *Store {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Store{fs: fsys, log: log, maxFile: fileBytes}
}

// History opens the history of a job, making it when there is none. A torn tail is
// cut off, and a run without an end is closed as interrupted.
func (s *Store) History(job string) (*History, error) {
	fail := func(err error) (*History, error) {
		return nil, &cairn.Error{Op: "open history of job", Subject: job, Kind: kindOf(err), Err: err}
	}
	if err := cairn.CheckDatasetName(job); err != nil {
		return nil, err
	}
	h := &History{fs: s.fs, job: job, sync: syncEvery, maxFile: s.maxFile}
	text, err := readAll(s.fs, job+suffix)
	if err != nil {
		return fail(err)
	}
	_, good, bad := scan(text)
	if bad > 0 {
		s.log.Warn("history holds records that cannot be read; they are left out", "job", job, "lines", bad)
	}
	if err := h.openFile(); err != nil {
		return fail(err)
	}
	h.size = good
	if good < int64(len(text)) {
		if err := h.file.Truncate(good); err != nil {
			return fail(errors.Join(err, h.file.Close()))
		}
	}
	if err := h.closeInterrupted(); err != nil {
		return fail(errors.Join(err, h.file.Close()))
	}
	return h, nil
}

func kindOf(err error) cairn.Kind {
	if k := cairn.KindOf(err); k != cairn.KindOther {
		return k
	}
	return cairn.KindIO
}

// History is one job's log. Its methods may be called from several goroutines.
type History struct {
	fs      blockio.FS
	job     string
	sync    time.Duration // steps within that time of the last sync are not synced
	maxFile int64

	mu     sync.Mutex // guards what follows
	file   blockio.File
	size   int64 // where the next record goes
	nextID uint64
	run    struct { // the run under way
		id      uint64
		bytes   int64
		omitted int
		synced  time.Time
	}
}

// openFile opens the current log, making it durable when it is new.
func (h *History) openFile() error {
	f, err := h.fs.Open(h.job+suffix, true)
	if errors.Is(err, fs.ErrNotExist) {
		if f, err = h.fs.Create(h.job + suffix); err == nil {
			err = h.fs.SyncDir(".")
		}
	}
	if err != nil {
		if f != nil {
			err = errors.Join(err, f.Close())
		}
		return err
	}
	h.file = f
	return nil
}

// closeInterrupted looks at the recorded runs once, at opening.
func (h *History) closeInterrupted() error {
	runs, err := h.read()
	if err != nil {
		return err
	}
	h.nextID = 1
	if len(runs) == 0 {
		return nil
	}
	last := runs[len(runs)-1]
	h.nextID = last.ID + 1
	if last.State != Running {
		return nil
	}
	h.run.id = last.ID
	return h.end(Interrupted, last.lastSeen(), Failure{
		Error: "the daemon ended before the run did",
		Kind:  cairn.KindCanceled.String(),
		Hint:  "the next run continues where this one was",
	})
}

// lastSeen is the latest time the run's records know of.
func (r *Run) lastSeen() time.Time {
	at := r.Started
	for _, v := range r.Verbs {
		at = latest(at, v.Started, v.Ended)
	}
	for _, s := range r.Steps {
		at = latest(at, s.Started, s.Ended)
	}
	return at
}

func latest(times ...time.Time) time.Time {
	return slices.MaxFunc(times, func(a, b time.Time) int { return a.Compare(b) })
}

// Begin records the beginning of a run and returns its number. The record is
// durable when it returns; on error the run has a number all the same.
func (h *History) Begin(r Run) (uint64, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r.ID, r.Job, r.State = h.nextID, h.job, Running
	h.nextID++
	h.run.id, h.run.bytes, h.run.omitted = r.ID, 0, 0
	if h.size > h.maxFile {
		if err := h.rotate(); err != nil {
			return r.ID, h.failed(err)
		}
	}
	return r.ID, h.append(line{Begin: &r}, true)
}

// Verb records that a verb of the run under way ended.
func (h *History) Verb(v VerbRecord) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.append(line{Verb: &v}, true)
}

// Step records a step of the run under way that ended. When the run has used up its
// room only failures are recorded, and then none; the others are counted.
func (h *History) Step(s Step) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.run.bytes > runBytes || h.run.bytes > okBytes && s.Error == "" {
		h.run.omitted++
		return nil
	}
	s.Failure = s.clipped()
	return h.append(line{Step: &s}, time.Since(h.run.synced) >= h.sync)
}

// End records the end of the run under way.
func (h *History) End(state State, at time.Time, f Failure) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.end(state, at, f)
}

func (h *History) end(state State, at time.Time, f Failure) error {
	return h.append(line{End: &end{State: state, Ended: at.Format(time.RFC3339Nano), Omitted: h.run.omitted, Failure: f}}, true)
}

func (e *end) close(r *Run) {
	r.State, r.Failure, r.Omitted = e.State, e.Failure, e.Omitted
	if at, err := time.Parse(time.RFC3339Nano, e.Ended); err == nil {
		r.Ended = at
	}
}

// append writes one record at the end. After a failure the record is not part of
// the log: the next one goes to the same place.
func (h *History) append(l line, durable bool) error {
	l.Run = h.run.id
	text, err := encode(l)
	if err != nil {
		return h.failed(err)
	}
	if _, err := h.file.WriteAt(text, h.size); err != nil {
		return h.failed(errors.Join(err, h.file.Truncate(h.size)))
	}
	h.size += int64(len(text))
	h.run.bytes += int64(len(text))
	if !durable {
		return nil
	}
	h.run.synced = time.Now()
	if err := h.file.Sync(); err != nil {
		return h.failed(err)
	}
	return nil
}

func (h *History) failed(err error) error {
	return &cairn.Error{Op: "write history of job", Subject: h.job, Kind: kindOf(err), Err: err,
		Hint: "jobs run on; what they do is not remembered"}
}

// rotate makes the current log the old one. A cut in between leaves no current one,
// which opening makes anew.
func (h *History) rotate() error {
	full := h.file
	if err := h.fs.Rename(h.job+suffix, h.job+oldSuffix); err != nil {
		return err
	}
	if err := h.openFile(); err != nil {
		return err
	}
	h.size = 0
	return full.Close()
}

// List returns the newest runs, newest first; limit 0 is all that are kept.
func (h *History) List(limit int) ([]Run, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	runs, err := h.read()
	if err != nil {
		return nil, &cairn.Error{Op: "read history of job", Subject: h.job, Kind: kindOf(err), Err: err}
	}
	slices.Reverse(runs)
	if limit > 0 && len(runs) > limit {
		runs = runs[:limit]
	}
	return runs, nil
}

// read is every recorded run, oldest first.
func (h *History) read() ([]Run, error) {
	old, err := readAll(h.fs, h.job+oldSuffix)
	if err != nil {
		return nil, err
	}
	current, err := readAll(h.fs, h.job+suffix)
	if err != nil {
		return nil, err
	}
	before, _, _ := scan(old)
	after, _, _ := scan(current[:min(int64(len(current)), h.size)])
	return runsOf(append(before, after...)), nil
}

// Close closes the log. A run under way is then an interrupted one.
func (h *History) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.file.Close()
}

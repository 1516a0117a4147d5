// Package daemon composes Cairn: the place that holds this machine's volumes, the
// jobs of the configuration, the listeners of passive jobs, the connections of
// active ones, NBD exports, and the control API. It knows every other package and
// decides nothing that they can.
//
// It promises that one process hosts the volumes and that commands reach them
// through it (the host socket, whose path the volumes' locks name); that a
// declared volume exists before any job runs; that jobs which were running when a
// daemon was killed show as interrupted and go on where they were; that ending its
// context ends everything within the grace time, and that what a peer held when it
// was last seen is remembered. A volume that cannot be opened, a listener that
// cannot be bound or a job that fails is reported in status and does not stop the
// others.
//
// What can go wrong at the start, and ends it: another daemon answers on the
// control socket, or the state folder cannot be used. Kept listings are described
// in docs/formats/listings.md.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"cairn"
	"cairn/client"
	"cairn/internal/app/config"
	"cairn/internal/app/job"
	"cairn/internal/front/api"
	"cairn/internal/front/metrics"
	"cairn/internal/front/nbd"
	"cairn/internal/mech/blockio"
	"cairn/internal/mech/kernel"
	"cairn/internal/mech/watchdog"
	"cairn/internal/system/transport"
)

// Version is the version of this build.
const Version = "0.1.0"

// Options of Run.
type Options struct {
	Config *config.Config
	Logger *slog.Logger  // nil discards
	Grace  time.Duration // how long ending may take; 0 is 30 s
}

const defaultGrace = 30 * time.Second

// Daemon is a running daemon; the methods that the API calls are its only ones
// from outside, and may be called from any goroutine.
type Daemon struct {
	cfg     *config.Config
	log     *slog.Logger
	started time.Time
	here    *Here
	local   *transport.Local
	units   []*unit // one per configured job, in the order of the file
	seen    sightings
	trouble troubles
	onsets  onsets
	mounts  tapeMounts
	held    *watchdog.Quarantine
}

// unit is one configured job at work.
type unit struct {
	cfg      *config.Job
	job      *job.Job
	activity *activity
	history  *job.History
	serving  serving
}

// Run is the daemon's life: it returns when the context has ended and everything
// has stopped, or when it cannot begin. What does not stop within the grace time is
// left behind with KindStuck: the caller ends the process.
func Run(ctx context.Context, o Options) error {
	return bounded(ctx, o, func(ctx context.Context) (*Here, error) {
		return OpenHere(ctx, o.Config, HereOptions{Host: hostSocket(o.Config), Logger: o.Logger})
	})
}

func bounded(ctx context.Context, o Options, open func(ctx context.Context) (*Here, error)) error {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Grace == 0 {
		o.Grace = defaultGrace
	}
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, o, open) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	grace := time.NewTimer(o.Grace)
	defer grace.Stop()
	select {
	case err := <-ended:
		return err
	case <-grace.C:
		return &cairn.Error{Op: "end daemon", Kind: cairn.KindStuck, Err: fmt.Errorf("something does not end within %v", o.Grace),
			Hint: "nothing is lost: what was cut goes on at the next start"}
	}
}

func run(ctx context.Context, o Options, open func(ctx context.Context) (*Here, error)) (err error) {
	d := &Daemon{cfg: o.Config, log: o.Logger, started: time.Now(), local: transport.NewLocal(), held: &watchdog.Quarantine{}}
	lock, err := lockState(o.Config.Global.State)
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }() // nothing was written
	control, err := api.Listen(ctx, o.Config.Global.Control.SockPath)
	if err != nil {
		return err
	}
	defer func() { _ = control.Close() }() // closed already when it served
	if d.here, err = open(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.here.Close()) }()
	if err := d.Rescan(ctx); err != nil {
		return err
	}
	if err := d.makeUnits(); err != nil {
		return errors.Join(err, d.closeHistories())
	}
	err = d.serve(ctx, control)
	return errors.Join(err, d.closeHistories())
}

// lockState keeps a second daemon with another control socket away from the
// histories.
func lockState(folder string) (*os.File, error) {
	fail := func(kind cairn.Kind, err error, hint string) error {
		return &cairn.Error{Op: "use state folder", Subject: folder, Kind: kind, Err: err, Hint: hint}
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, fail(cairn.KindIO, err, "set global.state to a folder that can be written")
	}
	f, err := os.OpenFile(filepath.Join(folder, "daemon.lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fail(cairn.KindIO, err, "set global.state to a folder that can be written")
	}
	err = kernel.Lock(f)
	switch {
	case err == nil:
		return f, nil
	case errors.Is(err, syscall.EWOULDBLOCK):
		err = fail(cairn.KindBusy, errors.New("another daemon uses it"), "end that one, or set global.state to a folder of its own")
	default:
		err = fail(cairn.KindIO, err, "")
	}
	return nil, errors.Join(err, f.Close())
}

// hostSocket is where this process offers the volumes it hosts to commands.
func hostSocket(cfg *config.Config) string { return filepath.Join(cfg.Runtime(), "host") }

// makeUnits prepares every job.
func (d *Daemon) makeUnits() error {
	folder := filepath.Join(d.cfg.Global.State, "history")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return &cairn.Error{Op: "open history in", Subject: folder, Kind: cairn.KindIO, Err: err, Hint: "set global.state to a folder that can be written"}
	}
	fsys, err := blockio.OS(folder)
	if err != nil {
		return err
	}
	store := job.Open(fsys, d.log)
	for _, j := range d.cfg.Jobs {
		u, err := d.makeUnit(store, j)
		if err != nil {
			return err
		}
		d.units = append(d.units, u)
	}
	return nil
}

func (d *Daemon) makeUnit(store *job.Store, j *config.Job) (*unit, error) {
	log := d.log.With("job", j.Name)
	a := &activity{job: j, here: d.here, quarantine: d.held, seen: &d.seen, log: log}
	a.limit()
	if j.Connect != nil {
		a.dial = func(ctx context.Context) (*cairn.Endpoint, error) { return d.dial(ctx, j) }
		d.remember(j)
	}
	history, err := store.History(j.Name)
	if err != nil {
		return nil, err
	}
	o := job.Options{Name: j.Name, Verbs: a.verbs(), History: history, Next: a.next, Retry: job.Backoff, Log: d.log}
	if len(o.Verbs) == 0 {
		o.Next = nil
	}
	runs, err := job.New(o)
	if err != nil {
		return nil, errors.Join(err, history.Close())
	}
	return &unit{cfg: j, job: runs, activity: a, history: history}, nil
}

// remember loads what a job last saw at its peer.
func (d *Daemon) remember(j *config.Job) {
	p, err := d.here.kept(j.Name, nil)
	if err != nil {
		return // never seen, or to be seen anew
	}
	s := newSight(placeOf(j.Connect))
	s.seen = p.Seen
	for _, l := range p.Datasets {
		s.addKept(l)
	}
	d.seen.set(j.Name, s)
}

func (d *Daemon) closeHistories() error {
	var all []error
	for _, u := range d.units {
		all = append(all, u.history.Close())
	}
	return errors.Join(all...)
}

// serve runs everything side by side until the context ends.
func (d *Daemon) serve(ctx context.Context, control net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var parts sync.WaitGroup
	defer parts.Wait()
	if err := d.hostVolumes(ctx, &parts); err != nil {
		return err
	}
	for _, u := range d.units {
		if u.cfg.Serve != nil {
			parts.Go(func() { d.keepServing(ctx, u) })
		}
		parts.Go(func() { u.job.Run(ctx) })
		d.resume(u)
	}
	for _, n := range d.cfg.Global.NBD {
		parts.Go(func() { d.keepExporting(ctx, n) })
	}
	for _, m := range d.cfg.Global.Monitoring {
		parts.Go(func() { d.keepShowing(ctx, m) })
	}
	d.log.Info("daemon began", "version", Version, "pid", os.Getpid(), "config", d.cfg.File)
	if err := notify(ctx, "READY=1"); err != nil {
		d.log.Warn("the service manager was not told", "err", err)
	}
	err := api.Serve(ctx, control, api.Options{Daemon: d, Logger: d.log})
	d.log.Info("daemon ends")
	if telling := notify(context.WithoutCancel(ctx), "STOPPING=1"); telling != nil {
		d.log.Debug("the service manager was not told", "err", telling)
	}
	return err
}

// resume wakes a job whose last run was cut off by the end of its daemon: it goes
// on at once instead of at its next time.
func (d *Daemon) resume(u *unit) {
	last := u.job.Status().Last
	if last == nil || last.State != job.Interrupted || u.cfg.Connect == nil {
		return
	}
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if _, err := u.job.Wake(ctx, job.Request{Cause: job.ByRetry, Verbs: []string{verbReplicate, verbPrune, verbLook}}); err != nil {
			d.log.Debug("interrupted run is not resumed", "job", u.cfg.Name, "err", err)
		}
	}()
}

// keepExporting serves NBD on one configured listener; a failure is shown in
// status and tried again.
func (d *Daemon) keepExporting(ctx context.Context, n config.NBD) {
	name := n.Listen + n.Path
	d.persist(ctx, "nbd "+name, func(ctx context.Context) error {
		s := client.Serve{Network: "tcp", Address: n.Listen, CA: n.CA, Cert: n.Cert, Key: n.Key}
		if n.Type == "unix" {
			s.Network, s.Address = "unix", n.Path
		}
		tls, err := serverTLS(s, n.ClientCNs)
		if err != nil {
			return err
		}
		l, err := listenNBD(ctx, s.Network, s.Address, tls != nil)
		if err != nil {
			return err
		}
		d.trouble.clear("nbd " + name)
		return nbd.Serve(ctx, l, nbd.Options{Exports: &exports{here: d.here, allow: d.exported}, TLS: tls, Logger: d.log})
	})
}

// keepShowing serves metrics on one configured listener.
func (d *Daemon) keepShowing(ctx context.Context, m config.Monitoring) {
	part := "metrics on " + m.Listen
	d.persist(ctx, part, func(ctx context.Context) error {
		l, err := transport.ListenPlain(ctx, m.Listen, m.ListenFreebind)
		if err != nil {
			return err
		}
		d.trouble.clear(part)
		return metrics.Serve(ctx, l, d, d.log)
	})
}

// exported leaves out the volumes whose declaration says so.
func (d *Daemon) exported(dataset, _ string) bool {
	for _, v := range d.cfg.Volumes {
		if v.Name == dataset {
			return v.NBD
		}
	}
	return true
}

// retryEvery is how long a part that failed waits before it begins again.
const retryEvery = 10 * time.Second

// persist runs a part again and again until the context ends.
func (d *Daemon) persist(ctx context.Context, part string, run func(context.Context) error) {
	for ctx.Err() == nil {
		err := run(ctx)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			err = errors.New("it ended by itself")
		}
		if d.trouble.note(part, err) {
			d.log.Error("part of the daemon failed; trying again", "part", part, "err", err, "kind", cairn.KindOf(err), "hint", cairn.HintOf(err))
		}
		wait := time.NewTimer(retryEvery)
		select {
		case <-ctx.Done():
		case <-wait.C:
		}
		wait.Stop()
	}
}

// troubles are the parts of the daemon that do not work now.
type troubles struct {
	mu    sync.Mutex // guards since and text
	since map[string]time.Time
	text  map[string]string
}

// note remembers a failure and reports whether it is news.
func (t *troubles) note(part string, err error) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.since == nil {
		t.since, t.text = map[string]time.Time{}, map[string]string{}
	}
	if t.since[part].IsZero() {
		t.since[part] = time.Now()
	}
	news := t.text[part] != err.Error()
	t.text[part] = err.Error()
	return news
}

func (t *troubles) clear(part string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.since, part)
	delete(t.text, part)
}

func (t *troubles) list() []client.Problem {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []client.Problem
	for part, since := range t.since {
		all = append(all, client.Problem{Job: part, State: cairn.StateDegraded.String(), Since: since, What: t.text[part]})
	}
	return all
}

// Version tells who answers.
func (d *Daemon) Version() client.Version {
	return client.Version{Version: Version, Go: runtime.Version(), PID: os.Getpid(), Started: d.started, Config: d.cfg.File}
}

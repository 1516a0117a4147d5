package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"cairn"
	"cairn/internal/mech/blockio"
	"cairn/internal/mech/kernel"
)

// PlaceOptions say where volumes are and how this process is reached.
type PlaceOptions struct {
	Dir    string // the registry's folder; made when it is not there
	Name   string // of the place, in messages; "here" when empty
	Socket string // on which this process serves the volumes it hosts; empty: none
	// Dial reaches the process that hosts a volume; nil: such a volume is KindBusy.
	Dial       func(ctx context.Context, socket string) (*cairn.Endpoint, error)
	FileSystem func(dir string) (string, error) // names a folder's file system; nil asks the kernel
	Volume     Options                          // for every volume; Name is set by the place
	Each       func(name string, o *Options)    // changes Volume for one of them; may be nil
	Log        *slog.Logger
}

// Place is a registry of volumes. A volume is opened when it is first used, by
// one process at a time, and stays open until Close.
type Place struct {
	o        PlaceOptions
	registry registry
	self     host

	mu     sync.Mutex // guards hosted and closed, and is held while a volume is made, renamed or removed
	hosted map[string]*hosted
	closed bool
}

// hosted is a volume that this process has open, or is about to. The other fields
// are set when ready is closed.
type hosted struct {
	ready chan struct{}
	v     *Volume
	lock  *os.File
	err   error
}

// OpenPlace opens a registry.
func OpenPlace(ctx context.Context, o PlaceOptions) (*Place, error) {
	if o.Name == "" {
		o.Name = "here"
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.FileSystem == nil {
		o.FileSystem = kernel.FileSystem
	}
	o.Volume.Log = o.Log
	err := ctx.Err()
	if err == nil {
		err = os.MkdirAll(o.Dir, 0o700)
	}
	if err != nil {
		return nil, failed("open volumes in", o.Dir, err)
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, failed("open volumes in", o.Dir, err)
	}
	return &Place{o: o, registry: registry(dir), self: host{PID: os.Getpid(), Socket: o.Socket}, hosted: map[string]*hosted{}}, nil
}

// Close closes every volume.
func (p *Place) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	var err error
	for name := range p.hosted {
		err = errors.Join(err, p.shut(name))
	}
	return err
}

// shut closes one volume, if this process hosts it. Callers hold mu.
func (p *Place) shut(name string) error {
	h := p.hosted[name]
	if h == nil {
		return nil
	}
	<-h.ready
	delete(p.hosted, name)
	if h.err != nil {
		return nil
	}
	return errors.Join(h.v.Close(), h.lock.Close())
}

// busyElsewhere says that another process hosts the volume.
type busyElsewhere struct {
	name string
	host host
}

func (b *busyElsewhere) Error() string { return fmt.Sprintf("process %d has it open", b.host.PID) }

// Open gives a volume that this process hosts. KindBusy, naming the process, when
// another one does.
func (p *Place) Open(ctx context.Context, name string) (*Volume, error) {
	v, err := p.open(ctx, name)
	var b *busyElsewhere
	if errors.As(err, &b) {
		return nil, &cairn.Error{Op: "open volume", Subject: name, Kind: cairn.KindBusy, Err: b, Hint: "use it through that process, or end it"}
	}
	return v, err
}

func (p *Place) open(ctx context.Context, name string) (*Volume, error) {
	if err := ctx.Err(); err != nil {
		return nil, failed("open volume", name, err)
	}
	h, first, err := p.entry(name)
	if err != nil {
		return nil, err
	}
	if first {
		// Others may wait for it: that this caller gives up is not their concern.
		h.v, h.lock, h.err = p.host(context.WithoutCancel(ctx), name)
		close(h.ready)
		if h.err != nil {
			p.forget(name, h)
		}
	}
	select {
	case <-h.ready:
		return h.v, h.err
	case <-ctx.Done():
		return nil, failed("open volume", name, ctx.Err())
	}
}

// entry gives the place of a volume among the hosted ones; first says that the
// caller has to open it.
func (p *Place) entry(name string) (h *hosted, first bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, false, errClosed
	}
	if h := p.hosted[name]; h != nil {
		return h, false, nil
	}
	h = &hosted{ready: make(chan struct{})}
	p.hosted[name] = h
	return h, true, nil
}

func (p *Place) forget(name string, h *hosted) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.hosted[name] == h {
		delete(p.hosted, name)
	}
}

// host takes the lock of a volume and opens it.
func (p *Place) host(ctx context.Context, name string) (*Volume, *os.File, error) {
	store, err := p.registry.store(name)
	if err != nil {
		return nil, nil, err
	}
	if gone(store) {
		return nil, nil, &cairn.Error{Op: "open volume", Subject: name, Kind: cairn.KindUnavailable, Err: fmt.Errorf("its store %s is not there", store),
			Hint: "mount the file system it lies on; if it is lost for good, cairn volume destroy forgets the volume and leaves an adopted file or device as it is"}
	}
	if err := checkFileSystem(store, p.o.FileSystem); err != nil {
		return nil, nil, failed("open volume", name, err)
	}
	lock, other, err := lockStore(store, p.self)
	if err != nil {
		return nil, nil, failed("open volume", name, err)
	}
	if lock == nil {
		return nil, nil, &busyElsewhere{name, other}
	}
	fsys, err := blockio.OS(store)
	if err != nil {
		return nil, nil, failed("open volume", name, errors.Join(err, lock.Close()))
	}
	o := p.o.Volume
	if p.o.Each != nil {
		p.o.Each(name, &o)
	}
	o.Name = name
	if o.Groups, err = p.pendingGroups(); err != nil {
		return nil, nil, failed("open volume", name, errors.Join(err, lock.Close()))
	}
	v, err := Open(ctx, fsys, o)
	if err != nil {
		return nil, nil, errors.Join(err, lock.Close())
	}
	return v, lock, nil
}

// Create makes a volume with a sparse head of its own. The owner is the file or
// command that makes it.
func (p *Place) Create(ctx context.Context, name string, size int64, owner string) error {
	return p.CreateIn(ctx, name, size, "", owner)
}

// CreateIn is Create with the store in a folder that is made or empty; without one
// it lies in the registry.
func (p *Place) CreateIn(ctx context.Context, name string, size int64, store, owner string) error {
	if store != "" {
		abs, err := filepath.Abs(store)
		if err != nil {
			return failed("make volume", name, err)
		}
		store = abs
	}
	return p.make(ctx, name, store, CreateOptions{Size: size, Owner: owner})
}

// Adopt makes a volume of an existing file or device, in place. The store is a
// folder that is made or empty; without one it lies in the registry.
func (p *Place) Adopt(ctx context.Context, name, path, store, owner string) error {
	origin, err := filepath.Abs(path)
	if err == nil {
		origin, err = filepath.EvalSymlinks(origin)
	}
	if err == nil && store != "" {
		store, err = filepath.Abs(store)
	}
	if err != nil {
		return failed("adopt", path, err)
	}
	if err := p.adoptedOnce(ctx, name, origin); err != nil {
		return err
	}
	return p.make(ctx, name, store, CreateOptions{Origin: origin, OpenOrigin: p.o.Volume.OpenOrigin, Owner: owner})
}

// adoptedOnce refuses an origin that another volume protects: what is written
// through one of them would be lost for the snapshots of the other. A volume that
// another process has open holds its origin, which creating then finds busy.
func (p *Place) adoptedOnce(ctx context.Context, name, origin string) error {
	file, err := os.Stat(origin)
	if err != nil {
		return failed("adopt", origin, err)
	}
	if _, err := p.registry.store(name); err == nil {
		return nil // making it will say that it exists
	}
	names, err := p.registry.names()
	if err != nil {
		return failed("adopt", origin, err)
	}
	for _, other := range names {
		d, err := p.Describe(ctx, other)
		if err != nil || d.Origin == "" {
			continue
		}
		if st, err := os.Stat(d.Origin); err == nil && os.SameFile(st, file) {
			return &cairn.Error{Op: "adopt", Subject: origin, Kind: cairn.KindExists, Err: errors.New("volume " + other + " protects it already"),
				Hint: "use that volume, or release it first"}
		}
	}
	return ctx.Err()
}

func (p *Place) make(ctx context.Context, name, store string, o CreateOptions) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return errClosed
	}
	if err := p.makeStore(ctx, name, store, o); err != nil {
		return failed("make volume", name, err)
	}
	return nil
}

// makeStore makes the store under a name that is no volume's, and then names it.
func (p *Place) makeStore(ctx context.Context, name, store string, o CreateOptions) error {
	if err := p.registry.prepare(name); err != nil {
		return err
	}
	entry := p.registry.entry(name)
	dir := store
	if store == "" {
		dir = entry + ".new"
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	made := gone(dir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := p.fillStore(ctx, dir, o); err != nil {
		if made {
			err = errors.Join(err, os.RemoveAll(dir))
		}
		p.registry.prune(name)
		return err
	}
	if store != "" {
		return p.registry.point(name, store)
	}
	if err := os.Rename(dir, entry); err != nil {
		return err
	}
	return syncUp(filepath.Dir(entry), string(p.registry))
}

func (p *Place) fillStore(ctx context.Context, dir string, o CreateOptions) error {
	if err := checkFileSystem(dir, p.o.FileSystem); err != nil {
		return err
	}
	fsys, err := blockio.OS(dir)
	if err != nil {
		return err
	}
	if names, err := fsys.ReadDir("."); err != nil {
		return err
	} else if len(names) > 0 {
		return &cairn.Error{Op: "keep a store in", Subject: dir, Kind: cairn.KindExists, Err: fmt.Errorf("the folder holds %s", names[0]), Hint: "choose an empty folder"}
	}
	if err := probe(fsys); err != nil {
		return err
	}
	return Create(ctx, fsys, o)
}

// probe tries what a store needs of its file system.
func probe(fsys blockio.FS) error {
	const name = "probe"
	f, err := fsys.Create(name)
	if err != nil {
		return err
	}
	if _, err = f.WriteAt(make([]byte, 2*blockSize), 0); err == nil {
		if err = f.Punch(0, blockSize); err != nil {
			err = &cairn.Error{Op: "keep a store", Kind: cairn.KindUnsupported, Err: err, Hint: "the file system cannot punch holes; use ext4, xfs or btrfs"}
		}
	}
	return errors.Join(err, f.Close(), fsys.Remove(name))
}

// SetHashes gives a volume a block hash table, or takes it away, unless whoever
// opened the place has decided that.
func (p *Place) SetHashes(ctx context.Context, name string, on bool) error {
	o := p.o.Volume
	if p.o.Each != nil {
		p.o.Each(name, &o)
	}
	if o.Hashes != nil && *o.Hashes != on {
		return &cairn.Error{Op: "set hashes of", Subject: name, Kind: cairn.KindConflict, Err: errors.New("the configuration says otherwise"), Hint: "change the key hashes there"}
	}
	v, err := p.Open(ctx, name)
	if err != nil {
		return err
	}
	return v.SetHashes(ctx, on)
}

// Release stops protecting an adopted head: the store is removed, the head stays
// as it is.
func (p *Place) Release(ctx context.Context, name string) error {
	v, err := p.Open(ctx, name)
	if err != nil {
		return err
	}
	if v.Origin() == "" {
		return &cairn.Error{Op: "release", Subject: name, Kind: cairn.KindInvalid, Err: errors.New("its head lies in its store"), Hint: "destroy the volume, or copy its head first"}
	}
	return failed("release", name, p.removeStore(name))
}

// gone says that a store's folder does not exist.
func gone(store string) bool {
	_, err := os.Stat(store)
	return errors.Is(err, fs.ErrNotExist)
}

// DestroyVolume removes a volume with all its versions and, unless it is adopted,
// its head. Of one whose store is not there the name is removed.
func (p *Place) DestroyVolume(ctx context.Context, name string) error {
	if store, err := p.registry.store(name); err == nil && gone(store) {
		return failed("destroy volume", name, p.removeStore(name))
	}
	if _, err := p.Open(ctx, name); err != nil && !errors.Is(err, cairn.KindCorrupt) && !errors.Is(err, cairn.KindUnverified) {
		return err
	}
	return failed("destroy volume", name, p.removeStore(name))
}

func (p *Place) removeStore(name string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	store, err := p.registry.store(name)
	if err != nil {
		return err
	}
	if err := p.idle(name); err != nil {
		return err
	}
	if err := p.shut(name); err != nil {
		p.o.Log.Warn("closing a volume that is removed", "volume", name, "error", err)
	}
	return p.registry.remove(name, store)
}

// idle refuses while devices or snapshots of the volume are open. Callers hold mu.
func (p *Place) idle(name string) error {
	h := p.hosted[name]
	if h == nil {
		return nil
	}
	<-h.ready
	if h.err != nil {
		return nil
	}
	h.v.mu.Lock()
	defer h.v.mu.Unlock()
	if h.v.devices > 0 || len(h.v.readers) > 0 || h.v.receive {
		return &cairn.Error{Op: "close", Subject: name, Kind: cairn.KindBusy, Err: errors.New("it is in use"), Hint: "detach it and end what reads or receives it"}
	}
	return nil
}

// Device opens the head of a volume that this process hosts.
func (p *Place) Device(ctx context.Context, name string) (cairn.BlockDevice, error) {
	v, err := p.Open(ctx, name)
	if err != nil {
		return nil, err
	}
	return v.Device(), nil
}

// endpoint gives the endpoint that serves the volume: our own, or that of the
// process that hosts it. done releases it.
func (p *Place) endpoint(ctx context.Context, name string) (ep *cairn.Endpoint, done io.Closer, err error) {
	v, err := p.open(ctx, name)
	if err == nil {
		return v.Endpoint(p.o.Name, name), closer(nil), nil
	}
	var b *busyElsewhere
	if !errors.As(err, &b) {
		return nil, nil, err
	}
	if b.host.Socket == "" || p.o.Dial == nil {
		return nil, nil, &cairn.Error{Op: "open volume", Subject: name, Kind: cairn.KindBusy, Err: b, Hint: "wait until that process ends, or end it"}
	}
	if ep, err = p.o.Dial(ctx, b.host.Socket); err != nil {
		return nil, nil, &cairn.Error{Op: "reach the host of", Subject: name, Kind: cairn.KindUnavailable, Err: errors.Join(b, err)}
	}
	return ep, closer(ep.Close), nil
}

// closer is an io.Closer of a function that may be nil.
type closer func() error

func (c closer) Close() error {
	if c == nil {
		return nil
	}
	return c()
}

package nbd_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"cairn"
	"cairn/internal/front/nbd"
	"cairn/internal/front/nbd/nbdclient"
)

// device is a block device in memory with a map of what was written; zeroed and
// discarded blocks become holes.
type device struct {
	sector int
	wait   func(ctx context.Context, write bool) // called in each request, when set
	fail   error                                 // what every request answers, when set

	mu      sync.Mutex // guards what follows
	data    []byte
	written map[int64]bool // by 4 KiB block
	flushes int
	fua     int
	flags   []cairn.WriteFlags // of each WriteZeroes
}

func newDevice(size int64, sector int) *device {
	return &device{sector: sector, data: make([]byte, size), written: map[int64]bool{}}
}

func (d *device) before(ctx context.Context, write bool) error {
	if d.wait != nil {
		d.wait(ctx, write)
	}
	return errors.Join(ctx.Err(), d.fail)
}

func (d *device) Size() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return int64(len(d.data))
}

func (d *device) Sector() int { return d.sector }

func (d *device) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := d.before(ctx, false); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	copy(p, d.data[off:])
	return nil
}

func (d *device) Extents(_ context.Context, off, length int64) iter.Seq2[cairn.Extent, error] {
	return func(yield func(cairn.Extent, error) bool) {
		for end := off + length; off < end; {
			d.mu.Lock()
			kind := cairn.ExtentHole
			if d.written[off/cairn.BlockSize] {
				kind = cairn.ExtentData
			}
			d.mu.Unlock()
			next := min(end, (off/cairn.BlockSize+1)*cairn.BlockSize)
			if !yield(cairn.Extent{Offset: off, Length: next - off, Kind: kind}, nil) {
				return
			}
			off = next
		}
	}
}

func (d *device) Close() error { return nil }

func (d *device) mark(off, length int64, written bool) {
	for b := off / cairn.BlockSize; b*cairn.BlockSize < off+length; b++ {
		if written {
			d.written[b] = true
		} else if b*cairn.BlockSize >= off && (b+1)*cairn.BlockSize <= off+length {
			delete(d.written, b)
		}
	}
}

func (d *device) WriteAt(ctx context.Context, p []byte, off int64, flags cairn.WriteFlags) error {
	if err := d.before(ctx, true); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if flags&cairn.FUA != 0 {
		d.fua++
	}
	copy(d.data[off:], p)
	d.mark(off, int64(len(p)), true)
	return nil
}

func (d *device) WriteZeroes(ctx context.Context, off, length int64, flags cairn.WriteFlags) error {
	if err := d.before(ctx, true); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.flags = append(d.flags, flags)
	if flags&cairn.FastOnly != 0 && flags&cairn.MayUnmap == 0 {
		return cairn.KindUnsupported
	}
	clear(d.data[off : off+length])
	d.mark(off, length, false)
	return nil
}

func (d *device) Discard(ctx context.Context, off, length int64) error {
	return d.WriteZeroes(ctx, off, length, cairn.MayUnmap)
}

func (d *device) Flush(ctx context.Context) error {
	if err := d.before(ctx, true); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.flushes++
	return nil
}

// exports serves fixed exports and counts how many are open.
type exports struct {
	byName map[string]*nbd.Export

	mu   sync.Mutex // guards open
	open int
}

func (e *exports) List(context.Context) ([]string, error) {
	var names []string
	for n := range e.byName {
		names = append(names, n)
	}
	slices.Sort(names)
	return names, nil
}

func (e *exports) Open(_ context.Context, name string) (*nbd.Export, error) {
	x := e.byName[name]
	if x == nil {
		return nil, &cairn.Error{Op: "open", Subject: name, Kind: cairn.KindNotFound}
	}
	opened := *x
	e.mu.Lock()
	e.open++
	e.mu.Unlock()
	opened.Close = func() error {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.open--
		return nil
	}
	return &opened, nil
}

func (e *exports) stillOpen() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.open
}

// server is a running server on a unix socket.
type server struct {
	t       *testing.T
	path    string
	exports *exports
	stop    func() // ends Serve and waits for it
}

// socketDir is a temporary folder under a name short enough for a socket's path.
func socketDir(t *testing.T) string {
	dir := t.TempDir()
	if len(dir) < 60 {
		return dir
	}
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return fmt.Sprintf("/proc/self/fd/%d", f.Fd())
}

func serve(t *testing.T, byName map[string]*nbd.Export, change ...func(*nbd.Options)) *server {
	t.Helper()
	s := &server{t: t, path: filepath.Join(socketDir(t), "nbd"), exports: &exports{byName: byName}}
	l, err := nbd.ListenUnix(s.path)
	if err != nil {
		t.Fatal(err)
	}
	s.run(l, change...)
	return s
}

func (s *server) run(l net.Listener, change ...func(*nbd.Options)) {
	o := nbd.Options{Exports: s.exports}
	for _, c := range change {
		c(&o)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- nbd.Serve(ctx, l, o) }()
	s.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				s.t.Errorf("Serve: %v", err)
			}
		case <-time.After(20 * time.Second):
			s.t.Error("Serve does not end")
		}
		if n := s.exports.stillOpen(); n != 0 {
			s.t.Errorf("%d exports are still open after Serve ended", n)
		}
	})
	s.t.Cleanup(s.stop)
}

func (s *server) dial(o nbdclient.Options) *nbdclient.Client {
	s.t.Helper()
	c, err := s.try(o)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(c.Abandon)
	return c
}

func (s *server) try(o nbdclient.Options) (*nbdclient.Client, error) {
	o.Network, o.Address = "unix", s.path
	return nbdclient.Dial(s.t.Context(), o)
}

package nbd_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cairn"
	"cairn/internal/format/nbdproto"
	"cairn/internal/front/nbd"
	"cairn/internal/front/nbd/nbdclient"
)

// Serve ends in bounded time with requests running in a device that only its
// context can stop, with idle clients, and with clients that never read.
func TestServeEndsWithEverything(t *testing.T) {
	d := newDevice(64<<20, 512)
	entered := make(chan struct{}, 64)
	d.wait = func(ctx context.Context, write bool) {
		if write {
			entered <- struct{}{}
			<-ctx.Done()
		}
	}
	s := serve(t, heads(d))
	s.dial(nbdclient.Options{Export: "db@a"}) // idle
	deaf := s.raw()
	deaf.ask(nbdproto.OptGo, nbdproto.AppendGo(nil, nbdproto.GoData{Name: "db@a"}))
	for range 4 {
		deaf.send(nbdproto.AppendRequest(nil, nbdproto.Request{Type: nbdproto.CmdRead, Length: 16 << 20})...)
	}
	c := s.dial(nbdclient.Options{Export: "db"})
	answered := make(chan error, 1)
	go func() { answered <- c.WriteAt(t.Context(), make([]byte, 512), 0, false) }()
	<-entered
	begin := time.Now()
	s.stop()
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("Serve took %v to end", took)
	}
	if err := <-answered; err == nil {
		t.Error("a write that never ended was acknowledged")
	}
	if _, err := os.Lstat(s.path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

// A client that vanishes in the middle of a write's data changes nothing, and
// its requests in flight end.
func TestVanishedClient(t *testing.T) {
	d := newDevice(1<<20, 512)
	ended := make(chan struct{}, 1)
	d.wait = func(ctx context.Context, write bool) {
		<-ctx.Done()
		ended <- struct{}{}
	}
	s := serve(t, heads(d))
	r := s.raw()
	r.ask(nbdproto.OptGo, nbdproto.AppendGo(nil, nbdproto.GoData{Name: "db"}))
	r.send(nbdproto.AppendRequest(nil, nbdproto.Request{Type: nbdproto.CmdWrite, Length: 8192})...)
	r.send(make([]byte, 5000)...)
	r.Close()
	for s.exports.stillOpen() > 0 {
		time.Sleep(time.Millisecond)
	}
	if len(d.written) != 0 {
		t.Error("half a write reached the device")
	}
	for name, request := range map[string]func(*nbdclient.Client) error{
		"flush": func(c *nbdclient.Client) error { return c.Flush(t.Context()) },
		"read":  func(c *nbdclient.Client) error { return c.ReadAt(t.Context(), make([]byte, 512), 0) },
	} {
		c := s.dial(nbdclient.Options{Export: "db"})
		go request(c)
		time.Sleep(20 * time.Millisecond)
		c.Abandon()
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			t.Errorf("a vanished client's %s goes on", name)
		}
	}
}

// Requests that hang, of a kind that was fast so far, hold up no others.
func TestHangingRequestsHoldUpNobody(t *testing.T) {
	d := newDevice(1<<20, 512)
	release := make(chan struct{})
	var hang atomic.Bool
	d.wait = func(ctx context.Context, write bool) {
		if write && hang.Load() {
			<-release
		}
	}
	c := serve(t, heads(d), func(o *nbd.Options) { o.Workers = 4 }).dial(nbdclient.Options{Export: "db"})
	for range 100 {
		if err := c.WriteAt(t.Context(), make([]byte, 512), 0, false); err != nil {
			t.Fatal(err)
		}
	}
	hang.Store(true)
	var writes sync.WaitGroup
	for i := range int64(3) {
		writes.Go(func() {
			if err := c.WriteAt(t.Context(), make([]byte, 512), i*512, false); err != nil {
				t.Error(err)
			}
		})
	}
	time.Sleep(20 * time.Millisecond)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := c.ReadAt(ctx, make([]byte, 512), 4096); err != nil {
		t.Errorf("a read beside hanging writes: %v", err)
	}
	hang.Store(false)
	close(release)
	writes.Wait()
}

// Requests that run when the client says goodbye are finished and answered.
func TestDisconnectLetsRequestsFinish(t *testing.T) {
	d := newDevice(1<<20, 512)
	d.wait = func(ctx context.Context, write bool) {
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	s := serve(t, heads(d))
	c := s.dial(nbdclient.Options{Export: "db"})
	answered := make(chan error, 1)
	go func() { answered <- c.Flush(t.Context()) }()
	time.Sleep(10 * time.Millisecond)
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if err := <-answered; err != nil {
		t.Errorf("the flush before the goodbye: %v", err)
	}
}

func TestConnectionsAreLimited(t *testing.T) {
	s := serve(t, heads(newDevice(1<<20, 512)), func(o *nbd.Options) { o.MaxConns = 1 })
	first := s.dial(nbdclient.Options{Export: "db"})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := nbdclient.Dial(ctx, nbdclient.Options{Network: "unix", Address: s.path, Export: "db"}); err == nil {
		t.Error("a second connection was served")
	}
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	s.dial(nbdclient.Options{Export: "db"})
}

func TestResizeUnderAConnection(t *testing.T) {
	d := newDevice(1<<20, 512)
	c := serve(t, heads(d)).dial(nbdclient.Options{Export: "db"})
	d.mu.Lock()
	d.data = append(d.data, make([]byte, 1<<20)...)
	d.mu.Unlock()
	if err := c.WriteAt(t.Context(), make([]byte, 512), 1<<20, false); err != nil {
		t.Errorf("in the new part: %v", err)
	}
	d.mu.Lock()
	d.data = d.data[:512]
	d.mu.Unlock()
	if err := c.ReadAt(t.Context(), make([]byte, 512), 512); !errors.Is(err, cairn.KindInvalid) {
		t.Errorf("in the part that is gone: %v", err)
	}
}

func TestListenUnix(t *testing.T) {
	dir := socketDir(t)
	path := filepath.Join(dir, "s")
	l, err := nbd.ListenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("beside the socket: %v", left)
	}
	if _, err := nbd.ListenUnix(path); !errors.Is(err, cairn.KindBusy) {
		t.Errorf("a second server: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close()
	l, err = nbd.ListenUnix(path)
	if err != nil {
		t.Fatalf("over a dead server's socket: %v", err)
	}
	defer l.Close()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := nbd.ListenUnix(file); !errors.Is(err, cairn.KindExists) {
		t.Errorf("over a file: %v", err)
	}
	if _, err := nbd.ListenUnix(filepath.Join(dir, strings.Repeat("x", 120))); !errors.Is(err, cairn.KindInvalid) {
		t.Errorf("an overlong path: %v", err)
	}
}

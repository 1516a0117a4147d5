package interop_test

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"cairn"
	"cairn/internal/front/nbd"
)

// disk is one export with what a test needs to judge a tool's view of it.
type disk struct {
	dir      string // where tools run; the socket lies in it under the name "s"
	export   string
	size     int64
	writable bool
	served   exports
	read     func(t *testing.T) []byte // the content, read without NBD
	dirty    map[string][]cairn.Extent // per context name: what must be told as changed
}

// uri names the export for tools that run in dir.
func (d *disk) uri() string { return fmt.Sprintf("nbd+unix:///%s?socket=s", d.export) }

func (d *disk) sum(t *testing.T) [32]byte { return sha256.Sum256(d.read(t)) }

// exports serves by name.
type exports map[string]func(ctx context.Context) (*nbd.Export, error)

func (e exports) List(context.Context) ([]string, error) {
	var names []string
	for n := range e {
		names = append(names, n)
	}
	return names, nil
}

func (e exports) Open(ctx context.Context, name string) (*nbd.Export, error) {
	open := e[name]
	if open == nil {
		return nil, &cairn.Error{Op: "open export", Subject: name, Kind: cairn.KindNotFound}
	}
	return open(ctx)
}

// serve runs a server on the unix socket "s" in dir until the test ends.
func serve(t *testing.T, dir string, e exports) {
	t.Helper()
	folder, err := os.Open(dir) // a short name for a socket in a deep folder
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { folder.Close() })
	l, err := nbd.ListenUnix(filepath.Join(fmt.Sprintf("/proc/self/fd/%d", folder.Fd()), "s"))
	if err != nil {
		t.Fatal(err)
	}
	serveOn(t, l, e, nil)
}

func serveOn(t *testing.T, l net.Listener, e exports, config *tls.Config) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := nbd.Serve(ctx, l, nbd.Options{Exports: e, TLS: config}); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
}

// content reads everything a reader holds.
func content(r cairn.BlockReader) func(*testing.T) []byte {
	return func(t *testing.T) []byte {
		t.Helper()
		p := make([]byte, r.Size())
		if err := r.ReadAt(t.Context(), p, 0); err != nil {
			t.Fatal(err)
		}
		return p
	}
}

func write(t *testing.T, dir, name string, data []byte) string {
	t.Helper()
	if err := errors.Join(os.WriteFile(filepath.Join(dir, name), data, 0o600)); err != nil {
		t.Fatal(err)
	}
	return name
}

func sumFile(t *testing.T, dir, name string) [32]byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return sha256.Sum256(b)
}

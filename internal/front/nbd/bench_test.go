package nbd_test

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	"cairn"
	"cairn/internal/front/nbd"
	"cairn/internal/front/nbd/nbdclient"
)

// blank is a device that does nothing: what is left is the protocol's cost, that
// of our client included.
type blank struct{ cairn.BlockDevice }

func (blank) Size() int64                                                    { return 1 << 30 }
func (blank) Sector() int                                                    { return 512 }
func (blank) ReadAt(context.Context, []byte, int64) error                    { return nil }
func (blank) WriteAt(context.Context, []byte, int64, cairn.WriteFlags) error { return nil }

func BenchmarkRequests(b *testing.B) {
	path := filepath.Join(b.TempDir(), "s")
	l, err := nbd.ListenUnix(path)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	var running sync.WaitGroup
	running.Go(func() {
		nbd.Serve(ctx, l, nbd.Options{Exports: &exports{byName: map[string]*nbd.Export{"db": {Device: blank{}}}}})
	})
	defer running.Wait()
	defer cancel()
	for _, x := range []struct{ size, depth int }{{4 << 10, 1}, {4 << 10, 32}, {1 << 20, 4}} {
		for _, write := range []bool{false, true} {
			b.Run(fmt.Sprintf("write=%v/size=%dKiB/depth=%d", write, x.size>>10, x.depth), func(b *testing.B) {
				c, err := nbdclient.Dial(ctx, nbdclient.Options{Network: "unix", Address: path, Export: "db"})
				if err != nil {
					b.Fatal(err)
				}
				defer c.Close()
				b.SetBytes(int64(x.size))
				requests(b, c, x.size, x.depth, write)
			})
		}
	}
}

func requests(b *testing.B, c *nbdclient.Client, size, depth int, write bool) {
	var wg sync.WaitGroup
	for i := range depth {
		n := b.N / depth
		if i == 0 {
			n += b.N % depth
		}
		wg.Go(func() {
			p := make([]byte, size)
			for range n {
				var err error
				if write {
					err = c.WriteAt(b.Context(), p, 0, false)
				} else {
					err = c.ReadAt(b.Context(), p, 0)
				}
				if err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

package rpc_test

import (
	"context"
	"errors"
	"os"
	"testing"

	"cairn/internal/system/volume"
	"cairn/internal/testkit/endpointtest"
	"cairn/internal/work/check"
)

// Volumes keep every promise at the other end of a wire too, in process and over
// mutual TLS; with CAIRN_SCALE=full over every transport.
func TestRemoteVolumesKeepEveryRule(t *testing.T) {
	over := []string{"local", "tls"}
	if os.Getenv("CAIRN_SCALE") == "full" {
		over = kinds
	}
	for _, kind := range over {
		t.Run(kind, func(t *testing.T) {
			p, err := volume.OpenPlace(t.Context(), volume.PlaceOptions{Dir: t.TempDir()})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := p.Close(); err != nil {
					t.Error(err)
				}
			})
			endpointtest.Run(t, check.Fixture{Endpoint: remote(t, kind, p.Endpoint()), Remove: p.DestroyVolume,
				Create: func(ctx context.Context, name string, size int64) error { return p.Create(ctx, name, size, "test") },
				Write: func(ctx context.Context, name string, off int64, b []byte) error {
					d, err := p.Device(ctx, name)
					if err != nil {
						return err
					}
					return errors.Join(d.WriteAt(ctx, b, off, 0), d.Flush(ctx), d.Close())
				}}, endpointtest.Options{Offered: true, NotOffered: []string{"clone", "clone-origin"}})
		})
	}
}

package zfs_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"cairn"
	"cairn/internal/system/zfs"
	"cairn/internal/testkit/endpointtest"
	"cairn/internal/testkit/fakezfs"
	"cairn/internal/testkit/zfscases"
	"cairn/internal/work/check"
)

func TestMain(m *testing.M) { fakezfs.Main(m) }

func open(t *testing.T, f *fakezfs.Fake, o zfs.Options) *zfs.Place {
	t.Helper()
	o.ZFS, o.Devices, o.Grace = f.ZFS, f.Devices, 200*time.Millisecond
	p, err := zfs.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func world(t *testing.T) *zfscases.World {
	f := fakezfs.New(t)
	return &zfscases.World{ZFS: f.ZFS, Devices: f.Devices, Fake: true, Try: f.Try, Write: f.TryWrite, Read: f.TryRead, Many: f.Many, Replicas: f.Replicas,
		Pool: func(t *testing.T) string {
			name := fmt.Sprintf("p%d", pools.Add(1))
			f.Pool(name)
			t.Cleanup(func() { f.Drop(name) }) // each process reads all that there is
			f.Run("set", "snapdev=visible", name)
			return name
		}}
}

var pools atomic.Int64

// The cases that OpenZFS passes in the virtual machine, on the fake.
func TestCases(t *testing.T) { zfscases.Run(t, world(t)) }

// A zvol place keeps the contracts.
func TestConformance(t *testing.T) {
	f := fakezfs.New(t)
	f.Pool("tank")
	f.Run("set", "snapdev=visible", "tank")
	p := open(t, f, zfs.Options{})
	endpointtest.Run(t, check.Fixture{
		Endpoint: p.Endpoint(zfs.Job{Receive: zfs.ReceiveOptions{Placeholder: zfs.Inherit}}), Prefix: "tank/check",
		Create: func(_ context.Context, dataset string, size int64) error {
			_, err := f.Try("create", "-p", "-V", fmt.Sprint(size), "-b", "4096", "-o", "snapdev=visible", dataset)
			return err
		},
		Write: func(_ context.Context, dataset string, off int64, b []byte) error { return f.TryWrite(dataset, off, b) },
		Remove: func(_ context.Context, dataset string) error {
			_, err := f.Try("destroy", "-r", dataset)
			if err != nil {
				return cairn.KindNotFound
			}
			return nil
		},
	}, endpointtest.Options{Offered: true, NotOffered: notOffered})
}

// notOffered are the rules for what ZFS has not: change sets, digests and checks of
// single versions, and tokens that a sender makes.
var notOffered = []string{"send-resume", "changes", "changes-gone", "verify", "damage", "digest", "heal"}

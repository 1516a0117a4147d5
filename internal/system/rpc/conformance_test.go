package rpc_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"cairn"
	"cairn/internal/system/rpc"
	"cairn/internal/system/wrap"
	"cairn/internal/testkit/endpointtest"
	"cairn/internal/testkit/memory"
	"cairn/internal/work/check"
)

func fixture(p *memory.Place, ep *cairn.Endpoint, prefix string) check.Fixture {
	return check.Fixture{Endpoint: ep,
		Create: func(_ context.Context, ds string, size int64) error { return p.Create(prefix+ds, size) },
		Write:  func(_ context.Context, ds string, off int64, b []byte) error { return p.Write(prefix+ds, off, b) },
		Damage: func(_ context.Context, ds string, id cairn.VersionID, off int64) error {
			return p.Damage(prefix+ds, id.Name, off)
		}}
}

// A remote endpoint keeps every promise of the one it stands for, over every
// transport.
func TestRemoteKeepsEveryRule(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			leakCheck(t)
			p := memory.New("vault")
			endpointtest.Run(t, fixture(p, remote(t, kind, p.Endpoint()), ""), endpointtest.Options{Offered: true})
		})
	}
}

// And so does the stack that a sink serves to one client.
func TestServedSinkKeepsEveryRule(t *testing.T) {
	leakCheck(t)
	p := memory.New("vault")
	ln, d := wire(t, "tls")
	table := &wrap.Table{}
	serve(t, ln, rpc.ServerOptions{Timings: quick, Endpoint: func(_ context.Context, identity string) (*cairn.Endpoint, error) {
		return wrap.Confine(wrap.Leased(p.Endpoint(), table), "sink", identity)
	}})
	ep := dial(t, d, rpc.ClientOptions{Timings: quick})
	endpointtest.Run(t, fixture(p, ep, "sink/client/"), endpointtest.Options{Offered: true})
}

// An identity sees and reaches nothing but its own.
func TestIdentityIsConfined(t *testing.T) {
	p := memory.New("vault")
	for _, name := range []string{"sink/client/db", "sink/other/db", "private"} {
		if err := p.Create(name, 4096); err != nil {
			t.Fatal(err)
		}
	}
	ln, d := wire(t, "tls")
	serve(t, ln, rpc.ServerOptions{Timings: quick, Endpoint: func(_ context.Context, identity string) (*cairn.Endpoint, error) {
		return wrap.Confine(p.Endpoint(), "sink", identity)
	}})
	ep := dial(t, d, rpc.ClientOptions{Timings: quick})
	if all := listings(t, ep); len(all) != 1 || all[0].Dataset.Name != "db" {
		t.Errorf("it sees %+v", all)
	}
	for _, name := range []string{"private", "../other/db", "sink/other/db"} {
		captured, err := ep.Snapshots.Snapshot(t.Context(), "@x", []string{name}, false)
		if err == nil {
			err = captured[0].Err
		}
		if !errors.Is(err, cairn.KindNotFound) && !errors.Is(err, cairn.KindInvalid) && !errors.Is(err, cairn.KindPermission) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Plan leases end with the session that took them, also when it is cut.
func TestPlanLeasesEndWithTheSession(t *testing.T) {
	p, v := newPlace(t, "vault")
	ln, d := wire(t, "unix")
	table := &wrap.Table{}
	serve(t, ln, rpc.ServerOptions{Timings: quick, Endpoint: func(context.Context, string) (*cairn.Endpoint, error) {
		return wrap.Leased(p.Endpoint(), table), nil
	}})
	planner, err := rpc.Dial(t.Context(), d, rpc.ClientOptions{Timings: quick})
	if err != nil {
		t.Fatal(err)
	}
	pruner := dial(t, d, rpc.ClientOptions{Timings: quick})
	set := cairn.LeaseSet{Dataset: "db", Owner: "nightly", Purpose: cairn.PurposePlan, Versions: []cairn.VersionID{v.VersionID}}
	if err := planner.Leases.SetLease(t.Context(), set); err != nil {
		t.Fatal(err)
	}
	destroy := func() error {
		results, err := pruner.Destroys.Destroy(t.Context(), "db", set.Versions)
		if err != nil {
			t.Fatal(err)
		}
		return results[0]
	}
	if err := destroy(); !errors.Is(err, cairn.KindBusy) || !strings.Contains(err.Error(), "nightly") || !strings.Contains(err.Error(), "vault") {
		t.Errorf("leased: %v", err)
	}
	if err := planner.Close(); err != nil {
		t.Fatal(err)
	}
	for range 200 {
		if err = destroy(); err == nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("after the session: %v", err)
}

// A version read remotely reads as it does at home, from several goroutines and
// in pieces longer than one message.
func TestReadsAreSplitAndParallel(t *testing.T) {
	p := memory.New("vault")
	const size = 3<<20 + 8192
	if err := p.Create("db", size); err != nil {
		t.Fatal(err)
	}
	pattern := bytes.Repeat([]byte("0123456789abcdef"), (1<<20+4096)/16)
	if err := p.Write("db", 1<<20, pattern); err != nil {
		t.Fatal(err)
	}
	v := snapshot(t, p.Endpoint(), "@a")
	want, _ := p.Content("db", "@a")
	r, err := remote(t, "unix", p.Endpoint()).Blocks.OpenVersion(t.Context(), "db", v.VersionID)
	if err != nil {
		t.Fatal(err)
	}
	results := make(chan error)
	for i := range 8 {
		go func() {
			off := int64(i * 4096)
			got := make([]byte, size-off)
			err := r.ReadAt(t.Context(), got, off)
			if err == nil && !bytes.Equal(got, want[off:]) {
				err = errors.New("it reads differently")
			}
			results <- err
		}()
	}
	for range 8 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	if err := r.ReadAt(t.Context(), make([]byte, 2), size-1); !errors.Is(err, cairn.KindInvalid) {
		t.Errorf("past the end: %v", err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if err := r.ReadAt(t.Context(), make([]byte, 1), 0); !errors.Is(err, cairn.KindUnavailable) {
		t.Errorf("after close: %v", err)
	}
}

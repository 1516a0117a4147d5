package wrap_test

import (
	"context"
	"testing"

	"cairn"
	"cairn/internal/system/wrap"
	"cairn/internal/testkit/endpointtest"
	"cairn/internal/testkit/memory"
	"cairn/internal/work/check"
)

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// fixture checks ep, whose dataset NAME is the place's prefix + NAME.
func fixture(p *memory.Place, ep *cairn.Endpoint, prefix string) check.Fixture {
	return check.Fixture{Endpoint: ep,
		Create: func(_ context.Context, ds string, size int64) error { return p.Create(prefix+ds, size) },
		Write:  func(_ context.Context, ds string, off int64, b []byte) error { return p.Write(prefix+ds, off, b) },
		Damage: func(_ context.Context, ds string, id cairn.VersionID, off int64) error {
			return p.Damage(prefix+ds, id.Name, off)
		}}
}

// Every wrapper keeps every promise of the endpoint below it, and so does the whole
// stack of a place.
func TestWrappersKeepEveryRule(t *testing.T) {
	all := endpointtest.Options{Offered: true}
	t.Run("leased", func(t *testing.T) {
		p := memory.New("here")
		endpointtest.Run(t, fixture(p, wrap.Leased(p.Endpoint(), &wrap.Table{}), ""), all)
	})
	t.Run("confine", func(t *testing.T) {
		p := memory.New("vault")
		endpointtest.Run(t, fixture(p, must[*cairn.Endpoint](t)(wrap.Confine(p.Endpoint(), "sink", "db1")), "sink/db1/"), all)
	})
	t.Run("rebase", func(t *testing.T) {
		p := memory.New("here")
		endpointtest.Run(t, fixture(p, must[*cairn.Endpoint](t)(wrap.Rebase(p.Endpoint(), "pulled/vault")), "pulled/vault/"), all)
	})
	t.Run("owned", func(t *testing.T) {
		p := memory.New("here")
		endpointtest.Run(t, fixture(p, wrap.Owned(p.Endpoint(), "cairn-check"), ""), all)
	})
	t.Run("limit", func(t *testing.T) {
		p := memory.New("here")
		fast := wrap.NewBucket(1<<40, 0)
		endpointtest.Run(t, fixture(p, wrap.Limit(p.Endpoint(), fast, fast), ""), all)
	})
	t.Run("union", func(t *testing.T) {
		p, other := memory.New("here"), memory.New("here")
		both := wrap.Union(wrap.Side{Endpoint: other.Endpoint(), Filter: cairn.Filter{}}, wrap.Side{Endpoint: p.Endpoint(), Filter: cairn.All})
		endpointtest.Run(t, fixture(p, both, ""), all)
	})
	t.Run("translate", func(t *testing.T) {
		p := memory.New("here")
		endpointtest.Run(t, fixture(p, wrap.Translate(p.Endpoint()), ""), all)
	})
	t.Run("redial", func(t *testing.T) {
		p := memory.New("vault")
		dial := func(context.Context) (*cairn.Endpoint, error) { return p.Endpoint(), nil }
		endpointtest.Run(t, fixture(p, must[*cairn.Endpoint](t)(wrap.Redial(t.Context(), dial)), ""), all)
	})
	t.Run("append-only", func(t *testing.T) {
		p := memory.New("vault")
		endpointtest.Run(t, check.Fixture{Endpoint: wrap.AppendOnly(p.Endpoint())}, endpointtest.Options{})
	})
	t.Run("sink", func(t *testing.T) {
		p := memory.New("vault")
		ep := must[*cairn.Endpoint](t)(wrap.Confine(wrap.Leased(wrap.Owned(p.Endpoint(), "sink"), &wrap.Table{}), "sink", "db1"))
		endpointtest.Run(t, check.Fixture{Endpoint: wrap.AppendOnly(ep)}, endpointtest.Options{})
	})
}

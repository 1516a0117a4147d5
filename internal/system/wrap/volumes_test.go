package wrap_test

import (
	"context"
	"errors"
	"testing"

	"cairn"
	"cairn/internal/system/volume"
	"cairn/internal/system/wrap"
	"cairn/internal/testkit/endpointtest"
	"cairn/internal/work/check"
)

// onVolumes checks a wrapped place of volumes, whose dataset NAME is the place's
// prefix + NAME.
func onVolumes(t *testing.T, prefix string, o endpointtest.Options, wrapped func(*cairn.Endpoint) (*cairn.Endpoint, error)) {
	t.Helper()
	p := must[*volume.Place](t)(volume.OpenPlace(t.Context(), volume.PlaceOptions{Dir: t.TempDir()}))
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	f := check.Fixture{Endpoint: must[*cairn.Endpoint](t)(wrapped(p.Endpoint()))}
	if o.Offered {
		f.Remove = func(ctx context.Context, ds string) error { return p.DestroyVolume(ctx, prefix+ds) }
		f.Create = func(ctx context.Context, ds string, size int64) error { return p.Create(ctx, prefix+ds, size, "test") }
		f.Write = func(ctx context.Context, ds string, off int64, b []byte) error {
			d, err := p.Device(ctx, prefix+ds)
			if err != nil {
				return err
			}
			return errors.Join(d.WriteAt(ctx, b, off, 0), d.Flush(ctx), d.Close())
		}
	}
	endpointtest.Run(t, f, o)
}

// Volumes keep every promise through every wrapper, too.
func TestWrappedVolumesKeepEveryRule(t *testing.T) {
	type wrapper = func(*cairn.Endpoint) (*cairn.Endpoint, error)
	all := endpointtest.Options{Offered: true, NotOffered: []string{"clone", "clone-origin"}} // volumes keep no clones as clones
	fast := wrap.NewBucket(1<<40, 0)
	for _, c := range []struct {
		name, prefix string
		options      endpointtest.Options
		wrapped      wrapper
	}{
		{"leased", "", all, func(e *cairn.Endpoint) (*cairn.Endpoint, error) { return wrap.Leased(e, &wrap.Table{}), nil }},
		{"confine", "sink/db1/", all, func(e *cairn.Endpoint) (*cairn.Endpoint, error) { return wrap.Confine(e, "sink", "db1") }},
		{"rebase", "pulled/vault/", all, func(e *cairn.Endpoint) (*cairn.Endpoint, error) { return wrap.Rebase(e, "pulled/vault") }},
		{"owned", "", all, func(e *cairn.Endpoint) (*cairn.Endpoint, error) { return wrap.Owned(e, "cairn-check"), nil }},
		{"limit", "", all, func(e *cairn.Endpoint) (*cairn.Endpoint, error) { return wrap.Limit(e, fast, fast), nil }},
		{"translate", "", all, func(e *cairn.Endpoint) (*cairn.Endpoint, error) { return wrap.Translate(e), nil }},
		{"redial", "", all, func(e *cairn.Endpoint) (*cairn.Endpoint, error) {
			return wrap.Redial(t.Context(), func(context.Context) (*cairn.Endpoint, error) { return e, nil })
		}},
		{"append-only", "", endpointtest.Options{}, func(e *cairn.Endpoint) (*cairn.Endpoint, error) { return wrap.AppendOnly(e), nil }},
	} {
		t.Run(c.name, func(t *testing.T) { onVolumes(t, c.prefix, c.options, c.wrapped) })
	}
}

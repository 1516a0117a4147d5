package endpointtest_test

import (
	"context"
	"testing"

	"cairn"
	"cairn/internal/testkit/endpointtest"
	"cairn/internal/testkit/memory"
	"cairn/internal/work/check"
)

func fixture(p *memory.Place) check.Fixture {
	return check.Fixture{Endpoint: p.Endpoint(),
		Create: func(_ context.Context, ds string, size int64) error { return p.Create(ds, size) },
		Write:  func(_ context.Context, ds string, off int64, b []byte) error { return p.Write(ds, off, b) },
		Damage: func(_ context.Context, ds string, id cairn.VersionID, off int64) error {
			return p.Damage(ds, id.Name, off)
		}}
}

func TestMemoryKeepsEveryRule(t *testing.T) {
	endpointtest.Run(t, fixture(memory.New("here")), endpointtest.Options{Offered: true})
}

package wrap_test

import (
	"context"
	"fmt"
	"iter"
	"testing"

	"cairn"
	"cairn/internal/system/wrap"
	"cairn/internal/testkit/memory"
)

// BenchmarkPlanLeases is the price of a lease table per dataset in a plan of ten
// thousand: lease, look, refuse to destroy.
func BenchmarkPlanLeases(b *testing.B) {
	const datasets = 10_000
	p := memory.New("here")
	id := make([]cairn.VersionID, datasets)
	names := make([]string, datasets)
	for i := range datasets {
		names[i] = fmt.Sprintf("d%05d", i)
		if err := p.Create(names[i], 4096); err != nil {
			b.Fatal(err)
		}
	}
	got, err := p.Snapshot(b.Context(), "@a", names, false)
	if err != nil {
		b.Fatal(err)
	}
	below := p.Endpoint()
	below.Lister = oneRow(got)
	for i := range got {
		id[i] = got[i].Version.VersionID
	}
	ep := wrap.Leased(below, &wrap.Table{})
	for b.Loop() {
		for i, name := range names {
			if err := ep.Leases.SetLease(b.Context(), cairn.LeaseSet{Dataset: name, Owner: "nightly", Purpose: cairn.PurposePlan, Versions: id[i : i+1]}); err != nil {
				b.Fatal(err)
			}
		}
		for i, name := range names {
			results, err := ep.Destroys.Destroy(b.Context(), name, id[i:i+1])
			if err != nil || results[0] == nil {
				b.Fatal("destroyed")
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*datasets), "µs/dataset")
}

// oneRow answers for one dataset without looking at ten thousand, as a place does.
func oneRow(made []cairn.Captured) lister {
	byName := map[string]cairn.Version{}
	for _, c := range made {
		byName[c.Dataset] = c.Version
	}
	return func(_ context.Context, q cairn.Query) iter.Seq2[*cairn.Listing, error] {
		return func(yield func(*cairn.Listing, error) bool) {
			yield(&cairn.Listing{Dataset: cairn.Dataset{Name: q.Names[0]}, Versions: []cairn.Version{byName[q.Names[0]]}}, nil)
		}
	}
}

type lister func(ctx context.Context, q cairn.Query) iter.Seq2[*cairn.Listing, error]

func (f lister) List(ctx context.Context, q cairn.Query) iter.Seq2[*cairn.Listing, error] {
	return f(ctx, q)
}

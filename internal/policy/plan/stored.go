package plan

import (
	"slices"

	"cairn"
)

// keepsStreams reports whether the sender is a place that can send only what it
// stores.
func keepsStreams(l *cairn.Listing) bool {
	return slices.ContainsFunc(l.Versions, func(v cairn.Version) bool { return len(v.Stored) > 0 })
}

// hop is the cheapest known way to a version: the stored stream that ends there.
type hop struct {
	bytes  int64 // of all streams up to here
	stored *cairn.Stored
	to     cairn.VersionID
}

// storedSteps walks back over stored streams from the newest version that can be
// reached to the base.
func (p *planner) storedSteps() error {
	if len(p.candidates) == 0 {
		return nil
	}
	start := p.plan.Base.GUID // zero when initial: full streams begin there
	if n := len(p.plan.Steps); n > 0 {
		start = p.plan.Steps[n-1].To.GUID
	}
	ways := p.ways(start)
	for i := len(p.candidates) - 1; i >= 0; i-- {
		v := p.candidates[i]
		if _, reached := ways[v.GUID]; !reached {
			p.skip(v, "no stored stream leads there from what the receiver has")
			continue
		}
		p.walkBack(ways, start, v.GUID)
		return nil
	}
	return p.conflict(NoStoredWay)
}

// ways finds the cheapest hop to every version that can be reached from start.
// Streams lead from older to newer versions, so that one pass in order is enough.
func (p *planner) ways(start cairn.GUID) map[cairn.GUID]hop {
	ways := map[cairn.GUID]hop{start: {}}
	for i := range p.candidates {
		v := &p.candidates[i]
		for s := range v.Stored {
			stored := &v.Stored[s]
			before, reached := ways[stored.From.GUID]
			if !reached || p.Accept != nil && !slices.Contains(p.Accept, stored.Format) {
				continue
			}
			way := hop{bytes: before.bytes + stored.Bytes, stored: stored, to: v.VersionID}
			if best, known := ways[v.GUID]; !known || way.bytes < best.bytes {
				ways[v.GUID] = way
			}
		}
	}
	return ways
}

func (p *planner) walkBack(ways map[cairn.GUID]hop, start, end cairn.GUID) {
	first := len(p.plan.Steps)
	for at := end; at != start; {
		way := ways[at]
		p.plan.Steps = append(p.plan.Steps, cairn.Step{Dataset: p.plan.Dataset, From: way.stored.From, To: way.to,
			Size: way.stored.Bytes, Media: way.stored.Media})
		at = way.stored.From.GUID
	}
	slices.Reverse(p.plan.Steps[first:])
}

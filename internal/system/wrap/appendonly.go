package wrap

import (
	"context"

	"cairn"
)

// AppendOnly lets a client add versions and read what is there. It can neither
// destroy, roll back, resize, rename, unseal, heal nor rewrite; it can give up a receive
// that was cut, because no version stands on that. Leases that a person or a
// foreign tool set are out of its reach.
//
// A receiver's own retention goes by the names and times that clients send: who
// must not trust its clients keeps versions by count and age of arrival.
func AppendOnly(ep *cairn.Endpoint) *cairn.Endpoint {
	out := &cairn.Endpoint{Info: ep.Info, Close: ep.Close,
		Lister: ep.Lister, Sender: ep.Sender, Receiver: ep.Receiver,
		Estimates: ep.Estimates, Blocks: ep.Blocks, Changes: ep.Changes, Verifies: ep.Verifies, Digests: ep.Digests}
	out.Info.AppendOnly = true
	if ep.Leases != nil {
		out.Leases = workLeases{ep.Leases}
	}
	return out
}

// workLeases sets the leases that replication needs, and no other.
type workLeases struct{ cairn.Leaser }

func (w workLeases) SetLease(ctx context.Context, set cairn.LeaseSet) error {
	switch set.Purpose {
	case cairn.PurposePlan, cairn.PurposeStep, cairn.PurposeTentative, cairn.PurposeCursor, cairn.PurposeReceived:
		return w.Leaser.SetLease(ctx, set)
	}
	return &cairn.Error{Op: "lease", Subject: set.Dataset, Kind: cairn.KindPermission,
		Hint: "this place is append-only: " + set.Purpose.String() + " leases are set at the place itself"}
}

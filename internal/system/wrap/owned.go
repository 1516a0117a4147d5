package wrap

import (
	"context"

	"cairn"
)

// Owned writes one owner into every lease that is set and every receive: at the
// passive side that is the name of the job that serves, whatever the client's job
// is called.
func Owned(ep *cairn.Endpoint, owner string) *cairn.Endpoint {
	out := *ep
	if ep.Leases != nil {
		out.Leases = ownedLeases{ep.Leases, owner}
	}
	if ep.Receiver != nil {
		out.Receiver = ownedReceiver{ep.Receiver, owner}
	}
	return &out
}

type ownedLeases struct {
	cairn.Leaser
	owner string
}

func (o ownedLeases) SetLease(ctx context.Context, set cairn.LeaseSet) error {
	set.Owner = o.owner
	return o.Leaser.SetLease(ctx, set)
}

type ownedReceiver struct {
	cairn.Receiver
	owner string
}

func (o ownedReceiver) Receive(ctx context.Context, s *cairn.Stream, ro cairn.ReceiveOptions) (cairn.Received, error) {
	ro.Owner = o.owner
	return o.Receiver.Receive(ctx, s, ro)
}

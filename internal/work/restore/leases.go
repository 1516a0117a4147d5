package restore

import (
	"context"
	"slices"

	"cairn"
)

// ReleaseNewer releases, at the place of the listing, what jobs remember of the
// versions whose order is beyond the given one: what they replicated last, or were
// about to. A rollback that was asked for is not held up by that. Where plans of what
// runs now, pins or foreign holds stand in its way, nothing is released.
// The listing needs its leases.
func ReleaseNewer(ctx context.Context, ep *cairn.Endpoint, l *cairn.Listing, order uint64) error {
	if ep.Leases == nil {
		return nil
	}
	kept := map[cairn.Lease][]cairn.VersionID{}
	var drop []cairn.Lease
	for _, v := range l.Versions {
		for _, lease := range v.Leases {
			switch {
			case v.Order > order && !remembered(lease.Purpose):
				return nil // it holds the rollback up: nothing is released for nothing
			case !remembered(lease.Purpose):
			case v.Order <= order:
				kept[lease] = append(kept[lease], v.VersionID)
			case !slices.Contains(drop, lease):
				drop = append(drop, lease)
			}
		}
	}
	for _, lease := range drop {
		err := ep.Leases.SetLease(ctx, cairn.LeaseSet{Dataset: l.Dataset.Name, Owner: lease.Owner, Purpose: lease.Purpose, Versions: kept[lease]})
		if err != nil {
			return err
		}
	}
	return nil
}

func remembered(p cairn.Purpose) bool {
	switch p {
	case cairn.PurposeStep, cairn.PurposeTentative, cairn.PurposeCursor, cairn.PurposeReceived:
		return true
	}
	return false
}

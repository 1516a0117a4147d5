package daemon

import (
	"context"

	"cairn"
	"cairn/client"
)

// Describe renders a listing as the API and --json show it.
func Describe(l *cairn.Listing) client.Listing {
	d := client.Listing{Dataset: l.Dataset.Name, Kind: l.Dataset.Kind.String(), Size: l.Dataset.Size, Sealed: l.Dataset.Sealed,
		State: l.Dataset.State.String(), Why: l.Dataset.Why, Versions: make([]client.VersionInfo, 0, len(l.Versions))}
	for _, v := range l.Versions {
		info := client.VersionInfo{Name: v.Name, GUID: v.GUID.String(), Created: v.Created, Size: v.Size, Unique: v.Unique, State: v.State.String()}
		for _, lease := range v.Leases {
			info.Leases = append(info.Leases, lease.Owner+" "+lease.Purpose.String())
		}
		d.Versions = append(d.Versions, info)
	}
	if p := l.Partial; p != nil {
		d.Partial = &client.Partial{From: p.From.Name, To: p.To.Name, Received: p.Received}
	}
	return d
}

// DescribeAll lists an endpoint.
func DescribeAll(ctx context.Context, ep *cairn.Endpoint, q cairn.Query) ([]client.Listing, error) {
	all := []client.Listing{}
	for l, err := range ep.Lister.List(ctx, q) {
		if err != nil {
			return nil, err
		}
		all = append(all, Describe(l))
	}
	return all, nil
}

// HereName is the name of this machine's place.
const HereName = "here"

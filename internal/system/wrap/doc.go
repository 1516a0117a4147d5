// Package wrap holds the wrappers of endpoints: each adds one behaviour to, or
// takes rights away from, any cairn.Endpoint, one file each. They are composed in
// app, at a place in this order: endpoint, Translate, Leased, Confine,
// AppendOnly, then the wire.
//
//   - Leased lets planning, running transfers and pruning go on side by side.
//   - Confine shows a client nothing but its own datasets; Rebase puts what is
//     pulled below a root.
//   - Select shows a pulling client the datasets that a job selects.
//   - AppendOnly lets a client add versions and nothing else.
//   - Owned writes one owner into all leases.
//   - Redial replaces a session that was lost, for the next call.
//   - Translate lets volumes and zvols replicate into each other.
//   - Limit bounds the bytes per second of streams.
//
// Wrappers that add behaviour copy the endpoint and replace fields. Those that take
// rights away begin with an empty endpoint, so that an ability that is new one day
// is missing rather than let through. A wrapped endpoint's Close is that of the
// endpoint below, except Leased's, which ends one session and leaves the place open.
//
// What can go wrong: composing in another order. Confine below Leased would give
// every client a lease table of its own names, and AppendOnly below Confine would
// still be right but announce itself under the place's names.
package wrap

// Package rpc makes an endpoint usable from another process: Serve offers one per
// identity, Dial returns a cairn.Endpoint whose abilities are calls to it.
//
// A session is one control connection. It carries requests, answers, streamed
// listings and heartbeats, and nothing that is large: each stream, and each
// version opened for reading, has a data connection of its own, which the client
// opens and binds to its call by a token. So a cancel never waits behind data.
//
// It promises:
//   - What the root package promises for an ability holds for the remote one: kinds,
//     hints and places of errors cross the wire, a listing's order, a body whose EOF
//     is the sender's word, a cancel that ends the call at the peer.
//   - A cut is noticed at every byte: in a frame, between frames, and as silence.
//     Both sides send heartbeats; a peer that is silent for the limit is dead.
//   - When a session ends, the contexts of its calls end, and then its endpoint is
//     closed: plan leases go with it.
//   - A slow consumer of a listing stops its sender, not the session; nothing a peer
//     claims makes this side hold more than fixed bounds.
//   - The peer's progress, phases and counters, arrives in the watchdog of the
//     caller, its counters named "PLACE counter".
//
// What can go wrong: a cancelled call waits for the other side at most the grace
// time; what the peer's endpoint does after that is its own affair, and the next
// listing tells. A session that was lost stays lost: callers dial again. Bodies
// handed to Receive should end their Read when their context ends or they are
// closed; one that does neither is left behind.
//
// The protocol is written down in docs/formats/rpc.md.
package rpc

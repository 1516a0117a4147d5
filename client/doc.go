// Package client speaks to a running Cairn daemon over its control socket: what
// the daemon protects and how it fares, what its jobs did and do, and the few
// actions that only the process hosting the volumes can take.
//
// The protocol is HTTP with JSON bodies on a unix socket, resources below /v1/;
// the types of this package are its bodies, and fields are only ever added. A
// request that fails answers with an error body that becomes a *cairn.Error here,
// so errors.Is(err, cairn.KindNotFound) works as it does inside the daemon. When
// no daemon listens, every call fails with cairn.KindUnavailable.
//
// Nothing that the daemon discloses holds a key, a password or its environment.
package client

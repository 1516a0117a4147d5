// Package cairn is the vocabulary and the contracts of Cairn: what a dataset, a
// version, a step, a stream and an endpoint are, and what each ability of an
// endpoint promises. It does no I/O, starts no goroutine and imports only the
// standard library, so that every other package can speak it.
//
// # The model
//
// A [Dataset] is what is protected: a block volume, a ZFS filesystem or a zvol.
// A [Version] is a point in its history: a snapshot, whose data can be read, or
// a bookmark, which has no data and still knows what changed since. A version
// keeps its [GUID] at every place it is replicated to. An [Endpoint] is a place
// where datasets live. A [Step] names one transfer, a [Stream] carries it.
//
// # Rules that hold for every ability
//
//   - Contexts end everything: a call returns soon after its context is done, with
//     an error for which errors.Is(err, context.Canceled) or DeadlineExceeded holds,
//     and leaves the endpoint as if it had not been called, or as if it had
//     succeeded; which of the two, the next listing tells.
//   - Endpoints never retry. Who calls a verb retries (package work/replicate and
//     its siblings), under a watchdog.
//   - When a call that changes something returns without error, the change
//     survives a kill of the process and a power cut. When it returns an error, the
//     change happened entirely or not at all.
//   - Every changing call may be made twice: the second finds its work done and
//     says so by succeeding, or fails with [KindExists] or [KindNotFound] where
//     the doc comment says that.
//   - Sizes, offsets and lengths are bytes unless a name says otherwise (…Blocks).
//   - Errors that reach a caller are *[Error] with a [Kind]; a remote endpoint keeps
//     the kind, so errors.Is(err, KindX) holds on either side of a wire.
//   - All methods may be called from several goroutines at once.
//
// Progress is reported through the context (package internal/mech/watchdog), not
// through these contracts.
package cairn

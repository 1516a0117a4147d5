// Package memory is an endpoint that holds its volumes in memory: what tests of
// verbs, of the wire and of wrappers move versions between. It offers every
// ability, keeps every promise of the root package but durability, passes the
// conformance suite (internal/work/check) and speaks the real stream format
// (internal/format/blocks).
//
// What can go wrong is up to the test: a Hook sees every call at its stages and
// may delay it, fail it, hang it, or hang it deaf to its context.
//
// Content is held block by block and shared between versions; volumes of some
// MiB, and tens of thousands of versions, are fine.
package memory

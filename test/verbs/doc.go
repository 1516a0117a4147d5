// Package verbs runs the verbs on the real parts below them: stores on disk,
// leases, confinement and the wire, with connections that are cut at random. It
// has tests only; CAIRN_SCALE=full takes more seeds.
package verbs

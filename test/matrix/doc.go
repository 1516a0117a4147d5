// Package matrix replicates from every kind of sender to every kind of receiver,
// here and over every transport, pushed and pulled: full, incremental from a
// snapshot and from a bookmark, resumed, cancelled. What cannot be is refused with
// the reason. It has tests only.
//
// ZFS is the fake of testkit/fakezfs; the same ways on OpenZFS are in test/vm. By
// default each transport is tried with some of the ways; CAIRN_SCALE=full (make
// matrix) takes every cell.
package matrix

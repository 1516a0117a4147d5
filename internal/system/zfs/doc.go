// Package zfs is the place where ZFS filesystems and zvols live: an endpoint over
// the programs zfs and zpool, the only package that starts them.
//
// # What it promises
//
//   - Few processes. A listing of any number of datasets is two, and one more per
//     500 held snapshots; a step is eight (hold, send, receive, hold, bookmark,
//     destroy, release, release), since what was listed is remembered and kept up
//     to date by what is done here.
//   - Nothing is destroyed by name alone: before every destroy the dataset is
//     listed anew and name and GUID are compared. Only cursor bookmarks, whose name
//     holds their GUID, go by what was listed before.
//   - No process can hang the caller: each runs in a group of its own under
//     internal/mech/child. The dataset of one that no signal ends is locked until it
//     has ended. There is no shell, and the locale is fixed.
//   - GUIDs, order and end of a stream are checked while it passes, at both ends, and
//     its sums at the sender (internal/format/zfsstream); the receiver's sums are
//     verified by `zfs receive`. The end of a stream reaches `zfs receive` only
//     after the sender has vouched for all of it.
//   - Names on disk are those of zrepl: holds, cursor bookmarks, placeholders and
//     the layout of received datasets (docs/formats/zfs-names.md).
//
// # What ZFS does not give
//
// A stream of several versions (-I) commits one version after the other, each
// whole. A bookmark that takes the place of its snapshot is made before the
// snapshot is destroyed; a crash in between leaves both. A snapshot that somebody
// destroys and makes anew under the same name between our listing and our destroy,
// some milliseconds, is not told apart.
//
// # What can go wrong
//
// Messages of zfs are matched by their words (errors.go); one that is not known is
// KindOther and quoted. Missing permissions are KindPermission with the `zfs allow`
// that would give them. User properties may hold anything, line ends included, so
// that a listing of them can be forged by who may set them: a placeholder is looked
// at once more, alone, before it is overwritten.
package zfs

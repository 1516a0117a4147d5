// Package volume is the block engine: volumes whose versions are captured while
// they are written to, and the place that holds many of them.
//
// A volume is a head, which is a plain file or device that holds the present
// content, and a store, which is a folder that holds everything else: a catalog
// (what exists), segments (blocks preserved before they were overwritten), marks
// and change sets (which blocks were written when). The layout is written down in
// docs/formats/volume.md; the child packages catalog, segment, changes and stage
// own it.
//
// # Intervals
//
// Time is cut into intervals: each capture ends one and begins the next. A segment
// belongs to the interval in which it was begun, a change set covers whole
// intervals, and a version has only a first interval. From that all else follows:
// a snapshot reads a block from the first segment of its interval or a later one
// that has it, else from the head; what changed between two versions is the union
// of the sets between their intervals; destroying a version removes its record
// and nothing moves, whatever no remaining version needs is dropped.
//
// # Promises
//
//   - A block is durable in a segment before the origin's is overwritten, for the
//     newest snapshot; older ones read through it.
//   - A write is issued only after a mark of it is durable: a preserved block is
//     one, else a record in the log of marks. The change set never misses a write;
//     after a crash it exceeds the truth by at most Options.ActiveBytes.
//   - A version is visible, sendable and reported only after its catalog record is
//     durable. What a capture gathered that was never committed joins the interval
//     before it.
//   - A group capture makes a version of each of its volumes, all of one instant, or
//     none, whatever dies on the way (CaptureGroup).
//   - No write fails because of a snapshot while one may be given up. A sealed
//     volume (a replica) gives up nothing.
//   - No acknowledged write is lost by the death of the process: small first writes
//     wait for the next flush in a file that the kernel holds (staged), all others
//     are in the head.
//   - A block hash table, where there is one, vouches for a block only if it holds what it
//     held at the table's version, as far as no change set says that it was written (2101).
//   - A flush returns when every write acknowledged before is durable; after one
//     failed, every later one fails until the volume is opened anew.
//
// # States, and what can go wrong
//
// A volume is ok; unverified when its adopted origin may have been written to by
// others (captures and incremental streams are refused until MarkDirty), or a
// flush of its head failed in an earlier run; damaged when segments lack blocks
// below what was known durable, or a snapshot holds blocks that could not be read;
// degraded for a day after snapshots were given up for room. Errors are *cairn.Error: KindSpace (no room and
// nothing to give up), KindIO (disk), KindDamaged (a preserved block is rotten:
// EIO in that snapshot only), KindDegraded (a snapshot was given up while it was
// read), KindCorrupt (the catalog is unreadable; the head is not), KindBusy
// (leased, being read, open elsewhere), KindConflict (sealed, other history).
//
// # Locks
//
// Volume.admin, then gate, then carrying, then persist, then mu; that of the block
// hash table, then logMu, and the locks of the stack are taken last. Readers take
// only the stack's. A group capture takes the admin of all its volumes and then their gates, each time in the order of their
// names.
package volume

// Package tape is the live LTFS volume on a drive: it formats, opens, reads,
// appends, commits, checks and walks the generations of a tape, through the format
// (package ltfs) and a drive (package drive).
//
// # What it promises
//
//   - Opening reads both labels and finds the newest index by the medium's
//     coherency attributes where they can be trusted, else by looking back from the
//     end of both partitions. It writes nothing.
//   - The data partition only grows. Before its first new record, the index
//     partition ends in a valid index; Commit writes the data partition's index
//     first. So at every instant at least one partition ends in a valid index.
//   - Small files share records: what is put in one go is written densely.
//   - Many files are read in the order they stand on the tape.
//   - As a file system (FS): what a returned Fsync, Sync or, under close-sync, Flush
//     promised is on tape with an index that names it; an index says which files were
//     open for writing; reads and writes go on while it is written; a failed one is
//     tried again for ever. The policy is policy/syncpolicy.
//   - A tape whose end does not look as its indexes say is read, and refused for
//     writing until it was checked.
//
// # What can go wrong
//
// Not a tape, another format, labels that disagree, an index of another volume:
// KindCorrupt or KindConflict with both sides named. No end mark, records behind
// the last index: KindDamaged for writers. A full medium: KindSpace; what was
// committed before stays.
//
// No physical drive was used to test it: the drives are a folder of records, a test
// drive, and a model of an LTO drive behind the kernel's SCSI layers.
package tape

package volume

import "cairn/internal/system/volume/hashes"

// Fault names one rule of the engine that is broken on purpose, so that the crash
// harness can show it would notice. They combine; zero breaks nothing. Only tests
// set them.
type Fault uint64

// The faults, each named after what is left out or done in the wrong order.
const (
	FaultSkipSegmentSync     Fault = 1 << iota // the origin is overwritten before the preserved block is durable
	FaultSkipMarkSync                          // a write is issued before its mark is durable
	FaultSkipFolderSync                        // names of new files are not made durable before the catalog speaks of them
	FaultSkipCatalogSync                       // catalog records are not made durable
	FaultSkipHeadFlush                         // a capture commits without flushing the origin after the switch
	FaultCommitBeforeSet                       // a capture commits before its change set is durable
	FaultDropFoldBack                          // what an uncommitted capture gathered is dropped at recovery
	FaultUnlinkBeforeCommit                    // files are unlinked before the record that gives them up
	FaultKeepMarked                            // writes after a checkpoint rely on marks of the epoch that it dropped
	FaultDropMarksEarly                        // marks are removed before the checkpoint that replaces them is durable
	FaultDestroyDropsBlocks                    // destroying a snapshot drops its segments although an older one reads through them
	FaultNoSecondLook                          // snapshot readers do not look up again after they have read the head
	FaultPointBeforeFlush                      // a receive records its resume point before the head is flushed
	FaultForgetStage                           // writes that a process which died had staged are not carried out
	FaultKeepStage                             // staged writes stay on record after they were carried out
	FaultStageOfAnyBoot                        // staged writes count after the kernel that held them died
	FaultGroupInTurns                          // the volumes of a group are captured one after the other
	FaultGroupUnsynced                         // the record of a group is not durable before the catalogs speak of its versions
	FaultGroupNotTakenOver                     // an opening does not look for the record of a group
	FaultHealUnchecked                         // a damaged block is healed by content that its checksum speaks against
	FaultRotIsTorn                             // rot of a segment's last batch is taken for a torn tail
	FaultForgetFlush                           // that a flush failed is not recorded
	FaultReserveSpent                          // a reserve that was needed is not made again
	FaultForgetBits                            // a write under a mark does not enter the change set
	FaultUnboundedMarks                        // marks are never replaced by a checkpoint, however many they are
	FaultZeroUnpreserved                       // what is zeroed is not preserved
	FaultPublishLate                           // preserved blocks are not found by readers
	FaultNoDrain                               // a capture does not wait for the writes under way
	FaultLoseFoldBack                          // a capture that fails loses what was gathered before it
	FaultRetrySync                             // a sync of a segment that failed is tried again on the same data
	FaultForgetFlushError                      // after a failed flush the next one is believed
	FaultDegradeDropsChanges                   // a snapshot that becomes a bookmark loses its change sets
	FaultGrowUnmarked                          // a grown area does not count as changed
	FaultTruncateFirst                         // a shrink cuts the head before what it cuts off is preserved
	FaultRollbackNotResumed                    // an opening does not finish a rollback
	FaultKeepNone                              // for want of room every snapshot is given up
	FaultAbortForgets                          // an abort does not return the head to its base
	FaultBatchesNoMarks                        // what a segment's batches preserved does not count as written after a crash
	FaultFreeEarly                             // segments are freed while a snapshot is read from them
	FaultSinkGivesUp                           // a replica gives snapshots up for room
	FaultGiveUpPinned                          // so does a volume a snapshot that is pinned
	FaultBaseUnpinned                          // the base of a receive that was cut can be destroyed
	FaultBelieveOrigin                         // an adopted head is believed whatever the evidence says
	FaultTableUnsynced                         // the block hash table is put on record before its pages are durable
	FaultTableKeepsStale                       // it keeps entries of blocks that changed and were not seen
	FaultTableMisplaced                        // its entries stand in their neighbours' places
	FaultTableTrusted                          // its pages are believed although their update did not end
	FaultTableAhead                            // a rollback leaves it as it was
	FaultTableUndated                          // it speaks of every version as if nothing had changed

	// FaultLast is the last of them.
	FaultLast = FaultTableUndated
)

func (f Fault) has(x Fault) bool { return f&x != 0 }

// ofTable is the faults of the block hash table among them.
func (f Fault) ofTable() (t hashes.Fault) {
	for is, then := range map[Fault]hashes.Fault{FaultTableUnsynced: hashes.FaultUnsynced, FaultTableKeepsStale: hashes.FaultKeepStale,
		FaultTableMisplaced: hashes.FaultMisplaced, FaultTableTrusted: hashes.FaultTrust} {
		if f.has(is) {
			t |= then
		}
	}
	return t
}

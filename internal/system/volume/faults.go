package volume

// Fault names one rule of the engine that is broken on purpose, so that the crash
// harness can show it would notice. They combine; zero breaks nothing. Only tests
// set them.
type Fault uint32

// The faults, each named after what is left out or done in the wrong order.
const (
	FaultSkipSegmentSync    Fault = 1 << iota // the origin is overwritten before the preserved block is durable
	FaultSkipMarkSync                         // a write is issued before its mark is durable
	FaultSkipFolderSync                       // names of new files are not made durable before the catalog speaks of them
	FaultSkipCatalogSync                      // catalog records are not made durable
	FaultSkipHeadFlush                        // a capture commits without flushing the origin after the switch
	FaultCommitBeforeSet                      // a capture commits before its change set is durable
	FaultDropFoldBack                         // what an uncommitted capture gathered is dropped at recovery
	FaultUnlinkBeforeCommit                   // files are unlinked before the record that gives them up
	FaultKeepMarked                           // writes after a checkpoint rely on marks of the epoch that it dropped
	FaultDropMarksEarly                       // marks are removed before the checkpoint that replaces them is durable
	FaultDestroyDropsBlocks                   // destroying a snapshot drops its segments although an older one reads through them
	FaultNoSecondLook                         // snapshot readers do not look up again after they have read the head
	FaultPointBeforeFlush                     // a receive records its resume point before the head is flushed
	FaultForgetStage                          // writes that a process which died had staged are not carried out
	FaultKeepStage                            // staged writes stay on record after they were carried out
	FaultStageOfAnyBoot                       // staged writes count after the kernel that held them died
	FaultGroupInTurns                         // the volumes of a group are captured one after the other
	FaultGroupUnsynced                        // the record of a group is not durable before the catalogs speak of its versions
	FaultGroupNotTakenOver                    // an opening does not look for the record of a group
	FaultHealUnchecked                        // a damaged block is healed by content that its checksum speaks against
	FaultRotIsTorn                            // rot of a segment's last batch is taken for a torn tail
)

func (f Fault) has(x Fault) bool { return f&x != 0 }

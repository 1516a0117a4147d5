package crash_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cairn/internal/system/volume"
)

// The ways in which the harness can notice a fault: each runs the workload of a
// seed with it.
func byCuts(s uint64, f volume.Fault) error {
	if failure, _ := try(draw(s, *length), f, always(1)); failure != nil {
		return fmt.Errorf("cut %d: %w", failure.cut, failure.err)
	}
	return nil
}

func byFailing(s uint64, f volume.Fault) error {
	w := draw(s, *length)
	w.faults = f
	_, err := w.failEach(1)
	return err
}

func byRoom(s uint64, f volume.Fault) error {
	w := draw(s, *length)
	w.faults = f
	_, _, err := w.runOutOfRoom(len(w.ops) / 4)
	return err
}

func byReceive(s uint64, f volume.Fault) error {
	_, err := tryReceive(drawSource(s, 3), f, 1)
	return err
}

func byGroup(s uint64, f volume.Fault) error {
	_, _, _, err := tryPair(s, f, nil, always(1))
	return err
}

// byMarks marks region after region of a volume that has a bookmark only, with an
// active set of one.
func byMarks(s uint64, f volume.Fault) error {
	w := workload{seed: s, sectors: 16 * regionSize / sectorSize, active: regionSize, segment: 64 << 20,
		ops: []op{{kind: opWrite, count: 8}, {kind: opCapture}, {kind: opDegrade}}}
	for region := range int64(16) {
		w.ops = append(w.ops, op{kind: opWrite, first: region * regionSize / sectorSize, count: perBlock}, op{kind: opFlush})
	}
	if failure, _ := try(w, f, always(1)); failure != nil {
		return fmt.Errorf("cut %d: %w", failure.cut, failure.err)
	}
	return nil
}

// faultsPlanted lists each rule of the engine, the fault that breaks it, how that
// is looked for, and a seed that is known to notice it soon.
var faultsPlanted = []struct {
	rule  string
	fault volume.Fault
	by    func(uint64, volume.Fault) error
	seed  uint64
}{
	{"preserved blocks are durable before the origin is overwritten", volume.FaultSkipSegmentSync, byCuts, 1},
	{"marks are durable before a write is issued", volume.FaultSkipMarkSync, byCuts, 5},
	{"new files and their names are durable before the catalog speaks of them", volume.FaultSkipFolderSync, byCuts, 1},
	{"catalog records are durable before anything stands on them", volume.FaultSkipCatalogSync, byCuts, 1},
	{"a capture flushes the origin after the switch", volume.FaultSkipHeadFlush, byCuts, 1},
	{"a capture's change set is durable before its record", volume.FaultCommitBeforeSet, byCuts, 1},
	{"what an uncommitted capture gathered is folded back", volume.FaultDropFoldBack, byCuts, 2},
	{"files go only after the record that gives them up", volume.FaultUnlinkBeforeCommit, byCuts, 1},
	{"writes after a rotation need a fresh mark", volume.FaultKeepMarked, byCuts, 8},
	{"marks go only after the checkpoint that replaces them", volume.FaultDropMarksEarly, byCuts, 8},
	{"a destroyed snapshot's segments pass to its elder", volume.FaultDestroyDropsBlocks, byCuts, 3},
	{"snapshot reads look again after reading the head", volume.FaultNoSecondLook, byCuts, 22},
	{"what a process that died had acknowledged is carried out", volume.FaultForgetStage, byCuts, 24},
	{"a staged write that was carried out is never carried out again", volume.FaultKeepStage, byCuts, 19},
	{"staged writes count only in the boot that staged them", volume.FaultStageOfAnyBoot, byCuts, 17},
	{"a write under a mark enters the change set before the mark may go", volume.FaultForgetBits, byCuts, 5},
	{"the excess after a crash is bounded by the active set", volume.FaultUnboundedMarks, byMarks, 1},
	{"what is zeroed or discarded is preserved first", volume.FaultZeroUnpreserved, byCuts, 2},
	{"preserved blocks can be found before the origin is overwritten", volume.FaultPublishLate, byCuts, 1},
	{"a capture waits for the writes under way", volume.FaultNoDrain, byCuts, 1},
	{"a capture that fails folds back what was gathered", volume.FaultLoseFoldBack, byFailing, 2},
	{"a failed sync of a segment is never retried on the same data", volume.FaultRetrySync, byFailing, 1},
	{"after a failed flush every later one fails", volume.FaultForgetFlushError, byFailing, 5},
	{"a bookmark keeps the changes of the snapshot it was", volume.FaultDegradeDropsChanges, byCuts, 3},
	{"a grown area counts as changed", volume.FaultGrowUnmarked, byCuts, 4},
	{"a shrink preserves before it cuts", volume.FaultTruncateFirst, byCuts, 1},
	{"what a batch preserved counts as written", volume.FaultBatchesNoMarks, byCuts, 1},
	{"an opening finishes a rollback", volume.FaultRollbackNotResumed, byCuts, 5},
	{"for want of room some snapshots are never given up", volume.FaultKeepNone, byRoom, 2},
	{"a resume point is recorded after the head was flushed", volume.FaultPointBeforeFlush, byReceive, 1},
	{"an abort returns the head to its base", volume.FaultAbortForgets, byReceive, 1},
	{"the volumes of a group stand still together", volume.FaultGroupInTurns, byGroup, 2},
	{"the block hash table is put on record after its pages are durable", volume.FaultTableUnsynced, byTable, 2},
	{"it knows nothing of blocks that changed and were not read", volume.FaultTableKeepsStale, byLiveTable, 9},
	{"an entry stands in its block's place", volume.FaultTableMisplaced, byLiveTable, 1},
	{"pages of an update that did not end are believed only for what nobody wrote", volume.FaultTableTrusted, byTable, 2},
	{"a rollback takes back what the table says", volume.FaultTableAhead, byLiveTable, 14},
	{"the table says nothing of blocks that were written before or since", volume.FaultTableUndated, byLiveTable, 2},
	{"the record of a group is durable before a catalog speaks of it", volume.FaultGroupUnsynced, byGroup, 1},
	{"an opening takes over what the record of a group says", volume.FaultGroupNotTakenOver, byGroup, 1},
}

// sampled tells whether one of many checks is done in the default run, which does
// one in share of them.
func sampled(i, share int) bool { return full() || *seeds > 0 || i%share == 0 }

// Each rule of the engine, broken on purpose, is noticed within a few workloads;
// the log says by which.
func TestPlantedFaults(t *testing.T) {
	for i, c := range faultsPlanted {
		if !sampled(i, 8) {
			continue
		}
		t.Run(fmt.Sprintf("fault=%#x", uint64(c.fault)), func(t *testing.T) {
			t.Parallel()
			s := c.seed
			for next := uint64(1); next <= 40; next++ {
				if err := c.by(s, c.fault); err != nil {
					t.Logf("%s: noticed by seed %d: %v", c.rule, s, err)
					return
				}
				s = next
			}
			t.Errorf("%s: broken, and nothing noticed it", c.rule)
		})
	}
}

// The workload of many marks is right when nothing is broken.
func TestManyMarks(t *testing.T) {
	if err := byMarks(1, 0); err != nil {
		t.Error(err)
	}
}

// besideTheCode are the faults of rules that neither cuts nor failing calls show,
// each with the test that plants it and sees it noticed.
var besideTheCode = map[volume.Fault]string{
	volume.FaultHealUnchecked: "internal/system/volume.TestHealRefusesWrongContent",
	volume.FaultRotIsTorn:     "internal/system/volume.TestRotTakenForATornTailIsNoticed",
	volume.FaultReserveSpent:  "internal/system/volume.TestKilledOnAFullDiskAgainAndAgain",
	volume.FaultForgetFlush:   "internal/system/volume.TestPlantedFaults",
	volume.FaultFreeEarly:     "internal/system/volume.TestPlantedFaults",
	volume.FaultSinkGivesUp:   "internal/system/volume.TestPlantedFaults",
	volume.FaultGiveUpPinned:  "internal/system/volume.TestPlantedFaults",
	volume.FaultBaseUnpinned:  "internal/system/volume.TestPlantedFaults",
	volume.FaultBelieveOrigin: "internal/system/volume.TestPlantedFaults",
}

// stands tells whether there is a test of that name in the folder of the tree.
func stands(t *testing.T, proof string) bool {
	t.Helper()
	dir, name, _ := strings.Cut(proof, ".")
	files, err := filepath.Glob(filepath.Join("../..", dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(text, []byte("func "+name+"(")) {
			return true
		}
	}
	return false
}

// Every fault that the engine knows is planted somewhere; what barriers are proved
// by elsewhere is there, too.
func TestEveryFaultIsPlanted(t *testing.T) {
	seen := volume.Fault(0)
	for f, proof := range besideTheCode {
		seen |= f
		if !stands(t, proof) {
			t.Errorf("fault %#x: there is no %s", uint64(f), proof)
		}
	}
	for _, c := range faultsPlanted {
		seen |= c.fault
	}
	for b, proof := range provedElsewhere {
		if !stands(t, proof) {
			t.Errorf("barrier %s: there is no %s", b, proof)
		}
	}
	if all := volume.FaultLast<<1 - 1; seen != all {
		t.Errorf("faults %#x are never planted", uint64(all&^seen))
	}
}

package crash_test

import (
	"fmt"
	"testing"

	"cairn/internal/system/volume"
)

// Each rule of the engine, broken on purpose, is noticed within a few workloads;
// the log says by which.
func TestPlantedFaults(t *testing.T) {
	for _, c := range []struct {
		rule  string
		fault volume.Fault
		seed  uint64 // that is known to notice it soon; others follow
	}{
		{"preserved blocks are durable before the origin is overwritten", volume.FaultSkipSegmentSync, 1},
		{"marks are durable before a write is issued", volume.FaultSkipMarkSync, 5},
		{"new files and their names are durable before the catalog speaks of them", volume.FaultSkipFolderSync, 1},
		{"catalog records are durable before anything stands on them", volume.FaultSkipCatalogSync, 1},
		{"a capture flushes the origin after the switch", volume.FaultSkipHeadFlush, 1},
		{"a capture's change set is durable before its record", volume.FaultCommitBeforeSet, 1},
		{"what an uncommitted capture gathered is folded back", volume.FaultDropFoldBack, 2},
		{"files go only after the record that gives them up", volume.FaultUnlinkBeforeCommit, 1},
		{"writes after a rotation need a fresh mark", volume.FaultKeepMarked, 8},
		{"marks go only after the checkpoint that replaces them", volume.FaultDropMarksEarly, 8},
		{"a destroyed snapshot's segments pass to its elder", volume.FaultDestroyDropsBlocks, 3},
		{"snapshot reads look again after reading the head", volume.FaultNoSecondLook, 22},
		{"what a process that died had acknowledged is carried out", volume.FaultForgetStage, 24},
		{"a staged write that was carried out is never carried out again", volume.FaultKeepStage, 19},
		{"staged writes count only in the boot that staged them", volume.FaultStageOfAnyBoot, 5},
	} {
		t.Run(fmt.Sprintf("fault=%#x", uint32(c.fault)), func(t *testing.T) {
			s := c.seed
			for next := uint64(1); next <= 60; next++ {
				if f, _ := try(draw(s, *length), c.fault, always(1)); f != nil {
					t.Logf("%s: noticed by seed %d, cut %d: %v", c.rule, s, f.cut, f.err)
					return
				}
				s = next
			}
			t.Errorf("%s: broken, and nothing noticed it", c.rule)
		})
	}
}

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
	}{
		{"preserved blocks are durable before the origin is overwritten", volume.FaultSkipSegmentSync},
		{"marks are durable before a write is issued", volume.FaultSkipMarkSync},
		{"new files and their names are durable before the catalog speaks of them", volume.FaultSkipFolderSync},
		{"catalog records are durable before anything stands on them", volume.FaultSkipCatalogSync},
		{"a capture flushes the origin after the switch", volume.FaultSkipHeadFlush},
		{"a capture's change set is durable before its record", volume.FaultCommitBeforeSet},
		{"what an uncommitted capture gathered is folded back", volume.FaultDropFoldBack},
		{"files go only after the record that gives them up", volume.FaultUnlinkBeforeCommit},
		{"writes after a rotation need a fresh mark", volume.FaultKeepMarked},
		{"marks go only after the checkpoint that replaces them", volume.FaultDropMarksEarly},
		{"a destroyed snapshot's segments pass to its elder", volume.FaultDestroyDropsBlocks},
		{"snapshot reads look again after reading the head", volume.FaultNoSecondLook},
	} {
		t.Run(fmt.Sprintf("fault=%#x", uint32(c.fault)), func(t *testing.T) {
			for s := uint64(1); s <= 60; s++ {
				if f, _ := try(draw(s, *length), c.fault, 1, nil); f != nil {
					t.Logf("%s: noticed by seed %d, cut %d: %v", c.rule, s, f.cut, f.err)
					return
				}
			}
			t.Errorf("%s: broken, and nothing noticed it", c.rule)
		})
	}
}

package main

import (
	"math/rand/v2"
	"testing"
)

// The change sets are 1 % of the blocks, each block once, in runs of 64 KiB or one
// by one.
func TestPick(t *testing.T) {
	const blocks = 524288
	for pattern, run := range map[string]int64{"runs": 16, "single": 1} {
		list := pick(pattern, blocks, rand.New(rand.NewPCG(1, 1)))
		if int64(len(list)) < blocks/100 || int64(len(list)) >= blocks/100+run {
			t.Errorf("%s: %d blocks", pattern, len(list))
		}
		seen := map[int64]bool{}
		for i, b := range list {
			if seen[b] || b < 0 || b >= blocks {
				t.Fatalf("%s: block %d twice or outside", pattern, b)
			}
			seen[b] = true
			if run > 1 && int64(i)%run != 0 && b != list[i-1]+1 {
				t.Fatalf("%s: block %d does not follow %d", pattern, b, list[i-1])
			}
		}
	}
}

func TestSentBytes(t *testing.T) {
	if n := sentBytes("Number of files: 1\nTotal bytes sent: 21,504,123\n"); n != 21504123 {
		t.Errorf("%d", n)
	}
	if n := sentBytes("nothing"); n != -1 {
		t.Errorf("%d", n)
	}
}

func TestLimitsAreCounted(t *testing.T) {
	b := &bench{}
	for _, cpu := range []float64{0.1, 9, 9} { // one good round changes nothing
		b.add(row{tool: "cairn", step: "runs: send", cpu: cpu})
		b.add(row{tool: "other", step: "runs: send", cpu: 1})
	}
	b.limit("CPU", b.sum("runs: send").cpu, 0.5, "s")
	b.limit("CPU", b.sum("runs: receive").cpu, 0.5, "s")
	if len(b.short) != 1 {
		t.Errorf("short in %v", b.short)
	}
}

// A peer's full copy is compared with both of our sides of the same round.
func TestRatiosAreTakenPerRound(t *testing.T) {
	b := &bench{}
	for _, load := range []float64{1, 5, 2} { // what else the machine does meets all of a round
		b.add(row{tool: "cairn", step: "full: send", cpu: 2 * load})
		b.add(row{tool: "cairn", step: "full: receive", cpu: load})
		b.add(row{tool: "borg", step: "full", cpu: 4 * load})
	}
	if got := b.beside(b.of("borg", "full")); got != 0.75 {
		t.Errorf("%v", got)
	}
	if b.judge() != nil {
		t.Error("three quarters of borg's time is short")
	}
	b.of("borg", "full").rounds[1].cpu, b.of("borg", "full").rounds[2].cpu = 14, 5
	if b.judge() == nil {
		t.Error("more than borg's time in two rounds of three is not short")
	}
}

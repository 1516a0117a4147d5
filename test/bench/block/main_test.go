package main

import "testing"

// A ratio below its limit is counted as short, and a missing row is no verdict.
func TestJudge(t *testing.T) {
	b := &bench{rows: []row{
		{server: "cairn", work: "4 KiB reads, depth 32", ops: 100, cpu: 1, wall: 1},
		{server: "nbdkit file", work: "4 KiB reads, depth 32", ops: 100, cpu: 1, wall: 1},
	}}
	b.judge()
	if len(b.short) != 1 {
		t.Errorf("short in %v", b.short)
	}
	b.rows[0].cpu, b.short = 0.5, nil
	b.judge()
	if len(b.short) != 0 {
		t.Errorf("twice nbdkit's rate is short in %v", b.short)
	}
}

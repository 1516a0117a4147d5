package main

import (
	"testing"
	"time"
)

func rounds(cpu ...time.Duration) (list []sample) {
	for _, c := range cpu {
		list = append(list, sample{ops: 100, cpu: c, wall: time.Second})
	}
	return list
}

// A ratio below its limit is counted as short, one bad round in three changes
// nothing, and a missing row is no verdict.
func TestJudge(t *testing.T) {
	const work = "4 KiB reads, depth 32"
	b := &bench{results: []result{
		{server: "cairn", work: work, rounds: rounds(time.Second, time.Second, time.Second)},
		{server: "nbdkit file", work: work, rounds: rounds(time.Second, time.Second, 9*time.Second)},
	}}
	if b.judge() == nil || len(b.short) != 1 {
		t.Errorf("short in %v", b.short)
	}
	b.results[0].rounds, b.short = rounds(time.Second/2, time.Second/2, 20*time.Second), nil
	if b.judge() != nil {
		t.Errorf("twice nbdkit's rate is short in %v", b.short)
	}
}

// What fio says is read from behind its warnings.
func TestParse(t *testing.T) {
	var s sample
	out := `fio: something
{"jobs": [{"error": 0, "read": {"total_ios": 0}, "write": {"total_ios": 64, "runtime": 250, "clat_ns": {"percentile": {"99.900000": 1500000}}}}]}`
	if err := parse([]byte(out), &s); err != nil || s.ops != 64 || s.wall != 250*time.Millisecond || s.p999 != 1500*time.Microsecond {
		t.Errorf("%+v, %v", s, err)
	}
	for _, bad := range []string{"", `{"jobs": []}`, `{"jobs": [{"error": 5, "read": {"total_ios": 1}}]}`, `{"jobs": [{"error": 0}]}`} {
		if parse([]byte(bad), &s) == nil {
			t.Errorf("%q is a result", bad)
		}
	}
}

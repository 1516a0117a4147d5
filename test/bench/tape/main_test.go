//go:build linux

package main

import (
	"testing"
	"time"
)

// The middle of the CPU seconds and the most records count, and either limit can be broken.
func TestJudge(t *testing.T) {
	w := work{name: "x", maxCPU: time.Second, maxRecords: 10}
	for _, c := range []struct {
		results []result
		good    bool
	}{
		{[]result{{3 * time.Second, 5}, {time.Second, 5}, {time.Second / 2, 5}}, true},
		{[]result{{3 * time.Second, 5}, {2 * time.Second, 5}, {time.Second / 2, 5}}, false},
		{[]result{{time.Second / 2, 5}, {time.Second, 11}}, false},
		{[]result{{time.Second, 11}}, false},
	} {
		if line, good := judge(w, c.results); good != c.good {
			t.Errorf("%s: %v", line, good)
		}
	}
}

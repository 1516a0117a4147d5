//go:build linux

package main

import (
	"fmt"
	"slices"
	"strings"
)

// judge prints the results beside the limits. Of CPU seconds the middle counts, of
// records the most.
func judge(w work, results []result) (line string, good bool) {
	slices.SortFunc(results, func(a, b result) int { return int(a.cpu - b.cpu) })
	r := results[len(results)/2]
	for _, x := range results {
		r.records = max(r.records, x.records)
	}
	good = (w.maxCPU == 0 || r.cpu <= w.maxCPU) && (w.maxRecords == 0 || r.records <= w.maxRecords)
	var all []string
	for _, x := range results {
		all = append(all, fmt.Sprintf("%.2f", x.cpu.Seconds()))
	}
	line = fmt.Sprintf("%-40s %.2f CPU s (%s)", w.name, r.cpu.Seconds(), strings.Join(all, " "))
	if w.maxCPU > 0 {
		line += fmt.Sprintf(", at most %.2f", w.maxCPU.Seconds())
	}
	line += fmt.Sprintf("; %d records", r.records)
	if w.maxRecords > 0 {
		line += fmt.Sprintf(", at most %d", w.maxRecords)
	}
	if !good {
		line += "  OVER"
	}
	return line, good
}

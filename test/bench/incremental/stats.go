package main

import (
	"regexp"
	"strconv"
	"strings"
)

var sentLine = regexp.MustCompile(`Total bytes sent: ([0-9,]+)`)

// sentBytes reads rsync's own account of what it sent, -1 when it is not there.
func sentBytes(stats string) int64 {
	m := sentLine.FindStringSubmatch(stats)
	if m == nil {
		return -1
	}
	n, err := strconv.ParseInt(strings.ReplaceAll(m[1], ",", ""), 10, 64)
	if err != nil {
		return -1
	}
	return n
}

// Command zfs is the fake ZFS alone, which starts in half the time of a test binary
// (see package fakezfs). It is nothing but that: started under another name than
// zfs, or outside a fake's folder, it fails.
package main

import (
	"os"

	"cairn/internal/testkit/fakezfs"
)

func main() { os.Exit(status()) } //nolint:forbidigo // a program's end

func status() int {
	if status, is := fakezfs.Program(); is {
		return status
	}
	return 2
}

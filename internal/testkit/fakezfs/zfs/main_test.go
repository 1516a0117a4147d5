package main

import (
	"os"
	"path/filepath"
	"testing"

	"cairn/internal/testkit/fakezfs"
)

// The program is zfs inside a fake's folder, and nothing elsewhere.
func TestProgramIsTheFakeOnly(t *testing.T) {
	args := os.Args
	defer func() { os.Args = args }()
	dir := t.TempDir()
	if _, err := fakezfs.In(dir); err != nil {
		t.Fatal(err)
	}
	for program, want := range map[string]int{
		filepath.Join(dir, "zfs"):         0,
		filepath.Join(dir, "other"):       2,
		filepath.Join(t.TempDir(), "zfs"): 2,
	} {
		os.Args = []string{program, "version"}
		if got := status(); got != want {
			t.Errorf("%s: status %d, not %d", program, got, want)
		}
	}
}

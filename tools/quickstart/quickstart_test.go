package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cairn/client"
)

func TestBlocksOf(t *testing.T) {
	const listing = `Level Entries       Logical        Physical Length Flags
 0/ 1   1/  2     0 -     2   4376 -   4378      3
 1/ 1   1/  2     3 -     3    100 -    100      1 Uninit
`
	got, err := blocksOf(listing, 4)
	if want := []int64{4376 * 4096, 4377 * 4096, 4378 * 4096, 100 * 4096}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := blocksOf(listing, 5); err == nil {
		t.Error("a missing block goes unnoticed")
	}
}

func TestInstant(t *testing.T) {
	const blocks = 8
	log := []uint32{3, 1, 3, 5, 1, 7}
	at := func(cut int) []byte {
		last := make([]uint32, blocks)
		for i, index := range log[:cut] {
			last[index] = uint32(i) + 1
		}
		known := make([]byte, blocks*blockSize)
		for i := range uint32(blocks) {
			fill(known[i*blockSize:(i+1)*blockSize], last[i], i)
		}
		return known
	}
	for cut := range len(log) + 1 {
		if got, err := instant(at(cut), log); err != nil || int(got) != cut {
			t.Errorf("after %d writes: %d, %v", cut, got, err)
		}
	}
	block := func(known []byte, i int) []byte { return known[i*blockSize : (i+1)*blockSize] }
	for name, spoil := range map[string]func([]byte){
		"a later write came along":  func(k []byte) { fill(block(k, 7), 6, 7) },
		"an earlier write is lost":  func(k []byte) { fill(block(k, 3), 1, 3) },
		"a block is torn":           func(k []byte) { copy(block(k, 1)[512:], make([]byte, 512)) },
		"a block is at wrong place": func(k []byte) { copy(block(k, 2), block(k, 4)) },
		"a write nobody made":       func(k []byte) { fill(block(k, 0), 99, 0) },
	} {
		k := at(4)
		spoil(k)
		if _, err := instant(k, log); err == nil {
			t.Errorf("%s: unnoticed", name)
		}
	}
}

func TestCosts(t *testing.T) {
	increments, moved, full := costs([]client.Run{
		{Steps: []client.Step{{Verb: "replicate", From: "@a", State: "done", Moved: 5}, {Verb: "replicate", From: "@b", State: "failed", Moved: 9}, {Verb: "prune", State: "done"}}},
		{Steps: []client.Step{{Verb: "replicate", State: "done", Moved: 100}}},
	})
	if increments != 1 || moved != 5 || full != 100 {
		t.Errorf("%d %d %d", increments, moved, full)
	}
}

func TestPrepareRefusesInPlainWords(t *testing.T) {
	t.Chdir(t.TempDir()) // relative names are short
	if _, err := prepare(strings.Repeat("x", 80)); err == nil || !strings.Contains(err.Error(), "shorter by") {
		t.Errorf("long path: %v", err)
	}
	const precious = "p"
	if err := os.MkdirAll(filepath.Join(precious, "letters"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := prepare(precious); err == nil || !strings.Contains(err.Error(), "no quickstart made") {
		t.Errorf("somebody's folder: %v", err)
	}
	if left, err := os.ReadDir(precious); err != nil || len(left) != 1 || left[0].Name() != "letters" {
		t.Errorf("somebody's folder was touched: %v", left)
	}
	const own = "q"
	unlock, err := prepare(own)
	if err != nil {
		t.Skip(err)
	}
	if _, err := prepare(own); err == nil || !strings.Contains(err.Error(), "another quickstart") {
		t.Errorf("second run: %v", err)
	}
	if err := os.WriteFile(filepath.Join(own, "left"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	unlock()
	unlock, err = prepare(own)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	if _, err := os.Stat(filepath.Join(own, "left")); err == nil {
		t.Error("what the earlier run left is still there")
	}
}

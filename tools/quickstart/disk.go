package main

import (
	"context"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

const (
	blockSize  = 4096
	diskSize   = "1G"
	knownFile  = "known.bin"
	knownSize  = 64 << 20
	realFiles  = 192 << 20 // bytes of real files that the disk is given
	largestOne = 8 << 20   // larger ones are left out
)

// makeDisk makes disk.img with an ext4 file system full of real files and one file
// of known content, and returns where on the disk the known file's blocks lie.
func (s *stage) makeDisk(ctx context.Context) ([]int64, error) {
	files := s.path("files")
	n, size, err := gather(ctx, files)
	if err != nil {
		return nil, err
	}
	known := make([]byte, knownSize)
	for i := range uint32(knownSize / blockSize) {
		fill(known[i*blockSize:(i+1)*blockSize], 0, i)
	}
	if err := os.WriteFile(filepath.Join(files, knownFile), known, 0o600); err != nil {
		return nil, err
	}
	s.say("    %d files of this machine (%s) and %s, %s of known content", n, bytesText(size), knownFile, bytesText(knownSize))
	if _, err := s.run(ctx, "mkfs.ext4", "-q", "-F", "-b", "4096", "-L", "quickstart", "-d", "files", "disk.img", diskSize); err != nil {
		return nil, err
	}
	if err := os.RemoveAll(files); err != nil {
		return nil, err
	}
	out, err := s.run(ctx, "debugfs", "-R", "ex -l /"+knownFile, "disk.img")
	if err != nil {
		return nil, err
	}
	return blocksOf(out, knownSize/blockSize)
}

// gather copies readable files of this machine into dir until it has enough.
func gather(ctx context.Context, dir string) (files int, size int64, err error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return 0, 0, err
	}
	for _, root := range []string{"/usr/share/doc", "/usr/share", "/usr/lib"} {
		err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				return fs.SkipDir // not ours to read
			}
			if size >= realFiles {
				return fs.SkipAll
			}
			n, ok := copyFile(path, filepath.Join(dir, path), d)
			if ok {
				files, size = files+1, size+n
			}
			return nil
		})
		if err != nil {
			return files, size, err
		}
	}
	return files, size, nil
}

// copyFile copies one file if it is fit for the demonstration.
func copyFile(from, to string, d fs.DirEntry) (int64, bool) {
	info, err := d.Info()
	if err != nil || !info.Mode().IsRegular() || info.Size() > largestOne {
		return 0, false
	}
	content, err := os.ReadFile(from)
	if err != nil || os.MkdirAll(filepath.Dir(to), 0o700) != nil || os.WriteFile(to, content, 0o600) != nil {
		return 0, false
	}
	return int64(len(content)), true
}

var extentLine = regexp.MustCompile(`(?m)^\s*\d+/\s*\d+\s+\d+/\s*\d+\s+(\d+)\s*-\s*\d+\s+(\d+)\s*-\s*\d+\s+(\d+)`)

// blocksOf reads debugfs's list of a file's extents and returns the byte offset on
// the disk of each of the file's blocks.
func blocksOf(listing string, blocks int) ([]int64, error) {
	offsets := make([]int64, blocks)
	found := 0
	for _, m := range extentLine.FindAllStringSubmatch(listing, -1) {
		var n [3]int
		for i := range n {
			var err error
			if n[i], err = strconv.Atoi(m[i+1]); err != nil {
				return nil, err
			}
		}
		for i := range n[2] {
			if n[0]+i < blocks {
				offsets[n[0]+i] = int64(n[1]+i) * blockSize
				found++
			}
		}
	}
	if found != blocks {
		return nil, fmt.Errorf("debugfs names %d of the %d blocks of %s:\n%s", found, blocks, knownFile, strings.TrimSpace(listing))
	}
	return offsets, nil
}

// fill makes the content of a block that write number seq put at place index of
// the known file: it names both, so that a reader can tell when it is from.
func fill(b []byte, seq, index uint32) {
	var seed [32]byte
	copy(seed[:], fmt.Sprintf("quickstart %08x %08x", seq, index))
	r := rand.NewChaCha8(seed)
	_, _ = r.Read(b) // never fails
	le.PutUint32(b, seq)
	le.PutUint32(b[4:], index)
}

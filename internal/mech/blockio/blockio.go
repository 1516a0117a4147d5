// Package blockio is the seam between the block engine and the file system below
// it: the few file calls that the engine makes, as interfaces, so that a test can
// record, reorder, tear, fail and forget them (internal/testkit/fakedisk).
//
// It promises nothing of its own: a call does what the system call of its name
// does. What matters to a caller is what a power cut leaves, and that is stated
// per method. The real implementation is OS.
package blockio

import "io/fs"

// FS is a folder tree on one file system. Names are slash-separated and relative
// to the root the FS was opened on. Errors are *fs.PathError with a system error
// inside (errors.Is with fs.ErrNotExist, syscall.ENOSPC, syscall.EIO works).
type FS interface {
	// Create makes a new file for reading and writing; fs.ErrExist when the name
	// is taken. The name is durable only after SyncDir of its folder.
	Create(name string) (File, error)
	// Open opens an existing file, for writing too when write is set.
	Open(name string, write bool) (File, error)
	// Rename replaces newName atomically; durable after SyncDir of both folders.
	Rename(oldName, newName string) error
	// Remove unlinks a file or an empty folder; durable after SyncDir.
	Remove(name string) error
	// Mkdir makes a folder; durable after SyncDir of its parent.
	Mkdir(name string) error
	// ReadDir lists names in byte order.
	ReadDir(name string) ([]string, error)
	// Stat describes a file or folder.
	Stat(name string) (fs.FileInfo, error)
	// SyncDir makes the entries of the folder durable.
	SyncDir(name string) error
	// Space tells the bytes free for us and in all.
	Space() (free, total int64, err error)
}

// File is an open file. Offsets and lengths are bytes.
type File interface {
	// ReadAt fills p or fails, as io.ReaderAt.
	ReadAt(p []byte, off int64) (int, error)
	// WriteAt writes p; after a power cut any subset of the 512-byte sectors
	// written since the last Sync may be old.
	WriteAt(p []byte, off int64) (int, error)
	// Sync makes data and size durable (fdatasync). After it failed, what was
	// written since the last successful one may be gone although reads show it: it
	// is never retried on the same data.
	Sync() error
	// Size is the current size.
	Size() (int64, error)
	// Truncate sets the size.
	Truncate(size int64) error
	// Allocate reserves room without changing size or content
	// (FALLOC_FL_KEEP_SIZE); syscall.EOPNOTSUPP where the file system cannot.
	Allocate(off, length int64) error
	// Punch frees the range's room; it reads as zeroes afterwards.
	Punch(off, length int64) error
	// Zero makes the range read as zeroes, keeping its room where that is cheap.
	Zero(off, length int64) error
	// Data finds the next data at or after off and its end (SEEK_DATA, SEEK_HOLE);
	// start == Size when only a hole follows. A file system that cannot tell
	// answers that everything is data.
	Data(off int64) (start, end int64, err error)
	// Close releases the file; it does not sync.
	Close() error
}

// Package drive is the narrow contract between a live tape and what holds the
// medium: records, filemarks, partitions, positions and medium attributes, in the
// words of the SCSI stream command set (SSC). SCSI is the drive that speaks it,
// over a transport (package scsi). Folder is the drive that keeps a tape as a folder
// of records, the layout other LTFS tools use for tests and exchange. Open opens
// either by its name.
//
// # What a drive promises
//
// Records are read as they were written. Block numbers count filemarks. Writing at
// a position ends the partition there: everything that stood behind it is gone.
// What was written is safe on the medium once Flush, or a WriteFilemarks that is
// not immediate, has returned; nothing before that.
//
// # What can go wrong
//
// Reading tells filemarks and the end of data apart from errors (ErrFilemark,
// ErrEndOfData). Writing near the end succeeds and reports a Warning first:
// EarlyWarning leaves room for an index; then KindSpace. A medium that cannot be
// written is KindPermission, a missing or wrong one KindNotFound or KindConflict.
//
// A SCSI drive that was reset, or whose medium may have been changed, fails with
// KindConflict until Locate finds the medium that was there; a command that does not
// end with KindStuck. decisions/1701 and 1702 say why it is as careful as it is.
//
// A drive has one owner at a time; its methods are not for several goroutines.
// The layout of the folder is in docs/formats/tape-folder.md.
package drive

import (
	"context"
	"errors"
)

// What reading meets beside records.
var (
	ErrFilemark  = errors.New("filemark")
	ErrEndOfData = errors.New("end of data")
)

// ErrUnwritable is the cause of an error of Write or WriteFilemarks that will come
// again however often it is tried: the medium is worn there. The rest of it can be
// read, and another partition may still be written.
var ErrUnwritable = errors.New("the medium cannot be written here")

// Position is a place on the medium. Partitions are numbered from 0, blocks from
// the beginning of their partition, filemarks included.
type Position struct {
	Partition int
	Block     uint64
}

// Warning tells a writer how near the end of the partition is.
type Warning uint8

// The warnings, in the order they come.
const (
	NoWarning    Warning = iota
	LowSpace             // programmable early warning: begin no new file
	EarlyWarning         // write what must be written: an index still fits
)

// Capacity of a partition in bytes.
type Capacity struct {
	Total     int64
	Remaining int64 // until EarlyWarning
}

// Drive moves a medium. After an error the position is unknown until Locate.
type Drive interface {
	// Locate moves to a position; ErrEndOfData when the partition ends before it,
	// and the position is then the end of data.
	Locate(ctx context.Context, to Position) error

	// SeekEnd moves to the end of data of a partition and returns that position.
	SeekEnd(ctx context.Context, partition int) (Position, error)

	// Position is where the next record will be read or written.
	Position(ctx context.Context) (Position, error)

	// SpaceFilemarks moves over n filemarks: forward to just behind the n-th, or,
	// with n negative, backward to just before the -n-th. ErrEndOfData, or a
	// KindNotFound error at the beginning, when there are not that many.
	SpaceFilemarks(ctx context.Context, n int) error

	// Read reads one record into p and returns its length; ErrFilemark or
	// ErrEndOfData when there is none here (a filemark is passed). A record longer
	// than p fails with KindInvalid.
	Read(ctx context.Context, p []byte) (int, error)

	// Write writes p as one record of 1 to MaxBlock bytes.
	Write(ctx context.Context, p []byte) (Warning, error)

	// WriteFilemarks writes n filemarks; with immediate it need not wait for the
	// medium. n of 0 flushes.
	WriteFilemarks(ctx context.Context, n int, immediate bool) error

	// Partitions is 1 or 2.
	Partitions() int

	// Format erases the medium and makes one or two partitions.
	Format(ctx context.Context, partitions int) error

	// Attribute reads a medium attribute's value (KindNotFound when it is not set),
	// SetAttribute writes it with its SCSI format (0 binary, 1 ASCII, 2 text).
	Attribute(ctx context.Context, partition int, id uint16) ([]byte, error)
	SetAttribute(ctx context.Context, partition int, id uint16, format byte, value []byte) error

	// Capacity tells the room of a partition.
	Capacity(ctx context.Context, partition int) (Capacity, error)

	// Protected reports whether the medium refuses to be written.
	Protected() bool

	// MaxBlock is the longest record in bytes.
	MaxBlock() int

	// Close releases the drive; it flushes what is buffered.
	Close() error
}

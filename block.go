package cairn

import (
	"context"
	"iter"
)

// BlockSize is the unit everything about blocks is counted in.
const BlockSize = 4096

// ExtentKind says what an extent holds.
type ExtentKind uint8

// The extent kinds; numbers cross the wire.
const (
	ExtentData ExtentKind = 1
	ExtentZero ExtentKind = 2 // reads as zeroes; room may be allocated
	ExtentHole ExtentKind = 3 // reads as zeroes; no room is allocated
)

// Extent is a range of bytes.
type Extent struct {
	Offset int64
	Length int64
	Kind   ExtentKind
}

// End is the offset just past the extent.
func (e Extent) End() int64 { return e.Offset + e.Length }

// BlockReader reads the content of a snapshot or a device.
type BlockReader interface {
	// Size is the content's size in bytes.
	Size() int64

	// ReadAt fills p from off. Unlike io.ReaderAt it takes a context and fails with
	// KindInvalid when the range leaves [0, Size). Blocks known to be lost fail
	// with KindDamaged; a snapshot that was given up meanwhile with KindDegraded.
	ReadAt(ctx context.Context, p []byte, off int64) error

	// Extents tells what the range holds, ascending, without gaps or overlaps,
	// clipped to the range. ExtentData may hold zeroes; the others must.
	Extents(ctx context.Context, off, length int64) iter.Seq2[Extent, error]

	// Close releases the snapshot or device.
	Close() error
}

// WriteFlags modify a write.
type WriteFlags uint8

// The write flags.
const (
	FUA      WriteFlags = 1 << 0 // durable when the call returns
	MayUnmap WriteFlags = 1 << 1 // WriteZeroes may free the room
	FastOnly WriteFlags = 1 << 2 // WriteZeroes fails with KindUnsupported rather than write zeroes out
)

// BlockDevice is the writable head of a volume. Writes are acknowledged when
// they would survive a kill of the process; they survive a power cut once a later
// Flush has returned, or at once with FUA.
type BlockDevice interface {
	BlockReader

	// Sector is the smallest unit, and alignment, of a write in bytes.
	Sector() int

	// WriteAt writes p at off. Blocks that a snapshot needs are preserved first.
	WriteAt(ctx context.Context, p []byte, off int64, flags WriteFlags) error

	// WriteZeroes makes the range read as zeroes.
	WriteZeroes(ctx context.Context, off, length int64, flags WriteFlags) error

	// Discard says that the range's content is not needed; afterwards it reads as
	// its old content or as zeroes. It is a hint, and is preserved and marked like
	// a write when it changes anything.
	Discard(ctx context.Context, off, length int64) error

	// Flush returns when everything acknowledged before the call is durable. After
	// a failed flush every later one fails too, until the device is opened anew.
	Flush(ctx context.Context) error
}

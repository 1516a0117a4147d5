// Package ltfs reads and writes the format of the Linear Tape File System: the
// labels, the index, names, extents, generations and the medium attributes that
// make a tape a self-describing volume. It knows bytes, not devices: no drive, no
// file system, no goroutine, and only the standard library.
//
// # What a volume is
//
// A tape has two partitions. Each begins with a label (a VOL1 record and an XML
// [Label]); what follows are file data and indexes. An [Index] is an XML document
// that describes the whole tree; it carries a generation number, a pointer to its
// own first block and one to the index before it in the data partition. A volume
// is complete when both partitions end in an index and the index partition's last
// one points to the data partition's last one.
//
// # What the package promises
//
//   - It writes format 2.4.0 and reads 1.0 to 2.5. Elements it does not know are
//     kept byte for byte and written at the end of the parent they stood in.
//   - What is read and written again without a change means the same.
//   - Parsers survive hostile input: no entity but the five of XML, no document
//     type, bounded depth, names and values, no allocation from a number in the
//     text. The errors are *[FormatError] and say where.
//   - An index of a million files needs a few hundred bytes of memory per file and
//     streams in both directions.
//
// The layout is that of the SNIA LTFS Format Specification (ISO/IEC 20919).
package ltfs

import "fmt"

// FormatError says what in a label, index or attribute does not follow the
// format. Offset is the byte offset into the document, -1 where that says nothing.
type FormatError struct {
	What   string // the document: "index", "label", "VOL1 record", …
	Offset int64
	Reason string
}

// Error renders "LTFS index, byte 123: reason".
func (e *FormatError) Error() string {
	if e.Offset < 0 {
		return fmt.Sprintf("LTFS %s: %s", e.What, e.Reason)
	}
	return fmt.Sprintf("LTFS %s, byte %d: %s", e.What, e.Offset, e.Reason)
}

func formatError(what string, format string, args ...any) error {
	return &FormatError{What: what, Offset: -1, Reason: fmt.Sprintf(format, args...)}
}

// Versions of the format as text in labels and indexes.
const (
	// Version is what this package writes.
	Version = "2.4.0"
	// IncrementalVersion is what incremental indexes carry.
	IncrementalVersion = "2.5.0"
)

// checkVersion accepts 1.0.0 to 2.x.y, as the specification asks of readers
// within a major version.
func checkVersion(what, v string) error {
	var major, minor, patch int
	if n, err := fmt.Sscanf(v, "%d.%d.%d", &major, &minor, &patch); err != nil || n != 3 {
		return formatError(what, "version %q is not of the form 2.4.0", v)
	}
	if major < 1 || major > 2 {
		return formatError(what, "version %s is newer than 2.x, or older than 1.0.0", v)
	}
	return nil
}

package cairn

import "io"

// Format names the bytes of a stream, with their version: "blocks/1".
type Format string

// The formats that Cairn's own packages make.
const (
	FormatBlocks Format = "blocks/1" // docs/formats/blocks.md
	FormatZFS    Format = "zfs"      // OpenZFS send stream
)

// Step is one transfer: From (zero for a full stream) over Via to To.
type Step struct {
	Dataset string // name at the sender
	Origin  string // the dataset of From, when the stream makes a clone of it; empty: Dataset itself
	From    VersionID
	Via     []VersionID // versions between From and To that the stream also carries
	To      VersionID
	Resume  []byte // Partial.Token of the receiver, nil to begin
	Size    int64  // estimated bytes of the body, -1 unknown
	Media   []string
}

// StreamHeader says what a stream is; it crosses the wire before the body.
type StreamHeader struct {
	Format  Format
	Dataset string // name at the receiver's side of all wrappers
	Kind    DatasetKind
	Origin  string // as in Step, at the receiver's side
	From    VersionID
	Via     []Version
	To      Version
	Volume  int64 // bytes of the dataset at To; 0 for filesystems
	Resume  int64 // position the body continues from, 0 at the beginning
	Size    int64 // estimated bytes of the body, -1 unknown
}

// Stream is one transfer under way. Whoever holds it closes Body; Close may be
// called while a Read is under way, and ends it.
type Stream struct {
	Header StreamHeader
	Body   io.ReadCloser
}

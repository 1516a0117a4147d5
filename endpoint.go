package cairn

import (
	"context"
	"iter"
)

// Endpoint is a place where datasets live. It is a value with a field per
// ability; a nil field means the endpoint cannot, and callers ask by comparing
// with nil. Wrappers that add behaviour copy the value and replace fields;
// wrappers that take rights away begin with an empty value and fill in what is
// allowed, so that a new ability is never let through by accident.
type Endpoint struct {
	Info Info

	Lister    Lister
	Sender    Sender
	Receiver  Receiver
	Snapshots Snapshotter
	Bookmarks Bookmarker
	Destroys  Destroyer
	Leases    Leaser
	Estimates Estimator
	Blocks    BlockOpener
	Changes   Changer
	Rollbacks Rollbacker
	Resizes   Resizer
	Renames   Renamer
	Verifies  Verifier
	Seals     Sealer
	Digests   Digester
	Heals     Healer

	// Close releases what opening took and waits for what it started; nil when
	// there is nothing to release. Only whoever opened the endpoint calls it.
	Close func() error
}

// Ability is the name of an Endpoint field, as exchanged in the handshake.
type Ability string

// Abilities lists what e can, in the order of the fields.
func (e *Endpoint) Abilities() []Ability {
	var names []Ability
	for _, a := range []struct {
		name Ability
		has  bool
	}{
		{"list", e.Lister != nil}, {"send", e.Sender != nil}, {"receive", e.Receiver != nil},
		{"snapshot", e.Snapshots != nil}, {"bookmark", e.Bookmarks != nil}, {"destroy", e.Destroys != nil},
		{"lease", e.Leases != nil}, {"estimate", e.Estimates != nil}, {"blocks", e.Blocks != nil},
		{"changes", e.Changes != nil}, {"rollback", e.Rollbacks != nil}, {"resize", e.Resizes != nil},
		{"rename", e.Renames != nil}, {"verify", e.Verifies != nil}, {"seal", e.Seals != nil},
		{"digest", e.Digests != nil}, {"heal", e.Heals != nil},
	} {
		if a.has {
			names = append(names, a.name)
		}
	}
	return names
}

// Lacks is the error of a caller that needs an ability e has not.
func (e *Endpoint) Lacks(a Ability, subject string) error {
	return &Error{Op: string(a), Subject: subject, Place: e.Info.Place, Kind: KindUnsupported,
		Hint: "this place does not offer it, or your identity has no right to it"}
}

// Info is what an endpoint says of itself once, when it is opened; for a remote
// endpoint it comes with the handshake.
type Info struct {
	Place      string                   // name of the place in messages and in --at
	Identity   string                   // who the place takes us for; empty when local
	Sends      map[DatasetKind][]Format // formats a sender makes, best first
	Accepts    map[DatasetKind][]Format // formats a receiver takes, best first
	Several    map[DatasetKind]int      // versions that one stream may carry at most, by kind; without an entry, one
	Clones     []DatasetKind            // kinds of which a clone is sent, or received, as one (Step.Origin)
	AppendOnly bool                     // clients can neither destroy nor rewrite what they sent
	Keep       []KeepRule               // retention the place applies by itself; plans leave out what it would destroy
}

// KeepRule is one retention rule as data; package policy/retention gives it
// meaning. The fields are those of zrepl's grammar.
type KeepRule struct {
	Type                 string // "last_n", "grid", "regex", "not_replicated"
	Count                int    // last_n
	Regex                string // grid, last_n, regex
	Negate               bool   // regex
	Grid                 string // grid: "1x1h(keep=all) | 24x1h"
	KeepSnapshotAtCursor *bool  // not_replicated; nil is true
	MaxAgeSeconds        int64  // not_replicated: give up protection beyond this age; 0 is never
}

// Want says which optional parts of a listing a caller needs; what is not wanted
// may be left empty, and usually costs nothing.
type Want struct {
	Versions bool
	Leases   bool
	Sizes    bool // Version.Unique
	Partial  bool
}

// Query selects what a listing returns. Names, when not nil, limits it to those
// datasets, in addition to Filter; a name that does not exist is left out, not an
// error.
type Query struct {
	Filter Filter
	Names  []string
	Want   Want
}

// Lister lists datasets with the versions of many of them in one call.
type Lister interface {
	// List streams the selected datasets in byte order of their names, so that a
	// caller holds one at a time and can merge two places. After the first error
	// the sequence ends. A listing belongs to the receiver; it is not reused.
	List(ctx context.Context, q Query) iter.Seq2[*Listing, error]
}

// Sender makes streams.
type Sender interface {
	// Send opens a stream for the step in the best of its formats that accept
	// contains; KindUnsupported when there is none. The caller reads Body to EOF
	// and closes it. EOF means the sender vouches for everything it sent; any
	// other end is an error, also when bytes are missing only at the very end.
	// The versions of the step are not destroyed while the stream is open, except
	// for room: the stream then ends with KindSpace or KindDegraded.
	Send(ctx context.Context, step Step, accept []Format) (*Stream, error)
}

// Receiver takes streams.
type Receiver interface {
	// Receive reads the stream's body to EOF, also past the format's own end mark,
	// verifies length, checksum and GUIDs, and makes all versions of the step
	// visible in one commit, durable when it returns. It creates the dataset (and
	// its parents) when it does not exist. It closes the body in every case. On
	// error nothing is visible; what arrived is kept as Listing.Partial where the
	// format can resume, and old versions are untouched. Receiving a version that
	// is already there with the same GUID fails with KindExists. A stream with an
	// Origin makes the dataset as a clone of the snapshot with From's GUID there;
	// KindConflict when that snapshot or a dataset of the name stands in the way.
	Receive(ctx context.Context, s *Stream, o ReceiveOptions) (Received, error)

	// Abort gives up a pending partial receive and returns the dataset to its
	// newest version. Without a pending receive it does nothing.
	Abort(ctx context.Context, dataset string) error
}

// ReceiveOptions are the receiving side's choices.
type ReceiveOptions struct {
	Owner string // of the lease that pins the base: the receiving job's name
}

// Received says what a receive committed.
type Received struct {
	Versions []VersionID // that are new
	Bytes    int64       // of the stream's body
}

// Snapshotter captures.
type Snapshotter interface {
	// Snapshot captures every dataset under the same name (with its '@'). With
	// atomic, all are captured at one instant or none is; otherwise each result
	// stands alone. The error is for the call as a whole; per-dataset errors are
	// in the results, which follow the order of datasets. A snapshot is visible,
	// sendable and reported only once it is durable.
	Snapshot(ctx context.Context, name string, datasets []string, atomic bool) ([]Captured, error)
}

// Captured is one dataset's result of a Snapshot call.
type Captured struct {
	Dataset string
	Version Version
	Err     error
}

// Bookmarker makes bookmarks.
type Bookmarker interface {
	// Bookmark makes a bookmark (name with its '#') of the snapshot, with the same
	// GUID. With degrade the snapshot's data is given up in the same commit: the
	// bookmark takes its place. An equal bookmark that exists is success.
	Bookmark(ctx context.Context, dataset string, of VersionID, name string, degrade bool) (Version, error)
}

// Destroyer destroys versions.
type Destroyer interface {
	// Destroy removes the versions, in any order it likes, and returns one result
	// per id in the same order: nil when the version is gone (also when it was
	// gone before), KindBusy when a lease holds it, KindConflict when name and
	// GUID disagree. The error is for the call as a whole.
	Destroy(ctx context.Context, dataset string, ids []VersionID) ([]error, error)
}

// Leaser holds versions against destruction, durably: ZFS holds and bookmarks,
// catalog records.
type Leaser interface {
	// SetLease makes the named set (Dataset, Owner, Purpose) hold exactly these
	// versions, replacing what it held; no versions releases it. A version that
	// does not exist fails the call with KindNotFound and changes nothing.
	SetLease(ctx context.Context, set LeaseSet) error
}

// Estimator estimates streams.
type Estimator interface {
	// Estimate returns the body size of each step in bytes, -1 where unknown.
	Estimate(ctx context.Context, steps []Step) ([]int64, error)
}

// BlockOpener opens block content.
type BlockOpener interface {
	// OpenVersion opens a snapshot for reading. It is held until closed.
	OpenVersion(ctx context.Context, dataset string, id VersionID) (BlockReader, error)
}

// Changer knows change sets.
type Changer interface {
	// Changed streams the extents written after from and up to to, ascending and
	// not overlapping: a superset of what differs, in whole 4 KiB blocks. A zero
	// to is the head. Both may be bookmarks.
	Changed(ctx context.Context, dataset string, from, to VersionID) iter.Seq2[Extent, error]
}

// Rollbacker returns a dataset to an old version.
type Rollbacker interface {
	// Rollback makes the head read as the snapshot. Newer versions block it with
	// KindConflict unless destroyNewer is set: then they, bookmarks included, go in
	// the same commit. The dataset must not be in use (KindBusy).
	Rollback(ctx context.Context, dataset string, to VersionID, destroyNewer bool) error
}

// Resizer changes a dataset's size.
type Resizer interface {
	// Resize sets the head's size in bytes, a multiple of the sector size. Versions
	// keep theirs; what a shrink cuts off is preserved for snapshots first.
	Resize(ctx context.Context, dataset string, size int64) error
}

// Renamer renames datasets.
type Renamer interface {
	// Rename gives the dataset a new name; KindExists when it is taken. Parents that
	// are missing are made, as a receive makes them. Below a ZFS dataset everything
	// goes along; volumes, whose names only look like paths, move one by one.
	Rename(ctx context.Context, from, to string) error
}

// Verifier reads what is stored and compares it with its checksums.
type Verifier interface {
	// Verify checks one version, or the head and all versions when id is zero, and
	// says what it covered. Damage is in Coverage, not in the error.
	Verify(ctx context.Context, dataset string, id VersionID) (Coverage, error)
}

// Coverage says what a Verify looked at: no claim goes further than this.
type Coverage struct {
	Checked   int64    // bytes read and compared with a checksum
	Unchecked int64    // bytes for which no checksum exists (a plain head)
	Damaged   []Extent // what did not match, in the dataset's offsets
	Notes     []string // sentences for a person: what was not covered, and why
}

// Sealer seals replicas.
type Sealer interface {
	// Seal sets whether the head refuses every write but a receive's.
	Seal(ctx context.Context, dataset string, sealed bool) error
}

// Digester hashes what a snapshot holds, where it is, so that two places can be
// compared without moving data.
type Digester interface {
	// Digest reads the snapshot and yields a digest per piece, ascending and
	// without gaps within what the query asks for. It reads each time: a digest is
	// no promise of another day. A block that cannot be read makes its piece Bad,
	// not the sequence fail.
	Digest(ctx context.Context, dataset string, id VersionID, q DigestQuery) iter.Seq2[Digest, error]
}

// DigestQuery says what to hash, and how.
type DigestQuery struct {
	Nonce   [16]byte // part of every sum, so that none can be known beforehand
	Unit    int64    // bytes of a piece: a multiple of BlockSize, at most 1 MiB; pieces lie at multiples of it
	Extents []Extent // ascending ranges at multiples of Unit; nil is all of the snapshot
}

// Digest is one piece of a snapshot, the last one of which may be short.
type Digest struct {
	Offset int64
	Length int64
	Sum    [16]byte // of SHA-256 of nonce, offset (8 bytes, little-endian) and content; zero when Zero or Bad
	Zero   bool     // it reads as zeroes
	Bad    bool     // some of it cannot be read
}

// Healer puts back what a place has lost of a version.
type Healer interface {
	// Heal offers content for blocks of the snapshot and says, in the order of
	// patches, what became of each. It replaces only blocks that it can show to be
	// bad, and only by content that nothing it knows speaks against; everything or
	// nothing of the call is done, durably. A read afterwards gives the content.
	Heal(ctx context.Context, dataset string, id VersionID, patches []Patch, o HealOptions) ([]Mending, error)
}

// Patch is the content of one block: BlockSize bytes, fewer for a short last one.
type Patch struct {
	Offset int64
	Data   []byte
}

// HealOptions are the caller's choices.
type HealOptions struct {
	DryRun bool // say what would be done
	// Whole says that the snapshot was compared in full with one of the same GUID,
	// and that only these patches were left: if all is well after them, and nothing
	// of it is unreadable, it is damaged no more.
	Whole bool
}

// Mending is what became of a patch.
type Mending uint8

// The outcomes; numbers cross the wire.
const (
	MendedBySum  Mending = 1 // replaced: it was bad, and a checksum kept here says that the content is right
	MendedByGUID Mending = 2 // replaced: it was bad, and no checksum of it is left; the GUID vouches for the content
	MendNotBad   Mending = 3 // left: what is here is right, or the same
	MendRefused  Mending = 4 // left: it is bad, but a checksum kept here says that the content is wrong too
	MendDoubtful Mending = 5 // left: it can be read and differs, and nothing here tells which is right
)

package cairn

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// GUID is a version's identity, the same at every place the version is
// replicated to. Zero is no version.
type GUID uint64

// String is 16 lower-case hex digits, the form used in names on disk.
func (g GUID) String() string {
	var digits [16]byte // written by hand: reports name millions of versions
	for i := range digits {
		digits[i] = "0123456789abcdef"[g>>(60-4*i)&15]
	}
	return string(digits[:])
}

// ParseGUID reads the form that String writes.
func ParseGUID(s string) (GUID, error) {
	if len(s) != 16 {
		return 0, &Error{Op: "parse GUID", Subject: strconv.Quote(s), Kind: KindInvalid, Hint: "a GUID has 16 hex digits"}
	}
	v, err := strconv.ParseUint(s, 16, 64)
	if err != nil {
		return 0, &Error{Op: "parse GUID", Subject: strconv.Quote(s), Kind: KindInvalid, Err: err}
	}
	return GUID(v), nil
}

// DatasetKind says what a dataset is.
type DatasetKind uint8

// The dataset kinds; numbers cross the wire.
const (
	KindVolume     DatasetKind = 1 // a block volume of ours
	KindFilesystem DatasetKind = 2 // a ZFS filesystem
	KindZvol       DatasetKind = 3 // a ZFS volume
)

// String is the kind's word in addresses and messages.
func (k DatasetKind) String() string {
	switch k {
	case KindVolume:
		return "volume"
	case KindFilesystem:
		return "filesystem"
	case KindZvol:
		return "zvol"
	}
	return fmt.Sprintf("dataset kind %d", uint8(k))
}

// State is one of the state words that everything shares.
type State uint8

// The states; numbers cross the wire and the order is not a severity.
const (
	StateOK         State = 0
	StateLate       State = 1
	StateStuck      State = 2
	StateBlocked    State = 3
	StateDegraded   State = 4
	StateDamaged    State = 5
	StateUnknown    State = 6
	StateUnverified State = 7
)

var stateNames = [...]string{"ok", "late", "stuck", "blocked", "degraded", "damaged", "unknown", "unverified"}

// String is the state's word.
func (s State) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return fmt.Sprintf("state %d", uint8(s))
}

// Dataset describes what is protected, without its versions.
type Dataset struct {
	Name        string // slash-separated, unique at its place
	Kind        DatasetKind
	ID          GUID   // identity of the dataset itself; survives a rename
	Size        int64  // bytes a reader of the head sees; 0 for filesystems
	Parent      string // name of the parent dataset, empty at the root
	Origin      Origin // of a clone; zero: it is none, or the place does not tell
	Placeholder bool   // exists only to hold children
	Encrypted   bool
	Sealed      bool   // a replica: the head takes no writes but a receive's
	State       State  // ok, degraded, damaged, unverified
	Why         string // one sentence when State is not ok
}

// Origin is the snapshot that a clone was made of.
type Origin struct {
	Dataset string // at the same place; empty when the caller may not see it
	VersionID
}

// VersionID refers to a version by name and GUID together: one snapshot and
// several bookmarks share a GUID, and a name can be reused. Where the two
// disagree, a call does nothing and fails with KindConflict.
type VersionID struct {
	Name string // with its leading '@' (snapshot) or '#' (bookmark)
	GUID GUID
}

// IsSnapshot reports whether the name is a snapshot's.
func (v VersionID) IsSnapshot() bool { return strings.HasPrefix(v.Name, "@") }

// IsBookmark reports whether the name is a bookmark's.
func (v VersionID) IsBookmark() bool { return strings.HasPrefix(v.Name, "#") }

// IsZero reports whether v names no version.
func (v VersionID) IsZero() bool { return v == VersionID{} }

// String is the name; errors that need the GUID print it themselves.
func (v VersionID) String() string { return v.Name }

// Version is a point in a dataset's history.
type Version struct {
	VersionID
	Order   uint64    // position in the history of its dataset at this place; a snapshot and its bookmarks share it
	Created time.Time // of the original, wherever it is replicated
	Size    int64     // bytes of the dataset at that point; 0 for filesystems
	Unique  int64     // bytes that destroying this version alone would free
	State   State     // ok, degraded, damaged
	Leases  []Lease   // only when Want.Leases was set
	Stored  []Stored  // only at places that keep streams (archives)
}

// Stored is one stream that an archive keeps and can send; it can send no other.
type Stored struct {
	From   VersionID // zero: a full stream
	Format Format
	Bytes  int64
	Media  []string // labels of the media needed to read it
}

// Partial is a receive that was cut and can go on.
type Partial struct {
	From     VersionID // zero: a full stream
	To       VersionID
	Received int64  // bytes of the stream's position that are durable
	Token    []byte // opaque to all but the endpoints' kind; goes into Step.Resume
}

// Listing is one dataset with its versions, ordered by Order and, at one Order,
// bookmarks before the snapshot.
type Listing struct {
	Dataset  Dataset
	Versions []Version
	Partial  *Partial // nil when no receive is pending
}

// Address is DATASET[@SNAPSHOT or #BOOKMARK], optionally qualified by the kind
// ("volume:X", "zfs:X") where a name alone is ambiguous.
type Address struct {
	Qualifier string // "", "volume" or "zfs"
	Dataset   string
	Version   string // with its '@' or '#'; empty for the dataset itself
}

// String is the form that ParseAddress reads.
func (a Address) String() string {
	s := a.Dataset + a.Version
	if a.Qualifier != "" {
		s = a.Qualifier + ":" + s
	}
	return s
}

// ParseAddress reads an address as a user types it.
func ParseAddress(s string) (Address, error) {
	a := Address{Dataset: s}
	for _, q := range []string{"volume", "zfs"} {
		if rest, ok := strings.CutPrefix(s, q+":"); ok {
			a.Qualifier, a.Dataset = q, rest
		}
	}
	if i := strings.IndexAny(a.Dataset, "@#"); i >= 0 {
		a.Dataset, a.Version = a.Dataset[:i], a.Dataset[i:]
		if err := CheckVersionName(a.Version); err != nil {
			return Address{}, err
		}
	}
	if err := CheckDatasetName(a.Dataset); err != nil {
		return Address{}, err
	}
	return a, nil
}

// Limits of names. They are ZFS's, so that a name that is legal at one place is
// legal at every place.
const (
	MaxNameBytes      = 255 // a whole dataset or version name
	MaxComponentBytes = 200 // one slash-separated component: leaves room for suffixes of files on disk
)

func legalNameByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-_.: ", c) >= 0
}

func checkComponent(op, whole, c string) error {
	bad := func(hint string) error {
		return &Error{Op: op, Subject: strconv.Quote(whole), Kind: KindInvalid, Hint: hint}
	}
	switch {
	case c == "":
		return bad("an empty component is not a name")
	case c == "." || c == "..":
		return bad("'.' and '..' are not names")
	case len(c) > MaxComponentBytes:
		return bad(fmt.Sprintf("a component has at most %d bytes", MaxComponentBytes))
	case strings.HasPrefix(c, " ") || strings.HasSuffix(c, " "):
		return bad("a component neither begins nor ends with a space")
	}
	for i := range len(c) {
		if !legalNameByte(c[i]) {
			return bad("use letters, digits and the signs - _ . : and space")
		}
	}
	return nil
}

// CheckDatasetName refuses names that some place could not hold.
func CheckDatasetName(name string) error {
	const op = "use dataset name"
	if name == "" || len(name) > MaxNameBytes {
		return &Error{Op: op, Subject: strconv.Quote(name), Kind: KindInvalid, Hint: fmt.Sprintf("a name has 1 to %d bytes", MaxNameBytes)}
	}
	for c := range strings.SplitSeq(name, "/") {
		if err := checkComponent(op, name, c); err != nil {
			return err
		}
	}
	return nil
}

// CheckVersionName checks a version's name with its leading '@' or '#'.
func CheckVersionName(name string) error {
	const op = "use version name"
	if !strings.HasPrefix(name, "@") && !strings.HasPrefix(name, "#") {
		return &Error{Op: op, Subject: strconv.Quote(name), Kind: KindInvalid, Hint: "a snapshot's name begins with '@', a bookmark's with '#'"}
	}
	return checkComponent(op, name, name[1:])
}

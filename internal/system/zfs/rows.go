package zfs

import (
	"cmp"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"cairn"
)

// columns are what a listing asks of each row: native properties only, which hold
// neither tabs nor line ends.
const columns = "name,type,guid,createtxg,creation,used,referenced,written,volsize,userrefs,encryption,receive_resume_token,origin,readonly"

const columnCount = 14

// The properties that are asked for with their source.
const (
	placeholderProperty = "zrepl:placeholder"
	readonlyProperty    = "readonly"
)

// row is one line of a listing.
type row struct {
	dataset string // without the version
	version string // with its sign; empty: the dataset itself
	kind    string
	guid    cairn.GUID
	order   uint64
	created int64 // seconds
	numbers [5]int64
	texts   [4]string
}

// The numbers and texts of a row, in the order of the columns.
const (
	used = iota
	referenced
	written
	volsize
	userrefs
)

const (
	encryption = iota
	resumeToken
	origin
	readonly
)

func parseRow(line string) (row, error) {
	f, ok := fields(line, columnCount)
	if !ok {
		return row{}, fmt.Errorf("a line of `zfs list` has %d columns instead of %d: %q", len(f), columnCount, shortened(line))
	}
	r := row{dataset: f[0], kind: f[1], texts: [4]string(f[10:])}
	if i := strings.IndexAny(f[0], "@#"); i >= 0 {
		r.dataset, r.version = f[0][:i], f[0][i:]
	}
	var err error
	number := func(s string) (n uint64) {
		if s != "-" && err == nil {
			n, err = strconv.ParseUint(s, 10, 64)
		}
		return n
	}
	r.guid, r.order, r.created = cairn.GUID(number(f[2])), number(f[3]), int64(number(f[4]))
	for i := range r.numbers {
		r.numbers[i] = int64(number(f[5+i]))
	}
	switch {
	case err != nil:
		return row{}, fmt.Errorf("a line of `zfs list` has a number that is none: %q", shortened(line))
	case r.guid == 0 || r.order == 0, (r.kind == "snapshot") != strings.HasPrefix(r.version, "@"), (r.kind == "bookmark") != strings.HasPrefix(r.version, "#"):
		return row{}, fmt.Errorf("a line of `zfs list` makes no sense: %q", shortened(line))
	}
	return r, nil
}

// hold is a user reference of a snapshot.
type hold struct {
	tag     string
	created time.Time
}

// version is what is known of a snapshot or bookmark.
type version struct {
	row
	holds []hold
}

func (v *version) id() cairn.VersionID { return cairn.VersionID{Name: v.version, GUID: v.guid} }

// dataset is what is known of a filesystem or zvol.
type dataset struct {
	row
	at          time.Time // when it was listed
	placeholder bool
	base        cairn.Origin
	writable    bool // readonly is off by a decision for this dataset, not by inheritance or default
	versions    []version
}

func (d *dataset) name() string { return d.dataset }

// sort brings the versions into the order of a listing.
func (d *dataset) sort() {
	slices.SortFunc(d.versions, func(a, b version) int {
		return cmp.Or(cmp.Compare(a.order, b.order), cmp.Compare(a.version, b.version)) // '#' comes before '@'
	})
}

// find returns the version by its name, nil when it is not there.
func (d *dataset) find(name string) *version {
	for i := range d.versions {
		if d.versions[i].version == name {
			return &d.versions[i]
		}
	}
	return nil
}

// newest is the newest snapshot, nil when there is none.
func (d *dataset) newest() *version {
	for i := len(d.versions) - 1; i >= 0; i-- {
		if d.versions[i].kind == "snapshot" {
			return &d.versions[i]
		}
	}
	return nil
}

// setProperty books one line of `zfs get`. A placeholder of zrepl before 0.1 holds
// a hash of its own name.
func (d *dataset) setProperty(property, value, source string) {
	switch property {
	case placeholderProperty:
		sum := sha512.Sum512_256([]byte(d.name()))
		d.placeholder = source == "local" && (value == "on" || value == hex.EncodeToString(sum[:]))
	case readonlyProperty:
		d.writable = value == "off"
	}
}

// kindOf tells filesystems from zvols.
func (d *dataset) kindOf() cairn.DatasetKind {
	if d.kind == "volume" {
		return cairn.KindZvol
	}
	return cairn.KindFilesystem
}

func (d *dataset) encrypted() bool {
	return d.texts[encryption] != "off" && d.texts[encryption] != "-"
}

// token is the resume token of a cut receive, empty when there is none.
func (d *dataset) token() string {
	if d.texts[resumeToken] == "-" {
		return ""
	}
	return d.texts[resumeToken]
}

// listing is the dataset in the words of the contracts.
func (d *dataset) listing(want cairn.Want) *cairn.Listing {
	l := &cairn.Listing{Dataset: cairn.Dataset{Name: d.name(), Kind: d.kindOf(), ID: d.guid, Size: d.numbers[volsize],
		Placeholder: d.placeholder, Encrypted: d.encrypted(), Sealed: d.texts[readonly] == "on", Origin: d.base}}
	if i := strings.LastIndexByte(d.name(), '/'); i > 0 {
		l.Dataset.Parent = d.name()[:i]
	}
	if want.Versions {
		l.Versions = make([]cairn.Version, len(d.versions))
		for i := range d.versions {
			l.Versions[i] = d.listed(i, want)
		}
	}
	if want.Partial && d.token() != "" {
		l.Partial = d.partial()
	}
	return l
}

// listed is one version. The size of a bookmark is that of its snapshot, or of the
// next one, or of the head: zfs does not keep it.
func (d *dataset) listed(i int, want cairn.Want) cairn.Version {
	v := &d.versions[i]
	out := cairn.Version{VersionID: v.id(), Order: v.order, Created: time.Unix(v.created, 0).UTC(), Size: d.numbers[volsize]}
	for _, next := range d.versions[i:] {
		if next.kind == "snapshot" {
			out.Size = next.numbers[volsize]
			break
		}
	}
	if want.Sizes {
		out.Unique = v.numbers[used]
	}
	if want.Leases {
		out.Leases = v.leases()
	}
	return out
}

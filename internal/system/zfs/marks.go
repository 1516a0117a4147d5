package zfs

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"cairn"
)

// The names of zrepl (docs/formats/zfs-names.md). The tentative prefix ends in an
// underscore of its own, so that two stand before the G.
const (
	stepTag         = "zrepl_STEP_J_"
	receivedTag     = "zrepl_last_received_J_"
	pinTag          = "cairn_PIN_J_"
	cursorPrefix    = "zrepl_CURSOR"
	tentativePrefix = "zrepl_CURSORTENTATIVE_"
	firstCursor     = "#zrepl_replication_cursor" // zrepl to 0.2: of no job
)

// maxTag is the longest tag of a hold in bytes.
const maxTag = 255

var (
	cursorName = regexp.MustCompile(`^#(.+)_G_([0-9a-f]{16})_J_(.+)$`)
	ownerName  = regexp.MustCompile(`^[0-9A-Za-z\-_.: ]+$`)
)

// checkOwner refuses names of jobs that cannot be part of a tag and a bookmark.
func checkOwner(owner string) error {
	if !ownerName.MatchString(owner) || len(receivedTag)+len(owner) > maxTag {
		return &cairn.Error{Op: "use job name", Subject: strconv.Quote(owner), Kind: cairn.KindInvalid, Hint: "use letters, digits and the signs - _ . : and space"}
	}
	return nil
}

// tagOf is the tag of the hold that a lease is; empty for purposes that are
// bookmarks.
func tagOf(purpose cairn.Purpose, owner string) string {
	switch purpose {
	case cairn.PurposeStep:
		return stepTag + owner
	case cairn.PurposeReceived:
		return receivedTag + owner
	case cairn.PurposePin:
		return pinTag + owner
	}
	return ""
}

// leaseOfTag reads a tag; what is not ours belongs to a stranger, named by it.
func leaseOfTag(tag string) cairn.Lease {
	for _, p := range []cairn.Purpose{cairn.PurposeStep, cairn.PurposeReceived, cairn.PurposePin} {
		if owner, ok := strings.CutPrefix(tag, tagOf(p, "")); ok && owner != "" {
			return cairn.Lease{Owner: owner, Purpose: p}
		}
	}
	return cairn.Lease{Owner: tag, Purpose: cairn.PurposeForeign}
}

// bookmarkOf is the name of the bookmark that a lease on the version is.
func bookmarkOf(purpose cairn.Purpose, owner string, guid cairn.GUID) (string, error) {
	prefix := cursorPrefix
	if purpose == cairn.PurposeTentative {
		prefix = tentativePrefix
	}
	name := "#" + prefix + "_G_" + guid.String() + "_J_" + owner
	return name, cairn.CheckVersionName(name)
}

// leaseOfBookmark reads a bookmark's name. It is a cursor only when the GUID in the
// name is its own.
func leaseOfBookmark(id cairn.VersionID) (cairn.Lease, bool) {
	m := cursorName.FindStringSubmatch(id.Name)
	if m == nil || m[2] != id.GUID.String() {
		return cairn.Lease{}, false
	}
	switch m[1] {
	case cursorPrefix:
		return cairn.Lease{Owner: m[3], Purpose: cairn.PurposeCursor}, true
	case tentativePrefix:
		return cairn.Lease{Owner: m[3], Purpose: cairn.PurposeTentative}, true
	}
	return cairn.Lease{}, false
}

// leases are what stands on a version.
func (v *version) leases() []cairn.Lease {
	var all []cairn.Lease
	if l, ok := leaseOfBookmark(v.id()); ok {
		all = append(all, l)
	}
	for _, h := range v.holds {
		all = append(all, leaseOfTag(h.tag))
	}
	return all
}

// held is why the version is not to be destroyed, nil when nothing is known.
func (v *version) held() error {
	all := v.leases()
	if len(all) == 0 {
		return nil
	}
	who := fmt.Errorf("leased by %s (%s)", all[0].Owner, all[0].Purpose)
	if all[0].Purpose == cairn.PurposeForeign {
		who = fmt.Errorf("held by another program under the tag %q (%s)", all[0].Owner, all[0].Purpose)
	}
	return &cairn.Error{Op: "destroy", Subject: v.dataset + v.version, Kind: cairn.KindBusy, Err: who, Hint: "`cairn zfs holds list` shows all"}
}

// checkDataset refuses what zfs could take for something else than a dataset.
func checkDataset(name string) error {
	if err := cairn.CheckDatasetName(name); err != nil {
		return err
	}
	if c := name[0]; (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
		return &cairn.Error{Op: "use dataset name", Subject: strconv.Quote(name), Kind: cairn.KindInvalid, Err: errors.New("a pool's name begins with a letter")}
	}
	return nil
}

// checkVersion refuses what is no version of the dataset, or too long in all.
func checkVersion(dataset string, id cairn.VersionID) error {
	if err := cairn.CheckVersionName(id.Name); err != nil {
		return err
	}
	if len(dataset)+len(id.Name) > cairn.MaxNameBytes {
		return &cairn.Error{Op: "use version name", Subject: dataset + id.Name, Kind: cairn.KindInvalid, Hint: "dataset and version have at most 255 bytes together"}
	}
	return nil
}

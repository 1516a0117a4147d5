package plan

import (
	"fmt"
	"strings"

	"cairn"
)

// ConflictKind says why there is no plan.
type ConflictKind string

// The conflicts.
const (
	NoSnapshots      ConflictKind = "no sender snapshots" // nothing to send to a receiver that has nothing
	InitialForbidden ConflictKind = "initial replication forbidden"
	NoCommon         ConflictKind = "no common version"
	Diverged         ConflictKind = "diverged" // a common version exists, but the receiver has newer ones
	NoStoredWay      ConflictKind = "no stored stream"
)

var conflictHints = map[ConflictKind]string{
	NoSnapshots:      "capture the dataset first",
	InitialForbidden: "set conflict_resolution.initial_replication to most_recent or all",
	NoCommon:         "these are two histories: rename or remove the receiver's dataset, and it is sent in full",
	Diverged:         "roll the receiver back to the last common version, or rename it aside, and it is replicated again",
	NoStoredWay:      "add the media that hold the missing streams, or restore under another name",
}

// Conflict is why there is no plan, with what stands on either side.
type Conflict struct {
	Kind     ConflictKind
	Dataset  string
	Common   cairn.Version   // the newest common version, by its name at the sender; zero when there is none
	Sender   []cairn.Version // what only the sender has after it, or all it has
	Receiver []cairn.Version // what only the receiver has after it, or all it has
}

// Error prints the conflict and both lists.
func (c *Conflict) Error() string {
	common := "none"
	if !c.Common.IsZero() {
		common = c.Common.Name
	}
	return fmt.Sprintf("%s; last common version: %s; only at the sender: %s; only at the receiver: %s",
		c.Kind, common, names(c.Sender), names(c.Receiver))
}

// shown is how many names an error prints from either end of a long list.
const shown = 8

func names(versions []cairn.Version) string {
	if len(versions) == 0 {
		return "nothing"
	}
	var b strings.Builder
	for i, v := range versions {
		if hidden := len(versions) - 2*shown; i == shown && hidden > 0 {
			fmt.Fprintf(&b, " … %d more …", hidden)
		}
		if i >= shown && i < len(versions)-shown {
			continue
		}
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(v.Name)
	}
	return b.String()
}

func (p *planner) conflict(kind ConflictKind) error {
	return p.fail(&Conflict{Kind: kind, Dataset: p.plan.Dataset, Sender: p.sender.Versions, Receiver: p.receiver.Versions})
}

func (p *planner) fail(c *Conflict) error {
	return &cairn.Error{Op: "plan replication of", Subject: c.Dataset, Kind: cairn.KindConflict, Err: c, Hint: conflictHints[c.Kind]}
}

// disagreement is the conflict of a receiver whose newest snapshot the sender does
// not know.
func (p *planner) disagreement() error {
	at := make(map[cairn.GUID]int, len(p.sender.Versions))
	for i, v := range p.sender.Versions {
		at[v.GUID] = i // the snapshot follows its bookmarks
	}
	for r := len(p.receiver.Versions) - 1; r >= 0; r-- {
		v := p.receiver.Versions[r]
		if s, common := at[v.GUID]; common && v.IsSnapshot() {
			return p.fail(&Conflict{Kind: Diverged, Dataset: p.plan.Dataset, Common: p.sender.Versions[s],
				Sender: p.sender.Versions[s+1:], Receiver: p.receiver.Versions[r+1:]})
		}
	}
	return p.conflict(NoCommon)
}

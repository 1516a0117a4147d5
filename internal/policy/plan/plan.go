// Package plan turns what two places hold of a dataset into the steps that bring
// the receiver up to date, or into a typed conflict that prints both sides. It is
// pure: listings in, steps out.
//
// Versions are told apart by GUID alone. The base of a plan is the receiver's
// newest snapshot; the sender needs a snapshot or a bookmark of that GUID, and a
// snapshot is preferred. The receiver's bookmarks are no base, since the data that
// an incremental stream is applied to is not there any more. A receive that was
// cut is continued first when what it came from and leads to is still right;
// otherwise the plan says why it has to be given up.
//
// A dataset that is a clone at the sender, and new at the receiver, is sent on its
// origin, so that it becomes a clone there too, where the caller found the origin's
// version (Options.Origin); otherwise it is sent whole, and the plan says why.
//
// Places that keep streams (archives) can send only those: the plan then walks
// over stored streams, choosing the cheapest chain that leads to the newest
// version.
//
// Merge walks two listings, ordered by name, side by side and holds one dataset at
// a time: the cost of planning does not depend on how much a place holds in all.
package plan

import (
	"fmt"
	"slices"

	"cairn"
)

// Initial says what is sent to a receiver that has nothing of a dataset.
type Initial uint8

// The choices; the zero value is zrepl's default.
const (
	MostRecent Initial = iota // the newest snapshot only
	All                       // every snapshot, oldest first
	Fail                      // nothing: it is a conflict
)

var initialNames = [...]string{"most_recent", "all", "fail"}

// String is the word in the configuration.
func (i Initial) String() string { return initialNames[i] }

// ParseInitial reads the word of the configuration; empty is most_recent.
func ParseInitial(word string) (Initial, error) {
	if word == "" {
		return MostRecent, nil
	}
	if i := slices.Index(initialNames[:], word); i >= 0 {
		return Initial(i), nil
	}
	return 0, &cairn.Error{Op: "use", Subject: fmt.Sprintf("initial_replication %q", word), Kind: cairn.KindConfig, Hint: "write most_recent, all or fail"}
}

// Options are the choices a plan depends on.
type Options struct {
	Initial Initial
	Until   cairn.VersionID // the version to end at, at the sender; zero is the newest
	Several int             // versions that one step may carry; 0 is 1
	Accept  []cairn.Format  // what the receiver takes, to choose among stored streams; nil takes all
	Origin  Origin          // whether a clone's origin is at the receiver

	// LeaveOut says which candidates the receiver would destroy in the same run,
	// and in which words; "" sends one. held are the receiver's snapshots, the
	// candidates follow them, oldest first, and the last one is sent whatever it
	// says. nil sends all.
	LeaveOut func(held, candidates []cairn.Version) []string
}

// Origin says what a caller knows of the snapshot that a sender's clone stands on.
type Origin struct {
	There bool   // the receiver has it, and can make a clone of it
	Why   string // it is not so; one sentence
}

// Plan is what to do for one dataset.
type Plan struct {
	Dataset string
	Initial bool            // the receiver has nothing of it
	Base    cairn.VersionID // what the receiver has, by its name at the sender; zero when Initial
	Abort   string          // why the receiver's cut receive must be given up first; "" when it need not
	Steps   []cairn.Step    // in order; none: it is up to date
	Whole   string          // why a clone is sent whole, to be a dataset of its own; "" of what is no clone, or stays one
	LeftOut []LeftOut
}

// LeftOut is a version that is not sent.
type LeftOut struct {
	Version cairn.VersionID
	Why     string
}

// Dataset plans one dataset. receiver is nil when the receiver does not have it.
// The error is a *cairn.Error with a *Conflict inside.
func Dataset(sender, receiver *cairn.Listing, o Options) (Plan, error) {
	p := planner{Options: o, sender: sender, receiver: receiver, plan: Plan{Dataset: sender.Dataset.Name}}
	if sender.Dataset.Placeholder {
		return p.plan, nil
	}
	if receiver == nil {
		p.receiver = &cairn.Listing{}
	}
	if err := p.findBase(); err != nil {
		return Plan{}, err
	}
	if err := p.findCandidates(); err != nil {
		return Plan{}, err
	}
	p.resume()
	if keepsStreams(sender) {
		if err := p.storedSteps(); err != nil {
			return Plan{}, err
		}
		return p.plan, nil
	}
	p.newestOnly()
	p.leaveOut()
	p.steps()
	return p.plan, nil
}

// planner is one call of Dataset.
type planner struct {
	Options
	sender, receiver *cairn.Listing
	base             *cairn.Version  // at the sender; nil when initial
	newest           *cairn.Version  // the receiver's newest snapshot; nil when initial
	origin           cairn.Origin    // what the first stream makes a clone of; zero: of nothing
	candidates       []cairn.Version // sender snapshots still to send, oldest first
	plan             Plan
}

func (p *planner) findBase() error {
	p.newest = newestSnapshot(p.receiver.Versions)
	if p.newest == nil {
		p.plan.Initial = true
		p.findOrigin()
		return nil
	}
	if p.base = byGUID(p.sender.Versions, p.newest.GUID); p.base == nil {
		return p.disagreement()
	}
	p.plan.Base = p.base.VersionID
	return nil
}

// findOrigin decides whether what the receiver has nothing of begins as a clone.
func (p *planner) findOrigin() {
	o := p.sender.Dataset.Origin
	switch {
	case o.IsZero():
	case o.Dataset == "":
		p.plan.Whole = "its origin is not among what is replicated"
	case p.receiver.Dataset.Placeholder:
		p.plan.Whole = "the receiver has a placeholder under its name"
	case !p.Origin.There:
		p.plan.Whole = p.Origin.Why
	default:
		p.origin = o
	}
}

func newestSnapshot(versions []cairn.Version) *cairn.Version {
	for i := len(versions) - 1; i >= 0; i-- {
		if versions[i].IsSnapshot() {
			return &versions[i]
		}
	}
	return nil
}

// byGUID looks from the newest back, so that the snapshot, which follows its
// bookmarks, is found first.
func byGUID(versions []cairn.Version, guid cairn.GUID) *cairn.Version {
	for i := len(versions) - 1; i >= 0; i-- {
		if versions[i].GUID == guid {
			return &versions[i]
		}
	}
	return nil
}

// findCandidates lists the sender's readable snapshots after the base and up to
// Until. Versions are in order, so that all after the base stand behind it.
func (p *planner) findCandidates() error {
	until, err := p.until()
	if err != nil {
		return err
	}
	first := 0
	if p.base != nil {
		first = slices.IndexFunc(p.sender.Versions, func(v cairn.Version) bool { return v.Order > p.base.Order })
	}
	if first < 0 {
		return nil
	}
	for _, v := range p.sender.Versions[first:] {
		switch {
		case v.Order > until:
			return p.checkInitial()
		case !v.IsSnapshot():
		case v.State == cairn.StateDamaged || v.State == cairn.StateDegraded:
			p.skip(v, "its data is "+v.State.String()+" at the sender")
		default:
			p.candidates = append(p.candidates, v)
		}
	}
	return p.checkInitial()
}

// until is the position of the last version to send.
func (p *planner) until() (uint64, error) {
	if p.Until.IsZero() {
		return ^uint64(0), nil
	}
	for _, v := range p.sender.Versions {
		if v.VersionID == p.Until {
			return v.Order, nil
		}
	}
	return 0, &cairn.Error{Op: "plan replication of", Subject: p.plan.Dataset + p.Until.Name, Kind: cairn.KindNotFound,
		Hint: "list the dataset's versions and name one of them"}
}

func (p *planner) skip(v cairn.Version, why string) {
	p.plan.LeftOut = append(p.plan.LeftOut, LeftOut{v.VersionID, why})
}

func (p *planner) checkInitial() error {
	switch {
	case !p.plan.Initial:
		return nil
	case len(p.candidates) == 0:
		return p.conflict(NoSnapshots)
	case p.Initial == Fail:
		return p.conflict(InitialForbidden)
	}
	return nil
}

// resume turns a cut receive into the first step, or says why it cannot be.
func (p *planner) resume() {
	cut := p.receiver.Partial
	if cut == nil {
		return
	}
	to, from, why := p.resumable(cut)
	if why != "" {
		p.plan.Abort = why
		return
	}
	p.plan.Steps = []cairn.Step{{Dataset: p.plan.Dataset, Origin: p.origin.Dataset, From: from, To: to.VersionID, Resume: cut.Token, Size: -1}}
	p.candidates = slices.DeleteFunc(p.candidates, func(v cairn.Version) bool { return v.Order <= to.Order })
}

// newestOnly is Initial's default: a receiver that has nothing gets the newest
// snapshot, unless it is in the middle of receiving an older one.
func (p *planner) newestOnly() {
	if p.plan.Initial && p.Initial == MostRecent && len(p.plan.Steps) == 0 {
		p.candidates = p.candidates[len(p.candidates)-1:]
	}
}

func (p *planner) resumable(cut *cairn.Partial) (to *cairn.Version, from cairn.VersionID, why string) {
	i := slices.IndexFunc(p.candidates, func(v cairn.Version) bool { return v.GUID == cut.To.GUID })
	if i < 0 {
		return nil, from, fmt.Sprintf("%s (GUID %s), which it was receiving, cannot be sent any more", cut.To, cut.To.GUID)
	}
	var have cairn.GUID
	switch {
	case p.newest != nil:
		have, from = p.newest.GUID, p.base.VersionID
	case cut.From.GUID == 0:
		p.origin = cairn.Origin{} // it began as a dataset of its own, and may go on so
	default:
		have, from = p.origin.GUID, p.origin.VersionID
	}
	if cut.From.GUID != have {
		return nil, from, fmt.Sprintf("it was received on GUID %s, and the newest version there is GUID %s", cut.From.GUID, have)
	}
	if len(cut.Token) == 0 {
		return nil, from, "it cannot say how to go on"
	}
	return &p.candidates[i], from, ""
}

// leaveOut drops what the receiver would destroy in the same run.
func (p *planner) leaveOut() {
	if p.LeaveOut == nil || len(p.candidates) < 2 {
		return
	}
	var held []cairn.Version
	for _, v := range p.receiver.Versions {
		if v.IsSnapshot() {
			held = append(held, v)
		}
	}
	why := p.LeaveOut(held, p.candidates)
	last := len(p.candidates) - 1
	var send []cairn.Version
	for i, v := range p.candidates {
		if why[i] != "" && i != last {
			p.skip(v, why[i])
			continue
		}
		send = append(send, v)
	}
	p.candidates = send
}

// steps makes one step of each candidate, or of several that follow each other at
// the sender, from a snapshot on.
func (p *planner) steps() {
	from, origin := p.plan.Base, p.origin.Dataset
	if origin != "" {
		from = p.origin.VersionID
	}
	if n := len(p.plan.Steps); n > 0 {
		from, origin = p.plan.Steps[n-1].To, ""
	}
	position := p.positions()
	p.plan.Steps = slices.Grow(p.plan.Steps, len(p.candidates))
	for _, v := range p.candidates {
		last := len(p.plan.Steps) - 1
		if last >= 0 && p.joins(&p.plan.Steps[last], position, v) {
			s := &p.plan.Steps[last]
			s.Via, s.To = append(s.Via, s.To), v.VersionID
		} else {
			p.plan.Steps = append(p.plan.Steps, cairn.Step{Dataset: p.plan.Dataset, Origin: origin, From: from, To: v.VersionID, Size: -1})
		}
		from, origin = v.VersionID, ""
	}
}

// positions numbers the sender's snapshots; nil when steps are not joined.
func (p *planner) positions() map[cairn.VersionID]int {
	if p.Several < 2 {
		return nil
	}
	position := map[cairn.VersionID]int{}
	for i := range p.sender.Versions {
		if v := &p.sender.Versions[i]; v.IsSnapshot() {
			position[v.VersionID] = len(position)
		}
	}
	return position
}

// joins reports whether the step may go on to v: a stream of several versions
// carries every snapshot from its base on, which is a snapshot itself.
func (p *planner) joins(s *cairn.Step, position map[cairn.VersionID]int, v cairn.Version) bool {
	return position != nil && s.Resume == nil && s.Origin == "" && s.From.IsSnapshot() && len(s.Via)+2 <= p.Several &&
		position[v.VersionID] == position[s.To]+1 && (len(s.Via) > 0 || position[s.To] == position[s.From]+1)
}

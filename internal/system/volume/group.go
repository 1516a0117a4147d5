package volume

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"

	"cairn"
	"cairn/internal/mech/blockio"
	"cairn/internal/system/volume/catalog"
)

// A group capture makes one version of each of several volumes of a place, all of
// the same instant, or none. Each volume does the steps of a capture; in the third
// all stand still together. Then one record of the place names every version: that
// it is durable is the commit point. A volume that dies before its own catalog says
// so takes its version over from the record when it is next opened.

const (
	pauseLimit    = 100 * time.Millisecond // most that a volume of a group stands still
	pauseAttempts = 5
	groupMagic    = 0x31524743 // "CGR1"
	groupHead     = 16
	groupNew      = ".new"
)

// groupRecord is the commit point of a group capture.
type groupRecord struct {
	Name    string        `json:"name"` // of the versions
	Members []groupMember `json:"members"`
}

// groupMember is what one volume's catalog has to take over.
type groupMember struct {
	Volume      string          `json:"volume"` // for people; Store says which it is
	Store       uint64          `json:"store,string"`
	Incarnation uint64          `json:"incarnation"` // of the opening that captured
	Version     catalog.Version `json:"version"`
	Set         uint64          `json:"set,omitempty"`
	Epoch       uint64          `json:"epoch"`
}

// CaptureGroup makes a snapshot of that name of every volume, at one instant.
// records is the folder for the record of the group, the same in which the volumes
// look when they are opened (Options.Groups). An error means that none was made,
// unless its hint says that a volume has to be opened again. The versions are in
// the order of the volumes.
func CaptureGroup(ctx context.Context, records blockio.FS, name string, volumes []*Volume) ([]cairn.Version, error) {
	sorted := slices.Clone(volumes)
	slices.SortFunc(sorted, func(a, b *Volume) int { return cmp.Compare(a.o.Name, b.o.Name) })
	for i, v := range sorted { // always in one order, so that two groups never wait for each other
		if i > 0 && sorted[i-1] == v {
			return nil, &cairn.Error{Op: "capture", Subject: v.o.Name, Kind: cairn.KindInvalid, Hint: "it is named twice"}
		}
		v.admin.Lock()
		defer v.admin.Unlock()
	}
	g := &groupCapture{records: records, name: name}
	if err := g.run(ctx, sorted); err != nil {
		return nil, failed("capture", names(sorted)+" together", err)
	}
	out := make([]cairn.Version, len(volumes))
	for i, v := range volumes {
		out[i] = v.describe(g.of(v).rec)
	}
	return out, nil
}

func names(volumes []*Volume) string {
	var list []string
	for _, v := range volumes {
		list = append(list, v.o.Name)
	}
	return strings.Join(list, ", ")
}

// groupCapture is a group capture under way, by one goroutine.
type groupCapture struct {
	records blockio.FS
	name    string
	members []*capturing
}

func (g *groupCapture) of(v *Volume) *capturing {
	i := slices.IndexFunc(g.members, func(c *capturing) bool { return c.v == v })
	return g.members[i]
}

func (g *groupCapture) run(ctx context.Context, volumes []*Volume) error {
	for _, v := range volumes {
		if err := errors.Join(ctx.Err(), v.mayCapture(g.name)); err != nil {
			return err
		}
	}
	err := g.gather(volumes)
	file := ""
	if err == nil {
		file, err = g.write()
	}
	if err != nil {
		for _, c := range g.members {
			c.giveUp()
		}
		return err
	}
	return g.finish(file)
}

// gather does every member's steps but the last.
func (g *groupCapture) gather(volumes []*Volume) error {
	for _, v := range volumes {
		c, err := v.beginCapture(catalog.Version{Name: g.name, GUID: newGUID(), Created: v.o.Now().UTC()})
		if err != nil {
			return err
		}
		g.members = append(g.members, c)
	}
	if err := g.pauseAndSwitch(); err != nil {
		return err
	}
	for _, c := range g.members {
		if err := c.gather(); err != nil {
			return err
		}
	}
	return nil
}

// pauseAndSwitch tries to have all stand still at once. Each try ends by itself.
func (g *groupCapture) pauseAndSwitch() error {
	if g.members[0].v.o.Faults.has(FaultGroupInTurns) {
		return g.inTurns()
	}
	for range pauseAttempts - 1 {
		if err := g.pauseOnce(); !errors.Is(err, cairn.KindBusy) {
			return err
		}
		for _, c := range g.members { // less to carry out the next time
			if err := c.v.flushAll(); err != nil {
				return err
			}
		}
	}
	return g.pauseOnce()
}

// pauseOnce holds the writes of every member and switches them all; KindBusy, with
// nothing changed and every hold ended, when that is not done within the limit.
func (g *groupCapture) pauseOnce() error {
	expired := make(chan struct{})
	timer := time.AfterFunc(pauseLimit, func() { close(expired) })
	defer timer.Stop()
	for _, c := range g.members {
		if !c.v.hold(expired) {
			return tooSlow(c.v)
		}
		defer c.v.gate.Unlock()
	}
	for _, c := range g.members {
		if err := c.v.carryOut(); err != nil {
			return err
		}
	}
	select {
	case <-expired:
		return tooSlow(g.members[0].v)
	default:
	}
	for _, c := range g.members {
		c.switchOver()
	}
	return nil
}

// inTurns is FaultGroupInTurns: each member is captured at an instant of its own.
func (g *groupCapture) inTurns() error {
	for _, c := range g.members {
		if err := errors.Join(c.v.flush(), c.pauseAndSwitch()); err != nil {
			return err
		}
	}
	return nil
}

func tooSlow(v *Volume) error {
	return &cairn.Error{Op: "pause", Subject: v.o.Name, Kind: cairn.KindBusy,
		Err: fmt.Errorf("writes under way did not end within %v", pauseLimit), Hint: "its disk is slow now; try again, or capture without --group"}
}

// hold takes the gate alone, unless it does not get it before expired.
func (v *Volume) hold(expired <-chan struct{}) bool {
	held := make(chan struct{})
	go func() { // ends with the writes under way at the latest
		v.gate.Lock()
		select {
		case held <- struct{}{}:
		case <-expired:
			v.gate.Unlock()
		}
	}()
	select {
	case <-held:
		return true
	case <-expired:
		return false
	}
}

// write makes the record durable, and gives its file. After an error it is certain
// that it is not there, or the members take no more writes.
func (g *groupCapture) write() (string, error) {
	r := groupRecord{Name: g.name}
	for _, c := range g.members {
		st := c.v.state()
		r.Members = append(r.Members, groupMember{Volume: c.v.o.Name, Store: st.Store.ID, Incarnation: st.Head.Incarnation,
			Version: c.rec, Set: c.set, Epoch: c.old.epoch})
	}
	p, err := r.encode()
	if err != nil {
		return "", err
	}
	file := fmt.Sprintf("%016x", uint64(newGUID()))
	unsynced := g.members[0].v.o.Faults.has(FaultGroupUnsynced)
	if err := writeNew(g.records, file+groupNew, p, unsynced); err != nil {
		return "", err
	}
	if err = g.records.Rename(file+groupNew, file); err == nil && !unsynced {
		err = g.records.SyncDir(".")
	}
	if err == nil {
		return file, nil
	}
	if gone := errors.Join(g.records.Remove(file), g.records.SyncDir(".")); gone != nil {
		for _, c := range g.members {
			c.v.doubtful.Store(true)
		}
		err = errors.Join(err, gone)
	}
	return "", err
}

func writeNew(records blockio.FS, name string, p []byte, unsynced bool) error {
	f, err := records.Create(name)
	if err != nil {
		return err
	}
	if _, err = f.WriteAt(p, 0); err == nil && !unsynced {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		err = errors.Join(err, records.Remove(name))
	}
	return err
}

// finish tells every catalog what is certain by now.
func (g *groupCapture) finish(file string) error {
	var failures error
	for _, c := range g.members {
		if err := c.commit(); err != nil {
			c.v.doubtful.Store(true)
			failures = errors.Join(failures, &cairn.Error{Op: "record the capture in", Subject: c.v.o.Name, Kind: blockio.Kind(err), Err: err,
				Hint: "the group is captured; open this volume again to see its snapshot"})
		}
	}
	if failures == nil {
		// One that comes back after a power cut does no harm: all have moved on.
		if err := g.records.Remove(file); err != nil {
			g.members[0].v.o.Log.Warn("cannot remove the record of a group capture", "file", file, "error", err)
		}
	}
	return failures
}

func (r groupRecord) encode() ([]byte, error) {
	text, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	p := make([]byte, groupHead, groupHead+len(text))
	binary.LittleEndian.PutUint32(p, groupMagic)
	binary.LittleEndian.PutUint64(p[8:], uint64(len(text)))
	p = append(p, text...)
	binary.LittleEndian.PutUint32(p[4:], crc32.Checksum(p[8:], crc32.MakeTable(crc32.Castagnoli)))
	return p, nil
}

func decodeGroup(p []byte) (r groupRecord, err error) {
	le := binary.LittleEndian
	if len(p) < groupHead || le.Uint32(p) != groupMagic || le.Uint64(p[8:]) != uint64(len(p)-groupHead) ||
		le.Uint32(p[4:]) != crc32.Checksum(p[8:], crc32.MakeTable(crc32.Castagnoli)) {
		return r, errors.New("it is not whole")
	}
	return r, json.Unmarshal(p[groupHead:], &r)
}

// takeOver enters into the catalog what a group capture committed when this store
// died before it could do so itself. It comes before everything else: what was
// gathered since the switch would be folded back otherwise.
func (v *Volume) takeOver() error {
	if v.o.Groups == nil || v.log.State().Head.Clean {
		return nil
	}
	files, err := v.o.Groups.ReadDir(".")
	if err != nil {
		return err
	}
	for _, name := range files {
		if strings.HasSuffix(name, groupNew) {
			continue
		}
		r, err := readGroup(v.o.Groups, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return &cairn.Error{Op: "read group record", Subject: name, Kind: cairn.KindCorrupt, Err: err,
				Hint: "a capture of several volumes was cut off; without the record their versions of it do not belong together: remove the file to go on"}
		}
		for _, m := range r.Members {
			if err := v.takeOverFrom(m); err != nil {
				return err
			}
		}
	}
	return nil
}

// takeOverFrom does so for one member, when it is this store in the same opening
// and has not moved on.
func (v *Volume) takeOverFrom(m groupMember) error {
	st := v.log.State()
	h := st.Head
	if m.Store != st.Store.ID || m.Incarnation != h.Incarnation || m.Version.Start <= h.Interval || v.o.Faults.has(FaultGroupNotTakenOver) {
		return nil
	}
	e := captured(&h, m.Version, m.Set, m.Epoch)
	e.Why, e.Head = "capture "+m.Version.Name+", by the record of its group", &h
	return v.log.Commit(e)
}

func readGroup(records blockio.FS, name string) (groupRecord, error) {
	f, err := records.Open(name, false)
	if err != nil {
		return groupRecord{}, err
	}
	size, err := f.Size()
	p := make([]byte, min(size, 1<<24))
	if err == nil {
		if _, err = f.ReadAt(p, 0); errors.Is(err, io.EOF) {
			err = nil
		}
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return groupRecord{}, err
	}
	return decodeGroup(p)
}

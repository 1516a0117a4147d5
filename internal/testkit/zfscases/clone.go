package zfscases

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"cairn"
	"cairn/internal/policy/plan"
	"cairn/internal/system/wrap"
	"cairn/internal/system/zfs"
	"cairn/internal/work/replicate"
)

// familyCases are about clones and renames.
var familyCases = []Case{
	{"CloneByItsOrigin", cloneStream},
	{"CloneStaysAClone", clonesStay},
	{"CloneOfAllVersions", clonesInOrder},
	{"CloneIsResumed", cloneResumed},
	{"CloneIsSentWhole", clonesWhole},
	{"CloneRaw", clonesRaw},
	{"RenameAtTheSender", renamedHere},
	{"RenameAtTheReceiver", renamedThere},
	{"RenameIsNotFollowed", notFollowed},
	{"RenameBelowANewParent", renamedBelow},
}

// originOf is what zfs itself says.
func (l *lab) originOf(name string) string {
	l.Helper()
	return strings.TrimSpace(l.zfs("get", "-H", "-o", "value", "origin", name))
}

// cloned makes a clone of a snapshot, with a snapshot of its own for each name.
func (l *lab) cloned(of, short string, snapshots ...string) string {
	l.Helper()
	name := l.pool + "/" + short
	l.zfs("clone", of, name)
	for _, s := range snapshots {
		l.fill(name, s)
		l.zfs("snapshot", name+"@"+s)
	}
	return name
}

// The place tells a clone's origin, sends the clone on it, and receives it as one.
func cloneStream(t *testing.T, w *World) {
	l := w.lab(t)
	src := l.zvol("src", "a")
	clone := l.cloned(src+"@a", "clone", "k")
	of := cairn.Origin{Dataset: src, VersionID: l.id(src, "@a")}
	if got := l.list(clone).Dataset.Origin; got != of {
		t.Errorf("the clone's origin is listed as %+v, want %+v", got, of)
	}
	h, all := l.bytes(cairn.Step{Dataset: src, To: l.id(src, "@a")})
	_, err := l.receive(l.pool+"/to/src", h, bytes.NewReader(all))
	l.ok(err)
	step := cairn.Step{Dataset: clone, Origin: src, From: of.VersionID, To: l.id(clone, "@k")}
	h, all = l.bytes(step)
	if len(all) > zvolBytes/8 {
		t.Errorf("the clone's stream has %d bytes: it is not on its origin", len(all))
	}
	_, err = l.receive(l.pool+"/to/none", h, bytes.NewReader(all)) // its origin is src itself: a clone beside it
	l.ok(err)
	h.Origin = l.pool + "/to/src"
	_, err = l.receive(l.pool+"/to/clone", h, bytes.NewReader(all))
	l.ok(err)
	l.wantSame(clone+"@k", l.pool+"/to/clone@k")
	if got := l.originOf(l.pool + "/to/clone"); got != l.pool+"/to/src@a" {
		t.Errorf("what was received is a clone of %q", got)
	}
	_, err = l.receive(l.pool+"/to/clone", h, bytes.NewReader(all))
	l.want("the same again", err, cairn.KindExists)
	h.Origin = l.pool + "/to/clone"
	_, err = l.receive(l.pool+"/to/third", h, bytes.NewReader(all))
	l.want("a clone of a dataset without that version", err, cairn.KindConflict)
	h.Origin = l.pool + "/to/nothing"
	_, err = l.receive(l.pool+"/to/third", h, bytes.NewReader(all))
	l.want("a clone of a dataset that is not there", err, cairn.KindConflict)
	l.wantNames(l.pool + "/to/third")
	step.Origin, step.From = l.pool+"/to/src", of.VersionID
	_, err = l.ep.Sender.Send(l.Context(), step, []cairn.Format{cairn.FormatZFS})
	l.want("a clone sent on what it does not stand on", err, cairn.KindConflict)
}

// bytesMoved adds up what a run moved for a dataset.
func bytesMoved(r *replicate.Report, dataset string) (n int64, steps []string) {
	for _, d := range r.Datasets {
		for _, a := range d.Attempts {
			for _, s := range a.Steps {
				if d.Dataset == dataset {
					n += s.BytesMoved
					steps = append(steps, s.From+">"+s.To)
				}
			}
		}
	}
	return n, steps
}

// A clone is sent on its origin and is a clone at the receiver, also of a clone, and
// whatever the order of their names; then both go on by themselves.
func clonesStay(t *testing.T, w *World) {
	p := w.pair(t, zfs.Job{})
	src := p.zvol("m-src", "1")
	first, second := p.cloned(src+"@1", "z-clone", "2"), ""
	second = p.cloned(first+"@2", "a-clone", "3") // sorts before what it stands on
	r := p.mustReplicate()
	for _, c := range []struct{ name, snap, origin string }{{first, "2", src + "@1"}, {second, "3", first + "@2"}} {
		if got := p.there.originOf(p.target(c.name)); got != p.target(c.origin) {
			t.Errorf("%s is a clone of %q at the receiver, want %q", c.name, got, p.target(c.origin))
		}
		if n, steps := bytesMoved(r, c.name); n > zvolBytes/8 || len(steps) != 1 {
			t.Errorf("%s took %d bytes in steps %q", c.name, n, steps)
		}
		p.wantSame(c.name+"@"+c.snap, p.target(c.name)+"@"+c.snap)
		p.wantMarks(c.name, "j cursor "+cursorOf(p.id(c.name, "@"+c.snap)))
	}
	p.wantMarks(src, "j cursor "+cursorOf(p.id(src, "@1")))
	for _, name := range []string{src, first, second} {
		p.fill(name, "5")
		p.zfs("snapshot", name+"@5")
	}
	p.connect(zfs.Job{})
	p.mustReplicate()
	for _, name := range []string{src, first, second} {
		p.wantSame(name+"@5", p.target(name)+"@5")
	}
	p.connect(zfs.Job{})
	if r := p.mustReplicate(); r.Datasets[0].State != replicate.UpToDate {
		t.Errorf("a third run: %+v", r.Datasets[0])
	}
}

// With all versions, the origin's that the clone stands on is not its last.
func clonesInOrder(t *testing.T, w *World) {
	p := w.pair(t, zfs.Job{})
	src := p.zvol("src", "1", "2", "3")
	clone := p.cloned(src+"@2", "clone", "5", "6", "7")
	p.options.Initial = plan.All
	p.mustReplicate()
	p.there.wantNames(p.target(clone), "@5", "@6", "@7")
	if got := p.there.originOf(p.target(clone)); got != p.target(src)+"@2" {
		t.Errorf("it is a clone of %q at the receiver", got)
	}
	for _, s := range []string{"@5", "@6", "@7"} {
		p.wantSame(clone+s, p.target(clone)+s)
	}
}

// A clone whose stream was cut goes on from there, and is a clone.
func cloneResumed(t *testing.T, w *World) {
	p := w.pair(t, zfs.Job{})
	src := p.zvol("src", "1")
	clone := p.pool + "/z"
	p.zfs("clone", src+"@1", clone)
	p.ok(p.Write(clone, 0, pattern(zvolBytes/2)))
	p.zfs("snapshot", clone+"@k")
	p.mustReplicateOnly(src)
	p.connect(zfs.Job{})
	after := int64(zvolBytes / 4)
	sender := *p.sender
	sender.Sender = cutSender{p.sender.Sender, &after}
	p.options.Sender = &sender
	_, err := p.replicate()
	p.want("a run whose line is cut", err, cairn.KindUnavailable)
	cut := p.there.list(p.target(clone)).Partial
	if cut == nil || cut.From.GUID != p.id(src, "@1").GUID {
		t.Fatalf("of the clone is kept %+v", cut)
	}
	p.connect(zfs.Job{})
	r := p.mustReplicate()
	if n, steps := bytesMoved(r, clone); n > zvolBytes*3/8 || len(steps) != 1 {
		t.Errorf("after the cut it took %d bytes in steps %q", n, steps)
	}
	if got := p.there.originOf(p.target(clone)); got != p.target(src)+"@1" {
		t.Errorf("it is a clone of %q at the receiver", got)
	}
	p.wantSame(clone+"@k", p.target(clone)+"@k")
}

// mustReplicateOnly replicates one dataset.
func (p *pair) mustReplicateOnly(name string) {
	p.Helper()
	all := p.options.Filter
	p.options.Filter = cairn.Filter{{Name: name, Keep: true}}
	p.mustReplicate()
	p.options.Filter = all
}

// Where it cannot be a clone at the receiver it is sent whole, and that is said.
func clonesWhole(t *testing.T, w *World) {
	p := w.pair(t, zfs.Job{})
	src := p.zvol("src", "1", "2")
	late := p.cloned(src+"@1", "late", "5") // the receiver gets @2 only
	wish := p.cloned(src+"@2", "wish", "6")
	alone := p.cloned(src+"@2", "alone", "7")
	held := p.cloned(src+"@2", "held", "8")
	p.there.zfs("create", "-p", "-o", zrepl+"=on", p.target(held))
	whole := func(r *replicate.Report, name, why string) {
		t.Helper()
		for _, d := range r.Datasets {
			if d.Dataset == name && !strings.Contains(d.Whole, why) {
				t.Errorf("that %s is sent whole is explained by %q, want %q", name, d.Whole, why)
			}
		}
		if got := p.there.originOf(p.target(name)); got != "-" {
			t.Errorf("%s is a clone of %s at the receiver", name, got)
		}
	}
	p.options.Names = []string{late, src}
	whole(p.mustReplicate(), late, "does not have")
	p.options.Names, p.options.CopyClones = []string{wish}, true
	whole(p.mustReplicate(), wish, "copies clones")
	p.options.Names, p.options.CopyClones = []string{held}, false
	whole(p.mustReplicate(), held, "placeholder")
	p.options.Names, p.options.Sender = []string{alone}, wrap.Select(p.sender, cairn.Filter{{Name: alone, Keep: true}}, "them")
	whole(p.mustReplicate(), alone, "not among")
	for _, s := range []string{late + "@5", wish + "@6", alone + "@7", held + "@8"} {
		p.wantSame(s, p.target(s))
	}
}

func clonesRaw(t *testing.T, w *World) {
	job := zfs.Job{Send: zfs.SendOptions{Encrypted: true}, Receive: zfs.ReceiveOptions{Placeholder: zfs.Off}}
	p := w.pair(t, job)
	enc := p.encrypted("enc")
	src, clone := enc+"/src", enc+"/z-clone"
	p.zfs("create", src)
	p.zfs("snapshot", src+"@1")
	p.zfs("clone", src+"@1", clone)
	p.zfs("snapshot", clone+"@2")
	p.options.Filter = cairn.Filter{{Name: src, Keep: true}, {Name: clone, Keep: true}}
	p.mustReplicate()
	if got := p.there.originOf(p.target(clone)); got != p.target(src)+"@1" {
		t.Errorf("the raw clone is a clone of %q at the receiver", got)
	}
	if !p.there.list(p.target(clone)).Dataset.Encrypted {
		t.Error("it is not encrypted there")
	}
	p.zfs("snapshot", clone+"@3")
	p.connect(job)
	p.options.Filter = cairn.Filter{{Name: clone, Keep: true}}
	p.mustReplicate()
	p.there.wantNames(p.target(clone), "@2", "@3")
}

// moved checks that a dataset is at the receiver under its name only, and was not
// sent anew.
func (p *pair) moved(r *replicate.Report, name, was string, versions ...string) {
	p.Helper()
	p.there.wantNames(p.target(name), versions...)
	if p.there.find(p.target(was)) != nil {
		p.Errorf("the receiver still has %s", p.target(was))
	}
	if n, steps := bytesMoved(r, name); n > zvolBytes/8 {
		p.Errorf("%s took %d bytes in steps %q after it was renamed", name, n, steps)
	}
	for _, d := range r.Datasets {
		if d.Dataset == name && d.RenamedFrom != was {
			p.Errorf("the report says that %s was %q at the receiver, want %q", name, d.RenamedFrom, was)
		}
	}
}

// What the sender renamed, with all below it, is renamed at the receiver, and goes on.
func renamedHere(t *testing.T, w *World) {
	p := w.pair(t, zfs.Job{})
	old, fresh := p.pool+"/old", p.pool+"/new"
	p.filesystem("old", "1")
	p.filled("old/vol", "1")
	p.mustReplicate()
	p.zfs("rename", old, fresh)
	p.fill(fresh+"/vol", "2")
	p.zfs("snapshot", "-r", fresh+"@2")
	p.connect(zfs.Job{})
	before := p.processes()
	r := p.mustReplicate()
	p.moved(r, fresh, old, "@1", "@2")
	p.moved(r, fresh+"/vol", old+"/vol", "@1", "@2")
	p.wantSame(fresh+"/vol@2", p.target(fresh)+"/vol@2")
	if got := since(before, p.processes()); got["zfs rename"] != 1 {
		t.Errorf("the run starts %v: what lies below moves along", got)
	}
	p.wantMarks(fresh+"/vol", "j cursor "+cursorOf(p.id(fresh+"/vol", "@2")))
	p.zfs("rename", fresh, old) // and with nothing new to send
	p.connect(zfs.Job{})
	p.moved(p.mustReplicate(), old, fresh, "@1", "@2")
}

// pattern is content of which no two blocks are the same.
func pattern(n int) []byte {
	var content []byte
	for i := range n / cairn.BlockSize {
		content = append(content, strings.Repeat(fmt.Sprintf("%08d", i), cairn.BlockSize/8)...)
	}
	return content
}

// filled is a zvol with content all over.
func (l *lab) filled(short, snap string) string {
	l.Helper()
	name := l.zvol(short)
	l.ok(l.Write(name, 0, pattern(zvolBytes)))
	l.zfs("snapshot", name+"@"+snap)
	return name
}

// What somebody renamed at the receiver is given its name back.
func renamedThere(t *testing.T, w *World) {
	p := w.pair(t, zfs.Job{})
	vol := p.filled("vol", "1")
	p.mustReplicate()
	aside := p.pool + "/aside"
	p.there.zfs("rename", p.target(vol), p.target(aside))
	p.fill(vol, "2")
	p.zfs("snapshot", vol+"@2")
	p.connect(zfs.Job{})
	p.options.Names = []string{vol} // also when only it was asked for
	p.moved(p.mustReplicate(), vol, aside, "@1", "@2")
	p.wantSame(vol+"@2", p.target(vol)+"@2")
}

// What must not be renamed is a conflict that names both, and nothing is sent anew.
func notFollowed(t *testing.T, w *World) {
	p := w.pair(t, zfs.Job{})
	vol := p.filled("vol", "1")
	p.mustReplicate()
	fresh := p.pool + "/new"
	p.zfs("rename", vol, fresh)
	refused := func(what, why string) {
		t.Helper()
		r, err := p.replicate()
		p.want(what, err, cairn.KindConflict)
		if err == nil || !strings.Contains(err.Error(), vol) || !strings.Contains(err.Error(), fresh) || !strings.Contains(err.Error(), why) {
			t.Errorf("%s says %v", what, err)
		}
		if n, _ := bytesMoved(r, fresh); n != 0 {
			t.Errorf("%s moved %d bytes", what, n)
		}
		p.there.wantNames(p.target(vol), "@1")
		p.there.wantNames(p.target(fresh))
	}
	p.connect(zfs.Job{})
	p.options.Renamed = plan.Refuse
	refused("a renamed dataset, and a job that renames none", "does not rename")
	receiver := *p.receiver
	receiver.Renames = nil
	p.options.Renamed, p.options.Receiver = plan.Follow, &receiver
	refused("a renamed dataset, and a receiver that renames none", "lets nobody")
	p.connect(zfs.Job{})
	p.options.Owner = "another job" // what another job received is not this one's to rename
	r := p.mustReplicate()
	if n, _ := bytesMoved(r, fresh); n < zvolBytes/2 {
		t.Errorf("another job's dataset was taken for this one's: %d bytes moved", n)
	}
	p.there.wantNames(p.target(vol), "@1")
}

// What moved below a dataset that is new waits for it; no placeholder stands in for
// the new one.
func renamedBelow(t *testing.T, w *World) {
	p := w.pair(t, zfs.Job{})
	vol := p.filled("vol", "1")
	p.mustReplicate()
	p.filesystem("top", "1")
	p.zfs("rename", vol, p.pool+"/top/vol")
	p.connect(zfs.Job{Receive: zfs.ReceiveOptions{Root: p.root}}) // which makes no placeholders
	r := p.mustReplicate()
	p.moved(r, p.pool+"/top/vol", vol, "@1")
	p.there.wantNames(p.target(p.pool+"/top"), "@1")
}

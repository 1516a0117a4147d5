package check

import (
	"slices"

	"cairn"
)

var cloneRules = []Rule{
	{Name: "clone", Says: "a stream with an origin makes a clone of it, which is listed with its origin and is sent on it again", Needs: append(receiveNeeds, "send"), run: clone},
	{Name: "clone-origin", Says: "a clone of what is not here, or in the place of a dataset, is KindConflict and leaves nothing", Needs: receiveNeeds, run: cloneOrigin},
}

// clones skips a rule where the place makes none.
func (l *lab) clones() {
	if kind, _ := l.speaks(); !slices.Contains(l.Info.Clones, kind) {
		panic(notOffered("the place does not offer clones"))
	}
}

// cloned makes a dataset and the stream of a clone of its first version.
func (l *lab) cloned() (origin, name string, points []point, e encoded) {
	l.clones()
	origin, points = l.replica("origin", 2)
	points = points[:2:2]
	own := points[0].next("@own", 3, 50)
	name = l.name("clone")
	e = l.encode(name, &points[0], own, nil)
	e.header.Origin = origin
	return origin, name, append(points, own), e
}

func clone(l *lab) {
	origin, name, points, e := l.cloned()
	_, err := l.receive(e)
	l.ok("receive a clone", err)
	own := points[2]
	l.wantVersions(name, "after it was received as a clone", "@own")
	l.wantContent(name, own)
	of := cairn.Origin{Dataset: origin, VersionID: points[0].VersionID}
	if got := l.list(name).Dataset.Origin; got != of {
		l.fail("the clone's origin is listed as %s%s (%v), want %s%s (%v)", got.Dataset, got.Name, got.GUID, of.Dataset, of.Name, of.GUID)
	}
	if got := l.list(origin).Dataset.Origin; !got.IsZero() {
		l.fail("the origin is listed as a clone of %s%s", got.Dataset, got.Name)
	}
	step := cairn.Step{Dataset: name, Origin: origin, From: points[0].VersionID, To: own.VersionID}
	s := l.send(step)
	if s.Header.Origin != origin || s.Header.From.GUID != points[0].GUID {
		l.fail("the clone's stream stands on %s%s (%v), want %s%s (%v)", s.Header.Origin, s.Header.From.Name, s.Header.From.GUID, origin, points[0].Name, points[0].GUID)
	}
	l.close(s.Body)
	if got := l.sent(step, points[0].content); string(got) != string(own.content) {
		l.fail("the clone's stream, on its origin, does not give its content: %s", firstDifference(got, own.content))
	}
	next := own.next("@next", 7)
	_, err = l.receive(l.encode(name, &own, next, nil))
	l.ok("receive onto a clone", err)
	l.wantContent(name, own, next)
	l.wantContent(origin, points[:2]...)
}

func cloneOrigin(l *lab) {
	origin, name, points, e := l.cloned()
	for _, w := range []struct {
		what   string
		change func(h *cairn.StreamHeader)
	}{
		{"a clone of a dataset that is not here", func(h *cairn.StreamHeader) { h.Origin = l.folder + "/nothing" }},
		{"a clone in the place of its origin", func(h *cairn.StreamHeader) { h.Dataset = origin }},
		{"a clone of a dataset without that version", func(h *cairn.StreamHeader) { h.Origin, _ = l.replica("other", 1) }},
		{"the increment without a word of its origin", func(h *cairn.StreamHeader) { h.Origin = "" }},
	} {
		wrong := e
		w.change(&wrong.header)
		_, err := l.receive(wrong)
		l.want(w.what, err, cairn.KindConflict)
		if l.find(name) != nil {
			l.fail("%s left %s behind", w.what, name)
		}
	}
	l.wantVersions(origin, "after clones that were refused", "@a", "@b")
	l.wantContent(origin, points[:2]...)
}

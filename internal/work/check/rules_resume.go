package check

import (
	"errors"

	"cairn"
)

var resumeRules = []Rule{
	{Name: "resume", Says: "what arrived of a cut stream is kept, and the rest completes it", Needs: receiveNeeds, run: resume},
	{Name: "resume-increment", Says: "a cut increment is resumed onto its base", Needs: receiveNeeds, run: resumeIncrement},
	{Name: "resume-wrong", Says: "a stream that goes on from another place than the partial receive is refused and the partial stays", Needs: receiveNeeds, run: resumeWrong},
	{Name: "resume-restart", Says: "after a cut, a stream of another version owes nothing to what had arrived, or is refused until the abort", Needs: receiveNeeds, run: resumeRestart},
	{Name: "resume-pins", Says: "the base of a cut increment is not destroyed before it is completed or given up", Needs: append(receiveNeeds, "destroy"), run: resumePins},
	{Name: "abort-full", Says: "after the abort of a first receive another version can be received, and owes nothing to what had arrived", Needs: receiveNeeds, run: abortFull},
	{Name: "abort", Says: "abort gives a cut receive up, twice as well as once, and the stream can be sent from its beginning", Needs: receiveNeeds, run: abort},
	{Name: "abort-nothing", Says: "without a cut receive abort does nothing", Needs: receiveNeeds, run: abortNothing},
}

var errCut = &cairn.Error{Op: "read", Kind: cairn.KindUnavailable, Err: errors.New("the line was cut")}

// partial cuts a big stream near its end and returns what was kept.
func (l *lab) partial(ds string, from *point, to point) *cairn.Partial {
	e := l.encode(ds, from, to, nil)
	if err := l.cutReceive(e, 1<<20, errCut); err == nil {
		l.fail("a stream that was cut was received")
	}
	p := l.list(ds).Partial
	if p == nil || len(p.Token) == 0 {
		l.fail("9 of 10 MiB arrived and nothing is kept: partial %+v", p)
	}
	if p.To != to.VersionID || p.Received <= 0 || p.Received > int64(len(e.bytes)) {
		l.fail("the partial is %+v, want it for %v and at most the stream's %d bytes", p, to.VersionID, len(e.bytes))
	}
	return p
}

func (l *lab) complete(ds string, from *point, to point, p *cairn.Partial) {
	e := l.encode(ds, from, to, p.Token)
	if len(e.bytes) > big*3/4 || e.header.Resume == 0 {
		l.fail("the token asks for %d of %d bytes again", len(e.bytes), big)
	}
	_, err := l.receive(e)
	l.ok("receive the rest", err)
	if left := l.list(ds).Partial; left != nil {
		l.fail("after the commit there is still a partial: %+v", left)
	}
	l.wantContent(ds, to)
}

func resume(l *lab) {
	ds, to := l.name("d"), newPoint("@a", noise("resume", big))
	p := l.partial(ds, nil, to)
	if got := l.versions(ds); len(got) != 0 {
		l.fail("a cut receive shows versions %v", got)
	}
	l.complete(ds, nil, to, p)
}

// bigBase has one small version of a big, mostly empty volume, and the next version
// that fills it.
func (l *lab) bigBase(ds string) (base, next point) {
	content := make([]byte, big)
	copy(content, noise("base", size))
	base, next = newPoint("@a", content), newPoint("@b", noise("next", big))
	l.receiveAll(ds, []point{base})
	return base, next
}

func resumeIncrement(l *lab) {
	ds := l.name("d")
	base, next := l.bigBase(ds)
	p := l.partial(ds, &base, next)
	l.wantVersions(ds, "after a cut increment", "@a")
	l.wantContent(ds, base)
	l.complete(ds, &base, next, p)
	l.wantContent(ds, base)
}

func resumeWrong(l *lab) {
	ds := l.name("d")
	base, next := l.bigBase(ds)
	p := l.partial(ds, &base, next)
	other := newPoint("@b", next.content)
	e := l.encode(ds, &base, next, p.Token)
	e.header.To.VersionID = other.VersionID
	if _, err := l.receive(e); err == nil {
		l.fail("the rest of another stream was received")
	}
	l.wantVersions(ds, "after the rest of another stream", "@a")
	if l.list(ds).Partial == nil {
		l.ok("abort", l.Receiver.Abort(l.ctx, ds))
		l.fail("the rest of another stream made the place forget its partial")
	}
	l.complete(ds, &base, next, l.list(ds).Partial)
}

func abort(l *lab) {
	ds := l.name("d")
	base, next := l.bigBase(ds)
	l.partial(ds, &base, next)
	for range 2 {
		l.ok("abort", l.Receiver.Abort(l.ctx, ds))
		if p := l.list(ds).Partial; p != nil {
			l.fail("after abort there is still a partial: %+v", p)
		}
	}
	l.wantVersions(ds, "after abort", "@a")
	l.wantContent(ds, base)
	_, err := l.receive(l.encode(ds, &base, next, nil))
	l.ok("receive from the beginning", err)
	l.wantContent(ds, base, next)
}

func abortNothing(l *lab) {
	ds, points := l.replica("d", 2)
	l.ok("abort", l.Receiver.Abort(l.ctx, ds))
	l.wantVersions(ds, "after abort", "@a", "@b")
	l.wantContent(ds, points[:2]...)
}

// sparse is a version of a big volume with little in it: what a stream does not
// cover has to read as zeroes, whatever had arrived before.
func sparse(name string) point {
	content := make([]byte, big+512)
	copy(content[1<<20:], noise(name, size))
	return newPoint(name, content)
}

func resumeRestart(l *lab) {
	ds, other := l.name("d"), sparse("@b")
	p := l.partial(ds, nil, newPoint("@a", noise("gone", big+512)))
	_, err := l.receive(l.encode(ds, nil, other, nil))
	if err != nil {
		l.want("another version from its beginning", err, cairn.KindBusy, cairn.KindConflict)
		if left := l.list(ds).Partial; left == nil || left.To != p.To {
			l.fail("a stream that was refused made the place forget its partial: %+v", left)
		}
		l.ok("abort", l.Receiver.Abort(l.ctx, ds))
		_, err = l.receive(l.encode(ds, nil, other, nil))
		l.ok("receive another version after the abort", err)
	}
	l.wantVersions(ds, "after it", "@b")
	l.wantContent(ds, other)
}

func abortFull(l *lab) {
	ds, other := l.name("d"), sparse("@b")
	l.partial(ds, nil, newPoint("@a", noise("gone", big+512)))
	l.ok("abort", l.Receiver.Abort(l.ctx, ds))
	if got := l.versions(ds); len(got) > 0 {
		l.fail("after abort there are versions %v", got)
	}
	_, err := l.receive(l.encode(ds, nil, other, nil))
	l.ok("receive another version", err)
	l.wantContent(ds, other)
}

func resumePins(l *lab) {
	ds := l.name("d")
	base, next := l.bigBase(ds)
	p := l.partial(ds, &base, next)
	l.want("destroy of the base of a cut increment", l.destroyOne(ds, base.VersionID), cairn.KindBusy)
	l.complete(ds, &base, next, p)
	l.ok("destroy of the base of a completed one", l.destroyOne(ds, base.VersionID))
}

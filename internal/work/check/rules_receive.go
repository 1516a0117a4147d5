package check

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"time"

	"cairn"
)

var receiveNeeds = []cairn.Ability{"list", "receive"}

var receiveRules = []Rule{
	{Name: "receive-full", Says: "a received version keeps name, GUID, time and content, and its dataset is sealed", Needs: receiveNeeds, run: receiveFull},
	{Name: "receive-incremental", Says: "an incremental stream adds a version and leaves the old ones as they were", Needs: receiveNeeds, run: receiveIncremental},
	{Name: "receive-below", Says: "a dataset is created below parents that do not exist", Needs: receiveNeeds, run: receiveBelow},
	{Name: "receive-tail", Says: "a volume whose size is no multiple of 4 KiB is received, read and compared to its last byte", Needs: receiveNeeds, run: receiveTail},
	{Name: "receive-eof", Says: "a body is read to EOF, also past the format's end, and bytes after it are KindCorrupt", Needs: receiveNeeds, run: receiveEOF},
	{Name: "receive-cut", Says: "a stream that ends early makes nothing visible and leaves old versions as they were", Needs: receiveNeeds, run: receiveCut},
	{Name: "receive-unseen", Says: "nothing of a version is visible before its receive has committed", Needs: receiveNeeds, run: receiveUnseen},
	{Name: "receive-flip", Says: "a flipped bit anywhere is KindCorrupt and makes nothing visible", Needs: receiveNeeds, run: receiveFlip},
	{Name: "receive-exists", Says: "a version that is there with the same GUID is KindExists", Needs: receiveNeeds, run: receiveExists},
	{Name: "receive-base", Says: "a stream on a base that is not the newest version here is KindConflict and changes nothing", Needs: receiveNeeds, run: receiveBase},
	{Name: "receive-taken", Says: "a version's name that is taken by another GUID is KindConflict and the old one stays", Needs: receiveNeeds, run: receiveTaken},
	{Name: "receive-header", Says: "a body that is not the stream its header tells of makes nothing visible", Needs: receiveNeeds, run: receiveHeader},
	{Name: "receive-cancel", Says: "a receive whose body hangs ends soon after its context", Needs: receiveNeeds, run: receiveCancel},
	{Name: "receive-sealed", Says: "a head that may hold writes of its own is not received onto: KindConflict", Needs: append(receiveNeeds, "seal"), run: receiveSealed},
	{Name: "receive-pins", Says: "the base of a running receive is not destroyed", Needs: append(receiveNeeds, "destroy"), run: receivePins},
}

// replica is a received dataset with the first n versions of a history.
func (l *lab) replica(short string, n int) (string, []point) {
	name, points := l.name(short), history()
	l.receiveAll(name, points[:n])
	return name, points
}

func receiveFull(l *lab) {
	ds, p := l.name("d"), history()[0]
	e := l.encode(ds, nil, p, nil)
	r, err := l.receive(e)
	l.ok("receive", err)
	if !slices.Equal(r.Versions, []cairn.VersionID{p.VersionID}) || r.Bytes != int64(len(e.bytes)) {
		l.fail("received %+v, want %v and %d bytes", r, p.VersionID, len(e.bytes))
	}
	row := l.list(ds)
	if len(row.Versions) != 1 || row.Versions[0].VersionID != p.VersionID || !row.Versions[0].Created.Equal(p.created) || row.Versions[0].Size != size {
		l.fail("received %v of %s, listed %+v", p.VersionID, p.created, row.Versions)
	}
	if !row.Dataset.Sealed || row.Dataset.Size != size || row.Partial != nil {
		l.fail("the replica is listed as %+v, partial %+v", row.Dataset, row.Partial)
	}
	l.wantContent(ds, p)
}

func receiveIncremental(l *lab) {
	ds, points := l.replica("d", 3)
	l.wantVersions(ds, "after three receives", "@a", "@b", "@c")
	l.wantContent(ds, points...)
}

func receiveBelow(l *lab) {
	ds, points := l.replica("x/y/z", 1)
	l.wantVersions(ds, "after a receive", "@a")
	l.wantContent(ds, points[0])
}

func receiveTail(l *lab) {
	ds := l.name("d")
	a := newPoint("@a", noise("tail", size+512))
	b := a.next("@b", 3, 67)
	l.receiveAll(ds, []point{a, b})
	l.wantContent(ds, a, b)
	if l.Changes != nil {
		l.wantChanged(ds, a.VersionID, b.VersionID, a.content, b.content)
	}
	if row := l.list(ds); row.Dataset.Size != size+512 || row.Versions[1].Size != size+512 {
		l.fail("%d bytes are listed as %+v", size+512, row)
	}
}

func receiveEOF(l *lab) {
	ds, points := l.replica("d", 1) // receive checks that EOF was read
	e := l.encode(ds, &points[0], points[1], nil)
	e.bytes = append(e.bytes, 0)
	_, err := l.receive(e)
	l.want("a byte after the end of the stream", err, cairn.KindCorrupt)
	l.wantVersions(ds, "after it", "@a")
}

func receiveCut(l *lab) {
	ds, points := l.replica("d", 1)
	e := l.encode(ds, &points[0], points[1], nil)
	cut := &cairn.Error{Op: "read", Kind: cairn.KindUnavailable, Err: errors.New("the line was cut")}
	for _, left := range []int{len(e.bytes) - 10, len(e.bytes) / 2, 1, 0} {
		if err := l.cutReceive(e, left, cut); err == nil {
			l.fail("a stream that failed with %d bytes left was received", left)
		}
		short := e
		short.bytes = e.bytes[:len(e.bytes)-max(left, 1)]
		if _, err := l.receive(short); err == nil {
			l.fail("a stream without its last %d bytes was received", max(left, 1))
		}
		l.wantVersions(ds, "after a cut", "@a")
	}
	l.wantContent(ds, points[0])
	_, err := l.receive(e)
	l.ok("receive after the cuts", err)
	l.wantContent(ds, points[:2]...)
}

func receiveUnseen(l *lab) {
	ds, points := l.replica("d", 1)
	e := l.encode(ds, &points[0], points[1], nil)
	b, done := l.hangingReceive(l.ctx, e, 0)
	l.wantVersions(ds, "while all but EOF has arrived", "@a")
	close(b.resume)
	l.ok("receive", <-done)
	l.wantVersions(ds, "after the commit", "@a", "@b")
	l.wantContent(ds, points[:2]...)
}

func receiveFlip(l *lab) {
	ds, points := l.replica("d", 1)
	e := l.encode(ds, &points[0], points[1], nil)
	n := len(e.bytes)
	for _, at := range []int{3, 70, n / 3, n / 2, n - 40, n - 1} {
		bad := e
		bad.bytes = bytes.Clone(e.bytes)
		bad.bytes[at] ^= 0x10
		_, err := l.receive(bad)
		if errors.Is(err, cairn.KindConflict) && at < 200 {
			continue // the header's own fields: another stream, not a broken one
		}
		l.want("a flipped bit in byte "+itoa(at), err, cairn.KindCorrupt)
		l.wantVersions(ds, "after a flipped bit", "@a")
	}
	l.wantContent(ds, points[0])
	_, err := l.receive(e)
	l.ok("receive after the flipped bits", err)
}

func receiveExists(l *lab) {
	ds, points := l.replica("d", 2)
	for _, e := range []encoded{l.encode(ds, nil, points[0], nil), l.encode(ds, &points[0], points[1], nil)} {
		_, err := l.receive(e)
		l.want("receive of "+e.header.To.Name+" again", err, cairn.KindExists)
	}
	l.wantVersions(ds, "after receiving them again", "@a", "@b")
	l.wantContent(ds, points[:2]...)
}

func receiveBase(l *lab) {
	ds, points := l.replica("d", 2)
	stranger := newPoint("@x", points[0].content)
	for what, e := range map[string]encoded{
		"a base that is not here":             l.encode(ds, &stranger, points[2], nil),
		"a base that is not the newest":       l.encode(ds, &points[0], points[2], nil),
		"a full stream onto versions":         l.encode(ds, nil, points[2], nil),
		"an increment for a dataset not here": l.encode(l.name("new"), &points[0], points[1], nil),
	} {
		_, err := l.receive(e)
		l.want(what, err, cairn.KindConflict)
	}
	l.wantVersions(ds, "after streams on a wrong base", "@a", "@b")
	l.wantContent(ds, points[:2]...)
	if l.find(l.name("new")) != nil {
		l.fail("an increment for a dataset that is not here made it")
	}
}

func receiveTaken(l *lab) {
	ds, points := l.replica("d", 2)
	other := newPoint("@a", points[2].content)
	_, err := l.receive(l.encode(ds, &points[1], other, nil))
	l.want("another version under a name that is taken", err, cairn.KindConflict, cairn.KindExists)
	l.wantVersions(ds, "after it", "@a", "@b")
	l.wantContent(ds, points[:2]...)
}

func receiveHeader(l *lab) {
	ds, points := l.replica("d", 1)
	e := l.encode(ds, &points[0], points[1], nil)
	for what, spoil := range map[string]func(h *cairn.StreamHeader){
		"GUID":   func(h *cairn.StreamHeader) { h.To.GUID++ },
		"base":   func(h *cairn.StreamHeader) { h.From.GUID++ },
		"format": func(h *cairn.StreamHeader) { h.Format = "no-such-format/1" },
	} {
		bad := e
		spoil(&bad.header)
		if _, err := l.receive(bad); err == nil {
			l.fail("a stream whose header has another %s was received", what)
		}
		l.wantVersions(ds, "after a header with another "+what, "@a")
	}
	l.wantContent(ds, points[0])
}

func receiveCancel(l *lab) {
	ds, points := l.replica("d", 1)
	ctx, cancel := context.WithCancel(l.ctx)
	defer cancel()
	b, done := l.hangingReceive(ctx, l.encode(ds, &points[0], points[1], nil), 20)
	defer l.close(b)
	cancel()
	select {
	case err := <-done:
		if err == nil || !errors.Is(err, context.Canceled) && !errors.Is(err, cairn.KindCanceled) {
			l.fail("the receive ended with %v", err)
		}
	case <-time.After(l.patience):
		l.fail("the receive goes on %s after its context ended", l.patience)
	}
	l.wantVersions(ds, "after a cancel", "@a")
	_, err := l.receive(l.encode(ds, &points[0], points[1], nil))
	l.ok("receive after a cancel", err)
}

func receiveSealed(l *lab) {
	ds, points := l.replica("d", 1)
	l.ok("unseal", l.Seals.Seal(l.ctx, ds, false))
	_, err := l.receive(l.encode(ds, &points[0], points[1], nil))
	l.want("receive onto a head that is not sealed", err, cairn.KindConflict)
	l.wantVersions(ds, "after it", "@a")
	l.wantContent(ds, points[0])
}

func receivePins(l *lab) {
	ds, points := l.replica("d", 1)
	b, done := l.hangingReceive(l.ctx, l.encode(ds, &points[0], points[1], nil), 20)
	err := l.destroyOne(ds, points[0].VersionID)
	close(b.resume)
	l.want("destroy of the base of a running receive", err, cairn.KindBusy)
	l.ok("receive", <-done)
	l.wantContent(ds, points[:2]...)
}

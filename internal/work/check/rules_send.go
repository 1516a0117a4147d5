package check

import (
	"bytes"
	"context"
	"errors"
	"io"
	"time"

	"cairn"
	"cairn/internal/format/blocks"
)

var sendNeeds = []cairn.Ability{"list", "send"}

var sendRules = []Rule{
	{Name: "send-full", Says: "a full stream carries a version's content, and its header says which", Needs: sendNeeds, run: sendFull},
	{Name: "send-incremental", Says: "an incremental stream applied to its base gives the version, and carries little more than what changed", Needs: sendNeeds, run: sendIncremental},
	{Name: "send-bookmark", Says: "a bookmark can be the base of a stream", Needs: append(sendNeeds, "bookmark"), run: sendBookmark},
	{Name: "send-format", Says: "a sender makes no stream in a format that is not accepted: KindUnsupported", Needs: sendNeeds, run: sendFormat},
	{Name: "send-missing", Says: "a version that is not there cannot be sent: KindNotFound", Needs: sendNeeds, run: sendMissing},
	{Name: "send-resume", Says: "a stream goes on from the receiver's token and sends only what is missing", Needs: sendNeeds, run: sendResume},
	{Name: "send-holds", Says: "a version is not destroyed while its stream is open", Needs: append(sendNeeds, "destroy"), run: sendHolds},
	{Name: "send-cancel", Says: "when the context ends, a stream ends soon, with an error and not with EOF", Needs: sendNeeds, run: sendCancel},
}

func sendFull(l *lab) {
	ds, points := l.dataset("d", 2)
	s := l.send(cairn.Step{Dataset: ds, To: points[1].VersionID})
	defer l.close(s.Body)
	kind, format := l.speaks()
	if h := s.Header; h.Format != format || h.Dataset != ds || h.To.VersionID != points[1].VersionID || !h.From.IsZero() ||
		h.Volume != size || h.Resume != 0 || h.Kind != kind || h.To.Created.IsZero() {
		l.fail("the header is %+v", h)
	}
	content, _, err := l.apply(s.Body, nil)
	l.ok("read the stream", err)
	if !bytes.Equal(content, points[1].content) {
		l.fail("the stream carries something else: %s", firstDifference(content, points[1].content))
	}
}

func (l *lab) wantIncrement(ds string, from cairn.VersionID, base, to point) {
	s := l.send(cairn.Step{Dataset: ds, From: from, To: to.VersionID})
	defer l.close(s.Body)
	if s.Header.From != from {
		l.fail("the header says from %+v, want %+v", s.Header.From, from)
	}
	content, counts, err := l.apply(s.Body, base.content)
	l.ok("read the stream", err)
	if !bytes.Equal(content, to.content) {
		l.fail("%s applied to %s gives something else than %s: %s", from, base.Name, to.Name, firstDifference(content, to.content))
	}
	if carried := counts.Data + counts.Zeroes + counts.Discards; carried > size/2 {
		l.fail("a few changed blocks are sent as %d bytes of %d", carried, size)
	}
}

func sendIncremental(l *lab) {
	ds, points := l.dataset("d", 3)
	l.wantIncrement(ds, points[0].VersionID, points[0], points[1])
	l.wantIncrement(ds, points[0].VersionID, points[0], points[2])
}

func sendBookmark(l *lab) {
	ds, points := l.dataset("d", 3)
	mark, err := l.Bookmarks.Bookmark(l.ctx, ds, points[0].VersionID, "#m", true)
	l.ok("bookmark", err)
	l.wantIncrement(ds, mark.VersionID, points[0], points[2])
}

func sendFormat(l *lab) {
	ds, points := l.dataset("d", 1)
	for _, accept := range [][]cairn.Format{nil, {"no-such-format/1"}} {
		s, err := l.Sender.Send(l.ctx, cairn.Step{Dataset: ds, To: points[0].VersionID}, accept)
		if err == nil {
			l.close(s.Body)
		}
		l.want("send in no known format", err, cairn.KindUnsupported)
	}
}

func sendMissing(l *lab) {
	ds, points := l.dataset("d", 1)
	never := cairn.VersionID{Name: "@never", GUID: 1}
	for _, step := range []cairn.Step{{Dataset: ds, To: never}, {Dataset: ds, From: never, To: points[0].VersionID}} {
		s, err := l.Sender.Send(l.ctx, step, l.formats())
		if err == nil {
			l.close(s.Body)
		}
		l.want("send of a version that is not there", err, cairn.KindNotFound)
	}
}

// bigDataset has one version of data that does not compress.
func (l *lab) bigDataset(short string) (string, point) {
	p := newPoint("@a", noise("big", big))
	name := l.name(short)
	if l.fixture.Create == nil || l.fixture.Write == nil || l.Snapshots == nil {
		l.receiveAll(name, []point{p})
		return name, p
	}
	l.create(short, big)
	for off := 0; off < big; off += 1 << 20 {
		l.write(name, int64(off), p.content[off:off+1<<20])
	}
	p.VersionID = l.snapshot(name, "@a").VersionID
	return name, p
}

func sendResume(l *lab) {
	if l.zvols() {
		panic(notOffered("the place does not offer a position to go on from: only the receiver of a zfs stream can say it"))
	}
	ds, p := l.bigDataset("d")
	step := cairn.Step{Dataset: ds, To: p.VersionID}
	got, token := l.head(step, 9<<20)
	step.Resume = token
	s := l.send(step)
	defer l.close(s.Body)
	if s.Header.Resume <= 0 {
		l.fail("a resumed stream begins at %d", s.Header.Resume)
	}
	in, err := blocks.NewReader(s.Body, blocks.ReaderOptions{Resume: token})
	l.ok("read the resumed stream", err)
	l.drain(in, got)
	if in.Position() != s.Header.Resume || in.Position() < 1<<20 {
		l.fail("the stream goes on from %d, its header says %d", in.Position(), s.Header.Resume)
	}
	if !bytes.Equal(got, p.content) {
		l.fail("the two parts give something else: %s", firstDifference(got, p.content))
	}
}

// head reads about the first n bytes of content and returns what the stream gave up
// to its last point.
func (l *lab) head(step cairn.Step, n int64) (content, token []byte) {
	s := l.send(step)
	defer l.close(s.Body)
	in, err := blocks.NewReader(s.Body, blocks.ReaderOptions{})
	l.ok("read the stream", err)
	content = make([]byte, in.Header().Size)
	for in.Counts().Data < n {
		rec, err := in.Next()
		l.ok("read the stream", err)
		copy(content[rec.Offset:], rec.Data)
	}
	return content, in.Token()
}

func (l *lab) drain(in *blocks.Reader, content []byte) {
	for {
		rec, err := in.Next()
		if err == io.EOF { //nolint:errorlint // only EOF itself vouches for the stream
			return
		}
		l.ok("read the resumed stream", err)
		clear(content[rec.Offset : rec.Offset+rec.Length])
		copy(content[rec.Offset:], rec.Data)
	}
}

func sendHolds(l *lab) {
	ds, points := l.dataset("d", 2)
	s := l.send(cairn.Step{Dataset: ds, From: points[0].VersionID, To: points[1].VersionID})
	defer l.close(s.Body)
	l.want("destroy of a version that is being sent", l.destroyOne(ds, points[1].VersionID), cairn.KindBusy)
	content, _, err := l.apply(s.Body, points[0].content)
	l.ok("read the stream", err)
	if !bytes.Equal(content, points[1].content) {
		l.fail("the stream carries something else")
	}
	l.ok("close", s.Body.Close())
	l.eventually("destroy after the stream is closed", func() error { return l.destroyOne(ds, points[1].VersionID) })
}

// eventually tries for a while: over a wire an end takes a moment to arrive.
func (l *lab) eventually(what string, try func() error) {
	deadline := time.Now().Add(l.patience)
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			l.fail("%s: %v", what, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func sendCancel(l *lab) {
	ds, p := l.bigDataset("d")
	ctx, cancel := context.WithCancel(l.ctx)
	defer cancel()
	s, err := l.Sender.Send(ctx, cairn.Step{Dataset: ds, To: p.VersionID}, l.formats())
	l.ok("send", err)
	defer l.close(s.Body)
	_, err = io.ReadFull(s.Body, make([]byte, 100<<10))
	l.ok("read the stream", err)
	cancel()
	done := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, s.Body)
		done <- err
	}()
	select {
	case err = <-done:
	case <-time.After(l.patience):
		l.fail("the stream goes on %s after its context ended", l.patience)
	}
	if err == nil {
		l.fail("the stream ends with EOF although its context ended")
	}
	if !errors.Is(err, context.Canceled) && !errors.Is(err, cairn.KindCanceled) {
		l.fail("the stream ends with %v", err)
	}
}

package zfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"cairn"
	"cairn/internal/format/zfsstream"
	"cairn/internal/mech/child"
)

// Send starts zfs send. The stream's first header is read before Send returns, so
// that an error of zfs is one of Send, and a stream of another version than was
// asked for is none.
func (s *side) Send(ctx context.Context, step cairn.Step, accept []cairn.Format) (*cairn.Stream, error) {
	const op = "send"
	p := s.place
	ids := append([]cairn.VersionID{step.To}, step.Via...)
	d, err := p.whole(ctx, op, step.Dataset, ids...)
	if err != nil {
		return nil, err
	}
	switch {
	case step.Origin != "":
		if d, err = p.standsOn(ctx, d, step); err != nil {
			return nil, err
		}
	case !step.From.IsZero():
		if d, step.From, err = p.base(ctx, d, step.From); err != nil {
			return nil, err
		}
		ids = append(ids, step.From)
	}
	if !slices.Contains(accept, cairn.FormatZFS) {
		return nil, &cairn.Error{Op: op, Subject: step.Dataset + step.To.Name, Kind: cairn.KindUnsupported, Hint: "a ZFS dataset sends " + string(cairn.FormatZFS)}
	}
	args, h, err := s.sending(d, step)
	if err != nil {
		return nil, err
	}
	b := &body{place: p, subject: step.Dataset + step.To.Name, release: p.use(step.Dataset, ids...)}
	if err := b.open(ctx, args, step, &h); err != nil {
		return nil, err
	}
	return &cairn.Stream{Header: h, Body: b}, nil
}

// base is what the step stands on: the version it names or, when that bookmark was
// destroyed since, another one of its GUID. A cursor that moves takes the place of
// the tentative one.
func (p *Place) base(ctx context.Context, d *dataset, from cairn.VersionID) (*dataset, cairn.VersionID, error) {
	now, err := p.look(ctx, "send", d.name(), from)
	if err == nil || !from.IsBookmark() || !errors.Is(err, cairn.KindNotFound) {
		return now, from, err
	}
	if d, gone := p.fresh(ctx, "send", d.name()); gone == nil {
		for i := range d.versions {
			if v := &d.versions[i]; v.guid == from.GUID {
				return d, v.id(), nil
			}
		}
	}
	return nil, from, err
}

// sending is the command line of a step and what its stream will be.
func (s *side) sending(d *dataset, step cairn.Step) ([]string, cairn.StreamHeader, error) {
	to := d.find(step.To.Name)
	h := cairn.StreamHeader{Format: cairn.FormatZFS, Dataset: step.Dataset, Kind: d.kindOf(), Origin: step.Origin, From: step.From, Volume: to.numbers[volsize], Size: step.Size}
	describe := func(name string) cairn.Version {
		return d.listed(slices.IndexFunc(d.versions, func(v version) bool { return v.version == name }), cairn.Want{})
	}
	h.To = describe(step.To.Name)
	fail := func(kind cairn.Kind, hint, format string, args ...any) ([]string, cairn.StreamHeader, error) {
		return nil, h, &cairn.Error{Op: "send", Subject: d.name() + step.To.Name, Kind: kind, Err: fmt.Errorf(format, args...), Hint: hint}
	}
	if !step.To.IsSnapshot() {
		return fail(cairn.KindUnsupported, "send the next snapshot instead", "a bookmark has no data")
	}
	raw, err := s.raw(d)
	if err != nil {
		return nil, h, err
	}
	if step.Resume != nil {
		t, err := zfsstream.ParseToken(string(step.Resume))
		switch {
		case err != nil:
			return fail(cairn.KindConflict, "give the cut receive up, and send anew", "its resume token is none: %w", err)
		case t.ToGUID != step.To.GUID || t.FromGUID != step.From.GUID:
			return fail(cairn.KindConflict, "give the cut receive up, and send anew", "its resume token leads from %v to %v", t.FromGUID, t.ToGUID)
		case t.Raw != raw:
			return fail(cairn.KindConflict, "give the cut receive up, and send anew", "the cut receive is raw: %v, and this job sends raw: %v", t.Raw, raw)
		}
		if t.Object > 0 || t.Offset > 0 {
			h.Resume = int64(t.Bytes)
			return []string{"send", "-t", string(step.Resume)}, h, nil
		}
		// Nothing had arrived but the header: the receiver begins anew.
	}
	args := append([]string{"send"}, s.flags(raw)...)
	if len(step.Via) > 0 {
		if err := carried(d, step); err != nil {
			return nil, h, err
		}
		for _, id := range step.Via {
			h.Via = append(h.Via, describe(id.Name))
		}
		return append(args, "-I", step.From.Name, d.name()+step.To.Name), h, nil
	}
	if !step.From.IsZero() {
		args = append(args, "-i", step.Origin+step.From.Name)
	}
	return append(args, d.name()+step.To.Name), h, nil
}

// raw decides -w by the job's options and the dataset's encryption.
func (s *side) raw(d *dataset) (bool, error) {
	refuse := func(why, hint string) error {
		return &cairn.Error{Op: "send", Subject: d.name(), Kind: cairn.KindUnsupported, Err: errors.New(why), Hint: hint}
	}
	switch {
	case s.job.Send.Encrypted && !d.encrypted():
		return false, refuse("it is not encrypted, and this job sends encrypted datasets only", "leave it out, or set send: {encrypted: false}")
	case s.job.Send.Raw && !s.job.Send.Encrypted && d.encrypted():
		return false, refuse("it is encrypted, and raw sends of encrypted datasets have to be asked for", "set send: {encrypted: true}")
	}
	return s.job.Send.Encrypted || s.job.Send.Raw, nil
}

func (s *side) flags(raw bool) []string {
	var flags []string
	for _, f := range []struct {
		set  bool
		flag string
	}{{raw, "-w"}, {s.job.Send.Properties, "-p"}, {s.job.Send.BackupProperties, "-b"}, {s.job.Send.LargeBlocks, "-L"}, {s.job.Send.Compressed, "-c"}, {s.job.Send.EmbeddedData, "-e"}} {
		if f.set {
			flags = append(flags, f.flag)
		}
	}
	return flags
}

// carried checks that zfs send -I carries exactly the versions of the step: all
// snapshots between its ends.
func carried(d *dataset, step cairn.Step) error {
	var between []cairn.VersionID
	from, to := d.find(step.From.Name), d.find(step.To.Name)
	for i := range d.versions {
		if v := &d.versions[i]; from != nil && v.kind == "snapshot" && v.order > from.order && v.order < to.order {
			between = append(between, v.id())
		}
	}
	if !step.From.IsSnapshot() || !slices.Equal(between, step.Via) {
		return &cairn.Error{Op: "send", Subject: d.name() + step.To.Name, Kind: cairn.KindConflict,
			Err: fmt.Errorf("between %s and it lie %d snapshots, the step names %d", step.From, len(between), len(step.Via)), Hint: "plan anew"}
	}
	return nil
}

// body is the output of zfs send.
type body struct {
	place   *Place
	subject string
	ctx     context.Context
	cancel  context.CancelFunc
	child   *process
	in      io.Reader // the checked stream; only Read's goroutine
	release func()

	mu     sync.Mutex // guards what follows: Close may come while Read runs
	closed bool
	err    error // of the stream's end; nil while it goes on
	waited func() error
}

// open starts the process and reads the stream's first header.
func (b *body) open(ctx context.Context, args []string, step cairn.Step, h *cairn.StreamHeader) error {
	b.ctx, b.cancel = context.WithCancel(ctx)
	c, err := b.place.start(b.ctx, child.Options{Args: args, Out: true})
	if err != nil {
		b.cancel()
		b.release()
		return b.place.failed("send", b.subject, err)
	}
	b.child, b.waited = c, sync.OnceValue(c.Wait)
	enlarge(c.Stdout())
	first, whole, err := zfsstream.Peek(c.Stdout())
	if err == nil {
		err = announced(first, step, h)
	} else if end := b.end(err); end != nil {
		err = end
	}
	if err != nil {
		return errors.Join(b.place.failed("send", b.subject, err), abandonedOnly(b.Close()))
	}
	b.in = zfsstream.Check(whole, zfsstream.CheckOptions{OnHeader: func(zfsstream.Header) error { return nil }})
	return nil
}

// announced compares the stream's own header with the step.
func announced(first zfsstream.Header, step cairn.Step, h *cairn.StreamHeader) error {
	to := first.Snapshot()
	if first.Compound { // its name is that of the last snapshot, its GUIDs are in the substreams
		to.GUID = step.To.GUID
	}
	if to != step.To || !first.Compound && first.FromGUID != step.From.GUID {
		return &cairn.Error{Op: "send", Subject: step.Dataset + step.To.Name, Kind: cairn.KindConflict,
			Err:  fmt.Errorf("zfs sends %s (%v) on %v instead of %v on %v", to.Name, first.ToGUID, first.FromGUID, step.To.GUID, step.From.GUID),
			Hint: "another version has the name now; list again"}
	}
	if !first.Created.IsZero() {
		h.To.Created = first.Created.Truncate(time.Second)
	}
	return nil
}

// end turns the end of the output into the verdict of the process. The checker's
// complaint about a cut stream gives way to the reason.
func (b *body) end(err error) error {
	werr := b.waited()
	switch {
	case werr != nil:
		return b.place.failed("send", b.subject, werr)
	case endOf(err):
		if cerr := b.ctx.Err(); cerr != nil {
			return b.place.failed("send", b.subject, cerr)
		}
		return io.EOF
	}
	return err
}

// Read passes the stream on. EOF comes after zfs has ended well.
func (b *body) Read(p []byte) (int, error) {
	b.mu.Lock()
	err := b.err
	b.mu.Unlock()
	if err != nil {
		return 0, err
	}
	n, err := b.in.Read(p)
	if err == nil {
		return n, nil
	}
	if endOf(err) || errors.Is(err, io.ErrUnexpectedEOF) || b.ctx.Err() != nil {
		err = b.end(err)
	} else { // a process that goes on sending what is no good
		b.cancel()
		err = errors.Join(b.place.failed("send", b.subject, err), abandonedOnly(b.waited()))
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		err = &cairn.Error{Op: "read stream", Subject: b.subject, Kind: cairn.KindCanceled, Hint: "it was closed"}
	}
	b.err = err
	return n, err
}

// Close ends the process, if it still runs, and releases the versions.
func (b *body) Close() error {
	b.mu.Lock()
	b.closed = true
	if b.err == nil {
		b.err = &cairn.Error{Op: "read stream", Subject: b.subject, Kind: cairn.KindCanceled, Hint: "it was closed"}
	}
	b.mu.Unlock()
	b.cancel()
	defer b.release()
	return abandonedOnly(b.waited())
}

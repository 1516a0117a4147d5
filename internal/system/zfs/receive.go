package zfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"cairn"
	"cairn/internal/format/zfsstream"
	"cairn/internal/mech/child"
)

// Receive runs zfs receive on the stream's body. The last bytes of the stream are
// held back until the body has ended well, so that nothing of a single version is
// visible before its sender has vouched for it.
func (s *side) Receive(ctx context.Context, stream *cairn.Stream, _ cairn.ReceiveOptions) (cairn.Received, error) {
	stop := context.AfterFunc(ctx, func() { _ = stream.Body.Close() }) // ends a Read that hangs
	defer stop()
	r := receive{side: s, stream: stream, header: stream.Header}
	err := r.prepare(ctx)
	if err == nil {
		err = r.run(ctx)
	}
	cerr := stream.Body.Close()
	if err == nil {
		err = s.place.failed("receive", r.subject(), cerr)
	}
	if err != nil {
		s.place.forget(r.header.Dataset)
		return cairn.Received{}, err
	}
	return cairn.Received{Versions: r.arrived, Bytes: r.moved}, nil
}

// receive is one call of Receive.
type receive struct {
	*side
	stream  *cairn.Stream
	header  cairn.StreamHeader
	there   *dataset // nil: to be made
	origin  string   // full name of the snapshot that it becomes a clone of; empty: of none
	args    []string
	arrived []cairn.VersionID
	moved   int64
}

func (r *receive) subject() string { return r.header.Dataset + r.header.To.Name }

func (r *receive) conflict(hint, format string, args ...any) error {
	return &cairn.Error{Op: "receive", Subject: r.subject(), Kind: cairn.KindConflict, Err: fmt.Errorf(format, args...), Hint: hint}
}

// prepare checks the header against what is there, makes placeholders for parents
// that are missing, and composes the command line.
func (r *receive) prepare(ctx context.Context) error {
	h := r.header
	if err := errors.Join(checkDataset(h.Dataset), checkVersion(h.Dataset, h.To.VersionID)); err != nil {
		return err
	}
	switch {
	case h.Format != cairn.FormatZFS:
		return &cairn.Error{Op: "receive", Subject: r.subject(), Kind: cairn.KindUnsupported, Err: fmt.Errorf("the stream is %s", h.Format), Hint: "a ZFS dataset receives " + string(cairn.FormatZFS)}
	case !h.To.IsSnapshot():
		return &cairn.Error{Op: "receive", Subject: r.subject(), Kind: cairn.KindInvalid, Err: errors.New("only snapshots are received")}
	}
	d, err := r.place.look(ctx, "receive", h.Dataset)
	if errors.Is(err, cairn.KindNotFound) {
		return r.create(ctx)
	}
	if err != nil {
		return err
	}
	r.there = d
	if err := r.fits(); err != nil {
		// What is remembered may be old; zfs has the last word, but not for what it
		// would pass over silently.
		if r.there, err = r.place.fresh(ctx, "receive", h.Dataset); err != nil {
			return err
		}
		if err := r.fits(); err != nil {
			return err
		}
	}
	if h.Resume == 0 && r.there.token() != "" {
		if err := r.restart(ctx); err != nil {
			return err
		}
	}
	return r.compose(ctx)
}

// fits reports why the stream does not belong onto what is there.
func (r *receive) fits() error {
	h, d := r.header, r.there
	if v := d.find(h.To.Name); v != nil {
		if v.guid == h.To.GUID {
			return &cairn.Error{Op: "receive", Subject: r.subject(), Kind: cairn.KindExists}
		}
		return r.conflict("destroy or rename one of them", "%s has GUID %v here, %v in the stream", h.To.Name, v.guid, h.To.GUID)
	}
	newest := d.newest()
	switch {
	case h.Resume > 0 && d.token() == "":
		return r.conflict("plan anew", "the stream goes on from byte %d, and no receive was cut here", h.Resume)
	case h.Resume > 0 && d.partial().To.GUID != h.To.GUID:
		return r.conflict("plan anew", "the stream goes on with %v, and the receive that was cut here is of %v", h.To.GUID, d.partial().To.GUID)
	case h.Resume == 0 && d.token() != "" && !r.again():
		return r.conflict("finish or abort it", "a receive of %s was cut here", d.partial().To.Name)
	case newest == nil && !h.From.IsZero() && h.Origin == "":
		return r.conflict("send a full stream", "the stream stands on %s (%v), and there is no snapshot here", h.From.Name, h.From.GUID)
	case newest != nil && h.Origin != "":
		return r.conflict("plan anew", "the stream makes a clone, and the dataset is here")
	case newest == nil && h.Resume == 0 && !d.placeholder && d.token() == "":
		return r.conflict("receive into a new dataset, or destroy this one", "the dataset has content, no snapshot, and is no placeholder")
	case newest != nil && newest.guid != h.From.GUID:
		return r.conflict("choose a base that both sides have, or roll back", "the newest snapshot here is %s (%v), the stream stands on %v", newest.version, newest.guid, h.From.GUID)
	case newest != nil && d.writable:
		return r.conflict("seal it to make it a replica", "its head is not sealed: readonly is off by a decision for this dataset")
	}
	return nil
}

// again reports whether the stream is the one that was cut here, from its beginning.
func (r *receive) again() bool {
	cut := r.there.partial()
	return cut.To == r.header.To.VersionID && cut.From.GUID == r.header.From.GUID
}

// restart gives up what was kept of the same stream.
func (r *receive) restart(ctx context.Context) error {
	if err := r.Abort(ctx, r.header.Dataset); err != nil {
		return err
	}
	d, err := r.place.fresh(ctx, "receive", r.header.Dataset)
	if errors.Is(err, cairn.KindNotFound) {
		r.there = nil
		return nil
	}
	r.there = d
	return err
}

// create is for a dataset that is not there.
func (r *receive) create(ctx context.Context) error {
	if !r.header.From.IsZero() && r.header.Origin == "" {
		return r.conflict("send a full stream", "the stream stands on %s (%v), and the dataset is not here", r.header.From.Name, r.header.From.GUID)
	}
	if r.header.Resume > 0 {
		return r.conflict("plan anew", "the stream goes on from byte %d, and no receive was cut here", r.header.Resume)
	}
	if err := r.parents(ctx, "receive", r.header.Dataset); err != nil {
		return err
	}
	return r.compose(ctx)
}

// compose makes the command line. A new dataset is sealed, unless the job says
// otherwise; one that stands where a placeholder stood is none any more.
func (r *receive) compose(ctx context.Context) error {
	if r.header.Origin != "" && r.header.Resume == 0 {
		if err := r.clone(ctx); err != nil {
			return err
		}
	}
	r.args = []string{"receive", "-s"}
	if os.Geteuid() != 0 {
		r.args = append(r.args, "-u") // on Linux only root may mount
	}
	set := maps.Clone(r.job.Receive.Override)
	if set == nil {
		set = map[string]string{}
	}
	if r.there == nil || r.there.newest() == nil {
		if _, chosen := set[readonlyProperty]; !chosen && !slices.Contains(r.job.Receive.Inherit, readonlyProperty) {
			set[readonlyProperty] = "on"
		}
	}
	if r.there != nil && r.there.placeholder && r.there.newest() == nil && r.there.token() == "" {
		is, err := r.place.Placeholder(ctx, r.header.Dataset)
		if err != nil {
			return err
		}
		if !is {
			return r.conflict("receive into a new dataset, or destroy this one", "the dataset is no placeholder")
		}
		r.args = append(r.args, "-F")
		set[placeholderProperty] = "off"
	}
	for _, name := range r.job.Receive.Inherit {
		r.args = append(r.args, "-x", name)
	}
	for _, name := range slices.Sorted(maps.Keys(set)) {
		r.args = append(r.args, "-o", name+"="+set[name])
	}
	if r.origin != "" {
		r.args = append(r.args, "-o", "origin="+r.origin)
	}
	r.args = append(r.args, r.header.Dataset)
	return nil
}

// run feeds the process.
func (r *receive) run(ctx context.Context) error {
	whole := int64(0)
	counted := readerFunc(func(p []byte) (int, error) {
		n, err := r.stream.Body.Read(p)
		whole += int64(n)
		return n, err
	})
	first, in, err := zfsstream.Peek(counted)
	if err == nil {
		err = r.expected(first)
	}
	if err != nil {
		return r.place.failed("receive", r.subject(), broken(ctx, err))
	}
	if r.there != nil && r.there.newest() != nil {
		defer r.place.use(r.header.Dataset, r.there.newest().id())()
	}
	c, err := r.place.start(ctx, child.Options{Args: r.args, In: true})
	if err != nil {
		return r.place.failed("receive", r.subject(), err)
	}
	enlarge(c.Stdin())
	check := zfsstream.Check(in, zfsstream.CheckOptions{OnHeader: r.substream, LeaveSums: true})
	readErr, writeErr := feed(c.Stdin(), check)
	closeErr := c.Stdin().Close()
	werr := c.Wait()
	r.moved = whole
	return r.verdict(ctx, readErr, errors.Join(writeErr, closeErr), werr)
}

// verdict says what went wrong first: the stream, else the process.
func (r *receive) verdict(ctx context.Context, readErr, writeErr, werr error) error {
	switch {
	case isStuck(werr), ctx.Err() != nil && werr != nil:
		return r.place.failed("receive", r.subject(), werr)
	case readErr != nil && !r.place.gaveUpFirst(werr):
		return r.place.failed("receive", r.subject(), broken(ctx, readErr))
	case werr != nil:
		return r.place.failed("receive", r.subject(), werr)
	case writeErr != nil:
		return r.place.failed("receive", r.subject(), writeErr)
	case len(r.arrived) == 0:
		return r.place.failed("receive", r.subject(), &cairn.Error{Op: "receive", Subject: r.subject(), Kind: cairn.KindCorrupt, Err: errors.New("the stream carried no version")})
	}
	r.book()
	return nil
}

// gaveUpFirst reports whether the process failed for a reason of its own rather
// than for the end of its input.
func (p *Place) gaveUpFirst(werr error) bool {
	if werr == nil {
		return false
	}
	kind, _ := classify(werr.Error())
	return kind != cairn.KindCorrupt && kind != cairn.KindOther
}

// broken is why a body ended; one that was closed since the context had ended says
// so.
func broken(ctx context.Context, err error) error {
	if cerr := ctx.Err(); cerr != nil {
		return cerr
	}
	return err
}

// expected compares the stream's first header with what was announced.
func (r *receive) expected(first zfsstream.Header) error {
	if first.Compound {
		return nil // its substreams are looked at as they pass
	}
	return r.matches(first, true)
}

func (r *receive) matches(h zfsstream.Header, last bool) error {
	is := h.Snapshot()
	if last && is == r.header.To.VersionID && h.FromGUID == r.header.From.GUID {
		return nil
	}
	for i, via := range append(slices.Clone(r.header.Via), r.header.To) {
		from := r.header.From.GUID
		if i > 0 {
			from = r.header.Via[i-1].GUID
		}
		if is == via.VersionID && (h.FromGUID == from) {
			return nil
		}
	}
	return &cairn.Error{Op: "receive", Subject: r.subject(), Kind: cairn.KindConflict,
		Err:  fmt.Errorf("the stream is of %s (%v) on %v, and its header told of %s (%v) on %v", is.Name, is.GUID, h.FromGUID, r.header.To.Name, r.header.To.GUID, r.header.From.GUID),
		Hint: "plan anew"}
}

// substream is told of each header as it passes, before zfs sees it.
func (r *receive) substream(h zfsstream.Header) error {
	if h.Compound {
		return nil
	}
	if err := r.matches(h, len(r.header.Via) == 0); err != nil {
		return err
	}
	r.arrived = append(r.arrived, h.Snapshot())
	return nil
}

// book adds what arrived to what is known; its place in the order comes with the
// next listing.
func (r *receive) book() {
	if r.there == nil || r.there.newest() == nil {
		r.place.forget(r.header.Dataset)
		r.place.uncover()
	}
	r.place.amend(r.header.Dataset, func(d *dataset) {
		d.texts[resumeToken] = "-"
		for _, id := range r.arrived {
			d.versions = append(d.versions, version{row: row{dataset: d.name(), version: id.Name, kind: "snapshot", guid: id.GUID, order: unlisted}})
		}
	})
}

// heldBack is what feed keeps until the body has ended: an END record of 312 bytes,
// and that of the compound stream around it.
const heldBack = 2 * zfsstream.RecordBytes

// feed copies the stream, but holds its last bytes back until it knows that they
// are its last. When the stream breaks, they are not written.
func feed(w io.Writer, r io.Reader) (readErr, writeErr error) {
	buf := make([]byte, feedBytes+heldBack)
	have := 0
	for {
		n, err := r.Read(buf[have : have+feedBytes])
		have += n
		if err != nil {
			if !endOf(err) {
				return err, nil
			}
			_, writeErr = w.Write(buf[:have])
			return nil, writeErr
		}
		if have <= heldBack {
			continue
		}
		if _, err := w.Write(buf[:have-heldBack]); err != nil {
			return nil, err
		}
		have = copy(buf, buf[have-heldBack:have])
	}
}

const feedBytes = 256 << 10

// endOf reports whether a read ended as it should: not with an error that has EOF
// somewhere inside.
func endOf(err error) bool { return err == io.EOF } //nolint:errorlint // only EOF itself vouches for the stream

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// Abort gives up a cut receive; without one, and without the dataset, it does
// nothing.
func (s *side) Abort(ctx context.Context, name string) error {
	const op = "abort receive into"
	p := s.place
	if err := checkDataset(name); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return p.failed(op, name, err)
	}
	defer p.forget(name)
	err := p.run(ctx, "receive", "-A", name)
	if err != nil && strings.Contains(err.Error(), "does not have any resumable receive state") {
		return nil
	}
	if err = p.failed(op, name, err); errors.Is(err, cairn.KindNotFound) {
		return nil
	}
	return err
}

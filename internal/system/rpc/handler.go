package rpc

import (
	"context"
	"crypto/rand"
	"errors"
	"time"

	"cairn"
)

// handler serves the calls of one session.
type handler struct {
	server   *server
	ep       *cairn.Endpoint
	identity string
}

// serve runs one call. Calls to abilities the endpoint has not are refused, also
// when the peer did not ask what there is.
func (h *handler) serve(ctx context.Context, s *serving, method uint8, args []byte) (message, error) {
	switch method {
	case methodList:
		return answer(args, h.ep.Lister != nil, func(m *listRequest) (*nothing, error) { return h.list(ctx, s, m) })
	case methodSnapshot:
		return answer(args, h.ep.Snapshots != nil, func(m *snapshotRequest) (*snapshotAnswer, error) {
			captured, err := h.ep.Snapshots.Snapshot(ctx, m.name, m.datasets, m.atomic)
			return &snapshotAnswer{captured}, err
		})
	case methodBookmark:
		return answer(args, h.ep.Bookmarks != nil, func(m *bookmarkRequest) (*versionAnswer, error) {
			v, err := h.ep.Bookmarks.Bookmark(ctx, m.dataset, m.of, m.name, m.degrade)
			return &versionAnswer{v}, err
		})
	case methodDestroy:
		return answer(args, h.ep.Destroys != nil, func(m *destroyRequest) (*destroyAnswer, error) {
			results, err := h.ep.Destroys.Destroy(ctx, m.dataset, m.ids)
			return &destroyAnswer{results}, err
		})
	case methodLease:
		return answer(args, h.ep.Leases != nil, func(m *leaseRequest) (*nothing, error) {
			return &nothing{}, h.ep.Leases.SetLease(ctx, m.set)
		})
	case methodEstimate:
		return answer(args, h.ep.Estimates != nil, func(m *estimateRequest) (*estimateAnswer, error) {
			sizes, err := h.ep.Estimates.Estimate(ctx, m.steps)
			return &estimateAnswer{sizes}, err
		})
	case methodSend:
		return answer(args, h.ep.Sender != nil, func(m *sendRequest) (*nothing, error) { return h.send(ctx, s, m) })
	case methodReceive:
		return answer(args, h.ep.Receiver != nil, func(m *receiveRequest) (*receiveAnswer, error) { return h.receive(ctx, s, m) })
	case methodAbort:
		return answer(args, h.ep.Receiver != nil, func(m *datasetRequest) (*nothing, error) {
			return &nothing{}, h.ep.Receiver.Abort(ctx, m.dataset)
		})
	case methodOpen:
		return answer(args, h.ep.Blocks != nil, func(m *versionRequest) (*nothing, error) { return h.open(ctx, s, m) })
	case methodChanged:
		return answer(args, h.ep.Changes != nil, func(m *changedRequest) (*nothing, error) {
			return sendExtents(ctx, s, h.ep.Changes.Changed(ctx, m.dataset, m.from, m.to))
		})
	case methodDigest:
		return answer(args, h.ep.Digests != nil, func(m *digestRequest) (*nothing, error) {
			return sendDigests(ctx, s, h.ep.Digests.Digest(ctx, m.dataset, m.id, m.query))
		})
	}
	return h.serveRest(ctx, method, args)
}

// serveRest runs the calls that change a dataset as a whole.
func (h *handler) serveRest(ctx context.Context, method uint8, args []byte) (message, error) {
	switch method {
	case methodRollback:
		return answer(args, h.ep.Rollbacks != nil, func(m *rollbackRequest) (*nothing, error) {
			return &nothing{}, h.ep.Rollbacks.Rollback(ctx, m.dataset, m.to, m.destroyNewer)
		})
	case methodResize:
		return answer(args, h.ep.Resizes != nil, func(m *resizeRequest) (*nothing, error) {
			return &nothing{}, h.ep.Resizes.Resize(ctx, m.dataset, m.size)
		})
	case methodRename:
		return answer(args, h.ep.Renames != nil, func(m *renameRequest) (*nothing, error) {
			return &nothing{}, h.ep.Renames.Rename(ctx, m.from, m.to)
		})
	case methodVerify:
		return answer(args, h.ep.Verifies != nil, func(m *versionRequest) (*coverageAnswer, error) {
			coverage, err := h.ep.Verifies.Verify(ctx, m.dataset, m.id)
			return &coverageAnswer{coverage}, err
		})
	case methodSeal:
		return answer(args, h.ep.Seals != nil, func(m *sealRequest) (*nothing, error) {
			return &nothing{}, h.ep.Seals.Seal(ctx, m.dataset, m.sealed)
		})
	case methodHeal:
		return answer(args, h.ep.Heals != nil, func(m *healRequest) (*healAnswer, error) {
			mendings, err := h.ep.Heals.Heal(ctx, m.dataset, m.id, m.patches, m.options)
			return &healAnswer{mendings}, err
		})
	}
	return nil, &cairn.Error{Op: "serve call", Kind: cairn.KindUnsupported, Hint: "upgrade Cairn there"}
}

// answer reads a call's arguments, refuses it when the ability is missing, and
// runs it.
func answer[I any, PI interface {
	*I
	message
}, O message](args []byte, able bool, run func(PI) (O, error)) (message, error) {
	if !able {
		return nil, &cairn.Error{Op: "serve call", Kind: cairn.KindUnsupported, Hint: "this place does not offer it, or your identity has no right to it"}
	}
	in := PI(new(I))
	if err := decode(args, in); err != nil {
		return nil, err
	}
	return run(in)
}

func (h *handler) list(ctx context.Context, s *serving, m *listRequest) (*nothing, error) {
	var row []byte
	for listing, err := range h.ep.Lister.List(ctx, m.query) {
		if err != nil {
			return nil, err
		}
		row = appendListing(row[:0], listing)
		if err := s.row(ctx, row); err != nil {
			return nil, err
		}
	}
	return &nothing{}, s.flush(ctx)
}

// attached tells the peer to open a data connection, and waits for it.
func (h *handler) attached(ctx context.Context, s *serving, m *ready) (*dataConn, error) {
	token := make([]byte, 32)
	if _, err := rand.Read(token); err != nil {
		return nil, &cairn.Error{Op: "make token", Kind: cairn.KindOther, Err: err}
	}
	m.token = token
	w := &waiter{identity: h.identity, conn: make(chan *dataConn, 1)}
	h.server.mu.Lock()
	h.server.waiting[string(token)] = w
	h.server.mu.Unlock()
	defer h.forget(token, w)
	if err := s.ready(ctx, m); err != nil {
		return nil, err
	}
	limit := time.NewTimer(h.server.o.Timings.Handshake)
	defer limit.Stop()
	select {
	case c := <-w.conn:
		return c, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-limit.C:
		return nil, &cairn.Error{Op: "take data connection", Kind: cairn.KindUnavailable, Err: errors.New("it did not come in time")}
	}
}

// forget takes the token back, and closes a connection that came too late.
func (h *handler) forget(token []byte, w *waiter) {
	h.server.mu.Lock()
	defer h.server.mu.Unlock()
	delete(h.server.waiting, string(token))
	select {
	case c := <-w.conn:
		_ = c.Close() // nobody has it
	default:
	}
}

func (h *handler) send(ctx context.Context, s *serving, m *sendRequest) (_ *nothing, err error) {
	stream, err := h.ep.Sender.Send(ctx, m.step, m.accept)
	if err != nil {
		return nil, err
	}
	defer func() {
		if closeErr := stream.Body.Close(); err == nil {
			err = closeErr
		}
	}()
	conn, err := h.attached(ctx, s, &ready{header: stream.Header})
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }() // the end frame said all there is to say
	start := stream.Header.Resume
	bodyErr, connErr := upload(ctx, conn, h.server.o.Timings, stream.Body, nil, func(total int64) { s.progress.Level("sent bytes", start+total) })
	switch {
	case bodyErr != nil:
		return nil, bodyErr
	case connErr != nil:
		return nil, &cairn.Error{Op: "send", Subject: m.step.Dataset, Kind: cairn.KindUnavailable, Err: connErr}
	}
	awaitClose(ctx, conn)
	return &nothing{}, nil
}

// awaitClose returns when the peer has closed its end, and with it the stream,
// whose versions are held until then, or when ctx has ended.
func awaitClose(ctx context.Context, conn *dataConn) {
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	conn.in.limit = 0
	_, _ = conn.in.Read(make([]byte, 1)) // nothing is to come: it returns at the close
}

func (h *handler) receive(ctx context.Context, s *serving, m *receiveRequest) (*receiveAnswer, error) {
	conn, err := h.attached(ctx, s, &ready{})
	if err != nil {
		return nil, err
	}
	start := m.header.Resume
	body := newDownload(ctx, conn, "read stream of "+m.header.Dataset, func(total int64) { s.progress.Level("received bytes", start+total) })
	body.wants = paced
	defer func() { _ = body.Close() }() // Receive closes it too
	received, err := h.ep.Receiver.Receive(ctx, &cairn.Stream{Header: m.header, Body: body}, m.options)
	return &receiveAnswer{received}, err
}

// open serves reads of one version over a connection of their own, until the
// peer closes it.
func (h *handler) open(ctx context.Context, s *serving, m *versionRequest) (_ *nothing, err error) {
	reader, err := h.ep.Blocks.OpenVersion(ctx, m.dataset, m.id)
	if err != nil {
		return nil, err
	}
	defer func() {
		if closeErr := reader.Close(); err == nil {
			err = closeErr
		}
	}()
	conn, err := h.attached(ctx, s, &ready{size: reader.Size()})
	if err != nil {
		return nil, err
	}
	l := newLink(ctx, conn, h.server.o.Timings)
	c := newCallee(l, maxReads, func(ctx context.Context, s *serving, method uint8, args []byte) (message, error) {
		return serveRead(ctx, s, reader, method, args)
	})
	l.open(conn.in.frames(), c.beat, c.take)
	<-l.ctx.Done()
	c.close(nil)
	return &nothing{}, nil
}

package replicate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"cairn"
	"cairn/internal/mech/watchdog"
)

// movement is one stream from Send to the sender's cursor. It touches nothing of
// its task: an abandoned one harms nobody.
type movement struct {
	*run
	step  cairn.Step
	moved *atomic.Int64
}

func (m *movement) do(ctx context.Context) error {
	progress := watchdog.From(ctx)
	progress.Enter("lease")
	if err := m.protect(ctx); err != nil {
		return err
	}
	progress.Enter("send")
	received, err := m.transfer(ctx, progress)
	if err != nil {
		return err
	}
	progress.Level("received", 1)
	progress.Enter("confirm")
	return m.confirm(ctx, received)
}

// protect holds at the sender what the guarantee asks for.
func (m *movement) protect(ctx context.Context) error {
	switch m.guarantee() {
	case Resumability:
		ids := []cairn.VersionID{m.step.To}
		if m.step.From.IsSnapshot() && m.step.Origin == "" { // what a clone stands on cannot go
			ids = append(ids, m.step.From)
		}
		return m.lease(ctx, m.step.Dataset, cairn.PurposeStep, ids...)
	case Incremental:
		return m.lease(ctx, m.step.Dataset, cairn.PurposeTentative, m.step.To)
	}
	return nil
}

func (m *movement) guarantee() Guarantee {
	if m.step.From.IsZero() || m.step.Origin != "" {
		return m.Protect.Initial
	}
	return m.Protect.Incremental
}

// transfer sends and receives. When the sender broke the stream, its error is the
// cause, whatever the receiver made of it.
func (m *movement) transfer(ctx context.Context, progress *watchdog.Progress) (cairn.Received, error) {
	stream, err := m.Sender.Sender.Send(ctx, m.step, m.accepts())
	if err != nil {
		return cairn.Received{}, err
	}
	if to := stream.Header.To.VersionID; to.GUID != m.step.To.GUID {
		return cairn.Received{}, errors.Join(&cairn.Error{Op: "replicate", Subject: m.step.Dataset + m.step.To.Name, Kind: cairn.KindCorrupt,
			Err: fmt.Errorf("the sender answered with GUID %s instead of %s", to.GUID, m.step.To.GUID)}, stream.Body.Close())
	}
	body := &meter{body: stream.Body, moved: m.moved, progress: progress, resume: stream.Header.Resume}
	stream.Body = body
	progress.Enter("receive")
	received, err := m.Receiver.Receiver.Receive(ctx, stream, cairn.ReceiveOptions{Owner: m.Owner})
	if err != nil {
		if cause := body.broken(); cause != nil {
			err = cause
		}
	}
	return received, err
}

func (m *movement) accepts() []cairn.Format {
	var all []cairn.Format
	for _, formats := range m.Receiver.Info.Accepts {
		all = append(all, formats...)
	}
	return all
}

// confirm moves the sender's cursor to what the receiver has, lets the receiver
// hold it, and ends the step's leases.
func (m *movement) confirm(ctx context.Context, received cairn.Received) error {
	if m.Receiver.Leases != nil {
		at := m.step.To
		if n := len(received.Versions); n > 0 {
			at = received.Versions[n-1]
		}
		set := cairn.LeaseSet{Dataset: m.step.Dataset, Owner: m.Owner, Purpose: cairn.PurposeReceived, Versions: []cairn.VersionID{at}}
		if err := m.Receiver.Leases.SetLease(ctx, set); err != nil {
			m.Log.Warn("received version not held at the receiver", "dataset", m.step.Dataset, "err", err)
		}
	}
	if m.guarantee() == Nothing {
		return nil
	}
	if err := m.lease(ctx, m.step.Dataset, cairn.PurposeCursor, m.step.To); err != nil {
		return err
	}
	return m.releaseStep(ctx, m.step.Dataset)
}

// lease sets one of the job's sets at the sender; a place without leases holds
// nothing.
func (r *run) lease(ctx context.Context, dataset string, purpose cairn.Purpose, ids ...cairn.VersionID) error {
	if r.Sender.Leases == nil {
		return nil
	}
	err := r.Sender.Leases.SetLease(ctx, cairn.LeaseSet{Dataset: dataset, Owner: r.Owner, Purpose: purpose, Versions: ids})
	if cairn.KindOf(err) == cairn.KindUnsupported {
		return nil
	}
	return err
}

// releaseStep ends what protect holds.
func (r *run) releaseStep(ctx context.Context, dataset string) error {
	for _, p := range []cairn.Purpose{cairn.PurposeStep, cairn.PurposeTentative} {
		if err := r.lease(ctx, dataset, p); err != nil {
			return err
		}
	}
	return nil
}

// releaseTime is how long the end of a task may take to give its plan's leases
// back, also when the run was cancelled.
const releaseTime = 10 * time.Second

// releasePlan ends the lease of the plan. What hangs keeps it: it stays locked.
func (t *task) releasePlan(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTime)
	defer cancel()
	w := t.watch("release plan of", "")
	w.Grace = time.Second
	err, _ := watchdog.Run(ctx, &watchdog.Progress{}, w, func(ctx context.Context) error {
		return t.lease(ctx, t.dataset, cairn.PurposePlan)
	})
	if err != nil {
		t.Log.Debug("plan lease not released", "dataset", t.dataset, "err", err)
	}
}

// meter counts a stream's body.
type meter struct {
	body     io.ReadCloser
	moved    *atomic.Int64
	progress *watchdog.Progress
	resume   int64

	mu     sync.Mutex // guards what follows
	failed error      // of the body, before it was closed
	closed bool
}

// Read passes the body on. The level begins at the position that the stream
// resumes from, so that a retry which gets no further than the last is no progress.
func (m *meter) Read(p []byte) (int, error) {
	n, err := m.body.Read(p)
	m.progress.Level("bytes", m.resume+m.moved.Add(int64(n)))
	switch {
	case errors.Is(err, io.EOF):
		m.progress.Enter("commit")
	case err != nil:
		m.mu.Lock()
		if !m.closed && m.failed == nil {
			m.failed = err
		}
		m.mu.Unlock()
	}
	return n, err
}

// Close closes the body.
func (m *meter) Close() error {
	m.mu.Lock()
	m.closed = true
	m.mu.Unlock()
	return m.body.Close()
}

// broken is the sender's error, if the body ended with one.
func (m *meter) broken() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.failed
}

package rpc

import (
	"context"
	"errors"
	"sync"

	"cairn"
	"cairn/internal/mech/frame"
	"cairn/internal/mech/watchdog"
)

// window is how many bytes of a call's rows may be under way before its consumer
// has taken any.
const window = 256 << 10

// caller is the calling side of a link.
type caller struct {
	*link
	place string        // of the peer, for errors
	slots chan struct{} // one token per call that has not had its last word

	mu    sync.Mutex // guards the rest
	next  uint32
	calls map[uint32]*call
}

func newCaller(l *link, place string, slots int) *caller {
	c := &caller{link: l, place: place, slots: make(chan struct{}, slots), calls: map[uint32]*call{}}
	context.AfterFunc(l.ctx, c.failAll)
	return c
}

// call is one request whose last word has not come, or was not taken.
type call struct {
	caller  *caller
	id      uint32
	op      string // for errors
	subject string
	watched *watchdog.Progress // gets what the peer reports

	wake chan struct{} // holds one token when something below may have changed

	mu     sync.Mutex // guards the rest
	ready  []byte     // message that came before the last word; nil when none or taken
	rows   [][]byte   // pieces not taken yet
	credit int        // bytes of rows the peer may still send
	over   bool       // the last word came
	answer []byte     // when over and fault is nil
	fault  error
	phase  string // last phase the peer reported
}

// start sends a request. Its error is final.
func (c *caller) start(ctx context.Context, method uint8, op, subject string, in message) (*call, error) {
	if ctx.Err() != nil {
		return nil, ended(ctx, op, subject, c.place)
	}
	select {
	case c.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, ended(ctx, op, subject, c.place)
	case <-c.ctx.Done():
		return nil, c.lost(op, subject)
	}
	k := &call{caller: c, op: op, subject: subject, watched: watchdog.From(ctx), wake: make(chan struct{}, 1), credit: window}
	if !c.register(k) {
		<-c.slots
		return nil, c.lost(op, subject)
	}
	payload := encode(&request{method: method, window: window, arguments: in})
	queued, err := c.send(ctx, frame.Header{Type: frameRequest, ID: k.id}, payload)
	switch {
	case err == nil:
		return k, nil
	case queued:
		k.giveUp()
	default: // the peer never learns of it
		k.last(nil, nil)
	}
	switch {
	case errors.Is(err, cairn.KindInvalid):
		return nil, &cairn.Error{Op: op, Subject: subject, Place: c.place, Kind: cairn.KindInvalid, Err: err}
	case c.ctx.Err() != nil:
		return nil, c.lost(op, subject)
	}
	return nil, ended(ctx, op, subject, c.place)
}

func (c *caller) register(k *call) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ctx.Err() != nil {
		return false
	}
	for c.next++; c.next == 0 || c.calls[c.next] != nil; c.next++ {
	}
	k.id = c.next
	c.calls[k.id] = k
	return true
}

// lost is the error of calls on a link that has ended.
func (c *caller) lost(op, subject string) error {
	return &cairn.Error{Op: op, Subject: subject, Place: c.place, Kind: cairn.KindUnavailable,
		Err: context.Cause(c.ctx), Hint: "the connection is lost; connect again"}
}

// failAll gives every call its last word when the link has ended.
func (c *caller) failAll() {
	c.mu.Lock()
	calls := c.calls
	c.calls = map[uint32]*call{}
	c.mu.Unlock()
	for _, k := range calls {
		k.finish(nil, c.lost(k.op, k.subject))
	}
}

// take handles one message of the peer.
func (c *caller) take(h frame.Header, p []byte) error {
	if h.Type == frameBeat {
		return c.progress(p)
	}
	c.mu.Lock()
	k := c.calls[h.ID]
	c.mu.Unlock()
	if k == nil {
		return nil // of a call that was given up before it was known there
	}
	switch h.Type {
	case frameReady:
		k.set(func() { k.ready = append([]byte{}, p...) })
	case frameRows:
		return k.addRows(p)
	case frameAnswer:
		k.last(append([]byte{}, p...), nil)
	case frameFault:
		var f fault
		if err := decode(p, &f); err != nil {
			return err
		}
		if f.err == nil {
			return &cairn.Error{Op: "read answer", Kind: cairn.KindCorrupt, Err: errMalformed}
		}
		k.last(nil, fromPeer(f.err, k.op, k.subject, c.place))
	default:
		return &cairn.Error{Op: "read answer", Kind: cairn.KindCorrupt, Err: errors.New("unknown frame type")}
	}
	return nil
}

// progress hands the peer's report to the watchdogs of the calls it speaks of.
func (c *caller) progress(p []byte) error {
	var r reports
	if err := decode(p, &r); err != nil {
		return err
	}
	for _, one := range r {
		c.mu.Lock()
		k := c.calls[one.id]
		c.mu.Unlock()
		if k != nil {
			k.report(one)
		}
	}
	return nil
}

func (k *call) report(r report) {
	k.mu.Lock()
	entered := r.phase != "" && r.phase != k.phase
	k.phase = r.phase
	k.mu.Unlock()
	if entered {
		k.watched.Enter(r.phase)
	}
	for _, counter := range r.counters {
		k.watched.Level(k.caller.place+" "+counter.name, counter.level)
	}
}

func (k *call) set(change func()) {
	k.mu.Lock()
	change()
	k.mu.Unlock()
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

func (k *call) addRows(p []byte) error {
	tooMuch := false
	k.set(func() {
		k.credit -= len(p)
		tooMuch = k.credit < 0
		k.rows = append(k.rows, append([]byte{}, p...))
	})
	if tooMuch {
		return &cairn.Error{Op: "read rows", Kind: cairn.KindInvalid, Err: errors.New("the peer sent more than was asked for")}
	}
	return nil
}

// last takes the call off the books: its last word came, or it never was sent.
func (k *call) last(answer []byte, fault error) {
	k.caller.mu.Lock()
	known := k.caller.calls[k.id] == k
	delete(k.caller.calls, k.id)
	k.caller.mu.Unlock()
	if known {
		k.finish(answer, fault)
	}
}

func (k *call) finish(answer []byte, fault error) {
	k.set(func() { k.over, k.answer, k.fault = true, answer, fault })
	<-k.caller.slots
}

// await calls check under the call's lock until it reports true or the last word
// has come; its error is that of ctx, which ended first.
func (k *call) await(ctx context.Context, check func() bool) error {
	for {
		k.mu.Lock()
		found, over := check(), k.over
		k.mu.Unlock()
		if found || over {
			return nil
		}
		select {
		case <-k.wake:
		case <-ctx.Done():
			return ended(ctx, k.op, k.subject, k.caller.place)
		}
	}
}

// result waits for the last word and reads the answer into out. When ctx ends
// first, the peer is told, and has the grace time to be done: what it says then
// is not lost when it says success.
func (k *call) result(ctx context.Context, out message) error {
	if err := k.await(ctx, func() bool { return false }); err != nil && !k.abandon() {
		return err
	}
	if k.fault != nil && ctx.Err() != nil {
		return ended(ctx, k.op, k.subject, k.caller.place)
	}
	if k.fault != nil {
		return k.fault
	}
	return decode(k.answer, out)
}

// giveUp tells the peer that nobody waits any more.
func (k *call) giveUp() {
	k.caller.post(frame.Header{Type: frameCancel, ID: k.id}, nil)
}

// abandon gives the call up and waits for its last word, at most the grace time;
// it reports whether that came.
func (k *call) abandon() bool {
	k.giveUp()
	ctx, cancel := context.WithTimeout(context.Background(), k.caller.t.Grace)
	defer cancel()
	return k.await(ctx, func() bool { k.rows = nil; return false }) == nil
}

// readyMessage waits for the message that comes before the last word.
func (k *call) readyMessage(ctx context.Context, out message) error {
	var ready []byte
	err := k.await(ctx, func() bool { ready = k.ready; return ready != nil })
	switch {
	case err != nil:
		k.abandon()
		return err
	case ready != nil:
		return decode(ready, out)
	case k.fault != nil:
		return k.fault
	}
	return &cairn.Error{Op: k.op, Subject: k.subject, Place: k.caller.place, Kind: cairn.KindCorrupt, Err: errMalformed}
}

// nextRows waits for a piece of the row stream; nil at its end. The piece before
// is paid for with new credit.
func (k *call) nextRows(ctx context.Context, taken int) ([]byte, error) {
	if taken > 0 {
		k.mu.Lock()
		k.credit += taken
		k.mu.Unlock()
		k.caller.post(frame.Header{Type: frameCredit, ID: k.id}, encode(&credit{uint64(taken)}))
	}
	var piece []byte
	err := k.await(ctx, func() bool {
		if len(k.rows) > 0 {
			piece, k.rows = k.rows[0], k.rows[1:]
		}
		return piece != nil
	})
	if err != nil || piece != nil {
		return piece, err
	}
	return nil, k.fault
}

// unary runs a call that has one answer.
func (c *caller) unary(ctx context.Context, method uint8, op, subject string, in, out message) error {
	k, err := c.start(ctx, method, op, subject, in)
	if err != nil {
		return err
	}
	return k.result(ctx, out)
}

package scsi

import (
	"context"
	"fmt"
	"sync"
	"time"

	"cairn"
)

// Command is one SCSI command.
type Command struct {
	CDB   []byte
	In    []byte        // room for what the device sends
	Out   []byte        // what the device is sent; a command has one of the two at most
	Limit time.Duration // how long the device may take; 0 is Limit of the operation code
}

func (c Command) limit() time.Duration {
	if c.Limit > 0 {
		return c.Limit
	}
	return Limit(c.CDB[0])
}

// Result is what came of a command.
type Result struct {
	Status   Status
	Sense    []byte // as it came; empty when none did
	Received int    // bytes of In, by the word of the host adapter
}

// Transport carries commands to one device, one at a time.
type Transport interface {
	// Do returns when the command has ended, or with an error when it could not be
	// carried: KindStuck, KindCanceled, KindUnavailable, KindIO.
	Do(ctx context.Context, c Command) (Result, error)
	// MaxTransfer is the longest In or Out in bytes.
	MaxTransfer() int
	Close() error
}

// Device carries a command and blocks until it has ended; nothing cuts it short.
type Device interface {
	Carry(c Command) (Result, error)
	MaxTransfer() int
	Close() error
}

// grace is how much longer than its limit a command is waited for: the kernel ends
// it first if it can.
const grace = 30 * time.Second

// Watched is the transport over a device that may stop answering.
type Watched struct {
	device Device
	name   string
	turn   chan struct{} // holds one token while no command runs
	in     []byte        // the device's side of In and Out: it may still use them after
	out    []byte        // the caller has given up; whoever has the turn owns them

	mu      sync.Mutex // guards running
	running call
}

// call is the command that has the turn.
type call struct {
	cdb   []byte
	began time.Time
	end   time.Time // when it is given up
}

// Watch makes a transport of a device; name is in messages.
func Watch(d Device, name string) *Watched {
	w := &Watched{device: d, name: name, turn: make(chan struct{}, 1)}
	w.turn <- struct{}{}
	return w
}

// MaxTransfer is the device's.
func (w *Watched) MaxTransfer() int { return w.device.MaxTransfer() }

func (w *Watched) fail(kind cairn.Kind, err error) error {
	return &cairn.Error{Op: "use tape drive", Subject: w.name, Kind: kind, Err: err}
}

func (w *Watched) stuck(c call) error {
	return &cairn.Error{Op: "use tape drive", Subject: w.name, Kind: cairn.KindStuck,
		Err:  fmt.Errorf("%s has not ended since %s, limit %v", Name(c.cdb), c.began.Format(time.DateTime), c.end.Sub(c.began)),
		Hint: "the drive or its adapter does not answer: look at the kernel's log, reset or power-cycle the drive"}
}

// take waits for the turn: for the end of a command that somebody gave up.
func (w *Watched) take(ctx context.Context) error {
	select {
	case <-w.turn:
		return nil
	default:
	}
	w.mu.Lock()
	last := w.running
	w.mu.Unlock()
	timer := time.NewTimer(time.Until(last.end))
	defer timer.Stop()
	select {
	case <-w.turn:
		return nil
	case <-timer.C:
		return w.stuck(last)
	case <-ctx.Done():
		return w.canceled(ctx, last)
	}
}

func (w *Watched) canceled(ctx context.Context, c call) error {
	return w.fail(cairn.KindCanceled, fmt.Errorf("%s, under way since %s: %w", Name(c.cdb), c.began.Format(time.DateTime), ctx.Err()))
}

// Do carries a command.
func (w *Watched) Do(ctx context.Context, c Command) (Result, error) {
	if max(len(c.In), len(c.Out)) > w.MaxTransfer() {
		return Result{}, w.fail(cairn.KindInvalid, fmt.Errorf("%s of %d bytes, at most %d can be carried", Name(c.CDB), max(len(c.In), len(c.Out)), w.MaxTransfer()))
	}
	if ctx.Err() != nil {
		return Result{}, w.fail(cairn.KindCanceled, ctx.Err())
	}
	if err := w.take(ctx); err != nil {
		return Result{}, err
	}
	now := time.Now()
	one := call{cdb: c.CDB, began: now, end: now.Add(c.limit() + grace)}
	w.mu.Lock()
	w.running = one
	w.mu.Unlock()
	return w.carry(ctx, c, one)
}

// outcome is what the device gave.
type outcome struct {
	result Result
	in     []byte
	err    error
}

// carry runs the command on a goroutine that gives the turn back at its end; a
// caller that leaves before does not touch the buffers any more.
func (w *Watched) carry(ctx context.Context, c Command, one call) (Result, error) {
	if cap(w.in) < len(c.In) {
		w.in = make([]byte, w.MaxTransfer())
	}
	own := Command{CDB: append([]byte(nil), c.CDB...), In: w.in[:len(c.In)], Limit: c.limit()}
	w.out = append(w.out[:0], c.Out...)
	own.Out = w.out
	ended := make(chan outcome, 1)
	taken := make(chan struct{})
	go func() {
		result, err := w.device.Carry(own)
		ended <- outcome{result, own.In, err}
		<-taken // the caller has copied In, or left
		w.turn <- struct{}{}
	}()
	defer close(taken)
	timer := time.NewTimer(time.Until(one.end))
	defer timer.Stop()
	select {
	case o := <-ended:
		copy(c.In, o.in) // all of it: adapters are known to tell wrong lengths
		return o.result, o.err
	case <-timer.C:
		return Result{}, w.stuck(one)
	case <-ctx.Done():
		return Result{}, w.canceled(ctx, one)
	}
}

// closePatience is how long closing waits for a command that was left behind.
const closePatience = time.Minute

// Close closes the device, after the end of the command that runs. One that does
// not end within a minute keeps the device open until the process ends.
func (w *Watched) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closePatience)
	defer cancel()
	if err := w.take(ctx); err != nil {
		return err
	}
	if err := w.device.Close(); err != nil {
		return w.fail(cairn.KindIO, err)
	}
	return nil
}

var _ Transport = (*Watched)(nil)

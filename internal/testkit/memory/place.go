package memory

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"cairn"
)

// Stage is a point in a call at which a Hook is asked.
type Stage string

// The stages of a call, in order.
const (
	Begin  Stage = "begin"  // nothing was looked at
	Body   Stage = "body"   // before each read of a stream's body, at either end
	Commit Stage = "commit" // all is checked; the change comes next
	Done   Stage = "done"   // the change is made; the caller does not know yet
)

// Call is what a Hook sees.
type Call struct {
	Ability cairn.Ability // as in Endpoint.Abilities; Receiver.Abort is "abort"
	Dataset string        // empty for calls on several
	Stage   Stage
	Bytes   int64 // of the body so far, at Body
}

// Hook may delay, fail or hang a call. What it returns is what the call fails
// with; an error at Done hides a success.
type Hook func(ctx context.Context, c Call) error

// On limits a hook to one ability and stage.
func On(ability cairn.Ability, stage Stage, then Hook) Hook {
	return func(ctx context.Context, c Call) error {
		if c.Ability != ability || c.Stage != stage {
			return nil
		}
		return then(ctx, c)
	}
}

// Fail is a hook that fails the first times calls, or every call when times is 0.
func Fail(times int, err error) Hook {
	var mu sync.Mutex // guards n
	n := 0
	return func(context.Context, Call) error {
		mu.Lock()
		defer mu.Unlock()
		if n++; times == 0 || n <= times {
			return err
		}
		return nil
	}
}

// Hang is a hook that waits until the call's context ends.
func Hang(ctx context.Context, _ Call) error {
	<-ctx.Done()
	return ctx.Err()
}

// Delay is a hook that waits.
func Delay(d time.Duration) Hook {
	return func(ctx context.Context, _ Call) error {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Place is where the volumes are. All methods may be called at once.
type Place struct {
	name string

	mu       sync.Mutex // guards what follows, and every dataset
	datasets map[string]*dataset
	hooks    []Hook
}

// New makes an empty place.
func New(name string) *Place { return &Place{name: name, datasets: map[string]*dataset{}} }

// Hook adds hooks; they are asked in order until one fails.
func (p *Place) Hook(hooks ...Hook) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hooks = append(p.hooks[:len(p.hooks):len(p.hooks)], hooks...)
}

// Unhook removes all hooks.
func (p *Place) Unhook() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hooks = nil
}

// ask consults the hooks and the context.
func (p *Place) ask(ctx context.Context, c Call) error {
	p.mu.Lock()
	hooks := p.hooks
	p.mu.Unlock()
	for _, h := range hooks {
		if err := h(ctx, c); err != nil {
			return p.failed(c, err)
		}
	}
	if err := ctx.Err(); err != nil {
		return p.failed(c, err)
	}
	return nil
}

func (p *Place) failed(c Call, err error) error {
	kind := cairn.KindOf(err)
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		kind = cairn.KindCanceled
	}
	return &cairn.Error{Op: string(c.Ability), Subject: c.Dataset, Place: p.name, Kind: kind, Err: err}
}

// Clone makes a writable volume that is a clone of a snapshot.
func (p *Place) Clone(origin, version, name string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.datasets[name] != nil {
		return failed("clone", name, cairn.KindExists, nil)
	}
	if d := p.datasets[origin]; d != nil {
		for _, v := range d.versions {
			if v.Name == version && v.image != nil {
				c := newDataset(name, v.Size)
				c.head, c.info.Origin = v.image.clone(), cairn.Origin{Dataset: origin, VersionID: v.VersionID}
				p.datasets[name] = c
				return nil
			}
		}
	}
	return failed("clone", origin+version, cairn.KindNotFound, nil)
}

// Create makes a volume of zeroes.
func (p *Place) Create(name string, size int64) error {
	if err := cairn.CheckDatasetName(name); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.datasets[name] != nil {
		return failed("create", name, cairn.KindExists, nil)
	}
	p.datasets[name] = newDataset(name, size)
	return nil
}

// Write writes to the head, as a user of the device would.
func (p *Place) Write(name string, off int64, data []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	d, err := p.dataset("write", name)
	if err != nil {
		return err
	}
	if d.info.Sealed {
		return failed("write", name, cairn.KindPermission, errors.New("the volume is sealed"))
	}
	if off < 0 || off+int64(len(data)) > d.head.size {
		return failed("write", name, cairn.KindInvalid, fmt.Errorf("range %d+%d leaves the volume", off, len(data)))
	}
	d.head.write(off, data, d.dirty)
	return nil
}

// Content reads a snapshot ("@x") or the head ("").
func (p *Place) Content(name, version string) ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m, err := p.image(name, version)
	if err != nil {
		return nil, err
	}
	out := make([]byte, m.size)
	if at := m.read(out, 0); at >= 0 {
		return nil, failed("read", name+version, cairn.KindDamaged, fmt.Errorf("block at %d", at))
	}
	return out, nil
}

// Damage lets the block at off of a snapshot rot: its bytes no longer match their
// checksum, in every version that shares the block.
func (p *Place) Damage(name, version string, off int64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	m, err := p.image(name, version)
	if err != nil {
		return err
	}
	if b := m.blocks[off/cairn.BlockSize]; b != nil {
		b.data[0] ^= 1
		return nil
	}
	return failed("damage", name+version, cairn.KindInvalid, io.EOF)
}

func (p *Place) image(name, version string) (*image, error) {
	d, err := p.dataset("read", name)
	if err != nil {
		return nil, err
	}
	if version == "" {
		return d.head, nil
	}
	for _, v := range d.versions {
		if v.Name == version && v.image != nil {
			return v.image, nil
		}
	}
	return nil, failed("read", name+version, cairn.KindNotFound, nil)
}

// dataset looks a name up; p.mu is held.
func (p *Place) dataset(op, name string) (*dataset, error) {
	if d := p.datasets[name]; d != nil {
		return d, nil
	}
	return nil, failed(op, name, cairn.KindNotFound, nil)
}

package volume

import (
	"context"
	"errors"
	"iter"
	"sync"
	"syscall"

	"cairn"
	"cairn/internal/mech/blockio"
)

// Device opens the head for reading and writing. A sealed head can be read; its
// writes fail with KindConflict.
func (v *Volume) Device() cairn.BlockDevice {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.devices++
	return &device{v: v}
}

type device struct {
	v    *Volume
	once sync.Once
}

func (d *device) Size() int64 {
	d.v.mu.Lock()
	defer d.v.mu.Unlock()
	return d.v.size
}

func (d *device) Sector() int { return d.v.sector }

func (d *device) Close() error {
	d.once.Do(func() {
		d.v.mu.Lock()
		defer d.v.mu.Unlock()
		d.v.devices--
	})
	return nil
}

func (d *device) ReadAt(ctx context.Context, p []byte, off int64) error {
	v := d.v
	if err := ctx.Err(); err != nil {
		return failed("read", v.o.Name, err)
	}
	v.gate.RLock()
	defer v.gate.RUnlock()
	if v.closed {
		return errClosed
	}
	if err := v.inRange(off, int64(len(p))); err != nil {
		return err
	}
	return failed("read", v.o.Name, v.readCurrent(p, off))
}

func (d *device) Extents(ctx context.Context, off, length int64) iter.Seq2[cairn.Extent, error] {
	return func(yield func(cairn.Extent, error) bool) {
		m := merger{yield: yield}
		for end := off + length; off < end; {
			n := min(end-off, extentWindow)
			list, err := d.extents(ctx, off, n)
			if err != nil {
				yield(cairn.Extent{}, failed("read extents of", d.v.o.Name, err))
				return
			}
			for _, e := range list {
				if !m.add(e) {
					return
				}
			}
			off += n
		}
		m.flush()
	}
}

func (d *device) extents(ctx context.Context, off, length int64) ([]cairn.Extent, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	d.v.gate.RLock()
	defer d.v.gate.RUnlock()
	if d.v.closed {
		return nil, errClosed
	}
	if err := d.v.inRange(off, length); err != nil {
		return nil, err
	}
	if r := blocksOf(off, length); d.v.stage.Holds(r.first, r.count) {
		if err := d.v.carryOut(); err != nil {
			return nil, err
		}
	}
	return d.v.mapHead(nil, off, off+length)
}

// admit refuses what cannot be written, before anything is touched.
func (d *device) admit(off, length int64) error {
	v := d.v
	if v.state().Head.Sealed {
		return v.sealedError()
	}
	v.gate.RLock()
	defer v.gate.RUnlock()
	if err := v.inRange(off, length); err != nil {
		return err
	}
	if s := int64(v.sector); off%s != 0 || length%s != 0 && off+length != v.size {
		return &cairn.Error{Op: "write", Subject: v.o.Name, Kind: cairn.KindInvalid, Err: errors.New("not aligned to its sectors")}
	}
	return nil
}

// windows calls f for each window of the range: at most step bytes, ending at
// block borders.
func windows(off, length int64, step func(off, left int64) int64, f func(off, n int64) error) error {
	for end := off + length; off < end; {
		n := min(end-off, step(off, end-off))
		if err := f(off, n); err != nil {
			return err
		}
		off += n
	}
	return nil
}

func plainWindow(off, _ int64) int64 { return windowBytes - off%blockSize }

func (d *device) WriteAt(ctx context.Context, p []byte, off int64, flags cairn.WriteFlags) error {
	if err := d.admit(off, int64(len(p))); err != nil {
		return err
	}
	start := off
	err := windows(off, int64(len(p)), plainWindow, func(off, n int64) error {
		piece := p[off-start : off-start+n]
		var mayStage []byte
		if flags&cairn.FUA == 0 && off%blockSize == 0 && n%blockSize == 0 && n <= stageBytes {
			mayStage = piece
		}
		return d.v.write(ctx, off, n, 0, mayStage, func() error {
			_, err := d.v.head.WriteAt(piece, off)
			return err
		})
	})
	return d.finish(ctx, "write", err, flags)
}

func (d *device) WriteZeroes(ctx context.Context, off, length int64, flags cairn.WriteFlags) error {
	if err := d.admit(off, length); err != nil {
		return err
	}
	err := d.v.writeZeroes(ctx, off, length, 0, flags)
	return d.finish(ctx, "write zeroes to", err, flags)
}

// writeZeroes makes the range read as zeroes, in windows.
func (v *Volume) writeZeroes(ctx context.Context, off, length int64, k writeKind, flags cairn.WriteFlags) error {
	return windows(off, length, v.zeroWindow, func(off, n int64) error {
		return v.write(ctx, off, n, k|zeroing, nil, func() error { return v.zero(off, n, flags) })
	})
}

func (d *device) Discard(ctx context.Context, off, length int64) error {
	if err := d.admit(off, length); err != nil {
		return err
	}
	err := windows(off, length, d.v.zeroWindow, func(off, n int64) error {
		return d.v.write(ctx, off, n, zeroing, nil, func() error {
			err := d.v.head.Punch(off, n)
			if errors.Is(err, syscall.EOPNOTSUPP) {
				return nil // a hint
			}
			return err
		})
	})
	return failed("discard", d.v.o.Name, err)
}

// zeroWindow is as large as the hole at off, so that zeroing what is empty costs
// next to nothing.
func (v *Volume) zeroWindow(off, left int64) int64 {
	start, _, err := v.head.Data(off)
	if err != nil || start-off <= windowBytes {
		return plainWindow(off, left)
	}
	return min((start-off)/blockSize*blockSize, holeBytes) - off%blockSize
}

func (v *Volume) zero(off, n int64, flags cairn.WriteFlags) error {
	err := syscall.EOPNOTSUPP
	zero := v.head.Zero
	if flags&cairn.MayUnmap != 0 {
		zero = v.head.Punch
	}
	if e := zero(off, n); !errors.Is(e, syscall.EOPNOTSUPP) {
		return e
	}
	if flags&cairn.FastOnly != 0 {
		return err
	}
	for n > 0 {
		k := min(n, blockSize)
		if _, err := v.head.WriteAt(zeroBlock[:k], off); err != nil {
			return err
		}
		off, n = off+k, n-k
	}
	return nil
}

func (d *device) Flush(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return failed("flush", d.v.o.Name, err)
	}
	return failed("flush", d.v.o.Name, d.v.flushes.share(ctx, func() error {
		if err := d.v.settle(ctx, 0); err != nil {
			return err
		}
		return d.v.flush()
	}))
}

func (d *device) finish(ctx context.Context, op string, err error, flags cairn.WriteFlags) error {
	if err != nil {
		return &cairn.Error{Op: op, Subject: d.v.o.Name, Kind: blockio.Kind(err), Err: err}
	}
	if flags&cairn.FUA != 0 {
		return d.Flush(ctx)
	}
	return nil
}

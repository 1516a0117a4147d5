package volume

import (
	"context"
	"fmt"

	"cairn"
	"cairn/internal/system/volume/catalog"
)

// Resize sets the head's size. A shrink preserves and marks what it cuts off
// before it does.
func (v *Volume) Resize(ctx context.Context, size int64) error {
	v.admin.Lock()
	defer v.admin.Unlock()
	err := ctx.Err()
	if err == nil {
		err = v.mayResize(size)
	}
	if err == nil {
		err = v.resize(ctx, size)
	}
	return failed("resize", v.o.Name, err)
}

func (v *Volume) mayResize(size int64) error {
	if v.closed {
		return errClosed
	}
	if size <= 0 || size%int64(v.sector) != 0 {
		return &cairn.Error{Op: "use size", Subject: fmt.Sprint(size), Kind: cairn.KindInvalid,
			Hint: fmt.Sprintf("the size has to be a positive multiple of %d bytes", v.sector)}
	}
	if v.state().Head.Sealed {
		return v.sealedError()
	}
	return nil
}

// resize does it. Callers hold admin.
func (v *Volume) resize(ctx context.Context, size int64) error {
	if err := v.activate(); err != nil {
		return err
	}
	switch {
	case size > v.size:
		return v.grow(size)
	case size < v.size:
		return v.shrink(ctx, size)
	}
	return nil
}

func (v *Volume) grow(size int64) error {
	have, err := v.head.Size()
	if err != nil {
		return err
	}
	if have < size {
		if err := v.head.Truncate(size); err != nil {
			return err
		}
		if err := v.flush(); err != nil {
			return err
		}
	}
	return v.setSize(size)
}

func (v *Volume) setSize(size int64) error {
	v.gate.Lock()
	defer v.gate.Unlock()
	if err := v.carryOut(); err != nil { // it may lie behind the new end
		return err
	}
	err := v.commit("resize", func(_ *catalog.State, h *catalog.Head) catalog.Edit {
		h.Size = size
		return catalog.Edit{}
	})
	if err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.size = size
	return nil
}

// shrink zeroes what is cut off, so that every rule of a write holds for it, then
// commits the size and cuts the file.
func (v *Volume) shrink(ctx context.Context, size int64) error {
	tail := (size + blockSize - 1) / blockSize * blockSize
	if v.o.Faults.has(FaultTruncateFirst) {
		if err := v.head.Truncate(size); err != nil {
			return err
		}
	}
	if err := v.writeZeroes(ctx, size, v.size-size, internal, cairn.MayUnmap); err != nil {
		return err
	}
	if v.tracking && tail < v.size {
		if err := v.markRange(tail, v.size-tail); err != nil {
			return err
		}
	}
	if err := v.flush(); err != nil {
		return err
	}
	if err := v.setSize(size); err != nil {
		return err
	}
	return v.cutHead()
}

// markRange counts a range as written although nothing is written to it: a later
// growth brings it back as zeroes.
func (v *Volume) markRange(off, length int64) error {
	return windows(off, length, plainWindow, func(off, n int64) error {
		return v.change(off, n, internal, nil, func() error { return nil })
	})
}

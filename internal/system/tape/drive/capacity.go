package drive

import (
	"context"
	"fmt"

	"cairn"
)

// Capacity tells the room of a partition.
func (f *Folder) Capacity(_ context.Context, part int) (Capacity, error) {
	if part < 0 || part >= len(f.parts) {
		return Capacity{}, &cairn.Error{Op: "tell capacity of tape", Subject: f.dir, Kind: cairn.KindInvalid, Err: fmt.Errorf("there is no partition %d", part)}
	}
	total := f.capacity(part)
	return Capacity{Total: total, Remaining: max(0, total-f.reserve(part)-f.parts[part].used)}, nil
}

// capacity of the current partition, and where the warnings begin.
func (f *Folder) capacity(part int) int64 {
	total := f.opt.CapacityBytes
	if total == 0 {
		total = defaultCapacity
	}
	if len(f.parts) == 1 {
		return total
	}
	if part == 0 {
		return total / 20
	}
	return total - total/20
}

// reserve is the room behind EarlyWarning, for the last indexes.
func (f *Folder) reserve(part int) int64 { return f.capacity(part) / 20 }

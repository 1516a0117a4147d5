package fakedisk

import (
	"io"
	"io/fs"
	"syscall"
)

// file is an open file. closed is guarded by the disk's lock.
type file struct {
	disk   *Disk
	node   inode
	name   string
	write  bool
	closed bool
}

// begin is what each call does once it may happen; the disk's lock is held.
func (f *file) begin(op Op, off, length int64, writes bool) (*content, error) {
	switch {
	case f.closed:
		return nil, pathError(op, f.name, fs.ErrClosed)
	case writes && !f.write:
		return nil, pathError(op, f.name, syscall.EBADF)
	case off < 0 || length < 0:
		return nil, pathError(op, f.name, syscall.EINVAL)
	}
	return f.disk.tree.nodes[f.node].content, nil
}

func (f *file) record(op Op, off, length int64, data []byte) {
	f.disk.log = append(f.disk.log, Entry{Op: op, Name: f.name, node: f.node, Off: off, Len: length, data: data})
}

func (f *file) ReadAt(p []byte, off int64) (int, error) {
	if err := f.disk.call(OpRead, f.name, off, int64(len(p))); err != nil {
		return 0, err
	}
	f.disk.mu.RLock()
	defer f.disk.mu.RUnlock()
	c, err := f.begin(OpRead, off, int64(len(p)), false)
	if err != nil {
		return 0, err
	}
	n := int(max(0, min(int64(len(p)), c.size-off)))
	c.read(p[:n], off)
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *file) WriteAt(p []byte, off int64) (int, error) {
	if err := f.disk.call(OpWrite, f.name, off, int64(len(p))); err != nil {
		return 0, err
	}
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	c, err := f.begin(OpWrite, off, int64(len(p)), true)
	if err != nil {
		return 0, err
	}
	if err := f.need(OpWrite, c, off, int64(len(p))); err != nil {
		return 0, err
	}
	data := append([]byte(nil), p...)
	c.write(data, off)
	f.record(OpWrite, off, int64(len(p)), data)
	return len(p), nil
}

// need fails when the range needs more room than there is.
func (f *file) need(op Op, c *content, off, length int64) error {
	if n := c.missing(off, length); n > 0 && f.disk.tree.room()+n*pageSize > f.disk.capacity {
		return pathError(op, f.name, syscall.ENOSPC)
	}
	return nil
}

// Sync makes the file durable. When the hook fails it, the log says so: what was
// written is then neither durable nor certain to be gone.
func (f *file) Sync() error {
	failed := f.disk.call(OpSync, f.name, 0, 0)
	if failed == nil && f.disk.lying() {
		return nil
	}
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if _, err := f.begin(OpSync, 0, 0, false); err != nil {
		return err
	}
	f.disk.log = append(f.disk.log, Entry{Op: OpSync, Name: f.name, node: f.node, Failed: failed != nil})
	return failed
}

func (f *file) Size() (int64, error) {
	f.disk.mu.RLock()
	defer f.disk.mu.RUnlock()
	if f.closed {
		return 0, pathError(OpStat, f.name, fs.ErrClosed)
	}
	return f.disk.tree.nodes[f.node].content.size, nil
}

func (f *file) Truncate(size int64) error {
	if err := f.disk.call(OpTruncate, f.name, 0, size); err != nil {
		return err
	}
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	c, err := f.begin(OpTruncate, 0, size, true)
	if err != nil {
		return err
	}
	c.truncate(size)
	f.record(OpTruncate, 0, size, nil)
	return nil
}

func (f *file) Allocate(off, length int64) error {
	if err := f.disk.call(OpAllocate, f.name, off, length); err != nil {
		return err
	}
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	c, err := f.begin(OpAllocate, off, length, true)
	if err != nil {
		return err
	}
	if err := f.need(OpAllocate, c, off, length); err != nil {
		return err
	}
	each(off, length, func(n int64, _, _ int) { c.reserve(n) })
	f.record(OpAllocate, off, length, nil)
	return nil
}

func (f *file) Punch(off, length int64) error { return f.clear(OpPunch, off, length) }

func (f *file) Zero(off, length int64) error { return f.clear(OpZero, off, length) }

// clear zeroes a range inside the size, as both calls of the kernel do when told to
// keep the size.
func (f *file) clear(op Op, off, length int64) error {
	if err := f.disk.call(op, f.name, off, length); err != nil {
		return err
	}
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	c, err := f.begin(op, off, length, true)
	if err != nil {
		return err
	}
	c.zero(off, length, op == OpPunch)
	f.record(op, off, length, nil)
	return nil
}

func (f *file) Data(off int64) (start, end int64, err error) {
	if err := f.disk.call(OpSeek, f.name, off, 0); err != nil {
		return 0, 0, err
	}
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	c, err := f.begin(OpSeek, off, 0, false)
	if err != nil {
		return 0, 0, err
	}
	start, end = c.data(off)
	return start, end, nil
}

func (f *file) Close() error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if f.closed {
		return pathError("close", f.name, fs.ErrClosed)
	}
	f.closed = true
	f.disk.handles[f.node]--
	f.disk.drop(f.node)
	return nil
}

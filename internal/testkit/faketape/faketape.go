// Package faketape is a tape drive in memory for tests: it records every change of
// the medium, so that a test can look at the medium as a cut of power would have
// left it after any of them, torn or whole, with or without end marks, and it
// fails, warns and fills up on demand.
//
// It promises what drive.Drive promises; what a cut leaves is the oldest changes
// up to some point, as on a sequential medium, the last one possibly torn.
// Attributes are written through.
package faketape

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"cairn"
	"cairn/internal/system/tape/drive"
)

// change is one change of the medium.
type change struct {
	format    int // partitions, when the medium was formatted
	at        drive.Position
	record    []byte // nil: a filemark
	attribute string // with record as its value
}

// medium is what is on the tape.
type medium struct {
	parts      [][][]byte // partition → block → record; nil is a filemark
	endless    []bool     // partitions whose end mark is lost
	attributes map[string][]byte
}

func (m *medium) apply(c change) {
	switch {
	case c.format > 0:
		m.parts, m.endless = make([][][]byte, c.format), make([]bool, c.format)
		m.attributes = map[string][]byte{"0_9": {0, 0, 0, 1}}
	case c.attribute != "":
		m.attributes[c.attribute] = c.record
	default:
		p := &m.parts[c.at.Partition]
		*p = append((*p)[:c.at.Block], c.record)
		m.endless[c.at.Partition] = false
	}
}

// Tape is a drive with its medium.
type Tape struct {
	medium
	pos     drive.Position
	mu      sync.Mutex // guards changes, so that a test may look while its subject writes
	changes []change
	raised  bool

	// Capacity of each partition in bytes; 0 is without end.
	Room [2]int64
	// Tab is the cartridge's: with it set nothing is written.
	Tab bool
	// Fail, when not nil, is asked before every call by its name and may return an
	// error instead.
	Fail func(call string) error
	// Rot are places that cannot be read: the drive reports a medium error and
	// stands behind them.
	Rot map[drive.Position]bool
	// Seeks counts the blocks that Locate passed over, for tests of reading order.
	Seeks uint64
}

// New is a drive with a blank medium.
func New() *Tape {
	t := &Tape{}
	t.record(change{format: 1})
	return t
}

func (t *Tape) record(c change) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.apply(c)
	t.changes = append(t.changes, c)
}

// Changes is how many changes the medium has seen.
func (t *Tape) Changes() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.changes)
}

// Cut is a new drive with the medium as it was after n changes; with torn the
// change after those arrived in half. lostEnds partitions have no end mark.
func (t *Tape) Cut(n int, torn bool, lostEnds ...int) *Tape {
	c := &Tape{Room: t.Room}
	for _, ch := range t.changes[:n] {
		c.record(ch)
	}
	if torn && n < len(t.changes) {
		if next := t.changes[n]; next.format == 0 && next.attribute == "" && len(next.record) > 1 {
			next.record = next.record[:len(next.record)/2]
			c.record(next)
		}
	}
	for _, p := range lostEnds {
		if p < len(c.endless) {
			c.endless[p] = true
		}
	}
	return c
}

// Swap puts the medium of another drive in, without a word to who uses this one.
func (t *Tape) Swap(other *Tape) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.medium = other.medium
	t.parts = slices.Clone(t.parts)
	for i, p := range t.parts {
		t.parts[i] = slices.Clone(p) // other may go on being written to
	}
}

// Spoil replaces a record or filemark, as a foreign writer would; nil is a
// filemark.
func (t *Tape) Spoil(at drive.Position, record []byte) {
	t.parts[at.Partition] = slices.Clone(t.parts[at.Partition])
	t.parts[at.Partition][at.Block] = record
}

// Record is what stands at a place, nil for a filemark; ok is false behind the end.
func (t *Tape) Record(at drive.Position) (record []byte, ok bool) {
	if at.Block >= uint64(len(t.parts[at.Partition])) {
		return nil, false
	}
	return t.parts[at.Partition][at.Block], true
}

func (t *Tape) ask(call string) error {
	if t.Fail == nil {
		return nil
	}
	return t.Fail(call)
}

// Locate moves to a position.
func (t *Tape) Locate(_ context.Context, to drive.Position) error {
	if err := t.ask("locate"); err != nil {
		return err
	}
	if to.Partition < 0 || to.Partition >= len(t.parts) {
		return &cairn.Error{Op: "locate on tape", Kind: cairn.KindInvalid, Err: fmt.Errorf("there is no partition %d", to.Partition)}
	}
	end := uint64(len(t.parts[to.Partition]))
	block := min(to.Block, end)
	if to.Partition == t.pos.Partition {
		t.Seeks += max(block, t.pos.Block) - min(block, t.pos.Block)
	}
	t.pos = drive.Position{Partition: to.Partition, Block: block}
	if to.Block > end {
		return drive.ErrEndOfData
	}
	return nil
}

// SeekEnd moves to the end of data.
func (t *Tape) SeekEnd(ctx context.Context, part int) (drive.Position, error) {
	if err := t.Locate(ctx, drive.Position{Partition: part}); err != nil {
		return t.pos, err
	}
	if t.endless[part] {
		return t.pos, &cairn.Error{Op: "find end of data on tape", Kind: cairn.KindDamaged, Err: errors.New("no end mark")}
	}
	t.pos.Block = uint64(len(t.parts[part]))
	return t.pos, nil
}

// Position is where the drive stands.
func (t *Tape) Position(context.Context) (drive.Position, error) { return t.pos, nil }

// SpaceFilemarks moves over filemarks.
func (t *Tape) SpaceFilemarks(_ context.Context, n int) error {
	if err := t.ask("space"); err != nil {
		return err
	}
	blocks := t.parts[t.pos.Partition]
	for ; n > 0; n-- {
		i := slices.IndexFunc(blocks[t.pos.Block:], func(r []byte) bool { return r == nil })
		if i < 0 {
			t.pos.Block = uint64(len(blocks))
			return drive.ErrEndOfData
		}
		t.pos.Block += uint64(i) + 1
	}
	for ; n < 0; n++ {
		b := int(t.pos.Block) - 1
		for b >= 0 && blocks[b] != nil {
			b--
		}
		if b < 0 {
			t.pos.Block = 0
			return &cairn.Error{Op: "space on tape", Kind: cairn.KindNotFound, Err: errors.New("beginning of the partition")}
		}
		t.pos.Block = uint64(b)
	}
	return nil
}

// Read reads one record.
func (t *Tape) Read(_ context.Context, p []byte) (int, error) {
	if err := t.ask("read"); err != nil {
		return 0, err
	}
	blocks := t.parts[t.pos.Partition]
	if t.pos.Block >= uint64(len(blocks)) {
		return 0, drive.ErrEndOfData
	}
	if t.Rot[t.pos] {
		t.pos.Block++
		return 0, &cairn.Error{Op: "read tape record", Kind: cairn.KindIO, Err: errors.New("medium error")}
	}
	record := blocks[t.pos.Block]
	if len(record) > len(p) {
		return 0, &cairn.Error{Op: "read tape record", Kind: cairn.KindInvalid, Err: fmt.Errorf("%d bytes", len(record))}
	}
	t.pos.Block++
	if record == nil {
		return 0, drive.ErrFilemark
	}
	return copy(p, record), nil
}

func (t *Tape) used(part int) (sum int64) {
	for _, r := range t.parts[part] {
		sum += int64(len(r))
	}
	return sum
}

// Write writes one record.
func (t *Tape) Write(ctx context.Context, p []byte) (drive.Warning, error) {
	if err := t.ask("write"); err != nil {
		return 0, err
	}
	if t.Tab {
		return 0, errProtected
	}
	if err := t.raise(ctx); err != nil {
		return 0, err
	}
	capacity := t.Room[t.pos.Partition]
	if capacity > 0 && t.used(t.pos.Partition)+int64(len(p)) > capacity {
		return drive.EarlyWarning, &cairn.Error{Op: "write tape record", Kind: cairn.KindSpace, Err: errors.New("end of medium")}
	}
	t.record(change{at: t.pos, record: append([]byte{}, p...)})
	t.pos.Block++
	if capacity > 0 && capacity-t.used(t.pos.Partition) < capacity/10 {
		return drive.EarlyWarning, nil
	}
	return drive.NoWarning, nil
}

// WriteFilemarks writes filemarks.
func (t *Tape) WriteFilemarks(ctx context.Context, n int, _ bool) error {
	if err := t.ask("filemark"); err != nil {
		return err
	}
	if t.Tab && n > 0 {
		return errProtected
	}
	if err := t.raise(ctx); err != nil {
		return err
	}
	for range n {
		t.record(change{at: t.pos})
		t.pos.Block++
	}
	return nil
}

// raise counts a loading in which something was written, as drives do.
func (t *Tape) raise(ctx context.Context) error {
	if t.raised {
		return nil
	}
	t.raised = true
	v := slices.Clone(t.attributes["0_9"])
	v[3]++
	return t.SetAttribute(ctx, 0, 9, 0, v)
}

// Partitions is how many the medium has.
func (t *Tape) Partitions() int { return len(t.parts) }

// Format erases the medium.
func (t *Tape) Format(_ context.Context, partitions int) error {
	if err := t.ask("format"); err != nil {
		return err
	}
	t.record(change{format: partitions})
	t.pos, t.raised = drive.Position{}, true
	return nil
}

// Attribute reads a medium attribute.
func (t *Tape) Attribute(_ context.Context, part int, id uint16) ([]byte, error) {
	v, ok := t.attributes[fmt.Sprintf("%d_%x", part, id)]
	if !ok {
		return nil, &cairn.Error{Op: "read tape attribute", Kind: cairn.KindNotFound}
	}
	return v, nil
}

// SetAttribute writes a medium attribute.
func (t *Tape) SetAttribute(_ context.Context, part int, id uint16, _ byte, value []byte) error {
	if err := t.ask("attribute"); err != nil {
		return err
	}
	t.attributes = maps.Clone(t.attributes)
	t.record(change{attribute: fmt.Sprintf("%d_%x", part, id), record: slices.Clone(value)})
	return nil
}

// Capacity tells the room.
func (t *Tape) Capacity(_ context.Context, part int) (drive.Capacity, error) {
	c := t.Room[part]
	return drive.Capacity{Total: c, Remaining: max(0, c-c/10-t.used(part))}, nil
}

var errProtected = &cairn.Error{Op: "write tape record", Kind: cairn.KindPermission, Err: errors.New("the medium is write protected")}

// Protected is how the tab stands.
func (t *Tape) Protected() bool { return t.Tab }

// MaxBlock is the longest record.
func (t *Tape) MaxBlock() int { return 1 << 20 }

// Close does nothing.
func (t *Tape) Close() error { return nil }

var _ drive.Drive = (*Tape)(nil)

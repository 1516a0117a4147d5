package crash_test

import (
	"fmt"
	"math/rand/v2"
	"path"
	"slices"
	"strings"

	"cairn/internal/system/volume"
	"cairn/internal/testkit/fakedisk"
)

// kind is what an operation does.
type kind int

const (
	opWrite kind = iota
	opZero
	opDiscard
	opFlush
	opCapture
	opBookmark
	opDegrade
	opDestroy
	opRollback
	opResize
	opRead
	opReopen // close and open
	opKill   // open without closing, as after the death of the process
	opSend   // with a block hash table only, as what follows
	opVerify
)

var kindNames = [...]string{"write", "zero", "discard", "flush", "capture", "bookmark", "degrade", "destroy", "rollback", "resize", "read", "reopen", "kill", "send", "verify"}

// op is one operation. It makes sense in any state: versions are chosen by a
// number among those there are, ranges are clipped, and what cannot be done is
// left out. So any part of a workload is a workload.
type op struct {
	kind   kind
	first  int64 // sector
	count  int64
	fua    bool
	pick   int
	nested *op // runs before call number at of this one
	at     int
}

// nestsAt tells whether the nested operation runs before this call of the outer
// one: for a read before it reads from the head what the nested one changes.
func (o op) nestsAt(n int, c fakedisk.Call) bool {
	if o.kind == opRead && o.nested.kind <= opDiscard {
		return c.Op == fakedisk.OpRead && path.Base(c.Name) == "head" && c.Off <= o.nested.first*sectorSize && o.nested.first*sectorSize < c.Off+c.Len
	}
	return n == o.at
}

func (o op) String() string {
	s := kindNames[o.kind]
	switch o.kind {
	case opWrite, opZero, opDiscard:
		s += fmt.Sprintf(" %d+%d", o.first, o.count)
		if o.fua {
			s += " fua"
		}
	case opResize:
		s += fmt.Sprintf(" to %d", o.first)
	case opRead, opBookmark, opDegrade, opDestroy, opRollback, opSend, opVerify:
		s += fmt.Sprintf(" pick %d", o.pick)
	}
	if o.nested != nil {
		s += fmt.Sprintf(" [before call %d: %v]", o.at, *o.nested)
	}
	return s
}

func list(ops []op) string {
	var b strings.Builder
	for i, o := range ops {
		fmt.Fprintf(&b, "  %2d %v\n", i, o)
	}
	return b.String()
}

// workload is what a seed stands for.
type workload struct {
	seed    uint64
	sectors int64 // size of the volume
	active  int64 // bytes of the engine's active set
	segment int64 // bytes of a segment
	ops     []op
	hashes  bool // with a block hash table
	faults  volume.Fault
	lie     func() bool // which syncs the disk leaves out; nil: none
}

// disk makes the disk that the workload runs on.
func (w workload) disk() *fakedisk.Disk { return lyingDisk(w.lie) }

func lyingDisk(lie func() bool) *fakedisk.Disk {
	d := fakedisk.New()
	if lie != nil {
		d.Lie(lie)
	}
	return d
}

// draw makes a workload. Few hot places, so that operations meet.
func draw(seed uint64, n int) workload {
	rng := rand.New(rand.NewPCG(seed, 0xc4a5))
	w := workload{seed: seed, active: []int64{1, 2, 3, 1 << 10}[rng.IntN(4)] * regionSize,
		segment: []int64{64 << 10, 256 << 10, 64 << 20}[rng.IntN(3)]}
	w.sectors = (3+rng.Int64N(6))*regionSize/sectorSize - rng.Int64N(20)
	spots := make([]int64, 6)
	for i := range spots {
		spots[i] = rng.Int64N(w.sectors)
	}
	often := weights(rng)
	for range n {
		o := one(rng, w, often, spots)
		alone := slices.Contains([]kind{opRollback, opResize, opReopen, opKill}, o.kind)
		if rng.IntN(3) == 0 && !alone {
			inner := one(rng, w, often, spots)
			if rng.IntN(2) == 0 { // where the outer one is, so that they meet
				inner.kind, inner.first, inner.count = opWrite, o.first, o.count
			}
			if inner.kind <= opFlush || inner.kind == opCapture {
				o.nested, o.at = &inner, rng.IntN(12)
			}
		}
		w.ops = append(w.ops, o)
	}
	return w
}

// weights say how often each kind is drawn; each workload has its favourites.
func weights(rng *rand.Rand) []int {
	w := []int{opWrite: 40, opZero: 6, opDiscard: 5, opFlush: 8, opCapture: 14, opBookmark: 3, opDegrade: 4,
		opDestroy: 7, opRollback: 2, opResize: 2, opRead: 5, opReopen: 2, opKill: 2}
	for range 3 {
		w[rng.IntN(len(w))] *= 3
	}
	return w
}

func one(rng *rand.Rand, w workload, weights []int, spots []int64) op {
	total := 0
	for _, n := range weights {
		total += n
	}
	at := rng.IntN(total)
	o := op{pick: rng.IntN(100), fua: rng.IntN(6) == 0}
	for k, n := range weights {
		if at < n {
			o.kind = kind(k)
			break
		}
		at -= n
	}
	o.first = max(0, min(w.sectors-1, spots[rng.IntN(len(spots))]+rng.Int64N(64)-32))
	o.count = []int64{1, perBlock, 2 * perBlock, 5, 37, 100}[rng.IntN(6)]
	if rng.IntN(3) > 0 {
		o.first -= o.first % perBlock
	}
	if o.kind == opResize {
		o.first = max(1, w.sectors-rng.Int64N(w.sectors/4)+rng.Int64N(w.sectors/4))
	}
	return o
}

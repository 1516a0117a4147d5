package fakedisk

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
)

// Entry is one line of the log: a change or a sync that happened.
type Entry struct {
	Op     Op
	Name   string // as opened; the old one of a rename
	To     string // the new name of a rename
	Off    int64
	Len    int64 // of a truncate: the new size
	Failed bool  // a sync that failed
	node   inode
	links  []link
	data   []byte
}

// String is the entry as a line for people.
func (e Entry) String() string {
	s := string(e.Op) + " " + e.Name
	switch e.Op {
	case OpWrite, OpAllocate, OpPunch, OpZero:
		s += fmt.Sprintf(" %d+%d", e.Off, e.Len)
	case OpTruncate:
		s += fmt.Sprintf(" to %d", e.Len)
	case OpRename:
		s += " to " + e.To
	}
	if e.Failed {
		s += " (failed)"
	}
	return s
}

// Subset chooses what survives a power cut of all that was not durable: Nothing,
// Everything, or (any other number) a random part drawn from it as a seed.
type Subset uint64

// The two ends of the choice.
const (
	Nothing    Subset = 0
	Everything Subset = 1
)

// Replay walks a disk's log from its beginning and knows at each entry what was
// durable and what was not. It is used by one goroutine and does not touch the
// disk.
type Replay struct {
	log     []Entry
	first   *tree // as it was when the log began
	pos     int
	durable *tree
	latest  map[inode]*content // as the running system saw each file
	files   map[inode]*undurable
	names   []*naming // not durable yet, in order
	lies    *func() bool
}

// undurable is what a file's last syncs left open.
type undurable struct {
	sectors map[int64][]change // per sector, in order; never an empty list
	sizes   []size             // in order
}

type change struct {
	data  []byte // sectorSize bytes; nil is zeroes
	limbo bool   // a sync of it failed
}

type size struct {
	bytes int64
	limbo bool
}

// naming is a change of names, and which of its folders were synced since.
type naming struct {
	links  []link
	synced map[inode]bool
	folded bool
}

// Replay begins a walk over the log as it is now.
func (d *Disk) Replay() *Replay {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := &Replay{log: slices.Clone(d.log), first: d.first, durable: d.first.clone(), latest: map[inode]*content{}, files: map[inode]*undurable{}, lies: d.lies.Load()}
	for ino, n := range r.durable.nodes {
		if n.content != nil {
			r.latest[ino] = n.content.clone()
		}
	}
	return r
}

// Pos is the number of entries taken so far: the cut that Crash makes.
func (r *Replay) Pos() int { return r.pos }

// Next takes one more entry; false at the end.
func (r *Replay) Next() bool {
	if r.pos == len(r.log) {
		return false
	}
	r.take(r.log[r.pos])
	r.pos++
	return true
}

// Seek takes entries until pos of them are taken.
func (r *Replay) Seek(pos int) {
	for r.pos < pos && r.Next() {
	}
}

func (r *Replay) take(e Entry) {
	switch e.Op {
	case OpCreate, OpMkdir:
		r.durable.last = max(r.durable.last, e.node)
		n := &node{entries: map[string]inode{}}
		if e.Op == OpCreate {
			n = &node{content: &content{}}
			r.latest[e.node] = &content{}
		}
		r.durable.nodes[e.node] = n
		r.names = append(r.names, &naming{links: e.links, synced: map[inode]bool{}})
	case OpRename, OpRemove:
		r.names = append(r.names, &naming{links: e.links, synced: map[inode]bool{}})
	case OpSyncDir:
		r.syncDir(e.node)
	case OpSync:
		r.sync(e)
	default:
		r.change(e)
	}
}

func (r *Replay) undurable(ino inode) *undurable {
	u := r.files[ino]
	if u == nil {
		u = &undurable{sectors: map[int64][]change{}}
		r.files[ino] = u
	}
	return u
}

// change notes what each touched sector, and the size, became.
func (r *Replay) change(e Entry) {
	c, u := r.latest[e.node], r.undurable(e.node)
	before := c.size
	switch e.Op {
	case OpWrite:
		c.write(e.data, e.Off)
		u.note(c, e.Off, e.Len)
	case OpPunch, OpZero:
		u.clear(c, e.Off, e.Len)
	case OpTruncate:
		if e.Len < c.size {
			u.clear(c, e.Len, c.size-e.Len)
		}
		c.truncate(e.Len)
	}
	if c.size != before {
		u.sizes = append(u.sizes, size{bytes: c.size})
	}
}

// clear zeroes a range of c and notes the sectors that may have held something.
func (u *undurable) clear(c *content, off, length int64) {
	end := min(off+length, c.size)
	var held []int64
	for s := range u.sectors {
		if s*sectorSize < end && (s+1)*sectorSize > off {
			held = append(held, s)
		}
	}
	each(off, min(end, c.reach())-off, func(n int64, from, to int) {
		for s := (n*pageSize + int64(from)) / sectorSize; c.at(n) != nil && s*sectorSize < n*pageSize+int64(to); s++ {
			if u.sectors[s] == nil {
				held = append(held, s)
			}
		}
	})
	c.zero(off, length, true)
	for _, s := range held {
		if s*sectorSize >= off && (s+1)*sectorSize <= end {
			u.sectors[s] = append(u.sectors[s], change{})
		} else {
			u.note(c, s*sectorSize, sectorSize)
		}
	}
}

// note appends what the sectors of a range are now.
func (u *undurable) note(c *content, off, length int64) {
	first, last := off/sectorSize, (off+length+sectorSize-1)/sectorSize
	buf := make([]byte, (last-first)*sectorSize)
	c.read(buf, first*sectorSize)
	for s := first; s < last; s++ {
		u.sectors[s] = append(u.sectors[s], change{data: buf[(s-first)*sectorSize:][:sectorSize]})
	}
}

// sync makes a file's changes durable, or leaves them in limbo.
func (r *Replay) sync(e Entry) {
	u := r.files[e.node]
	if u == nil {
		return
	}
	if e.Failed {
		u.forsake()
		return
	}
	base := r.durable.nodes[e.node].content
	for s, changes := range u.sectors {
		if kept := fold(base, s, changes); len(kept) > 0 {
			u.sectors[s] = kept
		} else {
			delete(u.sectors, s)
		}
	}
	for i := len(u.sizes) - 1; i >= 0; i-- {
		if !u.sizes[i].limbo {
			base.truncate(u.sizes[i].bytes)
			u.sizes = u.sizes[i+1:]
			break
		}
	}
	if len(u.sectors) == 0 && len(u.sizes) == 0 {
		delete(r.files, e.node)
	}
}

// fold applies the last change that a sync covers and returns those after it.
func fold(base *content, sector int64, changes []change) []change {
	for i := len(changes) - 1; i >= 0; i-- {
		if !changes[i].limbo {
			put(base, sector, changes[i].data)
			return changes[i+1:]
		}
	}
	return changes
}

// forsake marks everything open as beyond the reach of later syncs.
func (u *undurable) forsake() {
	for _, changes := range u.sectors {
		for i := range changes {
			changes[i].limbo = true
		}
	}
	for i := range u.sizes {
		u.sizes[i].limbo = true
	}
}

// put stores one sector without a say about the size.
func put(c *content, sector int64, data []byte) {
	size := c.size
	if data == nil {
		data = make([]byte, sectorSize)
	}
	c.write(data, sector*sectorSize)
	c.size = size
}

// syncDir makes the names in a folder durable.
func (r *Replay) syncDir(dir inode) {
	for i, n := range r.names {
		if n.folded || !n.touches(dir) {
			continue
		}
		n.synced[dir] = true
		if n.complete() {
			r.foldName(i)
		}
	}
	r.names = slices.DeleteFunc(r.names, func(n *naming) bool { return n.folded })
}

func (n *naming) touches(dir inode) bool {
	return slices.ContainsFunc(n.links, func(l link) bool { return l.dir == dir })
}

func (n *naming) complete() bool {
	return !slices.ContainsFunc(n.links, func(l link) bool { return !n.synced[l.dir] })
}

// foldName makes a change of names durable, after those it stands on.
func (r *Replay) foldName(i int) {
	if r.names[i].folded {
		return
	}
	for j := range i {
		if !r.names[j].folded && r.names[j].meets(r.names[i].links) {
			r.foldName(j)
		}
	}
	r.names[i].folded = true
	r.durable.apply(r.names[i].links)
}

func (n *naming) meets(links []link) bool {
	return slices.ContainsFunc(n.links, func(a link) bool {
		return slices.ContainsFunc(links, func(b link) bool { return a.slot() == b.slot() })
	})
}

// Crash makes a disk as a power cut after the entries taken so far could have left
// it. What chooses among the possible ones. The new disk has a log of its own.
func (r *Replay) Crash(what Subset) *Disk {
	rng := rand.New(rand.NewPCG(uint64(what), uint64(r.pos)))
	t := r.durable.clone()
	r.chooseNames(t, what, rng)
	t.prune()
	for _, ino := range slices.Sorted(maps.Keys(r.files)) {
		if n := t.nodes[ino]; n != nil {
			r.files[ino].choose(n.content, what, rng)
		}
	}
	d := fromTree(t)
	d.lies.Store(r.lies)
	return d
}

// Kill makes a disk as the death of the process after the entries taken so far
// leaves it: nothing is lost, and what was not durable is not durable still. Its
// log begins with those entries.
func (r *Replay) Kill() *Disk {
	t := r.durable.clone()
	for _, n := range r.names {
		t.apply(n.links)
	}
	t.prune()
	for ino, n := range t.nodes {
		if n.content != nil {
			n.content = r.latest[ino].clone()
		}
	}
	d := &Disk{tree: t, first: r.first.clone(), log: slices.Clone(r.log[:r.pos]), capacity: 1 << 40, handles: map[inode]int{}}
	d.lies.Store(r.lies)
	return d
}

func (r *Replay) chooseNames(t *tree, what Subset, rng *rand.Rand) {
	lost := map[slot]bool{}
	likely := likelihood(rng)
	for _, n := range r.names {
		keep := what == Everything || what != Nothing && rng.Float64() < likely
		for _, l := range n.links {
			keep = keep && !lost[l.slot()]
		}
		if keep {
			t.apply(n.links)
			continue
		}
		for _, l := range n.links {
			lost[l.slot()] = true
		}
	}
}

// likelihood is how much of something survives: often nearly nothing or nearly
// all, for single losses are what breaks software.
func likelihood(rng *rand.Rand) float64 {
	return []float64{0.02, 0.3, 0.5, 0.7, 0.98}[rng.IntN(5)]
}

// choose applies to a file's durable content what survived of the rest.
func (u *undurable) choose(c *content, what Subset, rng *rand.Rand) {
	if what == Nothing {
		return
	}
	if n := len(u.sizes); n > 0 {
		if pick := pick(n, what, rng, 0.5); pick > 0 {
			c.truncate(u.sizes[pick-1].bytes)
		}
	}
	likely := likelihood(rng)
	for _, s := range slices.Sorted(maps.Keys(u.sectors)) {
		if s*sectorSize >= c.size {
			continue
		}
		changes := u.sectors[s]
		if pick := pick(len(changes), what, rng, likely); pick > 0 {
			put(c, s, changes[pick-1].data)
		}
	}
	if tail := c.size % pageSize; tail != 0 { // what lies past the size reads as zeroes, should it grow
		c.zero(c.size, pageSize-tail, false)
	}
}

// pick returns which of n changes is the last that survived, 0 for none.
func pick(n int, what Subset, rng *rand.Rand, likely float64) int {
	switch {
	case what == Everything:
		return n
	case rng.Float64() >= likely:
		return rng.IntN(n) // not the newest
	}
	return n
}

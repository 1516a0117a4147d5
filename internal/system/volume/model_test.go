package volume_test

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"cairn"
	"cairn/internal/system/volume"
	"cairn/internal/testkit/fakedisk"
)

// point is a version in the model: what the head was, and for each later moment
// which blocks were written since.
type point struct {
	id      cairn.VersionID
	content []byte // what the head was
	data    bool   // a snapshot: the content can be read
	size    int64
	changed map[int64]bool // since then
}

// model is a dumb volume: whole copies and maps.
type model struct {
	rt     *rapid.T
	disk   *fakedisk.Disk
	o      volume.Options
	v      *volume.Volume
	head   []byte
	points []*point
	names  int
}

func (m *model) no(err error) {
	if err != nil {
		m.rt.Helper()
		m.rt.Fatal(err)
	}
}

func (m *model) open() {
	var err error
	m.v, err = volume.Open(ctx, m.disk, m.o)
	m.no(err)
}

func (m *model) touch(off, length int64) {
	for _, p := range m.points {
		for b := off / cairn.BlockSize; b*cairn.BlockSize < off+length; b++ {
			p.changed[b] = true
		}
	}
}

func (m *model) span() (off, length int64) {
	size := int64(len(m.head)) / 512
	off = rapid.Int64Range(0, size-1).Draw(m.rt, "off")
	length = min(rapid.SampledFrom([]int64{1, 7, 8, 16, 64, 700, 3000}).Draw(m.rt, "len"), size-off)
	if rapid.Bool().Draw(m.rt, "align") {
		off = off / 8 * 8
		length = min(max(length/8*8, 8), size-off)
	}
	return off * 512, length * 512
}

func (m *model) write() {
	off, length := m.span()
	d := m.v.Device()
	defer func() { m.no(d.Close()) }()
	p := bytes.Repeat([]byte{byte(rapid.IntRange(0, 255).Draw(m.rt, "fill"))}, int(length))
	switch rapid.IntRange(0, 4).Draw(m.rt, "how") {
	case 0:
		clear(p)
		m.no(d.WriteZeroes(ctx, off, length, cairn.MayUnmap))
	case 1:
		clear(p)
		m.no(d.WriteZeroes(ctx, off, length, cairn.FUA))
	case 2:
		m.no(d.Discard(ctx, off, length))
		m.no(d.ReadAt(ctx, p, off)) // old content or zeroes
		for i, b := range p {
			if b != 0 && b != m.head[off+int64(i)] {
				m.rt.Fatalf("byte %d is neither old nor zero after a discard", off+int64(i))
			}
		}
	default:
		m.no(d.WriteAt(ctx, p, off, 0))
	}
	old := bytes.Clone(m.head)
	copy(m.head[off:], p)
	for b := range differ(old, m.head) {
		m.touch(b*cairn.BlockSize, 1)
	}
}

func (m *model) snapshot() {
	m.names++
	s, err := m.v.Snapshot(ctx, fmt.Sprintf("@s%d", m.names))
	m.no(err)
	m.points = append(m.points, &point{s.VersionID, bytes.Clone(m.head), true, s.Size, map[int64]bool{}})
}

func (m *model) pick() (int, *point) {
	if len(m.points) == 0 {
		m.rt.Skip("no version")
	}
	i := rapid.IntRange(0, len(m.points)-1).Draw(m.rt, "version")
	return i, m.points[i]
}

func (m *model) destroy() {
	i, p := m.pick()
	errs, err := m.v.Destroy(ctx, []cairn.VersionID{p.id})
	m.no(errors.Join(append(errs, err)...))
	m.points = append(m.points[:i:i], m.points[i+1:]...)
}

func (m *model) bookmark() {
	i, p := m.pick()
	if !p.data {
		m.rt.Skip("a bookmark")
	}
	m.names++
	degrade := rapid.Bool().Draw(m.rt, "degrade")
	b, err := m.v.Bookmark(ctx, p.id, fmt.Sprintf("#b%d", m.names), degrade)
	m.no(err)
	mark := &point{b.VersionID, p.content, false, p.size, map[int64]bool{}}
	for k := range p.changed {
		mark.changed[k] = true
	}
	if degrade {
		m.points[i] = mark
		return
	}
	m.points = append(m.points[:i:i], append([]*point{mark}, m.points[i:]...)...)
}

func (m *model) rollback() {
	_, p := m.pick()
	if !p.data {
		m.rt.Skip("a bookmark")
	}
	m.no(m.v.Rollback(ctx, p.id, true))
	m.head = bytes.Clone(p.content)
	st := m.v.Listing("db", cairn.Want{Versions: true})
	left := map[string]bool{}
	for _, v := range st.Versions {
		left[v.Name] = true
	}
	var kept []*point
	for _, q := range m.points {
		if left[q.id.Name] {
			kept = append(kept, q)
		}
	}
	for _, q := range kept { // what counts as changed is at least what differs, whatever the sizes
		n := max(len(q.content), len(m.head))
		q.changed = differ(pad(q.content, n), pad(m.head, n))
	}
	m.points = kept
}

func pad(p []byte, n int) []byte { return append(bytes.Clone(p), make([]byte, n-len(p))...) }

func differ(a, b []byte) map[int64]bool {
	set := map[int64]bool{}
	for off := 0; off < max(len(a), len(b)); off += cairn.BlockSize {
		if !bytes.Equal(clip(a, off), clip(b, off)) {
			set[int64(off/cairn.BlockSize)] = true
		}
	}
	return set
}

func clip(p []byte, off int) []byte {
	return p[min(off, len(p)):min(off+cairn.BlockSize, len(p))]
}

func (m *model) resize() {
	size := rapid.Int64Range(1, 1600).Draw(m.rt, "size") * 512
	old := int64(len(m.head))
	m.no(m.v.Resize(ctx, size))
	if size < old {
		for off := size; off < old; off++ {
			if m.head[off] != 0 {
				m.touch(off, 1)
			}
		}
		m.head = bytes.Clone(m.head[:size])
		return
	}
	m.head = append(m.head, make([]byte, size-old)...)
}

func (m *model) reopen() {
	if rapid.Bool().Draw(m.rt, "clean") {
		m.no(m.v.Close())
	}
	m.open() // without Close: as after a kill
}

// check compares everything that can be read. exact wants change sets without
// excess; after a kill there may be some.
func (m *model) check(*rapid.T) {
	d := m.v.Device()
	defer func() { m.no(d.Close()) }()
	got := make([]byte, d.Size())
	m.no(d.ReadAt(ctx, got, 0))
	if !bytes.Equal(got, m.head) {
		m.rt.Fatalf("the head differs at %v", differ(got, m.head))
	}
	for _, p := range m.points {
		if p.data {
			m.checkSnapshot(p)
		}
		m.checkChanged(p)
	}
}

func (m *model) checkSnapshot(p *point) {
	r, err := m.v.OpenVersion(ctx, p.id)
	m.no(err)
	defer func() { m.no(r.Close()) }()
	got := make([]byte, r.Size())
	m.no(r.ReadAt(ctx, got, 0))
	if !bytes.Equal(got, p.content) {
		m.rt.Fatalf("%s differs at %v", p.id, differ(got, p.content))
	}
	next := int64(0)
	for e, err := range r.Extents(ctx, 0, r.Size()) {
		m.no(err)
		if e.Offset != next {
			m.rt.Fatalf("extents of %s: %d after %d", p.id, e.Offset, next)
		}
		next = e.End()
		if e.Kind != cairn.ExtentData && len(bytes.Trim(p.content[e.Offset:e.End()], "\x00")) > 0 {
			m.rt.Fatalf("extents of %s: data at %d is said to be none", p.id, e.Offset)
		}
	}
	if next != r.Size() {
		m.rt.Fatalf("extents of %s end at %d", p.id, next)
	}
}

func (m *model) checkChanged(p *point) {
	got := map[int64]bool{}
	for e, err := range m.v.Changed(ctx, p.id, cairn.VersionID{}) {
		m.no(err)
		for b := e.Offset / cairn.BlockSize; b*cairn.BlockSize < e.End(); b++ {
			got[b] = true
		}
	}
	for b := range p.changed {
		if b*cairn.BlockSize < int64(len(m.head)) && !got[b] {
			m.rt.Fatalf("changed since %s misses block %d", p.id, b)
		}
	}
	for b := range differ(p.content, m.head) {
		if b*cairn.BlockSize < int64(len(m.head)) && !got[b] {
			m.rt.Fatalf("changed since %s misses block %d, which differs", p.id, b)
		}
	}
}

// Random operations against the model, with tiny segments and a tiny active set,
// so that rotation, checkpoints and recovery are exercised all the time.
func TestVolumeAgainstModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := &model{rt: rt, disk: fakedisk.New(), head: make([]byte, 700<<10+512)}
		m.o = volume.Options{Name: "db", SegmentBytes: 96 << 10, ActiveBytes: 1}
		m.no(volume.Create(ctx, m.disk, volume.CreateOptions{Size: int64(len(m.head))}))
		m.open()
		steps := map[string]func(*rapid.T){"": m.check}
		for name, f := range map[string]func(){"write": m.write, "write2": m.write, "write3": m.write, "snapshot": m.snapshot, "destroy": m.destroy,
			"bookmark": m.bookmark, "rollback": m.rollback, "resize": m.resize, "reopen": m.reopen} {
			steps[name] = func(rt *rapid.T) { m.rt = rt; f() }
		}
		rt.Repeat(steps)
		m.rt = rt
		m.no(m.v.Close())
	})
}

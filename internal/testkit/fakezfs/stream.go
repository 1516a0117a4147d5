package fakezfs

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"slices"
	"strings"

	"cairn"
	"cairn/internal/format/zfsstream"
)

// A stream of the fake has one object with all content. The layout of records is
// that of docs/formats/zfsstream.md, written here a second time, so that the codec
// and the fake check each other.
const (
	object         = 1
	blockBytes     = 4096
	sector         = 512
	runBlocks      = 32 // blocks of one write record at most
	recordBytes    = 312
	magic          = 0x2F5bacbac
	typeBegin      = 0
	typeObject     = 1
	typeWrite      = 3
	typeFree       = 4
	typeEnd        = 5
	featureLZ4     = 1 << 17
	featureCut     = 1 << 20 // resuming
	featureRaw     = 1 << 24
	typeFile       = 19
	typeVolume     = 23
	typeProperties = 24
	properties     = 2
	zapMagic       = 1<<63 + 3
	zapEntry       = 64
	toEnd          = 1<<64 - 1
	headerSingle   = 1
	headerMany     = 2
)

func guidOf(g uint64) cairn.GUID { return cairn.GUID(g) }

// encoder writes records with their running checksum.
type encoder struct {
	w    io.Writer
	sum  [4]uint64
	guid uint64
	err  error
}

func (e *encoder) add(p []byte) {
	for ; len(p) >= 4; p = p[4:] {
		e.sum[0] += uint64(binary.LittleEndian.Uint32(p))
		e.sum[1] += e.sum[0]
		e.sum[2] += e.sum[1]
		e.sum[3] += e.sum[2]
	}
}

func (e *encoder) write(p []byte) {
	if e.err == nil {
		_, e.err = e.w.Write(p)
	}
}

// record writes one record; fill sets its fields, counted from its eighth byte.
func (e *encoder) record(kind uint32, payload []byte, fill func(f []byte)) {
	r := make([]byte, recordBytes)
	binary.LittleEndian.PutUint32(r, kind)
	fill(r[8:])
	if kind == typeBegin {
		binary.LittleEndian.PutUint32(r[4:], uint32(len(payload)))
		e.sum = [4]uint64{}
		e.add(r)
	} else {
		e.add(r[:recordBytes-32])
		for i, s := range e.sum {
			binary.LittleEndian.PutUint64(r[recordBytes-32+8*i:], s)
		}
		e.add(r[recordBytes-32:])
	}
	e.write(r)
	e.add(payload)
	e.write(payload)
}

func put(f []byte, at int, v uint64) { binary.LittleEndian.PutUint64(f[at:], v) }

func (e *encoder) begin(kind, features uint64, volume bool, created int64, to, from uint64, name string, details []byte) {
	e.guid = to
	e.record(typeBegin, details, func(f []byte) {
		put(f, 0, magic)
		put(f, 8, kind|features<<2)
		put(f, 16, uint64(created))
		f[24] = map[bool]byte{true: 3, false: 2}[volume]
		put(f, 32, to)
		put(f, 40, from)
		copy(f[48:], name)
	})
}

func (e *encoder) end() {
	sum := e.sum
	e.record(typeEnd, nil, func(f []byte) {
		for i, s := range sum {
			put(f, 8*i, s)
		}
		put(f, 32, e.guid)
	})
}

// many writes the header of a compound stream. The record that ends it has the sum
// of all before it, and none of its own.
func (e *encoder) many(name string) {
	e.begin(headerMany, 0, false, 0, 0, 0, name, nil)
	end := make([]byte, recordBytes)
	binary.LittleEndian.PutUint32(end, typeEnd)
	for i, s := range e.sum {
		put(end, 8+8*i, s)
	}
	e.write(end)
}

// zeroes is a block without content.
var zeroes [blockBytes]byte

// blockAt is the block of a content that may end before it; only one that ends
// inside is copied.
func blockAt(p []byte, off int64) []byte {
	switch {
	case off >= int64(len(p)):
		return zeroes[:]
	case off+blockBytes <= int64(len(p)):
		return p[off : off+blockBytes]
	}
	return append(bytes.Clone(p[off:]), zeroes[int64(len(p))-off:]...)
}

// content writes what differs from the base, from the offset on.
func (e *encoder) content(base, now []byte, from int64) {
	size := int64(max(len(base), len(now)))
	for off := from; off < size; off += blockBytes {
		var run []byte
		for at := off; at < size && len(run) < runBlocks*blockBytes; at += blockBytes {
			b := blockAt(now, at)
			if bytes.Equal(b, blockAt(base, at)) || bytes.Equal(b, zeroes[:]) {
				break
			}
			run = append(run, b...)
		}
		switch {
		case run != nil:
			e.record(typeWrite, run, func(f []byte) {
				put(f, 0, object)
				put(f, 16, uint64(off))
				put(f, 24, uint64(len(run)))
				put(f, 32, e.guid)
			})
			off += int64(len(run)) - blockBytes
		case !bytes.Equal(blockAt(now, off), blockAt(base, off)):
			e.free(object, uint64(off), blockBytes)
		}
	}
}

// part is one snapshot of a stream.
type part struct {
	name     string
	created  int64
	volume   bool
	to, from uint64
	base     []byte
	content  []byte
	size     int64
	offset   int64
	features uint64
}

func (p part) write(e *encoder) {
	var details []byte
	if p.features&featureCut != 0 {
		details = resumeDetails(p.offset)
	}
	e.begin(headerSingle, p.features, p.volume, p.created, p.to, p.from, p.name, details)
	kind := uint32(typeFile)
	if p.volume {
		kind = typeVolume
	}
	e.object(object, kind, blockBytes)
	e.free(object, uint64(max(p.size, int64(len(p.content)))), toEnd)
	e.content(p.base, p.content, p.offset)
	if p.volume { // its size stands in an object of its own
		e.object(properties, typeProperties, sector)
		block := make([]byte, sector)
		put(block, 0, zapMagic)
		put(block, zapEntry, uint64(p.size))
		copy(block[zapEntry+14:], "size")
		e.record(typeWrite, block, func(f []byte) {
			put(f, 0, properties)
			f[8] = typeProperties
			put(f, 24, sector)
			put(f, 32, e.guid)
		})
	}
	e.end()
}

func (e *encoder) object(number uint64, kind, size uint32) {
	e.record(typeObject, nil, func(f []byte) {
		put(f, 0, number)
		binary.LittleEndian.PutUint32(f[8:], kind)
		binary.LittleEndian.PutUint32(f[16:], size)
		put(f, 32, e.guid)
	})
}

func (e *encoder) free(number, off, length uint64) {
	e.record(typeFree, nil, func(f []byte) {
		put(f, 0, number)
		put(f, 8, off)
		put(f, 16, length)
		put(f, 24, e.guid)
	})
}

// resumeDetails is the list of a resumed stream's header, as it lies in memory: each
// entry is its size, the length of its name, a count, a type, the name and a number.
func resumeDetails(off int64) []byte {
	b := []byte{0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0}
	for _, p := range []struct {
		name  string
		value uint64
	}{{"resume_object", object}, {"resume_offset", uint64(off)}} {
		e := make([]byte, 40)
		copy(e, []byte{40, 0, 0, 0, byte(len(p.name) + 1), 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0})
		copy(e[16:], p.name)
		put(e, 32, p.value)
		b = append(b, e...)
	}
	return append(b, 0, 0, 0, 0)
}

// send prepares the parts under the lock, and writes them without it.
func (c *command) send() {
	var parts []part
	var lock *os.File
	c.with(false, func() {
		parts = c.parts()
		if c.status == 0 {
			lock = c.reading(parts[len(parts)-1].name)
		}
	})
	if c.status != 0 {
		return
	}
	out := bufio.NewWriterSize(c.out, 128<<10)
	e := &encoder{w: out}
	if c.has("I") || c.has("p") || c.has("R") {
		e.many(parts[len(parts)-1].name)
		for _, p := range parts {
			p.write(e)
		}
		last := make([]byte, recordBytes)
		binary.LittleEndian.PutUint32(last, typeEnd)
		e.write(last)
	} else {
		parts[0].write(e)
	}
	if err := errors.Join(e.err, out.Flush(), lock.Close()); err != nil {
		c.fail(1, "warning: cannot send '%s': %v", parts[0].name, err)
	}
}

// reading marks a snapshot as being sent until the file is closed.
func (c *command) reading(name string) *os.File {
	f, err := os.OpenFile(sendingFile(c.dir, name), os.O_RDWR|os.O_CREATE, 0o600)
	if err == nil {
		err = lockFile(f, shared)
	}
	if err != nil {
		c.fail(1, "fakezfs: %v", err)
	}
	return f
}

// parts finds what is to be sent.
func (c *command) parts() []part {
	if c.has("t") {
		return c.resumed()
	}
	name := c.args[0]
	to := c.find(name)
	if to == nil {
		c.fail(1, "cannot open '%s': dataset does not exist", name)
		return nil
	}
	dataset := dataset0(name)
	d := c.Datasets[dataset]
	var features uint64
	if c.has("w") {
		features = featureRaw
	}
	if !c.has("i") && !c.has("I") {
		return []part{c.part(dataset, d, nil, 0, to, features)}
	}
	base := c.value("i") + c.value("I")
	of := d
	if i := strings.IndexAny(base, "@#"); i > 0 {
		if base[:i] != dataset && d.Origin != base {
			c.fail(1, "cannot send '%s': not an earlier snapshot from the same fs", name)
			return nil
		}
		of, base = c.Datasets[base[:i]], base[i:]
	}
	from, content, txg := c.base(of, base)
	if from == 0 {
		c.fail(1, "cannot open '%s%s': dataset does not exist", dataset, base)
		return nil
	}
	if c.has("i") {
		return []part{c.part(dataset, d, content, from, to, features)}
	}
	var parts []part
	for _, v := range d.Snapshots {
		if v.Txg > txg && v.Txg <= to.Txg {
			p := c.part(dataset, d, content, from, v, features)
			parts, from, content = append(parts, p), v.GUID, p.content
		}
	}
	return parts
}

// base is a snapshot or bookmark to stand on.
func (c *command) base(d *dataset, name string) (guid uint64, content []byte, txg uint64) {
	if v := d.snapshot(strings.TrimPrefix(name, "@")); v != nil && name[0] == '@' {
		content, err := c.blob(v.Content)
		if err != nil {
			c.fail(1, "fakezfs: %v", err)
		}
		return v.GUID, content, v.Txg
	}
	if v := d.bookmark(strings.TrimPrefix(name, "#")); v != nil && name[0] == '#' {
		content, err := c.blob(v.Content)
		if err != nil {
			c.fail(1, "fakezfs: %v", err)
		}
		return v.GUID, content, v.Txg
	}
	return 0, nil, 0
}

func (c *command) part(dataset string, d *dataset, base []byte, from uint64, to *snapshot, features uint64) part {
	content, err := c.blob(to.Content)
	if err != nil {
		c.fail(1, "fakezfs: %v", err)
	}
	return part{name: dataset + "@" + to.Name, created: to.Created, volume: d.Kind == "volume", to: to.GUID, from: from,
		base: base, content: content, size: to.Size, features: features | featureLZ4}
}

func (c *command) resumed() []part {
	t, err := zfsstream.ParseToken(c.value("t"))
	if err != nil {
		c.fail(255, "cannot resume send: resume token is corrupt (incorrect checksum)")
		return nil
	}
	dataset := dataset0(t.ToName)
	to := c.find(t.ToName)
	if to == nil || to.GUID != uint64(t.ToGUID) {
		c.fail(255, "cannot resume send: '%s' used in the initial send no longer exists", t.ToName)
		return nil
	}
	d := c.Datasets[dataset]
	var content []byte
	if t.FromGUID != 0 {
		all := d.Snapshots
		if o := c.find(d.Origin); o != nil {
			all = append(slices.Clip(all), o)
		}
		i := slices.IndexFunc(all, func(v *snapshot) bool { return v.GUID == uint64(t.FromGUID) })
		if i < 0 {
			c.fail(255, "cannot resume send: incremental source 0x%x no longer exists", uint64(t.FromGUID))
			return nil
		}
		if content, err = c.blob(all[i].Content); err != nil {
			c.fail(1, "fakezfs: %v", err)
		}
	}
	p := c.part(dataset, d, content, uint64(t.FromGUID), to, featureCut)
	p.offset = int64(t.Offset)
	return []part{p}
}

package fakezfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"cairn"
	"cairn/internal/format/zfsstream"
)

// receive reads the stream without the lock, and takes it for each part.
func (c *command) receive() {
	if c.has("A") {
		c.with(true, c.abort)
		return
	}
	in, err := zfsstream.NewReader(c.in)
	if err != nil {
		c.fail(1, "cannot receive: failed to read from stream")
		return
	}
	for {
		if !in.Header().Compound {
			c.one(in)
			if c.status != 0 {
				return
			}
		}
		// The next record is the header of a substream, an END, or EOF.
		for {
			rec, err := in.Next()
			if errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				return
			}
			if err != nil {
				c.fail(1, "cannot receive: invalid stream (%v)", err)
				return
			}
			if rec.Type == zfsstream.TypeBegin {
				break
			}
		}
	}
}

func (c *command) abort() {
	d := c.Datasets[c.args[0]]
	switch {
	case d == nil:
		c.fail(2, "cannot open '%s': dataset does not exist\nusage:", c.args[0])
	case d.Partial == nil:
		c.fail(1, "'%s' does not have any resumable receive state to abort", c.args[0])
	case len(d.Snapshots) == 0:
		if o := c.find(d.Origin); o != nil {
			o.Clones--
		}
		delete(c.Datasets, c.args[0])
	default:
		d.Partial = nil
	}
}

// arrival is one substream on its way in.
type arrival struct {
	header  zfsstream.Header
	dataset string
	origin  string // of a clone
	content []byte
	size    int64
	offset  int64
	partial bool // goes on with a cut one
}

// one receives one substream.
func (c *command) one(in *zfsstream.Reader) {
	a := &arrival{header: in.Header(), dataset: c.args[0], origin: c.assigned("origin")}
	done := false
	c.with(false, func() { done = c.admit(a) })
	if done || c.status != 0 {
		if done {
			drain(in)
		}
		return
	}
	for {
		rec, err := in.Next()
		if err != nil {
			c.cut(a)
			return
		}
		if rec.Type == zfsstream.TypeEnd {
			c.with(true, func() { c.commit(a) })
			return
		}
		a.apply(rec)
		if full := c.full(a); full {
			c.keep(a)
			c.fail(1, "cannot receive new filesystem stream: out of space")
			return
		}
	}
}

// apply takes what a record says about the content, or about a volume's size.
func (a *arrival) apply(rec zfsstream.Record) {
	switch {
	case rec.Type == zfsstream.TypeWrite && rec.Object == object:
		a.put(int64(rec.Offset), rec.Payload)
	case rec.Type == zfsstream.TypeWrite && rec.Object == properties:
		a.size = int64(binary.LittleEndian.Uint64(rec.Payload[zapEntry:]))
	case rec.Type == zfsstream.TypeFree && rec.Object == object && rec.Length == toEnd:
		a.content = a.content[:min(uint64(len(a.content)), rec.Offset)]
	case rec.Type == zfsstream.TypeFree && rec.Object == object:
		a.put(int64(rec.Offset), make([]byte, rec.Length))
	}
}

func drain(in *zfsstream.Reader) {
	for {
		if rec, err := in.Next(); err != nil || rec.Type == zfsstream.TypeEnd {
			return
		}
	}
}

func (a *arrival) put(off int64, p []byte) {
	if need := off + int64(len(p)); int64(len(a.content)) < need {
		a.content = append(a.content, make([]byte, need-int64(len(a.content)))...)
	}
	copy(a.content[off:], p)
	a.offset = off + int64(len(p))
}

func (c *command) full(a *arrival) bool { return c.Limited && int64(len(a.content)) > c.Full }

// admit decides as zfs receive does. It reports whether the snapshot is there
// already, which zfs passes over in silence.
func (c *command) admit(a *arrival) (there bool) {
	h, name := a.header, a.dataset
	d := c.Datasets[name]
	resuming := h.Features&featureCut != 0
	var newest *snapshot
	if d != nil {
		newest = d.newest()
	}
	switch {
	case h.FromGUID == 0 && d == nil:
		if c.Datasets[parent(name)] == nil {
			c.fail(1, "cannot open '%s': dataset does not exist\ncannot receive new filesystem stream: unable to restore to destination", parent(name))
		}
	case h.FromGUID != 0 && d == nil && a.origin != "":
		v := c.find(a.origin)
		switch {
		case v == nil:
			c.fail(1, "cannot receive new filesystem stream: local origin for clone %s@%s does not exist", name, h.Snapshot().Name)
		case v.GUID != uint64(h.FromGUID):
			c.fail(1, "cannot receive: local origin for clone %s@%s does not match its stream", name, h.Snapshot().Name)
		default:
			a.content, _ = c.blob(v.Content)
		}
	case h.FromGUID != 0 && a.origin != "" && !resuming:
		c.fail(1, "cannot receive new filesystem stream: invalid backup stream") // a clone takes no dataset's place
	case h.FromGUID != 0 && d == nil:
		c.fail(1, "cannot receive incremental stream: destination '%s' does not exist", name)
	case resuming && (d.Partial == nil || d.Partial.ToGUID != uint64(h.ToGUID)):
		c.fail(1, "cannot receive resume stream: kernel modules must be upgraded to receive this stream or the token does not match.")
	case resuming:
		a.partial, a.offset = true, d.Partial.Offset
		a.content, _ = c.blob(d.Partial.Content)
	case h.FromGUID == 0 && newest != nil:
		c.fail(1, "cannot receive new filesystem stream: destination has snapshots (eg. %s@%s)\nmust destroy them to overwrite it", name, newest.Name)
	case h.FromGUID == 0 && !c.has("F"):
		c.fail(1, "cannot receive new filesystem stream: destination '%s' exists\nmust specify -F to overwrite it", name)
	case h.FromGUID == 0:
		if (d.Encrypted != "off") != (h.Features&featureRaw != 0) {
			c.fail(1, "cannot receive new filesystem stream: zfs receive -F cannot be used to destroy an encrypted filesystem or overwrite an unencrypted one with an encrypted one")
		}
	case d.snapshot(strings.TrimPrefix(h.Snapshot().Name, "@")) != nil && d.snapshot(strings.TrimPrefix(h.Snapshot().Name, "@")).GUID == uint64(h.ToGUID):
		return true
	case newest == nil || newest.GUID != uint64(h.FromGUID):
		c.fail(1, "cannot receive incremental stream: most recent snapshot of %s does not\nmatch incremental source", name)
	case d.Modified && !c.has("F"):
		c.fail(1, "cannot receive incremental stream: destination %s has been modified\nsince most recent snapshot", name)
	case d.Partial != nil:
		c.fail(1, "cannot receive incremental stream: destination %s contains partially-complete state from \"zfs receive -s\".", name)
	default:
		a.content, _ = c.blob(newest.Content)
	}
	return false
}

// cut is the end of a stream that is not whole.
func (c *command) cut(a *arrival) {
	kind := "new filesystem"
	if a.header.FromGUID != 0 {
		kind = "incremental"
	}
	if !c.has("s") {
		c.fail(1, "cannot receive %s stream: incomplete stream", kind)
		return
	}
	if a.offset == 0 {
		c.fail(1, "cannot receive %s stream: checksum mismatch or incomplete stream.", kind)
		return
	}
	c.keep(a)
	c.fail(1, "cannot receive %s stream: checksum mismatch or incomplete stream.\nPartially received snapshot is saved.", kind)
}

func (c *command) keep(a *arrival) {
	c.with(true, func() {
		d := c.Datasets[a.dataset]
		if d == nil || d.newest() == nil && !a.partial {
			d = c.made(a)
		}
		h := a.header
		p := &partial{ToGUID: uint64(h.ToGUID), FromGUID: uint64(h.FromGUID), Name: h.Snapshot().Name, Content: c.store(a.content), Offset: a.offset}
		p.Token = p.token(h.ToName)
		d.Partial = p
	})
}

// assigned is the value of a property that -o gives.
func (c *command) assigned(property string) string {
	for _, p := range c.flags["o"] {
		if value, is := strings.CutPrefix(p, property+"="); is {
			return value
		}
	}
	return ""
}

// made makes the dataset of a full stream, in the place of what was there.
func (c *command) made(a *arrival) *dataset {
	old := c.Datasets[a.dataset]
	d := c.make(a.dataset, map[bool]string{true: "volume", false: "filesystem"}[a.header.Kind == cairn.KindZvol])
	if old != nil {
		d.Props = old.Props
	}
	if a.header.Features&featureRaw != 0 {
		d.Encrypted = "aes-256-gcm"
	}
	if o := c.find(a.origin); o != nil {
		d.Origin, d.Size = a.origin, o.Size
		o.Clones++
	}
	for _, p := range c.flags["o"] {
		if name, value, _ := strings.Cut(p, "="); name != "origin" {
			d.assign(name, value)
		}
	}
	for _, name := range c.flags["x"] {
		delete(d.Props, name)
	}
	return d
}

func (c *command) commit(a *arrival) {
	d := c.Datasets[a.dataset]
	if d == nil || d.newest() == nil && !a.partial {
		d = c.made(a)
	}
	h := a.header
	if d.Kind == "volume" {
		if a.size > 0 {
			d.Size = a.size
		}
		a.content = append(a.content, make([]byte, max(0, d.Size-int64(len(a.content))))...)[:d.Size] // the last block may reach beyond the end
	}
	created := h.Created.Unix()
	if h.Created.IsZero() {
		created = time.Now().Unix()
	}
	d.Content, d.Modified, d.Partial = c.store(a.content), false, nil
	d.Snapshots = append(d.Snapshots, &snapshot{Name: strings.TrimPrefix(h.Snapshot().Name, "@"), GUID: uint64(h.ToGUID), Txg: c.tick(), Created: created,
		Size: d.Size, Content: d.Content, Written: int64(len(a.content))})
	if c.status != 0 {
		panic(fmt.Sprintf("fakezfs: commit after a failure of %s", a.dataset))
	}
}

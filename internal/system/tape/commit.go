package tape

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"time"

	"cairn"
	"cairn/internal/system/tape/drive"
	"cairn/ltfs"
)

// FormatOptions are the choices at formatting.
type FormatOptions struct {
	Barcode     string // six capital letters and digits, or empty
	Name        string // of the volume
	BlockSize   uint64 // 0 is 512 KiB
	NoCompress  bool
	Policy      *ltfs.Policy
	LockPolicy  bool // mounts may not choose another policy
	Creator     string
	Now         time.Time
	VolumeUUID  string // empty makes one
	Application string // name and version for the medium's attributes
}

// Format makes an LTFS volume of whatever the drive holds; everything on it is
// lost. It writes labels, the first index to both partitions and the medium's
// attributes.
func Format(ctx context.Context, d drive.Drive, subject string, o FormatOptions) (*Tape, error) {
	if o.BlockSize == 0 {
		o.BlockSize = ltfs.DefaultBlock
	}
	if o.BlockSize > uint64(d.MaxBlock()) {
		return nil, &cairn.Error{Op: "format tape", Subject: subject, Kind: cairn.KindInvalid,
			Err: fmt.Errorf("blocks of %d bytes are longer than the drive's %d", o.BlockSize, d.MaxBlock())}
	}
	if o.VolumeUUID == "" {
		o.VolumeUUID = newUUID()
	}
	now := ltfs.TimestampOf(o.Now)
	t := &Tape{drive: d, mover: &mover{drive: d}, subject: subject, number: map[byte]int{'a': 0, 'b': 1}, ends: map[byte]*tail{}, barcode: o.Barcode, buf: make([]byte, o.BlockSize)}
	t.label = &ltfs.Label{Version: ltfs.Version, Creator: o.Creator, FormatTime: now, VolumeUUID: o.VolumeUUID,
		Location: 'a', IndexPart: 'a', DataPart: 'b', BlockSize: o.BlockSize, Compression: !o.NoCompress}
	if err := t.label.Validate(); err != nil {
		return nil, t.formatFailure("format tape", err)
	}
	if _, err := ltfs.AppendVOL1(nil, o.Barcode); err != nil {
		return nil, &cairn.Error{Op: "format tape", Subject: subject, Kind: cairn.KindInvalid, Err: err}
	}
	if err := d.Format(ctx, 2); err != nil {
		return nil, err
	}
	for p, letter := range []byte{'a', 'b'} {
		if err := t.writeLabel(ctx, p, letter); err != nil {
			return nil, err
		}
		t.ends[letter] = &tail{ended: true, end: 4}
	}
	times := ltfs.Times{Creation: now, Change: now, Modify: now, Access: now, Backup: now}
	t.index = &ltfs.Index{Version: ltfs.Version, VolumeUUID: o.VolumeUUID, AllowPolicyUpdate: !o.LockPolicy, Policy: o.Policy, HighestUID: 1,
		Root: &ltfs.Directory{Name: o.Name, UID: 1, Times: times}}
	t.dirty = true
	if err := t.commit(ctx, o.Creator, o.Now); err != nil {
		return nil, err
	}
	return t, t.describe(ctx, o)
}

func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func (t *Tape) writeLabel(ctx context.Context, p int, letter byte) error {
	if err := t.drive.Locate(ctx, drive.Position{Partition: p}); err != nil {
		return err
	}
	vol1, err := ltfs.AppendVOL1(nil, t.barcode)
	if err != nil {
		return err
	}
	label := *t.label
	label.Location = letter
	var xml bytes.Buffer
	if _, err := label.WriteTo(&xml); err != nil {
		return t.formatFailure("format tape", err)
	}
	for _, record := range [][]byte{vol1, xml.Bytes()} {
		if _, err := t.drive.Write(ctx, record); err != nil {
			return err
		}
		if err := t.drive.WriteFilemarks(ctx, 1, true); err != nil {
			return err
		}
	}
	return nil
}

// describe writes the medium attributes that tell other software, without reading
// the tape, what it is.
func (t *Tape) describe(ctx context.Context, o FormatOptions) error {
	pad := func(s string, n int, fill byte) []byte {
		b := bytes.Repeat([]byte{fill}, n)
		copy(b, s)
		return b
	}
	for _, a := range []struct {
		id     uint16
		format byte
		value  []byte
	}{
		{ltfs.AttrVendor, 1, pad("CAIRN", 8, ' ')},
		{ltfs.AttrApplicationName, 1, pad("Cairn LTFS", 32, ' ')},
		{ltfs.AttrApplicationVersion, 1, pad(o.Application, 8, ' ')},
		{ltfs.AttrVolumeName, 2, pad(o.Name, 160, 0)},
		{ltfs.AttrTextLocalization, 0, []byte{0x81}},
		{ltfs.AttrBarcode, 1, pad(o.Barcode, 32, ' ')},
		{ltfs.AttrMediaPool, 2, make([]byte, 160)},
		{ltfs.AttrFormatVersion, 1, pad(ltfs.Version, 16, ' ')},
		{ltfs.AttrLock, 0, []byte{0}},
	} {
		if err := t.drive.SetAttribute(ctx, 0, a.id, a.format, a.value); err != nil {
			return err
		}
	}
	return nil
}

// Commit makes the current tree durable: an index at the end of the data
// partition, then one in the index partition, then the coherency attributes. It
// does nothing when nothing changed.
func (t *Tape) Commit(ctx context.Context, creator, comment string, now time.Time) error {
	if !t.dirty {
		return nil
	}
	t.index.Comment = comment
	return t.commit(ctx, creator, now)
}

func (t *Tape) commit(ctx context.Context, creator string, now time.Time) error {
	t.index.Creator, t.index.UpdateTime = creator, ltfs.TimestampOf(now)
	t.index.Generation++
	data := t.label.DataPart
	t.index.Previous = ltfs.Location{}
	if last := t.ends[data].last; last != nil {
		t.index.Previous = last.Self
	}
	t.mover.forget()
	interim := *t.index
	if err := t.beforeData(ctx, data, func() *ltfs.Index { return &interim }); err != nil {
		return err
	}
	err := t.writeIndex(ctx, t.index, data, t.ends[data].end)
	if err == nil {
		err = t.writeIndexPartition(ctx, t.index)
	}
	if worn(err) {
		return t.condemn(ctx, t.index, err)
	}
	if err != nil {
		return err
	}
	t.dirty = false
	return t.vouch(ctx)
}

// writeIndexPartition replaces the index partition's index by ix, which was just
// written to the end of the data partition.
func (t *Tape) writeIndexPartition(ctx context.Context, ix *ltfs.Index) error {
	ix.Previous = ix.Self
	return t.writeIndex(ctx, ix, t.label.IndexPart, t.indexAt(t.label.IndexPart))
}

// writeIndex writes ix as an index construct at a block, and remembers the new
// end. What the partition's last index was is kept as a copy of the header only.
func (t *Tape) writeIndex(ctx context.Context, ix *ltfs.Index, letter byte, at uint64) error {
	w := &recordWriter{ctx: ctx, t: t, at: drive.Position{Partition: t.number[letter], Block: at + 1}}
	if err := t.mover.filemark(ctx, drive.Position{Partition: w.at.Partition, Block: at}, true); err != nil {
		return err
	}
	ix.Self = ltfs.Location{Partition: letter, Block: at + 1}
	if _, err := ix.WriteTo(w); err != nil {
		return t.formatFailure("write index to tape", err)
	}
	if err := w.flush(); err != nil {
		return err
	}
	if err := t.mover.filemark(ctx, w.at, false); err != nil {
		return err
	}
	t.ends[letter] = &tail{last: head(ix), end: w.at.Block + 1, ended: true}
	return nil
}

// vouch writes the coherency attributes of both partitions.
func (t *Tape) vouch(ctx context.Context) error {
	v, err := t.mover.attribute(ctx, 0, ltfs.AttrVolumeChangeReference)
	if err != nil || len(v) != 4 {
		return nil // a drive without attributes: the next opening looks at the tape
	}
	for letter, end := range t.ends {
		if !end.inIndex() {
			continue
		}
		c := ltfs.Coherency{ChangeReference: uint64(binary.BigEndian.Uint32(v)), Generation: end.last.Generation, Block: end.last.Self.Block,
			VolumeUUID: t.label.VolumeUUID, Trusted: true}
		if err := t.mover.setAttribute(ctx, t.number[letter], ltfs.AttrCoherency, 0, c.Append(nil)); err != nil {
			return err
		}
	}
	return nil
}

// recordWriter cuts a text into records of the block size.
type recordWriter struct {
	ctx context.Context
	t   *Tape
	at  drive.Position // of the next record
	n   int
}

var _ io.Writer = (*recordWriter)(nil)

func (w *recordWriter) Write(p []byte) (int, error) {
	size := int(w.t.label.BlockSize)
	done := 0
	for done < len(p) {
		n := copy(w.t.buf[w.n:size], p[done:])
		w.n, done = w.n+n, done+n
		if w.n == size {
			if err := w.flush(); err != nil {
				return done, err
			}
		}
	}
	return done, nil
}

func (w *recordWriter) flush() error {
	if w.n == 0 {
		return nil
	}
	_, err := w.t.mover.write(w.ctx, w.at, w.t.buf[:w.n])
	w.n = 0
	w.at.Block++
	return err
}

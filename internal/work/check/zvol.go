package check

import (
	"bytes"
	"io"
	"slices"

	"cairn"
	"cairn/internal/format/blocks"
	"cairn/internal/format/zfsstream"
)

// zvols reports whether the place keeps zvols rather than volumes: the rules then
// speak the streams of zfs.
func (l *lab) zvols() bool {
	return slices.Contains(l.Info.Sends[cairn.KindZvol], cairn.FormatZFS) && !slices.Contains(l.Info.Sends[cairn.KindVolume], cairn.FormatBlocks)
}

// speaks is what the rules send and receive.
func (l *lab) speaks() (cairn.DatasetKind, cairn.Format) {
	if l.zvols() {
		return cairn.KindZvol, cairn.FormatZFS
	}
	return cairn.KindVolume, cairn.FormatBlocks
}

// encodeZvol makes the stream of a zvol.
func (l *lab) encodeZvol(ds string, from *point, to point, resume []byte) encoded {
	h := cairn.StreamHeader{Format: cairn.FormatZFS, Dataset: ds, Kind: cairn.KindZvol,
		To: cairn.Version{VersionID: to.VersionID, Created: to.created, Size: int64(len(to.content))}, Volume: int64(len(to.content))}
	o := zfsstream.WriterOptions{Name: "check" + to.Name, To: to.GUID, Created: to.created, Size: h.Volume}
	var base []byte
	if from != nil {
		h.From, o.From, base = from.VersionID, from.GUID, from.content
	}
	if resume != nil {
		t, err := zfsstream.ParseToken(string(resume))
		l.ok("read the place's token", err)
		o.Object, o.Offset, h.Resume = t.Object, t.Offset, int64(t.Bytes)
	}
	var out bytes.Buffer
	w, err := zfsstream.NewWriter(&out, o)
	l.ok("encode a stream", err)
	for _, e := range differing(base, to.content) {
		l.ok("encode a stream", w.Data(e.Offset, to.content[e.Offset:e.End()]))
	}
	l.ok("encode a stream", w.End())
	h.Size = int64(out.Len())
	return encoded{h, out.Bytes()}
}

// applyZvol decodes the stream of a zvol onto base. What reaches beyond the size is
// cut off when that is known: at the stream's end.
func applyZvol(r io.Reader, base []byte) ([]byte, blocks.Counts, error) {
	var counts blocks.Counts
	in, err := zfsstream.NewVolumeReader(r)
	if err != nil {
		return nil, counts, err
	}
	content := bytes.Clone(base)
	for {
		e, err := in.Next()
		if err == io.EOF { //nolint:errorlint // only EOF itself vouches for the stream
			return fitted(content, in.Size()), counts, nil
		}
		if err != nil {
			return nil, counts, err
		}
		if e.Data == nil {
			e.Length = max(0, min(e.Length, int64(len(content))-e.Offset)) // beyond the end all is zero
			counts.Zeroes += e.Length
			clear(content[min(e.Offset, int64(len(content))):][:e.Length])
			continue
		}
		counts.Data += e.Length
		content = fitted(content, max(int64(len(content)), e.Offset+e.Length))
		copy(content[e.Offset:], e.Data)
	}
}

// fitted is content with exactly so many bytes; zero leaves it as it is.
func fitted(content []byte, size int64) []byte {
	switch have := int64(len(content)); {
	case size == 0 || have == size:
		return content
	case have > size:
		return content[:size]
	default:
		return append(content, make([]byte, size-have)...)
	}
}

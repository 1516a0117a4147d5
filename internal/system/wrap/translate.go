package wrap

import (
	"context"
	"maps"
	"slices"

	"cairn"
	"cairn/internal/format/blocks"
	"cairn/internal/format/zfsstream"
)

// Translate lets volumes and zvols replicate into each other. A place of volumes
// takes the streams of zvols, too, and sends a volume to a place that takes nothing
// else as the stream of a zvol; versions keep their GUIDs. A place of zvols goes on
// with a stream that was cut on its way into a volume. Streams of one kind pass as
// they are, and an endpoint of neither kind is given back.
func Translate(ep *cairn.Endpoint) *cairn.Endpoint {
	out := *ep
	volumes := slices.Contains(ep.Info.Sends[cairn.KindVolume], cairn.FormatBlocks)
	if ep.Receiver != nil && ep.Lister != nil && slices.Contains(ep.Info.Accepts[cairn.KindVolume], cairn.FormatBlocks) {
		out.Info.Accepts = withZFS(ep.Info.Accepts, cairn.KindZvol)
		out.Receiver = fromZvol{ep.Receiver, ep}
	}
	switch {
	case ep.Sender != nil && volumes:
		out.Info.Sends = withZFS(ep.Info.Sends, cairn.KindVolume)
		out.Sender = toZvol{ep.Sender}
	case ep.Sender != nil && len(ep.Info.Sends[cairn.KindZvol]) > 0:
		out.Sender = resumer{ep.Sender}
	}
	return &out
}

// withZFS adds the format of zfs, as the last choice, to those of a kind.
func withZFS(formats map[cairn.DatasetKind][]cairn.Format, kind cairn.DatasetKind) map[cairn.DatasetKind][]cairn.Format {
	all := maps.Clone(formats)
	if !slices.Contains(all[kind], cairn.FormatZFS) {
		all[kind] = append(slices.Clone(all[kind]), cairn.FormatZFS)
	}
	return all
}

// resumer knows the tokens of volumes at a place of zvols.
type resumer struct{ cairn.Sender }

// Send turns a volume's token into one of zfs. The content before its position is
// complete, so the stream may go on there. A volume takes any packing.
func (r resumer) Send(ctx context.Context, step cairn.Step, accept []cairn.Format) (*cairn.Stream, error) {
	if p, err := blocks.ParsePoint(step.Resume); err == nil {
		t := zfsstream.Token{ToName: step.Dataset + step.To.Name, ToGUID: p.To, FromGUID: p.From,
			Object: zfsstream.DataObject, Offset: uint64(p.Position), Bytes: uint64(max(p.Position, 1)), Compressed: true, LargeBlocks: true}
		step.Resume = []byte(t.String())
	}
	return r.Sender.Send(ctx, step, accept)
}

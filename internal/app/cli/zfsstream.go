package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cairn"
	"cairn/internal/format/zfsstream"
)

func (p *program) zfsStreamCommand() *cobra.Command {
	return family("", "stream", "Look into streams of zfs send", "  cairn zfs stream info home.stream", p.zfsStreamInfoCommand())
}

func (p *program) zfsStreamInfoCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "info FILE|-",
		Short: "Verify a stream and say what it carries",
		Long: "The stream is read to its end, and every checksum in it is compared. Neither ZFS nor any right is needed.\n" +
			"Full, incremental, resumed, raw and compound streams (zfs send -R, -I, -p) are known. '-' is the standard input.",
		Example: "  cairn zfs stream info - < home.stream\n  cairn zfs stream info --json home.stream",
		Args:    cobra.ExactArgs(1),
		RunE: run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			in, err := p.streamFile(args[0])
			if err != nil {
				return err
			}
			info, err := await(ctx, "read zfs stream", func() (streamInfo, error) { return readStreamInfo(in) })
			if err = errors.Join(err, in.Close()); err != nil {
				return err
			}
			if asJSON {
				return p.printJSON(info)
			}
			return p.printf("%s", info)
		}),
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

// streamFile opens what a command reads a stream from.
func (p *program) streamFile(name string) (io.ReadCloser, error) {
	if name == "-" {
		if isTerminal(p.in) {
			return nil, invalid("read stream", "", "give it a file or a pipe", errors.New("the standard input is a terminal"))
		}
		return io.NopCloser(p.in), nil
	}
	f, err := os.Open(name)
	if err != nil {
		kind := cairn.KindIO
		if errors.Is(err, fs.ErrNotExist) {
			kind = cairn.KindNotFound
		}
		return nil, &cairn.Error{Op: "read stream", Subject: name, Kind: kind, Err: errors.Unwrap(err)}
	}
	return f, nil
}

// streamInfo is what `zfs stream info` says.
type streamInfo struct {
	Compound  bool             `json:"compound"`
	Snapshots []snapshotInfo   `json:"snapshots"`
	Features  []string         `json:"features"`
	ByteOrder string           `json:"byte_order"`
	Bytes     int64            `json:"bytes"`
	Payload   int64            `json:"payload_bytes"`
	Logical   int64            `json:"logical_bytes"`
	Records   map[string]int64 `json:"records"`
	Verified  bool             `json:"verified"`
	Unread    string           `json:"unverified_because,omitempty"`
}

// snapshotInfo is one of the versions that a stream carries.
type snapshotInfo struct {
	Name    string     `json:"name"`
	Kind    string     `json:"kind"`
	GUID    string     `json:"guid"`
	From    string     `json:"from_guid,omitempty"`
	Clone   bool       `json:"clone,omitempty"`
	Created time.Time  `json:"created"`
	Resumed *resumedAt `json:"resumed_at,omitempty"`
}

type resumedAt struct {
	Object uint64 `json:"object"`
	Offset uint64 `json:"offset"`
}

func readStreamInfo(r io.Reader) (streamInfo, error) {
	info := streamInfo{Snapshots: []snapshotInfo{}}
	c := zfsstream.Check(r, zfsstream.CheckOptions{OnHeader: func(h zfsstream.Header) error {
		if !h.Compound {
			info.Snapshots = append(info.Snapshots, describeHeader(h))
		}
		return nil
	}})
	if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, c, make([]byte, pumpBytes)); err != nil {
		return streamInfo{}, err
	}
	s := c.Summary()
	info.Compound, info.Features, info.Bytes, info.Payload, info.Logical = s.First.Compound, s.Features.Names(), s.Bytes, s.Payload, s.Logical
	info.Verified, info.Unread = s.Unread == "", s.Unread
	if info.ByteOrder = "little-endian"; s.First.BigEndian {
		info.ByteOrder = "big-endian"
	}
	info.Records = map[string]int64{}
	for t, n := range s.Records {
		if n > 0 {
			info.Records[zfsstream.Type(t).String()] = n
		}
	}
	return info, nil
}

func describeHeader(h zfsstream.Header) snapshotInfo {
	s := snapshotInfo{Name: h.ToName, Kind: h.Kind.String(), GUID: h.ToGUID.String(), Clone: h.Clone, Created: h.Created}
	if h.FromGUID != 0 {
		s.From = h.FromGUID.String()
	}
	if object, offset, resumed := h.Resume(); resumed {
		s.Resumed = &resumedAt{object, offset}
	}
	return s
}

// String is the report for people.
func (i streamInfo) String() string {
	var b strings.Builder
	line := func(name, format string, args ...any) {
		_, _ = fmt.Fprintf(&b, "%-9s "+format+"\n", append([]any{name}, args...)...) // a builder takes all
	}
	for _, s := range i.Snapshots {
		line("snapshot", "%s (%s), GUID %s", s.Name, s.Kind, s.GUID)
		switch {
		case s.Clone:
			line("base", "GUID %s, of another dataset: it is a clone", s.From)
		case s.From != "":
			line("base", "GUID %s", s.From)
		default:
			line("base", "none: a full stream")
		}
		line("created", "%s", localTime(s.Created))
		if s.Resumed != nil {
			line("resumed", "at object %d, byte %d", s.Resumed.Object, s.Resumed.Offset)
		}
	}
	if i.Compound {
		line("compound", "%d snapshots, with properties", len(i.Snapshots))
	}
	features := "none"
	if len(i.Features) > 0 {
		features = strings.Join(i.Features, ", ")
	}
	line("features", "%s", features)
	var records []string
	for t := range zfsstream.Types {
		if n := i.Records[zfsstream.Type(t).String()]; n > 0 {
			records = append(records, fmt.Sprintf("%d %s", n, zfsstream.Type(t)))
		}
	}
	line("records", "%s", strings.Join(records, ", "))
	line("bytes", "%s in all, %s of content before compression, %s", size(i.Bytes), size(i.Logical), i.ByteOrder)
	if i.Verified {
		line("verified", "whole, every checksum is right")
	} else {
		line("verified", "no: %s", i.Unread)
	}
	return b.String()
}

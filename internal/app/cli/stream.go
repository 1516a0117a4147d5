package cli

import (
	"context"
	"encoding/base64"
	"errors"
	"io"

	"github.com/spf13/cobra"

	"cairn"
	"cairn/internal/format/blocks"
	"cairn/internal/mech/watchdog"
)

func (p *program) volumeSendCommand() *cobra.Command {
	var from, resume string
	cmd := &cobra.Command{
		Use:   "send NAME@SNAP",
		Short: "Write a snapshot as a blocks stream to the standard output",
		Long: "The stream is full, or with --from only what changed since an older version. It goes through any\n" +
			"pipe or file; 'volume receive' reads it. A receive that was cut names a token for --resume.",
		Example: "  cairn volume send db@monday > db.stream\n  cairn volume send db@tuesday --from @monday | ssh vault cairn volume receive db",
		Args:    cobra.ExactArgs(1),
		RunE: run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			if isTerminal(p.out) {
				return invalid("write stream", "", "send it into a file or a pipe", errors.New("the standard output is a terminal"))
			}
			step, ep, err := p.sendStep(ctx, args[0], from, resume)
			if err != nil {
				return err
			}
			return p.sendTo(ctx, ep, step)
		}),
		ValidArgsFunction: p.completeDatasets,
	}
	cmd.Flags().StringVar(&from, "from", "", "`VERSION` (@SNAPSHOT or #BOOKMARK) the receiver has")
	cmd.Flags().StringVar(&resume, "resume", "", "`TOKEN` of a receive that was cut")
	return cmd
}

func (p *program) sendStep(ctx context.Context, address, from, resume string) (cairn.Step, *cairn.Endpoint, error) {
	a, err := versionAddress(address)
	if err != nil {
		return cairn.Step{}, nil, err
	}
	l, err := p.localDataset(ctx, a.Dataset)
	if err != nil {
		return cairn.Step{}, nil, err
	}
	ep := p.opened.Endpoint
	to, err := findVersion(ep, l, a.Version)
	if err != nil {
		return cairn.Step{}, nil, err
	}
	step := cairn.Step{Dataset: a.Dataset, To: to.VersionID, Size: -1}
	if from != "" {
		if err := cairn.CheckVersionName(from); err != nil {
			return cairn.Step{}, nil, err
		}
		v, err := findVersion(ep, l, from)
		if err != nil {
			return cairn.Step{}, nil, err
		}
		step.From = v.VersionID
	}
	if resume != "" {
		if step.Resume, err = base64.RawURLEncoding.DecodeString(resume); err != nil {
			return cairn.Step{}, nil, invalid("use resume token", "", "copy it whole from the message of 'volume receive'", err)
		}
	}
	return step, ep, nil
}

func (p *program) sendTo(ctx context.Context, ep *cairn.Endpoint, step cairn.Step) error {
	if ep.Sender == nil {
		return ep.Lacks("send", step.Dataset)
	}
	progress := &watchdog.Progress{}
	stream, err := ep.Sender.Send(watchdog.With(ctx, progress), step, []cairn.Format{cairn.FormatBlocks})
	if err != nil {
		return err
	}
	bar := p.startBar("send " + step.Dataset + step.To.Name)
	bar.watch(progress, stream.Header.Size)
	n, err := await(ctx, "send", func() (int64, error) {
		n, err := io.Copy(p.out, &counting{r: stream.Body, progress: progress})
		if closing := stream.Body.Close(); err == nil {
			err = closing
		}
		return n, err
	})
	bar.end()
	if err != nil {
		if cairn.KindOf(err) != cairn.KindOther {
			return err
		}
		return &cairn.Error{Op: "send", Subject: step.Dataset + step.To.Name, Kind: cairn.KindIO, Err: err}
	}
	p.note("%s%s: %s", step.Dataset, step.To.Name, size(n))
	return nil
}

// counting reports the bytes that passed as progress.
type counting struct {
	r        io.Reader
	n        int64
	progress *watchdog.Progress
}

func (c *counting) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += int64(n)
	c.progress.Level("bytes", c.n)
	return n, err
}

func (p *program) volumeReceiveCommand() *cobra.Command {
	var abort bool
	cmd := &cobra.Command{
		Use:   "receive NAME",
		Short: "Read a blocks stream from the standard input into a volume",
		Long: "A full stream makes the volume, an incremental one adds a version to it. The version appears when\n" +
			"the whole stream was checked, or not at all. When the stream ends early, what arrived is kept, and\n" +
			"the message names the token with which 'volume send --resume' goes on.",
		Example: "  cairn volume receive copy < db.stream\n  cairn volume receive copy --abort",
		Args:    cobra.ExactArgs(1),
		RunE: run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			name, err := datasetAddress(args[0])
			if err != nil {
				return err
			}
			h, err := p.here(ctx)
			if err != nil {
				return err
			}
			if h.Endpoint.Receiver == nil {
				return h.Endpoint.Lacks("receive", name)
			}
			if abort {
				return h.Endpoint.Receiver.Abort(ctx, name)
			}
			if err := p.receiveFrom(ctx, h.Endpoint, name); err != nil {
				return err
			}
			return p.handOver(ctx)
		}),
		ValidArgsFunction: p.completeDatasets,
	}
	cmd.Flags().BoolVar(&abort, "abort", false, "give up a receive that was cut")
	return cmd
}

func (p *program) receiveFrom(ctx context.Context, ep *cairn.Endpoint, name string) error {
	if isTerminal(p.in) {
		return invalid("read stream", "", "give it a file or a pipe", errors.New("the standard input is a terminal"))
	}
	var body io.Reader
	var resume int64
	h, err := await(ctx, "read stream", func() (h blocks.Header, err error) {
		h, resume, body, err = blocks.Peek(p.in)
		return h, err
	})
	if err != nil {
		return err
	}
	header := cairn.StreamHeader{Format: cairn.FormatBlocks, Dataset: name, Kind: cairn.KindVolume, From: h.From,
		To: cairn.Version{VersionID: h.To, Created: h.Created, Size: h.Size}, Volume: h.Size, Resume: resume, Size: -1}
	progress := &watchdog.Progress{}
	bar := p.startBar("receive " + name + header.To.Name)
	bar.watch(progress, header.Size)
	stream := &cairn.Stream{Header: header, Body: pumped(&counting{r: body, progress: progress})}
	got, err := ep.Receiver.Receive(watchdog.With(ctx, progress), stream, cairn.ReceiveOptions{Owner: "receive"})
	bar.end()
	if err != nil {
		p.noteResume(ctx, ep, name)
		return err
	}
	for _, v := range got.Versions {
		if err := p.printf("%s%s\n", name, v); err != nil {
			return err
		}
	}
	return nil
}

const pumpBytes = 256 << 10

// pumped makes a reader whose Close ends a Read that waits, which the standard
// input cannot do.
func pumped(r io.Reader) io.ReadCloser {
	out, in := io.Pipe()
	go func() {
		_, err := io.CopyBuffer(struct{ io.Writer }{in}, struct{ io.Reader }{r}, make([]byte, pumpBytes))
		_ = in.CloseWithError(err) // never fails
	}()
	return out
}

// noteResume names the token of what a failed receive kept, if it kept anything.
func (p *program) noteResume(ctx context.Context, ep *cairn.Endpoint, name string) {
	l, err := findDataset(context.WithoutCancel(ctx), ep, name)
	if err != nil || l.Partial == nil || len(l.Partial.Token) == 0 {
		return
	}
	p.note("%s of %s%s are kept; go on with: volume send NAME%s --resume %s", size(l.Partial.Received), name, l.Partial.To, l.Partial.To,
		base64.RawURLEncoding.EncodeToString(l.Partial.Token))
}

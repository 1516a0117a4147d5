package wrap

import (
	"context"
	"io"

	"golang.org/x/time/rate"

	"cairn"
)

// Bucket is a bandwidth: a token bucket that any number of streams share.
type Bucket struct{ limiter *rate.Limiter }

// NewBucket lets bytesPerSecond through, after a pause up to burst bytes at once
// (0: 128 KiB).
func NewBucket(bytesPerSecond, burst int64) *Bucket {
	if burst <= 0 {
		burst = 128 << 10
	}
	return &Bucket{rate.NewLimiter(rate.Limit(bytesPerSecond), int(burst))}
}

// Limit bounds the bytes of streams sent and received; nil is no limit. Small calls
// are not counted.
func Limit(ep *cairn.Endpoint, send, receive *Bucket) *cairn.Endpoint {
	out := *ep
	if ep.Sender != nil && send != nil {
		out.Sender = limitedSender{ep.Sender, send}
	}
	if ep.Receiver != nil && receive != nil {
		out.Receiver = limitedReceiver{ep.Receiver, receive}
	}
	return &out
}

type limitedSender struct {
	cairn.Sender
	bucket *Bucket
}

func (l limitedSender) Send(ctx context.Context, step cairn.Step, accept []cairn.Format) (*cairn.Stream, error) {
	s, err := l.Sender.Send(ctx, step, accept)
	if err != nil {
		return nil, err
	}
	return limited(ctx, s, l.bucket), nil
}

type limitedReceiver struct {
	cairn.Receiver
	bucket *Bucket
}

func (l limitedReceiver) Receive(ctx context.Context, s *cairn.Stream, o cairn.ReceiveOptions) (cairn.Received, error) {
	return l.Receiver.Receive(ctx, limited(ctx, s, l.bucket), o)
}

func limited(ctx context.Context, s *cairn.Stream, b *Bucket) *cairn.Stream {
	ctx, cancel := context.WithCancel(ctx)
	return &cairn.Stream{Header: s.Header, Body: &limitedBody{s.Body, ctx, cancel, b.limiter}}
}

// limitedBody pays for what it has read before it hands it out.
type limitedBody struct {
	body    io.ReadCloser
	ctx     context.Context
	cancel  context.CancelFunc
	limiter *rate.Limiter
}

func (b *limitedBody) Read(p []byte) (int, error) {
	n, err := b.body.Read(p[:min(len(p), b.limiter.Burst())])
	if n == 0 {
		return n, err
	}
	if wait := b.limiter.WaitN(b.ctx, n); wait != nil {
		if b.ctx.Err() != nil {
			wait = b.ctx.Err()
		}
		return 0, &cairn.Error{Op: "move stream", Kind: cairn.KindCanceled, Err: wait}
	}
	return n, err
}

// Close ends a Read that waits.
func (b *limitedBody) Close() error {
	b.cancel()
	return b.body.Close()
}

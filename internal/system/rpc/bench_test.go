package rpc_test

import (
	"context"
	"fmt"
	"io"
	"iter"
	"syscall"
	"testing"

	"cairn"
)

// bulk is an endpoint of which only the wire costs anything: bodies come from and
// go to memory, listings are made of one row.
type bulk struct{ bytes int64 }

func (b *bulk) Send(context.Context, cairn.Step, []cairn.Format) (*cairn.Stream, error) {
	return &cairn.Stream{Body: io.NopCloser(&source{left: b.bytes})}, nil
}

func (b *bulk) Receive(_ context.Context, s *cairn.Stream, _ cairn.ReceiveOptions) (cairn.Received, error) {
	n, err := drain(s.Body)
	_ = s.Body.Close()
	return cairn.Received{Bytes: n}, err
}

func (b *bulk) Abort(context.Context, string) error { return nil }

// source gives zeroes as fast as they are taken.
type source struct{ left int64 }

func (s *source) Read(p []byte) (int, error) {
	n := int(min(int64(len(p)), s.left))
	if s.left -= int64(n); n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// drain reads as a format's reader does: in large pieces.
func drain(r io.Reader) (n int64, err error) {
	buf := make([]byte, 1<<20)
	for err == nil {
		var got int
		got, err = r.Read(buf)
		n += int64(got)
	}
	if err == io.EOF {
		err = nil
	}
	return n, err
}

func cpu() float64 {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // it cannot fail for ourselves
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}

const benchBytes = 1 << 30

// BenchmarkStream moves 1 GiB; CPU is that of both sides together.
func BenchmarkStream(b *testing.B) {
	for _, kind := range kinds {
		for _, way := range []string{"push", "pull"} {
			b.Run(kind+"/"+way, func(b *testing.B) {
				place := &bulk{benchBytes}
				ep := remote(b, kind, &cairn.Endpoint{Sender: place, Receiver: place})
				b.SetBytes(benchBytes)
				before := cpu()
				for b.Loop() {
					if err := move(b.Context(), ep, way); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric((cpu()-before)/float64(b.N), "cpu-s/GiB")
			})
		}
	}
}

func move(ctx context.Context, ep *cairn.Endpoint, way string) error {
	if way == "push" {
		_, err := ep.Receiver.Receive(ctx, &cairn.Stream{Body: io.NopCloser(&source{left: benchBytes})}, cairn.ReceiveOptions{})
		return err
	}
	s, err := ep.Sender.Send(ctx, cairn.Step{}, nil)
	if err != nil {
		return err
	}
	if _, err := drain(s.Body); err != nil {
		return err
	}
	return s.Body.Close()
}

// BenchmarkList streams datasets of 1,000 versions each.
func BenchmarkList(b *testing.B) {
	const datasets, versions = 200, 1000
	l := &cairn.Listing{Dataset: cairn.Dataset{Name: "tank/home"}}
	for i := range versions {
		l.Versions = append(l.Versions, cairn.Version{VersionID: cairn.VersionID{Name: fmt.Sprintf("@cairn_2026%010d_000", i*1000), GUID: cairn.GUID(i * 7919 << 32)}, Order: uint64(i)})
	}
	ep := remote(b, "unix", &cairn.Endpoint{Lister: repeated{l, datasets}})
	before := cpu()
	for b.Loop() {
		n := 0
		for got, err := range ep.Lister.List(b.Context(), cairn.Query{}) {
			if err != nil {
				b.Fatal(err)
			}
			n += len(got.Versions)
		}
		if n != datasets*versions {
			b.Fatal(n)
		}
	}
	b.ReportMetric((cpu()-before)*1e9/float64(b.N*datasets*versions), "cpu-ns/version")
}

type repeated struct {
	l     *cairn.Listing
	times int
}

func (r repeated) List(context.Context, cairn.Query) iter.Seq2[*cairn.Listing, error] {
	return func(yield func(*cairn.Listing, error) bool) {
		for range r.times {
			if !yield(r.l, nil) {
				return
			}
		}
	}
}

// BenchmarkCall is the cost of the smallest call.
func BenchmarkCall(b *testing.B) {
	p, _ := newPlace(b, "vault")
	for _, kind := range kinds {
		b.Run(kind, func(b *testing.B) {
			ep := remote(b, kind, p.Endpoint())
			for b.Loop() {
				if err := ep.Leases.SetLease(b.Context(), cairn.LeaseSet{Dataset: "db", Owner: "o", Purpose: cairn.PurposePin}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

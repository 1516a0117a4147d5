package rpc

import (
	"bytes"
	"errors"
	"net"
	"reflect"
	"testing"

	"cairn"
	"cairn/internal/mech/frame"
)

func FuzzListing(f *testing.F) {
	f.Add(appendListing(nil, sample(3)))
	f.Add(appendListing(nil, &cairn.Listing{Partial: &cairn.Partial{}, Versions: []cairn.Version{{Leases: []cairn.Lease{{}}, Stored: []cairn.Stored{{}}}}}))
	f.Fuzz(func(t *testing.T, row []byte) {
		l, err := readListing(row)
		if err != nil {
			return
		}
		written := appendListing(nil, l)
		again, err := readListing(written)
		if err != nil || !bytes.Equal(written, appendListing(nil, again)) {
			t.Fatalf("not stable: %v\n%#v\n%#v", err, l, again)
		}
	})
}

// FuzzMessages reads every message from any bytes.
func FuzzMessages(f *testing.F) {
	f.Add(encode(&hello{software: "x", abilities: []cairn.Ability{"list"}, info: cairn.Info{Keep: []cairn.KeepRule{{Type: "last_n"}}}}))
	f.Add(encode(&fault{&cairn.Error{Op: "x", Err: errors.New("y")}}))
	f.Add(encode(&receiveRequest{header: cairn.StreamHeader{Via: make([]cairn.Version, 2)}}))
	f.Add(encode(&reports{{id: 1, phase: "send", counters: []counter{{"bytes", 7}}}}))
	f.Fuzz(func(t *testing.T, p []byte) {
		for _, m := range []message{&hello{}, &fault{}, &reports{}, &ready{}, &end{}, &attach{}, &credit{}, &listRequest{}, &snapshotRequest{},
			&snapshotAnswer{}, &destroyRequest{}, &destroyAnswer{}, &leaseRequest{}, &estimateRequest{}, &estimateAnswer{}, &sendRequest{},
			&receiveRequest{}, &receiveAnswer{}, &coverageAnswer{}, &extentRows{},
			&digestRequest{}, &digestRows{}, &healRequest{}, &healAnswer{}} {
			if decode(p, m) != nil {
				continue
			}
			again := reflect.New(reflect.TypeOf(m).Elem()).Interface().(message)
			if err := decode(encode(m), again); err != nil {
				t.Fatalf("%T: cannot read what it wrote: %v", m, err)
			}
		}
	})
}

// A peer that sends rows nobody asked for ends its session.
func TestRowsBeyondTheWindowAreRefused(t *testing.T) {
	c := newCaller(newLink(t.Context(), nil, Timings{}.orDefaults()), "peer", 4)
	c.register(&call{caller: c, credit: window, wake: make(chan struct{}, 1)})
	rows := make([]byte, maxFragment)
	for range window / maxFragment {
		if err := c.take(frame.Header{Type: frameRows, ID: 1}, rows); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.take(frame.Header{Type: frameRows, ID: 1}, rows[:1]); !errors.Is(err, cairn.KindInvalid) {
		t.Errorf("one byte too many: %v", err)
	}
}

// A peer that asks without end and takes no answers loses its session, not our
// memory.
func TestAnswersNobodyTakesAreBounded(t *testing.T) {
	near, far := net.Pipe()
	defer func() { _ = far.Close() }()
	c := newCallee(newLink(t.Context(), near, Timings{}.orDefaults()), 0, nil)
	c.open((&patient{conn: near}).frames(), c.beat, c.take)
	ask := encode(&request{method: methodList, arguments: &nothing{}})
	for n := uint32(1); c.ctx.Err() == nil; n++ {
		if err := c.take(frame.Header{Type: frameRequest, ID: n}, ask); err != nil || n > 2*maxQueue {
			t.Fatalf("after %d requests: %v", n, err)
		}
	}
	c.close(nil)
}

// FuzzHandshake gives a peer's first bytes to the readers of a new connection.
func FuzzHandshake(f *testing.F) {
	f.Add(append(ourPreface(roleControl), frame.Append(nil, frame.Header{Type: frameHello}, encode(&hello{}))...))
	f.Add(append(ourPreface(roleData), frame.Append(nil, frame.Header{Type: frameAttach}, encode(&attach{[]byte("token")}))...))
	f.Add(preface{major: 9}.bytes())
	f.Fuzz(func(t *testing.T, first []byte) {
		in := bytes.NewReader(first)
		p, err := readPreface(in)
		if err != nil {
			return
		}
		if p.major != protocolMajor {
			t.Fatal("another version was taken")
		}
		frames := frame.NewReader(in, maxFragment)
		if p.role == roleControl {
			_ = readMessage(frames, frameHello, &hello{})
		} else {
			_ = readMessage(frames, frameAttach, &attach{})
		}
	})
}

// FuzzControl gives a peer's frames to a running session, on both sides: no bytes
// may bring the process down or make it hold more than its bounds.
func FuzzControl(f *testing.F) {
	request := encode(&request{method: methodList, window: window, arguments: &listRequest{}})
	f.Add(frame.Append(nil, frame.Header{Type: frameRequest, ID: 1}, request))
	f.Add(frame.Append(nil, frame.Header{Type: frameRows, ID: 1}, []byte("rows")))
	f.Add(frame.Append(nil, frame.Header{Type: frameCredit, ID: 1}, encode(&credit{1 << 60})))
	f.Add(frame.Append(nil, frame.Header{Type: frameBeat}, encode(&reports{{id: 1}})))
	f.Fuzz(func(t *testing.T, wire []byte) {
		server := newCallee(newLink(t.Context(), nil, Timings{}.orDefaults()), 4, (&handler{ep: &cairn.Endpoint{}}).serve)
		client := newCaller(newLink(t.Context(), nil, Timings{}.orDefaults()), "peer", 4)
		client.register(&call{caller: client, credit: window, wake: make(chan struct{}, 1)})
		client.slots <- struct{}{}
		for _, take := range []func(frame.Header, []byte) error{server.take, client.take} {
			in, part := frame.NewReader(bytes.NewReader(wire), maxFragment), assembly{}
			for {
				h, p, err := in.Next()
				if err != nil {
					break
				}
				p, whole, err := part.add(h, p)
				if err != nil || whole && take(h, p) != nil {
					break
				}
			}
		}
		server.end(nil)
		server.calls.Wait()
	})
}

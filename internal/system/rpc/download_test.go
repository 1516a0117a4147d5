package rpc

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"cairn"
	"cairn/internal/mech/frame"
)

type wireFrame struct {
	kind uint8
	seq  uint32
	p    []byte
}

func endOf(n int64, err error) []byte { return encode(&end{n, err}) }

// A body is whole only when every frame came, in order, and the end vouches for
// exactly what came.
func TestOnlyAnEndThatVouchesIsEOF(t *testing.T) {
	data := func(seq uint32, p string) wireFrame { return wireFrame{frameData, seq, []byte(p)} }
	for _, c := range []struct {
		name   string
		frames []wireFrame
		want   string
		err    error // nil is EOF
	}{
		{"whole", []wireFrame{data(0, "one"), {frameBeat, 1, nil}, data(2, "two"), {frameEnd, 3, endOf(6, nil)}}, "onetwo", nil},
		{"empty", []wireFrame{{frameEnd, 0, endOf(0, nil)}}, "", nil},
		{"no end", []wireFrame{data(0, "one")}, "one", cairn.KindUnavailable},
		{"nothing", nil, "", cairn.KindUnavailable},
		{"frame missing", []wireFrame{data(0, "one"), data(2, "three"), {frameEnd, 3, endOf(8, nil)}}, "one", cairn.KindUnavailable},
		{"frame twice", []wireFrame{data(0, "one"), data(0, "one"), {frameEnd, 1, endOf(6, nil)}}, "one", cairn.KindUnavailable},
		{"end claims more", []wireFrame{data(0, "one"), {frameEnd, 1, endOf(4, nil)}}, "one", cairn.KindUnavailable},
		{"end claims less", []wireFrame{data(0, "one"), {frameEnd, 1, endOf(2, nil)}}, "one", cairn.KindUnavailable},
		{"end with error", []wireFrame{data(0, "one"), {frameEnd, 1, endOf(3, cairn.KindDegraded)}}, "one", cairn.KindDegraded},
		{"end unreadable", []wireFrame{{frameEnd, 0, []byte{0xff}}}, "", cairn.KindCorrupt},
		{"unknown type", []wireFrame{{99, 0, nil}}, "", cairn.KindUnavailable},
	} {
		for name, read := range map[string]func(*download) (string, error){
			"read": func(d *download) (string, error) { p, err := io.ReadAll(d); return string(p), err },
			"read bytes": func(d *download) (string, error) {
				var all []byte
				for {
					var b [1]byte
					n, err := d.Read(b[:])
					if all = append(all, b[:n]...); err == io.EOF { //nolint:errorlint // the promise is a bare EOF
						return string(all), nil
					} else if err != nil {
						return string(all), err
					}
				}
			},
			"copy": func(d *download) (string, error) { var b bytes.Buffer; _, err := d.WriteTo(&b); return b.String(), err },
		} {
			t.Run(c.name+"/"+name, func(t *testing.T) {
				near, far := net.Pipe()
				go func() {
					for _, f := range c.frames {
						_, _ = far.Write(frame.Append(nil, frame.Header{Type: f.kind, ID: f.seq}, f.p))
					}
					_ = far.Close()
				}()
				d := newDownload(t.Context(), &dataConn{near, &patient{conn: near, limit: time.Minute}}, "read", func(int64) {})
				got, err := read(d)
				if got != c.want || c.err == nil && err != nil || c.err != nil && (!errors.Is(err, c.err) || errors.Is(err, io.EOF)) {
					t.Errorf("got %q, %v", got, err)
				}
				_ = d.Close()
			})
		}
	}
}

// slowReader gives one byte per pause.
type slowReader struct {
	pause time.Duration
	left  int
}

func (r *slowReader) Read(p []byte) (int, error) {
	time.Sleep(r.pause)
	if r.left--; r.left < 0 {
		return 0, io.EOF
	}
	return copy(p, "x"), nil
}

// A body that is silent for longer than the limit is kept alive by heartbeats, and
// one whose sender is silent as well is given up at the limit.
func TestSilentBodyLivesSilentSenderDoesNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		timings := Timings{}.orDefaults()
		near, far := net.Pipe()
		done := make(chan error)
		go func() {
			bodyErr, connErr := upload(t.Context(), far, timings, &slowReader{10 * time.Minute, 3}, nil, func(int64) {})
			done <- errors.Join(bodyErr, connErr)
		}()
		d := newDownload(t.Context(), &dataConn{near, &patient{conn: near, limit: timings.Limit}}, "read", func(int64) {})
		if got, err := io.ReadAll(d); err != nil || string(got) != "xxx" {
			t.Errorf("got %q, %v", got, err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}

		near, far = net.Pipe()
		d = newDownload(t.Context(), &dataConn{near, &patient{conn: near, limit: timings.Limit}}, "read", func(int64) {})
		begin := time.Now()
		_, err := io.ReadAll(d)
		if took := time.Since(begin); !errors.Is(err, cairn.KindUnavailable) || took != timings.Limit {
			t.Errorf("after %s: %v", took, err)
		}
		_ = far.Close()
	})
}

// Close ends a Read that waits, and so does the context.
func TestCloseAndContextEndARead(t *testing.T) {
	for name, end := range map[string]func(d *download, cancel context.CancelFunc){
		"close":   func(d *download, _ context.CancelFunc) { _ = d.Close() },
		"context": func(_ *download, cancel context.CancelFunc) { cancel() },
	} {
		t.Run(name, func(t *testing.T) {
			near, far := net.Pipe()
			defer func() { _ = far.Close() }()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			d := newDownload(ctx, &dataConn{near, &patient{conn: near, limit: time.Minute}}, "read", func(int64) {})
			time.AfterFunc(10*time.Millisecond, func() { end(d, cancel) })
			if _, err := d.Read(make([]byte, 1)); err == nil || name == "context" && !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
		})
	}
}

package nbd_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"cairn"
	"cairn/internal/format/nbdproto"
	"cairn/internal/front/nbd"
	"cairn/internal/front/nbd/nbdclient"
)

func heads(d *device) map[string]*nbd.Export {
	return map[string]*nbd.Export{"db": {Device: d}, "db@a": {Reader: d}}
}

// A long random run of writes, zeroes, trims and reads over several connections
// at once, each with its own part of the device, reads what a plain array holds.
func TestModel(t *testing.T) {
	const part = 1 << 20
	for _, structured := range []bool{false, true} {
		t.Run(fmt.Sprintf("structured=%v", structured), func(t *testing.T) {
			d := newDevice(4*part, 512)
			s := serve(t, heads(d))
			var wg sync.WaitGroup
			for i := range 4 {
				c := s.dial(nbdclient.Options{Export: "db", Structured: structured})
				wg.Go(func() { modelPart(t, c, int64(i)*part, part, uint64(i)) })
			}
			wg.Wait()
		})
	}
}

func modelPart(t *testing.T, c *nbdclient.Client, base, size int64, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 1))
	model := make([]byte, size)
	ctx := t.Context()
	for range 300 {
		off := r.Int64N(size/512) * 512
		n := min(size-off, (1+r.Int64N(1<<r.Int64N(10)))*512)
		var err error
		switch r.IntN(4) {
		case 0:
			p := make([]byte, n)
			for i := range p {
				p[i] = byte(r.Uint32())
			}
			copy(model[off:], p)
			err = c.WriteAt(ctx, p, base+off, r.IntN(4) == 0)
		case 1:
			clear(model[off : off+n])
			err = c.WriteZeroes(ctx, base+off, uint32(n), 0)
		case 2:
			clear(model[off : off+n])
			err = c.Trim(ctx, base+off, uint32(n))
		default:
			p := bytes.Repeat([]byte{0xaa}, int(n))
			err = c.ReadAt(ctx, p, base+off)
			if err == nil && !bytes.Equal(p, model[off:off+n]) {
				t.Errorf("part %d: %d bytes at %d differ from the model", seed, n, off)
				return
			}
		}
		if err != nil {
			t.Error(err)
			return
		}
	}
}

func TestReadOnlyExportRefusesChanges(t *testing.T) {
	d := newDevice(1<<20, 512)
	c := serve(t, heads(d)).dial(nbdclient.Options{Export: "db@a"})
	if c.Flags()&nbdproto.ExportReadOnly == 0 || c.Flags()&nbdproto.ExportMultiConn == 0 {
		t.Errorf("flags %#x", c.Flags())
	}
	for name, err := range map[string]error{
		"write":  c.WriteAt(t.Context(), make([]byte, 512), 0, false),
		"zeroes": c.WriteZeroes(t.Context(), 0, 512, 0),
		"trim":   c.Trim(t.Context(), 0, 512),
	} {
		if !errors.Is(err, cairn.KindPermission) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := c.ReadAt(t.Context(), make([]byte, 3), 1); err != nil {
		t.Error(err)
	}
	if len(d.written) != 0 {
		t.Error("something was written")
	}
}

func TestMalformedRequestsAreRefusedAndTheConnectionGoesOn(t *testing.T) {
	d := newDevice(1<<20+512, 4096)
	d.sector = 512
	c := serve(t, heads(d)).dial(nbdclient.Options{Export: "db", Structured: true})
	end := uint64(d.Size())
	const big = nbd.MaxPayload + 512
	for _, x := range []struct {
		name string
		q    nbdproto.Request
		want nbdproto.Errno
	}{
		{"unknown command", nbdproto.Request{Type: 99, Length: 512}, nbdproto.EINVAL},
		{"resize", nbdproto.Request{Type: 8, Offset: 512}, nbdproto.EINVAL},
		{"DF on write", nbdproto.Request{Type: nbdproto.CmdWrite, Flags: nbdproto.CmdFlagDF, Length: 512}, nbdproto.EINVAL},
		{"unknown flag", nbdproto.Request{Type: nbdproto.CmdRead, Flags: 1 << 9, Length: 512}, nbdproto.EINVAL},
		{"zero length", nbdproto.Request{Type: nbdproto.CmdRead}, nbdproto.EINVAL},
		{"read past the end", nbdproto.Request{Type: nbdproto.CmdRead, Offset: end - 511, Length: 512}, nbdproto.EINVAL},
		{"read wraps around", nbdproto.Request{Type: nbdproto.CmdRead, Offset: 1<<64 - 512, Length: 1024}, nbdproto.EINVAL},
		{"write past the end", nbdproto.Request{Type: nbdproto.CmdWrite, Offset: end, Length: 512}, nbdproto.ENOSPC},
		{"zeroes past the end", nbdproto.Request{Type: nbdproto.CmdWriteZeroes, Offset: end, Length: 1 << 31}, nbdproto.ENOSPC},
		{"trim past the end", nbdproto.Request{Type: nbdproto.CmdTrim, Offset: end, Length: 512}, nbdproto.EINVAL},
		{"unaligned offset", nbdproto.Request{Type: nbdproto.CmdWrite, Offset: 1, Length: 512}, nbdproto.EINVAL},
		{"unaligned offset, aligned end", nbdproto.Request{Type: nbdproto.CmdWrite, Offset: 256, Length: 256}, nbdproto.EINVAL},
		{"unaligned length", nbdproto.Request{Type: nbdproto.CmdWrite, Length: 511}, nbdproto.EINVAL},
		{"oversize read", nbdproto.Request{Type: nbdproto.CmdRead, Length: big}, nbdproto.EINVAL},
		{"oversize write", nbdproto.Request{Type: nbdproto.CmdWrite, Length: big}, nbdproto.EINVAL},
		{"flush with a range", nbdproto.Request{Type: nbdproto.CmdFlush, Length: 512}, nbdproto.EINVAL},
		{"status without context", nbdproto.Request{Type: nbdproto.CmdBlockStatus, Length: 512}, nbdproto.EINVAL},
	} {
		var data []byte
		if x.q.Type == nbdproto.CmdWrite {
			data = make([]byte, x.q.Length)
		}
		_, err := c.Do(t.Context(), x.q, data)
		var a *nbdclient.Answer
		if !errors.As(err, &a) || a.Errno != x.want || a.Text == "" {
			t.Errorf("%s: got %v, want number %d and a text", x.name, err, x.want)
		}
	}
	if err := c.ReadAt(t.Context(), make([]byte, 512), int64(end)-512); err != nil {
		t.Errorf("the last sector after all that: %v", err)
	}
	if len(d.written) != 0 {
		t.Error("something was written")
	}
}

func TestErrorsKeepTheirMeaning(t *testing.T) {
	for kind, want := range map[cairn.Kind]nbdproto.Errno{
		cairn.KindInvalid: nbdproto.EINVAL, cairn.KindPermission: nbdproto.EPERM, cairn.KindSpace: nbdproto.ENOSPC,
		cairn.KindUnsupported: nbdproto.ENOTSUP, cairn.KindCanceled: nbdproto.ESHUTDOWN, cairn.KindDamaged: nbdproto.EIO,
		cairn.KindDegraded: nbdproto.EIO, cairn.KindIO: nbdproto.EIO, cairn.KindOther: nbdproto.EIO,
	} {
		d := newDevice(1<<20, 512)
		d.fail = &cairn.Error{Op: "use", Subject: "db", Kind: kind}
		s := serve(t, heads(d))
		for _, structured := range []bool{false, true} {
			c := s.dial(nbdclient.Options{Export: "db", Structured: structured})
			for name, err := range map[string]error{
				"read":  c.ReadAt(t.Context(), make([]byte, 512), 0),
				"write": c.WriteAt(t.Context(), make([]byte, 512), 0, false),
				"flush": c.Flush(t.Context()),
			} {
				var a *nbdclient.Answer
				if !errors.As(err, &a) || a.Errno != want || structured != (a.Text == d.fail.Error()) {
					t.Errorf("%v, structured %v: %s answered %v", kind, structured, name, err)
				}
			}
		}
	}
}

func TestFlagsReachTheDevice(t *testing.T) {
	d := newDevice(1<<20, 512)
	c := serve(t, heads(d)).dial(nbdclient.Options{Export: "db"})
	ctx := t.Context()
	for _, err := range []error{
		c.WriteAt(ctx, make([]byte, 512), 0, true),
		c.Flush(ctx),
		c.WriteZeroes(ctx, 0, 512, 0),
		c.WriteZeroes(ctx, 0, 512, nbdproto.CmdFlagNoHole|nbdproto.CmdFlagFUA),
		c.WriteZeroes(ctx, 0, 512, nbdproto.CmdFlagFastZero),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := c.WriteZeroes(ctx, 0, 512, nbdproto.CmdFlagFastZero|nbdproto.CmdFlagNoHole); !errors.Is(err, cairn.KindUnsupported) {
		t.Errorf("fast zeroes without a hole: %v", err)
	}
	if _, err := c.Do(ctx, nbdproto.Request{Type: nbdproto.CmdTrim, Flags: nbdproto.CmdFlagFUA, Length: 512}, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Do(ctx, nbdproto.Request{Type: nbdproto.CmdCache, Length: 1 << 20}, nil); err != nil {
		t.Fatal(err)
	}
	want := []cairn.WriteFlags{cairn.MayUnmap, cairn.FUA, cairn.MayUnmap | cairn.FastOnly, cairn.FastOnly, cairn.MayUnmap}
	if !slices.Equal(d.flags, want) || d.fua != 1 || d.flushes != 2 {
		t.Errorf("flags %v, FUA writes %d, flushes %d", d.flags, d.fua, d.flushes)
	}
}

// Once writes prove slow they wait side by side, and a read passes them.
func TestSlowWritesOverlap(t *testing.T) {
	d := newDevice(1<<20, 512)
	var mu sync.Mutex
	running, most := 0, 0
	d.wait = func(ctx context.Context, write bool) {
		if !write {
			return
		}
		mu.Lock()
		running++
		most = max(most, running)
		mu.Unlock()
		time.Sleep(5 * time.Millisecond)
		mu.Lock()
		running--
		mu.Unlock()
	}
	c := serve(t, heads(d), func(o *nbd.Options) { o.Workers = 8 }).dial(nbdclient.Options{Export: "db"})
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			if err := c.WriteAt(t.Context(), make([]byte, 512), int64(i)*512, false); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	mu.Lock()
	defer mu.Unlock()
	if most < 4 || most > 9 {
		t.Errorf("%d writes ran at once, want nearly 8", most)
	}
}

// A connection's buffers stay within the budget however many reads are asked for.
func TestManyLargeReadsStayWithinTheBudget(t *testing.T) {
	d := newDevice(64<<20, 512)
	var mu sync.Mutex
	held, most := 0, 0
	d.wait = func(context.Context, bool) {
		mu.Lock()
		held += 16 << 20
		most = max(most, held)
		mu.Unlock()
		time.Sleep(50 * time.Millisecond)
		mu.Lock()
		held -= 16 << 20
		mu.Unlock()
	}
	c := serve(t, heads(d)).dial(nbdclient.Options{Export: "db"})
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			if err := c.ReadAt(t.Context(), make([]byte, 16<<20), 0); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	mu.Lock()
	defer mu.Unlock()
	if most > nbd.MaxPayload {
		t.Errorf("%d bytes of buffers were in use", most)
	}
}

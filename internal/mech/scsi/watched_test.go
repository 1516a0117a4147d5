package scsi_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cairn"
	"cairn/internal/mech/scsi"
)

// device answers after as long as the next of its delays says.
type device struct {
	delays []time.Duration
	closed bool
}

func (d *device) Carry(c scsi.Command) (scsi.Result, error) {
	var delay time.Duration
	if len(d.delays) > 0 {
		delay, d.delays = d.delays[0], d.delays[1:]
	}
	time.Sleep(delay)
	for i := range c.In {
		c.In[i] = 7
	}
	return scsi.Result{Received: len(c.In)}, nil
}

func (d *device) MaxTransfer() int { return 4096 }

func (d *device) Close() error {
	d.closed = true
	return nil
}

// A command that does not end is given up by its limit, the error names it and since
// when; the next waits for it no longer than that, and goes on when it has ended.
func TestStalledDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &device{delays: []time.Duration{2 * time.Hour}}
		w := scsi.Watch(d, "/dev/sg7")
		began := time.Now()
		buf := make([]byte, 512)
		_, err := w.Do(t.Context(), scsi.Command{CDB: scsi.Write(512), Out: buf})
		if cairn.KindOf(err) != cairn.KindStuck || !strings.Contains(err.Error(), "WRITE(6) has not ended since "+began.Format(time.DateTime)) || !strings.Contains(err.Error(), "/dev/sg7") {
			t.Errorf("%v", err)
		}
		if took := time.Since(began); took < scsi.Limit(scsi.OpWrite6) || took > scsi.Limit(scsi.OpWrite6)+time.Minute {
			t.Errorf("given up after %v", took)
		}
		_, err = w.Do(t.Context(), scsi.Command{CDB: scsi.TestUnitReady()})
		if cairn.KindOf(err) != cairn.KindStuck || !strings.Contains(err.Error(), "WRITE(6)") {
			t.Errorf("the next: %v", err)
		}
		if err := w.Close(); cairn.KindOf(err) != cairn.KindStuck || d.closed {
			t.Errorf("closing: %v, closed %v", err, d.closed)
		}
		time.Sleep(2 * time.Hour)
		if _, err := w.Do(t.Context(), scsi.Command{CDB: scsi.Read(512), In: buf}); err != nil || buf[511] != 7 {
			t.Errorf("when it had ended: %v", err)
		}
		if err := w.Close(); err != nil || !d.closed {
			t.Errorf("closing at last: %v, closed %v", err, d.closed)
		}
	})
}

// A context ends the wait at once; what the device still writes does not reach the
// caller's buffer; the next command has its turn when that one is over.
func TestCanceledCommand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := scsi.Watch(&device{delays: []time.Duration{10 * time.Minute}}, "d")
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		began := time.Now()
		buf, second := make([]byte, 100), make([]byte, 100)
		if _, err := w.Do(ctx, scsi.Command{CDB: scsi.Read(100), In: buf}); cairn.KindOf(err) != cairn.KindCanceled || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		if time.Since(began) != time.Minute {
			t.Errorf("after %v", time.Since(began))
		}
		if _, err := w.Do(t.Context(), scsi.Command{CDB: scsi.Read(100), In: second}); err != nil || time.Since(began) != 10*time.Minute {
			t.Errorf("the next: %v after %v", err, time.Since(began))
		}
		if !bytes.Equal(buf, make([]byte, 100)) || second[0] != 7 {
			t.Error("the first buffer was written to, or the second was not")
		}
		left, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		slow := scsi.Watch(&device{delays: []time.Duration{10 * time.Minute}}, "d")
		_, _ = slow.Do(left, scsi.Command{CDB: scsi.Read(100), In: buf})
		began = time.Now()
		if err := slow.Close(); cairn.KindOf(err) != cairn.KindCanceled || time.Since(began) != time.Minute || !strings.Contains(err.Error(), "READ(6)") {
			t.Errorf("closing with a command under way: %v after %v", err, time.Since(began))
		}
		time.Sleep(10 * time.Minute) // until it has ended
		if _, err := w.Do(t.Context(), scsi.Command{CDB: scsi.Write(4097), Out: make([]byte, 4097)}); cairn.KindOf(err) != cairn.KindInvalid {
			t.Errorf("too long: %v", err)
		}
	})
}

// Where there is no such node, opening says so.
func TestOpenSgOfWhatIsNone(t *testing.T) {
	if _, err := scsi.OpenSg(t.TempDir() + "/sg0"); cairn.KindOf(err) != cairn.KindNotFound && cairn.KindOf(err) != cairn.KindUnsupported {
		t.Errorf("%v", err)
	}
	if _, err := scsi.OpenSg("/dev/null"); err == nil {
		t.Error("/dev/null is taken for a drive")
	}
}

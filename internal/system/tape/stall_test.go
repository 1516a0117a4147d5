package tape_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"cairn"
	"cairn/internal/policy/syncpolicy"
	"cairn/internal/system/tape"
)

// A drive that does not answer is reported after an hour; who waits for it is let
// go, who comes later is refused at once, and when it answers everything goes on.
func TestStalledDrive(t *testing.T) {
	for _, stalled := range []string{"write", "filemark"} {
		t.Run(stalled, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { stall(t, stalled) })
		})
	}
}

func stall(t *testing.T, stalled string) {
	d := blank(t)
	f := mount(t, d, tape.FSOptions{Policy: syncpolicy.Default()})
	write(t, f.Root(), "old", make([]byte, 50000))
	if err := f.Sync(t.Context(), syncpolicy.Manual, false); err != nil {
		t.Fatal(err)
	}
	answer := make(chan struct{})
	d.Fail = func(call string) error {
		if call == stalled {
			<-answer
		}
		return nil
	}
	h := begin(t, f.Root(), "new", []byte("new"))
	start := time.Now()
	results := make(chan error, 3)
	go func() { results <- h.Node().Fsync(t.Context()) }()
	go func() { results <- f.Sync(t.Context(), syncpolicy.Manual, false) }()
	go func() {
		time.Sleep(time.Minute)
		_, err := child(t, f.Root(), "old").Read(t.Context(), make([]byte, 4096), 0)
		results <- err
	}()
	time.Sleep(30 * time.Minute)
	if waited := time.Since(f.Status().Waiting); waited < 29*time.Minute || waited > 31*time.Minute {
		t.Errorf("the call under way is said to take %v", waited)
	}
	if total, left := f.Room(); total != 0 || left != 0 { // without end; what matters is that it does not wait
		t.Errorf("room %d of %d", left, total)
	}
	for range 3 {
		if err := <-results; !errors.Is(err, cairn.KindStuck) {
			t.Errorf("on a drive that does not answer: %v", err)
		}
	}
	if took := time.Since(start); took < time.Hour || took > 2*time.Hour+time.Minute {
		t.Errorf("they were let go after %v", took)
	}
	again := time.Now()
	if _, err := child(t, f.Root(), "old").Read(t.Context(), make([]byte, 4096), 8192); !errors.Is(err, cairn.KindStuck) || time.Since(again) > 0 {
		t.Errorf("a later reader: %v, after %v", err, time.Since(again))
	}
	if s := f.Status(); cairn.KindOf(s.Err) != cairn.KindStuck || s.Failures == 0 {
		t.Errorf("status: %+v", s)
	}
	close(answer)
	time.Sleep(2 * time.Minute)
	if s := f.Status(); s.Failures != 0 || s.Risk != (tape.Risk{}) || !s.Waiting.IsZero() || cairn.KindOf(s.LastErr) != cairn.KindStuck {
		t.Errorf("after it answered: %+v", s)
	}
	finish(t, h)
	unmount(t, f)
	afterwards := mount(t, d, tape.FSOptions{})
	if got := content(t, child(t, afterwards.Root(), "new")); string(got) != "new" {
		t.Errorf("%q", got)
	}
	checkInOrder(t, afterwards)
	unmount(t, afterwards)
}

// A drive that never answers again does not keep an unmount for ever.
func TestUnmountOfAStalledDrive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := blank(t)
		f := mount(t, d, tape.FSOptions{})
		answer := make(chan struct{})
		d.Fail = func(call string) error {
			if call == "filemark" {
				<-answer
			}
			return nil
		}
		write(t, f.Root(), "lost", []byte("x"))
		start := time.Now()
		if err := f.Close(t.Context()); !errors.Is(err, cairn.KindStuck) || time.Since(start) > 3*time.Hour {
			t.Errorf("%v, after %v", err, time.Since(start))
		}
		close(answer)
	})
}

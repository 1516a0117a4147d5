package replicate_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cairn"
	"cairn/internal/mech/retry"
	"cairn/internal/mech/watchdog"
	"cairn/internal/policy/plan"
	"cairn/internal/testkit/memory"
	"cairn/internal/work/replicate"
)

const volume = 256 << 10

// bench is a pair of places.
type bench struct {
	*testing.T
	src, dst *memory.Place
	o        replicate.Options
	rnd      *rand.Rand
}

// bubble runs a test on a pair of places whose time is driven.
func bubble(t *testing.T, fn func(b *bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &bench{T: t, src: memory.New("here"), dst: memory.New("vault"), rnd: rand.New(rand.NewPCG(1, 2))}
		b.o = replicate.Options{Sender: b.src.Endpoint(), Receiver: b.dst.Endpoint(), Filter: cairn.All, Owner: "nightly", Initial: plan.All}
		fn(b)
	})
}

// grow makes the volume if needed, and versions of it, a minute apart. Each writes
// 64 KiB of new content.
func (b *bench) grow(dataset string, names ...string) {
	b.Helper()
	if err := b.src.Create(dataset, volume); err != nil && !errors.Is(err, cairn.KindExists) {
		b.Fatal(err)
	}
	for _, name := range names {
		p := make([]byte, 64<<10)
		for i := range p {
			p[i] = byte(b.rnd.Uint32())
		}
		if err := b.src.Write(dataset, int64(b.rnd.IntN(3))*(64<<10), p); err != nil {
			b.Fatal(err)
		}
		time.Sleep(time.Minute)
		got, err := b.src.Endpoint().Snapshots.Snapshot(b.Context(), name, []string{dataset}, false)
		if err != nil || got[0].Err != nil {
			b.Fatal(err, got)
		}
	}
}

func (b *bench) list(p *memory.Place, dataset string) *cairn.Listing {
	b.Helper()
	q := cairn.Query{Filter: cairn.All, Names: []string{dataset}, Want: cairn.Want{Versions: true, Leases: true, Partial: true}}
	for l, err := range p.Endpoint().Lister.List(b.Context(), q) {
		if err != nil {
			b.Fatal(err)
		}
		return l
	}
	return &cairn.Listing{}
}

// equal wants both places to hold the same bytes of every snapshot the sender has
// (or of the named ones).
func (b *bench) equal(dataset string, names ...string) {
	b.Helper()
	if names == nil {
		for _, v := range b.list(b.src, dataset).Versions {
			if v.IsSnapshot() {
				names = append(names, v.Name)
			}
		}
	}
	for _, name := range names {
		x, errX := b.src.Content(dataset, name)
		y, errY := b.dst.Content(dataset, name)
		if errX != nil || errY != nil || !bytes.Equal(x, y) {
			b.Errorf("%s%s differs: %v, %v", dataset, name, errX, errY)
		}
	}
}

// leases renders who holds what: "@a:nightly/step".
func (b *bench) leases(p *memory.Place, dataset string) string {
	var out []string
	for _, v := range b.list(p, dataset).Versions {
		for _, l := range v.Leases {
			out = append(out, fmt.Sprintf("%s:%s/%s", v.Name, l.Owner, l.Purpose))
		}
	}
	return strings.Join(out, " ")
}

func (b *bench) run() *replicate.Report {
	b.Helper()
	r, err := replicate.Run(b.Context(), b.o)
	if err != nil {
		b.Fatal(err)
	}
	return r
}

// states renders a report: "a=done b=failed".
func states(r *replicate.Report) string {
	var out []string
	for _, d := range r.Datasets {
		out = append(out, d.Dataset+"="+string(d.State))
	}
	return strings.Join(out, " ")
}

// steps renders the steps that were begun, attempt by attempt:
// ">@a @a>@b | resume @a>@b".
func steps(d replicate.DatasetReport) string {
	var attempts []string
	for _, a := range d.Attempts {
		var words []string
		for _, s := range a.Steps {
			if s.State == replicate.Waiting {
				continue
			}
			word := s.From + ">" + s.To
			if s.Resumed {
				word = "resume " + word
			}
			words = append(words, word)
		}
		attempts = append(attempts, strings.Join(words, " "))
	}
	return strings.Join(attempts, " | ")
}

func TestEverythingArrives(t *testing.T) {
	bubble(t, func(b *bench) {
		b.grow("db", "@a", "@b")
		b.grow("vm", "@a")
		b.grow("vm/disk", "@a", "@c")
		r := b.run()
		if got := states(r); got != "db=done vm=done vm/disk=done" {
			t.Error(got)
		}
		b.equal("db")
		b.equal("vm")
		b.equal("vm/disk")
		if got := steps(r.Datasets[0]); got != ">@a @a>@b" {
			t.Error(got)
		}
		if s := r.Datasets[0].Attempts[0].Steps[1]; s.BytesMoved < 64<<10 || s.BytesMoved > 80<<10 || s.BytesExpected != 64<<10 || s.State != replicate.Done {
			t.Errorf("%+v", s)
		}
		if got := states(b.run()); got != "db=up to date vm=up to date vm/disk=up to date" {
			t.Error(got)
		}
		b.grow("db", "@c")
		r = b.run()
		if got := states(r); got != "db=done vm=up to date vm/disk=up to date" || steps(r.Datasets[0]) != "@b>@c" {
			t.Error(got, steps(r.Datasets[0]))
		}
		b.equal("db")
		if _, err := json.Marshal(r); err != nil {
			t.Error(err)
		}
	})
}

// A connection that drops in step k of n: all n steps are done, what had arrived
// is not sent again, and only then the run succeeds.
func TestDroppedConnectionInEveryStep(t *testing.T) {
	names := []string{"@a", "@b", "@c", "@d"}
	for k := range names {
		for _, side := range []string{"receive", "send"} {
			t.Run(fmt.Sprintf("%s %d", side, k), func(t *testing.T) {
				bubble(t, func(b *bench) {
					b.grow("db", names...)
					step := -1
					cut := func(_ context.Context, c memory.Call) error {
						if c.Bytes == 0 {
							step++
						}
						if c.Bytes > 40<<10 && step == k {
							step = 99
							return cairn.KindUnavailable
						}
						return nil
					}
					at := b.dst
					if side == "send" {
						at = b.src
					}
					at.Hook(memory.On(cairn.Ability(side), memory.Body, cut))
					r := b.run()
					b.equal("db")
					d := r.Datasets[0]
					if d.State != replicate.Done || len(d.Attempts) != 2 {
						t.Fatalf("%s after %d attempts: %s", d.State, len(d.Attempts), steps(d))
					}
					again := d.Attempts[1].Steps
					if len(again) != len(names)-k || !again[0].Resumed || again[0].To != names[k] || again[0].BytesMoved > 48<<10 {
						t.Errorf("second attempt: %s, %d bytes", steps(d), again[0].BytesMoved)
					}
					if d.Attempts[0].ErrorKind != "unavailable" {
						t.Errorf("first attempt failed with %q", d.Attempts[0].Error)
					}
				})
			})
		}
	}
}

// The receiver has it, but the answer was lost: nothing is sent twice, and the
// cursor moves.
func TestLostAcknowledgement(t *testing.T) {
	bubble(t, func(b *bench) {
		b.grow("db", "@a", "@b")
		b.dst.Hook(memory.On("receive", memory.Done, memory.Fail(1, cairn.KindUnavailable)))
		r := b.run()
		if got := steps(r.Datasets[0]); got != ">@a | @a>@b" {
			t.Error(got)
		}
		b.equal("db")
		if got := b.leases(b.src, "db"); got != "@b:nightly/cursor" {
			t.Error(got)
		}
	})
}

// Planning fails for a reason that may pass: it is tried again, with one dataset
// or the whole listing.
func TestPlanningIsRetried(t *testing.T) {
	bubble(t, func(b *bench) {
		b.grow("db", "@a")
		b.dst.Hook(memory.On("list", memory.Begin, memory.Fail(2, cairn.KindUnavailable)))
		b.run()
		b.equal("db")
		b.dst.Hook(memory.On("list", memory.Begin, memory.Fail(0, cairn.KindPermission)))
		r, err := replicate.Run(b.Context(), b.o)
		if !errors.Is(err, cairn.KindPermission) || r == nil || r.Error == "" {
			t.Errorf("%v, %+v", err, r)
		}
	})
}

// Whether to try again is decided from each dataset's own error.
func TestErrorsAreClassifiedPerDataset(t *testing.T) {
	bubble(t, func(b *bench) {
		for _, d := range []string{"a", "b", "c"} {
			b.grow(d, "@1")
		}
		b.o.Steps = 3
		unreachable := memory.Fail(1, cairn.KindUnavailable)
		b.dst.Hook(memory.On("receive", memory.Begin, func(ctx context.Context, c memory.Call) error {
			switch c.Dataset {
			case "a":
				return cairn.KindSpace
			case "b":
				return unreachable(ctx, c)
			}
			return nil
		}))
		r, err := replicate.Run(b.Context(), b.o)
		if got := states(r); got != "a=failed b=done c=done" {
			t.Error(got)
		}
		if !errors.Is(err, cairn.KindSpace) || !strings.Contains(err.Error(), "1 of 3 datasets") {
			t.Error(err)
		}
		if n := []int{len(r.Datasets[0].Attempts), len(r.Datasets[1].Attempts)}; !slices.Equal(n, []int{1, 2}) {
			t.Errorf("attempts %v", n)
		}
	})
}

// Attempts that get nowhere are bounded; those that get somewhere are not.
func TestAttemptsThatGetNowhereAreBounded(t *testing.T) {
	bubble(t, func(b *bench) {
		b.grow("db", "@a")
		b.o.Retry = retry.Policy{Attempts: 4}
		b.dst.Hook(memory.On("receive", memory.Begin, memory.Fail(0, cairn.KindUnavailable)))
		r, err := replicate.Run(b.Context(), b.o)
		if !errors.Is(err, cairn.KindUnavailable) || len(r.Datasets[0].Attempts) != 4 {
			t.Errorf("%v after %d attempts", err, len(r.Datasets[0].Attempts))
		}
		b.dst.Unhook()
		big := make([]byte, volume)
		for i := range big {
			big[i] = byte(b.rnd.Uint32())
		}
		if err := b.src.Write("db", 0, big); err != nil {
			t.Fatal(err)
		}
		b.grow("db", "@b")
		b.run()
		// every connection carries 64 KiB and breaks: two attempts would not do
		b.o.Retry = retry.Policy{Attempts: 2}
		if err := b.src.Write("db", 0, big); err != nil {
			t.Fatal(err)
		}
		b.grow("db", "@c")
		b.dst.Hook(memory.On("receive", memory.Body, func(_ context.Context, c memory.Call) error {
			if c.Bytes >= 64<<10 {
				return cairn.KindUnavailable
			}
			return nil
		}))
		r = b.run()
		if n := len(r.Datasets[0].Attempts); n < 3 {
			t.Errorf("done in %d attempts", n)
		}
		b.equal("db")
	})
}

// The CPU time of a program that fails each time is no way forward.
func TestBusyFailureIsNoProgress(t *testing.T) {
	bubble(t, func(b *bench) {
		b.grow("db", "@a")
		b.o.Retry = retry.Policy{Attempts: 2}
		var spent int64
		b.dst.Hook(memory.On("receive", memory.Begin, func(ctx context.Context, _ memory.Call) error {
			spent += 100
			watchdog.From(ctx).Level("program cpu ms", spent)
			if spent > 1000 {
				return nil
			}
			return cairn.KindUnavailable
		}))
		r, err := replicate.Run(b.Context(), b.o)
		if !errors.Is(err, cairn.KindUnavailable) || len(r.Datasets[0].Attempts) != 2 {
			t.Errorf("%v after %d attempts", err, len(r.Datasets[0].Attempts))
		}
	})
}

// A receiver that hangs and does not even heed a cancel: the other datasets go on
// in the same slot, the hanging one is stuck, stays locked, and is free again when
// the call returns.
func TestHungDatasetGivesItsSlotBackAndStaysLocked(t *testing.T) {
	bubble(t, func(b *bench) {
		b.grow("a", "@1") // the oldest: it goes first
		b.grow("b", "@1")
		b.grow("c", "@1")
		free := make(chan struct{})
		b.dst.Hook(memory.On("receive", memory.Commit, func(_ context.Context, c memory.Call) error {
			if c.Dataset == "a" {
				<-free
			}
			return nil
		}))
		q := &watchdog.Quarantine{}
		b.o.Watchdog = watchdog.Options{Limit: 5 * time.Minute, Quarantine: q}
		began := time.Now()
		r, err := replicate.Run(b.Context(), b.o)
		if got := states(r); got != "a=stuck b=done c=done" || !errors.Is(err, cairn.KindStuck) {
			t.Error(got, err)
		}
		if took := time.Since(began); took > 6*time.Minute {
			t.Errorf("the run took %s", took)
		}
		var stall *watchdog.Stall
		if !errors.As(err, &stall) || stall.Phase != "commit" || !stall.Abandoned {
			t.Errorf("stall %+v", stall)
		}
		if len(q.Held()) != 1 || q.Held()[0].Lock != "a" {
			t.Errorf("locked: %+v", q.Held())
		}
		began = time.Now()
		if _, err := replicate.Run(b.Context(), b.o); !errors.Is(err, cairn.KindBusy) || time.Since(began) > 0 {
			t.Errorf("second run: %v after %s", err, time.Since(began))
		}
		close(free)
		b.dst.Unhook()
		synctest.Wait()
		b.run()
		b.equal("a")
	})
}

// A dataset that hangs but heeds the cancel is stuck, not locked.
func TestStallSaysPhase(t *testing.T) {
	for ability, phase := range map[cairn.Ability]string{"send": "send", "receive": "receive", "lease": "lease"} {
		bubble(t, func(b *bench) {
			b.grow("a", "@1")
			b.o.Sender.Estimates = nil
			hang := memory.Hook(memory.Hang)
			if ability == "lease" {
				first := true
				hang = func(ctx context.Context, c memory.Call) error {
					if first { // the plan's
						first = false
						return nil
					}
					return memory.Hang(ctx, c)
				}
			}
			b.src.Hook(memory.On(ability, memory.Begin, hang))
			b.dst.Hook(memory.On(ability, memory.Begin, hang))
			r, err := replicate.Run(b.Context(), b.o)
			var stall *watchdog.Stall
			if !errors.As(err, &stall) || stall.Phase != phase || r.Datasets[0].State != replicate.Stuck {
				t.Errorf("%s: %v, %s", ability, err, states(r))
			}
		})
	}
}

// The limit judges missing progress, not duration.
func TestSlowIsNotStuck(t *testing.T) {
	bubble(t, func(b *bench) {
		b.grow("db", "@a", "@b", "@c")
		b.o.Watchdog.Limit = 10 * time.Minute
		b.dst.Hook(memory.On("receive", memory.Body, memory.Delay(9*time.Minute)))
		began := time.Now()
		b.run()
		b.equal("db")
		if took := time.Since(began); took < time.Hour {
			b.Errorf("took only %s", took)
		}
	})
}

// Attempts that fail at the same place for ever are a stall, not a live-lock: the
// progress of a step is one over all its attempts.
func TestLoopOfFailingAttemptsIsAStall(t *testing.T) {
	bubble(t, func(b *bench) {
		b.grow("db", "@a")
		b.o.Watchdog.Limit = time.Minute
		b.o.Retry = retry.Policy{Attempts: 1_000_000, Max: time.Second}
		b.dst.Hook(memory.On("receive", memory.Begin, func(ctx context.Context, c memory.Call) error {
			return errors.Join(memory.Delay(time.Second)(ctx, c), cairn.KindUnavailable)
		}))
		began := time.Now()
		_, err := replicate.Run(b.Context(), b.o)
		if took := time.Since(began); !errors.Is(err, cairn.KindStuck) || took > 5*time.Minute {
			b.Errorf("%v after %s", err, took)
		}
	})
}

// After a cancel no queued step is begun, and the run ends in bounded time.
func TestCancelStartsNothing(t *testing.T) {
	bubble(t, func(b *bench) {
		for _, d := range []string{"a", "b", "c"} {
			b.grow(d, "@1", "@2")
		}
		var mu sync.Mutex // guards sent
		sent := 0
		b.src.Hook(memory.On("send", memory.Begin, func(context.Context, memory.Call) error {
			mu.Lock()
			defer mu.Unlock()
			sent++
			return nil
		}))
		ctx, cancel := context.WithCancel(b.Context())
		b.dst.Hook(memory.On("receive", memory.Body, func(ctx context.Context, c memory.Call) error {
			cancel()
			return memory.Hang(ctx, c)
		}))
		began := time.Now()
		r, err := replicate.Run(ctx, b.o)
		if !errors.Is(err, cairn.KindCanceled) || sent != 1 || time.Since(began) > 15*time.Second {
			t.Errorf("%v; %d sends, %s", err, sent, time.Since(began))
		}
		if got := states(r); got != "a=canceled b=canceled c=canceled" {
			t.Error(got)
		}
		if got := b.leases(b.src, "b"); got != "" {
			t.Errorf("leases left: %s", got)
		}
	})
}

// Over all datasets the oldest version goes first.
func TestOldestFirst(t *testing.T) {
	bubble(t, func(b *bench) {
		b.grow("b", "@1")
		b.grow("a", "@2")
		b.grow("b", "@3")
		b.grow("a", "@4")
		var order []string
		b.o.StepDone = func(dataset string, s replicate.StepReport) { order = append(order, dataset+s.To) }
		b.run()
		if got := strings.Join(order, " "); got != "b@1 a@2 b@3 a@4" {
			t.Error(got)
		}
	})
}

func TestParentsComeFirst(t *testing.T) {
	bubble(t, func(b *bench) {
		b.grow("p/q/c", "@1")
		b.grow("p", "@2")
		b.grow("other", "@3")
		var order []string
		b.o.StepDone = func(dataset string, s replicate.StepReport) { order = append(order, dataset) }
		b.run()
		if got := strings.Join(order, " "); got != "p p/q/c other" && got != "p other p/q/c" {
			t.Error(got)
		}
	})
	bubble(t, func(b *bench) {
		b.grow("p", "@1")
		b.grow("p/c", "@1")
		b.grow("other", "@1")
		b.dst.Hook(memory.On("receive", memory.Begin, func(_ context.Context, c memory.Call) error {
			if c.Dataset == "p" {
				return cairn.KindSpace
			}
			return nil
		}))
		r, _ := replicate.Run(b.Context(), b.o)
		if got := states(r); got != "other=done p=failed p/c=failed" {
			t.Error(got)
		}
		if d := r.Datasets[2]; !strings.Contains(d.Error, "p, which comes first") || len(d.Attempts) != 0 {
			t.Errorf("%+v", d)
		}
	})
	bubble(t, func(b *bench) { // a parent without versions has no plan: what waits for it ends
		b.grow("p")
		b.grow("p/c", "@1")
		r, _ := replicate.Run(b.Context(), b.o)
		if got := states(r); got != "p=failed p/c=failed" {
			t.Error(got)
		}
	})
}

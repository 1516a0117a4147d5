package cli

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"cairn"
	"cairn/client"
)

func TestSizesAndAges(t *testing.T) {
	for n, want := range map[int64]string{-1: "-", 0: "0 B", 999: "999 B", 4096: "4 KiB", 1536: "1.5 KiB", 1 << 30: "1 GiB", 1000 << 20: "1 GiB", 5 << 50: "5 PiB"} {
		if got := size(n); got != want {
			t.Errorf("%d is %q, want %q", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{0: "now", 90 * time.Second: "90 s", 3 * time.Minute: "3 min", 5 * time.Hour: "5 h", 50 * time.Hour: "2 d"} {
		if got := span(d); got != want {
			t.Errorf("%v is %q, want %q", d, got, want)
		}
	}
}

func TestParseSize(t *testing.T) {
	for in, want := range map[string]int64{"0": 0, "512": 512, "4KiB": 4096, "4 KiB": 4096, "4k": 4096, "1.5G": 3 << 29, "10GiB": 10 << 30, "2TB": 2 << 40, "7B": 7} {
		if got, err := parseSize(in); err != nil || got != want {
			t.Errorf("%q is %d, %v; want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", "x", "-1", "1.2.3", "9999999P", "10 elephants", "GiB", "1iB2"} {
		if got, err := parseSize(in); !errors.Is(err, cairn.KindInvalid) || cairn.HintOf(err) == "" {
			t.Errorf("%q is %d, %v", in, got, err)
		}
	}
}

func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		err         error
		interrupted bool
		want        int
	}{
		{nil, false, 0}, {nil, true, 0}, {errors.New("x"), false, 1}, {&usageError{err: errors.New("x")}, false, 2},
		{&cairn.Error{Kind: cairn.KindConfig}, false, 28}, {&cairn.Error{Kind: cairn.KindCanceled}, false, 26},
		{&cairn.Error{Kind: cairn.KindCanceled}, true, 130}, {errors.New("x"), true, 130}, {&cairn.Error{Kind: cairn.KindSpace}, true, 16},
	} {
		if got := exitCode(c.err, c.interrupted); got != c.want {
			t.Errorf("%v, interrupted %v: %d, want %d", c.err, c.interrupted, got, c.want)
		}
	}
}

func TestNobodyIsAskedWithoutATerminal(t *testing.T) {
	var out bytes.Buffer
	p := &program{in: strings.NewReader("y\n"), out: &out, errOut: &out}
	if ok, err := p.agree(t.Context(), consent{}, "destroy", "db", "destroy db"); ok || !errors.Is(err, cairn.KindInvalid) || !strings.Contains(cairn.HintOf(err), "--yes") {
		t.Errorf("agreed %v, %v", ok, err)
	}
	if ok, err := p.agree(t.Context(), consent{dryRun: true, yes: true}, "destroy", "db", "destroy db"); ok || err != nil || out.String() != "would destroy db\n" {
		t.Errorf("dry run: agreed %v, %v, said %q", ok, err, out.String())
	}
	if ok, err := p.agree(t.Context(), consent{yes: true}, "destroy", "db", "destroy db"); !ok || err != nil {
		t.Errorf("--yes: agreed %v, %v", ok, err)
	}
}

func TestStatusShowsProblemsFirst(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	var out bytes.Buffer
	p := &program{out: &out}
	err := p.printStatus(&client.Status{Now: now, Places: []string{"here", "vault"}, Total: 3,
		Problems: []client.Problem{{Job: "nightly", Dataset: "db", State: "stuck", Since: ago(14 * time.Minute), What: "vault busy\nafter end of data", Next: "retry in 2 min"}},
		Datasets: []client.Dataset{
			{Name: "db", Kind: "volume", State: "ok", Next: "nightly", NextAt: now.Add(7 * time.Minute), Places: map[string]client.Protected{
				"here": {Newest: ago(3 * time.Minute), Count: 22, State: "ok"}, "vault": {Newest: ago(24 * time.Minute), Count: 19, State: "late"}}},
			{Name: "logs", Kind: "volume", State: "unverified", Why: "written by others", Places: map[string]client.Protected{"here": {State: "ok"}}}},
		Jobs: []client.Job{{Name: "nightly", Type: "push", State: "running", Running: &client.Run{Started: ago(time.Minute), Steps: []client.Step{{State: "done", Moved: 1 << 20}, {State: "running", Moved: 1 << 20}}}}},
	})
	want := `1 problem
! nightly db STUCK 14 min: vault busy; after end of data; retry in 2 min
DATASET  KIND    HERE        vault              NEXT
db       volume  3 min (22)  late, 24 min (19)  nightly in 7 min
logs     volume  none        -                  unverified: written by others
and 1 more (--limit)
JOB nightly  push, running, since 60 s, 1 of 2 steps, 2 MiB
`
	if err != nil || out.String() != want {
		t.Errorf("%v\n%s\nwant\n%s", err, out.String(), want)
	}
}

func TestBarLine(t *testing.T) {
	got := barLine("send db@a", 1<<30, 4<<30, "send", 10*time.Second, 200)
	if want := "send db@a [=====               ] 1 GiB of 4 GiB, 102 MiB/s, 30 s left, send"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := barLine("send", 5, -1, "", 0, 200); got != "send 5 B" {
		t.Errorf("%q", got)
	}
	if got := barLine("send", 5, -1, "", 0, 3); got != "sen" {
		t.Errorf("%q is not cut to the width", got)
	}
}

func TestProgressIsPlainLinesWithoutATerminal(t *testing.T) {
	var out bytes.Buffer
	p := &program{out: &out, errOut: &out}
	b := p.startBar("send db@a")
	if b.person {
		t.Fatal("a buffer passes for a terminal")
	}
	b.every = time.Millisecond
	looks := make(chan struct{}, 100)
	b.poll(func() (int64, int64, string) {
		looks <- struct{}{}
		return 512, 1024, "send"
	})
	<-looks
	<-looks
	b.end()
	line, _, _ := strings.Cut(out.String(), "\n")
	if line != "send db@a [==========          ] 512 B of 1 KiB, send" || strings.Contains(out.String(), "\r") {
		t.Errorf("%q", out.String())
	}
}

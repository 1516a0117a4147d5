package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// result is the rounds of one work on one server.
type result struct {
	server, work string
	rounds       []sample
}

func (b *bench) add(server, work string, s sample) {
	r := b.find(server, work)
	if r == nil {
		b.results = append(b.results, result{server: server, work: work})
		r = &b.results[len(b.results)-1]
	}
	r.rounds = append(r.rounds, s)
}

func (b *bench) find(server, work string) *result {
	for i := range b.results {
		if r := &b.results[i]; r.server == server && r.work == work {
			return r
		}
	}
	return nil
}

// Figures of a round.
func perCPU(s sample) float64    { return float64(s.ops) / s.cpu.Seconds() }
func perSecond(s sample) float64 { return float64(s.ops) / s.wall.Seconds() }
func p999(s sample) float64      { return float64(s.p999) }

// median of a figure over the rounds.
func (r *result) median(figure func(sample) float64) float64 {
	var all []float64
	for _, s := range r.rounds {
		all = append(all, figure(s))
	}
	return middle(all)
}

func middle(all []float64) float64 {
	slices.Sort(all)
	n := len(all)
	if n == 0 {
		return 0
	}
	return (all[(n-1)/2] + all[n/2]) / 2
}

// ratio is the median over the rounds of our figure by theirs.
func ratio(us, them *result, figure func(sample) float64) float64 {
	var all []float64
	for i := range min(len(us.rounds), len(them.rounds)) {
		all = append(all, figure(us.rounds[i])/figure(them.rounds[i]))
	}
	return middle(all)
}

func (b *bench) print() {
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprintln(w, "workload\tserver\trounds\toperations\tserver µs/op\tops per CPU s\tops per s\tp99.9\t")
	for i := range b.results {
		r := &b.results[i]
		_, _ = fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%.1f\t%.0f\t%.0f\t%v\t\n", r.work, r.server, len(r.rounds), r.rounds[0].ops, 1e6/r.median(perCPU),
			r.median(perCPU), r.median(perSecond), latency(r.median(p999)))
	}
	_ = w.Flush()
}

// latency is a figure that fio gave, or nothing.
func latency(ns float64) string {
	if ns == 0 {
		return "-"
	}
	return time.Duration(ns).Round(10 * time.Microsecond).String()
}

func (b *bench) atLeast(what string, got, least float64) {
	verdict := "holds"
	if got < least {
		verdict = "SHORT"
		b.short = append(b.short, what)
	}
	fmt.Printf("%-6s %s: %.2f, at least %.2f\n", verdict, what, got, least)
}

func (b *bench) atMost(what string, got, most float64) {
	verdict := "holds"
	if got > most {
		verdict = "SHORT"
		b.short = append(b.short, what)
	}
	fmt.Printf("%-6s %s: %.0f, at most %.0f\n", verdict, what, got, most)
}

// limits are the least rates per CPU second, as a multiple of the peer's.
var limits = []struct {
	work, peer string
	least      float64
}{
	{"4 KiB reads, depth 1", "nbdkit file", 1.5},
	{"4 KiB reads, depth 32", "nbdkit file", 1.5},
	{"4 KiB writes, depth 32", "nbdkit file", 1.1},
	{"1 MiB reads, depth 4", "nbdkit file", 1},
	{"1 MiB writes, depth 4", "nbdkit file", 1},
	{touchWork(1), "qemu-nbd qcow2", 1},
	{touchWork(16), "qemu-nbd qcow2", 1},
}

// judge holds the ratios against the limits; an error when one is missed.
func (b *bench) judge() error {
	for _, l := range limits {
		us, them := b.find("cairn", l.work), b.find(l.peer, l.work)
		if us != nil && them != nil {
			b.atLeast(l.work+": operations per CPU second, of "+l.peer, ratio(us, them, perCPU), l.least)
		}
	}
	for _, depth := range []int{1, 16} {
		us, them := b.find("cairn", touchWork(depth)), b.find("qemu-nbd qcow2", touchWork(depth))
		if us != nil && them != nil {
			b.atLeast(touchWork(depth)+": operations per second, of qemu-nbd qcow2", ratio(us, them, perSecond), 1)
		}
	}
	for _, c := range []struct {
		suffix string
		least  float64
	}{{"", 0.15}, {elsewhere, 0.4}} {
		before, after := b.find("cairn", workPlain+c.suffix), b.find("cairn", workTouched+c.suffix)
		if before != nil && after != nil {
			b.atLeast(workTouched+c.suffix+": operations per second, of those without a snapshot", ratio(after, before, perSecond), c.least)
		}
	}
	if len(b.short) > 0 {
		return fmt.Errorf("short in %d: %s", len(b.short), strings.Join(b.short, "; "))
	}
	fmt.Println("bench-block: every limit holds")
	return nil
}

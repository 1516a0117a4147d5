package main

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
)

// row is one measured step of one tool.
type row struct {
	tool, step string
	cpu        float64 // seconds
	read       int64   // bytes from the disk
	wrote      int64   // bytes to the disk
	moved      int64   // bytes sent or stored
	resident   int64   // bytes
}

// series is the rounds of one step of one tool.
type series struct {
	tool, step string
	rounds     []row
}

func (b *bench) of(tool, step string) *series {
	for _, s := range b.series {
		if s.tool == tool && s.step == step {
			return s
		}
	}
	return nil
}

func (b *bench) add(r row) *row {
	s := b.of(r.tool, r.step)
	if s == nil {
		s = &series{tool: r.tool, step: r.step}
		b.series = append(b.series, s)
	}
	s.rounds = append(s.rounds, r)
	return &s.rounds[len(s.rounds)-1]
}

// middle is the median of each figure.
func (s *series) middle() row {
	r := row{tool: s.tool, step: s.step, cpu: median(s.rounds, func(r row) float64 { return r.cpu })}
	for _, c := range []struct {
		to  *int64
		get func(row) int64
	}{
		{&r.read, func(r row) int64 { return r.read }}, {&r.wrote, func(r row) int64 { return r.wrote }},
		{&r.moved, func(r row) int64 { return r.moved }}, {&r.resident, func(r row) int64 { return r.resident }},
	} {
		*c.to = median(s.rounds, c.get)
	}
	return r
}

// median of a figure, the upper one of two in the middle.
func median[T cmp.Ordered](rounds []row, figure func(row) T) T {
	var all []T
	for _, r := range rounds {
		all = append(all, figure(r))
	}
	slices.Sort(all)
	return all[len(all)/2]
}

func (b *bench) print() {
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', tabwriter.AlignRight)
	say := func(cells ...any) { _, _ = fmt.Fprintf(w, strings.Repeat("%v\t", len(cells))+"\n", cells...) }
	say("tool", "step", "rounds", "CPU s", "read MiB", "written MiB", "moved MiB", "memory MiB")
	for _, s := range b.series {
		r := s.middle()
		say(r.tool, r.step, len(s.rounds), fmt.Sprintf("%.2f", r.cpu), tenths(r.read), tenths(r.wrote), tenths(r.moved), r.resident/mib)
	}
	_ = w.Flush()
	fmt.Printf("changed per pattern: %s MiB; moved is sent, or added to the tool's store; a child's memory counts from that of this program, %d MiB\n",
		tenths(b.changed), own()/mib)
}

// own is the most that this program had resident: between fork and exec a child is
// charged with it.
func own() int64 {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // of oneself it cannot fail
	return u.Maxrss * 1024
}

func tenths(n int64) string { return fmt.Sprintf("%.1f", float64(n)/mib) }

// sum adds up our given steps.
func (b *bench) sum(steps ...string) (total row) {
	for _, step := range steps {
		s := b.of("cairn", step)
		if s == nil {
			continue
		}
		r := s.middle()
		total.cpu, total.read, total.wrote, total.moved = total.cpu+r.cpu, total.read+r.read, total.wrote+r.wrote, total.moved+r.moved
		total.resident = max(total.resident, r.resident)
	}
	return total
}

func (b *bench) limit(what string, got, most float64, unit string) {
	verdict := "holds"
	if got > most {
		verdict = "SHORT"
		b.short = append(b.short, what)
	}
	fmt.Printf("%-6s %s: %.2f %s, limit %.2f\n", verdict, what, got, unit, most)
}

// judge holds our figures against the limits; an error when one is missed.
func (b *bench) judge() error {
	for _, pattern := range []string{"runs", "single"} {
		send, both := b.sum(pattern+": send"), b.sum(pattern+": send", pattern+": receive")
		b.limit(pattern+": moved", float64(send.moved)/mib, 25, "MiB")
		b.limit(pattern+": read by send", float64(send.read)/mib, 25, "MiB")
		b.limit(pattern+": CPU of send", send.cpu, 0.5, "s")
		b.limit(pattern+": CPU of both sides", both.cpu, 1, "s")
		b.limit(pattern+": memory", float64(both.resident)/mib, 64, "MiB")
		for _, under := range []string{"a snapshot", "a bookmark"} {
			written := b.sum(pattern+": capture under "+under, pattern+": receive")
			b.limit(pattern+": written by capture under "+under+" and receive", float64(written.wrote)/float64(b.changed), 4, "times the change")
		}
	}
	b.limit("full: CPU of send", b.sum("full: send").cpu, 5, "s")
	b.limit("full: CPU of both sides", b.sum("full: send", "full: receive").cpu, 8, "s")
	for _, s := range b.series {
		if s.step == "full" && compresses[s.tool] {
			b.limit("full: CPU of both sides beside "+s.tool, b.beside(s), 1, "of its")
		}
	}
	if len(b.short) > 0 {
		return fmt.Errorf("short in %d: %s", len(b.short), strings.Join(b.short, "; "))
	}
	fmt.Println("bench-incremental: every limit holds")
	return nil
}

// beside is the median over the rounds of the CPU time of our full copy, both
// sides, by that of a peer's.
func (b *bench) beside(peer *series) float64 {
	var ratios []row
	send, receive := b.of("cairn", "full: send"), b.of("cairn", "full: receive")
	for i, r := range peer.rounds {
		ratios = append(ratios, row{cpu: (send.rounds[i].cpu + receive.rounds[i].cpu) / r.cpu})
	}
	return median(ratios, func(r row) float64 { return r.cpu })
}

package crash_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"cairn"
	"cairn/internal/system/volume"
	"cairn/internal/testkit/fakedisk"
)

// drawHashed is a workload on a volume with a block hash table: streams and
// verifications stand between the operations, some of which run within them.
func drawHashed(seed uint64, n int) workload {
	w := draw(seed, n)
	w.hashes = true
	rng := rand.New(rand.NewPCG(seed, 0x4a54))
	var ops []op
	for _, o := range w.ops {
		ops = append(ops, o)
		more := op{kind: opSend, pick: rng.IntN(100), fua: rng.IntN(4) == 0}
		switch rng.IntN(4) {
		case 0:
			more.kind = opVerify
		case 1:
			continue
		}
		if o.kind <= opFlush && rng.IntN(3) == 0 {
			inner := o
			inner.nested = nil
			more.nested, more.at = &inner, rng.IntN(20)
		}
		ops = append(ops, more)
	}
	w.ops = ops
	return w
}

// sendAway sends one of the snapshots, on an older version or in full, and cuts the
// stream when the operation says so.
func sendAway(e *volume.Volume, from []*version, o op) error {
	at := o.pick % len(from)
	step := cairn.Step{Dataset: "v", To: from[at].id}
	if at > 0 && o.pick%3 > 0 {
		step.From = from[at-1].id
	}
	s, err := e.Send(context.Background(), step, []cairn.Format{cairn.FormatBlocks})
	if err != nil {
		return err
	}
	var body io.Reader = s.Body
	if o.fua {
		body = io.LimitReader(body, int64(o.pick)<<10)
	}
	_, err = io.Copy(io.Discard, body)
	return errors.Join(err, s.Body.Close())
}

// vouched asks the block hash table about a version, or about everything. What it
// says must never speak against what is there.
func vouched(e *volume.Volume, id cairn.VersionID) (covered int64, err error) {
	c, err := e.Verify(context.Background(), id)
	if err == nil && len(c.Damaged) > 0 {
		err = fmt.Errorf("the block hash table calls good blocks of %q damaged: %v", id.Name, c.Damaged)
	}
	return c.Checked, err
}

// askTable is vouched in workloads with a table.
func (l *live) askTable(e *volume.Volume, id cairn.VersionID, everything bool) error {
	if !l.w.hashes {
		return nil
	}
	if everything {
		id = cairn.VersionID{}
	}
	covered, err := vouched(e, id)
	l.covered.Add(covered)
	return err
}

// byTable runs the workload of a seed with a table.
func byTable(s uint64, f volume.Fault) error {
	if failure, _ := try(drawHashed(s, *length), f, always(2)); failure != nil {
		return fmt.Errorf("cut %d: %w", failure.cut, failure.err)
	}
	return nil
}

// byLiveTable runs the workload of a seed with a table and never cuts the power.
func byLiveTable(s uint64, f volume.Fault) error {
	_, err := drawHashed(s, *length).run(f)
	return err
}

// byReceivedTable receives the versions of a seed with a table.
func byReceivedTable(s uint64, f volume.Fault) error {
	source := drawSource(s, 3)
	source.hashes = true
	_, err := tryReceive(source, f, 1)
	return err
}

// A volume with a block hash table comes out of every cut as one without; and the
// table never vouches for anything but what is there.
func TestTableCuts(t *testing.T) {
	n := workloads(1, 4)
	var total, covered atomic.Int64
	t.Run("all", func(t *testing.T) {
		for s := *from; s < *from+uint64(n); s++ {
			t.Run(fmt.Sprintf("seed=%d", s), func(t *testing.T) {
				t.Parallel()
				w := drawHashed(s, *length)
				l, err := w.run(0)
				if err != nil {
					t.Fatalf("%v\n%s", err, list(w.ops))
				}
				f, disks := l.cuts(tableCuts)
				total.Add(int64(disks))
				covered.Add(l.covered.Load())
				if f != nil {
					t.Fatal(f)
				}
			})
		}
	})
	t.Logf("%d workloads, %d crashed disks, %d bytes compared", n, total.Load(), covered.Load())
	if covered.Load() == 0 {
		t.Error("the table never vouched for anything")
	}
}

// tableCuts is every cut with two outcomes, or in the default run every fifth.
func tableCuts(n int) func(int) []fakedisk.Subset {
	every := always(1)(n)
	return func(pos int) []fakedisk.Subset {
		if !sampled(pos, 5) {
			return nil
		}
		return every(pos)
	}
}

// A replica's table is right after every cut of a receive.
func TestReceivedTableCuts(t *testing.T) {
	for s := *from; s < *from+uint64(workloads(1, 10)); s++ {
		source := drawSource(s, 3)
		source.hashes = true
		r, err := source.run(0)
		if err != nil {
			t.Fatalf("seed %d: %v", s, err)
		}
		if r.covered.Load() == 0 {
			t.Errorf("seed %d: the table never vouched for anything", s)
		}
		if err := byReceivedTable(s, 0); err != nil {
			t.Fatalf("seed %d: %v", s, err)
		}
	}
}

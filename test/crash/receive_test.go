package crash_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"cairn"
	"cairn/internal/format/blocks"
	"cairn/internal/system/volume"
	"cairn/internal/system/volume/catalog"
	"cairn/internal/testkit/fakedisk"
)

// pointBytes is the data between two points of the harness's streams.
const pointBytes = 48 << 10

// source is what a sender has: versions of which each stands on the one before.
type source struct {
	seed     uint64
	lie      func() bool // as of a workload
	hashes   bool        // the replica has a block hash table
	versions []*version  // made and named are those of the receive that is to commit it
}

func drawSource(seed uint64, n int) *source {
	rng := rand.New(rand.NewPCG(seed, 0x5e4d))
	s := &source{seed: seed}
	sectors, content, id := 500+rng.Int64N(300), map[int64]uint32{}, uint32(0)
	for i := range n {
		next := map[int64]uint32{}
		if i > 0 && rng.IntN(3) == 0 {
			sectors += rng.Int64N(160) - 80
		}
		for at, v := range content {
			if at < sectors {
				next[at] = v
			}
		}
		for range 4 + rng.IntN(6) {
			id++
			first, count := rng.Int64N(sectors), []int64{1, 8, 40, 160}[rng.IntN(4)]
			for at := first; at < min(first+count, sectors); at++ {
				if next[at] = id; id%5 == 0 {
					delete(next, at)
				}
			}
		}
		content = next
		s.versions = append(s.versions, &version{id: cairn.VersionID{Name: fmt.Sprintf("@v%d", i), GUID: cairn.GUID(seed<<8 + uint64(i) + 1)}, sectors: sectors, content: content})
	}
	return s
}

// block renders one block of a version.
func (v *version) block(b int64) []byte {
	p := make([]byte, min(blockSize, v.sectors*sectorSize-b*blockSize))
	for i := range int64(len(p) / sectorSize) {
		stamp(p[i*sectorSize:(i+1)*sectorSize], b*perBlock+i, v.content[b*perBlock+i])
	}
	return p
}

// stream is version i on the one before, from the token's point on.
func (s *source) stream(i int, token []byte) (*cairn.Stream, []byte, error) {
	to, from := s.versions[i], &version{}
	if i > 0 {
		from = s.versions[i-1]
	}
	var out bytes.Buffer
	h := blocks.Header{Size: to.sectors * sectorSize, Sector: sectorSize, From: from.id, To: to.id, Created: time.Unix(1e9, 0)}
	w, err := blocks.NewWriter(&out, h, blocks.WriterOptions{Resume: token, PointBytes: pointBytes})
	if err != nil {
		return nil, nil, err
	}
	for b := w.Position() / blockSize; b*blockSize < h.Size; b++ {
		p := to.block(b)
		switch {
		case b*blockSize+int64(len(p)) <= from.sectors*sectorSize && bytes.Equal(p, from.block(b)[:len(p)]):
		case bytes.Count(p, []byte{0}) < len(p):
			err = w.Data(b*blockSize, p)
		case b%2 == 0:
			err = w.Zero(b*blockSize, int64(len(p)))
		default:
			err = w.Discard(b*blockSize, int64(len(p)))
		}
		if err != nil {
			return nil, nil, err
		}
	}
	if err := w.End(); err != nil {
		return nil, nil, err
	}
	head := cairn.StreamHeader{Format: cairn.FormatBlocks, Kind: cairn.KindVolume, From: from.id,
		To: cairn.Version{VersionID: to.id, Size: h.Size}, Volume: h.Size, Resume: w.Position(), Size: -1}
	return &cairn.Stream{Header: head}, out.Bytes(), nil
}

// receive gives the engine the first n bytes of a stream, all when n is -1.
func (s *source) receive(e *volume.Volume, i int, token []byte, n int) error {
	st, body, err := s.stream(i, token)
	if err != nil {
		return err
	}
	if n >= 0 {
		body = body[:n%len(body)]
	}
	st.Body = io.NopCloser(bytes.NewReader(body))
	_, err = e.Receive(context.Background(), st, cairn.ReceiveOptions{Owner: "harness"})
	return err
}

// pending tells which receive a disk's catalog says is under way.
func pending(disk *fakedisk.Disk) (*catalog.Receiving, error) {
	l, err := catalog.Open(disk)
	if err != nil {
		return nil, err
	}
	return l.State().Head.Receiving, l.Close()
}

// replica is a receiving volume under way.
type replica struct {
	*source
	faults   volume.Fault
	disk     *fakedisk.Disk
	v        *volume.Volume
	attempts []receiveAttempt
	covered  atomic.Int64 // bytes that the block hash table vouched for
}

// receiveAttempt is one receive, or an abort.
type receiveAttempt struct {
	start    int   // in the log
	version  int   // -1: an abort
	received int64 // up to where it was done when it began
}

func (r *replica) options() volume.Options {
	o := volume.Options{Name: "r", SegmentBytes: 256 << 10, ActiveBytes: regionSize, Faults: r.faults}
	if r.hashes {
		o.Hashes = &r.hashes
	}
	return o
}

// run receives all versions, with streams that are cut, aborts, and the process
// dying in between.
func (s *source) run(faults volume.Fault) (*replica, error) {
	ctx := context.Background()
	rng := rand.New(rand.NewPCG(s.seed, 0x4ec7))
	r := &replica{source: s, faults: faults, disk: lyingDisk(s.lie)}
	if err := volume.Create(ctx, r.disk, volume.CreateOptions{Size: s.versions[0].sectors * sectorSize, Sealed: true}); err != nil {
		return r, err
	}
	var err error
	if r.v, err = volume.Open(ctx, r.disk, r.options()); err != nil {
		return r, err
	}
	for i, v := range s.versions {
		for range rng.IntN(3) {
			if err := r.disturb(ctx, rng, i); err != nil {
				return r, fmt.Errorf("version %d: %w", i, err)
			}
		}
		v.named.start = r.disk.Len()
		if err := r.attempt(i, -1); err != nil {
			return r, fmt.Errorf("version %d: %w", i, err)
		}
		v.named.end, v.gone = r.disk.Len(), span{never, never}
		if err := r.contents(r.v, i+1); err != nil {
			return r, err
		}
	}
	return r, nil
}

// attempt receives a version, from the pending point when there is one.
func (r *replica) attempt(i, n int) error {
	p, err := pending(r.disk)
	if err != nil {
		return err
	}
	var token []byte
	a := receiveAttempt{start: r.disk.Len(), version: i}
	if p != nil {
		token, a.received = p.Token, p.Received
	}
	r.attempts = append(r.attempts, a)
	return r.receive(r.v, i, token, n)
}

// resumesFrom is the least offset from which the receive of a version has to go on
// after the cut: at most pointBytes of data behind it are moved again.
func (r *replica) resumesFrom(version, cut int) int64 {
	i, _ := slices.BinarySearchFunc(r.attempts, cut, func(a receiveAttempt, cut int) int { return cmp.Compare(a.start, cut) })
	if i == 0 || r.attempts[i-1].version != version {
		return 0
	}
	a, sum := r.attempts[i-1], int64(0)
	for _, e := range slices.Backward(r.disk.Log()[a.start:cut]) {
		if e.Op != fakedisk.OpWrite || e.Name != "head" {
			continue
		}
		if sum += e.Len; sum > pointBytes+blockSize { // and the record that the cut hit
			return max(a.received, e.Off)
		}
	}
	return a.received
}

func (r *replica) disturb(ctx context.Context, rng *rand.Rand, i int) error {
	if err := r.attempt(i, rng.IntN(1<<30)); !errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("a cut stream: %w", err)
	}
	switch rng.IntN(4) {
	case 0:
		r.attempts = append(r.attempts, receiveAttempt{start: r.disk.Len(), version: -1})
		return r.v.Abort(ctx)
	case 1: // the process dies
		v, err := volume.Open(ctx, r.disk, r.options())
		r.v = v
		return err
	}
	return nil
}

// contents checks the first n versions.
func (r *replica) contents(e *volume.Volume, n int) error {
	for _, v := range r.versions[:n] {
		var all []int64
		for b := int64(0); b*perBlock < v.sectors; b++ {
			all = append(all, b)
		}
		if err := checkSnapshot(e, v, all); err != nil {
			return err
		}
		if r.hashes {
			covered, err := vouched(e, v.id)
			if r.covered.Add(covered); err != nil {
				return err
			}
		}
	}
	return nil
}

// check opens a replica after a cut: what was committed is there, and the rest can
// be received, from the point on, from the beginning, or after giving it up.
func (r *replica) check(disk *fakedisk.Disk, cut int, rng *rand.Rand) error {
	ctx := context.Background()
	e, err := volume.Open(ctx, disk, r.options())
	if err != nil {
		if errors.Is(err, cairn.KindNotFound) && !r.versions[0].named.begunAt(cut) {
			return nil
		}
		return err
	}
	have := 0
	for i, v := range r.versions {
		s, err := e.OpenVersion(ctx, v.id)
		switch {
		case err == nil && v.mayExist(cut) && have == i:
			have++
			_ = s.Close() // never fails
		case err == nil:
			return fmt.Errorf("version %s is there", v.id.Name)
		case v.mustExist(cut):
			return err
		}
	}
	if err := r.contents(e, have); err != nil || have == len(r.versions) {
		return err
	}
	p, err := pending(disk)
	if err != nil {
		return err
	}
	at := int64(0)
	if p != nil {
		at = p.Received
	}
	if least := r.resumesFrom(have, cut); at < least {
		return fmt.Errorf("version %d goes on from byte %d, and everything below %d was there", have, at, least)
	}
	again := &replica{source: r.source, faults: r.faults, disk: disk, v: e}
	way := rng.IntN(3)
	switch way {
	case 0:
		err = again.attempt(have, -1)
	case 1:
		err = r.receive(e, have, nil, -1)
	default:
		if err = e.Abort(ctx); err == nil {
			err = r.receive(e, have, nil, -1)
		}
	}
	if err == nil {
		err = r.contents(e, have+1)
	}
	if err != nil {
		return fmt.Errorf("going on in way %d with version %d: %w", way, have, err)
	}
	return nil
}

// tryReceive runs a source's receives and every cut of them.
func tryReceive(s *source, faults volume.Fault, outcomes int) (disks int, err error) {
	r, err := s.run(faults)
	if err != nil {
		return 0, fmt.Errorf("while the power was on: %w\n%s", err, tail(r.disk.Log(), r.disk.Len()))
	}
	rng := rand.New(rand.NewPCG(s.seed, 0xc07))
	replay := r.disk.Replay()
	for {
		for n := range outcomes + 1 {
			what := fakedisk.Subset(n)
			if n > 0 {
				what += fakedisk.Subset(replay.Pos() % 7)
			}
			if err := r.check(replay.Crash(what), replay.Pos(), rng); err != nil {
				return disks, fmt.Errorf("cut %d, outcome %d: %w\n%s", replay.Pos(), what, err, tail(r.disk.Log(), replay.Pos()))
			}
			disks++
		}
		if !replay.Next() {
			return disks, nil
		}
	}
}

// A replica that loses power at any entry of its log has what it committed, and
// receives the rest: resumed, anew, or after an abort.
func TestReceiveCuts(t *testing.T) {
	n := workloads(2, 5)
	var total atomic.Int64
	t.Run("all", func(t *testing.T) {
		for s := *from; s < *from+uint64(n); s++ {
			t.Run(fmt.Sprintf("seed=%d", s), func(t *testing.T) {
				t.Parallel()
				disks, err := tryReceive(drawSource(s, 3), 0, 1)
				if total.Add(int64(disks)); err != nil {
					t.Fatalf("%v\nreplay: go test ./test/crash -run TestReceiveCuts -from %d -seeds 1", err, s)
				}
			})
		}
	})
	t.Logf("%d workloads, %d crashed disks", n, total.Load())
}

// A resume point that is recorded before the head is flushed is noticed, whatever
// part of the planted faults this run takes.
func TestPlantedFaultInReceive(t *testing.T) {
	for s := uint64(1); s <= 40; s++ {
		if err := byReceive(s, volume.FaultPointBeforeFlush); err != nil {
			t.Logf("noticed by seed %d: %v", s, err)
			return
		}
	}
	t.Error("a point before the flush: nothing noticed it")
}

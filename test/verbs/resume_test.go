//go:build linux

package verbs_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"cairn"
	"cairn/internal/mech/retry"
	"cairn/internal/work/capture"
	"cairn/internal/work/replicate"
)

var (
	resumeMiB   = flag.Int64("resume-mib", 40, "size of the transfer that is cut several times")
	resumeCuts  = flag.Int64("resume-cuts", 3, "how often it is cut")
	resumeOnces = flag.Int("resume-onces", 3, "transfers of 24 MiB that are cut once each")
)

const (
	resumeWindow = 4 << 20   // data between two durable points: what a cut may cost
	perAttempt   = 256 << 10 // handshakes, listings and leases of one attempt
)

// noiseVolume makes a volume of data that cannot be compressed, with a snapshot.
func (h *host) noiseVolume(t *testing.T, bytes, seed int64) {
	t.Helper()
	if err := h.place.Create(t.Context(), "db", bytes, "test"); err != nil {
		t.Fatal(err)
	}
	d := must(h.place.Device(t.Context(), "db"))(t)
	p, noise := make([]byte, 1<<20), rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	for off := int64(0); off < bytes; off += int64(len(p)) {
		_, _ = noise.Read(p) // never fails
		if err := d.WriteAt(t.Context(), p, off, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(d.Flush(t.Context()), d.Close()); err != nil {
		t.Fatal(err)
	}
	must(capture.Run(t.Context(), capture.Options{Endpoint: h.session(), Filter: cairn.All, Name: "a"}))(t)
}

// same compares the newest snapshot on both sides piece by piece.
func same(t *testing.T, sender, receiver *cairn.Endpoint, id cairn.VersionID) {
	t.Helper()
	a := must(sender.Blocks.OpenVersion(t.Context(), "db", id))(t)
	b := must(receiver.Blocks.OpenVersion(t.Context(), "db", id))(t)
	p, q := make([]byte, 1<<20), make([]byte, 1<<20)
	for off := int64(0); off < a.Size(); off += int64(len(p)) {
		if err := errors.Join(a.ReadAt(t.Context(), p, off), b.ReadAt(t.Context(), q, off)); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(p, q) {
			t.Fatalf("the mebibyte at %d differs", off)
		}
	}
	if err := errors.Join(a.Close(), b.Close()); err != nil {
		t.Fatal(err)
	}
}

// transfer replicates a volume of that size over a line that is cut so often, and
// gives the bytes that went over the line beyond those of the volume.
func transfer(t *testing.T, bytes, cuts, seed int64) int64 {
	src, dst := newHost(t, "here"), newHost(t, "vault")
	src.noiseVolume(t, bytes, seed)
	rnd := rand.New(rand.NewPCG(uint64(seed), 3))
	share := bytes / (cuts + 1)
	local := src.session()
	remote, l := connectLine(t, dst, true, func() int64 { return share/4 + rnd.Int64N(share*3/4) + perAttempt }, cuts)
	r := must(replicate.Run(t.Context(), replicate.Options{Sender: local, Receiver: remote, Filter: cairn.All, Owner: "nightly",
		Retry: retry.Policy{Attempts: 4 * int(cuts+1), First: 5 * time.Millisecond, Max: 20 * time.Millisecond}}))(t)
	if d := r.Datasets[0]; d.State != replicate.Done {
		t.Fatalf("it is %s", d.State)
	}
	if left := l.cuts.Load(); left > 0 {
		t.Fatalf("%d cuts did not happen", left)
	}
	vs := list(t, local, "db")["db"].Versions
	same(t, local, remote, vs[len(vs)-1].VersionID)
	return l.sent.Load() - bytes
}

// A transfer that is cut many times, and many that are cut once each at a random
// point, arrive bit for bit, and each cut costs at most one window of data.
func TestCutTransfersResume(t *testing.T) {
	check := func(what string, bytes, cuts, seed int64) {
		again := transfer(t, bytes, cuts, seed)
		limit := cuts*resumeWindow + (cuts+1)*perAttempt + bytes/1000
		t.Logf("%s: %d MiB, %d cuts, %.2f MiB moved beyond the data (at most %.2f)", what, bytes>>20, cuts, float64(again)/(1<<20), float64(limit)/(1<<20))
		if again > limit {
			t.Errorf("%s: %d bytes more than the data were moved, the limit is %d", what, again, limit)
		}
	}
	t.Run("one", func(t *testing.T) { check("one transfer", *resumeMiB<<20, *resumeCuts, 1) })
	for i := range *resumeOnces {
		t.Run(fmt.Sprint("once ", i), func(t *testing.T) { check("cut once", 24<<20, 1, int64(i+2)) })
	}
}

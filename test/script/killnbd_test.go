package script_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cairn/internal/front/nbd/nbdclient"
)

var nbdKills = flag.Int("kills", 40, "kills of the server in TestKilledServerKeepsWhatItAcknowledged")

const (
	diskBytes   = 4 << 20
	sectorBytes = 512
	sectorCount = diskBytes / sectorBytes
	writerCount = 4
	snapshotMax = 4
)

// fillSector describes itself in a sector: its number, which write of which writer
// it is of, noise made of that, and a checksum over all of it. Write 0 is zeroes.
func fillSector(p []byte, number int, write uint64, writer int) {
	if write == 0 {
		clear(p)
		return
	}
	le := binary.LittleEndian
	for i := 24; i < sectorBytes; i += 8 {
		le.PutUint64(p[i:], (write<<20+uint64(number))*uint64(i|1))
	}
	le.PutUint64(p, uint64(number)+1)
	le.PutUint64(p[8:], write)
	le.PutUint32(p[16:], uint32(writer))
	le.PutUint32(p[20:], 0)
	le.PutUint32(p[20:], crc32.ChecksumIEEE(p))
}

// readSector tells which write a sector is of.
func readSector(p []byte, number int) (uint64, error) {
	le := binary.LittleEndian
	if le.Uint64(p) == 0 && bytes.Count(p, []byte{0}) == len(p) {
		return 0, nil
	}
	whole := bytes.Clone(p)
	le.PutUint32(whole[20:], 0)
	if crc32.ChecksumIEEE(whole) != le.Uint32(p[20:]) || le.Uint64(p) != uint64(number)+1 {
		return 0, fmt.Errorf("sector %d is torn, or that of another place (%d, write %d)", number, le.Uint64(p), le.Uint64(p[8:]))
	}
	return le.Uint64(p[8:]), nil
}

// inFlight is a write under way.
type inFlight struct {
	first, count int
	write        uint64 // 0 zeroes the range
}

// ledger is what the writers know of the disk.
type ledger struct {
	mu      sync.Mutex // guards all
	acked   [sectorCount]uint64
	pending [writerCount]*inFlight
	last    uint64 // number of the last write
	acks    int
	goal    int              // of acks, at which reached is closed
	reached chan struct{}    // nil: nobody waits
	since   map[int][]uint64 // what sectors may have become since the last capture began
}

func (l *ledger) begin(writer int, c inFlight, zero bool) inFlight {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !zero {
		l.last++
		c.write = l.last
	}
	l.pending[writer] = &c
	l.note(c)
	return c
}

// note enters that the change may show from now on.
func (l *ledger) note(c inFlight) {
	for s := c.first; s < c.first+c.count; s++ {
		l.since[s] = append(l.since[s], c.write)
	}
}

func (l *ledger) ack(writer int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.pending[writer]
	for s := c.first; s < c.first+c.count; s++ {
		l.acked[s] = c.write
	}
	l.pending[writer] = nil
	if l.acks++; l.reached != nil && l.acks >= l.goal {
		close(l.reached)
		l.reached = nil
	}
}

// await returns once n more writes were acknowledged, or the writers have ended.
func (l *ledger) await(n int, writers *sync.WaitGroup) {
	ended, reached := make(chan struct{}), make(chan struct{})
	l.mu.Lock()
	l.goal, l.reached = l.acks+n, reached
	l.mu.Unlock()
	go func() {
		writers.Wait() // at the latest when the server is killed
		close(ended)
	}()
	select {
	case <-reached:
	case <-ended:
	}
}

// captures gives what is acknowledged now, and begins to gather what a capture may
// see besides.
func (l *ledger) captures() [sectorCount]uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.since = map[int][]uint64{}
	for _, c := range l.pending {
		if c != nil {
			l.note(*c)
		}
	}
	return l.acked
}

// settle compares the disk after a kill with what was acknowledged, and takes it
// over.
func (l *ledger) settle(disk []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for s := range sectorCount {
		got, err := readSector(disk[s*sectorBytes:(s+1)*sectorBytes], s)
		if err != nil {
			return err
		}
		cut := func(c *inFlight) bool { return c != nil && s >= c.first && s < c.first+c.count && c.write == got }
		if got != l.acked[s] && !slices.ContainsFunc(l.pending[:], cut) {
			return fmt.Errorf("sector %d holds write %d, acknowledged was %d", s, got, l.acked[s])
		}
		l.acked[s] = got
	}
	l.pending = [writerCount]*inFlight{}
	return nil
}

// nbdServer is a `cairn serve` that is killed and started again.
type nbdServer struct {
	t         *testing.T
	dir       string
	cmd       *exec.Cmd
	stderr    bytes.Buffer
	led       *ledger
	snapshots []*known // oldest first
	captured  int
}

// known is a snapshot: hash of its content once it was read, until then what it
// may hold.
type known struct {
	name  string
	sure  bool // its capture was reported as done
	gone  bool // its destruction was asked for
	sum   [32]byte
	read  bool
	floor [sectorCount]uint64
	since map[int][]uint64
}

func (s *nbdServer) cairn(args ...string) error {
	cmd := exec.Command("cairn", args...)
	cmd.Env = append(os.Environ(), "CAIRN_CONFIG="+filepath.Join(s.dir, "cairn.yml"))
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("cairn %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

func (s *nbdServer) socket() string { return filepath.Join(s.dir, "nbd") }

// start begins to serve; it returns once the export is announced.
func (s *nbdServer) start() {
	s.t.Helper()
	s.cmd = exec.Command("cairn", "serve", "db", "--listen", "unix:"+s.socket())
	s.cmd.Env = append(os.Environ(), "CAIRN_CONFIG="+filepath.Join(s.dir, "cairn.yml"))
	s.cmd.Stderr = &s.stderr
	out, err := s.cmd.StdoutPipe()
	if err == nil {
		err = s.cmd.Start()
	}
	if err != nil {
		s.t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || !strings.HasPrefix(line, "nbd+unix:") {
		s.t.Fatalf("it announces %q: %v", line, err)
	}
}

func (s *nbdServer) kill() {
	s.t.Helper()
	if err := s.cmd.Process.Kill(); err != nil {
		s.t.Fatal(err)
	}
	_ = s.cmd.Wait() // it was killed
}

func (s *nbdServer) dial(export string) *nbdclient.Client {
	s.t.Helper()
	c, err := nbdclient.Dial(s.t.Context(), nbdclient.Options{Network: "unix", Address: s.socket(), Export: export})
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

func (s *nbdServer) read(export string) []byte {
	s.t.Helper()
	c := s.dial(export)
	defer c.Abandon()
	p := make([]byte, diskBytes)
	if err := c.ReadAt(s.t.Context(), p, 0); err != nil {
		s.t.Fatalf("%s: %v", export, err)
	}
	return p
}

// write changes the disk until the server dies: each writer a part of its own.
func (s *nbdServer) write(c *nbdclient.Client, seed uint64, done *sync.WaitGroup) {
	for w := range writerCount {
		done.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(w)))
			for s.writeOnce(c, w, rng) == nil {
			}
		})
	}
}

func (s *nbdServer) writeOnce(c *nbdclient.Client, writer int, rng *rand.Rand) error {
	const part = sectorCount / writerCount
	count := 1 + rng.IntN(40)
	ch := s.led.begin(writer, inFlight{first: writer*part + rng.IntN(part-count), count: count}, rng.IntN(8) == 0)
	off := int64(ch.first) * sectorBytes
	var err error
	if ch.write == 0 {
		err = c.WriteZeroes(context.Background(), off, uint32(count*sectorBytes), 0)
	} else {
		p := make([]byte, count*sectorBytes)
		for i := range count {
			fillSector(p[i*sectorBytes:(i+1)*sectorBytes], ch.first+i, ch.write, writer)
		}
		err = c.WriteAt(context.Background(), p, off, rng.IntN(10) == 0)
	}
	if err == nil {
		s.led.ack(writer)
	}
	return err
}

// capture makes a snapshot while the writers run; the kill may hit it.
func (s *nbdServer) capture(name string) {
	k := &known{name: name, floor: s.led.captures()}
	k.sure = s.cairn("capture", "db", "--name", name) == nil
	s.led.mu.Lock()
	defer s.led.mu.Unlock()
	k.since = s.led.since
	s.led.since = map[int][]uint64{}
	s.snapshots = append(s.snapshots, k)
}

// look compares the snapshots that are there with those that should be, and reads
// one that is known and each that is new.
func (s *nbdServer) look(pick int) {
	s.t.Helper()
	exports, err := nbdclient.List(s.t.Context(), nbdclient.Options{Network: "unix", Address: s.socket()})
	if err != nil {
		s.t.Fatal(err)
	}
	s.snapshots = slices.DeleteFunc(s.snapshots, func(k *known) bool {
		if slices.Contains(exports, "db@"+k.name) {
			return false
		}
		if k.sure && !k.gone {
			s.t.Errorf("snapshot %s was reported as captured, and is not there", k.name)
		}
		return true
	})
	for i, k := range s.snapshots {
		k.sure, k.gone = true, false // it is there; a destruction that was cut off did not happen
		switch {
		case !k.read:
			s.captured++
			s.learn(k)
		case i == pick%len(s.snapshots) && sha256.Sum256(s.read("db@"+k.name)) != k.sum:
			s.t.Errorf("snapshot %s changed", k.name)
		}
	}
}

// learn reads a new snapshot: each sector holds what was acknowledged before its
// capture began, or what was written during it.
func (s *nbdServer) learn(k *known) {
	s.t.Helper()
	p := s.read("db@" + k.name)
	for n := range sectorCount {
		got, err := readSector(p[n*sectorBytes:(n+1)*sectorBytes], n)
		if err != nil {
			s.t.Fatalf("snapshot %s: %v", k.name, err)
		}
		if got != k.floor[n] && !slices.Contains(k.since[n], got) {
			s.t.Fatalf("snapshot %s: sector %d holds write %d, not %d or one of %v", k.name, n, got, k.floor[n], k.since[n])
		}
	}
	k.sum, k.read, k.since = sha256.Sum256(p), true, nil
}

// cycle serves, writes, and in some rounds captures or destroys, until the kill.
func (s *nbdServer) cycle(i int, rng *rand.Rand) error {
	s.start()
	if err := s.led.settle(s.read("db")); err != nil {
		s.kill()
		return err
	}
	s.look(i)
	c := s.dial("db")
	var writers, other sync.WaitGroup
	s.write(c, rng.Uint64(), &writers)
	switch {
	case len(s.snapshots) >= snapshotMax:
		oldest := s.snapshots[0]
		oldest.gone = true
		other.Go(func() { _ = s.cairn("volume", "destroy", "db@"+oldest.name, "--yes") }) // whether it happened is looked at
	case i%3 == 0:
		other.Go(func() { s.capture(fmt.Sprintf("s%d", i)) })
	}
	s.led.await(1+rng.IntN(150), &writers)
	time.Sleep(time.Duration(rng.IntN(60)) * time.Millisecond) // so that the kill meets what runs beside
	s.kill()
	writers.Wait()
	other.Wait()
	c.Abandon()
	return nil
}

// TestKilledServerKeepsWhatItAcknowledged kills the server of a volume with SIGKILL
// at random instants, under four writers and with captures and destructions in
// between. A killed process leaves the kernel's pages, so every write that was
// acknowledged has to be there afterwards, flushed or not, and every snapshot as it
// was.
func TestKilledServerKeepsWhatItAcknowledged(t *testing.T) {
	dir, err := shortFolder()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	s := &nbdServer{t: t, dir: dir, led: &ledger{since: map[int][]uint64{}}}
	text := fmt.Sprintf("global: {state: %s/state, control: {sockpath: %s/run/control}}\n", dir, dir)
	err = errors.Join(os.WriteFile(filepath.Join(dir, "cairn.yml"), []byte(text), 0o600), s.cairn("volume", "create", "db", fmt.Sprint(diskBytes)))
	if err != nil {
		t.Fatal(err)
	}
	seed := uint64(time.Now().UnixNano())
	rng := rand.New(rand.NewPCG(seed, 2))
	for i := range *nbdKills {
		if err := s.cycle(i, rng); err != nil || t.Failed() {
			t.Fatalf("after kill %d (seed %d): %v\n%s", i, seed, err, s.stderr.String())
		}
	}
	s.start()
	defer s.kill()
	if err := s.led.settle(s.read("db")); err != nil {
		t.Fatal(err)
	}
	for i := range s.snapshots {
		s.look(i)
	}
	t.Logf("%d kills, %d writes acknowledged, %d snapshots captured", *nbdKills, s.led.acks, s.captured)
	if s.led.acks == 0 || s.captured == 0 && *nbdKills >= 40 {
		t.Error("nothing happened between the kills")
	}
}

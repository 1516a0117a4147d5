package drive_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cairn"
	"cairn/internal/mech/scsi"
	"cairn/internal/system/tape/drive"
	"cairn/internal/testkit/drivetest"
	"cairn/internal/testkit/faketape"
	"cairn/internal/testkit/scsitape"
)

const ourKey = 42

func openTarget(t *testing.T, target *scsitape.Drive, o drive.SCSIOptions) *drive.SCSI {
	t.Helper()
	o.Key = ourKey
	d, err := drive.OpenSCSI(t.Context(), scsi.Watch(target, "/dev/sg1"), "/dev/sg1", o)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// formatted is a target with two partitions and a drive on it.
func formatted(t *testing.T) (*scsitape.Drive, *drive.SCSI) {
	t.Helper()
	target := scsitape.New()
	d := openTarget(t, target, drive.SCSIOptions{})
	if err := d.Format(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	return target, d
}

// The drive behaves as the test drive does, which behaves as the folder does, with today's commands and with those of
// old drives: one random script on each, every answer compared.
func TestSCSISameAsTestDrive(t *testing.T) {
	for seed := range uint64(20) {
		fake := faketape.New()
		if err := fake.Format(t.Context(), 2); err != nil {
			t.Fatal(err)
		}
		want := drivetest.Script(t.Context(), fake, seed, 150)
		for _, old := range []bool{false, true} {
			target := scsitape.New()
			target.Old, target.Silent = old, old
			d := openTarget(t, target, drive.SCSIOptions{})
			if err := d.Format(t.Context(), 2); err != nil {
				t.Fatal(err)
			}
			got := drivetest.Script(t.Context(), d, seed, 150)
			for i := range want {
				if got[i] != want[i] && (!old || !strings.HasPrefix(want[i], drivetest.Attributes)) {
					t.Fatalf("seed %d, old %v, step %d: the test drive says %s, the drive %s", seed, old, i, want[i], got[i])
				}
			}
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			if target.Seen(0x92) == 0 || old && (target.Seen(0x92) != 1 || target.Seen(0x2b) == 0) {
				t.Errorf("old %v: %d LOCATE(16), %d LOCATE(10)", old, target.Seen(0x92), target.Seen(0x2b))
			}
		}
	}
}

// lines reads a file of testdata without comments.
func lines(t *testing.T, name string) (all []string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			all = append(all, line)
		}
	}
	return all
}

// opcodes of the words in testdata/sense.txt.
var opcodes = map[string]byte{"read": 0x08, "write": 0x0a, "filemark": 0x10, "space": 0x91, "locate": 0x92, "attribute": 0x8c}

// inject answers the next command of an operation code with a line's sense.
func inject(t *testing.T, line string, op byte) func([]byte) *scsitape.Answer {
	t.Helper()
	code, flags, _ := strings.Cut(line, " ")
	n, err := strconv.ParseUint(strings.ReplaceAll(code, "/", ""), 16, 32)
	if err != nil {
		t.Fatal(err)
	}
	a := &scsitape.Answer{Sense: uint32(n)}
	for _, f := range strings.TrimSpace(flags) {
		a.Flags |= map[rune]byte{'F': 0x80, 'M': 0x40, 'L': 0x20}[f]
	}
	// What is no error, and no report about something else, comes with the command done.
	a.After = n>>16 <= 1 && a.Flags&0x80 == 0
	return func(cdb []byte) *scsitape.Answer {
		if cdb[0] != op || a == nil {
			return nil
		}
		one := a
		a = nil
		return one
	}
}

// act calls what leads to a command and says what came of it.
func act(t *testing.T, d drive.Drive, what string) (string, error) {
	t.Helper()
	ctx := t.Context()
	var err error
	var warning drive.Warning
	switch what {
	case "read":
		var n int
		if n, err = d.Read(ctx, make([]byte, 3)); err == nil && n != 3 {
			t.Errorf("read %d bytes", n)
		}
	case "write":
		warning, err = d.Write(ctx, []byte("new"))
	case "filemark":
		err = d.WriteFilemarks(ctx, 1, false)
	case "space":
		err = d.SpaceFilemarks(ctx, -1)
	case "locate":
		err = d.Locate(ctx, drive.Position{})
	case "attribute":
		_, err = d.Attribute(ctx, 0, 9)
	}
	switch {
	case errors.Is(err, drive.ErrFilemark):
		return "filemark", err
	case errors.Is(err, drive.ErrEndOfData):
		return "end", err
	case err != nil:
		return cairn.KindOf(err).String(), err
	}
	return []string{"whole", "low", "early"}[warning], nil
}

// Every row of the table of sense means what the table says; what was told about
// writing is true of the medium.
func TestSenseTable(t *testing.T) {
	for _, line := range lines(t, "sense.txt") {
		f := strings.Split(line, "|")
		what, want := strings.TrimSpace(f[1]), strings.TrimSpace(f[2])
		t.Run(strings.TrimSpace(f[0])+" "+what, func(t *testing.T) {
			target, d := formatted(t)
			write(t, d, "one", "F", "two")
			if err := d.Locate(t.Context(), drive.Position{}); err != nil {
				t.Fatal(err)
			}
			target.Inject = inject(t, strings.TrimSpace(f[0]), opcodes[what])
			got, err := act(t, d, what)
			if got != want {
				t.Errorf("comes out as %s, %v; want %s", got, err, want)
			}
			if what == "write" && (want == "whole" || want == "early" || want == "low") {
				end, err := d.SeekEnd(t.Context(), 0)
				if err != nil || end.Block != 1 {
					t.Errorf("one record was written: %v, %v", end, err)
				}
			}
			code := strings.Fields(f[0])[0]
			if err != nil && want != "filemark" && want != "end" && what != "attribute" && what != "space" && !strings.Contains(err.Error(), code) {
				t.Errorf("the message does not tell the sense %s: %v", code, err)
			}
		})
	}
}

// player is a device that follows a session written down.
type player struct {
	t    *testing.T
	rest []string
}

func (p *player) next(mark string) []byte {
	p.t.Helper()
	if len(p.rest) == 0 {
		p.t.Fatalf("the session is over, not expected: %s", mark)
	}
	text, is := strings.CutPrefix(p.rest[0], mark)
	if !is {
		p.t.Fatalf("the session goes on with %q, got %s", p.rest[0], mark)
	}
	p.rest = p.rest[1:]
	return bytesOf(p.t, text)
}

func bytesOf(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (p *player) Do(_ context.Context, c scsi.Command) (scsi.Result, error) {
	if want := p.next("> "); !bytes.Equal(c.CDB, want) {
		p.t.Fatalf("sent % X, the session has % X", c.CDB, want)
	}
	if len(c.Out) > 0 {
		if want := p.next(">> "); !bytes.Equal(c.Out, want) {
			p.t.Fatalf("sent data % X, the session has % X", c.Out, want)
		}
	}
	if len(p.rest) > 0 && strings.HasPrefix(p.rest[0], "<!") {
		sense, data, _ := strings.Cut(strings.TrimPrefix(p.rest[0], "<!"), "|")
		p.rest = p.rest[1:]
		return scsi.Result{Status: scsi.CheckCondition, Sense: bytesOf(p.t, sense), Received: copy(c.In, bytesOf(p.t, data))}, nil
	}
	return scsi.Result{Received: copy(c.In, p.next("<"))}, nil
}

func (p *player) MaxTransfer() int { return 1 << 20 }
func (p *player) Close() error     { return nil }

// A whole session has the bytes of the tables, both ways.
func TestSessionBytes(t *testing.T) {
	p := &player{t: t, rest: lines(t, "session.txt")}
	ctx := t.Context()
	d, err := drive.OpenSCSI(ctx, p, "/dev/sg1", drive.SCSIOptions{Key: ourKey})
	if err != nil {
		t.Fatal(err)
	}
	if id, serial := d.Identity(); id.Vendor != "IBM" || id.Product != "ULT3580-TD5" || id.Revision != "D8D4" || serial != "1068000077" {
		t.Errorf("%+v %q", id, serial)
	}
	if d.Partitions() != 2 || d.MaxBlock() != 1<<20 || d.Protected() {
		t.Errorf("%d partitions, records of %d", d.Partitions(), d.MaxBlock())
	}
	if err := d.Locate(ctx, drive.Position{Partition: 1, Block: 5}); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 16)
	if n, err := d.Read(ctx, buf); err != nil || string(buf[:n]) != "ABC" {
		t.Errorf("%q, %v", buf[:n], err)
	}
	write(t, d, "data", "F")
	if at, err := d.Position(ctx); err != nil || at != (drive.Position{Partition: 1, Block: 8}) {
		t.Errorf("%v, %v", at, err)
	}
	if err := d.Close(); err != nil || len(p.rest) > 0 {
		t.Errorf("%v, left over: %v", err, p.rest)
	}
}

// The length of a record is the sense's, whatever the adapter says; one that is
// longer than asked for is refused.
func TestRecordLengths(t *testing.T) {
	target, d := formatted(t)
	write(t, d, "12345", "F")
	for asked, want := range map[int]string{5: "12345", 9: "12345"} {
		if err := d.Locate(t.Context(), drive.Position{}); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, asked)
		if n, err := d.Read(t.Context(), buf); err != nil || string(buf[:n]) != want {
			t.Errorf("asked for %d: %q, %v", asked, buf[:n], err)
		}
	}
	if err := d.Locate(t.Context(), drive.Position{}); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Read(t.Context(), make([]byte, 4)); !errors.Is(err, cairn.KindInvalid) || !strings.Contains(err.Error(), "5 bytes") {
		t.Errorf("a longer record: %v", err)
	}
	if _, err := d.Write(t.Context(), make([]byte, d.MaxBlock()+1)); !errors.Is(err, cairn.KindInvalid) {
		t.Errorf("too long to write: %v", err)
	}
	lying := &liar{target}
	second, err := drive.OpenSCSI(t.Context(), scsi.Watch(lying, "liar"), "liar", drive.SCSIOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Locate(t.Context(), drive.Position{}); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 9)
	if n, err := second.Read(t.Context(), buf); err != nil || string(buf[:n]) != "12345" {
		t.Errorf("with an adapter that lies: %q, %v", buf[:n], err)
	}
}

// liar is an adapter that tells wrong lengths of records.
type liar struct{ *scsitape.Drive }

func (l *liar) Carry(c scsi.Command) (scsi.Result, error) {
	r, err := l.Drive.Carry(c)
	if c.CDB[0] == 0x08 {
		r.Received = 1
	}
	return r, err
}

// Near the end every record that was taken is on the medium, and none that was not.
func TestEndOfMedium(t *testing.T) {
	target, d := formatted(t)
	target.Tape.Room = [2]int64{10000, 10000}
	ctx := t.Context()
	taken, early := 0, false
	for {
		w, err := d.Write(ctx, make([]byte, 300))
		if err != nil {
			if !errors.Is(err, cairn.KindSpace) {
				t.Fatal(err)
			}
			break
		}
		early = early || w == drive.EarlyWarning
		taken++
	}
	end, err := d.SeekEnd(ctx, 0)
	if err != nil || end.Block != uint64(taken) || !early {
		t.Errorf("%d taken, the end is at %v (%v), early warning %v", taken, end, err, early)
	}
}

// Near the end drives tell wrong counts, or an attention instead of an answer:
// where they stand is what counts.
func TestWordsNearTheEnd(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer scsitape.Answer
		want   error
		blocks uint64
	}{
		{"written, but called short", scsitape.Answer{Sense: 0x000002, Flags: 0x40, Info: 3, HasInfo: true, After: true}, nil, 2},
		{"short and not written", scsitape.Answer{Sense: 0x000002, Flags: 0x40, Info: 3, HasInfo: true}, cairn.KindSpace, 1},
		{"attention, and written", scsitape.Answer{Sense: 0x060002, After: true}, nil, 2},
		{"attention, and not written", scsitape.Answer{Sense: 0x060002}, nil, 2},
	} {
		for _, op := range []byte{0x0a, 0x10} {
			target, d := formatted(t)
			write(t, d, "one")
			if _, err := d.Position(t.Context()); err != nil {
				t.Fatal(err)
			}
			left := 1
			target.Inject = func(cdb []byte) *scsitape.Answer {
				if cdb[0] != op || left == 0 {
					return nil
				}
				left--
				return &c.answer
			}
			var err error
			warning := drive.EarlyWarning
			if op == 0x0a {
				warning, err = d.Write(t.Context(), []byte("two"))
			} else {
				err = d.WriteFilemarks(t.Context(), 1, false)
			}
			if !errors.Is(err, c.want) || err == nil && warning != drive.EarlyWarning {
				t.Errorf("%s, command %02X: %v, %v", c.name, op, warning, err)
			}
			if end, err := d.SeekEnd(t.Context(), 0); err != nil || end.Block != c.blocks {
				t.Errorf("%s, command %02X: %d blocks on tape, want %d (%v)", c.name, op, end.Block, c.blocks, err)
			}
		}
	}
}

// A write that failed late is told with the next command, and nobody is told
// that it went well.
func TestDeferredErrors(t *testing.T) {
	target, d := formatted(t)
	write(t, d, "one")
	var sent []byte
	target.Inject = func(cdb []byte) *scsitape.Answer {
		if cdb[0] != 0x10 || sent != nil {
			return nil
		}
		sent = cdb
		return &scsitape.Answer{Sense: 0x030c00, Deferred: true}
	}
	if err := d.WriteFilemarks(t.Context(), 1, false); !errors.Is(err, cairn.KindIO) || !strings.Contains(err.Error(), "written before") {
		t.Errorf("%v", err)
	}
	sent = nil
	target.Inject = func(cdb []byte) *scsitape.Answer {
		if cdb[0] != 0x0a || sent != nil {
			return nil
		}
		sent = cdb
		return &scsitape.Answer{Sense: 0x011701, Deferred: true}
	}
	if err := d.Locate(t.Context(), drive.Position{Block: 1}); err != nil {
		t.Fatal(err)
	}
	write(t, d, "two")
	if end, err := d.SeekEnd(t.Context(), 0); err != nil || end.Block != 2 {
		t.Errorf("after a deferred report that is no error: %v, %v", end, err)
	}
}

// After a reset work goes on when the medium is the same, and never when it is not.
func TestDisturbedDrive(t *testing.T) {
	for _, c := range []struct {
		name string
		swap func(*scsitape.Drive)
		on   bool
	}{
		{"reset", func(d *scsitape.Drive) { d.Attend(0x062900) }, true},
		{"reset and reloaded", func(d *scsitape.Drive) { d.Attend(0x062900, 0x062800); d.Becoming = 2 }, true},
		{"our key was preempted by nobody", func(d *scsitape.Drive) { d.Attend(0x062a05) }, true},
		{"another cartridge", func(d *scsitape.Drive) { d.Attend(0x062800); d.Serial = "OTHER" }, false},
		{"another label", func(d *scsitape.Drive) {
			d.Attend(0x062800)
			d.Tape.Spoil(drive.Position{Partition: 1}, []byte("VOL2"))
		}, false},
		{"another partitioning", func(d *scsitape.Drive) { d.Attend(0x062800); d.Tape = faketape.New() }, false},
		{"taken out", func(d *scsitape.Drive) { d.Attend(0x062800); d.Tape = nil }, false},
		{"taken by another machine", func(d *scsitape.Drive) { d.Attend(0x062a03); d.Holder = 7 }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				target, d := formatted(t)
				for part := range 2 {
					if err := d.Locate(t.Context(), drive.Position{Partition: part}); err != nil {
						t.Fatal(err)
					}
					write(t, d, "VOL1", "F", "label", "F")
				}
				before := target.Tape
				c.swap(target)
				changes := before.Changes()
				if _, err := d.Write(t.Context(), []byte("x")); !errors.Is(err, cairn.KindConflict) && !errors.Is(err, cairn.KindBusy) {
					t.Errorf("writing: %v", err)
				}
				if _, err := d.Write(t.Context(), []byte("x")); err == nil {
					t.Error("writing on was allowed")
				}
				err := d.Locate(t.Context(), drive.Position{Partition: 1, Block: 4})
				if c.on {
					if err != nil {
						t.Fatal(err)
					}
					write(t, d, "more")
				} else if _, werr := d.Write(t.Context(), []byte("x")); err == nil || werr == nil || before.Changes() != changes {
					t.Errorf("went on: %v, %v", err, werr)
				}
				if err := d.Close(); c.on && err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// Reservations: another machine's stands and is named, one that this machine left
// behind is taken over, ours is given back; the medium is locked while it is used.
func TestReservations(t *testing.T) {
	open := func(target *scsitape.Drive) (*drive.SCSI, error) {
		return drive.OpenSCSI(t.Context(), scsi.Watch(target, "d"), "d", drive.SCSIOptions{Key: ourKey})
	}
	target := scsitape.New()
	target.Holder = 0xabcdef
	if _, err := open(target); !errors.Is(err, cairn.KindBusy) || !strings.Contains(err.Error(), "0000000000abcdef") {
		t.Errorf("held by another: %v", err)
	}
	target.Holder = ourKey
	d, err := open(target)
	if err != nil {
		t.Fatalf("left behind by us: %v", err)
	}
	if !target.Locked || target.Holder != 0 {
		t.Error("not taken over, or the medium is not locked")
	}
	if err := d.Close(); err != nil || target.Locked {
		t.Errorf("closing: %v, locked %v", err, target.Locked)
	}
	other := scsitape.New()
	other.Holder = ourKey + 1
	look, err := drive.OpenSCSI(t.Context(), scsi.Watch(other, "d"), "d", drive.SCSIOptions{Look: true})
	if err == nil {
		t.Errorf("looked past a reservation: %v", look)
	}
	if n := other.Seen(0x5f); n != 0 {
		t.Errorf("looking reserves: %d", n)
	}
}

// A drive in append-only mode is asked for leave before something is overwritten.
func TestAppendOnlyMode(t *testing.T) {
	target := scsitape.New()
	target.Append = true
	d := openTarget(t, target, drive.SCSIOptions{})
	if err := d.Format(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	write(t, d, "a", "F", "b")
	if n := target.Seen(0x82); n != 0 {
		t.Errorf("%d times asked while appending", n)
	}
	if err := d.Locate(t.Context(), drive.Position{Block: 1}); err != nil {
		t.Fatal(err)
	}
	write(t, d, "c", "d")
	if n := target.Seen(0x82); n != 1 {
		t.Errorf("%d times asked for one overwriting", n)
	}
}

// States of drive and medium at opening.
func TestOpeningStates(t *testing.T) {
	for _, c := range []struct {
		name string
		set  func(*scsitape.Drive)
		look bool
		want cairn.Kind
	}{
		{"no medium", func(d *scsitape.Drive) { d.Tape = nil }, false, cairn.KindNotFound},
		{"becoming ready", func(d *scsitape.Drive) { d.Becoming = 5 }, false, 0},
		{"becoming ready, only looked at", func(d *scsitape.Drive) { d.Becoming = 5 }, true, cairn.KindUnavailable},
		{"never ready", func(d *scsitape.Drive) { d.Becoming = 1 << 30 }, false, cairn.KindUnavailable},
		{"to be loaded", func(d *scsitape.Drive) { d.Unloaded = true }, false, 0},
		{"to be loaded, only looked at", func(d *scsitape.Drive) { d.Unloaded = true }, true, cairn.KindUnavailable},
		{"transport gone", func(d *scsitape.Drive) {
			d.Inject = func([]byte) *scsitape.Answer { return &scsitape.Answer{Fail: cairn.KindUnavailable} }
		}, false, cairn.KindUnavailable},
		{"busy for ever", func(d *scsitape.Drive) {
			d.Inject = func([]byte) *scsitape.Answer { return &scsitape.Answer{Status: 0x08} }
		}, false, cairn.KindUnavailable},
	} {
		synctest.Test(t, func(t *testing.T) {
			target := scsitape.New()
			c.set(target)
			d, err := drive.OpenSCSI(t.Context(), scsi.Watch(target, "d"), "d", drive.SCSIOptions{Look: c.look})
			if c.want != 0 {
				if !errors.Is(err, c.want) || err == nil {
					t.Errorf("%s: %v, want %v", c.name, err, c.want)
				}
				return
			}
			if err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
			if err := d.Close(); err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
		})
	}
}

// A protected medium is refused before anything is sent.
func TestProtectedMedium(t *testing.T) {
	target, first := formatted(t)
	write(t, first, "a")
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	target.Protected = true
	d := openTarget(t, target, drive.SCSIOptions{})
	_, werr := d.Write(t.Context(), []byte("x"))
	for _, err := range []error{werr, d.WriteFilemarks(t.Context(), 1, false), d.Format(t.Context(), 1), d.SetAttribute(t.Context(), 0, 0x800, 1, nil)} {
		if !errors.Is(err, cairn.KindPermission) || !strings.Contains(err.Error(), "write protected") {
			t.Errorf("got %v", err)
		}
	}
	if got := read(t, d); !slices.Equal(got, []string{"a"}) {
		t.Errorf("read %v", got)
	}
}

// watch keeps the limits under which commands are carried.
type watch struct {
	*scsitape.Drive
	limits map[byte]time.Duration
}

func (w *watch) Carry(c scsi.Command) (scsi.Result, error) {
	w.limits[c.CDB[0]] = c.Limit
	return w.Drive.Carry(c)
}

// Commands are given longer than the drive says it needs, and never less than
// drives that are known.
func TestLimitsAreLongerThanTheDrives(t *testing.T) {
	target := &watch{scsitape.New(), map[byte]time.Duration{}}
	target.Timeouts = map[byte]uint32{0x0a: 20000, 0x08: 5}
	d, err := drive.OpenSCSI(t.Context(), scsi.Watch(target, "d"), "d", drive.SCSIOptions{})
	if err != nil {
		t.Fatal(err)
	}
	write(t, d, "a", "F")
	if err := d.Locate(t.Context(), drive.Position{}); err != nil {
		t.Fatal(err)
	}
	read(t, d)
	for op, least := range map[byte]time.Duration{0x0a: 20000 * time.Second, 0x08: 2340*time.Second - 1, 0x10: 1620*time.Second - 1, 0x92: 2940*time.Second - 1} {
		if target.limits[op] <= least {
			t.Errorf("command %02X is given %v, the drive needs %v", op, target.limits[op], least)
		}
	}
}

// A drive that stops answering ends the command in bounded time, and the closing,
// too; the error says which command, and since when.
func TestDriveThatStopsAnswering(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		target, d := formatted(t)
		write(t, d, "a")
		stop := make(chan struct{})
		target.Inject = func(cdb []byte) *scsitape.Answer {
			if cdb[0] == 0x10 {
				<-stop
			}
			return nil
		}
		began := time.Now()
		err := d.WriteFilemarks(t.Context(), 1, false)
		if !errors.Is(err, cairn.KindStuck) || !strings.Contains(err.Error(), "WRITE FILEMARKS(6) has not ended since "+began.Format(time.DateTime)) {
			t.Errorf("%v", err)
		}
		if _, err := d.Write(t.Context(), []byte("x")); !errors.Is(err, cairn.KindStuck) {
			t.Errorf("the next: %v", err)
		}
		closing := time.Now()
		if err := d.Close(); err == nil || time.Since(closing) > 10*time.Minute {
			t.Errorf("closing: %v after %v", err, time.Since(closing))
		}
		close(stop)
	})
}

// What only the drive knows: room, alerts, kind of medium, its own limits.
func TestWhatTheDriveTells(t *testing.T) {
	target, d := formatted(t)
	target.Tape.Room = [2]int64{2e9, 100e9}
	target.Alerts = map[uint16]byte{20: 1, 3: 1}
	if c, err := d.Capacity(t.Context(), 1); err != nil || c != (drive.Capacity{Total: 100e9, Remaining: 90e9}) {
		t.Errorf("capacity %+v, %v", c, err)
	}
	if alerts, err := d.Alerts(t.Context()); err != nil || !slices.Equal(alerts, []int{3, 20}) {
		t.Errorf("alerts %v, %v", alerts, err)
	}
	if kind, err := d.MediumType(t.Context()); err != nil || kind != "U-518 Ultrium 5/16T" {
		t.Errorf("medium %q, %v", kind, err)
	}
	old := scsitape.New()
	old.Old = true
	o := openTarget(t, old, drive.SCSIOptions{})
	if c, err := o.Capacity(t.Context(), 0); err != nil || c != (drive.Capacity{}) {
		t.Errorf("an old drive's capacity %+v, %v", c, err)
	}
}

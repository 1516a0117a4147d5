package guest_test

import (
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"cairn"
	"cairn/internal/mech/scsi"
	"cairn/internal/system/tape/drive"
)

// emulatedTape loads the kernel's simulated tape and returns its generic node.
func emulatedTape(t *testing.T) string {
	t.Helper()
	run(t, "modprobe sg && modprobe st && modprobe scsi_debug ptype=1 delay=0 && udevadm settle")
	undo(t, "udevadm settle && modprobe -r scsi_debug")
	nodes, err := scsi.TapeNodes("/sys")
	if err != nil || len(nodes) != 1 {
		t.Fatalf("tapes: %v %v", nodes, err)
	}
	return nodes[0].Path
}

// openNode carries commands to a node until the test has ended.
func openNode(t *testing.T, path string) *scsi.Watched {
	t.Helper()
	w, err := scsi.OpenSg(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// tried is a command with what it carries.
type tried struct {
	what string
	cdb  []byte
	in   int
	out  []byte
}

// everyCommand is each command that the drive uses, and a few it could, in an order in which a tape that
// knows it carries it out.
func everyCommand() []tried {
	record := slices.Repeat([]byte("cairn test tape "), 64)
	return []tried{
		{"INQUIRY", scsi.Inquiry(0, 96), 96, nil}, {"INQUIRY, serial number", scsi.Inquiry(0x80, 252), 252, nil},
		{"TEST UNIT READY", scsi.TestUnitReady(), 0, nil}, {"REQUEST SENSE", scsi.RequestSense(96), 96, nil},
		{"REPORT SUPPORTED OPERATION CODES", scsi.ReportOpcodes(4096), 4096, nil},
		{"PERSISTENT RESERVE OUT, register", scsi.PersistentOut(scsi.PersistentRegister), 0, scsi.PersistentKeys(0, 7)},
		{"PERSISTENT RESERVE OUT, reserve", scsi.PersistentOut(scsi.PersistentReserve), 0, scsi.PersistentKeys(7, 0)},
		{"PERSISTENT RESERVE IN", scsi.PersistentIn(256), 256, nil},
		{"PERSISTENT RESERVE OUT, release", scsi.PersistentOut(scsi.PersistentRelease), 0, scsi.PersistentKeys(7, 0)},
		{"RESERVE(6)", scsi.Reserve(), 0, nil}, {"RELEASE(6)", scsi.Release(), 0, nil},
		{"LOAD UNLOAD, load", scsi.Load(), 0, nil}, {"PREVENT ALLOW MEDIUM REMOVAL", scsi.PreventRemoval(true), 0, nil},
		{"READ BLOCK LIMITS", scsi.ReadBlockLimits(), 6, nil}, {"REPORT DENSITY SUPPORT", scsi.ReportDensity(true, 512), 512, nil},
		{"MODE SENSE(10), compression", scsi.ModeSense(0x0f, 0, 252), 252, nil}, {"MODE SENSE(10), medium partition", scsi.ModeSense(0x11, 0, 252), 252, nil},
		{"MODE SENSE(10), device configuration extension", scsi.ModeSense(0x10, 1, 252), 252, nil},
		{"MODE SELECT(10), variable blocks", scsi.ModeSelect(16), 0, scsi.VariableBlocks(0, nil)},
		{"LOG SENSE, volume statistics", scsi.LogSense(0x17, 4096), 4096, nil}, {"LOG SENSE, TapeAlert", scsi.LogSense(0x2e, 4096), 4096, nil},
		{"LOG SENSE, tape capacity", scsi.LogSense(0x31, 4096), 4096, nil},
		{"SET CAPACITY", scsi.SetCapacity(0xffff), 0, nil}, {"FORMAT MEDIUM", scsi.FormatMedium(0), 0, nil}, {"REWIND", []byte{0x01, 0, 0, 0, 0, 0}, 0, nil},
		{"WRITE(6)", scsi.Write(len(record)), 0, record}, {"WRITE FILEMARKS(6)", scsi.WriteFilemarks(1, false), 0, nil},
		{"WRITE FILEMARKS(6), immediate", scsi.WriteFilemarks(1, true), 0, nil}, {"WRITE FILEMARKS(6), flush", scsi.WriteFilemarks(0, false), 0, nil},
		{"READ POSITION, short", scsi.ReadPosition(scsi.PositionShort), 20, nil}, {"READ POSITION, long", scsi.ReadPosition(scsi.PositionLong), 32, nil},
		{"READ POSITION, extended", []byte{0x34, 8, 0, 0, 0, 0, 0, 0, 32, 0}, 32, nil},
		{"LOCATE(10)", scsi.Locate10(0, 0), 0, nil}, {"READ(6)", scsi.Read(len(record)), len(record), nil}, {"LOCATE(16)", scsi.Locate16(0, 0), 0, nil},
		{"SPACE(6), filemarks", scsi.SpaceFilemarks6(1), 0, nil}, {"SPACE(6), end of data", []byte{0x11, 3, 0, 0, 0, 0}, 0, nil},
		{"SPACE(16), filemarks", scsi.SpaceFilemarks16(-1), 0, nil}, {"ALLOW OVERWRITE", scsi.AllowOverwrite(0, 0), 0, nil},
		{"READ ATTRIBUTE", scsi.ReadAttribute(0, 9, 4096), 4096, nil}, {"WRITE ATTRIBUTE", scsi.WriteAttribute(0, 9), 0, []byte{0, 0, 0, 5, 0x16, 0x23, 0, 0, 0}},
		{"REWIND, again", []byte{0x01, 0, 0, 0, 0, 0}, 0, nil}, {"ERASE(6)", scsi.Erase(true), 0, nil},
		{"PREVENT ALLOW MEDIUM REMOVAL, allow", scsi.PreventRemoval(false), 0, nil}, {"LOAD UNLOAD, unload", []byte{0x1b, 0, 0, 0, 0, 0}, 0, nil},
	}
}

// send carries a command past unit attentions and says what came of it.
func send(t *testing.T, w *scsi.Watched, c tried) string {
	t.Helper()
	for {
		r, err := w.Do(t.Context(), scsi.Command{CDB: c.cdb, In: make([]byte, c.in), Out: c.out})
		if err != nil {
			return err.Error()
		}
		if r.Status == scsi.Good {
			return "done"
		}
		s, ok := scsi.ParseSense(r.Sense)
		switch {
		case !ok:
			return r.Status.String()
		case s.Key == scsi.KeyAttention:
			continue
		case s.Key == scsi.KeyIllegal:
			return "rejected, " + s.String()
		}
		return "sense " + s.String()
	}
}

// simulates tells whether the kernel's simulated tape is more than a name: in Linux
// 6.12 it knows no command of tapes. The tests then have nothing to look at;
// the volume through the kernel is looked at all the same.
func simulates(t *testing.T, w *scsi.Watched) bool {
	t.Helper()
	came := send(t, w, tried{"READ BLOCK LIMITS", scsi.ReadBlockLimits(), 6, nil})
	if came != "done" {
		t.Logf("this kernel's simulated tape knows no command of tapes: READ BLOCK LIMITS %s", came)
	}
	return came == "done"
}

// Every command that the drive uses is sent to the kernel's simulated tape: those it
// knows succeed, those it rejects are listed.
func TestTapeCommands(t *testing.T) {
	inside(t)
	w := openNode(t, emulatedTape(t))
	if !simulates(t, w) {
		return
	}
	var rejected []string
	for _, c := range everyCommand() {
		came := send(t, w, c)
		t.Logf("%-50s %s", c.what, came)
		if strings.HasPrefix(came, "rejected") {
			rejected = append(rejected, c.what)
		} else if came != "done" {
			t.Errorf("%s: %s", c.what, came)
		}
	}
	t.Logf("rejected: %s", strings.Join(rejected, "; "))
}

// The drive works on the kernel's simulated tape: two partitions, records, filemarks
// and positions as on any other, early warning and the end of the medium. That tape
// keeps four bytes of each record and has no attributes, so no LTFS volume fits it.
func TestTapeDrive(t *testing.T) {
	inside(t)
	path := emulatedTape(t)
	w, err := scsi.OpenSg(path)
	if err != nil {
		t.Fatal(err)
	}
	known := simulates(t, w)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if !known {
		return
	}
	d, err := drive.Open(t.Context(), path, drive.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := drive.Open(t.Context(), path, drive.Options{}); !errors.Is(err, cairn.KindBusy) {
		t.Errorf("opened twice: %v", err)
	}
	t.Logf("%d partitions, records of at most %d", d.Partitions(), d.MaxBlock())
	if err := d.Format(t.Context(), 2); err != nil {
		t.Errorf("format: %v", err)
	}
	quiet := disturb(t)
	for part := range d.Partitions() {
		tapeRecords(t, d, part)
	}
	tapeEnd(t, d)
	quiet()
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

// disturb sends this process signals without end: a command that one interrupts must
// not be sent a second time.
func disturb(t *testing.T) (quiet func()) {
	t.Helper()
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			case <-time.After(100 * time.Microsecond):
			}
			threads, err := os.ReadDir("/proc/self/task")
			if err != nil {
				t.Error(err)
				return
			}
			for _, thread := range threads {
				id, err := strconv.Atoi(thread.Name())
				if err == nil {
					_, _, _ = syscall.Syscall(syscall.SYS_TGKILL, uintptr(os.Getpid()), uintptr(id), uintptr(syscall.SIGURG))
				}
			}
		}
	}()
	return func() {
		close(stop)
		<-stopped
	}
}

func tapeRecords(t *testing.T, d drive.Drive, part int) {
	t.Helper()
	ctx := t.Context()
	check := func(what string, err, want error) {
		t.Helper()
		if !errors.Is(err, want) {
			t.Errorf("partition %d: %s: %v, want %v", part, what, err, want)
		}
	}
	check("locate", d.Locate(ctx, drive.Position{Partition: part}), nil)
	buf := make([]byte, 4096)
	for i := range 3 {
		_, err := d.Write(ctx, fmt.Appendf(nil, "%04d%508d", i, 0))
		check("write", err, nil)
		check("filemark", d.WriteFilemarks(ctx, 1, i == 0), nil)
	}
	end, err := d.SeekEnd(ctx, part)
	if err != nil || end != (drive.Position{Partition: part, Block: 6}) {
		t.Errorf("end at %v, %v", end, err)
	}
	_, err = d.Read(ctx, buf)
	check("read at the end", err, drive.ErrEndOfData)
	check("space back", d.SpaceFilemarks(ctx, -2), nil)
	at, err := d.Position(ctx)
	if err != nil || at.Block != 3 {
		t.Errorf("two filemarks back: %v, %v", at, err)
	}
	_, err = d.Read(ctx, buf)
	check("read a filemark", err, drive.ErrFilemark)
	n, err := d.Read(ctx, buf)
	if err != nil || n != 512 || string(buf[:4]) != "0002" {
		t.Errorf("a record of 512 bytes into %d: %d, %q, %v", len(buf), n, buf[:4], err)
	}
	check("beyond the end", d.Locate(ctx, drive.Position{Partition: part, Block: 99}), drive.ErrEndOfData)
	check("space before the beginning", d.SpaceFilemarks(ctx, -9), cairn.KindNotFound)
	check("largest block", d.Locate(ctx, drive.Position{Partition: part, Block: math.MaxUint64}), drive.ErrEndOfData)
}

// tapeEnd writes the last partition full.
func tapeEnd(t *testing.T, d drive.Drive) {
	t.Helper()
	part := d.Partitions() - 1
	if err := d.Locate(t.Context(), drive.Position{Partition: part}); err != nil {
		t.Fatal(err)
	}
	record, warned, taken := make([]byte, 512), -1, 0
	for ; taken < 1500; taken++ {
		w, err := d.Write(t.Context(), record)
		if err != nil {
			if !errors.Is(err, cairn.KindSpace) {
				t.Errorf("record %d: %v", taken, err)
			}
			break
		}
		if w == drive.EarlyWarning && warned < 0 {
			warned = taken
		}
	}
	end, err := d.SeekEnd(t.Context(), part)
	t.Logf("early warning with record %d, %d taken, end at %v, %v", warned, taken, end, err)
	// This tape keeps the record that it answers with the end of the medium.
	if err != nil || end.Block != uint64(taken) && end.Block != uint64(taken)+1 || warned < 0 {
		t.Errorf("what was taken is not what is there")
	}
}
